"""``weights_only=False``: the standard pickle, for files the user trusts. The only module that runs it.

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

__all__ = ["trusted_loader"]


def trusted_loader(pickle_module: Any, options: dict[str, Any]) -> Callable[..., tuple[Any, int]]:
    """Return the function that runs a pickle with the standard machine, or with that of `pickle_module`.

    Parameters
    ----------
    pickle_module : module or None
        Anything with an `Unpickler` class, such as dill.
    options : dict
        Passed on to its `Unpickler` (`encoding`, `errors`, `fix_imports`).
    """
    base = getattr(pickle if pickle_module is None else pickle_module, "Unpickler", None)
    if not isinstance(base, type):
        raise ArgumentTypeError("pickle_module must have a class Unpickler", got=repr(pickle_module)[:60])
    return partial(_run, base, {"encoding": "utf-8", **options})


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


class _Callable:
    """A row of the closed table in the form that the standard machine calls."""

    def __init__(self, value: Any, call: Callable[..., Any], context: Any) -> None:
        self.value = value
        self._call = call
        self._context = context

    def __call__(self, *args: Any) -> Any:
        args = tuple(arg.value if isinstance(arg, _Callable) else arg for arg in args)
        return self._call(self._context, args)
