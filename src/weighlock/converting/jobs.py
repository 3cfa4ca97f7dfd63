"""One conversion from its plan to its file: what `weighlock.convert` and `weighlock.edit` have in common."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from weighlock.checkpoint import Checkpoint
from weighlock.converting.checking import Expected, check
from weighlock.converting.flat import SpecLeaves
from weighlock.converting.streams import check_machine
from weighlock.converting.writing import Form, Written, check_aliases, prepare
from weighlock.errors import ArgumentError, TargetError
from weighlock.formats.flat import DOCUMENT
from weighlock.saving import FORMAT_BY_SUFFIX, WRITTEN_FORMATS, path_of_target
from weighlock.storages.copying import Progress
from weighlock.storages.targets import is_special, write_path

__all__ = ["Job", "Outcome", "Target", "format_for", "target_of"]


def format_for(path: str, format: str | None, source: str | None = None) -> str:
    """Return the format of a new file: what was asked for, what its name says, what the source is.

    Parameters
    ----------
    source : str, optional
        The format of the source; PyTorch's own stay what they are.

    Raises
    ------
    ArgumentError
        If none of these says it.
    """
    if format is not None:
        if format not in WRITTEN_FORMATS:
            known = ", ".join(map(repr, WRITTEN_FORMATS))
            raise ArgumentError("an unknown format to write", expected=f"one of {known}", got=repr(format)[:40])
        return format
    named = FORMAT_BY_SUFFIX.get(os.path.splitext(path)[1].lower())
    if named in ("torch-zip", None) and source in WRITTEN_FORMATS and (named is None or source == "torch-legacy"):
        return str(source)
    if named is None:
        raise ArgumentError(
            "the name of the new file does not say its format", got=os.path.basename(path),
            expected=f"a name that ends with {', '.join(FORMAT_BY_SUFFIX)}",
            hint='Or name the format: format="safetensors" (--to safetensors).',
        )  # fmt: skip
    return named


class Target(NamedTuple):
    """Where a new file goes, and how.

    Attributes
    ----------
    path : str
    format : str
    max_shard_size : int, str or None
    aliases : str
    metadata : mapping of str to str or None
    verify, durable : bool
    force : bool
        Replace the files of a set that is there already; `target_of` looks at one file.
    """

    path: str
    format: str
    max_shard_size: int | str | None = None
    aliases: str = "record"
    metadata: Mapping[str, str] | None = None
    verify: bool = True
    durable: bool = False
    force: bool = False

    @property
    def read_back(self) -> bool:
        """Whether what was written is read back and compared: what went into a pipe is gone."""
        return self.verify and not is_special(self.path)


def target_of(dst: Any, *, force: bool) -> str:
    """Return the path of a new file.

    Raises
    ------
    ArgumentError
        If it is no path.
    TargetError
        If something is there already, and `force` is not set.
    """
    path = path_of_target(dst)
    if path is None:
        raise ArgumentError("a new file needs a path", got=type(dst).__name__)
    if os.path.lexists(path) and not (os.path.isdir(path) or is_special(path) or force):
        raise TargetError("the file is there already", path=path, hint="force=True (--force) replaces it.")
    return path


def refuse_set(target: Target) -> None:
    """Refuse to replace the files of a set of this name that is there already; `TargetError`."""
    from weighlock.sharding import files_in_the_way

    if is_special(target.path):
        raise ArgumentError("a pipe or a device holds one file, not several", got=target.path)
    found = files_in_the_way(target.path, target.format)
    if found and not target.force:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise TargetError("files of such a set are there already", got=f"{os.path.basename(found[0])}{more}",
                          path=target.path, hint="force=True (--force) replaces all of them.")  # fmt: skip


class Outcome(NamedTuple):
    """What a job has written, or would write.

    Attributes
    ----------
    files : list of str
    nbytes : int
        Of all files together; of a job that was not carried out, of the data alone.
    aliases : dict of str to str
    copies : list of str
    """

    files: list[str]
    nbytes: int
    aliases: dict[str, str]
    copies: list[str]


class Job:
    """A plan that is ready to be carried out: everything that can be wrong with the object has been found.

    Parameters
    ----------
    source : Checkpoint
        Open.
    root : object
        What is written: its object, or a part of it.
    target : Target
    structure : bool
        Describe the object's structure in a safetensors file.
    """

    def __init__(self, source: Checkpoint, root: Any, target: Target, *, structure: bool) -> None:
        check_machine()
        check_aliases(target.aliases)
        if target.metadata is not None and target.format != "safetensors":
            raise ArgumentError("only safetensors files have metadata of this kind", got=f"format {target.format}")
        self._source = source
        self._root = root
        self._target = target
        self._structure = structure and target.max_shard_size is None
        self._progress: Progress | None = None
        self._written: Written | None = None
        if target.max_shard_size is None:
            self._written = self._prepared(root)
            self.nbytes = self._written.nbytes
        else:
            from weighlock.sharding import size_in_bytes, split

            refuse_set(target)
            self.nbytes = split(root, size_in_bytes(target.max_shard_size), SpecLeaves().leaf).total_size

    def _moved(self, count: int) -> None:
        if self._progress is not None:
            self._progress(count)

    def _prepared(self, root: Any) -> Written:
        target = self._target
        form = Form(target.format, self._structure, target.aliases, self._metadata(), target.verify, self._moved)
        return prepare(root, form)

    def _metadata(self) -> Mapping[str, str] | None:
        if self._target.format != "safetensors":
            return None
        found = dict(self._target.metadata) if self._target.metadata is not None else {"format": "pt"}
        found.pop(DOCUMENT, None)
        return found or None

    @property
    def work(self) -> int:
        """How many bytes `run` reports to its `progress`, about."""
        return self.nbytes * (2 if self._target.read_back else 1)

    def planned(self) -> Outcome:
        """Return what would be written."""
        aliases, copies = (self._written.aliases, self._written.copies) if self._written is not None else ({}, [])
        return Outcome([self._target.path], self.nbytes, aliases, copies)

    def run(self, progress: Progress | None = None) -> Outcome:
        """Write the file, read it back, and give it its name.

        Raises
        ------
        SaveError
            If it cannot be written. What was there before is untouched.
        CheckpointError
            If bytes of the source are missing or damaged.
        """
        self._progress = progress
        target = self._target
        outcomes: list[Written] = []
        if target.max_shard_size is None:
            assert self._written is not None  # noqa: S101 - made where there is one file
            self._write(self._written, self._root, target.path)
            outcomes, files = [self._written], [target.path]
        else:
            from weighlock.sharding import save_shards

            def save(part: Any, path: str) -> None:
                outcomes.append(self._prepared(part))
                self._write(outcomes[-1], part, path)

            describe = SpecLeaves().leaf
            files = save_shards(
                self._root, target.path, target.max_shard_size, target.format, describe, save, durable=target.durable
            )
        aliases = {name: of for outcome in outcomes for name, of in outcome.aliases.items()}
        copies = [name for outcome in outcomes for name in outcome.copies]
        return Outcome(files, sum(map(_size_of, files)), aliases, copies)

    def _write(self, written: Written, root: Any, path: str) -> None:
        write_path(path, written.write, durable=self._target.durable, check=self._check_of(root, written))

    def _check_of(self, root: Any, written: Written) -> Callable[[str], None] | None:
        if not self._target.read_back:
            return None
        own = self._target.format in ("torch-zip", "torch-legacy")
        exact = own or (self._structure and self._target.format == "safetensors" and self._target.aliases != "clone")
        expected = Expected(self._source, root, exact, written.checksums)
        return lambda path: check(path, expected, self._moved)


def _size_of(path: str) -> int:
    if is_special(path):
        return 0  # what a pipe has taken cannot be asked for, and a file may have held something before
    try:
        return os.stat(path).st_size
    except OSError:  # gone already
        return 0
