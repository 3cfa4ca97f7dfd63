"""Weights by URL: found in their folder, or fetched into it; never another URL's file, never a damaged one.

Files have readable names, as torch.hub gives them, and stand where torch.hub looks. What each of them is stands in a
record of ours: its URL, SHA-256 and size, and the file's times and number, which change whenever its content does. So a
hit costs one `stat`; a file that changed is hashed anew (about a second for two gigabytes), and set aside if it is not
what was fetched. Bytes that a disk lost without anyone writing are found by `weighlock cache verify`, which hashes all.
"""

import dataclasses
import hashlib
import logging
import os
import re
import warnings
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urlsplit

from weighlock.errors import (
    ArgumentError,
    DownloadError,
    HashMismatchError,
    MissingFileError,
    OfflineError,
    PinError,
)
from weighlock.hub.directories import Store, is_file, require_writable, signature, told_if_unwritable
from weighlock.hub.fetched import Expected, Fetched
from weighlock.hub.hosts import without_user
from weighlock.hub.lock_file import WeightsPin, load_lock
from weighlock.hub.locks import held, note_record, private_name, read_record, record_name, write_record
from weighlock.hub.other_schemes import check_digest, fetch_otherwise, needs_no_network
from weighlock.hub.settings import Settings
from weighlock.hub.usage import note_weights

__all__ = ["Weights", "download_to", "find_weights", "local_path"]

HASH_IN_NAME: Final = re.compile(r"-([a-f0-9]*)\.")
"""torch.hub's pattern; the first match counts."""

_REAL_HASH: Final = re.compile(r"[a-f0-9]{8,64}\Z")
_logger: Final = logging.getLogger("weighlock.hub")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Which weights are wanted.

    Attributes
    ----------
    url : str
    folder : str or None
        Where the file goes; None for the hub's own folder.
    name : str or None
        The file's name; None takes the URL's.
    check_hash : bool
        The name must hold the beginning of the SHA-256.
    lenient : bool
        Of `check_hash`: a name without a hash is only warned about. torch.hub says nothing then, and entry points that
        are out there rely on it.
    force : bool
        Fetch again.
    progress : bool or callable
        A bar where there is a terminal; or a function that is called.
    """

    url: str
    folder: str | None = None
    name: str | None = None
    check_hash: bool = False
    lenient: bool = False
    force: bool = False
    progress: Any = True


def find_weights(store: Store, weights: Weights, settings: Settings) -> str:
    """Return the path of a file with a URL's bytes.

    Raises
    ------
    DownloadError
        If they cannot be fetched.
    HashMismatchError, PinError
        If they are not what they should be.
    """
    named = without_user(weights.url)
    lock = load_lock(settings)
    pin = lock.weights_of(named) if lock else None
    local = local_path(weights.url)
    if local is not None:
        return _local(weights, local, pin)
    url = urldefrag(named).url
    name = _file_name(weights, url)
    prefix = _hash_prefix(name, lenient=weights.lenient) if weights.check_hash else None
    prefix = _strictest(prefix, pin, name)
    finder = _Finder(store, weights, settings, url, name, prefix, pin)
    path = None if weights.force else finder.find()
    if path is not None:
        return path
    with held(store, "weights", os.path.realpath(finder.folder), url):
        path = finder.find()
        if path is not None and not weights.force:
            return path
        try:
            return finder.fetch()
        except DownloadError as error:
            if path is None:
                raise
            warnings.warn(f"{error}; what is in the cache is used: {path}", stacklevel=2)
            return path


def local_path(url: str) -> str | None:
    """Return the path that a ``file:`` URL, or a plain path, names; None for any other URL."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = unquote(parts.path)
        return path.lstrip("/") if os.name == "nt" else path
    if "://" not in url and (len(parts.scheme) <= 1 or os.path.exists(url)) and not url.startswith("data:"):
        return os.path.expanduser(url)
    return None


