"""What a file is that is no checkpoint, and what to do about it: told by its content, never by its name.

Called only when nothing else could read the file. Nothing that it finds is ever a reason to read the file by other,
less careful means: the answer names the right tool, or the right file.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final

from weighlock.errors import CheckpointError, DirectoryError, NotACheckpointError, TruncatedError
from weighlock.formats.foreign_folder import describe_folder
from weighlock.formats.foreign_signatures import SIGNATURES, Signature
from weighlock.formats.foreign_zip import describe_zip
from weighlock.formats.zip_remains import END_MARK
from weighlock.storages.source import ByteSource

__all__ = ["describe_folder", "describe_foreign"]

_HEAD: Final = 64 << 10
_SHORTEST: Final = 8
_LONGEST_TITLE: Final = 80
_MOST_JSON: Final = 1 << 20

_AGAIN: Final = "Get the file again."


def describe_foreign(source: ByteSource) -> CheckpointError:
    """Return (not raise) the error that says what `source` is instead of a checkpoint.

    Returns
    -------
    NotACheckpointError
        With `kind` set: ``"html"``, ``"git-lfs"``, ``"gzip"``, ``"npy"`` ...; ``"text"``, ``"python"`` and
        ``"unknown"`` are what is left when nothing better fits.
    TruncatedError
        For an empty file, one that is too short to be anything, and an archive or a safetensors file that was cut.
    CheckpointError
        Whatever is wrong with the directory of a zip archive.
    """
    try:
        if source.size == 0:
            what = "the file is empty"
            hint = "The download or the save broke off before the first byte, or the disk was full: get it again."
            return TruncatedError(what, path=source.name, hint=hint)
        head = source.read_at(0, min(source.size, _HEAD))
        for look in _LOOKS:
            found = look(source, head)
            if found is not None:
                return found
    except CheckpointError as error:
        return error
    return _unknown(source, head)


def _not(source: ByteSource, kind: str, what: str, hint: str) -> NotACheckpointError:
    return NotACheckpointError(f"{what}, not a checkpoint", kind=kind, path=source.name, hint=hint)


def _unknown(source: ByteSource, head: bytes) -> CheckpointError:
    if source.size < _SHORTEST:
        return TruncatedError(
            "the file is too short for a checkpoint", got=f"{source.size} bytes", path=source.name, hint=_AGAIN
        )
    return NotACheckpointError(
        "the file is no checkpoint, and of no other kind that Weighlock knows",
        kind="unknown",
        got=f"{source.size} bytes that begin with {head[:16].hex(' ')}",
        path=source.name,
        hint="If it should be one, it was damaged or encrypted: compare its size and checksum with the original.",
    )


def amount(count: int) -> str:
    """Return a number of bytes as people write it.

    Examples
    --------
    >>> amount(46_830_571)
    '46.8 MB'
    """
    if count < 1000:
        return f"{count} bytes"
    size = float(count)
    units = iter(("kB", "MB", "GB"))
    unit = "bytes"
    while size >= 999.95 and unit != "TB":
        size, unit = size / 1000, next(units, "TB")
    return f"{size:.1f} {unit}"


# ----------------------------------------------------------------------------------------------------- signatures


def _by_signature(source: ByteSource, head: bytes) -> CheckpointError | None:
    for signature in SIGNATURES:
        if _has(source, head, signature):
            return _not(source, signature.kind, f"the file is {signature.what}", signature.hint)
    return None


def _has(source: ByteSource, head: bytes, signature: Signature) -> bool:
    offset = signature.offset
    if offset < 0:
        # At the end of the file.
        return source.size >= -offset and source.read_at(source.size + offset, len(signature.magic)) == signature.magic
    return head[offset : offset + len(signature.magic)] == signature.magic


def _zip(source: ByteSource, head: bytes) -> CheckpointError | None:
    return describe_zip(source) if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") else None


def _cut_safetensors(source: ByteSource, head: bytes) -> CheckpointError | None:
    length = int.from_bytes(head[:8], "little")
    if head[8:10] not in (b'{"', b"{") or not 2 <= length <= 100_000_000 or 8 + length <= source.size:
        return None
    return TruncatedError(
        "the file is a safetensors file that ends inside its header",
        expected=f"{8 + length} bytes or more",
        got=str(source.size),
        path=source.name,
        hint=f"The download or the copy broke off. {_AGAIN}",
    )


def _zeros(source: ByteSource, head: bytes) -> CheckpointError | None:
    if head.strip(b"\0"):
        return None
    step = max(source.size // 64, 1)
    samples = (source.read_at(at, min(4096, source.size - at)) for at in range(0, source.size, step))
    whole = not any(sample.strip(b"\0") for sample in samples)
    what = "the file holds nothing but zero bytes" if whole else "the file begins with zero bytes where data should be"
    hint = "The write was interrupted, or only the holes of a sparse file were copied. "
    return _not(source, "zeros", f"{what} ({amount(source.size)})", hint + _AGAIN)


# ----------------------------------------------------------------------------------------------------------- text


def _markup(source: ByteSource, head: bytes) -> CheckpointError | None:
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    if begin.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--", b"<meta")):
        kind, what = "html", "the file is a web page"
    elif begin.startswith((b"<?xml", b"<error", b"<!doctype")):
        kind, what = "xml", "the file is an XML document"
    else:
        return None
    match = re.search(rb"<(title|Message)>\s*(.{1,400}?)\s*</\1>", head, re.IGNORECASE | re.DOTALL)
    if match:
        what += f" ({match[2].decode('utf-8', 'replace')[:_LONGEST_TITLE]!r})"
    hint = (
        "The server answered the download with a login, a confirmation or an error page. "
        "Open the address in a browser to see it, and download the file itself."
    )
    return _not(source, kind, what, hint)


def _git_pointer(source: ByteSource, head: bytes) -> CheckpointError | None:
    if not head.startswith((b"version https://git-lfs.github.com/", b"version https://hawser.github.com/")):
        return None
    oid = re.search(rb"^oid sha256:([0-9a-f]{4,64})", head, re.MULTILINE)
    size = re.search(rb"^size ([0-9]{1,18})\s*$", head, re.MULTILINE)
    missing = f"the {amount(int(size[1]))} of the file itself" if size else "the file itself"
    named = f", sha256 {oid[1].decode()[:12]}…," if oid else ""
    hint = (
        "Run `git lfs install` and `git lfs pull` in its repository, "
        "or download the file through the site's download link."
    )
    return _not(source, "git-lfs", f"the file is a Git LFS pointer ({missing}{named} must still be fetched)", hint)


def _json(source: ByteSource, head: bytes) -> CheckpointError | None:
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"[") or not _is_text(head):
        return None
    if b'"weight_map"' in head or _near_end(source, b'"weight_map"'):
        hint = "Give its path, not its bytes: the files in its weight_map are looked for beside it."
        return _not(source, "safetensors-index", "the file is the index of a sharded checkpoint", hint)
    fields = _fields(source)
    message = next((fields[key] for key in ("error", "message", "detail") if isinstance(fields.get(key), str)), None)
    if message is not None:
        what = f"the file is a server's error message in JSON ({message[:_LONGEST_TITLE]!r})"
        return _not(source, "json", what, "The download was refused: check the address and your access to it.")
    if "architectures" in fields or "model_type" in fields:
        what, hint = "the file is a model's configuration", "The weights are in another file of the same folder."
        return _not(source, "json", what, hint)
    if not fields and not _looks_like_json(head):
        return None
    return _not(source, "json", "the file is JSON", "Python's json module reads it. The weights are in another file.")


def _near_end(source: ByteSource, text: bytes) -> bool:
    return text in source.read_at(max(source.size - _HEAD, 0), min(source.size, _HEAD))


def _fields(source: ByteSource) -> dict[str, Any]:
    if source.size > _MOST_JSON:
        return {}
    try:
        found = json.loads(source.read_at(0, source.size))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {"": found}


def _looks_like_json(head: bytes) -> bool:
    return re.match(rb'[\s\xef\xbb\xbf]*(\{\s*("|\})|\[\s*(["\[{\]\d-]|true|false|null))', head) is not None


def _text(source: ByteSource, head: bytes) -> CheckpointError | None:
    if source.size < _SHORTEST or not _is_text(head):
        return None
    lines = [line.strip() for line in head.decode("utf-8", "replace").splitlines()[:200]]
    lines = [line for line in lines if line and (line[0] != "#" or line[:2] == "#!")]
    first = lines[0] if lines else ""
    if "md5:" in head[:200].decode("utf-8", "replace") and first == "outs:":
        return _not(source, "dvc", "the file is a DVC pointer", "Run `dvc pull` to fetch the file itself.")
    if re.match(r"(#!.*python|import [\w., ]+$|from [\w.]+ import |def \w+\(|class \w+[(:]|\"\"\"|@\w+)", first):
        hint = "It may define the model; the weights are in another file."
        return _not(source, "python", "the file is Python source code", hint)
    if first == "---" or re.match(r"[A-Za-z_][\w.-]*:(\s|$)", first):
        return _not(source, "yaml", "the file is YAML, a configuration perhaps", "The weights are in another file.")
    return _not(source, "text", f"the file is text (it begins with {first[:40]!r})", "The weights are in another file.")


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(head) == _HEAD and error.start > len(head) - 4
    return True


# ------------------------------------------------------------------------------------------- protobuf and records


def _protobuf(source: ByteSource, head: bytes) -> CheckpointError | None:
    """Recognise ONNX and TensorFlow models: a small version number, then a field of known number and type."""
    if len(head) < 8 or head[0] != 0x08 or not 1 <= head[1] <= 0x20:
        return None
    if head[1] == 1 and head[2] == 0x12 and (b"tensorflow" in head or b"serving_default" in head or b"\nserve" in head):
        hint = "TensorFlow reads it (tf.saved_model.load on its folder)."
        return _not(source, "tensorflow", "the file is a TensorFlow SavedModel", hint)
    producer = head[4 : 4 + head[3]]
    named = head[2] == 0x12 and 0 < len(producer) == head[3] and producer.isascii() and producer.decode().isprintable()
    if named or (head[2] in (0x3A, 0x42) and (b"onnx" in head.lower() or source.size > 64)):
        hint = "The onnx package reads it: onnx.load(path); weights are in graph.initializer (onnx.numpy_helper)."
        return _not(source, "onnx", "the file is an ONNX model", hint)
    return None


def _tfrecord(source: ByteSource, head: bytes) -> CheckpointError | None:
    length = int.from_bytes(head[:8], "little")
    if len(head) < 16 or length + 16 > source.size or _masked_crc32c(head[:8]) != int.from_bytes(head[8:12], "little"):
        return None
    hint = "It holds training data or logs, no weights; TensorFlow and TensorBoard read it."
    return _not(source, "tfrecord", "the file is a TFRecord or TensorBoard log", hint)


def _masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _zip_behind_something(source: ByteSource, head: bytes) -> CheckpointError | None:
    """Say that a zip archive does not begin at byte 0, which its directory tells."""
    if not _near_end(source, END_MARK):
        return None
    found = describe_zip(source)
    return found if isinstance(found, DirectoryError) else None


_Look = Callable[[ByteSource, bytes], CheckpointError | None]

# The order counts: what is certain first, what is only likely last.
_LOOKS: Final[tuple[_Look, ...]] = (
    _zip, _git_pointer, _by_signature, _markup, _zeros, _cut_safetensors, _json, _tfrecord, _protobuf, _text,
    _zip_behind_something,
)  # fmt: skip
