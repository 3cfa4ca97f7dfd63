"""The kinds of files that tell what they are by fixed bytes at a fixed place: one row each."""

from typing import Final, NamedTuple

__all__ = ["SIGNATURES", "Signature"]


class Signature(NamedTuple):
    """One kind of file. `offset` counts from the end of the file where it is negative."""

    offset: int
    magic: bytes
    kind: str
    what: str
    hint: str


def _compressed(magic: bytes, kind: str, what: str, command: str) -> Signature:
    return Signature(0, magic, kind, f"compressed ({what})", f"Decompress it first: {command}")


_CONVERT: Final = "A checkpoint cannot be made of it without the program that wrote it."
_GGML: Final = "llama.cpp's old format; llama.cpp reads and converts it."
_HDF5: Final = "h5py reads it: h5py.File(path); Keras models of it with keras.models.load_model."
_MEDIA: Final = "The weights are in another file."
_TABLE: Final = "pyarrow and pandas read it."

# Longer, surer signatures come before short ones.
SIGNATURES: Final = (
    Signature(0, b"PYTORCH1", "pytorch-preview", "of a format that only previews of PyTorch 1.0 (2018) wrote",
              "Load it with PyTorch 1.0rc1 and save it again there, or ask its author for a newer file."),
    _compressed(b"\x1f\x8b", "gzip", "gzip", "gzip -d FILE, or gzip.open(path, 'rb') as the file object."),
    _compressed(b"BZh", "bzip2", "bzip2", "bzip2 -d FILE, or bz2.open(path, 'rb') as the file object."),
    _compressed(b"\xfd7zXZ\x00", "xz", "xz", "xz -d FILE, or lzma.open(path, 'rb') as the file object."),
    _compressed(b"\x28\xb5\x2f\xfd", "zstd", "zstd", "zstd -d FILE"),
    _compressed(b"\x04\x22\x4d\x18", "lz4", "lz4", "lz4 -d FILE"),
    _compressed(b"7z\xbc\xaf\x27\x1c", "7z", "7-Zip archive", "7z x FILE, then load what is inside."),
    _compressed(b"Rar!\x1a\x07", "rar", "RAR archive", "unrar x FILE, then load what is inside."),
    _compressed(b"\x1f\x9d", "compress", "Unix compress", "uncompress FILE"),
    Signature(0, b"lmgg", "ggml", "a GGML model", _GGML),
    Signature(0, b"fmgg", "ggml", "a GGML model", _GGML),
    Signature(0, b"tjgg", "ggml", "a GGML model", _GGML),
    Signature(0, b"algg", "ggml", "a GGML adapter", _GGML),
    Signature(0, b"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file", _HDF5),
    Signature(512, b"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file", _HDF5),
    Signature(4, b"TFL3", "tflite", "a TensorFlow Lite model", "LiteRT (the ai-edge-litert package) reads it."),
    Signature(-8, b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "tensorflow-index", "the index of a TensorFlow checkpoint",
              "TensorFlow reads it: tf.train.load_checkpoint(path without the ending .index)."),
    Signature(0, b"PAR1", "parquet", "a Parquet table", _TABLE),
    Signature(0, b"ARROW1\x00\x00", "arrow", "an Arrow table", _TABLE),
    Signature(0, b"FEA1", "arrow", "a Feather table", _TABLE),
    Signature(0, b"SQLite format 3\x00", "sqlite", "an SQLite database", "Python's sqlite3 module reads it."),
    Signature(257, b"ustar", "tar", "a tar archive without a checkpoint of PyTorch's own in it",
              "Unpack it (tar -xf FILE) and load the checkpoint inside, if there is one."),
    Signature(0, b"\x89PNG\r\n\x1a\n", "png", "a PNG image", _MEDIA),
    Signature(0, b"\xff\xd8\xff", "jpeg", "a JPEG image", _MEDIA),
    Signature(0, b"GIF8", "gif", "a GIF image", _MEDIA),
    Signature(0, b"%PDF-", "pdf", "a PDF document", _MEDIA),
    Signature(0, b"\x7fELF", "elf", "a program or shared library (ELF)", _CONVERT),
    Signature(0, b"\xcf\xfa\xed\xfe", "mach-o", "a program or shared library (Mach-O)", _CONVERT),
    Signature(0, b"MZ\x90\x00", "pe", "a Windows program or library", _CONVERT),
    Signature(0, b"!<arch>\n", "ar", "a library archive (.a)", _CONVERT),
    Signature(0, b"caff", "caff", "an audio file", _MEDIA),
    Signature(0, b"RIFF", "riff", "an audio or video file (RIFF)", _MEDIA),
)  # fmt: skip
