"""Running a repository's code: the one place of the hub where code is imported that is not ours.

Each commit has a space of its own below `weighlock.hub.spaces`. Its modules are given an `__import__` that finds the
repository's own names in that space first (an import statement, also one inside a function that is called much later,
takes `__import__` from its module's builtins). `sys.path` and `sys.modules` of the program stay as they are.

Repositories that import by text (`importlib.import_module("models.x")`), look into `sys.modules`, or rely on
`sys.path[0]` need plain names. For these there is the compatible way: while their code runs, their names stand in
`sys.modules` and their folder in `sys.path`, and afterwards what was there before is put back.
"""

import builtins
import contextlib
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final

from weighlock.hub.directories import find_store
from weighlock.hub.locks import read_record

__all__ = ["PREFIX", "Space", "install_finder", "open_space", "space_of"]

PREFIX: Final = "weighlock.hub.spaces."
_VARIABLE: Final = "WEIGHLOCK_HUB_SPACES"
"""Tells a process that is started from this one where the spaces of this one are."""

_spaces: Final[dict[str, "Space"]] = {}
_lock: Final = threading.RLock()
"""Held while plain names of a repository stand in `sys.modules`, which all threads share."""

_active: Final[list["Space"]] = []

AFTER_IMPORT: Final[list[Callable[[], None]]] = []
"""Called after each import statement of a repository's code: what is to be seen to once something is imported."""

