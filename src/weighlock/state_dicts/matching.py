"""Comparing a state_dict with what an object expects: names, shapes and types, and why they differ."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from weighlock.state_dicts.advice import advise, advise_on_shape, shapes_differ, stated_shape
from weighlock.state_dicts.editing import check_mapping
from weighlock.state_dicts.trees import dtype_name, has_own, is_tensor
from weighlock.text import safe_text

__all__ = ["Match", "Mismatch", "match"]

_SHOWN: Final = 10


class Mismatch(NamedTuple):
    """An entry that is not what is expected.

    Attributes
    ----------
    key : str
    expected_shape, found_shape : tuple of int
    expected_dtype, found_dtype : str
    """

    key: str
    expected_shape: tuple[int, ...]
    expected_dtype: str
    found_shape: tuple[int, ...]
    found_dtype: str

    def __str__(self) -> str:
        text = (
            f"{safe_text(self.key)}: expected {self.expected_dtype}{list(self.expected_shape)}, "
            f"got {self.found_dtype}{list(self.found_shape)}"
        )
        why = (
            advise_on_shape(self.expected_shape, self.found_shape) if self.expected_shape != self.found_shape else None
        )
        return f"{text} ({why})" if why else text


class Match:
    """What a comparison found.

    Attributes
    ----------
    matched : list of str
        Keys on both sides whose shapes are equal.
    missing, unexpected : list of str
        Keys that only the expected side, or only the mapping, has.
    mismatched : list of Mismatch
        Keys on both sides whose shapes differ.
    retyped : list of Mismatch
        Keys whose shapes are equal and whose element types differ.
    advice : list of str
        What explains the differences, and what to do.
    """

    def __init__(self, mapping: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        self.expected_count = len(expected)
        self.matched: list[str] = []
        self.mismatched: list[Mismatch] = []
        self.retyped: list[Mismatch] = []
        self.missing = [key for key in expected if key not in mapping]
        self.unexpected = [key for key in mapping if key not in expected]
        for key, wanted in expected.items():
            if key in mapping:
                self._compare(key, wanted, mapping[key])
        self.advice = advise(mapping, expected) if self.missing else []

    def _compare(self, key: str, wanted: Any, found: Any) -> None:
        shapes, differ = (stated_shape(wanted), stated_shape(found)), shapes_differ(wanted, found)
        if not differ:
            self.matched.append(key)
        types = _dtype(wanted), _dtype(found)
        entry = Mismatch(key, shapes[0] or (), types[0], shapes[1] or (), types[1])
        if differ:
            self.mismatched.append(entry)
        elif "" not in types and types[0] != types[1] and None not in shapes:
            self.retyped.append(entry)

    @property
    def ok(self) -> bool:
        """Whether names and shapes are the same on both sides."""
        return not (self.missing or self.unexpected or self.mismatched)

    def lines(self) -> list[str]:
        """Return the differences as lines of text, the first of each kind."""
        found = []
        for label, entries in (
            ("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.mismatched),
            ("of another type", self.retyped),
        ):  # fmt: skip
            if entries:
                more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
                shown = [str(entry) if isinstance(entry, Mismatch) else safe_text(str(entry)) for entry in entries]
                found.append(f"{len(entries)} {label}: {', '.join(shown[:_SHOWN])}{more}")
        return found + self.advice

    def __str__(self) -> str:
        return "\n".join([f"{len(self.matched)} of {self.expected_count} keys match", *self.lines()])

    def __repr__(self) -> str:
        return (
            f"<Match: {len(self.matched)} of {self.expected_count}, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.mismatched)} mismatched>"
        )


def _dtype(value: Any) -> str:
    return dtype_name(value) if is_tensor(value) else ""


def match(mapping: Mapping[str, Any], expected: Any) -> Match:
    """Compare a state_dict with what is expected.

    Parameters
    ----------
    mapping : mapping of str to tensor
    expected : object with state_dict(), or mapping
        A mapping of names to tensors, or to shapes.

    Returns
    -------
    Match
        Printed, it says what differs, why, and what to do.

    Examples
    --------
    >>> print(match({"module.w": numpy.ones(2)}, {"w": (2,)}))  # doctest: +SKIP
    0 of 1 keys match
    1 missing: w
    1 unexpected: module.w
    all 1 keys carry the prefix 'module.': saved from DataParallel or DistributedDataParallel; ...
    """
    check_mapping(mapping)
    if not isinstance(expected, Mapping):
        from weighlock.state_dicts.drawing import state_dict

        expected = expected.state_dict() if has_own(expected) else state_dict(expected)
    return Match(mapping, expected)