def _local(weights: Weights, path: str, pin: WeightsPin | None) -> str:
    if not is_file(path):
        raise MissingFileError("there is no such file", path=path)
    name = weights.name or os.path.basename(path)
    prefix = _hash_prefix(name, lenient=weights.lenient) if weights.check_hash else None
    wanted = _strictest(prefix, pin, path)
    if wanted is not None:
        check_digest(file_sha256(path), wanted, path)
    note_weights(weights.url, path, lambda: file_sha256(path))
    return path


def _file_name(weights: Weights, url: str) -> str:
    name = weights.name if weights.name is not None else os.path.basename(urlsplit(url).path)
    if not name and weights.name is None:
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
    if name in ("", ".", "..") or "\0" in name or os.path.isabs(name) or ".." in re.split(r"[/\\]", name):
        raise ArgumentError("file_name must be the name of a file in the folder", got=name[:100])
    return name


def _hash_prefix(name: str, *, lenient: bool) -> str | None:
    """Return the hash in a file's name.

    Raises
    ------
    HashMismatchError
        If there is none: a check that was asked for is made, or is an error.
    """
    for found in HASH_IN_NAME.finditer(name):
        if _REAL_HASH.match(found[1]):
            return found[1]
    if lenient:
        warnings.warn(f"check_hash=True, but the name {name} has no hash: the file is not checked", stacklevel=2)
        return None
    raise HashMismatchError(
        "check_hash=True, but the name has no hash to check against", expected="name-<8 or more digits of SHA-256>.ext",
        got=name, hint="Give hash_prefix or file_name, lock the weights, or leave check_hash out.",
    )  # fmt: skip


def _strictest(prefix: str | None, pin: WeightsPin | None, path: str) -> str | None:
    """Return what a file's SHA-256 must begin with: all that is locked, even where the user asks for less.

    Raises
    ------
    HashMismatchError
        If the user asks for something else.
    """
    if pin is None:
        return prefix
    if prefix is not None:
        check_digest(pin.sha256, prefix, path)
    return pin.sha256


