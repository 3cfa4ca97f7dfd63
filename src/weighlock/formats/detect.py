"""The only list of formats: which one a file is, by its content, never by its name."""

from weighlock.errors import (
    DamagedError,
    DirectoryError,
    NotACheckpointError,
    ScriptArchiveError,
    UnsupportedError,
    WeighlockError,
)
from weighlock.formats import torch_zip
from weighlock.formats.reading import Contents, Reading
from weighlock.formats.zip_archive import called
from weighlock.formats.zip_directory import ZipDirectory, read_directory, read_record
from weighlock.storages.folders import FolderSource
from weighlock.storages.source import ByteSource, BytesSource

__all__ = ["FORMATS", "is_index", "read_any", "read_archive", "read_file"]

FORMATS = (
    "torch-zip",
    "torch-legacy",
    "torch-tar",
    "torchscript",
    "pickle",
    "safetensors",
    "npy",
    "npz",
    "gguf",
    "sharded",
    "dcp",
    "deepspeed",
)

_HEAD = 4096


def read_file(source: ByteSource, reading: Reading) -> Contents:
    """Read a file as a whole: `read_any`, and whatever it fails to foresee leaves as our error.

    Raises
    ------
    CheckpointError
    """
    try:
        return read_any(source, reading)
    except WeighlockError:
        raise
    # The promise is kept here, not made here: each room translates what it expects, and says more than this can.
    except Exception as error:
        raise DamagedError(f"the file cannot be read: {type(error).__name__}: {error}") from error


def read_any(source: ByteSource, reading: Reading) -> Contents:
    """Read whatever checkpoint `source` holds.

    Raises
    ------
    NotACheckpointError
        If it is something else; the message says what.
    CheckpointError
        If it is a checkpoint that cannot be read.
    """
    if isinstance(source, FolderSource):
        return _read_folder(source, reading)
    reading.justify(source.size)
    head = source.read_at(0, min(source.size, _HEAD))
    if head[:4] == b"PK\x03\x04":
        return read_archive(source, read_directory(source, reading.limits), reading)
    return _read_other(source, head, reading)


def _read_other(source: ByteSource, head: bytes, reading: Reading) -> Contents:
    """Read what is no zip archive. The other formats are imported when a file may be of one."""
    if head[:6] == b"\x93NUMPY":
        from weighlock.formats.npy import read_npy

        return read_npy(source, reading)
    if head[:4] == b"GGUF":
        from weighlock.formats.gguf import read as read_gguf

        return read_gguf(source, reading)
    if _is_safetensors(head, source.size):
        from weighlock.formats.safetensors import read as read_safetensors

        return read_safetensors(source, reading)
    return _read_old(source, head, reading)


def _read_old(source: ByteSource, head: bytes, reading: Reading) -> Contents:
    from weighlock.formats import plain_pickle, torch_legacy, torch_tar
    from weighlock.formats.foreign import describe_foreign

    # PyTorch asks whether the file is a tar archive first: the name of its first member may be a legacy stream's magic.
    if torch_tar.matches(head):
        if torch_tar.find_members(source):
            return torch_tar.read(source, reading)
        if not torch_legacy.matches(head):
            raise describe_foreign(source)
    if torch_legacy.matches(head):
        return torch_legacy.read(source, reading)
    foreign = describe_foreign(source) if head[:1] != b"\x80" else None
    if foreign is not None and getattr(foreign, "kind", None) not in _COULD_BE_PICKLES:
        raise foreign
    if plain_pickle.looks_like(source, head):
        contents = plain_pickle.read(source, reading)
        if type(contents.object) is int and contents.object == torch_legacy.MAGIC:
            # Never its value: PyTorch goes by the number, however it is spelled, and reads what follows.
            raise DamagedError("the magic number of a legacy stream is written as no pickler writes it", offset=0)
        return contents
    raise foreign or describe_foreign(source)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins with the length of a JSON object that fits into it."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and 2 <= length <= size - 8 and head[8:9] == b"{"


def is_index(source: ByteSource) -> bool:
    """Whether a file is the index of a set of several files."""
    # Asked of every file that is opened: nearly all are none.
    if source.read_at(0, min(source.size, 16)).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b""):
        return False
    from weighlock.formats.sharded import looks_like_index

    return looks_like_index(source)


