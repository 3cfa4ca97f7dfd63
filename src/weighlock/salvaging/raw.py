"""Salvage from archives whose pickle is lost: storages by the names of their records, or by their digests.

Nothing says which tensor a storage belongs to. A manifest does, where a tensor is the whole of its storage: the SHA-256
of its values is that of the storage's bytes.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from math import prod
from typing import Final, NamedTuple

from weighlock.dtypes import DTYPES
from weighlock.errors import DamagedError
from weighlock.formats.zip_carving import Carving, carve
from weighlock.formats.zip_proving import Found, Prover
from weighlock.formats.zip_writer import write_zip
from weighlock.measuring.manifests import ManifestTensor
from weighlock.pickling.inert import GlobalRef
from weighlock.pickling.pickler import Pickler
from weighlock.pickling.reductions import TensorCall, TensorForm, TensorPattern
from weighlock.salvaging.bytes_kept import kept_records
from weighlock.salvaging.identity import Claim, Surroundings, identified
from weighlock.salvaging.plan import Plan, Terms, decide
from weighlock.salvaging.report import SalvagedTensor
from weighlock.storages.sinks import StorageRecords
from weighlock.storages.source import ByteSource
from weighlock.tensors.layout import contiguous_stride

__all__ = ["DATA", "plan_named", "plan_raw"]

DATA: Final = re.compile(rb"(.*/|)(data|tensors)/([^/]+)\Z", re.DOTALL)
"""The name of a storage's record: its folder, and its number."""

_PIECE: Final = 1 << 20
_MODULE: Final = "torch._utils"


def plan_raw(source: ByteSource, terms: Terms) -> Plan:
    """Find out which storages are whole, whatever they mean: a dictionary of byte arrays by record name.

    Raises
    ------
    DamagedError
        If none is.
    """
    kept: list[tuple[str, _Flat]] = []
    founds: list[Found] = []
    tensors: list[SalvagedTensor] = []
    for short, text, best in _records(source, terms, carve(source, terms.progress)):
        found = decide(best, terms._replace(tries=False))
        tensors.append(SalvagedTensor((short,), (text,), found.size, found.state, found.reason))
        if found.state != "lost":
            kept.append((short, _Flat(_BYTES.pattern((found.size,)), len(founds))))
            founds.append(found)
    if not founds:
        raise DamagedError("no storage in the file is whole")
    notes = ["the structure is lost: the storages are saved as arrays of bytes, by the names of their records"]
    return _plan(source, terms, tensors, notes, (kept, founds))


def plan_named(source: ByteSource, terms: Terms, carving: Carving, listed: Sequence[ManifestTensor]) -> Plan:
    """Find the tensors of a manifest by their digests: a dictionary of tensors by key.

    Raises
    ------
    DamagedError
        If no storage has the values of any of them.
    """
    wanted = {_nbytes(tensor) for tensor in listed if tensor.sha256}
    there: dict[tuple[int, str], tuple[str, Found]] = {}
    for _, text, found in _records(source, terms, carving):
        if found.start and found.size in wanted and not found.method:
            there.setdefault((found.size, _sha256(source, found)), (text, found))
    kept: list[tuple[str, _Flat]] = []
    founds: list[Found] = []
    tensors: list[SalvagedTensor] = []
    for tensor in listed:
        place = there.get((_nbytes(tensor), tensor.sha256))
        if place is None or tensor.shape is None or tensor.dtype is None:
            tensors.append(SalvagedTensor((tensor.key,), (), 0, "lost", "no storage that was found has its values"))
            continue
        text, found = place
        tensors.append(SalvagedTensor((tensor.key,), (text,), found.size, "proven", "its values are the manifest's"))
        kept.append((tensor.key, _Flat(_Form(tensor.dtype).pattern(tensor.shape), len(founds))))
        founds.append(found)
    if not founds:
        raise DamagedError("the structure is lost, and no storage has the values of a tensor in the manifest")
    notes = ["the structure is lost: the tensors were found by their digests, and are saved as a flat dictionary"]
    return _plan(source, terms, tensors, notes, (kept, founds))._replace(is_held=True)


