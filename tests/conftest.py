"""What all tests share: probes of what is installed, skips that come from them, golden files, hypothesis profiles.

Nothing here imports torch: whether it is there is read from the import system's own search.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

from tests import hub_nginx

pytest_plugins = ["tests.hub_fixtures", "tests.s3_fixtures", "tests.viewer_browser"]

GOLDENS: Final = Path(__file__).parent / "goldens"
"""Golden files: checkpoints as their writers made them, and the results we promise for them."""

HAS_TORCH: Final = importlib.util.find_spec("torch") is not None
HAS_SAFETENSORS: Final = importlib.util.find_spec("safetensors") is not None
HAS_ML_DTYPES: Final = importlib.util.find_spec("ml_dtypes") is not None
HAS_ISAL: Final = importlib.util.find_spec("isal") is not None
HAS_SILERO_VAD: Final = importlib.util.find_spec("silero_vad") is not None
HAS_ESPEAK: Final = shutil.which("espeak-ng") is not None
HAS_FSSPEC: Final = importlib.util.find_spec("fsspec") is not None
HAS_AIOHTTP: Final = HAS_FSSPEC and importlib.util.find_spec("aiohttp") is not None
HAS_CHROMIUM: Final = shutil.which("chromium") is not None and importlib.util.find_spec("playwright") is not None
HAS_S3: Final = all(importlib.util.find_spec(name) is not None for name in ("s3fs", "moto", "flask_cors"))

CAPABILITIES: Final = {
    "requires_torch": (HAS_TORCH, "PyTorch is not installed"),
    "requires_safetensors": (HAS_SAFETENSORS, "safetensors is not installed"),
    "requires_ml_dtypes": (HAS_ML_DTYPES, "ml_dtypes is not installed"),
    "requires_isal": (HAS_ISAL, "isal is not installed"),
    "requires_nginx": (hub_nginx.PROGRAM is not None, "nginx is not installed (apt-get install nginx-light)"),
    "requires_openssl": (shutil.which("openssl") is not None, "the command openssl is not installed"),
    "requires_silero_vad": (HAS_SILERO_VAD, "the package silero-vad is not installed"),
    "requires_fsspec": (HAS_FSSPEC, "fsspec is not installed"),
    "requires_aiohttp": (HAS_AIOHTTP, "fsspec and aiohttp are not installed"),
    "requires_s3": (HAS_S3, "s3fs and moto are not installed"),
    "requires_chromium": (HAS_CHROMIUM, "chromium or playwright is not installed (apt-get install chromium)"),
    "requires_espeak": (HAS_ESPEAK, "the program espeak-ng is not installed"),
}
"""Marker: (is it there, why the test is skipped)."""

settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="write golden results instead of comparing")


def pytest_configure() -> None:
    """Stop a lane of `make test` that is not what it says: it would pass by skipping, or prove nothing."""
    lane = os.environ.get("WEIGHLOCK_LANE")
    if lane == "torch" and not HAS_TORCH:
        raise pytest.UsageError("WEIGHLOCK_LANE=torch, but PyTorch is not installed")
    if lane == "plain" and HAS_TORCH:
        raise pytest.UsageError("WEIGHLOCK_LANE=plain, but PyTorch is installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lane = os.environ.get("WEIGHLOCK_LANE")
    for item in items:
        if lane == "torch" and item.get_closest_marker("one_lane") and not needs_torch(item):
            item.add_marker(pytest.mark.skip(reason="it has nothing to do with PyTorch: the other lane has it"))
        for marker, (is_there, reason) in CAPABILITIES.items():
            if item.get_closest_marker(marker) and not is_there:
                item.add_marker(pytest.mark.skip(reason=reason))


def needs_torch(item: pytest.Item) -> bool:
    """Whether a test is one of PyTorch's."""
    return item.get_closest_marker("requires_torch") is not None or "torch" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch itself; the test is skipped where it is not installed."""
    if not HAS_TORCH:
        pytest.skip("PyTorch is not installed")
    import torch

    return torch


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[str, bytes], None]:
    """A function that compares bytes with the golden file of that name below tests/goldens.

    A missing golden file is a failure, never a reason to write one: that happens only with --update-goldens.
    """
    update = bool(request.config.getoption("--update-goldens"))

    def check(name: str, produced: bytes) -> None:
        path = GOLDENS / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(produced)
            return
        assert path.exists(), f"{path} is missing; write it with `make golden` and look at it before committing"
        assert produced == path.read_bytes(), f"not the bytes of {path}; if that is meant, run `make golden`"

    return check