def _read_folder(source: FolderSource, reading: Reading) -> Contents:
    from weighlock.formats import dcp, deepspeed, sharded

    if source.index is not None:
        return sharded.read(source, source.index, reading)
    names = _names(source)
    if dcp.METADATA in names:
        return dcp.read(source, reading)
    entry = sharded.find_entry(names)
    if entry is not None and not sharded.is_alone(entry, names):
        return sharded.read_entry(source, entry, reading)
    if dcp.is_hub_form(names):
        return dcp.read_hub_form(source, reading)
    tag = None if deepspeed.is_zero(names) else deepspeed.find_tag(source, names)
    if tag is not None:
        inside = source.folder.below(tag)
        return deepspeed.read(source, [] if inside is None else inside.names(), f"{tag}/", reading)
    if deepspeed.is_zero(names):
        return deepspeed.read(source, names, "", reading)
    if entry is not None:
        return sharded.read_entry(source, entry, reading)
    dcp.refuse_without_index(source, names)
    from weighlock.formats.foreign import describe_folder

    raise describe_folder(source.name)


def _names(source: FolderSource) -> list[str]:
    """Return what a folder holds; where there is no list, what checkpoints begin with is asked for by name."""
    from weighlock.formats import dcp, sharded

    try:
        names = source.names()
    except UnsupportedError:
        found = next((name for name in (dcp.METADATA, *sharded.PREFERRED) if source.has(name)), None)
        if found is None:
            raise
        return [found]
    # DeepSpeed's script writes a folder of this name.
    return [name for name in names if name not in sharded.WHOLE or source.folder.below(name) is None]


# Kinds that the description of foreign files gives to whatever it does not know: a pickle of protocol 0 is text.
_COULD_BE_PICKLES = frozenset({None, "text", "unknown", "python"})


def read_archive(source: ByteSource, directory: ZipDirectory, reading: Reading) -> Contents:
    """Read the checkpoint in a zip archive whose directory is read already; raises as `read_any`."""
    if called(directory, "data.pkl"):
        program = bool(called(directory, "constants.pkl"))
        if program and not reading.options.scripts:
            raise ScriptArchiveError("the file is a TorchScript archive", path=source.name)
        if not program:
            return torch_zip.read(source, directory, reading)
        from weighlock.formats import torchscript

        return torchscript.read(source, directory, reading)
    files = [record for record in directory.records if not record.name.endswith("/")]
    if files and all(record.name.endswith(".npy") for record in files):
        from weighlock.formats.npy import read_npz

        return read_npz(source, directory, reading)
    if len(files) == 1:
        return _read_only_member(source, directory, reading)
    from weighlock.formats.foreign import describe_foreign

    raise describe_foreign(source)


def _read_only_member(source: ByteSource, directory: ZipDirectory, reading: Reading) -> Contents:
    """Read an archive whose one file is itself a checkpoint: how early hubs compressed their weights."""
    record = next(record for record in directory.records if not record.name.endswith("/"))
    data = read_record(source, record, reading.limits, verify=reading.verify)
    inner = BytesSource(data, f"{source.name}/{record.name}")
    try:
        with reading.enclosed():
            contents = read_any(inner, reading)
    except NotACheckpointError as error:
        from weighlock.formats.foreign import describe_foreign

        raise describe_foreign(source) from error
    if contents.format == "torch-zip" and len(directory.records) > 1:
        raise DirectoryError("a checkpoint beside other entries in an archive", path=source.name)
    contents.end = source.size
    from weighlock.formats.zip_rows import zip_rows

    contents.layout = lambda: zip_rows(source, directory, frozenset())
    notes = contents.notes
    contents.notes = lambda: {**notes(), "inside": record.name}
    return contents
