"""Writing safetensors files, byte for byte as the safetensors package 0.8 writes them.

Tensors are ordered by type, then by name; the header is JSON without spaces, filled up to a multiple of eight bytes.
"""

import json
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any, Final

from weighlock.dtypes import VALUES_PER_UNIT, DType
from weighlock.errors import ArgumentError, SaveError, UnsupportedTypeError
from weighlock.formats.flat import DOCUMENT, Flattened, FlatTensor
from weighlock.storages.sinks import GATHER_UP_TO, GatheringSink, Sink

__all__ = ["safetensors_header", "write_safetensors"]

# The package's order of types; files begin with the last.
_ORDER: Final = (
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
    "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
)  # fmt: skip
_RANK: Final = {code: len(_ORDER) - index for index, code in enumerate(_ORDER)}
_LONGEST: Final = 100_000_000


def safetensors_header(flattened: Flattened, metadata: Mapping[str, str] | None) -> tuple[bytes, list[FlatTensor]]:
    """Return the first bytes of a file, and its tensors in the order of their data.

    Raises
    ------
    UnsupportedTypeError
        If safetensors has no code for an element type.
    SaveError
        If a name cannot be written, or the header is longer than the package reads.
    ArgumentError
        If the metadata are no strings by name.
    """
    tensors = _in_order(flattened.tensors)
    entries = []
    if metadata is not None or flattened.document is not None:
        entries.append(f'"__metadata__":{_json(_metadata(metadata, flattened))}')
    position = 0
    forms: dict[Any, str] = {}
    for name, leaf in tensors:
        dtype, shape, _, _, nbytes, *_ = leaf
        form = forms.get((dtype, shape)) or forms.setdefault((dtype, shape), _form(dtype, shape, name))
        end = position + nbytes
        entries.append(f'{encode_basestring(name)}:{form}"data_offsets":[{position},{end}]}}')
        position = end
    try:
        text = f"{{{','.join(entries)}}}".encode()
    except UnicodeEncodeError as error:
        raise SaveError("a name is no valid Unicode text, and safetensors has no form for it") from error
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST:
        raise SaveError("the safetensors header is too long", expected=f"at most {_LONGEST} bytes", got=str(len(text)))
    return len(text).to_bytes(8, "little") + text, tensors


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _form(dtype: DType, shape: tuple[int, ...], name: str) -> str:
    """Return how an entry begins: what many tensors have in common."""
    lengths = list(shape)
    if dtype.name in VALUES_PER_UNIT:
        if not lengths:
            raise UnsupportedTypeError("safetensors has no packed type without a dimension", object_path=name)
        lengths[-1] *= VALUES_PER_UNIT[dtype.name]
    return f'{{"dtype":"{dtype.safetensors_code}","shape":{_json(lengths)},'


def _in_order(tensors: Sequence[FlatTensor]) -> list[FlatTensor]:
    ranks: dict[DType, int] = {}
    for name, leaf in tensors:
        if leaf.dtype not in ranks:
            code = leaf.dtype.safetensors_code
            if code is None:
                raise UnsupportedTypeError(
                    f"safetensors has no code for {leaf.dtype.name}", object_path=name,
                    hint="Save it in PyTorch's own format, or convert it.",
                )  # fmt: skip
            ranks[leaf.dtype] = _RANK[code]
        if name == "__metadata__":
            raise SaveError("safetensors keeps the name __metadata__ for itself", object_path=name)
    return sorted(tensors, key=lambda tensor: (ranks[tensor[1][0]], tensor[0]))


def _metadata(metadata: Mapping[str, str] | None, flattened: Flattened) -> dict[str, str]:
    found = dict(metadata or {})
    if not all(type(key) is str and type(value) is str for key, value in found.items()):
        raise ArgumentError("the metadata of a safetensors file are strings by name", got=repr(found)[:80])
    if DOCUMENT in found:
        raise ArgumentError(f"the metadata key {DOCUMENT!r} is kept for the structure of the object")
    if flattened.document is not None:
        found[DOCUMENT] = _json(flattened.document)
    return found


def write_safetensors(sink: Sink, header: bytes, tensors: Sequence[FlatTensor]) -> None:
    """Write a file: what `safetensors_header` returned."""
    sink.reserve(len(header) + sum(leaf.nbytes for _, leaf in tensors))
    gathering = GatheringSink(sink)
    gathering.write(header)
    for name, leaf in tensors:
        if leaf.buffer is not None and leaf.nbytes <= GATHER_UP_TO:
            gathering.gather(leaf.buffer, leaf.nbytes)
            continue
        written = 0
        for piece in leaf.pieces():
            gathering.write(piece)
            written += len(piece)
        if written != leaf.nbytes:
            raise AssertionError(f"tensor {name} has {written} bytes instead of {leaf.nbytes}")
    gathering.flush()
