"""Running a repository's code: the one place of the hub where code is imported that is not ours.

Each commit has a space of its own below `weighlock.hub.spaces`. Its modules are given an `__import__` that finds the
repository's own names in that space first (an import statement, also one inside a function that is called much later,
takes `__import__` from its module's builtins), and an `importlib` whose `import_module` does the same. `sys.path` and
`sys.modules` of the program stay as they are.

Repositories that give their own names to others (`importlib.resources.files("models")`), look into `sys.modules`, or
rely on `sys.path[0]` need plain names. For these there is the compatible way: while their code runs, their names stand
in `sys.modules` and their folder in `sys.path`, and afterwards what was there before is put back.
"""

import builtins
import contextlib
import dataclasses
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final

from weighlock.hub import children
from weighlock.hub.threads import carrying

__all__ = ["PREFIX", "Space", "install_finder", "open_space", "space_of"]

PREFIX: Final = "weighlock.hub.spaces."
_spaces: Final[dict[str, "Space"]] = {}
_lock: Final = threading.RLock()

_turns: Final[list["_Turn"]] = []
"""Whose plain names stand in `sys.modules`, which all threads share: the last one's."""
_turn_over: Final = threading.Condition()
_counting: Final = threading.Lock()

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
        self._given: set[str] = set()
        self._running = 0
        self._builtins = {**vars(builtins), "__import__": self._import}
        self._importlib = _Importlib(self)

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
        with _counting:
            self._running += 1
            if self._running == 1:  # what stands there now, the program has put there
                self._given = {entry for entry in sys.path if self._is_inside(entry)}
        try:
            with carrying(running_space), self._names_in_turn():
                yield
        finally:
            running_space.reset(token)
            with _counting:
                self._running -= 1
                if not self.place.plain:
                    self._take_paths()

    def _names_in_turn(self) -> contextlib.AbstractContextManager[None]:
        return self.plain_names(alone=True) if self.place.plain else contextlib.nullcontext()

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
        # A folder without __init__.py: an installed module of that name comes before it, as in a fresh process. What
        # the program has beside itself does not.
        return not _is_installed(top)

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
    ) -> Any:
        """Do what an import statement in the repository's code asks for; the parameters are those of `__import__`."""
        if not self.place.plain:
            self._take_paths()
        try:
            if level == 0 and self.owns(name.partition(".")[0]):
                return self._import_own(name, globals, locals, fromlist)
            module = builtins.__import__(name, globals, locals, fromlist or (), level)
            return self._importlib if module is importlib and "*" not in (fromlist or ()) else module
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

    def import_by_text(self, name: str, package: str | None = None) -> types.ModuleType:
        """Do what `importlib.import_module` does, for the repository's code."""
        if name.startswith(".") or not self.owns(name.partition(".")[0]):
            return importlib.import_module(name, package)
        return self.module(name)

    def _take_paths(self) -> None:
        """Take what the repository has put into `sys.path` of its own folders out again, and look there ourselves."""
        for entry in [entry for entry in sys.path if entry not in self._given and self._is_inside(entry)]:
            with contextlib.suppress(ValueError):  # another thread was faster
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
    def plain_names(self, *, alone: bool = False) -> Iterator[None]:
        """Let the repository's modules stand in `sys.modules` under their plain names while the block runs.

        Parameters
        ----------
        alone : bool
            Wait until no other thread needs them: for what may load other repositories. An import statement joins in,
            or a thread would wait for an entry point that waits for it.
        """
        turn = self._begin(alone=alone)
        try:
            yield
        finally:
            self._end(turn)

    def _begin(self, *, alone: bool) -> "_Turn":
        me = threading.get_ident()
        with _turn_over:
            _turn_over.wait_for(lambda: not _turns or _turns[-1].lets_in(self, me, alone=alone))
            if not _turns or _turns[-1].space is not self:
                before = {
                    name: module for name, module in sys.modules.copy().items() if self.owns(name.partition(".")[0])
                }
                _turns.append(_Turn(self, me, before, list(sys.path)))
                for name in before:
                    del sys.modules[name]
                sys.modules.update(self._plain)
                if self.place.plain:
                    sys.path[:0] = self.roots
            _turns[-1].users.append(me)
            return _turns[-1]

    def _end(self, turn: "_Turn") -> None:
        with _turn_over:
            turn.users.remove(threading.get_ident())
            if not turn.users:
                _turn_over.wait_for(lambda: _turns[-1] is turn)
                _turns.pop()
                self._leave(turn)
            _turn_over.notify_all()

    def _leave(self, turn: "_Turn") -> None:
        given = [(at, entry) for at, entry in enumerate(turn.path) if self._is_inside(entry)]
        for entry in [entry for entry in sys.path if self._is_inside(entry)]:
            if entry not in self.roots and entry not in turn.path:
                self._add_root(entry)
        sys.path[:] = [entry for entry in sys.path if not self._is_inside(entry)]
        for at, entry in given:
            sys.path.insert(at, entry)
        mine = {name: module for name, module in sys.modules.copy().items() if self.owns(name.partition(".")[0])}
        self._plain = {**self._plain, **mine}
        for name in mine:
            del sys.modules[name]
        sys.modules.update(turn.modules)

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
        # A plain module has made itself known under this name; importlib would take that for a whole import of its own.
        sys.modules.pop(fullname, None)
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
        for name in [name for name in sys.modules.copy() if name == self.name or name.startswith(self.name + ".")]:
            del sys.modules[name]

    def changed(self) -> bool:
        """Whether a file of a module that is loaded is another one than it was."""
        loaded = [module for name, module in sys.modules.copy().items() if name.startswith(self.name + ".")]
        stamped = [module for module in loaded if "__weighlock_stamp__" in vars(module)]
        return any(_stamp(module) != vars(module)["__weighlock_stamp__"] for module in stamped)


