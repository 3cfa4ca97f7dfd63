"""Mappings of names to tensors: drawn from objects, loaded into them, compared, renamed, cast.

Every function that takes a mapping returns a new one with the same tensors in it; `_metadata` comes along.
"""

from weighlock.state_dicts.casting import cast
from weighlock.state_dicts.drawing import state_dict
from weighlock.state_dicts.editing import add_prefix, merge, rename, select, strip_prefix
from weighlock.state_dicts.filling import LoadResult, load_state_dict
from weighlock.state_dicts.finding import find_state_dict
from weighlock.state_dicts.matching import Match, Mismatch, match

__all__ = [
    "LoadResult",
    "Match",
    "Mismatch",
    "add_prefix",
    "cast",
    "find_state_dict",
    "load_state_dict",
    "match",
    "merge",
    "rename",
    "select",
    "state_dict",
    "strip_prefix",
]
