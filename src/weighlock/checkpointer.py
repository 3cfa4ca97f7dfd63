"""`weighlock.Checkpointer`: a folder of numbered checkpoints, of which the newest whole one is always found."""

import os
import re
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from weighlock.background import SaveFuture, in_background
from weighlock.checkpoint import Checkpoint, read_checkpoint
from weighlock.errors import (
    ArgumentError,
    DamagedError,
    MissingFileError,
    NotACheckpointError,
    SourceError,
    TruncatedPickleError,
    WeighlockError,
)
from weighlock.loading import load
from weighlock.saving import form_of, prepare
from weighlock.storages.refs import StorageRef
from weighlock.storages.targets import absolute, sync_folder

__all__ = ["Checkpointer", "LoadedStep", "SavedStep"]

# What says that a file is not whole. Other errors (an unknown class, too large) say nothing against the file.
_DAMAGE: Final = (DamagedError, NotACheckpointError, TruncatedPickleError, SourceError)
# How much is read at a time to check a file.
_BATCH: Final = 32 << 20


_Found = TypeVar("_Found")


class SavedStep(NamedTuple):
    """A checkpoint in a folder.

    Attributes
    ----------
    step : int
    path : str
    """

    step: int
    path: str


class LoadedStep(NamedTuple):
    """A checkpoint that was loaded.

    Attributes
    ----------
    step : int
    path : str
    object : object
        What it holds.
    """

    step: int
    path: str
    object: Any


