"""What a name of a module stands for: a function, a class, a partial, a value."""

import dataclasses
from typing import Any, Final

__all__ = ["Binding", "gives_a_class", "gives_a_value"]

# Calls whose result is no function, so that nothing is to be said about it.
_PLAIN_CALLS: Final = (
    "logging.getLogger", "os.path.", "os.environ.get", "os.getenv", "Path", "pathlib.Path", "str", "int", "float",
    "bool", "dict", "list", "tuple", "set", "frozenset", "len", "sorted", "range", "open", "collections.", "re.compile",
    "torch.device", "torch.tensor", "defaultdict", "OrderedDict", "isinstance", "hasattr", "max", "min",
    "sum", "any", "all", "globals", "locals", "os.getcwd", "json.load", "time.", "TypeVar", "typing.TypeVar",
    "importlib.import_module",
)  # fmt: skip
_PLAIN_PACKAGES: Final = tuple(name for name in _PLAIN_CALLS if name.endswith("."))


_CLASS_CALLS: Final = (
    "namedtuple", "collections.namedtuple", "type", "typing.NamedTuple", "NamedTuple", "typing.TypedDict", "enum.Enum",
    "enum.IntEnum", "Enum", "dataclasses.make_dataclass", "make_dataclass", "typing.NewType",
)  # fmt: skip


def gives_a_class(text: str) -> bool:
    """Whether a call of that name makes a class, or what is called like one."""
    return text in _CLASS_CALLS


def gives_a_value(text: str) -> bool:
    """Whether a call of that name gives nothing that could be called."""
    return text in _PLAIN_CALLS or text.startswith(_PLAIN_PACKAGES)


@dataclasses.dataclass(slots=True)
class Binding:
    """What a name stands for.

    Attributes
    ----------
    kind : str
        ``def``, ``class``, ``lambda``, ``partial``, ``generated``, ``external``, ``module``, ``value``, ``unknown``.
    scope : Scope or None
        Where it is defined.
    node : ast.AST or None
        Its definition.
    target : Binding or None
        What a partial or an alias leads to.
    """

    kind: str
    scope: Any = None
    node: Any = None
    target: "Binding | None" = None
    alias: bool = False

    @property
    def is_callable(self) -> bool:
        """Whether `torch.hub.list` would give it, as far as can be told."""
        return self.kind in ("def", "class", "lambda", "partial", "generated", "external")
