"""``data:``, ``file:`` and ``ftp:`` URLs, which torch.hub takes too: fetched by Python itself.

Apart from `download`, so that what needs no network can be had offline without a single socket.
"""

import hashlib
import os
from typing import Final
from urllib.parse import urlsplit

from weighlock.errors import DownloadError, HashMismatchError
from weighlock.hub.fetched import Fetched
from weighlock.hub.locks import forget, private_name
from weighlock.storages.urls import without_user

__all__ = ["check_digest", "fetch_otherwise", "needs_no_network"]

_LOCAL: Final = ("data", "file")
_REMOTE: Final = ("ftp", "ftps")


def needs_no_network(url: str) -> bool:
    """Whether a URL can be read offline."""
    return urlsplit(url).scheme in _LOCAL


def fetch_otherwise(path: str, url: str, prefix: str | None, timeout: float) -> Fetched:
    """Fetch a URL that is not HTTP's into a file, which is there whole or not at all.

    Raises
    ------
    DownloadError
        If it cannot be read.
    HashMismatchError
        If it is not what was expected.
    """
    if urlsplit(url).scheme not in _LOCAL + _REMOTE:
        raise DownloadError("this kind of address is not known", url=without_user(url)[:60])
    from urllib.request import urlopen

    temporary = os.path.join(os.path.dirname(path), "." + private_name(os.path.basename(path)) + ".part")
    digest = hashlib.sha256()
    try:
        # The schemes are those above.
        with urlopen(url, timeout=timeout) as source, open(temporary, "xb") as target:  # noqa: S310 - see above
            while piece := source.read(1 << 20):
                digest.update(piece)
                target.write(piece)
        if prefix is not None:
            check_digest(digest.hexdigest(), prefix, path)
        size = os.path.getsize(temporary)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        if isinstance(error, HashMismatchError):
            raise
        raise DownloadError(f"the address cannot be read: {error}", url=without_user(url)[:200]) from error
    finally:
        forget(temporary)
    return Fetched(digest.hexdigest(), size, None, None, None, path)


def check_digest(digest: str, prefix: str, path: str) -> None:
    """Compare a SHA-256 with its expected beginning.

    Raises
    ------
    HashMismatchError
        If it is another.
    """
    if digest[: len(prefix)] != prefix.lower():
        raise HashMismatchError(f'invalid hash value (expected "{prefix}", got "{digest}")', path=path)
