"""Formats in the words of people: THE table of what each kind of file is called."""

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["file_kind"]

_KINDS: Final = {
    "torch-zip": "PyTorch zip",
    "torch-legacy": "PyTorch legacy stream",
    "torch-tar": "PyTorch tar (before 0.1.10)",
    "torchscript": "TorchScript archive",
    "pickle": "plain pickle",
    "safetensors": "safetensors",
    "npy": "NumPy array",
    "npz": "NumPy archive",
    "gguf": "GGUF",
    "sharded": "files with an index",
    "dcp": "torch.distributed.checkpoint folder",
    "deepspeed": "DeepSpeed ZeRO folder",
}
_WITHOUT_ORDER: Final = frozenset({"pickle", "safetensors", "npy", "npz", "sharded", "dcp", "deepspeed"})


def file_kind(format_name: str, metadata: Mapping[str, Any], byteorder: str) -> str:
    """Return what kind of file this is: ``PyTorch zip (format 3, little-endian)``."""
    facts = [f"{byteorder}-endian"] if format_name not in _WITHOUT_ORDER else []
    if "format_version" in metadata:
        facts.insert(0, f"format {metadata['format_version']}")
    name = _KINDS.get(format_name, format_name)
    inside = f", inside an archive as {metadata['inside']}" if "inside" in metadata else ""
    return name + (f" ({', '.join(facts)})" if facts else "") + inside
