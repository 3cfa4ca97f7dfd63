"""Addresses as text: what is one, its parts, and how it is shown without what is secret in it."""

import re
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

__all__ = ["is_address", "is_web", "links", "shown", "without_user"]

# A scheme of two letters or more: one letter is a drive of Windows.
_ADDRESS: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)(?:::[a-zA-Z0-9+.-]+)*://")
_WEB: Final = re.compile(r"https?://", re.IGNORECASE)
# Of others, what stands before an @ is no user: github://owner:repository@branch/file.
_WITH_USER: Final = ("http", "https", "ftp", "sftp", "ssh", "smb", "webdav", "webdavs", "webhdfs", "hdfs")


def is_address(f: Any) -> bool:
    r"""Whether a caller means something elsewhere: text such as ``https://host/model.pth``. A `pathlib.Path` never is.

    Examples
    --------
    >>> is_address("s3://bucket/model.pth"), is_address("model.pth"), is_address("C:\\model.pth")
    (True, False, False)
    """
    return isinstance(f, str) and _ADDRESS.match(f) is not None


def is_web(address: str) -> bool:
    """Whether an address is that of a file on a web server, and no chain of several."""
    return _WEB.match(address) is not None


def links(address: str) -> list[str]:
    """Return the parts of an address that fsspec chains: a file, what it is in, and where that is.

    Examples
    --------
    >>> links("zip://model.pt::simplecache::https://host/a.zip")
    ['zip://model.pt', 'simplecache', 'https://host/a.zip']
    """
    return [address] if is_web(address) else address.split("::")


def without_user(url: str) -> str:
    """Return a URL without the user and password in it: what may be written down, compared and shown."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def shown(url: str) -> str:
    """Return an address without what is secret in it: name and password, and the query, which may be a signature.

    Examples
    --------
    >>> shown("simplecache::https://me:secret@host/model.pt?signature=1")
    'simplecache::https://host/model.pt'
    """
    return "::".join(map(_shown, links(url)))


def _shown(link: str) -> str:
    scheme = link.partition(":")[0].lower()
    if scheme not in _WITH_USER:
        return link
    try:
        plain = without_user(link)
        return urlunsplit(urlsplit(plain)._replace(query="", fragment="")) if is_web(link) else plain
    except ValueError:  # no URL: whoever asks for it says so
        return f"{scheme}://{link.partition('://')[2].rpartition('@')[2].partition('?')[0]}"
