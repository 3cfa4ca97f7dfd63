"""The static report on a repository: one pass over its hubconf and what that imports."""

import ast
import os
from collections.abc import Iterator

from weighlock.errors import EntryPointError
from weighlock.hub.static import effects
from weighlock.hub.static.bindings import Binding
from weighlock.hub.static.report import Entry, Report
from weighlock.hub.static.scopes import Scope, Tree
from weighlock.hub.static.signatures import doc_of, signature_of

__all__ = ["read_report"]


def read_report(root: str) -> Report:
    r"""Read a repository's hubconf without running it.

    Parameters
    ----------
    root : str
        The folder with `hubconf.py`.

    Returns
    -------
    Report

    Raises
    ------
    EntryPointError
        If there is no hubconf, or it is not Python.

    Examples
    --------
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(os.path.join(folder, "hubconf.py"), "w") as file:
    ...     _ = file.write("dependencies = ['torch']\ndef net(pretrained=False):\n    'A net.'\n")
    >>> report = read_report(folder)
    >>> report.entries[0].name, report.entries[0].signature, report.dependencies
    ('net', '(pretrained=False)', ('torch',))
    """
    root = os.path.normpath(root)
    hubconf = _hubconf(root)
    tree = hubconf.tree
    entries = tuple(
        _entry(name, binding, hubconf)
        for name, binding in sorted(hubconf.names.items())
        if binding.is_callable and not name.startswith("_")
    )
    reasons = [*hubconf.all_reasons(), *tree.unread]
    at_import = list(_used(hubconf))
    everywhere = _everything(tree, at_import)
    declared = _dependencies(hubconf)
    return Report(
        root=root,
        entries=entries,
        dependencies=declared,
        undeclared=_undeclared(everywhere, declared or ()),
        urls=tuple(url for scope in everywhere for url in effects.urls_of(scope)),
        effects=tuple(effect for scope in at_import for effect in effects.effects_of(scope)),
        complete=not reasons,
        reasons=tuple(reasons),
        compatibility=tuple(why for scope in everywhere for why in effects.plain_names_of(scope)),
        roots=tuple(os.path.relpath(path, root).replace(os.sep, "/") for path in tree.roots[1:]),
        doc=ast.get_docstring(hubconf.module),
    )


def _hubconf(root: str) -> Scope:
    path = os.path.join(root, "hubconf.py")
    if not os.path.isfile(path):
        raise EntryPointError("there is no hubconf.py", path=root)
    tree = Tree(root)
    scope = tree.scope(path)
    if scope is None:
        raise EntryPointError(f"the hubconf cannot be read: {next(iter(tree.unread), 'no reason')}", path=path)
    return scope


def _entry(name: str, binding: Binding, hubconf: Scope) -> Entry:
    kind = binding.kind
    if binding.kind in ("def", "class", "lambda") and binding.scope is not hubconf:
        kind = "reexport"
    elif binding.alias and binding.kind != "external":
        kind = "alias"
    elif kind == "lambda":
        kind = "def"
    scope = binding.scope
    line = getattr(binding.node, "lineno", None) if scope is not None else None
    file = scope.file if scope else None
    return Entry(name, kind, signature_of(binding), doc_of(binding), file, line, _is_literal(binding, hubconf))


def _is_literal(binding: Binding, hubconf: Scope) -> bool:
    """Whether no code changes a docstring."""
    if any(not _keeps_doc(hubconf, one) for one in getattr(binding.node, "decorator_list", ())):
        return False
    scopes = [hubconf, binding.scope] if isinstance(binding.scope, Scope) else [hubconf]
    return not any(
        isinstance(node, ast.Attribute) and node.attr == "__doc__" and isinstance(node.ctx, ast.Store)
        for scope in scopes
        for node in scope.nodes
    )


def _keeps_doc(scope: Scope, decorator: ast.expr) -> bool:
    name = scope.full_name(decorator.func if isinstance(decorator, ast.Call) else decorator)
    return name in ("functools.lru_cache", "functools.cache", "torch.no_grad", "torch.inference_mode")


def _used(scope: Scope) -> Iterator[Scope]:
    """Give a module and all that it imports of its own repository as it is imported."""
    seen: dict[str, Scope] = {}
    waiting = [scope]
    while waiting:
        one = waiting.pop()
        if one.path not in seen:
            seen[one.path] = one
            yield one
            waiting.extend(one.used)


def _everything(tree: Tree, at_import: list[Scope]) -> list[Scope]:
    """Return also the modules that functions import when they are called."""
    found = {scope.path: scope for scope in at_import}
    waiting = list(at_import)
    while waiting:
        for scope in _lazily_used(tree, waiting.pop()):
            for one in _used(scope):
                if one.path not in found:
                    found[one.path] = one
                    waiting.append(one)
    return list(found.values())


def _lazily_used(tree: Tree, scope: Scope) -> Iterator[Scope]:
    for node in scope.nodes:
        names: list[str] = []
        folders = None
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names if alias.name != "*")]
            if node.level:
                folder = scope.folder
                for _ in range(node.level - 1):
                    folder = os.path.dirname(folder)
                folders = [folder] if (folder + os.sep).startswith(tree.root + os.sep) else []
        for name in filter(None, names):
            path = tree.path_of(name, folders)
            found = tree.scope(path) if path else None
            if found is not None:
                yield found


def _dependencies(hubconf: Scope) -> tuple[str, ...] | None:
    if "dependencies" not in hubconf.names:
        return None
    found = hubconf.constants.get("dependencies")
    return tuple(map(str, found)) if isinstance(found, list | tuple | set) else None


def _undeclared(scopes: list[Scope], declared: tuple[str, ...]) -> tuple[str, ...]:
    known = {name.partition(".")[0] for name in declared}
    needed = {name for scope in scopes for name, optional in effects.packages_of(scope) if not optional}
    return tuple(sorted(needed - known))
