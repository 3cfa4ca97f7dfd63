"""``weighlock show``: the values of a tensor, or what stands at a place."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from weighlock.checkpoint import Checkpoint
from weighlock.cli import wording
from weighlock.cli.common import Common, check_target, taken, write_result, writing
from weighlock.cli.opening import lazily, open_checkpoint
from weighlock.cli.output import Output, Piece
from weighlock.errors import ArgumentError, UnsupportedError, WeighlockError
from weighlock.inspection import MAX_VALUES
from weighlock.inspection.leaves import LEAVES, Leaf, describe, strided_parts
from weighlock.inspection.paths import find, json_path, key_text, part_text
from weighlock.inspection.plain import kind_of, text_of
from weighlock.inspection.slicing import Index, parse_index, split_key
from weighlock.inspection.spelling import float_text, number_text
from weighlock.inspection.values import Values, read_values
from weighlock.objects import children
from weighlock.pickling.inert import Stub

__all__ = ["show_place"]

Lines = Iterator[Sequence[Piece]]

_ITEMS_SHOWN: Final = 1000
_TEXT_SHOWN: Final = 10_000
_LINE: Final = 100


def show_place(file: str, key: str, **options: Any) -> int:
    """Print what stands at `key` in a file; return the exit code. Options: `everything`, `dtype`, and `Common`."""
    common = taken(options)
    everything, dtype = options.get("everything", False), options.get("dtype")
    if common.target is not None and common.target.endswith(".npy"):
        return _save(file, key, dtype, common)
    if dtype is not None:
        raise ArgumentError("--dtype is for arrays that are saved", hint="Add -o NAME.npy.")
    with writing(common, (file,)) as output, open_checkpoint(file, common.encoding) as checkpoint:
        try:
            _show(checkpoint, key, everything, common.form, output)
        except WeighlockError as error:
            error.locate(path=file)
            raise
    return 0


def _save(file: str, key: str, dtype: str | None, common: Common) -> int:
    """Save a tensor, or a slice of it, as an array of NumPy's own format."""
    import io

    assert common.target is not None  # noqa: S101 - as the caller has seen
    check_target(common.target, (file,), force=common.force)
    with lazily(open_checkpoint(file, common.encoding)) as ckpt:
        path, value, index = _resolve(ckpt.object, key)
        if type(value) not in LEAVES:
            raise UnsupportedError("only tensors can be saved as .npy", got=kind_of(value), path=file)
        tensor = ckpt[path]
        array = tensor.read(dtype=dtype) if index is None else tensor.read_part(index, dtype=dtype)
    import numpy as np

    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind in "OV" or array.dtype.isbuiltin != 1:
        name = tensor.layout if tensor.dtype is None else f"{tensor.layout} {tensor.dtype.name}"
        hint = "Cast it: --dtype float32."
        raise UnsupportedError(".npy has no form for this kind of tensor", got=name, path=file, hint=hint)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_result(common, buffer.getvalue())
    return 0


def _show(checkpoint: Checkpoint, key: str, everything: bool, form: str, output: Output) -> None:
    path, value, index = _resolve(checkpoint.object, key)
    limit = None if everything else MAX_VALUES
    facts: dict[str, Any] = {"uri": checkpoint.name, "key": key_text(path), "path": json_path(path)}
    leaf = describe(value) if type(value) in LEAVES else None
    if leaf is not None and _has_values(leaf, value):
        values = read_values(checkpoint, value, index or (), limit=limit)
        if output.json:
            _write_document(output, facts | _tensor_facts(leaf, values, index))
        elif form != "text":
            output.cells(_rows(values), comma=form == "csv")
        else:
            output.lines(_tensor_lines(f"{key_text(path)}", leaf, values, index))
        return
    if index is not None:
        value = _part_of(value, index)
    if output.json:
        _write_document(output, facts | _object_facts(value))
    elif form != "text":
        output.cells([(part_text(part), kind_of(child), _text_of(child)) for part, child in _held(value)]
                     or [(kind_of(value), _text_of(value))], comma=form == "csv")  # fmt: skip
    else:
        output.lines(_object_lines(key_text(path), value, None if everything else _ITEMS_SHOWN))


def _rows(values: Values) -> Iterator[list[object]]:
    """Yield the values in rows of their last dimension."""
    length = max(values.shape[-1], 1) if values.shape else 1
    cells: list[object] = [value if isinstance(value, int | float) else number_text(value, values.dtype)
                           for value in values.flat]  # fmt: skip
    return (cells[start : start + length] for start in range(0, len(cells), length))


def _write_document(output: Output, facts: dict[str, Any]) -> None:
    from weighlock.cli.documents import document

    output.document(document("weighlock/show", **facts))


def _resolve(root: Any, key: str) -> tuple[tuple[Any, ...], Any, Index | None]:
    """Find what a key names; a slice at its end may as well be a part of the name."""
    name, text = split_key(key)
    try:
        return *find(root, key), None
    except ArgumentError:
        if text is None or not name:
            raise
    return *find(root, name), parse_index(text)


