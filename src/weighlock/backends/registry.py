"""The frameworks by name. A framework is imported only when it is asked for by its name."""

from typing import Any

from weighlock.errors import ArgumentError, MissingDependencyError
from weighlock.tensors.choice import Choice
from weighlock.tensors.leaves import Leaves

__all__ = ["FRAMEWORKS", "check", "leaves_for"]

FRAMEWORKS = ("numpy", "torch")


def check(framework: str) -> None:
    """Refuse a name that is no framework; `ArgumentError`.

    Raises
    ------
    ArgumentError
        If there is no such framework.
    MissingDependencyError
        If it is not installed.
    """
    if framework not in FRAMEWORKS:
        known = " or ".join(repr(name) for name in FRAMEWORKS)
        raise ArgumentError("an unknown framework", expected=known, got=repr(framework))
    if framework == "torch":
        try:
            from weighlock.backends import torch_backend as _  # noqa: F401 - to learn whether it can be imported
        except ImportError as error:
            raise MissingDependencyError(
                "PyTorch is not installed", hint="Install it, or leave framework='torch' out to get NumPy arrays."
            ) from error


def leaves_for(framework: str, choice: Choice | None = None, **options: Any) -> Leaves:
    """Return what builds the leaves of one reading in this framework: all of them, or as a choice says."""
    check(framework)
    if framework == "torch":
        if choice is not None:
            from weighlock.backends.torch_chosen import ChosenTorchLeaves

            return ChosenTorchLeaves(choice=choice, **options)
        from weighlock.backends.torch_backend import TorchLeaves

        return TorchLeaves(**options)
    if choice is not None:
        from weighlock.backends.numpy_chosen import ChosenNumpyLeaves

        return ChosenNumpyLeaves(choice=choice, **options)
    from weighlock.backends.numpy_backend import NumpyLeaves

    return NumpyLeaves(**options)
