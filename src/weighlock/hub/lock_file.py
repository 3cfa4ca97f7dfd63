"""The lock file: which commits and which weights a program was seen to work with.

TOML, meant to be checked in beside the program. A commit's id is SHA-1, so the tree's id and a SHA-256 over all files
stand beside it; weights are named by URL, size and SHA-256::

    version = 1

    [[repository]]
    name = "github.com/owner/name"
    ref = "v1.0"
    commit = "..."
    tree = "..."
    content = "sha256:..."

    [[weights]]
    urls = ["https://host/model-1a2b3c4d.pth"]
    size = 12345
    sha256 = "..."
    used_by = ["github.com/owner/name"]
"""

import dataclasses
import json
import os
import re
from typing import Any, Final

from weighlock.errors import PinError
from weighlock.hub.hosts import without_user
from weighlock.hub.settings import Settings
from weighlock.hub.sources import Repository, is_commit
from weighlock.storages.targets import write_file

__all__ = ["LockFile", "Pin", "WeightsPin", "read_lock_file", "write_lock_file"]

_VERSION: Final = 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


@dataclasses.dataclass(frozen=True, slots=True)
class Pin:
    """One locked repository: `ref` is what a program asks for, None for the default branch."""

    name: str
    ref: str | None
    commit: str
    tree: str
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class WeightsPin:
    """One locked file of weights."""

    urls: tuple[str, ...]
    size: int
    sha256: str
    used_by: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class LockFile:
    """Everything that a lock file says."""

    repositories: tuple[Pin, ...] = ()
    weights: tuple[WeightsPin, ...] = ()
    path: str = ""

    def pin(self, repository: Repository) -> Pin:
        """Return what is said of a repository and its ref.

        Raises
        ------
        PinError
            If nothing is.
        """
        name = lock_name(repository)
        for pin in self.repositories:
            if pin.name.lower() == name.lower() and repository.ref in (pin.ref, pin.commit):
                return pin
        raise PinError(
            f"{repository} is not in the lock file", path=self.path, hint=f"weighlock hub lock {repository} adds it."
        )

    def weights_of(self, url: str) -> WeightsPin:
        """Return what is said of a URL.

        Raises
        ------
        PinError
            If nothing is.
        """
        for pin in self.weights:
            if url in pin.urls:
                return pin
        raise PinError("these weights are not in the lock file", got=url, path=self.path,
                       hint=f"weighlock hub lock --url {url} adds them.")  # fmt: skip

    def merged(self, other: "LockFile") -> "LockFile":
        """Return this lock file with another's entries in the place of its own on the same things."""
        fresh = {(pin.name.lower(), pin.ref) for pin in other.repositories}
        urls = {url for pin in other.weights for url in pin.urls}
        kept = [pin for pin in self.repositories if (pin.name.lower(), pin.ref) not in fresh]
        weights = [pin for pin in self.weights if not urls.intersection(pin.urls)]
        return LockFile((*kept, *other.repositories), (*weights, *other.weights), self.path)


def lock_name(repository: Repository) -> str:
    """Return the name under which a repository stands in the lock file."""
    return repository.full_name if repository.kind == "hosted" else without_user(str(repository.url))


def load_lock(settings: Settings) -> LockFile | None:
    """Return the lock file where the settings insist on one; None where they do not."""
    return read_lock_file(settings.lock_file) if settings.locked else None


def read_lock_file(path: str) -> LockFile:
    """Read a lock file.

    Raises
    ------
    PinError
        If there is none, or it is not understood.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
        if document.get("version") != _VERSION:
            raise PinError("the lock file is of another version", expected=str(_VERSION),
                           got=str(document.get("version")), path=path)  # fmt: skip
        pins = tuple(_pin(row) for row in document.get("repository", []))
        weights = tuple(_weights(row) for row in document.get("weights", []))
    except FileNotFoundError as error:
        raise PinError(
            "there is no lock file", path=os.path.abspath(path), hint="weighlock hub lock writes one."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, PinError):
            raise
        raise PinError(f"the lock file cannot be read: {error!r}", path=path) from error
    _refuse_doubt([((pin.name.lower(), pin.ref or ""), pin) for pin in pins], path)
    _refuse_doubt([((url,), (pin.sha256, pin.size)) for pin in weights for url in pin.urls], path)
    return LockFile(pins, weights, path)


def _refuse_doubt(entries: list[tuple[tuple[str, ...], Any]], path: str) -> None:
    """Refuse a file that says different things of one: a merge of two branches leaves that, and one must be wrong."""
    seen: dict[tuple[str, ...], Any] = {}
    for name, said in entries:
        if seen.setdefault(name, said) != said:
            raise PinError(f"the lock file names {' '.join(name).strip()} twice, and differently", path=path,
                           hint="Keep the entry that is right.")  # fmt: skip


def _pin(row: Any) -> Pin:
    whole = is_commit(row["commit"]) and is_commit(row["tree"]) and row["content"].startswith("sha256:")
    if not whole or type(row["name"]) is not str or type(row.get("ref", "")) is not str:
        raise ValueError(f"the entry of {row['name']} is not whole")
    return Pin(row["name"], row.get("ref"), row["commit"], row["tree"], row["content"])


def _weights(row: Any) -> WeightsPin:
    urls, size, used_by = row["urls"], row["size"], row.get("used_by", [])
    whole = _SHA256.match(row["sha256"]) and type(size) is int and size >= 0
    if not whole or not urls or not _are_texts(urls) or not _are_texts(used_by):
        raise ValueError(f"the entry of {urls} is not whole")
    return WeightsPin(tuple(urls), size, row["sha256"], tuple(used_by))


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def write_lock_file(lock: LockFile, path: str) -> None:
    """Write a lock file, in an order that does not depend on how it came to be.

    Raises
    ------
    TargetError
        If it cannot be written. What was there stays.
    """
    parts = ["# Written by weighlock hub lock. Check it in.", f"version = {_VERSION}", ""]
    for pin in sorted(lock.repositories, key=lambda pin: (pin.name.lower(), pin.ref or "")):
        ref = [] if pin.ref is None else [f"ref = {_text(pin.ref)}"]
        rows = [f"name = {_text(pin.name)}", *ref, f"commit = {_text(pin.commit)}", f"tree = {_text(pin.tree)}"]
        parts += ["[[repository]]", *rows, f"content = {_text(pin.content)}", ""]
    for weights in sorted(lock.weights, key=lambda pin: pin.urls):
        parts += ["[[weights]]", f"urls = {_texts(weights.urls)}", f"size = {weights.size}"]
        parts += [f"sha256 = {_text(weights.sha256)}"]
        parts += [f"used_by = {_texts(weights.used_by)}", ""] if weights.used_by else [""]
    write_file(path, "\n".join(parts).encode())


def _text(value: str) -> str:
    # A JSON string in ASCII is a TOML string too, but for the half of a surrogate pair, which TOML has no form for.
    return json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")


def _texts(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(_text, values)) + "]"
