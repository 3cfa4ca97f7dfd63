"""What else a module's text tells: imports, URLs, what happens on import, and whether plain names are needed."""

import ast
import re
import sys
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from weighlock.hub.static.report import Effect, Url
from weighlock.hub.static.scopes import Scope
from weighlock.hub.static.syntax import dotted, is_for_others, run_at_import, text

__all__ = ["effects_of", "packages_of", "plain_names_of", "urls_of"]

_URL: Final = re.compile(r"(https?|ftp|file)://[^\s'\"<>]+\Z")
_FILE: Final = re.compile(r"\.(pth?|pt|ckpt|bin|safetensors|onnx|jit|npz?|zip|tar|gz|tgz|h5|pkl|pickle|th|model|params|"
                          r"tar\.gz|torchscript|yml|yaml|json)\Z", re.IGNORECASE)  # fmt: skip
_HASHED: Final = re.compile(r"-[a-f0-9]{8,64}\.")

_CALLS: Final = {
    "os.system": "starts a process", "os.popen": "starts a process", "subprocess.": "starts a process",
    "os.exec": "starts a process", "pip.": "installs packages", "pip._internal.": "installs packages",
    "setuptools.": "builds code", "distutils.": "builds code", "Cython.": "builds code",
    "torch.utils.cpp_extension.load": "builds code",
    "urllib.request.": "uses the network", "requests.": "uses the network",
    "urllib3.": "uses the network", "wget.": "uses the network", "gdown.": "uses the network",
    "torch.hub.download_url_to_file": "uses the network", "torch.hub.load": "uses the network",
    "huggingface_hub.": "uses the network", "socket.": "uses the network", "os.chdir": "changes the current folder",
    "os.makedirs": "makes folders", "os.mkdir": "makes folders", "os.remove": "removes files",
    "shutil.rmtree": "removes files", "os.environ.update": "changes the environment",
    "os.environ.setdefault": "changes the environment", "os.putenv": "changes the environment",
    "sys.path.": "changes sys.path", "torch.set_default": "changes how PyTorch works",
    "torch.backends.": "changes how PyTorch works", "torch.manual_seed": "changes how PyTorch works",
    "random.seed": "seeds random numbers", "np.random.seed": "seeds random numbers",
    "numpy.random.seed": "seeds random numbers", "print": "prints",
    "exec": "runs text as code", "eval": "runs text as code",
    "sys.exit": "ends the process", "warnings.filterwarnings": "hides warnings",
    "warnings.simplefilter": "hides warnings", "logging.basicConfig": "sets up logging", "open": "opens a file",
    "ctypes.CDLL": "loads native code", "ctypes.cdll.": "loads native code", "ctypes.PyDLL": "loads native code",
    "torch.ops.load_library": "loads native code", "torch.classes.load_library": "loads native code",
    "pickle.load": "unpickles", "pickle.loads": "unpickles", "marshal.loads": "unpickles", "dill.load": "unpickles",
    "joblib.load": "unpickles", "torch.load": "unpickles", "runpy.": "runs text as code",
    "atexit.register": "runs code at the end", "os.spawn": "starts a process", "pty.": "starts a process",
    "check_requirements": "installs packages", "multiprocessing.set_start_method": "changes multiprocessing",
}  # fmt: skip


def urls_of(scope: Scope) -> Iterator[Url]:
    """Give the URLs in a module's text that seem to name a file."""
    for node in scope.nodes:
        value = text(node)
        if value is None or len(value) > 2000 or not _URL.match(value):
            continue
        path = urlsplit(value).path
        if _FILE.search(path) or "/releases/download/" in path or "/resolve/" in path or path.endswith("/download"):
            yield Url(
                value,
                scope.file,
                getattr(node, "lineno", 1),
                value.startswith("https:"),
                bool(_HASHED.search(path.rsplit("/", 1)[-1])),
            )


def packages_of(scope: Scope, optional: bool = False) -> Iterator[tuple[str, bool]]:
    """Give the packages that a module imports, each with whether it does without."""
    yield from _imports(scope, scope.module, optional=optional)