def _plan(
    source: ByteSource, terms: Terms, tensors: list[SalvagedTensor], notes: list[str],
    kept: tuple[list[tuple[str, "_Flat"]], list[Found]],
) -> Plan:  # fmt: skip
    described, founds = kept
    data = Pickler(2, describe=lambda kind: _Flat.call if kind is _Flat else None).dumps(dict(described))
    records: StorageRecords = kept_records(source, founds, terms.progress)
    plan = Plan("torch-zip", tensors, notes, lambda sink: write_zip(sink, data, records), lambda _: plan)
    return plan


def _records(source: ByteSource, terms: Terms, carving: Carving) -> list[tuple[str, str, Found]]:
    """Return each record that may be a storage: its name below the root, its whole name, and what was found."""
    prover = Prover(source, carving, 0, source.size, progress=terms.progress)
    names = [name for _, name in sorted((_place(carving, name), name) for name in _names(carving))]
    missing = Found(0, 0, 0, 0, "missing", "nothing says how long it is")
    founds = [next(iter(prover.sized(name, source.size)), missing) for name in names]
    claims = [Claim(name, found.size, found) for name, found in zip(names, founds, strict=True)]
    ordered = sorted(claims, key=lambda claim: _number(claim.name))
    judged = dict(
        zip(
            (claim.name for claim in ordered),
            identified(ordered, prover, carving, Surroundings((), ()), in_order=True, by_size=False), strict=True,
        )
    )  # fmt: skip
    return [(_short(name), name.decode("utf-8", "surrogateescape"), judged[name]) for name in names]


def _names(carving: Carving) -> set[bytes]:
    return {name for rows in (carving.headers, carving.entries) for name, there in rows.items()
            if there and DATA.match(name)}  # fmt: skip


def _place(carving: Carving, name: bytes) -> int:
    return min((header.offset for header in carving.headers.get(name, [])), default=1 << 62)


def _number(name: bytes) -> tuple[bool, int, bytes]:
    """Sort as PyTorch numbers its storages."""
    last = name.rpartition(b"/")[2]
    return (False, int(last), name) if last.isdigit() and len(last) < 19 else (True, 0, name)


def _short(name: bytes) -> str:
    match = DATA.match(name)
    return name[len(match[1]) if match else 0 :].decode("utf-8", "surrogateescape")


def _nbytes(tensor: ManifestTensor) -> int:
    row = DTYPES.get(tensor.dtype or "")
    return -1 if row is None or tensor.shape is None else row.itemsize * prod(tensor.shape)


def _sha256(source: ByteSource, found: Found) -> str:
    made = sha256()
    memory = memoryview(bytearray(min(_PIECE, found.size)))
    for done in range(0, found.size, _PIECE):
        view = memory[: min(_PIECE, found.size - done)]
        source.read_into(found.start + done, view)
        made.update(view)
    return made.hexdigest()


class _Form:
    """How the new file rebuilds contiguous tensors of a type."""

    def __init__(self, dtype: str) -> None:
        row = DTYPES[dtype]
        self._unit = row.itemsize if row.storage_class else 1
        if row.storage_class:
            self._form = TensorForm(GlobalRef(_MODULE, "_rebuild_tensor_v2"), GlobalRef("torch", row.storage_class))
        else:
            untyped = GlobalRef("torch.storage", "UntypedStorage")
            self._form = TensorForm(GlobalRef(_MODULE, "_rebuild_tensor_v3"), untyped, GlobalRef("torch", row.name))
        self._itemsize = row.itemsize

    def pattern(self, shape: tuple[int, ...]) -> TensorPattern:
        numel = prod(shape) * self._itemsize // self._unit
        return TensorPattern(self._form, "cpu", numel, 0, shape, contiguous_stride(shape))


_BYTES: Final = _Form("uint8")


class _Flat(NamedTuple):
    """A contiguous tensor with a storage of its own, as the pickler is given it."""

    pattern: TensorPattern
    number: int

    @staticmethod
    def call(value: "_Flat") -> TensorCall:
        """Describe it to the pickler."""
        return value.pattern, str(value.number)
