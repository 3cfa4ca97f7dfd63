"""One plan, one file: a checkpoint's description in the form of a target, and what copies its data there."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from weighlock.converting.flat import SpecLeaves
from weighlock.converting.streams import storage_stream
from weighlock.errors import ArgumentError, UnsupportedTypeError
from weighlock.formats.flat import flatten, views_of_others
from weighlock.storages.copying import Progress
from weighlock.storages.refs import StorageRef
from weighlock.storages.sinks import Sink, Stream

__all__ = ["Form", "Written", "prepare"]

ALIASES: Final = ("record", "clone", "error")


class Form(NamedTuple):
    """How a file is written.

    Attributes
    ----------
    format : str
    structure : bool
        Describe the structure of the object in a safetensors file.
    aliases : str
        One of `ALIASES`.
    metadata : mapping of str to str
        Of a safetensors file.
    verify : bool
        Check the CRC-32 of storages that have to be read as a whole.
    progress : callable or None
    """

    format: str
    structure: bool = True
    aliases: str = "record"
    metadata: Mapping[str, str] | None = None
    verify: bool = True
    progress: Progress | None = None


class Written(NamedTuple):
    """A file that is ready to be written.

    Attributes
    ----------
    write : callable
        Writes it to a sink.
    nbytes : int
        Bytes of data that are moved.
    aliases : dict of str to str
        The tensors that are stored as views of others: of which.
    copies : list of str
        Those that shared memory with others, and are stored by themselves.
    checksums : dict of int to int
        When it was written: the CRC-32 of the bytes that were read from a storage, by the identity of its `StorageRef`.
    """

    write: Callable[[Sink], None]
    nbytes: int
    aliases: dict[str, str]
    copies: list[str]
    checksums: dict[int, int]


def prepare(root: Any, form: Form) -> Written:
    """Describe an object for a format; everything that can be wrong with it is found here.

    Raises
    ------
    UnsupportedTypeError, SaveError
        If the format has no form for something in it.
    """
    if form.format in ("torch-zip", "torch-legacy"):
        return _torch(root, form)
    return _safetensors(root, form) if form.format == "safetensors" else _npz(root, form)


def _torch(root: Any, form: Form) -> Written:
    from weighlock.converting.describing import pickled, records
    from weighlock.formats.legacy_writer import write_legacy
    from weighlock.formats.zip_writer import write_zip

    zipped = form.format == "torch-zip"
    pickle, describer = pickled(root, zipped=zipped)

    def stream(ref: StorageRef, low: int, high: int) -> Stream:
        return storage_stream(ref, low, high, form.progress, verify=form.verify)

    stored = records(describer, stream)
    checksums: dict[int, int] = {}

    def write(sink: Sink) -> None:
        if not zipped:
            write_legacy(sink, pickle, stored, describer.unit_sizes, 2)
            return
        for one, crc in zip(describer.stored, write_zip(sink, pickle, stored), strict=True):
            if one.nbytes == one.ref.nbytes:
                checksums[id(one.ref)] = crc

    return Written(write, sum(stored.sizes), {}, [], checksums)


def _safetensors(root: Any, form: Form) -> Written:
    from weighlock.formats.safetensors_writer import safetensors_header, write_safetensors

    leaves = SpecLeaves(form.progress, verify=form.verify)
    flattened = flatten(root, leaves.leaf, leaves.note, exact=form.structure, aliases=form.aliases != "clone")
    header, tensors = safetensors_header(flattened, form.metadata)
    views = (flattened.document or {}).get("aliases", {})
    if form.aliases == "error":
        _refuse(views)
    aliases = {name: of if isinstance(of, str) else of["of"] for name, of in views.items()}
    nbytes = sum(tensor.leaf.nbytes for tensor in tensors)
    return Written(lambda sink: write_safetensors(sink, header, tensors), len(header) + nbytes, aliases, [], {})


def _npz(root: Any, form: Form) -> Written:
    from weighlock.flattening import named_leaves
    from weighlock.formats.npz_writer import check_npz_names, has_npy_code, write_npz

    leaves = SpecLeaves(form.progress, verify=form.verify)
    hint = "Take the tensors alone, or convert to safetensors."
    named = named_leaves(root, leaves.leaf, "an .npz archive holds arrays by name, and nothing else", hint)
    check_npz_names(list(named))
    for name, leaf in named.items():
        if not has_npy_code(leaf.dtype):
            raise UnsupportedTypeError(
                f"NumPy has no type of its own for {leaf.dtype.name}", object_path=name,
                hint='Cast it, dtype="float32" (--dtype float32), or convert to safetensors.',
            )  # fmt: skip
    views = views_of_others(named)
    if form.aliases == "error":
        _refuse(views)
    return Written(
        lambda sink: write_npz(sink, named), sum(leaf.nbytes for leaf in named.values()), {}, list(views), {}
    )


def _refuse(views: Mapping[str, Any]) -> None:
    for name, of in views.items():
        other = of if isinstance(of, str) else of["of"]
        raise UnsupportedTypeError(
            f"a tensor shares memory with another one: {other}", object_path=name,
            hint='aliases="record" notes it in the file, aliases="clone" stores both.',
        )  # fmt: skip


def check_aliases(aliases: str) -> None:
    """Refuse an unknown treatment of shared memory; `ArgumentError`."""
    if aliases not in ALIASES:
        raise ArgumentError("unknown treatment of shared memory", expected=f"one of {', '.join(ALIASES)}",
                            got=repr(aliases)[:40])  # fmt: skip