class Checkpointer:
    """Saves numbered checkpoints in a folder, keeps the newest, and finds the newest that is whole.

    One process saves; any number may look and load meanwhile. Every file appears under its name when it is whole, and
    on the disk. Old ones are deleted after that, never before, and never the one that was just saved.

    Parameters
    ----------
    folder : str or os.PathLike
        Made when the first checkpoint is saved.
    keep : int or None
        How many of the highest steps stay; None for all.
    name : str
        The files' names, with ``{step}`` for the number.
    framework : {"numpy", "torch"}
        Whose arrays are saved and loaded.
    durable : bool
        Wait for the disk at each save. Without, a power failure can cost the newest files, and the older ones may
        have been deleted by then.
    **save_options
        Other parameters of `weighlock.save`, for every checkpoint: `pickle_protocol`, `pickle_module`.

    Raises
    ------
    ArgumentError
        If `keep` is less than 1, or `name` has no place for the number, or is a path.

    Examples
    --------
    >>> import numpy, tempfile
    >>> checkpoints = Checkpointer(tempfile.mkdtemp(), keep=2)
    >>> for step in range(3):
    ...     path = checkpoints.save({"weight": numpy.full(2, step)}, step)
    >>> [saved.step for saved in checkpoints.all()]
    [1, 2]
    >>> found = checkpoints.load_latest()
    >>> found.step, found.object
    (2, {'weight': array([2, 2])})
    """

    # Reason for the parameters: each is a separate wish.
    def __init__(
        self,
        folder: "str | os.PathLike[str]",
        keep: int | None = 3,
        *,
        name: str = "step-{step:08d}.pt",
        framework: str = "numpy",
        durable: bool = True,
        **save_options: Any,
    ) -> None:
        if keep is not None and (type(keep) is not int or keep < 1):
            hint = "A folder that keeps nothing would lose every checkpoint."
            raise ArgumentError("keep makes no sense", expected="1 or more, or None", got=repr(keep), hint=hint)
        unknown = set(save_options) - {"pickle_protocol", "pickle_module"}
        if unknown:
            raise ArgumentError("not an option of every checkpoint", got=", ".join(sorted(unknown)))
        self._pattern = _pattern_of(name)
        self.folder = absolute(os.fspath(folder))
        self.keep = keep
        self._name = name
        self._framework = framework
        self._durable = durable
        self._save_options = save_options
        self._whole: set[tuple[Any, ...]] = set()  # files that were read to their end, as they were then

    def path(self, step: int) -> str:
        """Return the path of the checkpoint of a step, whether it is there or not."""
        if type(step) is not int or step < 0:
            raise ArgumentError("a step is a number from 0", got=repr(step))
        return os.path.join(self.folder, self._name.format(step=step))

    # Saving

    def save(self, obj: Any, step: int) -> str:
        """Save an object as the checkpoint of a step; return the path.

        Afterwards, checkpoints of lower steps than the `keep` highest are deleted.

        Raises
        ------
        SaveError
            If it cannot be saved. No other checkpoint was touched.
        """
        path = self.path(step)
        prepared = self._prepared(obj)
        self._make_folder()
        prepared.write(path, None, durable=self._durable)
        self._saved(path)
        return path

    def save_async(self, obj: Any, step: int) -> SaveFuture:
        """Save a copy of an object in the background, as `weighlock.save_async` does; also the deleting is done there.

        Returns
        -------
        SaveFuture
            Its `target` is the path.
        """
        path = self.path(step)
        prepared = self._prepared(obj)
        self._make_folder()
        return in_background(prepared, path, None, durable=self._durable, then=lambda: self._saved(path))

    def _prepared(self, obj: Any) -> Any:
        options = {"pickle_protocol": 2, "pickle_module": None, **self._save_options}
        return prepare(obj, **options, framework=self._framework, form=form_of(zipped=True, without_byteorder=False))

    def _make_folder(self) -> None:
        made = []
        folder = self.folder
        while not os.path.isdir(folder):
            made.append(folder)
            folder = os.path.dirname(folder)
        if made:
            os.makedirs(self.folder, exist_ok=True)
            for new in made if self._durable else ():
                sync_folder(os.path.dirname(new))

    def _saved(self, path: str) -> None:
        """Note that a file is whole, and delete what is too old now."""
        status = _status(path)
        if status is not None:
            self._whole.add(status)
        if self.keep is None:
            return
        for old in self.all()[: -self.keep]:
            if old.path == path:
                continue
            try:
                os.unlink(old.path)
            except FileNotFoundError:
                pass
            except OSError as error:
                what = f"an old checkpoint cannot be deleted: {error}"
                warnings.warn(what, RuntimeWarning, stacklevel=4)

    # Finding

    def all(self) -> list[SavedStep]:
        """Return the checkpoints in the folder by their step, the highest last, without a look into them."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = ((self._pattern.fullmatch(name), name) for name in names)
        return sorted(SavedStep(int(match[1]), os.path.join(self.folder, name)) for match, name in found if match)

    def latest(self) -> SavedStep | None:
        """Return the checkpoint of the highest step that is whole, or None.

        Each file is read once, to check its CRC-32. One that is damaged is passed over with a warning.
        """
        return self._newest(self._check)

    def load_latest(self, **options: Any) -> LoadedStep | None:
        """Load the checkpoint of the highest step that is whole; None if there is none.

        One that is damaged is passed over with a warning.

        Parameters
        ----------
        **options
            Of `weighlock.load`.

        Returns
        -------
        LoadedStep or None

        Raises
        ------
        CheckpointError
            What `load` says about a file that is whole, such as `UnsafeGlobalError`.
        """
        options = {"framework": self._framework, **options}

        def load_whole(saved: SavedStep) -> LoadedStep:
            if options.get("mmap") or not options.get("verify", True):
                self._check(saved)  # what is mapped is not checked when it is loaded
            return LoadedStep(*saved, load(saved.path, **options))

        return self._newest(load_whole)

    def _newest(self, attempt: Callable[[SavedStep], _Found]) -> _Found | None:
        """Return what `attempt` makes of the highest step for which it does not fail because of damage."""
        passed = set[str]()
        while True:
            left = [saved for saved in self.all() if saved.path not in passed]
            if not left:
                return None
            passed.add(left[-1].path)
            try:
                return attempt(left[-1])
            except MissingFileError:
                continue  # another process has deleted it, since there is a newer one
            except _DAMAGE as error:
                what = f"a checkpoint is damaged and is passed over: {error}"
                warnings.warn(what, RuntimeWarning, stacklevel=3)

    def _check(self, saved: SavedStep) -> SavedStep:
        """Read a file to its end, unless that was done already; what is wrong with it is raised."""
        status = _status(saved.path)
        if status is None or status not in self._whole:
            with read_checkpoint(saved.path) as checkpoint:
                try:
                    _read_all(checkpoint)
                except WeighlockError as error:
                    error.locate(path=saved.path)
                    raise
            if status is not None:
                self._whole.add(status)
        return saved


def _pattern_of(name: str) -> "re.Pattern[str]":
    """Return the pattern of the names that a template makes."""
    field = re.search(r"\{step(:0\d+d|:d)?\}", name)
    if field is None or os.path.basename(name) != name or name.startswith("."):
        expected = "a file's name with {step} in it, such as 'step-{step:08d}.pt'"
        raise ArgumentError("the name of checkpoints makes no sense", expected=expected, got=repr(name))
    try:
        made = name.format(step=0)
    except (ValueError, KeyError, IndexError) as error:
        raise ArgumentError("the name of checkpoints makes no sense", got=repr(name)) from error
    before = name[: field.start()].format()
    behind = made[len(before) + len(field[0].format(step=0)) :]
    return re.compile(f"{re.escape(before)}([0-9]+){re.escape(behind)}")


def _status(path: str) -> tuple[Any, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read_all(checkpoint: Checkpoint) -> None:
    """Read every storage of a file, some at a time, and check it."""
    batch: list[tuple[StorageRef, int]] = []
    size = 0
    for ref in checkpoint.storages.values():
        if ref.reader is None or ref.location == "meta":
            continue
        if batch and (size + ref.nbytes > _BATCH or ref.reader is not batch[0][0].reader):
            _read_batch(batch, size)
            batch, size = [], 0
        batch.append((ref, size))
        size += ref.nbytes
    if batch:
        _read_batch(batch, size)


def _read_batch(batch: list[tuple[StorageRef, int]], size: int) -> None:
    memory = memoryview(bytearray(size))
    wanted = [(ref, memory[start : start + ref.nbytes]) for ref, start in batch]
    batch[0][0].reader.read(wanted, verify=True)  # type: ignore[union-attr]  # those without a reader are left out
