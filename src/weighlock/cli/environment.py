"""``weighlock env``: what Weighlock runs on here, for whoever is asked for it. Nothing secret: no values of tokens."""

import os
import platform
import sys
from typing import Any, Final

from weighlock.cli.documents import document, our_version
from weighlock.cli.opening import GOOD
from weighlock.cli.output import Output
from weighlock.storages.urls import without_user

__all__ = ["PACKAGES", "print_environment"]

PACKAGES: Final = (
    "numpy", "ml_dtypes", "isal", "click", "rich", "urllib3", "filelock", "tqdm", "torch", "safetensors", "fsspec",
    "s3fs", "starlette", "uvicorn",
)  # fmt: skip
"""What Weighlock uses, or is used beside."""

_VARIABLES: Final = (
    "TORCH_HOME",
    "XDG_CACHE_HOME",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
)
_SECRET: Final = ("TOKEN", "KEY", "SECRET", "PASSWORD")


def print_environment(*, as_json: bool = False, color: str = "auto") -> int:
    """Print versions, paths and settings; return the exit code."""
    output = Output(json=as_json, color=color)
    facts = _facts()
    if as_json:
        output.document(document("weighlock/env", **facts))
        return GOOD
    rows = {
        "weighlock": our_version(),
        **{name: facts[name] for name in ("python", "system", "processors", "checksum", "hub")},
        **{name: version or "not installed" for name, version in facts["packages"].items()},
        **facts["variables"],
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        output.line((f"{name:<{width}}", "note"), f"  {value}")
    return GOOD


def _facts() -> dict[str, Any]:
    from weighlock.hub.directories import torch_home
    from weighlock.storages import checksum

    return {
        "python": f"{platform.python_version()} {sys.executable}",
        "system": platform.platform(),
        "processors": os.cpu_count() or 1,
        "checksum": checksum.crc32.__module__,
        "hub": os.path.join(torch_home(), "hub"),
        "packages": {name: _version(name) for name in PACKAGES},
        "variables": {name: _shown(name, os.environ[name]) for name in sorted(os.environ) if _is_ours(name)},
    }


def _is_ours(name: str) -> bool:
    return name.startswith("WEIGHLOCK_") or name in _VARIABLES


def _shown(name: str, value: str) -> str:
    if any(part in name for part in _SECRET):
        return "(set)"
    return " ".join(without_user(word) for word in value.split())


def _version(name: str) -> str | None:
    """Return the version of an installed package, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None
