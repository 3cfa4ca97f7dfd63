"""What stands in the object tree for a global that is not built: a name, and a description of what was made of it."""

from collections.abc import Iterator
from typing import Any

from weighlock.text import safe_text

__all__ = ["Described", "GlobalRef", "ScriptClass", "Stub", "repr_shallow"]


class GlobalRef:
    """A class or function that a pickle names and that was neither imported nor built.

    Attributes
    ----------
    module, name : str
        As the pickle has them (Python 2 names are not translated).
    """

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    @property
    def full_name(self) -> str:
        """``module.name``, as PyTorch's messages write it."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<global {safe_text(self.full_name)}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GlobalRef) and (self.module, self.name) == (other.module, other.name)

    def __hash__(self) -> int:
        return hash((self.module, self.name))


class Described(GlobalRef):
    """A class that is known to be harmless data, but that Python alone cannot build: its objects stay stubs."""

    __slots__ = ()


class ScriptClass(Described):
    """A class of a TorchScript program, with the names of its parameters and buffers in the program's order.

    `listed` is False where the program's text does not say (or is not there).
    """

    __slots__ = ("buffers", "listed", "parameters")

    def __init__(self, module: str, name: str, members: tuple[tuple[str, ...], tuple[str, ...]] | None) -> None:
        super().__init__(module, name)
        self.listed = members is not None
        self.parameters, self.buffers = members or ((), ())


class Stub:
    """An object of a class that was not built: everything the pickle says of it, and nothing run.

    Attributes
    ----------
    module, name : str
        The class or function that the pickle would have called.
    args : tuple
        The positional arguments of that call.
    kwargs : dict
        Its keyword arguments.
    state : object
        What the object's `__setstate__` would have been given; usually its `__dict__`. None if there is none.
    items : list
        What would have been appended, for classes derived from list, deque or set.
    how : str
        ``"newobj"`` where an instance would have been made without its `__init__`, ``"reduce"`` where the class or
        function would have been called.
    entries : list of (key, value)
        What would have been set by key, for classes derived from dict, in the file's order.

    Examples
    --------
    >>> stub = Stub(GlobalRef("mypackage.models", "Net"), (3,))
    >>> stub
    <stub mypackage.models.Net(3)>
    """

    __slots__ = ("__weakref__", "args", "entries", "global_ref", "how", "items", "kwargs", "state")

    def __init__(
        self,
        global_ref: GlobalRef,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        how: str = "newobj",
    ) -> None:
        self.how = how
        self.global_ref = global_ref
        self.args = args
        self.kwargs = kwargs or {}
        self.state: Any = None
        self.items: list[Any] = []
        self.entries: list[tuple[Any, Any]] = []

    @property
    def module(self) -> str:
        """The module that the pickle names."""
        return self.global_ref.module

    @property
    def name(self) -> str:
        """The class or function that the pickle names."""
        return self.global_ref.name

    def attributes(self) -> dict[str, Any]:
        """Return the object's attributes where its state is a `__dict__`, or a pair of `__dict__` and slots."""
        found: dict[str, Any] = {}
        parts = self.state if isinstance(self.state, tuple) and len(self.state) == 2 else (self.state,)
        for part in parts:
            if isinstance(part, dict):
                found.update({key: value for key, value in part.items() if isinstance(key, str)})
        return found

    def children(self) -> Iterator[tuple[Any, Any]]:
        """Yield the path element and the value of all that the stub holds."""
        yield from enumerate(self.args)
        yield from self.kwargs.items()
        if self.state is not None:
            attributes = self.attributes()
            if attributes:
                yield from attributes.items()
            else:
                yield "__state__", self.state
        yield from enumerate(self.items)
        yield from self.entries

    def __repr__(self) -> str:
        shown = [safe_text(repr_shallow(arg), limit=40) for arg in self.args[:4]]
        if len(self.args) > 4:
            shown.append("...")
        text = f"<stub {safe_text(self.global_ref.full_name)}({', '.join(shown)})"
        attributes = self.attributes()
        if attributes:
            names = [safe_text(name, limit=40) for name in list(attributes)[:8]]
            text += f" with {', '.join(names)}" + (", ..." if len(attributes) > 8 else "")
        if self.items or self.entries:
            text += f" holding {len(self.items) + len(self.entries)} items"
        return text + ">"


def repr_shallow(value: object) -> str:
    """Return a short description that never descends: trees from a file may be a million levels deep, or cyclic."""
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "<big integer>"
    if isinstance(value, str | bytes):
        return repr(value[:60]) + ("..." if len(value) > 60 else "")
    if isinstance(value, Stub):
        return f"<stub {value.global_ref.full_name}>"
    if isinstance(value, GlobalRef):
        return repr(value)
    if isinstance(value, list | tuple | dict | set | frozenset):
        return f"<{type(value).__name__} of {len(value)}>"
    return f"<{type(value).__name__}>"
