"""`weighlock.convert`: a checkpoint in another format, streamed."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from weighlock.checkpoint import Checkpoint, read_checkpoint
from weighlock.converting.jobs import Job, Outcome, Target, format_for, target_of
from weighlock.converting.trees import Slot, Tree
from weighlock.dtypes import DType
from weighlock.errors import ArgumentError, StateDictError, UnsupportedError, WeighlockError
from weighlock.inspection.globs import glob
from weighlock.inspection.inventory import take_inventory
from weighlock.limits import Limits
from weighlock.opening.naming import spell
from weighlock.pickling.inert import ScriptClass, Stub
from weighlock.storages.copying import Progress
from weighlock.tensors.spec import NumpyArraySpec, TensorSpec
from weighlock.text import safe_text

__all__ = ["Conversion", "ConvertReport", "Part", "convert", "converting"]

TAKEN: Final = ("all", "tensors", "state_dict")


class ConvertReport(NamedTuple):
    """What `weighlock.convert` has done, or with `dry_run` would do.

    Attributes
    ----------
    source, source_format : str
    target, format : str
    files : list of str
        What was written; the index comes last.
    nbytes : int
        The bytes of these files; of a dry run, those of the data.
    tensors : int
        How many tensors there are in them, under all of their names.
    aliases : dict of str to str
        The tensors that are noted as views of others: of which.
    copies : list of str
        Those that shared memory with others, and are stored by themselves.
    cast : dict of str to (str, str)
        The element types before and after.
    left_out : list of str
        The keys of what is not in the new file.
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
    aliases: dict[str, str]
    copies: list[str]
    cast: dict[str, tuple[str, str]]
    left_out: list[str]
    unknown: tuple[str, ...]
    verified: bool
    written: bool


