"""What was written, read back: the same tensors at the same places, byte for byte, and the same values beside them.

Where the source says the CRC-32 of a tensor's bytes, the new bytes must have it, which finds damage in the source too.
Where the writer has computed that of what it read, they must have that one. Of all others, both sides are read again.
"""

from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from weighlock.checkpoint import Checkpoint, read_checkpoint
from weighlock.converting.streams import tensor_stream
from weighlock.errors import ChecksumError, LimitError, SaveError
from weighlock.inspection.inventory import TensorRow, take_inventory
from weighlock.inspection.paths import key_text
from weighlock.measuring.contents import canonical_text, plain_contents
from weighlock.measuring.pieces import in_threads
from weighlock.storages.checksum import crc32
from weighlock.storages.copying import Progress, SourceRange
from weighlock.storages.refs import StorageRef
from weighlock.storages.sinks import Stream
from weighlock.tensors.spec import TensorSpec

__all__ = ["Expected", "check"]

# Types whose equal values need no spelling to be compared; NaN and the two zeros do.
_PLAIN: Final = frozenset({str, bytes, int, float, bool, type(None)})


class _Pair(NamedTuple):
    """Bytes that must be the same."""

    key: str
    old: TensorSpec
    new: TensorSpec


class Expected(NamedTuple):
    """What a new file was made of.

    Attributes
    ----------
    source : Checkpoint
        Open: its bytes are read again where there is no checksum of them.
    root : object
        The description that was written.
    exact : bool
        Whether flags and shared memory are in the file too.
    checksums : dict of int to int
        The CRC-32 of the bytes that came from a storage of the source, by the identity of its `StorageRef`.
    """

    source: Checkpoint
    root: Any
    exact: bool
    checksums: dict[int, int]


def check(path: str, expected: Expected, progress: Progress | None = None) -> None:
    """Compare a new file with what it was made of.

    Parameters
    ----------
    path : str
    expected : Expected
    progress : callable, optional
        Called with the number of compared bytes.

    Raises
    ------
    ChecksumError
        If the bytes of a tensor are not those of the source.
    SaveError
        If the file is another one in any other way: then this program has a fault.
    """
    with read_checkpoint(path) as made:
        rows = _rows(expected.source, expected.root), _rows(made, made.object)
        pairs = list(_pairs(*rows, exact=expected.exact))
        pairs += _check_values(expected.root, made.object)
        distinct = list(_distinct(pairs))
        compare = partial(_compare, checksums=expected.checksums, progress=progress)
        for _ in in_threads(compare, distinct, lambda pair: pair.old.nbytes):
            pass
        for _ in in_threads(_verify, _unverified(distinct), lambda ref: ref.nbytes):
            pass


def _rows(checkpoint: Checkpoint, root: Any) -> list[TensorRow]:
    held, checkpoint.object = checkpoint.object, root
    try:
        found = take_inventory(checkpoint)
    finally:
        checkpoint.object = held
    if found.gaps:
        raise LimitError(f"the result cannot be checked: {found.gaps[0]}", hint="Convert without checking.")
    return found.rows


def _pairs(old: list[TensorRow], new: list[TensorRow], *, exact: bool) -> Iterator[_Pair]:
    found = {row.path: row for row in new}
    if len(old) != len(new):
        raise _fault(f"{len(new)} tensors", f"{len(old)}")
    for row in old:
        other = found.get(row.path)
        if other is None:
            raise _fault("a tensor is missing", row.key)
        _check_leaf(row, other, exact=exact)
        if exact:
            firsts = [
                None if one.alias_of is None else rows[one.alias_of].path for one, rows in ((row, old), (other, new))
            ]
            if firsts[0] != firsts[1]:
                raise _fault("a tensor shares its memory with another one than before", row.key)
        for (_, one), (_, two) in zip(row.parts, other.parts, strict=True):
            if one.ref.location != "meta" and one.nbytes:
                yield _Pair(row.key, one, two)


def _check_leaf(row: TensorRow, other: TensorRow, *, exact: bool) -> None:
    names = ("layout", "dtype", "shape", "nbytes", *(("requires_grad", "parameter") if exact else ()))
    for name in names:
        one, two = getattr(row.leaf, name), getattr(other.leaf, name)
        if one != two:
            raise _fault(f"{name} {two}", f"{one} of {row.key}")
    if [name for name, _ in row.parts] != [name for name, _ in other.parts]:
        raise _fault("a tensor has other parts", row.key)