running_space: Final[ContextVar["Space | None"]] = ContextVar("weighlock hub space whose code runs", default=None)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a space's modules are found.

    Attributes
    ----------
    root : str
    roots : tuple of str
        Further folders that modules are imported from, as `sys.path` entries would be.
    plain : bool
        Whether the repository needs plain names.
    """

    root: str
    roots: tuple[str, ...] = ()
    plain: bool = False


class Space:
    """The modules of one commit.

    Parameters
    ----------
    key : str
        Its name below `weighlock.hub.spaces`.
    place : Place
    """

    def __init__(self, key: str, place: Place) -> None:
        self.key = key
        self.place = place
        self.roots = [place.root, *place.roots]
        self._owned: dict[str, bool] = {}
        self._tops: set[str] | None = None
        self._plain: dict[str, types.ModuleType] = {}
        self._builtins = {**vars(builtins), "__import__": self._import}

    @property
    def name(self) -> str:
        """The name of the space's package."""
        return PREFIX + self.key

    def module(self, name: str) -> types.ModuleType:
        """Import one of the repository's modules."""
        if not self.place.plain:
            return importlib.import_module(f"{self.name}.{name}")
        with self.plain_names():
            return importlib.import_module(name)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let the repository's functions run in the block."""
        token = running_space.set(self)
        try:
            with self.plain_names() if self.place.plain else contextlib.nullcontext():
                yield
        finally:
            running_space.reset(token)

    def owns(self, top: str) -> bool:
        """Whether an absolute name is the repository's own, as it would be with its folder first in `sys.path`."""
        found = self._owned.get(top)
        if found is None:
            found = self._owned[top] = self._look_for(top)
        return found

    def _candidates(self) -> set[str]:
        """Return the first part of every name that stands in the roots: most names are settled by this."""
        if self._tops is None:
            found = [os.listdir(root) for root in self.roots if os.path.isdir(root)]
            self._tops = {name.partition(".")[0] for names in found for name in names}
        return self._tops

    def _look_for(self, top: str) -> bool:
        if top not in self._candidates():
            return False
        if top in sys.stdlib_module_names and (top in sys.modules or top in sys.builtin_module_names):
            return False
        spec = importlib.machinery.PathFinder.find_spec(top, self.roots)
        if spec is None:
            return False
        if spec.origin is not None:
            return True
        # A folder without __init__.py: any installed module of that name comes before it.
        with contextlib.suppress(ImportError, ValueError):
            return importlib.util.find_spec(top) is None
        return True

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
    ) -> Any:
        """Do what an import statement in the repository's code asks for; the parameters are those of `__import__`."""
        if not self.place.plain:
            self._take_paths()
        try:
            if level == 0 and self.owns(name.partition(".")[0]):
                return self._import_own(name, globals, locals, fromlist)
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        finally:
            for call in AFTER_IMPORT:
                call()

    def _import_own(self, name: str, globals: Any, locals: Any, fromlist: Sequence[str] | None) -> Any:
        if self.place.plain:
            with self.plain_names():
                return builtins.__import__(name, globals, locals, fromlist or (), 0)
        full = f"{self.name}.{name}"
        if fromlist:
            return builtins.__import__(full, globals, locals, fromlist, 0)
        importlib.import_module(full)
        return sys.modules[f"{self.name}.{name.partition('.')[0]}"]

    def _take_paths(self) -> None:
        """Take what the repository has put into `sys.path` of its own folders out again, and look there ourselves."""
        for entry in [entry for entry in sys.path if self._is_inside(entry)]:
            sys.path.remove(entry)
            path = entry if os.path.isabs(entry) else os.path.join(self.place.root, entry)
            if path not in self.roots:
                self._add_root(path)

    def _add_root(self, path: str) -> None:
        self.roots.append(path)
        self._owned.clear()
        self._tops = None

    def _is_inside(self, entry: Any) -> bool:
        if not isinstance(entry, str) or not entry:
            return False
        if os.path.isabs(entry):
            return os.path.normpath(entry).startswith(self.place.root + os.sep) or entry == self.place.root
        inside = os.path.join(self.place.root, entry)
        return not os.path.exists(entry) and os.path.isdir(inside)

    @contextlib.contextmanager
    def plain_names(self) -> Iterator[None]:
        """Let the repository's modules stand in `sys.modules` under their plain names while the block runs."""
        with _lock:
            if _active and _active[-1] is self:
                yield
                return
            before = {name: module for name, module in sys.modules.items() if self.owns(name.partition(".")[0])}
            for name in before:
                del sys.modules[name]
            sys.modules.update(self._plain)
            path = list(sys.path)
            if self.place.plain:
                sys.path[:0] = self.roots
            _active.append(self)
            try:
                yield
            finally:
                _active.pop()
                self._leave(before, path)

    def _leave(self, before: dict[str, types.ModuleType], path: list[str]) -> None:
        for entry in [entry for entry in sys.path if entry not in path and self._is_inside(entry)]:
            sys.path.remove(entry)
            if entry not in self.roots:
                self._add_root(entry)
        mine = {name: module for name, module in sys.modules.items() if self.owns(name.partition(".")[0])}
        self._plain = {**self._plain, **mine}
        for name in mine:
            del sys.modules[name]
        sys.modules.update(before)

    def find(self, fullname: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
        """Find one of the repository's modules by its full name, in the space or plain."""
        inside = fullname.startswith(self.name + ".")
        if inside and self.place.plain:
            return self._alias(fullname, fullname[len(self.name) + 1 :])
        if not inside and not self.place.plain:
            return self._alias(fullname, f"{self.name}.{fullname}")
        top = "." not in (fullname[len(self.name) + 1 :] if inside else fullname)
        spec = importlib.machinery.PathFinder.find_spec(fullname, self.roots if top else path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path, self)
        return spec

    def _alias(self, fullname: str, real: str) -> importlib.machinery.ModuleSpec | None:
        """Let a name mean a module that stands under another one."""
        try:
            if self.place.plain:
                with self.plain_names():
                    module = importlib.import_module(real)
            else:
                module = importlib.import_module(real)
        except ModuleNotFoundError as error:
            if error.name == real:
                return None
            raise
        return importlib.machinery.ModuleSpec(fullname, _AliasLoader(module), is_package=hasattr(module, "__path__"))

    def prepared(self, module: types.ModuleType) -> None:
        """Give a module the space's builtins before its code runs."""
        module.__dict__["__builtins__"] = self._builtins

    def finished(self, module: types.ModuleType) -> None:
        """Make what a plain module defines known under its name in the space, so that it can be pickled."""
        if not self.place.plain:
            return
        full = f"{self.name}.{module.__name__}"
        sys.modules[full] = module
        _rename(vars(module), module.__name__, full)

    def forget(self) -> None:
        """Drop every module of the space; the next import runs their code anew."""
        self._plain.clear()
        self._owned.clear()
        self._tops = None
        for name in [name for name in sys.modules if name == self.name or name.startswith(self.name + ".")]:
            del sys.modules[name]

    def changed(self) -> bool:
        """Whether a file of a module that is loaded is another one than it was."""
        loaded = [module for name, module in sys.modules.items() if name.startswith(self.name + ".")]
        return any(_stamp(module) != vars(module).get("__weighlock_stamp__") for module in loaded)


def _stamp(module: types.ModuleType) -> tuple[int, int] | None:
    path = getattr(module, "__file__", None)
    if not path or "__weighlock_stamp__" not in vars(module):
        return vars(module).get("__weighlock_stamp__")
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _rename(names: dict[str, Any], old: str, new: str) -> None:
    for value in list(names.values()):
        if isinstance(value, type | types.FunctionType) and getattr(value, "__module__", None) == old:
            with contextlib.suppress(AttributeError, TypeError):
                value.__module__ = new
            if isinstance(value, type):
                _rename(dict(vars(value)), old, new)


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a module of a repository with its space's builtins."""

    def __init__(self, fullname: str, path: str, space: Space) -> None:
        super().__init__(fullname, path)
        self._space = space

    def exec_module(self, module: types.ModuleType) -> None:
        self._space.prepared(module)
        module.__dict__["__weighlock_stamp__"] = (0, 0)
        module.__dict__["__weighlock_stamp__"] = _stamp(module)
        super().exec_module(module)
        self._space.finished(module)


class _AliasLoader(importlib.abc.Loader):
    """Gives a module that is loaded already."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: Any) -> types.ModuleType:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec


class _Package(importlib.abc.Loader):
    """Loads the package of a space, which has no code."""

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: the package is empty."""


class _Finder:
    """Finds spaces, their modules, and the plain names of the space that is active."""

    @staticmethod
    def find_spec(
        fullname: str,
        path: Sequence[str] | None = None,
        target: Any = None,  # noqa: ARG004 - Python passes it
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.startswith(PREFIX):
            key, _, inner = fullname[len(PREFIX) :].partition(".")
            space = _spaces.get(key) or _recalled(key)
            if space is None:
                return None
            if inner:
                return space.find(fullname, path)
            spec = importlib.machinery.ModuleSpec(fullname, _Package(), is_package=True)
            spec.submodule_search_locations = [space.place.root]
            return spec
        if _active and _active[-1].owns(fullname.partition(".")[0]):
            return _active[-1].find(fullname, path)
        return None


def install_finder() -> None:
    """Let Python find spaces; once."""
    if not any(finder is _Finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder)


def space_of(key: str) -> Space | None:
    """Return a space that is open in this process."""
    return _spaces.get(key)


def open_space(key: str, place: Place) -> Space:
    """Return the space of a key; one whose files have changed is begun anew.

    Parameters
    ----------
    key : str
    place : Place
    """
    with _lock:
        space = _spaces.get(key)
        if space is not None and space.place == place and not space.changed():
            return space
        if space is not None:
            space.forget()
        space = _spaces[key] = Space(key, dataclasses.replace(place, root=os.path.normpath(place.root)))
        importlib.import_module("weighlock.hub.spaces")
        _tell_children(space)
        return space


def _tell_children(space: Space) -> None:
    """Put a space where a process that is started from this one finds it: its environment."""
    known = _told()
    known[space.key] = [space.place.root, list(space.place.roots), space.place.plain]
    os.environ[_VARIABLE] = json.dumps(known, separators=(",", ":"))


def _told() -> dict[str, Any]:
    try:
        known = json.loads(os.environ.get(_VARIABLE, "{}"))
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def _recalled(key: str) -> Space | None:
    """Find a space that another process opened: the one that started this one, or any that used the same store."""
    told = _told().get(key)
    if told is None:
        record = read_record(find_store().path("spaces", key + ".json"))
        told = [record["root"], record.get("roots", []), record.get("plain", False)] if record else None
    if told is None or not os.path.isdir(told[0]):
        return None
    with _lock:
        return _spaces.setdefault(key, Space(key, Place(told[0], tuple(told[1]), bool(told[2]))))
