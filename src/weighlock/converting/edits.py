"""`weighlock.edit`: names, types and single tensors of a checkpoint changed; the data are copied as they are."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from weighlock.checkpoint import Checkpoint
from weighlock.converting.conversion import (
    count_tensors,
    globs,
    inside,
    needs_description,
    opened,
    refuse_program,
    with_metadata,
)
from weighlock.converting.derived import Caster, stored_array
from weighlock.converting.jobs import Job, Outcome, Target, format_for, target_of
from weighlock.converting.trees import Slot, Tree
from weighlock.errors import ArgumentError, MissingKeyError, StateDictError, UnsupportedError
from weighlock.inspection.globs import glob
from weighlock.limits import Limits
from weighlock.state_dicts.casting import element_type
from weighlock.state_dicts.editing import compile_rule
from weighlock.storages.copying import Progress
from weighlock.tensors.spec import TensorSpec
from weighlock.text import safe_text

__all__ = ["Changes", "EditReport", "edit", "editing"]


class EditReport(NamedTuple):
    """What `weighlock.edit` has done, or with `dry_run` would do.

    Attributes
    ----------
    source, source_format : str
    target, format : str
    files : list of str
    nbytes : int
        The bytes of the new file; of a dry run, those of the data.
    tensors : int
        How many there are in the new file.
    renamed : dict of str to str
        Old keys and new ones.
    dropped : list of str
        The keys of what is not in the new file.
    cast : dict of str to (str, str)
        The element types before and after, by old key.
    replaced : list of str
    aliases : dict of str to str
        In a safetensors file: the tensors that are noted as views of others.
    unknown : tuple of str
        The classes that are kept as descriptions; ``torch.load(weights_only=True)`` refuses them.
    verified, written : bool
        Whether the result was read back and compared; whether there is one.
    """

    source: str
    source_format: str
    target: str
    format: str
    files: list[str]
    nbytes: int
    tensors: int
    renamed: dict[str, str]
    dropped: list[str]
    cast: dict[str, tuple[str, str]]
    replaced: list[str]
    aliases: dict[str, str]
    unknown: tuple[str, ...]
    verified: bool
    written: bool


class Changes(NamedTuple):
    """What is changed. The fields are the parameters of `edit`."""

    replace: Mapping[str, Any] = {}
    cast: Any = None
    drop: str | Iterable[str] = ()
    keep: str | Iterable[str] = ()
    strip_prefix: str = ""
    rename: Mapping[str, str] | Iterable[tuple[Any, Any]] = ()
    add_prefix: str = ""
    within: str = ""


# Reason for the parameter count: each is a separate wish about the one new file; all but two are keyword-only.
def edit(
    src: Any,
    dst: Any,
    *,
    rename: Mapping[str, str] | Iterable[tuple[Any, Any]] = (),
    drop: str | Iterable[str] = (),
    keep: str | Iterable[str] = (),
    strip_prefix: str = "",
    add_prefix: str = "",
    cast: Any = None,
    replace: Mapping[str, Any] | None = None,
    within: str = "",
    format: str | None = None,
    verify: bool = True,
    force: bool = False,
    dry_run: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
    limits: Limits | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> EditReport:
    """Change names, types or single tensors of a checkpoint; everything else of it stays as it is.

    The bytes of storages that do not change are copied by ranges, by the kernel where both are files, and a zip
    archive's checksums are taken over; they never come into memory. Bytes of a storage that no tensor uses are left
    out. First places are left out, then tensors replaced and cast, then names lose a prefix, are renamed, and get a
    prefix: `drop`, `keep`, `replace` and `cast` name what they mean as the source does.

    Parameters
    ----------
    src : path, address, bytes-like or file object
        Anything that `weighlock.open_checkpoint` opens.
    dst : str or os.PathLike
        With `force` also `src` itself: it is replaced by one rename when the new file was checked.
    rename : mapping, or iterable of pairs
        ``{old: new}``, as for `weighlock.state_dicts.rename`: ``*`` stands for any text.
    drop, keep : str or iterable of str
        Globs over keys, or over what keys begin with up to a dot. With `keep`, everything else is dropped.
    strip_prefix, add_prefix : str
        With their dots. Where a prefix is the name of a dictionary that holds all that is left, that becomes the
        object itself.
    cast : str, DType, or mapping of glob to these
        A type alone is for all floating-point tensors.
    replace : mapping of str to array
        By key; the array has the tensor's shape. Its element type may be another one.
    within : str
        The key of a container: all names here are meant inside of it, and what is outside stays as it is.
    format : {"torch-zip", "torch-legacy", "safetensors", "npz"}
        By default that of the source, if the name of the new file does not say another one.
    verify, force, dry_run, durable, progress, limits, storage_options
        As for `weighlock.convert`.

    Returns
    -------
    EditReport

    Raises
    ------
    StateDictError
        If something fits no name, or two entries would have one name.
    UnsupportedError
        If what is asked for has no form: an element taken out of a list, a cast of a quantized tensor.
    TargetError
        If the target is there already, or cannot be written.

    Examples
    --------
    >>> import numpy, os, tempfile, weighlock
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "model.pt")
    >>> weighlock.save({"module.fc.w": numpy.ones((2, 2), "f4"), "epoch": 3}, path)
    >>> report = weighlock.edit(path, path, strip_prefix="module.", cast="float16", force=True)
    >>> report.renamed, report.cast
    ({'module.fc.w': 'fc.w'}, {'module.fc.w': ('float32', 'float16')})
    >>> list(weighlock.load(path))
    ['fc.w', 'epoch']
    >>> folder.cleanup()
    """
    path = target_of(dst, force=force)
    changes = Changes(replace or {}, cast, drop, keep, strip_prefix, rename, add_prefix, within)
    options = {"limits": limits, "storage_options": storage_options}
    with editing(src, Target(path, format or "", verify=verify, durable=durable), changes, **options) as made:
        return made.report(None if dry_run else made.job.run(progress))


class Edit:
    """An edit that was planned.

    Attributes
    ----------
    job : Job
    """

    def __init__(self, checkpoint: Checkpoint, target: Target, changes: Changes) -> None:
        refuse_program(checkpoint.object)
        structure = target.format != "safetensors" or needs_description(checkpoint)
        self._checkpoint, self._target = checkpoint, target
        self._tree = Tree(checkpoint.object, checkpoint.size)
        self._within = f"{changes.within}." if changes.within else ""
        if next(self._slots(), None) is None and self._within:
            raise MissingKeyError("nothing in the file has a key inside of this one", got=safe_text(changes.within))
        self._renamed: dict[str, str] = {}
        self._dropped = self._drop(globs(changes.drop), globs(changes.keep))
        self._replaced = self._replace(changes.replace)
        self._cast = self._cast_all(changes.cast)
        self._rename(changes)
        self._tensors = count_tensors(checkpoint, self._tree.root)
        self.job = Job(checkpoint, self._tree.root, with_metadata(target, checkpoint), structure=structure)

    def _slots(self) -> Iterator[tuple[Slot, str]]:
        """Yield the places that are meant, each with its key inside of what is meant."""
        prefix = self._within
        for slot in self._tree.slots():
            key = slot.key
            if key.startswith(prefix):
                yield slot, key[len(prefix) :]

    def _replace(self, given: Mapping[str, Any]) -> list[str]:
        if not given:
            return []
        left = dict(given)
        done: list[str] = []
        for slot, key in self._slots():
            if key not in left:
                continue
            if type(slot.value) is not TensorSpec:
                raise UnsupportedError("only a strided tensor can be replaced", object_path=slot.key)
            holder, name = slot.holder
            if holder is None:
                raise UnsupportedError("a tensor that stands in no dictionary cannot be replaced", object_path=slot.key)
            holder[name] = stored_array(left.pop(key), key, slot.value)
            done.append(slot.key)
        if left:
            raise MissingKeyError("no tensor in the file has this key", got=safe_text(next(iter(left)), limit=120))
        return done

    def _cast_all(self, wish: Any) -> dict[str, tuple[str, str]]:
        if wish is None:
            return {}
        rules = wish.items() if isinstance(wish, Mapping) else [(None, wish)]
        compiled = [(pattern, pattern and glob(pattern), element_type(dtype)) for pattern, dtype in rules]
        unused = {pattern for pattern, *_ in compiled if pattern}
        caster = Caster()
        done: dict[str, tuple[str, str]] = {}
        names: dict[int, str] = {}
        for slot, key in self._slots():
            spec = slot.value
            if type(spec) is not TensorSpec:
                continue
            if id(spec) in names:  # one tensor may stand at several places
                done[slot.key] = names[id(spec)], spec.dtype.name
                continue
            for pattern, expression, dtype in compiled:
                if expression is None and (spec.dtype.kind != "f" or spec.ref.location == "meta"):
                    continue
                if expression is not None and not expression.fullmatch(key):
                    continue
                unused.discard(pattern)
                old = spec.dtype.name
                if caster.cast(spec, dtype):
                    done[slot.key] = old, dtype.name
                    names[id(spec)] = old
                break
        _all_used(unused)
        return done

    def _drop(self, drop: tuple[str, ...], keep: tuple[str, ...]) -> list[str]:
        if not drop and not keep:
            return []
        refused = {pattern: inside(pattern) for pattern in drop}
        wanted = {pattern: inside(pattern) for pattern in keep}
        unused = {*drop, *keep}
        prefix = self._within

        def unwanted(slot: Slot) -> bool:
            key = slot.key
            if not key.startswith(prefix):
                return False
            key = key[len(prefix) :]
            found = [pattern for pattern, match in refused.items() if match(key)]
            taken = [pattern for pattern, match in wanted.items() if match(key)]
            unused.difference_update(found, taken)
            return bool(found) or (bool(wanted) and not taken)

        dropped = self._tree.prune(unwanted)
        _all_used(unused)
        return [slot.key for slot in dropped]

    def _rename(self, changes: Changes) -> None:
        if changes.strip_prefix:
            self._strip(changes.strip_prefix)
        rules = changes.rename.items() if isinstance(changes.rename, Mapping) else changes.rename
        listed = list(rules)
        if listed:
            self._apply_rules(listed)
        if changes.add_prefix:
            self._pass(lambda slot, key: f"{changes.add_prefix}{key}" if slot.is_tensor else key)

    def _strip(self, prefix: str) -> None:
        keys = [key for _, key in self._slots()]
        fitting = [key for key in keys if key.startswith(prefix)]
        if not fitting:
            shown = ", ".join(safe_text(key, limit=60) for key in keys[:3])
            raise StateDictError("no name has this prefix", expected=prefix, got=shown,
                                 hint="Name the container that holds the names: within (--within).")  # fmt: skip
        if any(key[len(prefix) :].startswith(".") for key in fitting):
            raise ArgumentError("a prefix ends with its dot", expected=f"{prefix}.", got=prefix)
        if not self._within and len(fitting) == len(keys) and self._tree.hoist(prefix.removesuffix(".")):
            self._note({key: key[len(prefix) :] for key in keys})
            return
        self._pass(lambda _, key: key.removeprefix(prefix))

    def _apply_rules(self, rules: list[tuple[Any, Any]]) -> None:
        compiled = [(old, *compile_rule(old, new)) for old, new in rules]
        unused = {id(expression): old for old, expression, _ in compiled}

        def renamed(_: Slot, key: str) -> str:
            for _old, expression, replacement in compiled:
                if expression.search(key):
                    unused.pop(id(expression), None)
                    return expression.sub(replacement, key)
            return key

        self._pass(renamed)
        _all_used({getattr(old, "pattern", old) for old in unused.values()})

    def _pass(self, new_key: Callable[[Slot, str], str]) -> None:
        prefix = self._within

        def renamed(slot: Slot) -> str:
            key = slot.key
            return prefix + new_key(slot, key[len(prefix) :]) if key.startswith(prefix) else key

        self._note(self._tree.rename(renamed))

    def _note(self, names: Mapping[str, str]) -> None:
        """Add to what was renamed: what has a new name already gets another one."""
        before = {new: old for old, new in self._renamed.items()}
        self._renamed.update({before.get(old, old): new for old, new in names.items()})

    def report(self, outcome: Outcome | None) -> EditReport:
        """Return what was done; given None, what would be."""
        found = self.job.planned() if outcome is None else outcome
        source, target = self._checkpoint, self._target
        return EditReport(
            source.name, source.format, target.path, target.format, found.files, found.nbytes, self._tensors,
            self._renamed, self._dropped, self._cast, self._replaced, found.aliases, source.unknown,
            outcome is not None and target.read_back, outcome is not None,
        )  # fmt: skip


def _all_used(unused: set[Any]) -> None:
    for pattern in sorted(map(str, unused)):
        raise StateDictError("this fits no name in the file", got=repr(safe_text(pattern, limit=120)),
                             hint="`weighlock ls` lists the names; * stops at dots, ** does not.")  # fmt: skip


@contextmanager
def editing(src: Any, target: Target, changes: Changes, **options: Any) -> Iterator[Edit]:
    """Open a source and plan its edit; a target without a format gets that of the source.

    The options are those of `read_checkpoint`.
    """
    with opened(src, **options) as checkpoint:
        kind = format_for(target.path, target.format or None, checkpoint.format)
        yield Edit(checkpoint, target._replace(format=kind), changes)