class _Finder:
    # Reason for the parameters: what was asked, and what follows from it, decided once.
    def __init__(
        self, store: Store, weights: Weights, settings: Settings, url: str, name: str, prefix: str | None,
        pin: WeightsPin | None,
    ) -> None:  # fmt: skip
        self.store, self.weights, self.settings = store, weights, settings
        self.url, self.prefix, self.pin = url, prefix, pin
        self.folder = os.path.expanduser(os.fspath(weights.folder or store.checkpoints))
        self.path = os.path.join(self.folder, name)
        self.other = other_path(self.path, url)

    def find(self) -> str | None:
        """Return the file that already holds the URL's bytes, if one does."""
        for path in (self.path, self.other):
            record = place_record(self.store, path)
            if record is not None and record.get("url") == self.url and os.path.exists(path):
                if self._sound(path, record):
                    self._note(path, record["sha256"])
                    return path
                self._set_aside(path, "it is no longer what was fetched")
        if not self.weights.force and place_record(self.store, self.path) is None and is_file(self.path):
            return self._adopted()
        return None

    def _sound(self, path: str, record: dict[str, Any]) -> bool:
        if record.get("signature") != signature(path):
            if file_sha256(path) != record.get("sha256"):
                return False
            self._remember(path, record)
        wanted = self.prefix
        if wanted is not None and not str(record["sha256"]).startswith(wanted):
            if self.pin is not None:
                raise PinError("the weights in the cache are not the locked ones", expected=wanted,
                               got=record["sha256"], path=path)  # fmt: skip
            return False
        return True

    def _adopted(self) -> str | None:
        """Take a file over that torch.hub or somebody else put there, if it can be this URL's."""
        digest = file_sha256(self.path)
        wanted = self.prefix
        if wanted is None:
            found = HASH_IN_NAME.search(os.path.basename(self.path))
            wanted = found[1] if found and _REAL_HASH.match(found[1]) else None
        if wanted is not None:
            if not digest.startswith(wanted):
                self._set_aside(self.path, "its SHA-256 is not the one in its name")
                return None
        elif not self._may_be():
            return None
        self._remember(self.path, {"sha256": digest, "url": self.url, "adopted": True})
        self._note(self.path, digest)
        return self.path

    def _may_be(self) -> bool:
        """Ask the server for the length, where that is possible; what nobody can tell is believed, with a warning."""
        if self.settings.offline:
            return True
        from weighlock.hub.download import Client

        try:
            answer = Client(dataclasses.replace(self.settings, retries=0)).open("HEAD", self.weights.url)
            length = answer.length
            answer.close()
        except DownloadError as error:
            warnings.warn(f"{error}; the file that is there is used unchecked: {self.path}", stacklevel=2)
            return True
        if length is None or length == os.path.getsize(self.path):
            return True
        self._set_aside(self.path, f"it has {os.path.getsize(self.path)} bytes, and the server says {length}")
        return False

    def _set_aside(self, path: str, why: str) -> None:
        aside = os.path.join(os.path.dirname(path), "." + private_name(os.path.basename(path) + ".damaged"))
        os.replace(path, aside)
        warnings.warn(f"{path} was set aside as {os.path.basename(aside)}: {why}", stacklevel=2)

    def _remember(self, path: str, record: dict[str, Any]) -> None:
        if self.store.writable():
            note_record(place_path(self.store, path), _described(path, path, record))

    def _note(self, path: str, digest: str) -> None:
        note_weights(self.url, path, lambda: digest)

    def fetch(self) -> str:
        """Fetch the file."""
        if self.settings.offline and not needs_no_network(self.url):
            there = "cannot be fetched again" if self.weights.force and os.path.exists(self.path) else (
                "are not in the cache, and nothing may be fetched"
            )  # fmt: skip
            raise OfflineError(
                f"these weights {there}: offline",
                url=self.url, path=self.folder,
                hint=f"weighlock hub prefetch --url {self.url} fetches them where there is a network.",
            )  # fmt: skip
        path = self.path
        record = place_record(self.store, path)
        if record is not None and record.get("url") != self.url and os.path.exists(path):
            # Another URL's file has this name (torch.hub would hand that one out).
            path = self.other
        require_file(path)
        require_writable(self.folder, self.url)
        # Another URL's file may take the name before this one is there.
        otherwise = self.other if path == self.path and not os.path.lexists(path) else None
        expected = Expected(
            self.prefix, self.pin.size if self.pin else None, otherwise=otherwise, announce=self._announce
        )
        found = fetch_to(path, urldefrag(self.weights.url).url, self.settings, expected, self.weights.progress)
        self._remember(found.path, self._facts(found))
        self._note(found.path, found.sha256)
        return str(found.path)

    def _facts(self, found: Fetched) -> dict[str, Any]:
        return {"sha256": found.sha256, "url": self.url, "etag": found.etag, "modified": found.modified,
                "declared": found.declared is not None}  # fmt: skip

    def _announce(self, found: Fetched, temporary: str, path: str) -> None:
        """Write down whose a file is before it is there: without that, who is killed leaves one that could be any's."""
        if self.store.writable():
            write_record(place_path(self.store, path), _described(path, temporary, self._facts(found)))