def _has_values(leaf: Leaf, spec: Any) -> bool:
    return leaf.layout in ("strided", "packed", "numpy") or leaf.layout.startswith("quantized") or (
        leaf.layout == "subclass" and any(name in ("", "tensor") for name, _ in strided_parts(spec)[:1])
    )  # fmt: skip


def _part_of(value: Any, index: Index) -> Any:
    if len(index) != 1 or index[0] is Ellipsis or not isinstance(value, list | tuple):
        raise UnsupportedError("only tensors, lists and tuples can be sliced", got=kind_of(value))
    try:
        return value[index[0]]
    except (IndexError, ValueError) as error:
        raise ArgumentError(str(error), got=f"{len(value)} items") from error


def _tensor_facts(leaf: Leaf, values: Values, index: Index | None) -> dict[str, Any]:
    from weighlock.cli.documents import json_value

    found = {
        "kind": "tensor", "dtype": leaf.dtype, "layout": leaf.layout, "tensor_shape": leaf.shape,
        "sliced": index is not None, "shape": values.shape,
        "values": values.nested([json_value(value) for value in values.flat]),
    }  # fmt: skip
    if values.dequantized is not None:
        found["dequantized"] = values.nested([json_value(value) for value in values.dequantized])
    return found


def _object_facts(value: Any) -> dict[str, Any]:
    from weighlock.cli.documents import json_value

    plain = value is None or isinstance(value, bool | int | float | complex | str)
    items = [
        {"key": json_path((part,))[0], "type": kind_of(child), "text": _text_of(child)} for part, child in _held(value)
    ]
    return {
        "kind": "object",
        "type": kind_of(value),
        "text": _text_of(value),
        "value": json_value(value) if plain else None,
        "items": items,
    }


def _held(value: Any) -> Iterator[tuple[Any, Any]]:
    if type(value) in LEAVES:
        return iter(strided_parts(value))
    pairs = value.children() if type(value) is Stub else children(value)
    return (pair for pair in pairs if pair[0] != "<key>")


def _text_of(value: Any) -> str:
    if type(value) in LEAVES:
        leaf = describe(value)
        return f"{wording.kind(leaf)} {wording.shape(leaf.shape)} {wording.size(leaf.nbytes)}"
    if isinstance(value, str | bytes):
        return repr(value[:_TEXT_SHOWN]) + ("…" if len(value) > _TEXT_SHOWN else "")
    return text_of(value)


def _object_lines(name: str, value: Any, limit: int | None) -> Lines:
    kind = wording.kind(describe(value)) if type(value) in LEAVES else kind_of(value)
    yield [(name, "name"), "  ", (kind, "type")]
    held = _held(value)
    if type(value) is Stub or not (shown := list(islice(held, limit))):
        yield [_text_of(value)]
        shown = list(islice(held, limit))
    for part, child in shown:
        yield [f"  {part_text(part)}: ", _text_of(child)]
    rest = sum(1 for _ in held)
    if rest:
        yield [(f"  … {rest:,} more: --all shows them", "note")]


def _tensor_lines(name: str, leaf: Leaf, values: Values, index: Index | None) -> Lines:
    part = f" of {wording.shape(leaf.shape)}" if index is not None else ""
    yield [(name, "name"), "  ", (wording.kind(leaf), "type"), f"  {wording.shape(values.shape)}{part}"]
    yield from _array_lines(values, [number_text(value, values.dtype) for value in values.flat])
    if values.dequantized is not None:
        yield [("dequantized", "note")]
        yield from _array_lines(values, [float_text(value, "float64") for value in values.dequantized])


def _array_lines(values: Values, texts: list[str]) -> Lines:
    """Draw nested brackets, the innermost rows on lines of their own, broken where they are long."""
    if not values.shape:
        yield [texts[0]]
        return
    if not texts:
        yield ["[]"]
        return
    width = max(map(len, texts))
    depth, row = len(values.shape), values.shape[-1]
    lengths = values.shape
    for start in range(0, len(texts), row):
        opened = _turned(start, lengths)
        closed = _turned(start + row, lengths)
        cells = [text.rjust(width) for text in texts[start : start + row]]
        broken = list(_broken(cells, width, depth))
        broken[0] = " " * (depth - opened) + "[" * opened + broken[0]
        broken[-1] += "]" * closed + ("" if closed == depth else ",")
        for line in broken:
            yield [line]


def _turned(at: int, lengths: Sequence[int]) -> int:
    """Return how many brackets open before element `at` (or close behind the one before it)."""
    turned, span = 0, 1
    for length in reversed(lengths):
        span *= length
        if at % span:
            break
        turned += 1
    return turned


def _broken(cells: list[str], width: int, depth: int) -> Iterator[str]:
    per_line = max(1, (_LINE - depth) // (width + 2))
    for start in range(0, len(cells), per_line):
        more = "," if start + per_line < len(cells) else ""
        yield (" " * depth if start else "") + ", ".join(cells[start : start + per_line]) + more
