"""Beside C's unpickler: what a scan calls clean names nothing to it that the report does not.

Python's own machine in C runs the file as it comes, the records that Python's zipfile gives, and those that PyTorch's
reader gives where PyTorch is there. It imports nothing: each name becomes a class of its own that takes any call.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Self

import weighlock as wl
from tests.fuzzing.targets import BrokenPromiseError, Outcome
from weighlock.text import safe_text

__all__ = ["beside_pickle", "names_in_c"]

_MOST_PICKLES = 50
_REAL = {("collections", "OrderedDict"): OrderedDict}


_CALLS: list[None] = []


class _Anything:
    """Stands for every class and function: made, called, filled and given a state without an effect."""

    def __new__(cls, *_args: Any, **_keywords: Any) -> Self:
        _CALLS.append(None)
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_keywords: Any) -> None: ...

    def __call__(self, *_args: Any, **_keywords: Any) -> _Anything:
        return self

    def __setstate__(self, _state: Any) -> None: ...

    def append(self, _item: Any) -> None: ...

    def extend(self, _items: Any) -> None: ...

    def add(self, _item: Any) -> None: ...

    def __setitem__(self, _key: Any, _value: Any) -> None: ...


class _Watched(pickle.Unpickler):
    """The machine in C; what it asks for is in `names`."""

    def __init__(self, data: io.BytesIO) -> None:
        super().__init__(data, encoding="latin1", errors="replace")
        self.names: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        if "\0" not in module.partition(".")[0]:  # Python finds no such module
            self.names.add((module, name))
        return _REAL.get((module, name)) or type("Anything", (_Anything,), {})

    def persistent_load(self, _pid: Any) -> Any:
        return _Anything()


def names_in_c(data: bytes) -> set[tuple[str, str]]:
    """Every global that the pickles from the first byte on look up, one pickle behind the other."""
    stream = io.BytesIO(data)
    found: set[tuple[str, str]] = set()
    for _ in range(_MOST_PICKLES):
        machine, begin = _Watched(stream), stream.tell()
        try:
            machine.load()
        except Exception:  # whatever ends it: what it has looked up by then counts
            # A word of a text may be a name that nothing is made of, before a byte that is no opcode.
            return found | machine.names if _CALLS else found
        finally:
            _CALLS.clear()
        found |= machine.names
        if stream.tell() <= begin:
            break
    return found


def _views(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Give what readers would unpickle: the file as it is, and the pickles that they find in it as an archive."""
    yield "the file", data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist()[:50]:
                if name.endswith(".pkl") and archive.getinfo(name).file_size < 1 << 20:
                    yield f"zipfile's {name}", archive.read(name)
    except Exception:  # not an archive to zipfile
        pass
    if data[:2] == b"PK":
        yield from _by_torch(data)


def _by_torch(data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        import torch
    except ImportError:
        return
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(data))
        names = [name for name in reader.get_all_records() if name.endswith(".pkl")]
        for name in dict.fromkeys(["data.pkl", *names[:50]]):
            yield f"PyTorch's {name}", reader.get_record(name)
    except Exception:  # what its reader in C++ raises on malformed names is anything
        return


def beside_pickle(f: Any) -> Outcome:
    """Scan; of what is clean, every name that C's machine looks up must stand in the report."""
    report = wl.scan(f)
    if report.verdict != "clean" or not isinstance(f, bytes):
        return Outcome(report.verdict, None)
    told = {use.name for file in report.files for use in file.globals}
    for view, data in _views(f):
        missing = {name for name in names_in_c(data) if safe_text(".".join(name), limit=300) not in told}
        if missing:
            raise BrokenPromiseError(f"the scan is clean, but {view} names {sorted(missing)[:3]}")
    return Outcome("clean", None)
