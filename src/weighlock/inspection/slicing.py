"""Slices as people type them: ``[0]``, ``[:10]``, ``[..., 0]``, ``[2:5, 1]``, ``[::-1]``."""

import re
from collections.abc import Sequence
from types import EllipsisType
from typing import Final, NamedTuple

from weighlock.errors import ArgumentError, OutOfRangeError

__all__ = ["Index", "View", "parse_index", "select", "split_key"]

Index = tuple[int | slice | EllipsisType, ...]

_ITEM: Final = re.compile(
    r"\s*(?:(?P<dots>\.\.\.)|(?P<slice>-?\d{0,18}\s*(?::\s*-?\d{0,18}\s*){1,2})|(?P<int>-?\d{1,18}))\s*"
)
_INDEX: Final = re.compile(r"\[([\s\d:,.-]*)\]$")


class View(NamedTuple):
    """A part of a tensor: where its elements lie, and which of each dimension they are.

    `offset` and `stride` count elements and a stride may be negative. `picked` has one entry per dimension of the whole
    tensor: the indices chosen in it.
    """

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    picked: tuple[range, ...]


def split_key(text: str) -> tuple[str, str | None]:
    """Split ``key[slice]`` into the key and the slice with its brackets; None where there is no slice."""
    match = _INDEX.search(text)
    return (text, None) if match is None else (text[: match.start()], match.group())


def parse_index(text: str) -> Index:
    """Return the index that text such as ``[2:5, ..., -1]`` spells.

    Raises
    ------
    ArgumentError
        If it spells none.
    """
    inside = text.strip().removeprefix("[").removesuffix("]")
    return tuple(_item(part, text) for part in inside.split(",") if part.strip() or inside.strip())


def _item(part: str, text: str) -> int | slice | EllipsisType:
    match = _ITEM.fullmatch(part)
    if match is None or part.strip() == "-":
        raise ArgumentError("this is no slice", expected="for example [0], [:10] or [..., 2:5]", got=text[:80])
    if match["dots"]:
        return Ellipsis
    if match["int"]:
        return int(match["int"])
    bounds = [bound.strip() for bound in match["slice"].split(":")]
    if "-" in bounds:
        raise ArgumentError("this is no slice", expected="for example [0], [:10] or [..., 2:5]", got=text[:80])
    return slice(*(int(bound) if bound else None for bound in bounds))


def select(index: Index, offset: int, shape: Sequence[int], stride: Sequence[int]) -> View:
    """Return the part of a tensor that an index names.

    Raises
    ------
    ArgumentError
        If the index has too many dimensions or lies outside.
    """
    items = list(index)
    if items.count(Ellipsis) > 1:
        raise ArgumentError("a slice has one '...' at most")
    free = len(shape) - sum(item is not Ellipsis for item in items)
    if free < 0:
        raise OutOfRangeError(
            "the slice has more dimensions than the tensor", expected=str(len(shape)), got=str(len(shape) - free)
        )
    at = items.index(Ellipsis) if Ellipsis in items else len(items)
    full: list[int | slice | EllipsisType] = [*items[:at], *[slice(None)] * free, *items[at + 1 :]]
    new_shape, new_stride, picked = [], [], []
    for number, (item, length, step) in enumerate(zip(full, shape, stride, strict=True)):
        if isinstance(item, slice):
            chosen = _range(item, length)
            new_shape.append(len(chosen))
            new_stride.append(step * chosen.step)
        else:
            chosen = _single(item, length, number)
        picked.append(chosen)
        offset += step * chosen.start if chosen else 0
    return View(offset, tuple(new_shape), tuple(new_stride), tuple(picked))


def _range(item: slice, length: int) -> range:
    if item.step == 0:
        raise ArgumentError("the step of a slice is not 0")
    return range(*item.indices(length))


def _single(item: object, length: int, number: int) -> range:
    if not isinstance(item, int) or not -length <= item < length:
        raise OutOfRangeError(f"the index is outside of dimension {number}", expected=f"below {length}", got=str(item))
    at = item % length
    return range(at, at + 1)
