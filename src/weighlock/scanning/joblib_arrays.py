"""Arrays that joblib writes between the opcodes of a pickle: their bytes are no opcodes, and are passed over.

Behind the BUILD of a `NumpyArrayWrapper` come a byte with the length of the padding, the padding (only since joblib
1.2, where the wrapper says how arrays are aligned), and the array's bytes. An array of objects is a pickle of its own
there, which is run like any other.
"""

import re
from typing import Any, Final

from weighlock.pickling.inert import Stub
from weighlock.tensors.spec import NumpyDtypeSpec

__all__ = ["JOBLIB_NAMES", "skip_array"]

JOBLIB_NAMES: Final = frozenset({
    ("joblib.numpy_pickle", "NumpyArrayWrapper"),
    ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"),
})  # fmt: skip

_WIDTHS: Final = {"b": 1, "B": 1, "?": 1, "h": 2, "H": 2, "e": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8, "d": 8}
_SIZED: Final = re.compile(r"[<>|=]?([biufcSV?MmU])(\d{1,9})\Z")


def skip_array(recorder: Any, stub: Stub, position: int) -> int | None:
    """Return where the array behind the BUILD that ends at `position` ends; None where there is none."""
    if (stub.module, stub.name) not in JOBLIB_NAMES:
        return None
    state = stub.attributes()
    dtype, shape = state.get("dtype"), state.get("shape")
    if not isinstance(dtype, NumpyDtypeSpec) or not isinstance(shape, tuple):
        return None
    if dtype.code.lstrip("<>|=") in ("O", "O8", "O4"):
        made, end = recorder.context.reader.unpickle(recorder.data, start=position)
        recorder.note("array", None, made)
        return int(end)
    width = _width(dtype.code)
    if width is None or not all(type(length) is int and length >= 0 for length in shape):
        return None
    if state.get("numpy_array_alignment_bytes") is not None and position < len(recorder.data):
        position += 1 + recorder.data[position]
    for length in shape:
        width *= length
    return position + width


def _width(code: str) -> int | None:
    if code in _WIDTHS:
        return _WIDTHS[code]
    found = _SIZED.match(code)
    if found is None:
        return None
    return int(found[2]) * (4 if found[1] == "U" else 1)
