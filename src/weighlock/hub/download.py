"""The hub's one way to the network: what its settings, its hosts and their tokens add to `storages.connections`.

A token is sent to its own host and to no other; one that is refused keeps nobody from what is public.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from weighlock.errors import DownloadError, OfflineError
from weighlock.hub.hosts import Host, host_of_url
from weighlock.hub.settings import Settings
from weighlock.storages.connections import (
    Advice,
    Answer,
    Connections,
    basic_authorization,
    count_of,
    is_limited,
    netrc_authorization,
    origin_of,
)
from weighlock.storages.urls import without_user

__all__ = ["Answer", "Client", "count_of"]

_END: Final = 1 << 16

_WHOLE: Final = 256 << 20
"""Bytes: what `Client.fetch` holds in memory at most."""


class Client(Connections):
    """Requests as the settings want them.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    OfflineError
        By every request, if the settings say so.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        self._refused: set[str] = set()
        self._users: dict[str, str] = {}

    def fetch(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        """Return a small answer's whole body.

        Raises
        ------
        DownloadError
            If it does not come, or is an error.
        """
        answer = self.open(method, url, headers, body)
        try:
            parts = []
            total = 0
            while data := answer.read(1 << 20):
                parts.append(data)
                total += len(data)
                if total > _WHOLE:
                    raise DownloadError(
                        "the answer is larger than expected", expected=f"at most {_WHOLE} bytes", url=url
                    )
            answer.done()
            return b"".join(parts)
        finally:
            answer.close()

    def end_of(self, url: str) -> bytes:
        """Return the last bytes of an answer of any size.

        Raises
        ------
        DownloadError
            If it does not come, or is an error.
        """
        answer = self.open("GET", url)
        try:
            end = b""
            while data := answer.read(1 << 20):
                end = (end + data)[-_END:]
            answer.done()
            return end
        finally:
            answer.close()

    def open(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send a request, follow its redirects, and return the answer if it is a good one.

        Raises
        ------
        DownloadError
            If no answer comes, or an error.
        """
        url = self.address(url)
        if self.settings.offline:
            raise OfflineError("nothing may be fetched: offline", url=url, hint="WEIGHLOCK_OFFLINE=0 allows it.")
        host = host_of_url(url, self.settings)
        authorization = self._authorization(host, url)
        answer = self.followed(method, url, dict(headers or {}), body, authorization)
        if answer.status in (401, 403) and authorization and not is_limited(answer):
            # A token that is wrong or too weak must not keep anyone from a public repository.
            answer.close()
            self._refused.add(origin_of(url))
            answer = self.followed(method, url, dict(headers or {}), body, None)
        if answer.status >= 400:
            raise self.failed(answer, _advice(host, refused=origin_of(url) in self._refused))
        return answer

    def address(self, url: str) -> str:
        """Return a URL without the user in it, who is remembered for that server: no message and no file names them."""
        parts = urlsplit(url)
        if parts.username is not None:
            self._users[origin_of(url)] = basic_authorization(unquote(parts.username), unquote(parts.password or ""))
        return without_user(url)

    def _authorization(self, host: Host | None, url: str) -> str | None:
        if origin_of(url) in self._refused:
            return None
        if origin_of(url) in self._users:
            return self._users[origin_of(url)]
        token = host.token() if host else None
        if token and host:
            if url.endswith(("/git-upload-pack", "/info/refs?service=git-upload-pack")):
                return basic_authorization(_GIT_USERS.get(host.kind, "token"), token)
            return f"Bearer {token}"
        return netrc_authorization(url)


def _advice(host: Host | None, *, refused: bool) -> Advice:
    """Return what to do about an error: tokens are for the hosts that the hub knows, and no others."""
    if host is None:
        sent = "The name and password that were sent were refused; without them, too."
        denied = "If it is private: give https://USER:PASSWORD@host/..., or an entry in ~/.netrc."
        return Advice(sent if refused else denied)
    denied = (
        "The token that was sent was refused; without it, too." if refused else
        "If it is private, the host's token is missing (GITHUB_TOKEN for github.com), or an entry in ~/.netrc."
    )  # fmt: skip
    return Advice(
        denied, "A private one answers like this too: is the host's token set?",
        "A token (GITHUB_TOKEN for github.com) raises the limit; what is in the cache needs no request.",
    )  # fmt: skip


_GIT_USERS: Final = {"github": "x-access-token", "gitlab": "oauth2", "bitbucket": "x-token-auth", "huggingface": "user"}
