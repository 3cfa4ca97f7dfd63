"""The hub's one way to the network: what its settings, its hosts and their tokens add to `storages.connections`.

A token is sent to its own host and to no other; one that is refused keeps nobody from what is public.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

from weighlock.errors import ArgumentError, DownloadError, OfflineError
from weighlock.hub.hosts import Host, host_of_url
from weighlock.hub.settings import Settings
from weighlock.storages.connections import (
    Answer,
    Connections,
    basic_authorization,
    is_limited,
    netrc_authorization,
    origin_of,
)

__all__ = ["Answer", "Client"]

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

    def open(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send a request, follow its redirects, and return the answer if it is a good one.

        Raises
        ------
        DownloadError
            If no answer comes, or an error.
        """
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
            raise self.failed(answer, refused=origin_of(url) in self._refused)
        return answer

    def _authorization(self, host: Host | None, url: str) -> str | None:
        if origin_of(url) in self._refused:
            return None
        token = host.token() if host else None
        if token and host:
            if url.endswith(("/git-upload-pack", "/info/refs?service=git-upload-pack")):
                return basic_authorization(_GIT_USERS.get(host.kind, "token"), token)
            return f"Bearer {token}"
        return netrc_authorization(url)


def open_other(url: str, timeout: float) -> Any:
    """Open a ``data:``, ``file:`` or ``ftp:`` URL, as a file.

    Raises
    ------
    OSError, ValueError
        If it cannot be opened.
    """
    if urlsplit(url).scheme not in ("data", "file", "ftp", "ftps"):
        raise ArgumentError("this kind of address is not known", got=url[:60])
    return urlopen(url, timeout=timeout)  # noqa: S310 - the schemes are those above


_GIT_USERS: Final = {"github": "x-access-token", "gitlab": "oauth2", "bitbucket": "x-token-auth", "huggingface": "user"}