def _check_values(old: Any, new: Any) -> Iterator[_Pair]:
    """Compare what stands beside the tensors; yield the storages that stand in the object by themselves."""
    for one, two in zip_longest(plain_contents(old), plain_contents(new)):
        if one is None or two is None or one[0] != two[0]:
            got, expected = ("nothing" if side is None else key_text(side[0]) for side in (two, one))
            raise _fault(f"a value at {got}", expected)
        before, after = one[1], two[1]
        kind = type(before)
        if kind is type(after) and kind in _PLAIN and before == after and (before or kind is not float):
            continue
        if canonical_text(before) != canonical_text(after):
            raise _fault(f"{canonical_text(after)[:80]}", f"{canonical_text(before)[:80]} at {key_text(one[0])}")
        if type(before) is StorageRef and before.location != "meta" and before.nbytes:
            yield _Pair(key_text(one[0]), _whole(before), _whole(after))


def _whole(ref: StorageRef) -> TensorSpec:
    return TensorSpec(ref, ref.dtype, 0, (ref.numel,), (1,))


def _fault(got: str, expected: str) -> SaveError:
    return SaveError("the new file does not hold what was to be written", expected=expected, got=got,
                     hint="It was not kept. Please report this.")  # fmt: skip


def _distinct(pairs: list[_Pair]) -> Iterator[_Pair]:
    """Yield each pair of views once: many tensors may be the same one."""
    seen: set[Any] = set()
    for pair in pairs:
        views = tuple(
            (id(spec.ref), spec.dtype, spec.offset, spec.shape, spec.stride, spec.conj, spec.neg)
            for spec in (pair.old, pair.new)
        )
        if views not in seen:
            seen.add(views)
            yield pair


def _compare(pair: _Pair, checksums: dict[int, int], progress: Progress | None) -> None:
    old, new = tensor_stream(pair.old, verify=True), tensor_stream(pair.new, progress, verify=True)
    if len(old) != len(new):
        raise _fault(f"{len(new)} bytes", f"{len(old)} of {pair.key}")
    if old.crc is not None:
        if _checksum(new) != old.crc:
            raise _damaged(pair.old.ref, pair.key)
        return
    ref = pair.old.ref
    read = checksums.get(id(ref)) if isinstance(old, SourceRange) and len(old) == ref.nbytes else None
    if not (_checksum(new) == read if read is not None else _same(old, new)):
        raise SaveError("the new file has other bytes than the old one", object_path=pair.key,
                        hint="It was not kept. A disk that changes what is written to it needs a look.")  # fmt: skip


def _unverified(pairs: list[_Pair]) -> list[StorageRef]:
    """Return the storages of the source with a CRC-32 that no tensor has all bytes of: they are read for it."""
    found: dict[int, StorageRef] = {}
    done: set[int] = set()
    for pair in pairs:
        ref = pair.old.ref
        ref = getattr(ref.reader, "origin", ref)
        found[id(ref)] = ref
        if ref is pair.old.ref and tensor_stream(pair.old).crc is not None:
            done.add(id(ref))
    return [ref for key, ref in found.items() if key not in done]


def _verify(ref: StorageRef) -> None:
    stream = tensor_stream(_whole(ref))
    if stream.crc is not None and _checksum(stream) != stream.crc:
        raise _damaged(ref, "")


def _damaged(ref: StorageRef, key: str) -> ChecksumError:
    return ChecksumError(
        "the bytes do not have the checksum that the file gives for them", object_path=key or None,
        record=ref.record, hint="The file is damaged: get it again.",
    )  # fmt: skip


def _checksum(stream: Stream) -> int:
    crc = 0
    for piece in stream.pieces():
        crc = crc32(piece, crc)
    return crc


def _same(old: Stream, new: Stream) -> bool:
    if not isinstance(old, SourceRange) or not isinstance(new, SourceRange):
        return _checksum(old) == _checksum(new)
    step = max(old.piece_size, new.piece_size)
    size = len(old)
    one, two = bytearray(min(step, size)), bytearray(min(step, size))
    for begin in range(0, size, step):
        count = min(step, size - begin)
        if count < len(one):
            del one[count:], two[count:]
        old.read_into(begin, memoryview(one))
        new.read_into(begin, memoryview(two))
        if one != two:
            return False
    return True
