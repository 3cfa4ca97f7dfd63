"""The standard pickle: ``weights_only=False``, and saving any object. The only module that imports it.

**A pickle run here can do anything that the user can.** It is reached by that argument alone: never as a fallback,
never proposed by a message. PyTorch's globals are taken from the closed table all the same, so that tensors become
what the framework asks for and PyTorch need not be installed; every other global is really imported.
"""

import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

from weighlock.errors import ArgumentTypeError, PickleStreamError, WeighlockError
from weighlock.pickling.inert import GlobalRef

__all__ = ["PICKLE", "pickler_class", "trusted_loader"]

PICKLE = pickle
"""The standard module: the default of `torch.save`'s parameter `pickle_module`."""


def pickler_class(pickle_module: Any = None) -> Any:
    """Return the class that writes pickles: of `pickle_module`, or Python's own. Writing runs nothing from a file."""
    return (pickle if pickle_module is None else pickle_module).Pickler


def trusted_loader(
    pickle_module: Any, options: dict[str, Any], *, native: bool = False
) -> Callable[..., tuple[Any, int]]:
    """Return the function that runs a pickle with the standard machine, or with that of `pickle_module`.

    Parameters
    ----------
    pickle_module : module or None
        Anything with an `Unpickler` class, such as dill.
    options : dict
        Passed on to its `Unpickler` (`encoding`, `errors`, `fix_imports`).
    native : bool
        Whether the framework is PyTorch itself: its names mean what they mean to Python.
    """
    base = getattr(pickle if pickle_module is None else pickle_module, "Unpickler", None)
    if not isinstance(base, type):
        raise ArgumentTypeError("pickle_module must have a class Unpickler", got=repr(pickle_module)[:60])
    return partial(_run_native if native else _run, base, {"encoding": "utf-8", **options})


# Reason for the parameter count: what `Reading.unpickle` hands to whatever runs the pickle.
def _run(
    base: type, options: dict[str, Any], data: bytes, start: int, persistent_load: Any, reading: Any, table: Any
) -> tuple[Any, int]:
    class TrustedUnpickler(base):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            if module == "torch" or module.startswith(("torch.", "__torch__")):
                found = table.find(module, name)
                if not isinstance(found, GlobalRef):
                    call = table.calls.get(id(found))
                    return found if call is None else _Callable(found, call, reading.leaves)
            return super().find_class(module, name)

        def persistent_load(self, pid: Any) -> Any:
            if persistent_load is None:
                raise PickleStreamError("a persistent id in a pickle that has no storages beside it")
            return persistent_load(_unwrapped(pid))

    stream = io.BytesIO(data)
    stream.seek(start)
    try:
        made = TrustedUnpickler(stream, **options).load()
    except WeighlockError:
        raise
    except Exception as error:
        hint = None
        if isinstance(error, ImportError | AttributeError):
            hint = "The class is not here. To get at the weights without it: weights_only=True with on_unknown='stub'."
        raise PickleStreamError(f"the pickle failed: {type(error).__name__}: {error}", hint=hint) from error
    return made, stream.tell()


def _unwrapped(pid: Any) -> Any:
    if isinstance(pid, tuple):
        return tuple(part.value if isinstance(part, _Callable) else part for part in pid)
    return pid


# Reason for the parameter count: as for `_run`.
def _run_native(
    base: type, options: dict[str, Any], data: bytes, start: int, persistent_load: Any, reading: Any, table: Any
) -> tuple[Any, int]:
    """Run a pickle in a framework's own world: its real functions make its real objects; errors leave as they are."""
    leaves = reading.leaves

    class NativeUnpickler(base):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            found = leaves.storage_type(name) if type(name) is str and "Storage" in name else None
            if found is not None:
                return found
            return super().find_class("torch._tensor" if module == "torch.tensor" else module, name)

        def persistent_load(self, pid: Any) -> Any:
            if persistent_load is None:
                raise PickleStreamError("a persistent id in a pickle that has no storages beside it")
            return leaves.exposed(persistent_load(leaves.known_pid(pid)))

    stream = io.BytesIO(data)
    stream.seek(start)
    try:
        return NativeUnpickler(stream, **options).load(), stream.tell()
    except Exception as error:
        leaves.raised = error
        raise


class _Callable:
    """A row of the closed table in the form that the standard machine calls."""

    def __init__(self, value: Any, call: Callable[..., Any], context: Any) -> None:
        self.value = value
        self._call = call
        self._context = context

    def __call__(self, *args: Any) -> Any:
        args = tuple(arg.value if isinstance(arg, _Callable) else arg for arg in args)
        return self._call(self._context, args)