@dataclasses.dataclass(slots=True)
class _Turn:
    """The time in which a space's plain names stand in `sys.modules`.

    Attributes
    ----------
    owner : int
        The thread that began it.
    modules, path
        What stood in `sys.modules` under those names before, and `sys.path`.
    users : list of int
        The threads that need the names; one as often as it asked.
    """

    space: Space
    owner: int
    modules: dict[str, types.ModuleType]
    path: list[str]
    users: list[int] = dataclasses.field(default_factory=list)

    def lets_in(self, space: Space, thread: int, *, alone: bool) -> bool:
        """Whether a thread may have a space's names now: these, or others within its own turn."""
        if self.space is space:
            return thread in self.users or not alone
        return thread in self.users and (thread != self.owner or set(self.users) == {thread})


class _Importlib(types.ModuleType):
    """`importlib`, as a repository's code sees it."""

    def __init__(self, space: Space) -> None:
        super().__init__("importlib", importlib.__doc__)
        self.import_module = space.import_by_text

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)


def _is_installed(top: str) -> bool:
    """Whether a name is a module of Python's own or of its folders of packages."""
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return True
    for finder in sys.meta_path:
        if finder is _Finder or not hasattr(finder, "find_spec"):
            continue
        with contextlib.suppress(Exception):  # finders of others may do anything
            spec = finder.find_spec(top, None)
            if spec is not None:
                return spec.origin is not None and bool(
                    {"site-packages", "dist-packages"} & set(os.path.normpath(spec.origin).split(os.sep))
                )
    return False


def _stamp(module: types.ModuleType) -> tuple[int, int] | None:
    """Return what changes when a module's file does."""
    try:
        found = os.stat(str(getattr(module, "__file__", None)))
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _rename(names: dict[str, Any], old: str, new: str) -> None:
    for value in list(names.values()):
        kind = type(value)
        named = issubclass(kind, type | types.FunctionType) or kind is type(functools.lru_cache(_rename))
        if named and getattr(value, "__module__", None) == old:
            with contextlib.suppress(AttributeError, TypeError):
                line = vars(value).get("__firstlineno__")
                value.__module__ = new
                if line is not None:  # Python 3.13 forgets where a class begins when its module is set
                    value.__firstlineno__ = line
            if isinstance(value, type):
                _rename(dict(vars(value)), old, new)


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a module of a repository with its space's builtins."""

    def __init__(self, fullname: str, path: str, space: Space) -> None:
        super().__init__(fullname, path)
        self._space = space

    def get_code(self, fullname: str) -> Any:
        """Compile the source: bytecode beside it was compared with no commit, and Python would believe it."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: types.ModuleType) -> None:
        self._space.prepared(module)
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
        if _turns and _turns[-1].space.owns(fullname.partition(".")[0]):
            return _turns[-1].space.find(fullname, path)
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
    # Code asks for its own folder by the real path as often as by the one that it was started from.
    roots = tuple(map(os.path.realpath, place.roots))
    place = dataclasses.replace(place, root=os.path.realpath(place.root), roots=roots)
    with _lock:
        space = _spaces.get(key)
        if space is not None and space.place == place and not space.changed():
            return space
        if space is not None:
            space.forget()
        space = _spaces[key] = Space(key, place)
        importlib.import_module("weighlock.hub.spaces")
        install_finder()  # again: who restores an earlier sys.meta_path takes it away
        children.tell(key, space.place.root, space.place.roots, plain=space.place.plain)
        return space


def _recalled(key: str) -> Space | None:
    """Find a space that another process opened: the one that started this one, or any that used the same store."""
    told = children.recall(key)
    if told is None or not os.path.isdir(told[0]):
        return None
    with _lock:
        return _spaces.setdefault(key, Space(key, Place(told[0], tuple(told[1]), bool(told[2]))))
