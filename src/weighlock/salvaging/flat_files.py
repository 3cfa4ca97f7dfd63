"""Salvage from safetensors files: the header stands first and says where everything is; there are no checksums."""

from collections.abc import Collection
from typing import Any, Final

from weighlock.dtypes import VALUES_PER_UNIT
from weighlock.formats.flat import DOCUMENT
from weighlock.formats.safetensors_header import SafetensorsEntry, read_header
from weighlock.salvaging.bytes_kept import stretch
from weighlock.salvaging.plan import TRIED, Plan, Terms
from weighlock.salvaging.report import SalvagedTensor
from weighlock.storages.sinks import Buffer, GatheringSink, Sink
from weighlock.storages.source import ByteSource

__all__ = ["plan_safetensors"]

_HEADER_LENGTH: Final = 8
_MOST: Final = 1 << 62
_PIECE: Final = 16 << 20


class _Lengthened:
    """A cut file, as long as its header says that it was: what is missing cannot be read."""

    def __init__(self, source: ByteSource, size: int) -> None:
        self._source = source
        self.name = source.name
        self.size = size

    def read_at(self, offset: int, count: int) -> bytes:
        return self._source.read_at(offset, count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def plan_safetensors(source: ByteSource, terms: Terms, refused: Collection[tuple[Any, ...]] = ()) -> Plan:
    """Find out what can be saved, without the tensors of some paths.

    Raises
    ------
    DamagedError
        If the header is damaged: then nothing says what the bytes are.
    """
    length = int.from_bytes(source.read_at(0, _HEADER_LENGTH), "little")
    start = _HEADER_LENGTH + length
    header = read_header(_Lengthened(source, start + _declared(source, start, length)), terms.limits)
    notes = ["this format has no checksums: what is kept is where it should be, and as long"]
    there = source.size - start
    tensors: list[SalvagedTensor] = []
    kept: list[SafetensorsEntry] = []
    for entry in header.tensors:
        state, reason = "unproven", "by size and position only: the format has no checksums"
        if entry.end > there:
            state, reason = "lost", "the file ends before its data do"
        elif terms.require_crc and entry.end > entry.begin:
            state, reason = TRIED if terms.tries else "lost", f"a checksum is demanded: {reason}"
        tensors.append(SalvagedTensor((entry.name,), (entry.name,), entry.end - entry.begin, state, reason))
        if state != "lost" and (entry.name,) not in refused:
            kept.append(entry)
    metadata = dict(header.metadata)
    if DOCUMENT in metadata and len(kept) < len(header.tensors):
        del metadata[DOCUMENT]
        notes.append("the description of aliases and structure is left out: it names tensors that are lost")

    def write(sink: Sink) -> None:
        _write(sink, source, start, kept, metadata)
        terms.progress(sum(entry.end - entry.begin for entry in kept))

    return Plan("safetensors", tensors, notes, write, lambda paths: plan_safetensors(source, terms, paths))


def _declared(source: ByteSource, start: int, length: int) -> int:
    """Return how many bytes of data the header promises; the file's own where it cannot be read."""
    import json

    try:
        fields = json.loads(source.read_at(_HEADER_LENGTH, min(length, max(source.size - _HEADER_LENGTH, 0))))
        ends = [entry["data_offsets"][1] for name, entry in fields.items() if name != "__metadata__"]
        promised = max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return max(source.size - start, 0)
    return promised if isinstance(promised, int) and 0 <= promised < _MOST else max(source.size - start, 0)


def _write(sink: Sink, source: ByteSource, start: int, kept: list[SafetensorsEntry], metadata: dict[str, str]) -> None:
    import json

    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for entry in kept:
        shape = list(entry.shape)
        if entry.row is not None and entry.row.name in VALUES_PER_UNIT:
            shape[-1] *= VALUES_PER_UNIT[entry.row.name]
        end = position + entry.end - entry.begin
        header[entry.name] = {"dtype": entry.dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    gathering = GatheringSink(sink)
    gathering.write(len(text).to_bytes(_HEADER_LENGTH, "little") + text)
    for entry in kept:
        for done in range(entry.begin, entry.end, _PIECE):
            piece: Buffer = stretch(source, None, start + done, min(_PIECE, entry.end - done))
            gathering.write(piece)
    gathering.flush()