def _imports(scope: Scope, node: ast.AST, *, optional: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield from _package(scope, alias.name, optional=optional)
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            yield from _package(scope, child.module, optional=optional)
        elif isinstance(child, ast.If) and is_for_others(child.test):
            yield from _imports(scope, ast.Module(child.orelse, []), optional=optional)
        elif isinstance(child, ast.Try) and any(_catches_imports(handler) for handler in child.handlers):
            yield from _imports(scope, child, optional=True)
        else:
            yield from _imports(scope, child, optional=optional)


def _package(scope: Scope, name: str, *, optional: bool) -> Iterator[tuple[str, bool]]:
    top = name.partition(".")[0]
    if top not in sys.stdlib_module_names and scope.tree.path_of(top) is None:
        yield top, optional


def _catches_imports(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or any(
        name in ast.unparse(handler.type) for name in ("ImportError", "ModuleNotFoundError", "Exception")
    )


def effects_of(scope: Scope) -> Iterator[Effect]:
    """Give what happens as soon as a module is imported, beside definitions."""
    for node in _at_import(scope):
        if isinstance(node, ast.Call):
            what = _what_call(scope.full_name(node.func))
            if what:
                yield Effect(f"{what}: {scope.full_name(node.func)}", scope.file, node.lineno)
            yield from _what_hidden(scope, node)
        elif isinstance(node, ast.List | ast.Tuple | ast.Dict | ast.Set):
            yield from _what_passed_on(scope, node, list(ast.iter_child_nodes(node)))
        elif isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from _what_assigned(scope, target)


_AT_ONCE: Final = frozenset({"__init_subclass__", "__class_getitem__", "__set_name__", "__prepare__"})


def _at_import(scope: Scope) -> Iterator[ast.AST]:
    """Give what is run when the module is imported: its statements, and the functions of its own that these call."""
    own = {node.name: node for node in scope.module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    waiting = [scope.module.body, *_bodies(list(own.values()))]
    while waiting:
        for node in run_at_import(waiting.pop()):
            yield node
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            found = own.pop(called, None)
            if isinstance(found, ast.FunctionDef):
                waiting.append(found.body)
            elif found is not None:
                waiting += [part.body for part in found.body if isinstance(part, ast.FunctionDef)]


def _bodies(defined: list[Any]) -> Iterator[list[ast.stmt]]:
    """Give the methods that run as soon as a class is made, derived from, or asked for an item."""
    for node in defined:
        if isinstance(node, ast.ClassDef):
            makes_classes = any(dotted(base) == "type" for base in node.bases)
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and (part.name in _AT_ONCE or makes_classes):
                    yield part.body


_LOOKING_UP: Final = ("getattr", "__import__", "importlib.import_module", "vars", "globals", "locals")
_INSIDE: Final = frozenset({"__subclasses__", "__globals__", "__builtins__", "__code__", "__base__", "__mro__"})
_PASSED_ON: Final = ("starts a process", "runs text as code")


def _what_hidden(scope: Scope, call: ast.Call) -> Iterator[Effect]:
    """Give what a call does whose function does not stand there by its name: what nobody can tell from the text."""
    for part in ast.walk(call.func):
        found = scope.full_name(part.func) if isinstance(part, ast.Call) else ""
        if found in _LOOKING_UP:
            yield Effect(f"calls what it looks up by text: {found}", scope.file, call.lineno)
        elif isinstance(part, ast.Subscript) and scope.full_name(part.value) in ("sys.modules", "builtins.__dict__"):
            yield Effect(f"calls what it looks up by text: {ast.unparse(part.value)}", scope.file, call.lineno)
        elif isinstance(part, ast.Attribute) and part.attr in _INSIDE:
            yield Effect(f"reaches into the interpreter: {part.attr}", scope.file, call.lineno)
    yield from _what_passed_on(scope, call, [*call.args, *(word.value for word in call.keywords)])


def _what_passed_on(scope: Scope, node: ast.expr, values: list[Any]) -> Iterator[Effect]:
    for part in values:
        name = scope.full_name(part) if isinstance(part, ast.Name | ast.Attribute) else ""
        what = _what_call(name) if name else None
        if what in _PASSED_ON:
            yield Effect(f"{what}: {name}, which it passes on", scope.file, node.lineno)


def _what_call(name: str) -> str | None:
    if name in _CALLS:
        return _CALLS[name]
    return next((what for start, what in _CALLS.items() if start[-1] in "._" and name.startswith(start)), None) or next(
        (what for start, what in _CALLS.items() if start.startswith(("torch.", "os.exec")) and name.startswith(start)),
        None,
    )


def _what_assigned(scope: Scope, target: Any) -> Iterator[Effect]:
    if isinstance(target, ast.Subscript) and scope.full_name(target.value) == "os.environ":
        yield Effect("changes the environment: os.environ", scope.file, target.lineno)
    elif isinstance(target, ast.Attribute):
        name = dotted(target)
        top = name.partition(".")[0]
        if top in scope.imports and scope.tree.path_of(scope.imports[top].partition(".")[0]) is None:
            yield Effect(f"changes another package: {name}", scope.file, target.lineno)


_BY_TEXT: Final = (
    "importlib.util.find_spec", "importlib.resources.files", "importlib.resources.path",
    "importlib.resources.open_text", "importlib.resources.open_binary",
    "importlib.resources.read_text", "importlib.resources.read_binary",
    "importlib.resources.is_resource", "importlib.resources.contents", "pkgutil.get_data", "pkgutil.resolve_name",
    "pkgutil.get_loader", "pkgutil.find_loader", "runpy.run_module", "pkg_resources.resource_filename",
    "pkg_resources.resource_string", "pkg_resources.resource_stream",
)  # fmt: skip
"""Functions of others that take the name of a module, and look for it themselves."""


def plain_names_of(scope: Scope) -> Iterator[str]:
    """Give the places that need the repository's modules under their plain names."""
    for node in scope.nodes:
        why = _why_plain(scope, node)
        if why:
            yield f"{scope.file}:{getattr(node, 'lineno', 1)} {why}"


def _why_plain(scope: Scope, node: ast.AST) -> str | None:
    if isinstance(node, ast.Call):
        name = scope.full_name(node.func)
        if name in _BY_TEXT and node.args:
            return f"names a module by text: {name}" if _may_be_own(scope, node) else None
        if name in ("pkgutil.walk_packages", "pkgutil.iter_modules"):
            return f"names modules by text: {name}" if _has_plain_prefix(scope, node) else None
        if name in ("sys.modules.get", "sys.modules.pop", "sys.modules.setdefault") and node.args:
            return "looks into sys.modules" if not _is_foreign(scope, node.args[0]) else None
    if isinstance(node, ast.Subscript):
        name = scope.full_name(node.value)
        if name == "sys.modules" and not _is_foreign(scope, node.slice):
            return "looks into sys.modules"
        if name == "sys.path" and isinstance(node.ctx, ast.Load):
            return "relies on sys.path[0]"
    return None


def _has_plain_prefix(scope: Scope, call: ast.Call) -> bool:
    """Whether modules are looked for below a name that is written plainly."""
    given = [call.args[1]] if len(call.args) > 1 else [word.value for word in call.keywords if word.arg == "prefix"]
    return any("__name__" not in ast.unparse(prefix) and text(prefix) != "" for prefix in given)


def _may_be_own(scope: Scope, call: ast.Call) -> bool:
    """Whether a name that is imported by text may be one of the repository's own, written plainly."""
    first = call.args[0]
    value = text(first)
    if value is not None:
        return not value.startswith(".") and scope.tree.path_of(value.partition(".")[0]) is not None
    if isinstance(first, ast.Name) and first.id in scope.names and scope.names[first.id].kind == "module":
        return False  # the module itself
    shown = ast.unparse(first)
    relative = len(call.args) > 1 or any(keyword.arg == "package" for keyword in call.keywords)
    return (
        not relative
        and "__name__" not in shown
        and "__package__" not in shown
        and not shown.startswith(("f'.", 'f".', "'.'"))
    )


def _is_foreign(scope: Scope, key: ast.AST) -> bool:
    """Whether a key of `sys.modules` is this module itself, or a package that is not the repository's."""
    if (isinstance(key, ast.Name) and key.id == "__name__") or (
        isinstance(key, ast.Attribute) and key.attr == "__module__"
    ):
        return True
    value = text(key)
    return value is not None and scope.tree.path_of(value.partition(".")[0]) is None
