"""TorchScript archives: weights and attributes as data. None of the code inside is compiled or run.

The archive is a zip as in `torch_zip`, with ``constants.pkl`` beside ``data.pkl`` and the program's text in ``code/``.
Every scripted class becomes a `Stub` whose attributes are its state. Which attributes are parameters and which are
buffers is written in the program's text (``__parameters__``, ``__buffers__``) and is read from there, as text.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from weighlock.errors import PickleStreamError
from weighlock.formats.reading import Contents, Reading
from weighlock.formats.zip_archive import ZipArchive
from weighlock.formats.zip_directory import ZipDirectory
from weighlock.pickling.allowlist import Known
from weighlock.pickling.inert import Described, ScriptClass
from weighlock.storages.source import ByteSource

__all__ = ["VALUE_ROWS", "ScriptRows", "read"]

Args = tuple[Any, ...]


def _tagged(_: Any, args: Args) -> Any:
    """`restore_type_tag(value, type)` and `build_intlist(list)`: the value itself."""
    if not args:
        raise PickleStreamError("a TorchScript value without its value")
    return args[0]


_JIT_NAMES: Final = (
    "build_intlist", "build_doublelist", "build_boollist", "build_complexlist", "build_tensorlist", "restore_type_tag",
)  # fmt: skip


def _value_row(module: str, name: str) -> Callable[[], Known]:
    return lambda: Known(Described(module, name), _tagged)


VALUE_ROWS: Final = {("torch.jit._pickle", name): _value_row("torch.jit._pickle", name) for name in _JIT_NAMES}
"""What TorchScript wraps around lists and dictionaries, to say their types."""


class ScriptRows:
    """Every class of the archive's own program is known data, whatever its name."""

    def __init__(self, members: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
        self._members: Final = members

    def get(self, key: tuple[str, str]) -> Callable[[], Known] | None:
        module, name = key
        if module == "__torch__" or module.startswith("__torch__."):
            members = self._members.get(f"{module}.{name}")
            return lambda: Known(ScriptClass(module, name, members))
        return VALUE_ROWS.get(key)


_CLASS: Final = re.compile(
    r"^class (?P<name>\w+)\([^)]*\):\n"
    r"(?:  __parameters__ = \[(?P<parameters>[^\]]*)\]\n)?(?:  __buffers__ = \[(?P<buffers>[^\]]*)\]\n)?",
    re.MULTILINE,
)
_NAME: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_MAX_CODE: Final = 64 << 20


def read(source: ByteSource, directory: ZipDirectory, reading: Reading) -> Contents:
    """Read the object of a TorchScript archive: a tree of stubs.

    Raises
    ------
    DamagedError, PickleStreamError
        As `torch_zip.read`.
    """
    archive = ZipArchive(source, directory, reading)
    made, _ = reading.unpickle(
        archive.record("data.pkl"),
        archive.storage_loader("data/", "tensors/"),
        record=f"{archive.root}data.pkl",
        allowlist=reading.allowlist.extended(ScriptRows(script_members(archive))),
        plain=True,
    )
    return Contents(made, "torchscript", source.size, archive.notes, archive.storages, layout=archive.layout)


def script_members(archive: ZipArchive) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return, for each class of the program, the names of its parameters and of its buffers."""
    found: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    total = 0
    for name, record in archive.records.items():
        if not name.startswith("code/") or not name.endswith(".py"):
            continue
        total += record.size
        if total > _MAX_CODE:
            break
        module = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for match in _CLASS.finditer(archive.record(name).decode("utf-8", "replace")):
            if match["parameters"] is None:
                continue
            parameters, buffers = (tuple(_NAME.findall(match[kind] or "")) for kind in ("parameters", "buffers"))
            found[f"{module}.{match['name']}"] = parameters, buffers
    return found
