"""Which tensor of one checkpoint belongs to which of another: by name, and by content where names have changed."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from weighlock.errors import WeighlockError
from weighlock.inspection.globs import chooser
from weighlock.measuring.digests import hash_part
from weighlock.measuring.pieces import Progress, in_threads, parts_of
from weighlock.opening.tensors import LazyTensor
from weighlock.state_dicts.editing import rename, strip_prefix

__all__ = ["Naming", "renames"]

# Among more candidates of equal content than this, order decides instead of names: every pair would be compared.
_MOST_ALIKE: Final = 64

Rules = Mapping[str, str] | Iterable[tuple[Any, Any]]


class Naming(NamedTuple):
    """How the names of one side become those that both sides are compared under, and which are compared."""

    prefix: str = ""
    rules: Rules = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def tensors(self, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
        """Return the tensors under their new names.

        Raises
        ------
        StateDictError
            If no name has the prefix, a rule fits no name, or two tensors would have one name.
        """
        named: Mapping[str, LazyTensor] = strip_prefix(tensors, self.prefix) if self.prefix else tensors
        named = rename(named, self.rules) if self.rules else named
        wanted = self.wanted()
        return {name: tensor for name, tensor in named.items() if wanted(name)}

    def plain(self, name: str) -> str:
        """Return the new name of a plain value."""
        return name.removeprefix(self.prefix)

    def wanted(self) -> Callable[[str], bool]:
        """Return whether a new name is compared."""
        return chooser(self.include, self.exclude)


def renames(
    only_a: Mapping[str, LazyTensor], only_b: Mapping[str, LazyTensor], progress: Progress | None = None
) -> dict[str, str]:
    """Guess which tensors were renamed: those whose type, shape and bytes are the same under another name.

    Parameters
    ----------
    only_a, only_b : mapping
        The tensors that have no partner of their own name.

    Returns
    -------
    dict of str to str
        Names of `a` and what they are in `b`.
    """
    kinds = {_kind(tensor) for tensor in only_a.values()} & {_kind(tensor) for tensor in only_b.values()}
    found: dict[str, str] = {}
    contents_b = _by_content(only_b, kinds, progress)
    if not contents_b:
        return {}
    for content, names_a in _by_content(only_a, kinds, progress).items():
        found.update(_closest(names_a, contents_b.get(content, [])))
    return found


def _kind(tensor: LazyTensor) -> Any:
    return (tensor.layout, tensor.dtype_name, tensor.shape) if tensor.nbytes else None


def _by_content(tensors: Mapping[str, LazyTensor], kinds: set[Any], progress: Progress | None) -> dict[Any, list[str]]:
    chosen = {name: tensor for name, tensor in tensors.items() if tensor.nbytes and _kind(tensor) in kinds}
    contents = in_threads(lambda tensor: _content(tensor, progress), chosen.values(), lambda tensor: tensor.nbytes)
    found: dict[Any, list[str]] = {}
    for name, content in zip(chosen, contents, strict=True):
        if content is not None:
            found.setdefault(content, []).append(name)
    return found


def _content(tensor: LazyTensor, progress: Progress | None) -> Any:
    try:
        return _kind(tensor), *((part.name, hash_part(part.source, progress)) for part in parts_of(tensor))
    except WeighlockError:
        return None  # it is reported as what it is: only on this side


def _closest(names_a: list[str], names_b: list[str]) -> dict[str, str]:
    """Pair names of equal content: those that end most alike first, the others in order."""
    if len(names_a) > _MOST_ALIKE or len(names_b) > _MOST_ALIKE:
        return dict(zip(names_a, names_b, strict=False))
    ranked = sorted(
        ((-_alike(a, b), i, j) for i, a in enumerate(names_a) for j, b in enumerate(names_b)),
    )
    found: dict[str, str] = {}
    taken: set[str] = set()
    for _, i, j in ranked:
        if names_a[i] not in found and names_b[j] not in taken:
            found[names_a[i]] = names_b[j]
            taken.add(names_b[j])
    return found


def _alike(a: str, b: str) -> int:
    """Return how many parts the ends of two names have in common."""
    count = 0
    for one, other in zip(reversed(a.split(".")), reversed(b.split(".")), strict=False):
        if one != other:
            break
        count += 1
    return count
