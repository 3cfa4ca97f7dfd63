"""Frames (protocol 4): whether instructions and frames end together, as every pickler has them.

Where a frame ends inside of an instruction, readers part: Python's machine in C drops what is left of the frame and
reads the argument anew behind it, so it takes other bytes for opcodes than everybody else; Python's own machine in
Python gives up. Frames inside of frames do the same.
"""

from collections.abc import Iterator
from typing import Final

from weighlock.pickling.opcodes import BY_CODE, CODE

__all__ = ["ends_with_instruction"]

_SIZES: Final = {"-": 0, "u1": 1, "u2": 2, "i4": 4, "u4": 4, "u8": 8, "f8": 8}
_FIXED: Final = [1 + _SIZES[BY_CODE[code].argument] if code in BY_CODE and BY_CODE[code].argument in _SIZES else 0
                 for code in range(256)]  # fmt: skip
_COUNTED: Final = {code: int(row.argument[-1]) for code, row in BY_CODE.items()
                   if row.argument[-1:].isdigit() and row.argument not in _SIZES}  # fmt: skip
_FRAME, _STOP = CODE["FRAME"], CODE["STOP"]


def ends_with_instruction(data: bytes, position: int, end: int, steps: Iterator[None]) -> bool:
    r"""Whether the instructions from `position` on come to `end` exactly, the end of their frame.

    Where one is malformed, or they are more than `steps`, that is said by whoever runs them: True.

    Examples
    --------
    >>> from itertools import repeat
    >>> ends_with_instruction(b"K\x01.", 0, 3, repeat(None)), ends_with_instruction(b"K\x01.", 0, 1, repeat(None))
    (True, False)
    """
    size = len(data)
    for _ in steps:
        if position >= end:
            return position == end
        code = data[position]
        width = _FIXED[code]
        if width:
            if code in (_FRAME, _STOP):
                return code == _STOP and position + 1 == end
            position += width
        elif code in _COUNTED:
            start = position + 1 + _COUNTED[code]
            position = start + int.from_bytes(data[position + 1 : start], "little")
        elif code in BY_CODE:
            position = data.find(b"\n", position) + 1
            if position and BY_CODE[code].argument == "pair":
                position = data.find(b"\n", position) + 1
            if not position:
                return True
        else:
            return True
        if position > size:
            return True
    return True
