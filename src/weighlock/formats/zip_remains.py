"""What is left of a zip archive whose end is missing: the whole records, found by their own headers.

A zip file's directory stands at its end, so a download that broke off has none. Each record has a header of its own
before it, though, and PyTorch writes its sizes once more behind it.
"""

from struct import Struct
from typing import Final

from weighlock.errors import SALVAGE, TruncatedError
from weighlock.storages.ranges import RangedSource
from weighlock.storages.source import ByteSource

__all__ = ["cut_archive", "whole_records"]

LOCAL: Final = Struct("<4s2x2H4x3I2H")  # flags, method, CRC-32, compressed size, size, name length, extra length
LOCAL_SIZE: Final = 30
LOCAL_MARK: Final = b"PK\x03\x04"
END_MARK: Final = b"PK\x05\x06"
_DESCRIPTOR_MARK: Final = b"PK\x07\x08"
_DESCRIBED: Final = 0x0008
_LONG_DESCRIPTOR: Final = 24

_FIRST_CHUNK: Final = 4 << 10
_LARGEST_CHUNK: Final = 8 << 20
# Bounds of the search, which only makes a message better: a cut file of 100 GB is not read through for it, and a file
# made of nothing but descriptor marks is not tried at each of them.
_MOST_BYTES: Final = 8 << 30
_MOST_REMOTE: Final = 1 << 20
_MOST_STEPS: Final = 1 << 20


def cut_archive(source: ByteSource) -> TruncatedError:
    """Return the error for an archive without a directory, saying how much of it is there."""
    walk = _Walk(source)
    names = walk.names()
    tensors = sum("/data/" in name or "/tensors/" in name for name in names)
    least = "at least " if walk.gave_up else ""
    return TruncatedError(
        "the archive was cut: its directory, which stands at its end, is missing",
        got=f"{source.size} bytes with {least}{len(names)} whole records, {tensors} of them tensor storages",
        path=source.name,
        offset=source.size,
        hint=f"The download, the copy or the save broke off: get the file again. {SALVAGE}",
    )


def whole_records(source: ByteSource) -> list[str]:
    """Return the names of the records that are there as a whole, from the first on."""
    return _Walk(source).names()


class _Walk:
    """A walk along the local headers."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        # A remote file is not fetched for the sake of a better message.
        self._stop = min(source.size, _MOST_REMOTE if isinstance(source, RangedSource) else _MOST_BYTES)
        self._steps = _MOST_STEPS

    @property
    def gave_up(self) -> bool:
        return self._steps <= 0 or self._stop < self._source.size

    def names(self) -> list[str]:
        found: list[str] = []
        position: int | None = 0
        while self._steps > 0:
            self._steps -= 1
            name, position = self._record(position or 0)
            if position is None:
                break
            found.append(name)
        return found

    def _record(self, position: int) -> tuple[str, int | None]:
        """Return a record's name, and where it ends; None where it is not whole, or where there is none."""
        head = self._source.read_at(position, min(LOCAL_SIZE + 512, self._stop - position))
        if len(head) < LOCAL_SIZE or head[:4] != LOCAL_MARK:
            return "", None
        _, flags, _, _, packed, size, name_length, extra = LOCAL.unpack_from(head)
        start = position + LOCAL_SIZE + name_length + extra
        described = flags & _DESCRIBED and not packed and not size
        stop = self._described_end(start) if described else start + packed
        if stop is None or stop > self._stop:
            return "", None
        return head[LOCAL_SIZE : LOCAL_SIZE + name_length].decode("utf-8", "replace"), stop

    def _described_end(self, start: int) -> int | None:
        """Return where the data descriptor ends that closes the data beginning at `start`."""
        position, chunk, window = start, _FIRST_CHUNK, b""
        while position < self._stop:
            base = position - len(window)
            window += self._source.read_at(position, min(chunk, self._stop - position))
            position = base + len(window)
            # A descriptor that this window may cut is left to the next one.
            last = len(window) - (1 if position == self._stop else _LONG_DESCRIPTOR)
            at = window.find(_DESCRIPTOR_MARK)
            while 0 <= at <= last and self._steps > 0:
                self._steps -= 1
                length = _descriptor_length(window[at : at + _LONG_DESCRIPTOR], base + at - start)
                if length:
                    return base + at + length
                at = window.find(_DESCRIPTOR_MARK, at + 1)
            window = window[1 - _LONG_DESCRIPTOR :]
            chunk = min(chunk * 4, _LARGEST_CHUNK)
        return None


def _descriptor_length(descriptor: bytes, packed: int) -> int:
    """Return the descriptor's length if it belongs to `packed` bytes of data, else 0."""
    # The long form first: read as the short one, it would fit as well, its size being 0.
    for width in (8, 4):
        if len(descriptor) >= 8 + 2 * width and int.from_bytes(descriptor[8 : 8 + width], "little") == packed:
            return 8 + 2 * width
    return 0
