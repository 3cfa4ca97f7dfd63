"""What a salvage has kept and lost: facts without any work."""

from typing import Any, NamedTuple

from weighlock.inspection.paths import json_path, key_text

__all__ = ["SalvageReport", "SalvagedTensor"]


class SalvagedTensor(NamedTuple):
    """One tensor, or other object with data of its own, and what became of it.

    Attributes
    ----------
    path : tuple
        The keys, indices and attribute names that lead to it.
    storages : tuple of str
        The records, or storages of the stream, that hold its data.
    nbytes : int
        Of these storages.
    state : str
        ``"proven"``: a checksum shows that the bytes are those that were written, and two witnesses whose they are, or
        a manifest shows both. ``"unproven"``: nothing contradicts them, and one of these proofs is missing. ``"lost"``.
    reason : str
        A clause that says why.
    """

    path: tuple[Any, ...]
    storages: tuple[str, ...]
    nbytes: int
    state: str
    reason: str

    @property
    def key(self) -> str:
        """The path as people write it, joined by dots."""
        return key_text(self.path)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "key": self.key, "path": json_path(self.path), "storages": list(self.storages), "nbytes": self.nbytes,
            "state": self.state, "reason": self.reason,
        }  # fmt: skip


class SalvageReport(NamedTuple):
    """What `weighlock.salvage` returns.

    Attributes
    ----------
    source : str
    size : int
    format : str
        Of what was written: that of the input, but for programs of TorchScript.
    target : str or None
        The file that was written; None for a dry run.
    tensors : tuple of SalvagedTensor
        In the file's order.
    notes : tuple of str
        What else is to be known: a translation that was undone, a structure that is lost.
    nbytes : int
        Of the new file; 0 for a dry run.

    Examples
    --------
    >>> SalvageReport("a.pt", 10, "torch-zip", None, (SalvagedTensor(("w",), ("data/0",), 4, "proven", "crc"),)).whole
    True
    """

    source: str
    size: int
    format: str
    target: str | None
    tensors: tuple[SalvagedTensor, ...]
    notes: tuple[str, ...] = ()
    nbytes: int = 0

    @property
    def kept(self) -> tuple[SalvagedTensor, ...]:
        """The tensors that are in the new file."""
        return tuple(tensor for tensor in self.tensors if tensor.state != "lost")

    @property
    def lost(self) -> tuple[SalvagedTensor, ...]:
        """Those that are not."""
        return tuple(tensor for tensor in self.tensors if tensor.state == "lost")

    @property
    def whole(self) -> bool:
        """Whether nothing is lost."""
        return not self.lost

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        count = {state: sum(t.state == state for t in self.tensors) for state in ("proven", "unproven", "lost")}
        return {
            "uri": self.source, "size": self.size, "format": self.format, "target": self.target,
            "written": self.target is not None, "nbytes": self.nbytes, "whole": self.whole,
            "totals": {"tensors": len(self.tensors), **count}, "notes": list(self.notes),
            "tensors": [tensor.to_dict() for tensor in self.tensors],
        }  # fmt: skip