# Reason for the parameter count: each is a separate wish about the one new file; all but two are keyword-only.
def convert(
    src: Any,
    dst: Any,
    *,
    format: str | None = None,
    take: str = "all",
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    dtype: Any = None,
    aliases: str = "record",
    metadata: Mapping[str, str] | None = None,
    max_shard_size: int | str | None = None,
    verify: bool = True,
    force: bool = False,
    dry_run: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
    limits: Limits | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> ConvertReport:
    """Write a checkpoint in another format, a piece at a time: no size of checkpoint takes more memory.

    Parameters
    ----------
    src : path, address, bytes-like or file object
        Anything that `weighlock.open_checkpoint` opens.
    dst : str or os.PathLike
        Written under a temporary name beside it, which takes its place when the result was read back.
    format : {"torch-zip", "torch-legacy", "safetensors", "npz"}
        By default what the name says: ``.pt``, ``.pth``, ``.bin``, ``.ckpt``, ``.safetensors``, ``.npz``.
    take : {"all", "tensors", "state_dict"}
        ``"all"``: the whole object. A safetensors file describes in its metadata what is no tensor: nesting, order,
        classes of containers, plain values. ``"tensors"``: a flat dictionary of all tensors by key.
        ``"state_dict"``: what `weighlock.state_dict` draws from the object.
    include, exclude : str or iterable of str
        Globs over keys, or over what keys begin with up to a dot: what is left of the object, tensors and plain values.
        ``*`` and ``?`` stop at dots. A glob of `include` that fits nothing is an error.
    dtype : str or DType, optional
        Cast floating-point tensors to this type.
    aliases : {"record", "clone", "error"}
        What is done about tensors that are views of others in a safetensors file: noted in the metadata, so that
        `weighlock.load` shares their memory again; stored each; refused. An npz file always stores each.
    metadata : mapping of str to str
        Of a safetensors file; ``{"format": "pt"}``, or that of the source, by default.
    max_shard_size : int or str
        Bytes, or for example ``"5GB"``: cut a flat dictionary of tensors into files with an index.
    verify : bool
        Read the new file back and compare each tensor with the source, by its CRC-32 where the source gives one.
        Otherwise neither file is checked.
    force : bool
        Replace what is there, the source included.
    dry_run : bool
        Plan and report only.
    durable : bool
        Wait until the file is on the disk.
    progress : callable, optional
        Called with the number of bytes that were moved or compared since the last call, from several threads.
    limits : Limits, optional
    storage_options : mapping, optional
        As for `weighlock.open_checkpoint`.

    Returns
    -------
    ConvertReport

    Raises
    ------
    StateDictError
        If a glob of `include` fits no key, or an npz file would hold nothing.
    UnsupportedTypeError
        If the format has no form for something in the object; the message says where.
    TargetError
        If the target is there already, or cannot be written. What was there before is untouched.
    CheckpointError
        If the source is damaged.

    Examples
    --------
    >>> import numpy, os, tempfile, weighlock
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "model.pt")
    >>> weighlock.save({"model": {"w": numpy.ones((2, 2), "f4")}, "epoch": 3}, path)
    >>> report = weighlock.convert(path, os.path.join(folder.name, "model.safetensors"))
    >>> report.tensors, report.verified
    (1, True)
    >>> weighlock.load(report.files[0])["epoch"]
    3
    >>> folder.cleanup()
    """
    path = target_of(dst, force=force)
    target = Target(path, format_for(path, format), max_shard_size, aliases, metadata, verify, durable, force)
    part = Part(take, globs(include), globs(exclude), dtype)
    with converting(src, target, part, limits=limits, storage_options=storage_options) as made:
        return made.report(None if dry_run else made.job.run(progress))


class Part(NamedTuple):
    """Which part of an object is converted."""

    take: str = "all"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    dtype: Any = None


class Conversion:
    """A conversion that was planned.

    Attributes
    ----------
    job : Job
    """

    def __init__(self, checkpoint: Checkpoint, target: Target, part: Part) -> None:
        if part.take not in TAKEN:
            raise ArgumentError("nothing of this name can be taken", expected=f"one of {', '.join(TAKEN)}",
                                got=repr(part.take)[:40])  # fmt: skip
        self._checkpoint = checkpoint
        self._target = target
        tree = Tree(checkpoint.object, checkpoint.size)
        test = unwanted(part.include, part.exclude)
        check_included(tree, part.include)
        self._left_out = [] if test is None else [slot.key for slot in tree.prune(test)]
        root = self._taken(tree, part.take)
        self._cast = cast_floats(Tree(root, checkpoint.size), part.dtype) if part.dtype is not None else {}
        keeps = part.take == "all" and (target.format != "safetensors" or needs_description(checkpoint))
        self._tensors = count_tensors(checkpoint, root)
        if target.format == "npz" and not self._tensors:
            raise StateDictError("nothing is left that an npz file holds: there is no tensor", path=checkpoint.name)
        self.job = Job(checkpoint, root, with_metadata(target, checkpoint), structure=keeps)

    def _taken(self, tree: Tree, take: str) -> Any:
        if take == "all":
            refuse_program(tree.root)
            return tree.root
        if take == "tensors":
            root = flat_tensors(self._checkpoint, tree.root)
        else:
            from weighlock.state_dicts import state_dict

            root = state_dict(tree.root)
        kept = {id(value) for value in root.values()}
        self._left_out += [
            slot.key for slot in tree.slots()
            if id(slot.value) not in kept and not (take == "tensors" and type(slot.value) is NumpyArraySpec)
        ]  # fmt: skip
        return root

    def report(self, outcome: Outcome | None) -> ConvertReport:
        """Return what was done; given None, what would be."""
        found = self.job.planned() if outcome is None else outcome
        source, target = self._checkpoint, self._target
        return ConvertReport(
            source.name, source.format, target.path, target.format, found.files, found.nbytes, self._tensors,
            found.aliases, found.copies, self._cast, self._left_out, source.unknown,
            outcome is not None and target.read_back, outcome is not None,
        )  # fmt: skip


@contextmanager
def converting(src: Any, target: Target, part: Part, **options: Any) -> Iterator[Conversion]:
    """Open a source and plan its conversion; the options are those of `read_checkpoint`."""
    with opened(src, **options) as checkpoint:
        yield Conversion(checkpoint, target, part)


@contextmanager
def opened(src: Any, **options: Any) -> Iterator[Checkpoint]:
    """Open a source; errors name it. A checkpoint that is open already is described again by its owner."""
    with read_checkpoint(src, **options) if not isinstance(src, Checkpoint) else src as checkpoint:
        try:
            yield checkpoint
        except WeighlockError as error:
            if getattr(error, "path", None) is None:
                error.locate(path=checkpoint.name)
            raise


# -------------------------------------------------------------------------------------------------- what is taken


def globs(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return globs as a tuple, however they are given."""
    return (given,) if isinstance(given, str) else tuple(given)


def unwanted(include: tuple[str, ...], exclude: tuple[str, ...]) -> Callable[[Slot], bool] | None:
    """Return what says whether a place is left out: by the globs that fit its key, or the start of it up to a dot.

    None where nothing is.
    """
    if not include and not exclude:
        return None
    wanted, refused = [inside(pattern) for pattern in include], [inside(pattern) for pattern in exclude]

    def test(slot: Slot) -> bool:
        key = slot.key
        taken = not wanted or any(match(key) for match in wanted)
        return not taken or any(match(key) for match in refused)

    return test


def check_included(tree: Tree, include: tuple[str, ...]) -> None:
    """Refuse a glob that fits no key: a mistyped one would leave a file without what was asked for.

    Raises
    ------
    StateDictError
    """
    if not include:
        return
    keys = [slot.key for slot in tree.slots()]
    for pattern in include:
        if not any(map(inside(pattern), keys)):
            some = safe_text(", ".join(keys[:3]), limit=160)
            raise StateDictError("this fits no name in the file", got=safe_text(pattern, limit=120),
                                 expected=f"a glob for keys such as {some}")  # fmt: skip


def inside(pattern: str) -> Callable[[str], object]:
    """Return whether a glob fits a key, or what a key begins with up to a dot: who names a container means all in it.

    Examples
    --------
    >>> [bool(inside("model.*")(key)) for key in ("model.fc", "model.fc.weight", "model", "models.fc")]
    [True, True, False, False]
    """
    return re.compile(rf"(?:{glob(pattern).pattern})(?:\..*)?", re.DOTALL).fullmatch


def cast_floats(tree: Tree, dtype: Any) -> dict[str, tuple[str, str]]:
    """Cast the floating-point tensors of a tree; return the types before and after, by key."""
    from weighlock.converting.derived import Caster
    from weighlock.state_dicts.casting import element_type

    row: DType = element_type(dtype)
    caster = Caster()
    done: dict[str, tuple[str, str]] = {}
    names: dict[int, str] = {}
    for slot in tree.slots():
        spec = slot.value
        if type(spec) is TensorSpec and (spec.dtype.kind == "f" or id(spec) in names) and spec.ref.location != "meta":
            old = names.setdefault(id(spec), spec.dtype.name)  # one tensor may stand at several places
            caster.cast(spec, row)
            if old != row.name:
                done[slot.key] = (old, row.name)
    return done


def flat_tensors(checkpoint: Checkpoint, root: Any) -> dict[str, Any]:
    """Return all tensors of an object by key; arrays of NumPy as tensors."""
    checkpoint.object = root
    rows = take_inventory(checkpoint).rows
    keys = spell([row.path for row in rows])
    return {key: _as_tensor(row.spec, key) for key, row in zip(keys, rows, strict=True)}


def _as_tensor(spec: Any, key: str) -> Any:
    if type(spec) is not NumpyArraySpec:
        return spec
    from weighlock.converting.derived import array_spec
    from weighlock.opening.making import make_whole

    return array_spec(make_whole([spec], "numpy", verify=True)[0], key)


def count_tensors(checkpoint: Checkpoint, root: Any) -> int:
    """Return how many tensors an object holds, and make it that of the checkpoint."""
    checkpoint.object = root
    return len(take_inventory(checkpoint).rows)


def refuse_program(root: Any) -> None:
    """Refuse a TorchScript program: no format here has a place for its code; `UnsupportedError`."""
    if type(root) is Stub and isinstance(root.global_ref, ScriptClass):
        raise UnsupportedError(
            "a TorchScript program cannot be written again: its code has no place in the new file",
            hint='take="state_dict" (--take state_dict) converts its weights.',
        )  # fmt: skip


def with_metadata(target: Target, checkpoint: Checkpoint) -> Target:
    """Return the target with the metadata of a safetensors source, where no others are given."""
    if target.format != "safetensors" or target.metadata is not None or checkpoint.format != "safetensors":
        return target
    return target._replace(metadata=dict(checkpoint.metadata.get("metadata", {})))


def needs_description(checkpoint: Checkpoint) -> bool:
    """Whether there is more to an object than a safetensors file says by itself."""
    from weighlock.formats.flat import DOCUMENT

    bare = checkpoint.format == "safetensors" and DOCUMENT not in checkpoint.metadata.get("metadata", {})
    return not (bare and type(checkpoint.object) is dict)