def _described(path: str, there: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Add to what is known of a file where it will be, and what it looks like where it is."""
    found = signature(there)
    return {**facts, "path": os.path.abspath(path), "signature": found, "size": found[0]}


def require_file(path: str) -> None:
    """Make sure that a path is free, or a file: a pipe or a device must not be replaced, and a folder cannot be.

    Raises
    ------
    DownloadError
        If something else is there.
    """
    if os.path.exists(path) and not is_file(path):
        raise DownloadError("there is something else than a file in its place", path=path)


def other_path(path: str, url: str) -> str:
    """Return where a URL's file goes if its name is taken by another URL's."""
    stem, dot, extension = os.path.basename(path).partition(".")
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return os.path.join(os.path.dirname(path), f"{stem}.{digest}{dot}{extension}")


def fetch_to(path: str, url: str, settings: Settings, expected: Expected, progress: Any) -> Fetched:
    """Fetch a URL into a path, with a bar on the terminal; return what `transfer.fetch_file` says of it."""
    if settings.offline and not needs_no_network(url):
        # Before anything is imported that looks at the network: urllib3 opens a socket to see whether there is IPv6.
        raise OfflineError("nothing may be fetched: offline", url=without_user(url),
                           hint="WEIGHLOCK_OFFLINE=0 allows it.")  # fmt: skip
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        return fetch_otherwise(path, url, expected.prefix, settings.read_timeout)
    from weighlock.hub.download import Client
    from weighlock.hub.progress import shown
    from weighlock.hub.transfer import fetch_file

    client = Client(settings)
    url = client.address(url)
    _logger.info("downloading %s to %s", url, path)
    with shown(progress, os.path.basename(path)) as report, told_if_unwritable(os.path.dirname(path), "the file"):
        try:
            return fetch_file(client, url, path, expected, report)
        except FileNotFoundError:
            # Another process, where locks do not work, took the unfinished file for an orphan. Once more, alone.
            return fetch_file(client, url, path, expected, report)


def download_to(store: Store, url: str, dst: str, prefix: str | None, progress: Any, settings: Settings) -> None:
    """Fetch a URL into a file of the user's choice; offline or locked, from the cache if it is there."""
    dst = os.path.abspath(os.path.expanduser(os.fspath(dst)))
    require_file(dst)
    named = without_user(url)
    lock = load_lock(settings)
    pin = lock.weights_of(named) if lock else None
    wanted = _strictest(prefix, pin, dst)
    folder = os.path.dirname(dst)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"the folder does not exist: {folder}")
    held_already = _held_elsewhere(store, named) if settings.offline or pin else None
    if held_already is not None:
        _copy_checked(held_already, dst, wanted)
        note_weights(named, dst, lambda: file_sha256(dst))
        return
    with held(store, "download", os.path.realpath(dst)):
        expected = Expected(wanted, pin.size if pin else None, weights=False)
        found = fetch_to(dst, url, settings, expected, progress)
    if store.writable():
        facts = {"sha256": found.sha256, "url": named, "etag": found.etag, "path": os.path.abspath(dst)}
        write_record(place_path(store, dst), {**facts, "signature": signature(dst), "size": found.size})
    note_weights(named, dst, lambda: str(found.sha256))


def _held_elsewhere(store: Store, url: str) -> str | None:
    for _, record in place_records(store):
        path = record.get("path", "")
        if record.get("url") == url and is_file(path) and record.get("signature") == signature(path):
            return str(path)
    return None


def _copy_checked(source: str, dst: str, prefix: str | None) -> None:
    import shutil

    if prefix is not None:
        check_digest(file_sha256(source), prefix, source)
    if os.path.realpath(source) == os.path.realpath(dst):
        return
    temporary = os.path.join(os.path.dirname(os.path.abspath(dst)), "." + private_name(os.path.basename(dst)) + ".part")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, dst)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def file_sha256(path: str) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place_path(store: Store, path: str) -> str:
    """Return where the record of a file is."""
    return store.path("places", record_name(os.path.realpath(path)))


def place_record(store: Store, path: str) -> dict[str, Any] | None:
    """Return what is recorded of a file."""
    return read_record(place_path(store, path))


def place_records(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """Return every record of a file, with the record's own path."""
    folder = store.path("places")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [
        (os.path.join(folder, name), read_record(os.path.join(folder, name)))
        for name in names
        if name.endswith(".json")
    ]
    return [(path, record) for path, record in found if record is not None and record.get("path")]
