"""Looking for names in bytes that cannot be followed: what stands behind the point where a pickle stops."""

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["looks_like_pickle", "names_in"]

_GLOBAL: Final = re.compile(rb"[ci]([A-Za-z_][\w.]{0,99})\n([A-Za-z_][\w.]{0,99})\n")
# Two short strings, whatever stores them, and STACK_GLOBAL.
_STACK_GLOBAL: Final = re.compile(
    rb"(?:\x8c(.)|X(.)\0\0\0)([A-Za-z_][\w.]{0,99})(?:\x94|q.|r....)?"
    rb"(?:\x8c(.)|X(.)\0\0\0)([A-Za-z_][\w.]{0,99})(?:\x94|q.|r....)?\x93",
    re.DOTALL,
)
_MOST: Final = 1000
_LONGEST: Final = 64 << 20


def names_in(data: bytes, start: int) -> Iterator[tuple[str, int]]:
    """Give the globals that seem to be named from `start` on, and where."""
    for pattern, groups in ((_GLOBAL, (1, 2)), (_STACK_GLOBAL, (3, 6))):
        for count, match in enumerate(pattern.finditer(data, start, start + _LONGEST)):
            if count >= _MOST:
                break
            yield ".".join(match[group].decode("ascii") for group in groups), match.start()


def looks_like_pickle(data: bytes) -> bool:
    """Whether bytes begin like a pickle of protocol 2 or later, or hold a global of an older one."""
    if len(data) < 4:
        return False
    if data[:1] == b"\x80":
        return 2 <= data[1] <= 5
    return data[-1:] == b"." and _GLOBAL.search(data, 0, 1 << 16) is not None
