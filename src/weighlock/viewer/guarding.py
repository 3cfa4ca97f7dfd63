"""Who may ask: the checks that every request passes before anything else looks at it, and the headers of every answer.

A server on loopback is within reach of every page that the user's browser shows, and of every other user of the
machine. Against the first stand the check of the Host header (a name that an attacker points at 127.0.0.1 is not ours)
and of Sec-Fetch-Site; against both stands the token, which no page and no other user can know. There are no cookies,
so no request carries a right that its sender does not have.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from weighlock.viewer.bounds import MOST_QUERY_BYTES
from weighlock.viewer.statics import Asset

__all__ = ["API", "Access", "Guard"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

API: Final = "/api/v1/"

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_OUR_SITES: Final = frozenset({b"same-origin", b"none"})
_METHODS: Final = frozenset({"GET", "HEAD"})


class Access(NamedTuple):
    """Who may ask.

    Attributes
    ----------
    token : str
    hosts : frozenset of str
        What the Host header may be, in small letters, with the port where it is not the scheme's own.
    port : int
        Of this server.
    any_address : bool
        Whether any IP address with this port will do: for a server that other machines reach on purpose. An address,
        unlike a name, cannot be pointed somewhere else.
    base : str
        The path before which a proxy may put ours: ``""`` or ``/user/ada/proxy/8123``.
    """

    token: str
    hosts: frozenset[str]
    port: int
    any_address: bool = False
    base: str = ""

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        host = host.lower()
        return host in self.hosts or (self.any_address and _is_address(host, self.port))


def _is_address(host: str, port: int) -> bool:
    name, _, number = host.rpartition(":")
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return number == str(port)


class _RefusedError(Exception):
    """A request that is answered at once."""

    def __init__(self, status: int, kind: str, message: str, *headers: tuple[bytes, bytes]) -> None:
        self.status = status
        self.kind = kind
        self.message = message
        self.headers = headers


class Guard:
    """An ASGI application around another: checks first, then the files of the page, then the API.

    Parameters
    ----------
    inner : ASGI application
        Answers what is below `API`.
    access : Access
    assets : mapping of str to Asset
        By path.
    seen : callable
        Called with the method, the path, the status of each request that was answered; never with a header.
    """

    def __init__(
        self, inner: Application, access: Access, assets: Mapping[str, Asset], seen: Callable[[str, str, int], object]
    ) -> None:
        self._inner = inner
        self._access = access
        self._assets = assets
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._seen(scope["method"], scope["path"], message["status"])
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        try:
            path = self._checked(scope)
        except _RefusedError as refused:
            await _refuse(refused, guarded)
            return
        if path.startswith(API):
            await self._inner({**scope, "path": path, "raw_path": None, "root_path": ""}, receive, guarded)
        else:
            await _answer_asset(scope, self._assets[path], guarded)

    def _checked(self, scope: Scope) -> str:
        """Return the path that is asked for, below our own root."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = _values(headers, b"host")
        if len(hosts) != 1 or not self._access.knows(hosts[0].decode("latin-1")):
            raise _RefusedError(421, "MisdirectedRequest", "this server is not called so")
        if scope["method"] not in _METHODS:
            raise _RefusedError(
                405, "MethodNotAllowed", "the viewer only reads: GET and HEAD", (b"allow", b"GET, HEAD")
            )
        if len(scope["query_string"]) > MOST_QUERY_BYTES:
            raise _RefusedError(414, "QueryTooLong", "the query is too long")
        path = self._below_base(scope["path"])
        self._check_site(headers, path)
        if path.startswith(API):
            self._check_token(headers)
        elif path not in self._assets:
            raise _RefusedError(404, "NotFound", "there is no such page")
        return path

    def _below_base(self, path: str) -> str:
        base = self._access.base
        return path[len(base) :] if base and path.startswith(f"{base}/") else path

    def _check_site(self, headers: Iterable[tuple[bytes, bytes]], path: str) -> None:
        headers = list(headers)
        sites = _values(headers, b"sec-fetch-site")
        if not _OUR_SITES.issuperset(sites) and not (path == "/" and _is_visit(headers)):
            raise _RefusedError(403, "ForeignSite", "another site may not ask here")
        for origin in _values(headers, b"origin"):
            scheme, _, host = origin.decode("latin-1").partition("://")
            if scheme not in ("http", "https") or not self._access.knows(host):
                raise _RefusedError(403, "ForeignSite", "another site may not ask here")

    def _check_token(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        given = _values(headers, b"authorization")
        kind, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        same = hmac.compare_digest(token.strip(), self._access.token.encode())
        if kind.lower() != b"bearer" or not same:
            raise _RefusedError(
                401, "TokenMissing", "the token is missing or wrong: open the address that `weighlock view` prints",
                (b"www-authenticate", b"Bearer"),
            )  # fmt: skip


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _is_visit(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a user follows a link to the page itself, which holds no data: the file that opens the browser is one."""
    return _values(headers, b"sec-fetch-mode") == [b"navigate"] and _values(headers, b"sec-fetch-dest") == [b"document"]


async def _refuse(refused: _RefusedError, send: Send) -> None:
    import json

    body = json.dumps({"error": {"type": refused.kind, "message": refused.message, "next": None}}).encode()
    # Whoever may not ask shall not hold one of the connections either.
    headers = [
        (b"content-type", b"application/json"), (b"cache-control", b"no-store"), (b"connection", b"close"),
        *refused.headers,
    ]  # fmt: skip
    await _send_whole(send, refused.status, headers, body)


async def _answer_asset(scope: Scope, asset: Asset, send: Send) -> None:
    # The tag is that of the content, however it is packed.
    tag = b"W/" + asset.tag.encode()
    headers = [(b"etag", tag), (b"cache-control", b"no-cache"), (b"vary", b"accept-encoding")]
    if tag in b",".join(_values(scope["headers"], b"if-none-match")):
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    headers.append((b"content-type", asset.media_type.encode()))
    body = asset.body
    if _takes_gzip(_values(scope["headers"], b"accept-encoding")):
        headers.append((b"content-encoding", b"gzip"))
        body = asset.packed
    await _send_whole(send, 200, headers, body, head=scope["method"] == "HEAD")


def _takes_gzip(accepted: list[bytes]) -> bool:
    parts = [part.replace(b" ", b"").lower() for value in accepted for part in value.split(b",")]
    return any(part == b"gzip" or (part.startswith(b"gzip;q=") and part.strip(b"0.") != b"gzip;q=") for part in parts)


async def _send_whole(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, head: bool = False
) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
