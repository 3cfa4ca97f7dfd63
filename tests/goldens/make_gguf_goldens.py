"""Makes the golden GGUF files, with the `gguf` package of the ggml project: little-endian and big-endian.

usage: python -m tests.goldens.make_gguf_goldens FOLDER     (from the root of the project, with gguf 0.19 installed)
"""

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

VALUES: dict[str, Any] = {
    "uint8": 200, "int8": -100, "uint16": 60_000, "int16": -30_000, "uint32": 4_000_000_000, "int32": -2_000_000_000,
    "float32": 0.5, "bool": True, "string": "größer", "uint64": 1 << 63, "int64": -(1 << 62), "float64": 0.1,
}  # fmt: skip
ARRAYS: dict[str, Any] = {
    "words": ["<s>", "</s>", "ü"], "scores": [0.5, -1.5], "counts": [1, 2, 3], "flags": [True, False],
    "nested": [[1, 2], [3]],
}  # fmt: skip


def tensors() -> dict[str, Any]:
    """Return the arrays of the files that have a type of NumPy's own."""
    return {
        "f32": np.arange(24, dtype="float32").reshape(2, 3, 4),
        "f16": np.arange(6, dtype="float16").reshape(3, 2),
        "f64": np.arange(5.0),
        "i8": np.arange(-3, 4, dtype="int8"),
        "i16": np.arange(4, dtype="int16").reshape(2, 2),
        "i32": np.arange(3, dtype="int32"),
        "i64": np.arange(2),
    }


def main(folder: Path) -> None:
    """Write ``little.gguf``, ``big.gguf`` and the quantised bytes beside them."""
    import gguf

    folder.mkdir(parents=True, exist_ok=True)
    quantised = gguf.quants.quantize(np.linspace(-1, 1, 64, dtype="float32").reshape(2, 32),
                                     gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
    (folder / "q8_0.bin").write_bytes(quantised.tobytes())
    for order in (gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG):
        name = order.name.lower()
        writer = gguf.GGUFWriter(folder / f"{name}.gguf", "llama", endianess=order)
        writer.add_custom_alignment(64)
        for kind, value in VALUES.items():
            getattr(writer, f"add_{kind}")(f"test.{kind}", value)
        for key, items in ARRAYS.items():
            writer.add_array(f"test.{key}", items)
        for key, array in tensors().items():
            writer.add_tensor(key, array)
        if order is gguf.GGUFEndian.LITTLE:
            bfloat16 = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)
            writer.add_tensor("bf16", bfloat16.view("uint8"), raw_dtype=gguf.GGMLQuantizationType.BF16)
            writer.add_tensor("q8", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
