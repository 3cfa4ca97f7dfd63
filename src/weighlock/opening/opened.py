"""`weighlock.open_checkpoint`: what stands in a file, each tensor read when it is asked for."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple, Self

from weighlock.checkpoint import Checkpoint, read_checkpoint
from weighlock.dtypes import DType
from weighlock.formats.layout import LayoutRow
from weighlock.inspection.inventory import Inventory
from weighlock.inspection.sharing import storage_rows
from weighlock.limits import Limits
from weighlock.opening.plain import plain_values
from weighlock.opening.tensors import LazyTensors, Opened

__all__ = ["LazyCheckpoint", "LazyStorage", "open_checkpoint"]


class LazyStorage(NamedTuple):
    """One storage of an open checkpoint: the bytes that tensors are views of.

    Attributes
    ----------
    name : str
        Its key in the file, made unique where two checkpoints in one file use it.
    dtype : DType
        The type of the elements that the file counts it in.
    nbytes, used : int
        Its length, and how many bytes of it any tensor uses.
    location : str
        Where it lived when it was saved.
    byteorder : str
    record : str
        The name of the record that holds it.
    tensors : tuple of str
        The keys of the tensors that lie in it.
    overlapping : tuple of str
        Those of them that share bytes with another one without being the same view.
    """

    name: str
    dtype: DType
    nbytes: int
    used: int
    location: str
    byteorder: str
    record: str
    tensors: tuple[str, ...]
    overlapping: tuple[str, ...]

    @property
    def unused(self) -> int:
        """How many of its bytes no tensor uses."""
        return max(0, self.nbytes - self.used)


class LazyCheckpoint(LazyTensors):
    """An open checkpoint: a read-only mapping of keys to lazy tensors, and everything else that the file holds.

    A context manager; closing it closes the file. What was read stays; tensors can no longer be read.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"fc": {"w": numpy.ones((2, 2), "f4")}, "epoch": 3}, file)
    >>> _ = file.seek(0)
    >>> with weighlock.open_checkpoint(file) as ckpt:
    ...     list(ckpt), ckpt["fc.w"].shape, dict(ckpt.objects), ckpt["fc.w"].read().sum()
    (['fc.w'], (2, 2), {'epoch': 3}, np.float32(4.0))
    """

    def __init__(self, checkpoint: Checkpoint, *, verify: bool, inventory: Inventory | None = None) -> None:
        opened = Opened(checkpoint, verify=verify)
        if inventory is not None:  # one that was taken already
            opened.inventory = inventory
        super().__init__(opened, lambda: opened.by_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.checkpoint.close()

    @property
    def checkpoint(self) -> Checkpoint:
        """The description underneath, as `weighlock.read_checkpoint` returns it."""
        return self._opened.checkpoint

    @property
    def name(self) -> str:
        """The file's name or address."""
        return self.checkpoint.name

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self.checkpoint.size

    @property
    def format(self) -> str:
        """``"torch-zip"``, ``"torch-legacy"``, ``"safetensors"`` ..."""
        return self.checkpoint.format

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What the container says of how it was written."""
        return self.checkpoint.metadata

    @property
    def object(self) -> Any:
        """The whole object as it was saved, with a `TensorSpec` or one of its relatives in place of each tensor."""
        return self.checkpoint.object

    @cached_property
    def objects(self) -> Mapping[str, Any]:
        """The plain values beside the tensors (numbers, text, empty containers), under keys like theirs."""
        return plain_values(self.checkpoint.object, self.size)

    @property
    def globals(self) -> Mapping[str, int]:
        """Every class and function that the file names, and the byte where it is named first."""
        return self.checkpoint.globals

    @property
    def unknown(self) -> tuple[str, ...]:
        """Those of them that are neither known data nor named by the user: their objects are `Stub`."""
        return self.checkpoint.unknown

    @cached_property
    def storages(self) -> Mapping[str, LazyStorage]:
        """The storages by name: which tensors share which, and how many bytes nobody uses."""
        inventory, keys = self._opened.inventory, self._opened.keys
        refs = {name: ref for ref, name in inventory.storages.items()}
        return {
            row.name: LazyStorage(
                row.name, refs[row.name].dtype, row.nbytes, row.used, row.location, row.byteorder, row.member,
                tuple(keys[index] for index in row.tensors), tuple(keys[index] for index in row.overlapping),
            )
            for row in storage_rows(inventory)
        }  # fmt: skip

    @cached_property
    def layout(self) -> list[LayoutRow]:
        """Every stretch of the file in its order: records, headers, padding, gaps, bytes behind the end."""
        return self.checkpoint.layout()

    @property
    def gaps(self) -> tuple[str, ...]:
        """What was not listed, and why: paths out of all proportion to the file's size."""
        return tuple(self._opened.inventory.gaps)

    def __repr__(self) -> str:
        from weighlock.text import safe_text

        return f"<checkpoint {safe_text(self.name, limit=120)!r}, {self.format}, {self.size} bytes>"


def open_checkpoint(
    f: Any, *, limits: Limits | None = None, encoding: str = "utf-8", errors: str = "strict", verify: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> LazyCheckpoint:  # fmt: skip
    """Open a checkpoint to look at it, and to read single tensors or parts of them. No tensor data is read.

    Parameters
    ----------
    f : path, address, bytes-like or file object
        An address is text with a scheme: ``http://`` and ``https://``, or any that fsspec knows (``s3://``, ``gs://``,
        ``memory://`` ...; extra ``remote``). Of a remote file only the bytes that are needed are fetched.
    limits : Limits, optional
        How much the file may ask of the machine.
    encoding, errors : str
        How strings written by Python 2 are decoded.
    verify : bool
        Check the CRC-32 of the pickles, and of storages that are read as a whole.
    storage_options : mapping, optional
        For addresses. Of ``http`` and ``https``: `headers`, `timeout` (seconds), `retries`, `connections`,
        `max_download` (bytes that may be downloaded from a server that cannot send parts). All others are handed to
        fsspec's file system.

    Returns
    -------
    LazyCheckpoint

    Raises
    ------
    CheckpointError
        If it is no checkpoint, or damaged.
    SourceError, DownloadError
        If it cannot be reached.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"w": numpy.arange(6).reshape(2, 3)}, file)
    >>> _ = file.seek(0)
    >>> with weighlock.open_checkpoint(file) as ckpt:
    ...     ckpt["w"], ckpt["w"][:, -1]
    (<lazy tensor 'w': int64[2, 3]>, array([2, 5]))
    """
    checkpoint = read_checkpoint(
        f, limits=limits, encoding=encoding, errors=errors, verify=verify, storage_options=storage_options
    )
    return LazyCheckpoint(checkpoint, verify=verify)
