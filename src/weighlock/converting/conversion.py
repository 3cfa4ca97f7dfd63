"""`weighlock.convert`."""
from typing import Any
from weighlock.checkpoint import read_checkpoint
from weighlock.converting.writing import Form, prepare
from weighlock.storages.targets import write_path

def convert(src: Any, dst: Any, *, format: str) -> None:
    with read_checkpoint(src) as checkpoint:
        written = prepare(checkpoint.object, Form(format, metadata={"format": "pt"} if format == "safetensors" else None))
        write_path(dst, written.write, durable=False)
