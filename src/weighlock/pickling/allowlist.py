"""The closed table of globals that a pickle may name, and what stands for them.

The machine asks three questions, all answered here: what does this name stand for (`find`), how is it called
(`calls`, `news`), and how is an object's state set (`builds`). Calls are found by the identity of the value on the
stack, so that no value from the file is ever hashed, compared or called to find out.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from weighlock.pickling.inert import GlobalRef

__all__ = ["Allowlist", "Known"]

Call = Callable[[Any, tuple[Any, ...]], Any]
Build = Callable[[Any, Any, Any], Any]


class Known(NamedTuple):
    """What one known global stands for.

    `value` is pushed on the stack where the pickle names it. `call(context, args)` makes an object of it, or is None
    where it is no callable. `build(context, object, state)` sets the state of an object whose exact type is in
    `types`, and returns the object.
    """

    value: Any
    call: Call | None = None
    build: Build | None = None
    types: tuple[type, ...] = ()


# Rows are made when a file first names them, so that a checkpoint without dates never imports datetime.
class Rows(Protocol):
    """What finds the row of a global: a dictionary, or anything with its `get`."""

    def get(self, key: tuple[str, str], /) -> Callable[[], Known] | None:
        """Return what makes the row of (module, name), or None."""


class Allowlist:
    """The globals known to one framework.

    Filled on demand from its tables, never shrunk; safe to share between threads: two that resolve one name at once
    store equal entries.

    Parameters
    ----------
    *tables : mapping of (module, name) to a function returning `Known`
        Searched in order.
    idiom_function : object
        The value whose calls the machine may take in one step where they are spelled as in `idiom`.
    """

    def __init__(self, *tables: Rows, idiom_function: Any = None) -> None:
        self.tables: Final = tables
        self.idiom_function: Final = object() if idiom_function is None else idiom_function
        self.values: dict[tuple[str, str], Any] = {}
        self.calls: dict[int, Call] = {}
        self.builds: dict[type, Build] = {}
        self._kept: list[Any] = []  # identities stay valid only while their objects live

    def extended(self, rows: Rows) -> "Allowlist":
        """Return this table with another one searched before it."""
        return type(self)(rows, *self.tables, idiom_function=self.idiom_function)

    def find(self, module: str, name: str) -> Any:
        """Return what ``module.name`` stands for, or a new `GlobalRef` where it is unknown."""
        key = module, name
        if key in self.values:
            return self.values[key]
        for table in self.tables:
            row = table.get(key)
            if row is not None:
                return self._admit(key, row())
        return GlobalRef(module, name)

    def _admit(self, key: tuple[str, str], known: Known) -> Any:
        self._kept.append(known)
        if known.call is not None:
            self.calls[id(known.value)] = known.call
        if known.build is not None:
            for kind in known.types:
                self.builds[kind] = known.build
        return self.values.setdefault(key, known.value)
