"""The page itself: every file of it read once at the start, and found by its exact name from then on."""

import gzip
import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

__all__ = ["Asset", "read_assets"]

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """One file of the page: its bytes, the same packed by gzip, its media type, and a tag that changes with them."""

    body: bytes
    packed: bytes
    media_type: str
    tag: str


def read_assets() -> dict[str, Asset]:
    """Return the files of the page by the path under which they are asked for; ``/`` is the page."""
    found: dict[str, Asset] = {}
    for entry in sorted(files("weighlock.viewer").joinpath("assets").iterdir(), key=lambda entry: entry.name):
        kind = _TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None and entry.is_file():
            body = entry.read_bytes()
            found[f"/{entry.name}"] = Asset(
                body, gzip.compress(body, 9, mtime=0), kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            )
    if "/index.html" in found:
        found["/"] = found["/index.html"]
    return found
