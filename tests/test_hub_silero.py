"""silero_vad from end to end: the package's own model and code as a hub repository, and speech that it finds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import wave
from pathlib import Path

import pytest

import weighlock as wl

pytestmark = [pytest.mark.requires_torch, pytest.mark.requires_silero_vad]

RATE = 16000

HUBCONF = '''
dependencies = ["torch", "packaging"]
import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "src"))
from silero_vad.utils_vad import (
    VADIterator, collect_chunks, get_speech_timestamps, init_jit_model, read_audio, save_audio,
)


def silero_vad(onnx=False, force_onnx_cpu=False):
    """Voice activity detector: the model, and functions that use it.

    get_speech_timestamps, save_audio, read_audio, VADIterator, collect_chunks
    """
    if onnx:
        raise NotImplementedError
    path = os.path.join(os.path.dirname(__file__), "src", "silero_vad", "data", "silero_vad.jit")
    return init_jit_model(path), (get_speech_timestamps, save_audio, read_audio, VADIterator, collect_chunks)
'''

VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""The first three formants of five vowels, in Hz."""


def vowel(number):
    """160 ms of a voice: pulses of the glottis through three resonators."""
    import numpy as np

    count = int(RATE * 0.16)
    time = np.arange(count) / RATE
    pitch = (110 + 25 * np.sin(number)) * (1 + 0.03 * np.sin(10 * np.pi * time) + 0.08 * (0.5 - time / 0.16))
    signal = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0)
    for middle, width in zip(VOWELS[number % len(VOWELS)], (80, 100, 140), strict=True):
        radius = np.exp(-np.pi * width / RATE)
        first, second = 2 * radius * np.cos(2 * np.pi * middle / RATE), -(radius**2)
        before = last = 0.0
        for at in range(count):
            before, last = last, signal[at] + first * last + second * before
            signal[at] = last
    return 0.5 * signal / np.abs(signal).max() * np.hanning(count) ** 0.3


def spoken_by_formants():
    """About two seconds of vowels, with hissing between them."""
    import numpy as np

    noise = np.random.default_rng(0)
    parts = []
    for number in range(12):
        parts.append(vowel(number))
        if number % 3 == 2:
            parts.append(np.diff(noise.standard_normal(int(RATE * 0.07)) * 0.05, prepend=0))
    return np.concatenate(parts)


def spoken_by_espeak(folder):
    import numpy as np

    path = folder / "said.wav"
    said = "The boat enters the lock, is weighed, and leaves it again on the other side."
    subprocess.run(["espeak-ng", "-v", "en", "-w", str(path), said], check=True, capture_output=True)
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
        rate = file.getframerate()
    return np.interp(np.arange(0, len(samples), rate / RATE), np.arange(len(samples)), samples)


@pytest.fixture
def recording(request, torch, tmp_path):
    """A second of silence, speech, a second of silence; and where the speech begins and ends, in seconds."""
    import numpy as np

    speech = spoken_by_formants() if request.param == "formants" else spoken_by_espeak(tmp_path)
    silence = np.zeros(RATE)
    samples = np.concatenate([silence, speech, silence]).astype("float32")
    return torch.from_numpy(samples), 1.0, 1.0 + len(speech) / RATE


@pytest.fixture(autouse=True)
def threads(torch):
    """The package's code sets PyTorch's number of threads as it is imported."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A hub repository around the package: its code and its model. The package itself is never imported."""
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0])
    found: dict[str, str | bytes] = {"hubconf.py": HUBCONF}
    for name in ("__init__.py", "model.py", "utils_vad.py", "data/__init__.py", "data/silero_vad.jit"):
        found[f"src/silero_vad/{name}"] = (package / name).read_bytes()
    return found


def _written(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


SPEAKERS = pytest.mark.parametrize(
    "recording", ["formants", pytest.param("espeak", marks=pytest.mark.requires_espeak)], indirect=True
)


def check(model, utils, recording, torch):
    audio, begin, end = recording
    find_speech = utils[0]
    found = find_speech(audio, model, sampling_rate=RATE, return_seconds=True)
    assert found, "no speech was found"
    assert abs(found[0]["start"] - begin) <= 0.3
    assert abs(found[-1]["end"] - end) <= 0.3
    assert sum(part["end"] - part["start"] for part in found) >= 0.7 * (end - begin)
    assert find_speech(torch.zeros(3 * RATE), model, sampling_rate=RATE) == []
    assert find_speech(0.05 * torch.randn(3 * RATE), model, sampling_rate=RATE) == []


@SPEAKERS
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
class TestSileroVad:
    def test_from_a_folder(self, host, torch, files, recording, tmp_path):
        folder = _written(tmp_path / "silero-vad", files)
        assert "silero_vad" in wl.hub.list(folder, source="local")
        model, utils = wl.hub.load(folder, "silero_vad", source="local")
        check(model, utils, recording, torch)
        assert utils[0].__module__.startswith("weighlock.hub.spaces.")
        assert "silero_vad" not in sys.modules, "the copy of the repository is used, not the installed package"

    def test_as_programs_call_it(self, host, torch, files, recording, monkeypatch):
        """The call of the documents, word by word, with the drop-in and through torch.hub itself."""
        import weighlock.torch

        host.repository("snakers4/silero-vad", files)
        monkeypatch.setenv("WEIGHLOCK_HUB_TRUST", "snakers4/silero-vad")
        model, utils = weighlock.torch.hub.load(
            repo_or_dir="snakers4/silero-vad", model="silero_vad", force_reload=False, onnx=False, verbose=False
        )
        check(model, utils, recording, torch)
        asked = len(host.log)
        with weighlock.torch.installed():
            model, utils = torch.hub.load(
                repo_or_dir="snakers4/silero-vad", model="silero_vad", force_reload=False, onnx=False, verbose=False
            )
        check(model, utils, recording, torch)
        assert len(host.log) == asked

    def test_two_versions_side_by_side(self, host, torch, files, recording):
        repository = host.repository("snakers4/silero-vad")
        repository.commit(files, tag="v6")
        changed = files["src/silero_vad/utils_vad.py"] + b"\ndef get_speech_timestamps(*_, **__):\n    return 'v7'\n"
        repository.commit({"src/silero_vad/utils_vad.py": changed}, tag="v7")
        new = wl.hub.load("snakers4/silero-vad:v7", "silero_vad", trust_repo=True)
        old = wl.hub.load("snakers4/silero-vad:v6", "silero_vad")
        assert new[1][0]() == "v7"
        check(old[0], old[1], recording, torch)


def test_the_check_can_fail(torch):
    silent = (torch.zeros(3 * RATE), 1.0, 2.0)
    with pytest.raises(AssertionError, match="no speech"):
        check(None, [lambda *_, **__: []], silent, torch)
    with pytest.raises(AssertionError):
        check(None, [lambda *_, **__: [{"start": 0.0, "end": 3.0}]], silent, torch)
