"""Classes and functions that the user named: the only ones of a file's globals that are ever really called.

The registry is process-wide, as PyTorch's is; `safe_globals` names them for a block. Each reading takes a snapshot,
so that a change in another thread does not reach into a running load.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import BuiltinMethodType, MethodType
from typing import Any, Final

from weighlock.errors import ArgumentError, ArgumentTypeError, PickleStreamError, WeighlockError

__all__ = ["UserGlobals", "add_safe_globals", "clear_safe_globals", "get_safe_globals", "safe_globals", "snapshot"]

Named = Any | tuple[Any, str]

# Never built, even when named: the modules through which every exploit so far reached the system.
BLOCKED_MODULES: Final = frozenset({"os", "nt", "posix", "sys"})

_lock: Final = threading.Lock()
_named: dict[str, list[Named]] = {}


# The type of a method in C that is told its class is a class below BuiltinMethodType: of `Pattern.match`, and from
# Python 3.12 on of `ZoneInfo._unpickle`.
_BOUND: Final = (MethodType, BuiltinMethodType)


def _nothing() -> None:
    """Do nothing before the user's code runs."""


class UserGlobals:
    """The classes and functions a reading may really call, by full name.

    Parameters
    ----------
    by_name : mapping of str to object
        Full name in the file to the class or function.
    before : callable, optional
        Called before any of them runs: what it may look at must be whole by then.
    """

    def __init__(self, by_name: Mapping[str, Any], before: Callable[[], object] | None = None) -> None:
        self._by_name: Final = dict(by_name)
        self._before: Final = before or _nothing

    # What follows is asked where a file calls one of them, which few do.

    @cached_property
    def _identities(self) -> frozenset[int]:
        return frozenset(map(id, self._by_name.values()))

    @cached_property
    def _methods(self) -> list[Any]:
        return [value for value in self._by_name.values() if issubclass(type(value), _BOUND)]

    @cached_property
    def _types(self) -> tuple[type, ...]:
        return tuple(value for value in self._by_name.values() if isinstance(value, type))

    def find(self, module: str, name: str, *, python2: bool) -> Any:
        """Return what the user named ``module.name``, or None."""
        if not self._by_name or module in BLOCKED_MODULES:
            return None
        found = self._by_name.get(f"{module}.{name}")
        if found is None and python2:
            found = self._by_name.get(".".join(python3_name(module, name)))
        return found

    def allows(self, function: Any) -> bool:
        """Whether this very object was named. A bound method is another object each time it is asked for."""
        if id(function) in self._identities:
            return True
        return issubclass(type(function), _BOUND) and any(function == method for method in self._methods)

    def is_instance(self, value: Any) -> bool:
        """Whether the value was made by a class that was named."""
        return bool(self._types) and isinstance(value, self._types)

    def call(self, function: Any, args: tuple[Any, ...], _: Any) -> Any:
        self._before()
        return _guarded(function, function, *args)

    def new(self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        self._before()
        return _guarded(cls, cls.__new__, cls, *args, **(kwargs or {}))

    def extend(self, target: Any, items: list[Any]) -> None:
        """Append as pickle does: by `extend` where there is one, else item by item."""
        self._before()
        extend = getattr(target, "extend", None)
        if extend is not None:
            _guarded(type(target), extend, items)
            return
        for item in items:
            _guarded(type(target), target.append, item)

    def add(self, target: Any, items: list[Any]) -> None:
        self._before()
        for item in items:
            _guarded(type(target), target.add, item)

    def update(self, target: Any, keys: list[Any], values: list[Any]) -> None:
        self._before()
        for key, value in zip(keys, values, strict=True):
            _guarded(type(target), target.__setitem__, key, value)

    def build(self, target: Any, state: Any) -> None:
        """Set an object's state as pickle does."""
        self._before()
        _guarded(type(target), _set_state, target, state)


def _set_state(target: Any, state: Any) -> None:
    setstate = getattr(target, "__setstate__", None)
    if setstate is not None:
        setstate(state)
        return
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    if state:
        target.__dict__.update(state)
    for name, value in (slots or {}).items():
        setattr(target, name, value)


def _guarded(subject: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run the user's own code; what it raises on data from the file leaves as our error, with its cause."""
    try:
        return function(*args, **kwargs)
    except WeighlockError:
        raise
    except Exception as error:
        name = getattr(subject, "__qualname__", repr(subject))
        raise PickleStreamError(f"{name}, named as safe, raised {type(error).__name__}: {error}") from error


NO_USER_GLOBALS: Final = UserGlobals({})


def python3_name(module: str, name: str) -> tuple[str, str]:
    """Translate a global's name from Python 2 (pickle protocols 0 to 2) to Python 3, as `pickle` does."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    mapped = NAME_MAPPING.get((module, name))
    return mapped if mapped is not None else (IMPORT_MAPPING.get(module, module), name)


def _full_name(item: Named) -> str:
    if isinstance(item, tuple):
        if len(item) != 2:
            what = "a named global must be a class or function, or a pair of it and its full name in the file"
            raise ArgumentError(what, got=f"a tuple of length {len(item)}")
        if not isinstance(item[1], str):
            raise ArgumentTypeError("a global's full name must be text", got=type(item[1]).__name__)
        return item[1]
    try:
        return f"{item.__module__}.{item.__qualname__}"
    except AttributeError:
        raise ArgumentTypeError("only classes and functions can be named as safe", got=type(item).__name__) from None


def add_safe_globals(safe_globals: Iterable[Named]) -> None:
    """Let these classes and functions be really built and called when a file names them.

    Parameters
    ----------
    safe_globals : iterable
        Classes or functions, or pairs ``(class or function, full name in the file)`` where a file names them otherwise
        (after a module was renamed, for example). Calling one runs its code: name only what you trust with any
        arguments.

    Examples
    --------
    >>> from fractions import Fraction
    >>> add_safe_globals([Fraction])
    >>> clear_safe_globals()
    """
    items = {_full_name(item): item for item in safe_globals}
    with _lock:
        for name, item in items.items():
            _named.setdefault(name, []).append(item)


def _remove(items: Iterable[Named]) -> None:
    with _lock:
        for item in items:
            entries = _named.get(_full_name(item), [])
            if item in entries:
                entries.remove(item)
            if not entries:
                _named.pop(_full_name(item), None)


def get_safe_globals() -> list[Named]:
    """Return what `add_safe_globals` was given, in that order and without repeats."""
    with _lock:
        return [entries[-1] for entries in _named.values() if entries]


def clear_safe_globals() -> None:
    """Forget everything that was named."""
    with _lock:
        _named.clear()


@contextmanager
def safe_globals(safe_globals: Iterable[Named]) -> Iterator[None]:
    """Name classes and functions for a block. What was named before the block is still named after it.

    Examples
    --------
    >>> from fractions import Fraction
    >>> with safe_globals([Fraction]):
    ...     len(get_safe_globals())
    1
    >>> get_safe_globals()
    []
    """
    items = list(safe_globals)
    add_safe_globals(items)
    try:
        yield
    finally:
        _remove(items)


def snapshot(also: Mapping[str, Any] | None = None, before: Callable[[], object] | None = None) -> UserGlobals:
    """Return what is named now, for one reading.

    Parameters
    ----------
    also : mapping of str to object
        What was named elsewhere: in the framework's own registry.
    before : callable
        Called before any of them runs.
    """
    if not _named and not also:
        return NO_USER_GLOBALS
    with _lock:
        own = {
            name: entries[-1][0] if isinstance(entries[-1], tuple) else entries[-1]
            for name, entries in _named.items() if entries
        }  # fmt: skip
    return UserGlobals({**(also or {}), **own}, before)
