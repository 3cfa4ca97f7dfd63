"""HTTP for the whole library: timeouts, retries, redirects, proxies and certificates, and what an error means.

urllib3 does the connections. What it leaves to its caller is here: which proxy and which certificates (as curl, pip and
requests choose them), that no redirect leads from https to http, that whoever asks to wait is waited for, and what an
error means. The hub's downloads and the remote files of `storages.remote` are built on it.
"""

import contextlib
import functools
import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from weighlock.errors import (
    ArgumentError,
    AuthenticationError,
    DownloadError,
    NetworkError,
    RateLimitError,
    StatusError,
)
from weighlock.storages.urls import without_user

__all__ = [
    "Advice",
    "Answer",
    "Connections",
    "Patience",
    "basic_authorization",
    "checked_redirect",
    "count_of",
    "is_limited",
    "netrc_authorization",
    "origin_of",
]

_TRIED_AGAIN: Final = (408, 429, 500, 502, 503, 504)
_REDIRECTS: Final = 10
_MOST_DIGITS: Final = 19
_LATEST: Final = 253_402_300_799
"""The last second of the year 9999, in seconds since 1970: what can be written as a date."""
_LONGEST_WAIT: Final = 120.0
"""Seconds. Who is asked to wait longer is told so, and when to come back."""


class Answer:
    """One answer, its body not yet read.

    Attributes
    ----------
    status : int
    url : str
        Where the answer came from, after redirects.
    hops : list of mapping
        Headers of the redirects on the way.
    """

    def __init__(self, response: Any, url: str, hops: list[Mapping[str, str]]) -> None:
        self._response = response
        self.status = int(response.status)
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self.hops = hops

    def header(self, name: str) -> str | None:
        """Return a header; None where it is missing."""
        return self.headers.get(name)

    @property
    def length(self) -> int | None:
        """How many bytes the body should have; None where the server does not say, or packs it."""
        return None if self.packed else count_of(self.header("Content-Length"))

    @property
    def end_is_unseen(self) -> bool:
        """Whether a packed body can break off without anyone noticing: it ends where the connection does."""
        chunked = "chunked" in (self.header("Transfer-Encoding") or "").lower()
        return self.packed and not chunked and count_of(self.header("Content-Length")) is None

    @property
    def packed(self) -> bool:
        """Whether the body is compressed for the transfer, although that was not asked for."""
        return (self.header("Content-Encoding") or "identity").lower() != "identity"

    def read(self, amount: int) -> bytes:
        """Read up to `amount` bytes; none at the end.

        Raises
        ------
        NetworkError
            If the body breaks off.
        """
        try:
            data: bytes = self._response.read(amount, decode_content=self.packed)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _network_error(error, self.url) from error
        return data

    def readinto(self, view: memoryview) -> int:
        """Read into memory, without a copy where the body is plain; 0 at the end.

        Raises
        ------
        NetworkError
            If the body breaks off.
        """
        plain: Any = getattr(self._response, "_fp", None)
        if self.packed or self.length is None or not hasattr(plain, "readinto"):
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)
        try:
            # urllib3's own readinto copies twice; http.client's does not, and is what urllib3 would read from.
            return int(plain.readinto(view))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _network_error(error, self.url) from error

    def close(self) -> None:
        """Give the connection back, or up where the body was not read to its end."""
        self._response.close()

    def done(self) -> None:
        """Give the connection back for the next request."""
        self._response.release_conn()


class Advice(NamedTuple):
    """What to do about an answer that is an error, which depends on whose server it is.

    Attributes
    ----------
    denied : str
        Where the server does not let in whoever asked.
    missing : str or None
        Where there is nothing.
    limited : str
        Where too much was asked.
    """

    denied: str
    missing: str | None = None
    limited: str = "Ask again later, and less often."


class Patience(Protocol):
    """How long is waited, and how often is tried again; all in seconds but `retries`."""

    @property
    def retries(self) -> int: ...
    @property
    def backoff(self) -> float: ...
    @property
    def connect_timeout(self) -> float: ...
    @property
    def read_timeout(self) -> float: ...


