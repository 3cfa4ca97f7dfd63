"""What a request asks for: its parameters checked and bounded, before any work begins."""

import json
import math
from collections.abc import Mapping
from typing import Any

from weighlock.errors import ArgumentError
from weighlock.viewer.bounds import DEFAULT_ROWS, MOST_ROWS
from weighlock.viewer.failures import NoSuchThingError

__all__ = ["Query"]

_DIGITS = 15


class Query:
    """The parameters of one request.

    Parameters
    ----------
    given : mapping of str to str
        From the query.
    places : mapping of str to str
        From the path: the number of a file, of a tensor.
    """

    def __init__(self, given: Mapping[str, str], places: Mapping[str, Any] | None = None) -> None:
        self._given = given
        self._places = places or {}

    def number_in_path(self, name: str) -> int:
        """Return a number of the path."""
        text = str(self._places.get(name, ""))
        if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
            raise NoSuchThingError(f"a {name} has a number", got=text[:40])
        return int(text)

    def text(self, name: str, default: str = "", *, most: int = 100) -> str:
        """Return a parameter as it is."""
        found = self._given.get(name, default)
        if len(found) > most:
            raise ArgumentError(f"{name} is too long", expected=f"at most {most} characters", got=str(len(found)))
        return found

    def number(self, name: str, default: int = 0, *, least: int = 0, most: int = 10**_DIGITS) -> int:
        """Return a whole number; one above `most` is an error, so that nobody mistakes a part for the whole."""
        text = self._given.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS) or not least <= int(text) <= most:
            raise ArgumentError(f"{name} is a whole number", expected=f"from {least} to {most}", got=text[:40])
        return int(text)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a parameter that is 0 or 1."""
        return bool(self.number(name, int(default), most=1))

    def choice(self, name: str, *choices: str) -> str:
        """Return one of some words, the first by default."""
        found = self._given.get(name) or choices[0]
        if found not in choices:
            raise ArgumentError(f"{name} is one of {', '.join(choices)}", got=found[:40])
        return found

    def page(self, most: int = MOST_ROWS) -> tuple[int, int]:
        """Return the offset and the length of a page of rows."""
        return self.number("offset"), self.number("limit", min(DEFAULT_ROWS, most), least=1, most=most)

    def decimal(self, name: str, default: float = 0.0) -> float:
        """Return a number that is finite and not negative."""
        text = self._given.get(name, "")
        try:
            found = float(text) if text else default
        except ValueError:
            found = -1.0
        if not (math.isfinite(found) and found >= 0):
            raise ArgumentError(f"{name} is a number, not negative", got=text[:40])
        return found

    def path(self, name: str = "path") -> list[str]:
        """Return names that lead to a node: a JSON array of text."""
        found = self._array(name)
        if not all(isinstance(part, str) for part in found):
            raise ArgumentError(f"{name} is a JSON array of texts", got=self.text(name, most=8192)[:80])
        return found

    def indices(self, name: str = "at") -> tuple[int, ...]:
        """Return leading indices: a JSON array of whole numbers."""
        found = self._array(name)
        if not all(type(part) is int and part >= 0 for part in found):
            raise ArgumentError(f"{name} is a JSON array of indices", got=self.text(name, most=8192)[:80])
        return tuple(found)

    def _array(self, name: str) -> list[Any]:
        text = self._given.get(name) or "[]"
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or len(found) > 1000:
            raise ArgumentError(f"{name} is a JSON array", got=text[:80])
        return found

    def stretch(self, name: str, length: int) -> range:
        """Return a range ``A:B`` of a dimension, cut at its end; all of it by default."""
        text = self._given.get(name, "")
        low, colon, high = text.partition(":")
        numbers = [part for part in (low, high) if part]
        if (text and not colon) or not all(p.isascii() and p.isdigit() and len(p) <= _DIGITS for p in numbers):
            raise ArgumentError(f"{name} is a range such as 0:100", got=text[:40])
        begin, end = int(low or 0), int(high) if high else length
        if begin > end:
            raise ArgumentError(f"{name} is a range such as 0:100", got=text[:40])
        return range(min(begin, length), min(end, length))
