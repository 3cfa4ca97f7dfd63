"""A storage in memory: the untyped bytes that one or several tensors are views of."""

from typing import Any

from weighlock.dtypes import DType
from weighlock.errors import DeviceError
from weighlock.storages.refs import StorageRef

__all__ = ["Storage"]


class Storage:
    """The bytes that tensors share, on the CPU. `map_location` functions are given these, as torch gives its own.

    Attributes
    ----------
    dtype : DType
        Type of the elements that the file counts in; ``uint8`` for untyped storages.
    nbytes : int
        Length in bytes; ``len(storage)`` is the length in elements.
    location : str
        Where it lived when it was saved, for example ``"cuda:0"``.
    """

    # `array` is the framework's block of bytes that holds the storage, from byte `start`; `fill` reads the bytes before
    # their turn. Both are the backend's.
    __slots__ = ("array", "fill", "ref", "start")

    def __init__(self, ref: StorageRef) -> None:
        self.ref = ref
        self.array: Any = None
        self.start = 0
        self.fill: Any = None

    @property
    def memory(self) -> memoryview | None:
        """The bytes, writable; None for a storage without data (``map_location="meta"``)."""
        if self.array is None:
            return None
        return memoryview(self.array)[self.start : self.start + self.ref.nbytes]

    @property
    def dtype(self) -> DType:
        """The type of the elements that the file counts in."""
        return self.ref.dtype

    @property
    def nbytes(self) -> int:
        """The length in bytes."""
        return self.ref.nbytes

    @property
    def location(self) -> str:
        """Where it lived when it was saved."""
        return self.ref.location

    @property
    def device(self) -> str:
        """``"cpu"``, or ``"meta"`` where there is no data."""
        return "meta" if self.array is None else "cpu"

    def __len__(self) -> int:
        return self.ref.numel

    def tobytes(self) -> bytes:
        """Return a copy of the bytes.

        Raises
        ------
        DeviceError
            If the storage has no data.
        """
        memory = self.memory
        if memory is None:
            raise DeviceError("a storage on the meta device has no data", object_path=self.ref.key)
        if self.fill is not None:  # asked for inside of map_location, before the data are read
            self.fill(self)
        return bytes(memory)

    def cpu(self) -> "Storage":
        """Return itself: it is there already."""
        return self

    def cuda(self, device: Any = None) -> "Storage":
        """Refuse: NumPy has the CPU only.

        Raises
        ------
        DeviceError
            Always.
        """
        raise DeviceError(
            "NumPy arrays live on the CPU",
            got="a request for CUDA" + ("" if device is None else f" device {device}"),
            hint="Return the storage itself, or None.",
        )

    def __repr__(self) -> str:
        return f"<Storage of {len(self)} x {self.dtype.name} on {self.device}, saved from {self.location!r}>"
