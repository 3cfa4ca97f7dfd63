"""Arrays that joblib writes between the opcodes of a pickle: their bytes are no opcodes, and are passed over.

Behind the BUILD of a `NumpyArrayWrapper` come a byte with the length of the padding, the padding (only since joblib
1.2, where the wrapper says how arrays are aligned), and the array's bytes. An array of objects is a pickle of its own
there, which is run like any other. Where the length of what is to be passed over cannot be told for sure, the run ends:
joblib would go on at another byte than we. And whoever unpickles the file without joblib passes over nothing: that
reading is run as well.
"""

from typing import Any, Final

from weighlock.errors import PickleStreamError
from weighlock.pickling.inert import Stub
from weighlock.scanning.numpy_types import holds_objects, itemsize
from weighlock.tensors.spec import NumpyDtypeSpec

__all__ = ["JOBLIB_NAMES", "skip_array"]

JOBLIB_NAMES: Final = frozenset({
    ("joblib.numpy_pickle", "NumpyArrayWrapper"),
    ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"),
})  # fmt: skip


def skip_array(recorder: Any, stub: Stub, position: int) -> int | None:
    """Return where the array behind the BUILD that ends at `position` ends; None where there is none.

    Raises
    ------
    PickleStreamError
        If that cannot be told.
    """
    if (stub.module, stub.name) not in JOBLIB_NAMES:
        return None
    recorder.skipped.append((stub, position))
    state = stub.attributes()
    dtype, shape = state.get("dtype"), state.get("shape")
    again = sum(one is stub for one, _ in recorder.skipped) > 1
    lengths = shape if isinstance(shape, tuple) else (None,)
    if again or type(dtype) is not NumpyDtypeSpec or not all(type(one) is int and one >= 0 for one in lengths):
        raise PickleStreamError("how long an array of joblib's is cannot be told", offset=position)
    if holds_objects(dtype):
        made, end = recorder.context.reader.unpickle(recorder.data, start=position)
        recorder.note("array", None, made)
        return int(end)
    width = itemsize(dtype)
    if width is None:
        raise PickleStreamError("how long an array of joblib's is cannot be told", got=dtype.code, offset=position)
    if state.get("numpy_array_alignment_bytes") is not None and position < len(recorder.data):
        position += 1 + recorder.data[position]
    for length in lengths:
        width *= length
    return position + width
