"""How numbers, shapes and kinds of files are written for people."""

from typing import Final

from weighlock.inspection.leaves import Leaf

__all__ = ["count", "kind", "share", "shape", "short", "size"]

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_COUNTS: Final = ("k", "M", "G", "T", "P")


def size(nbytes: int) -> str:
    """Return a number of bytes, to about three digits.

    Examples
    --------
    >>> size(1536)
    '1.5 KiB'
    """
    if nbytes < 1024:
        return f"{nbytes} B"
    scaled, unit = float(nbytes), -1
    while scaled >= 1024 and unit < len(_UNITS) - 1:
        scaled, unit = scaled / 1024, unit + 1
    return f"{scaled:.{2 if _UNITS[unit] in ('GiB', 'TiB') and scaled < 10 else 1}f} {_UNITS[unit]}"


def count(number: int) -> str:
    """Return a count, from ten thousand on to about three digits.

    Examples
    --------
    >>> count(361_800_000)
    '361.8 M'
    """
    if number < 10_000:
        return f"{number:,}"
    scaled, unit = float(number), -1
    while scaled >= 1000 and unit < len(_COUNTS) - 1:
        scaled, unit = scaled / 1000, unit + 1
    return f"{scaled:.1f} {_COUNTS[unit]}"


def share(part: int, whole: int) -> str:
    """Return a part of a whole in percent; never 0 % or 100 % for what is neither."""
    percent = round(100 * part / whole) if whole else 0
    if percent == 0 and part:
        return "<1 %"
    return ">99 %" if percent == 100 and part != whole else f"{percent} %"


def shape(lengths: tuple[int, ...] | None) -> str:
    """Return a shape in brackets; ``?`` where there is none yet."""
    return "?" if lengths is None else f"[{', '.join(map(str, lengths))}]"


def short(text: str, limit: int) -> str:
    """Return text with its middle left out where it is longer than `limit`; 0 for no limit.

    Examples
    --------
    >>> short("encoder.layers.0.weight", 11)
    'encod…eight'
    """
    return text if not limit or len(text) <= limit else f"{text[: limit // 2]}…{text[-(limit // 2) :]}"


def kind(leaf: Leaf) -> str:
    """Return a leaf's element type, with its layout where that is not the usual one."""
    dtype = leaf.dtype or "?"
    what = leaf.subclass if leaf.subclass is not None else leaf.layout
    return dtype if what in ("strided", "packed") else f"{dtype} {what}"
