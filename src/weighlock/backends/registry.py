"""The frameworks by name. A framework is imported only when it is asked for by its name."""

from typing import Any

from weighlock.errors import ArgumentError
from weighlock.tensors.leaves import Leaves

__all__ = ["FRAMEWORKS", "leaves_for"]

FRAMEWORKS = ("numpy",)


def check(framework: str) -> None:
    """Refuse a name that is no framework; `ArgumentError`."""
    if framework not in FRAMEWORKS:
        known = " or ".join(repr(name) for name in FRAMEWORKS)
        raise ArgumentError("an unknown framework", expected=known, got=repr(framework))


def leaves_for(framework: str, **options: Any) -> Leaves:
    """Return what builds the leaves of one reading in this framework."""
    check(framework)
    from weighlock.backends.numpy_backend import NumpyLeaves

    return NumpyLeaves(**options)
