"""The SHA-256 that servers declare of a file, each in its own way.

RFC 9530 (`Repr-Digest`) and its forerunner RFC 3230 (`Digest`); Hugging Face, of large files, at the redirect to where
they are (`X-Linked-Etag`); repositories of artifacts, as companies mirror files in them (`X-Checksum-Sha256`); GitHub,
of what is attached to a release, in its API.
"""

import base64
import binascii
import contextlib
import dataclasses
import json
import re
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from weighlock.errors import HubError
from weighlock.hub.download import Answer, Client
from weighlock.hub.hosts import host_of_url

__all__ = ["asset_sha256", "declared_sha256"]

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}\Z")
_FIELD: Final = re.compile(r"sha-256=:?([A-Za-z0-9+/=]{44}):?", re.IGNORECASE)
_ASSET: Final = re.compile(
    r"/(?P<repository>[^/]+/[^/]+)/releases/(?:download/(?P<tag>[^/]+)|latest/download)/(?P<name>[^/]+)\Z"
)


def declared_sha256(answer: Answer) -> str | None:
    """Return the SHA-256 that an answer declares for the whole file; None where it declares none."""
    for hop in answer.hops:
        linked = (hop.get("X-Linked-Etag") or "").strip('"')
        if _SHA256.match(linked):
            return linked.lower()
    if answer.packed:
        return None
    plain = answer.header("X-Checksum-Sha256") or ""
    if _SHA256.match(plain):
        return plain.lower()
    for name in ("Repr-Digest", "Digest"):
        found = _FIELD.search(answer.header(name) or "")
        if found:
            with contextlib.suppress(binascii.Error, ValueError):
                digest = base64.b64decode(found[1], validate=True).hex()
                return digest if _SHA256.match(digest) else None
    return None


def asset_sha256(client: Client, url: str) -> str | None:
    """Return the SHA-256 that GitHub's API tells of a release's file; None where it does not, or has no quota left."""
    host = host_of_url(url, client.settings)
    found = _ASSET.match(urlsplit(url).path)
    if host is None or host.kind != "github" or found is None or not url.startswith(host.web):
        return None
    release = f"tags/{quote(unquote(found['tag']), safe='')}" if found["tag"] else "latest"
    asking = Client(dataclasses.replace(client.settings, retries=0))
    try:
        answer = json.loads(asking.fetch("GET", f"{host.api}/repos/{found['repository']}/releases/{release}"))
        digests = {str(row["name"]): str(row.get("digest") or "") for row in answer["assets"]}
    except (HubError, ValueError, KeyError, TypeError, AttributeError):
        return None
    digest = digests.get(unquote(found["name"]), "").removeprefix("sha256:")
    return digest.lower() if _SHA256.match(digest) else None