class Connections:
    """Requests with retries and redirects.

    Parameters
    ----------
    settings : Patience
    """

    def __init__(self, settings: Patience) -> None:
        self._patience = settings

    # Reason for the length: one loop, and each way out of it is a rule about redirects.
    def followed(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, authorization: str | None,
        own: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """Send a request and follow its redirects; the authorization goes to its own host and to no other.

        Parameters
        ----------
        method, url, headers, body
            Of the request.
        authorization : str or None
        own : mapping, optional
            More headers that only the first host is sent.

        Raises
        ------
        DownloadError
            If no answer comes, or a redirect leads where none is followed. An answer that is an error is returned.
        """
        hops: list[Mapping[str, str]] = []
        first = origin_of(url)
        while True:
            sent = {"User-Agent": f"weighlock/{_version()}", "Accept-Encoding": "identity", **headers}
            if origin_of(url) == first:
                sent = {**(own or {}), **sent, **({"Authorization": authorization} if authorization else {})}
            response = self._sent(method, url, sent, body)
            target = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not target:
                return Answer(response, url, hops)
            hops.append(response.headers)
            response.close()
            onward = checked_redirect(url, target)
            if len(hops) > _REDIRECTS:
                raise DownloadError(f"more than {_REDIRECTS} redirects", url=url)
            if response.status == 303:
                method, body = "GET", None
            url = onward

    def _sent(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Any:
        """Send one request, again after a failure that may pass."""
        attempts = self._patience.retries + 1
        for attempt in range(attempts):
            last = attempt + 1 == attempts
            try:
                response = self._pool(url).urlopen(
                    method, url, body=body, headers=headers, redirect=False, retries=False,
                    preload_content=False, decode_content=False,
                    timeout=urllib3.Timeout(connect=self._patience.connect_timeout, read=self._patience.read_timeout),
                )  # fmt: skip
            except urllib3.exceptions.HTTPError as error:
                translated = _network_error(error, url)
                if last or _hopeless(error):
                    raise translated from error
                self.wait(attempt)
                continue
            if response.status not in _TRIED_AGAIN or last:
                return response
            wait = _retry_after(response.headers)
            if wait is not None and wait > _LONGEST_WAIT:
                return response
            response.close()
            self.wait(attempt, wait)
        raise AssertionError("the last attempt returns or raises")

    def wait(self, attempt: int, seconds: float | None = None) -> None:
        """Wait as long as a server asked, or a while that doubles with each attempt, never in step with others."""
        if seconds is None:
            # Not a secret: it only keeps many processes from asking again at the same moment.
            seconds = min(self._patience.backoff * 2**attempt, 30.0) * (0.75 + random.random() / 2)  # noqa: S311
        time.sleep(seconds)

    def _pool(self, url: str) -> Any:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ArgumentError("only http and https addresses are fetched here", got=parts.scheme or url[:60])
        proxies = getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all")
        if proxy and proxy_bypass(parts.netloc.rpartition("@")[2]):
            proxy = None
        return _pools(os.getpid(), proxy, _certificates())

    def failed(self, answer: Answer, advice: "Advice") -> StatusError:
        """Return the error for an answer that is one, and give its connection back."""
        text = b""
        with contextlib.suppress(NetworkError):
            text = answer.read(2000)
        answer.close()
        return _status_error(answer, text.decode("utf-8", "replace"), advice)


def _version() -> str:
    # The package itself, which this room must not import, is there when anything of it runs.
    return str(getattr(sys.modules.get("weighlock"), "__version__", ""))


@functools.lru_cache(maxsize=8)
def _pools(process: int, proxy: str | None, certificates: str | None) -> Any:
    """Return the connections of one process: they must not be shared with a process that it forked."""
    options: dict[str, Any] = {"maxsize": 8, "block": False}
    if certificates:
        options["ca_cert_dir" if os.path.isdir(certificates) else "ca_certs"] = certificates
    if proxy is None:
        return urllib3.PoolManager(num_pools=16, **options)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = None
    if parts.username is not None:
        headers = urllib3.make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
    return urllib3.ProxyManager(without_user(urlunsplit(parts)), proxy_headers=headers, num_pools=16, **options)


def _certificates() -> str | None:
    """Return the file or folder of certificates that the environment names: OpenSSL's, requests' or curl's variable."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path:
            return path
    return None


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


def basic_authorization(user: str, password: str) -> str:
    """Return the header's value for a name and a password."""
    return str(urllib3.make_headers(basic_auth=f"{user}:{password}")["authorization"])


_netrc_lock: Final = threading.Lock()


def netrc_authorization(url: str) -> str | None:
    """Return what ~/.netrc says about who asks."""
    parts = urlsplit(url)
    path = os.path.expanduser(os.environ.get("NETRC", "~/.netrc"))
    if not os.path.isfile(path):
        return None
    import netrc

    try:
        with _netrc_lock:
            found = netrc.netrc(path).authenticators(parts.hostname or "")
    except (netrc.NetrcParseError, OSError):
        return None
    return basic_authorization(found[0], found[2] or "") if found and found[0] else None


def checked_redirect(url: str, target: str) -> str:
    """Return where a redirect leads; `DownloadError` where it is not followed."""
    onward = without_user(urljoin(url, target))
    old, new = urlsplit(url).scheme, urlsplit(onward).scheme
    if new not in ("http", "https") or (old == "https" and new == "http"):
        raise DownloadError(f"a redirect leads from {old} to {new}", url=onward, hint="It is not followed.")
    return onward


def _hopeless(error: Exception) -> bool:
    """Whether another attempt can only fail in the same way."""
    reason = error.args[-1] if error.args else None
    kinds = (urllib3.exceptions.SSLError, urllib3.exceptions.LocationValueError, urllib3.exceptions.NameResolutionError)
    return isinstance(error, kinds) or isinstance(reason, kinds)


def _network_error(error: Exception, url: str) -> NetworkError:
    text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    hint = None
    if "CERTIFICATE" in text.upper():
        hint = "Behind a company's proxy, SSL_CERT_FILE=/path/to/ca.pem names its certificates."
    elif isinstance(error, urllib3.exceptions.ReadTimeoutError):
        hint = "WEIGHLOCK_HUB_READ_TIMEOUT=120 waits longer; for a file's address, storage_options={'timeout': 120}."
    what = "the answer broke off" if isinstance(error, urllib3.exceptions.ProtocolError) else "no answer"
    return NetworkError(f"{what} ({text})", url=url, hint=hint)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After")
    if not text:
        return None
    try:
        return max(0.0, float(urllib3.Retry().parse_retry_after(text)))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None


def count_of(text: str | None) -> int | None:
    """Return a number that a header holds; None where it holds none, or one that nothing has so many of."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS else None


def is_limited(answer: Answer) -> bool:
    """Whether an answer says that too much was asked."""
    return answer.status == 429 or answer.header("X-RateLimit-Remaining") == "0" or bool(answer.header("Retry-After"))


_PROXY_ADVICE: Final = "The proxy's address in the environment may hold it: http://USER:PASSWORD@host:port."


def _status_error(answer: Answer, text: str, advice: Advice) -> StatusError:
    status, url = answer.status, answer.url
    if status in (403, 429) and (is_limited(answer) or "rate limit" in text.lower()):
        return _rate_limit(answer, advice)
    if status == 407:
        return AuthenticationError("the proxy asks who you are", url=url, status=status, hint=_PROXY_ADVICE)
    if status in (401, 403):
        what = f"the server refuses (HTTP Error {status})"
        return AuthenticationError(what, url=url, status=status, hint=advice.denied)
    reason = getattr(answer._response, "reason", "") or ""  # noqa: SLF001 - the same module's own class
    hint = advice.missing if status == 404 else None
    return StatusError(f"HTTP Error {status}: {reason}".rstrip(": "), url=url, status=status, hint=hint)


def _rate_limit(answer: Answer, advice: Advice) -> RateLimitError:
    after = _retry_after(answer.headers)
    reset = count_of(answer.header("X-RateLimit-Reset")) if after is None else time.time() + after
    if reset is not None and reset > _LATEST:
        reset = None
    when = "" if reset is None else time.strftime(" until %Y-%m-%d %H:%M:%S UTC", time.gmtime(reset))
    limit = answer.header("X-RateLimit-Limit")
    return RateLimitError(
        f"HTTP Error {answer.status}: rate limit exceeded{when}", url=answer.url, status=answer.status, reset=reset,
        got=f"all {limit} requests used" if limit else None,
        hint=advice.limited,
    )  # fmt: skip
