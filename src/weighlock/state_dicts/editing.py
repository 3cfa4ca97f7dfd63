"""State dicts in, state dicts out: names changed, entries chosen. The tensors themselves are never copied."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any, Final, Literal

from weighlock.errors import ArgumentError, ArgumentTypeError, StateDictError
from weighlock.pickling.inert import Stub

__all__ = ["add_prefix", "check_mapping", "compile_rule", "merge", "rename", "select", "strip_prefix", "with_metadata"]

Rule = tuple[Any, Any]
Pattern = str | re.Pattern[str] | Callable[[str], bool]

_WILD: Final = re.compile(r"[*?\[]")


def check_mapping(mapping: Any) -> None:
    """Refuse what is no mapping, with what to do; `ArgumentTypeError`."""
    if isinstance(mapping, Mapping):
        return
    hint = "Give the mapping of names to tensors."
    if isinstance(mapping, str | bytes) or hasattr(mapping, "__fspath__"):
        hint = "A path was given. Load it first: weighlock.load(path)."
    elif callable(getattr(mapping, "state_dict", None)) or type(mapping) is Stub:
        hint = "An object was given. Take its state_dict: weighlock.state_dict(obj)."
    raise ArgumentTypeError("a state_dict is a mapping of names to tensors", got=type(mapping).__name__, hint=hint)


def renamed(mapping: Mapping[Any, Any], new_name: Callable[[Any], Any], path: Callable[[str], str]) -> Any:
    """Return the mapping under other names; `path` renames the modules in its `_metadata`."""
    check_mapping(mapping)
    made: OrderedDict[Any, Any] = OrderedDict()
    origins: dict[Any, Any] = {}
    for key, value in mapping.items():
        name = new_name(key)
        if name in made:
            raise StateDictError("two entries would have one name", got=f"{origins[name]!r} and {key!r} -> {name!r}")
        made[name], origins[name] = value, key
    metadata = getattr(mapping, "_metadata", None)
    if isinstance(metadata, Mapping):
        metadata = OrderedDict((path(key), value) for key, value in metadata.items())
    return with_metadata(made, metadata)


def with_metadata(made: "OrderedDict[Any, Any]", metadata: Any) -> "OrderedDict[Any, Any]":
    """Return a state_dict with the versions of its modules, which PyTorch keeps in an attribute."""
    if metadata:
        made._metadata = metadata  # type: ignore[attr-defined]  # noqa: SLF001 - where PyTorch looks for it
    return made


def strip_prefix(mapping: Mapping[str, Any], prefix: str) -> "OrderedDict[str, Any]":
    """Return the mapping without a prefix in its names. Names that do not have it stay.

    Parameters
    ----------
    mapping : mapping of str to tensor
    prefix : str
        With its dot: ``"module."``.

    Raises
    ------
    StateDictError
        If no name has it, or two entries would have one name.

    Examples
    --------
    >>> dict(strip_prefix({"module.fc.weight": 1}, "module."))
    {'fc.weight': 1}
    """
    check_mapping(mapping)
    if not any(str(key).startswith(prefix) for key in mapping):
        raise StateDictError(f"no name has the prefix {prefix!r}", got=", ".join(map(repr, list(mapping)[:5])))
    root = prefix.rstrip(".")
    return renamed(  # type: ignore[no-any-return]
        mapping,
        lambda key: key.removeprefix(prefix) if isinstance(key, str) else key,
        lambda path: "" if path == root else path.removeprefix(prefix),
    )


def add_prefix(mapping: Mapping[str, Any], prefix: str) -> "OrderedDict[str, Any]":
    """Return the mapping with a prefix before each name.

    Examples
    --------
    >>> dict(add_prefix({"weight": 1}, "fc."))
    {'fc.weight': 1}
    """
    root = prefix.rstrip(".")
    return renamed(  # type: ignore[no-any-return]
        mapping,
        lambda key: prefix + key if isinstance(key, str) else key,
        lambda path: prefix + path if path else root,
    )


def rename(mapping: Mapping[str, Any], rules: Mapping[str, str] | Iterable[Rule]) -> "OrderedDict[str, Any]":
    r"""Return the mapping under the names that rules give; the first rule that fits a name counts.

    Parameters
    ----------
    mapping : mapping of str to tensor
    rules : mapping, or iterable of pairs
        ``(name, new name)``; ``(pattern, new name)`` where the name has ``*``: what each ``*`` stands for goes to the
        ``*`` of the new name, in order; ``(compiled expression, replacement)`` as in `re.sub`.

    Raises
    ------
    StateDictError
        If a rule fits no name, or two entries would have one name.
    ArgumentError
        If a pattern and its new name do not have the same number of ``*``.

    Examples
    --------
    >>> dict(rename({"block0.w": 1, "bias": 2}, {"block*.w": "layers.*.weight", "bias": "b"}))
    {'layers.0.weight': 1, 'b': 2}
    >>> dict(rename({"layer1": 1}, [(re.compile(r"layer(\d)"), r"stage.\1")]))
    {'stage.1': 1}
    """
    check_mapping(mapping)
    listed = list(rules.items() if isinstance(rules, Mapping) else rules)
    compiled = [compile_rule(old, new) for old, new in listed]
    used = [False] * len(compiled)
    paths: dict[str, str] = {}

    def name_of(key: Any) -> Any:
        for index, (expression, replacement) in enumerate(compiled):
            if isinstance(key, str) and expression.search(key):
                used[index] = True
                new = expression.sub(replacement, key)
                paths.setdefault(key.rpartition(".")[0], new.rpartition(".")[0])
                return new
        return key

    made = renamed(mapping, name_of, lambda path: paths.get(path, path))
    if not all(used):
        unused = listed[used.index(False)][0]
        shown = unused.pattern if isinstance(unused, re.Pattern) else unused
        raise StateDictError(f"a rule fits no name: {shown!r}", got=", ".join(map(repr, list(mapping)[:5])))
    return made  # type: ignore[no-any-return]


def compile_rule(old: Any, new: Any) -> tuple[re.Pattern[str], Any]:
    """Return what a rule of `rename` looks for, and what takes its place, as `re.sub` takes both."""
    if isinstance(old, re.Pattern):
        return old, new
    if not isinstance(old, str) or not isinstance(new, str):
        raise ArgumentTypeError("a rule is a name or an expression and what takes its place", got=type(old).__name__)
    if "*" not in old:
        return re.compile(rf"\A{re.escape(old)}\Z"), lambda _: new
    if old.count("*") != new.count("*"):
        raise ArgumentError("a pattern and its new name need as many *", got=f"{old!r} -> {new!r}")
    expression = "(.*?)".join(map(re.escape, old.split("*")))
    parts = new.split("*")

    def fill(match: re.Match[str]) -> str:
        return "".join(part + text for part, text in zip(parts, (*match.groups(), ""), strict=True))

    return re.compile(rf"\A{expression}\Z"), fill


def select(
    mapping: Mapping[str, Any],
    include: Pattern | Sequence[Pattern] | None = None,
    exclude: Pattern | Sequence[Pattern] | None = None,
) -> "OrderedDict[str, Any]":
    """Return the entries whose names fit.

    Parameters
    ----------
    mapping : mapping of str to tensor
    include, exclude : pattern or sequence of patterns
        A name, a pattern with ``*``, ``?`` or ``[...]``, a compiled expression (searched), or a function of the name.
        A name is taken if any of `include` fits it (or there is none), and none of `exclude`.

    Examples
    --------
    >>> dict(select({"fc.weight": 1, "fc.bias": 2, "head.weight": 3}, "*.weight", exclude="head.*"))
    {'fc.weight': 1}
    """
    check_mapping(mapping)
    wanted = [_test(pattern) for pattern in _listed(include)] or [lambda _: True]
    unwanted = [_test(pattern) for pattern in _listed(exclude)]
    made = OrderedDict(
        (key, value) for key, value in mapping.items()
        if any(test(str(key)) for test in wanted) and not any(test(str(key)) for test in unwanted)
    )  # fmt: skip
    return with_metadata(made, getattr(mapping, "_metadata", None))


def _listed(patterns: Any) -> list[Any]:
    if patterns is None:
        return []
    return [patterns] if isinstance(patterns, str | re.Pattern) or callable(patterns) else list(patterns)


def _test(pattern: Any) -> Callable[[str], bool]:
    if isinstance(pattern, re.Pattern):
        return lambda key: pattern.search(key) is not None
    if isinstance(pattern, str):
        if not _WILD.search(pattern):
            return lambda key: key == pattern
        match = re.compile(translate(pattern)).match
        return lambda key: match(key) is not None
    if callable(pattern):
        return lambda key: bool(pattern(key))
    raise ArgumentTypeError("a pattern is text, a compiled expression or a function", got=type(pattern).__name__)


def merge(
    *mappings: Mapping[str, Any], on_conflict: Literal["error", "first", "last"] = "error"
) -> "OrderedDict[str, Any]":
    """Return the entries of several mappings as one.

    Parameters
    ----------
    *mappings : mapping of str to tensor
    on_conflict : {"error", "first", "last"}
        What is done about a name that several have with different values.

    Raises
    ------
    StateDictError
        If a name stands for different values, and `on_conflict` is ``"error"``.

    Examples
    --------
    >>> dict(merge({"a": 1}, {"b": 2}))
    {'a': 1, 'b': 2}
    """
    if on_conflict not in ("error", "first", "last"):
        raise ArgumentError("on_conflict must be 'error', 'first' or 'last'", got=repr(on_conflict)[:40])
    made: OrderedDict[str, Any] = OrderedDict()
    metadata: OrderedDict[str, Any] = OrderedDict()
    for mapping in mappings:
        check_mapping(mapping)
        for key, value in mapping.items():
            if key in made and made[key] is not value:
                if on_conflict == "error":
                    hint = "Say which counts with on_conflict='first' or 'last', or give them prefixes."
                    raise StateDictError("two mappings have an entry of one name", got=repr(key), hint=hint)
                if on_conflict == "first":
                    continue
            made[key] = value
        metadata.update(getattr(mapping, "_metadata", None) or {})
    return with_metadata(made, metadata)
