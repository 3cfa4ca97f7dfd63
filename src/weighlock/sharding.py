"""A dictionary of tensors in several files with an index: the layout that transformers and huggingface_hub use.

All files are written under temporary names first. Only when every byte is there do they take their names, the index
last. If an earlier save has left files of the same names, its index goes first: at no moment does an index name files
of two saves. Files of an earlier save that are not part of the new one are removed at the end.

Two processes may write one set at the same time. Each holds a file of its own while it writes, so that the other does
not take its unfinished parts for what a killed process has left; names are given, and old files removed, by one
process at a time. The last set stays, whole.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from weighlock.errors import ArgumentError, MissingFolderError, SaveError
from weighlock.flattening import named_leaves
from weighlock.formats.flat import shared_storages, views_of_others
from weighlock.storages.targets import alone_in, hold, sync_folder
from weighlock.tensors.flat import FlatLeaf

__all__ = ["Shards", "files_in_the_way", "save_shards", "size_in_bytes", "split"]

Save = Callable[[Any, str], None]

# Not that of the files that a save in the same folder takes for orphans: nobody holds a part that is written already.
_SUFFIX: Final = ".weighlock-part"

_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
                 "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}  # fmt: skip
_DEFAULT_NAMES: Final = {"safetensors": "model.safetensors", "torch-zip": "pytorch_model.bin",
                         "torch-legacy": "pytorch_model.bin"}  # fmt: skip


class Shards(NamedTuple):
    """A state_dict cut into files.

    Attributes
    ----------
    names : list of list of str
        The tensors of each file.
    total_size : int
        The bytes of all, those of a shared storage once.
    views : dict of str to object
        The tensors that are views of others, and which; see `formats.flat`.
    """

    names: list[list[str]]
    total_size: int
    views: dict[str, Any]


def size_in_bytes(size: int | str) -> int:
    """Return a size in bytes.

    Raises
    ------
    ArgumentError
        If it is no positive size.

    Examples
    --------
    >>> size_in_bytes("5GB"), size_in_bytes("1.5 MiB")
    (5000000000, 1572864)
    """
    if type(size) is int and size > 0:
        return size
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT]?I?B)?\s*", size.upper()) if type(size) is str else None
    made = int(float(match[1]) * _UNITS.get(match[2] or "", 0)) if match else 0
    if made < 1:
        raise ArgumentError("no size", expected='bytes, or text such as "5GB" or "500 MiB"', got=repr(size)[:40])
    return made


def split(obj: Mapping[str, Any], most: int, describe: Callable[[Any], FlatLeaf | None]) -> Shards:
    """Cut a state_dict: in its order, tensors that share a storage together, as huggingface_hub does.

    Raises
    ------
    UnsupportedTypeError
        If it is no dictionary of tensors.
    """
    hint = "Save the state_dict by itself, and the rest without max_shard_size."
    leaves = named_leaves(obj, describe, "only a dictionary of tensors can be cut into files", hint)
    storages = shared_storages(list(leaves.values()))
    first: dict[int, str] = {}
    shards: list[list[str]] = []
    current: list[str] = []
    total = filled = 0
    followers: dict[str, list[str]] = {}
    for (name, leaf), storage in zip(leaves.items(), storages, strict=True):
        owner = first.setdefault(storage, name)
        if owner != name:
            followers.setdefault(owner, []).append(name)
            continue
        size = leaf.nbytes
        total += size
        if size > most:
            shards.append([name])
            continue
        if filled + size > most:
            shards.append(current)
            current, filled = [], 0
        current.append(name)
        filled += size
    if current:
        shards.append(current)
    whole = [[held for name in shard for held in (name, *followers.get(name, ()))] for shard in shards]
    return Shards(whole, total, views_of_others(leaves))


def save_shards(
    obj: Any,
    path: str | None,
    max_shard_size: int | str,
    format: str,
    describe: Callable[[Any], FlatLeaf | None],
    save: Save,
    *,
    durable: bool,
) -> list[str]:
    """Write a state_dict as a set of files.

    Parameters
    ----------
    path : str
        Of the undivided file, or of a folder that is there.
    describe : callable
        Given a value, returns the tensor that it is; None where it is none.
    save : callable
        Given an object and a path, writes it there.
    durable : bool
        Wait until the names are on the disk.

    Returns
    -------
    list of str
        The paths of the files, that of the index last.

    Raises
    ------
    ArgumentError
        If there is no path, or the size is none.
    UnsupportedTypeError
        If it is no dictionary of tensors.
    SaveError
        If the files cannot be written. Those that were there before are untouched.
    """
    whole = _whole(path, format)
    shards = split(obj, size_in_bytes(max_shard_size), describe)
    target = _Target(whole, len(shards.names))
    if len(shards.names) < 2:
        save(dict(obj), target.whole)
        with alone_in(target.folder):
            target.clean({os.path.basename(target.whole)})
        return [target.whole]
    files = target.files()
    temporary: list[tuple[str, str]] = []
    try:
        with target.held():
            for file, names in zip(files, shards.names, strict=True):
                temporary.append((target.temporary(file), os.path.join(target.folder, file)))
                save({name: obj[name] for name in names}, temporary[-1][0])
            temporary.append((target.temporary(target.index), os.path.join(target.folder, target.index)))
            _write_text(temporary[-1][0], _index(shards, files, format))
            with alone_in(target.folder):
                target.publish(temporary)
                if durable:
                    sync_folder(target.folder)
                target.clean({*files, target.index})
    except BaseException:
        for name, _ in temporary:
            if os.path.exists(name):
                os.unlink(name)
        raise
    return [os.path.join(target.folder, name) for name in (*files, target.index)]


def _index(shards: Shards, files: Sequence[str], format: str) -> str:
    """Return the text of the index: which file holds which name."""
    # A safetensors file holds no tensor under a second name, so that the index lists none: others look for it there.
    unlisted = shards.views if format == "safetensors" else {}
    index = {
        "metadata": {"total_size": shards.total_size},
        "weight_map": {
            name: file for file, names in zip(files, shards.names, strict=True) for name in names
            if name not in unlisted
        },
    }  # fmt: skip
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def files_in_the_way(path: str, format: str) -> list[str]:
    """Return the files that a set of this name would replace or remove: an undivided file, an index, parts.

    Raises
    ------
    ArgumentError, SaveError
        As `save_shards`.
    """
    target = _Target(_whole(path, format), 0)
    return [os.path.join(target.folder, name) for name in sorted(target.names()) if target.is_of_set(name)]


def _whole(path: str | None, format: str) -> str:
    """Return the path of the undivided file."""
    if format not in _DEFAULT_NAMES:
        raise ArgumentError("files of this format are not cut into several", got=repr(format))
    if path is None:
        raise ArgumentError("a set of files needs a path, not a file object")
    if os.path.isdir(path):
        path = os.path.join(path, _DEFAULT_NAMES[format])
    elif not os.path.basename(path):
        # The folder "new/" would otherwise become files that are called new-00001-of-00002, without an ending.
        raise MissingFolderError("the folder for the files is not there", path=path, hint="Create it first.")
    return os.path.realpath(path)


class _Target:
    """The names of a set: what the undivided file, its parts and its index are called."""

    def __init__(self, whole: str, count: int) -> None:
        self.whole = whole
        self.folder, name = os.path.split(whole)
        self.stem, self.ending = os.path.splitext(name)
        self.count = count
        self.index = f"{name}.index.json"
        self._token = os.urandom(6).hex()
        self._part = re.compile(re.escape(self.stem) + r"-\d{5}-of-\d{5}" + re.escape(self.ending))
        self._unfinished = re.compile(rf"\.{re.escape(self.stem[:100])}.*\.([0-9a-f]{{12}}){re.escape(_SUFFIX)}")

    def files(self) -> list[str]:
        return [f"{self.stem}-{number:05d}-of-{self.count:05d}{self.ending}" for number in range(1, self.count + 1)]

    def names(self) -> list[str]:
        try:
            return os.listdir(self.folder)
        except OSError:
            return []  # writing the first file says what is wrong

    def is_of_set(self, name: str) -> bool:
        return name in (self.index, os.path.basename(self.whole)) or self._part.fullmatch(name) is not None

    def temporary(self, name: str) -> str:
        return os.path.join(self.folder, f".{name[:150]}.{self._token}{_SUFFIX}")

    def _holder(self, token: str) -> str:
        return os.path.join(self.folder, f".{self.stem[:100]}.{token}{_SUFFIX}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a file that says to others: the unfinished parts with this token have a living writer."""
        while True:
            path = self._holder(self._token)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except OSError:
                yield  # writing the first file says what is wrong, better than this could
                return
            # Another process may have taken it for a dead one's in the moment before it was locked.
            if hold(descriptor) is not False and os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)
            self._token = os.urandom(6).hex()
        try:
            yield
        finally:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(path)

    def _is_alive(self, token: str, claimed: list[int]) -> bool:
        """Whether the writer of unfinished parts still runs; what a dead one held is locked, for who might begin."""
        try:
            descriptor = os.open(self._holder(token), os.O_WRONLY)
        except OSError:
            return False
        if hold(descriptor) is False:
            os.close(descriptor)
            return True
        claimed.append(descriptor)
        return False

    def publish(self, files: list[tuple[str, str]]) -> None:
        """Let files that are complete take their names, the last one last."""
        old_index = files[-1][1]
        try:
            if any(os.path.exists(name) for _, name in files[:-1]) and os.path.exists(old_index):
                os.unlink(old_index)
            for temporary, name in files:
                os.replace(temporary, name)
        except OSError as error:
            raise SaveError(f"the files cannot take their names: {error.strerror}", path=self.whole) from error

    def clean(self, kept: set[str]) -> None:
        """Remove what earlier saves have left under the names of this set."""
        claimed: list[int] = []
        try:
            self._clean(kept, claimed)
        finally:
            for descriptor in claimed:
                os.close(descriptor)

    def _clean(self, kept: set[str], claimed: list[int]) -> None:
        alive: dict[str, bool] = {self._token: True}
        for name in self.names():
            if match := self._unfinished.fullmatch(name):
                token = match[1]
                if token not in alive:
                    alive[token] = self._is_alive(token, claimed)
                gone = not alive[token]
            else:
                gone = self.is_of_set(name) and name not in kept
            if gone:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.folder, name))


def _write_text(path: str, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
