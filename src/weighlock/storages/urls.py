"""URLs without what is secret in them."""

from urllib.parse import urlsplit, urlunsplit

__all__ = ["shown", "without_user"]


def without_user(url: str) -> str:
    """Return a URL without the user and password in it: what may be written down, compared and shown."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def shown(url: str) -> str:
    """Return an address without what is secret in it: name and password, and the query, which may be a signature."""
    return urlunsplit(urlsplit(without_user(url))._replace(query="", fragment=""))
