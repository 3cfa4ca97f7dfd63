"""The same call on stock torch and on the drop-in: objects x containers x parameters; results, warnings, errors."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tests.cases import CASES, V3_DTYPES
from tests.test_differential import CONTAINERS
from tests.torch_compare import Outcome, Sharing, same

pytestmark = [pytest.mark.requires_torch, pytest.mark.filterwarnings("ignore")]

FILES = [name for name in CONTAINERS if not name.startswith("pickle")]


def _first(storage: Any, location: str) -> Any:
    return storage


def _nothing(storage: Any, location: str) -> Any:
    return None


PARAMETERS: dict[str, dict[str, Any]] = {
    "default": {},
    "weights_only": {"weights_only": True},
    "trusted": {"weights_only": False},
    "cpu": {"map_location": "cpu"},
    "meta": {"map_location": "meta"},
    "dictionary": {"map_location": {"cpu": "cpu"}},
    "to meta": {"map_location": {"cpu": "meta"}},
    "function": {"map_location": _first},
    "function of nothing": {"map_location": _nothing},
    "no such device": {"map_location": "cuda"},
}


def _more_than_torch(theirs: Outcome, name: str, container: str) -> bool:
    """Whether torch fails where Weighlock is meant to succeed: docs/compatibility.md lists these."""
    text = str(theirs.error)
    newer = name.removeprefix("dtype_") in V3_DTYPES or name in ("storages", "torch_values")
    return (
        "Weights only load failed" in text  # protocols other than 2, and values that torch does not allow by default
        or (newer and container.startswith("legacy"))
        or (name == "nested" and container.startswith("legacy"))  # torch looks at memory that nobody has written yet
        or "unsupported" in text.lower()
    )


def compare(torch: Any, data: bytes, options: dict[str, Any], name: str = "", container: str = "") -> None:
    import weighlock.torch

    theirs = Outcome(lambda: torch.load(io.BytesIO(data), **options))
    ours = Outcome(lambda: weighlock.torch.load(io.BytesIO(data), **options))
    if theirs.error is None:
        assert ours.error is None, ours.error
        # In a legacy stream, torch resizes the storages that it made without data by reading into them.
        sharing = Sharing(meta=not container.startswith("legacy"))
        same(torch, theirs.result, ours.result, sharing=sharing)
        assert ours.warnings == theirs.warnings
    elif not _more_than_torch(theirs, name, container):
        assert ours.error is not None, (theirs.error, name, container)
        assert isinstance(ours.error, type(theirs.error)), (theirs.error, ours.error)


@pytest.mark.parametrize("container", FILES)
@pytest.mark.parametrize("name", CASES)
def test_every_case_in_every_container(torch, name, container):
    obj = CASES[name](torch)
    try:
        data = CONTAINERS[container](torch, obj)
    except Exception as error:
        pytest.skip(f"stock torch does not write it: {error}")
    for options in ({"weights_only": True}, {"weights_only": False}):
        compare(torch, data, options, name, container)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("name", CASES)
def test_every_case_with_every_parameter(torch, name, parameters, container):
    obj = CASES[name](torch)
    compare(torch, CONTAINERS[container](torch, obj), PARAMETERS[parameters], name, container)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_every_case_mapped(torch, tmp_path, name, weights_only, shared):
    import mmap

    import weighlock.torch

    path = tmp_path / "model.pt"
    path.write_bytes(CONTAINERS["zip"](torch, CASES[name](torch)))
    options = {"weights_only": weights_only, "mmap": True}
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE):
        theirs = Outcome(lambda: torch.load(path, **options))
        ours = Outcome(lambda: weighlock.torch.load(path, **options))
    if theirs.error is None:
        assert ours.error is None, ours.error
        same(torch, theirs.result, ours.result)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_same_pickle_and_records_as_stock_torch(torch, name, zipped):
    """Saved by the drop-in: the pickle of torch byte for byte, and every record but the id of the file."""
    import zipfile

    import weighlock.torch

    obj = CASES[name](torch)
    theirs, ours = io.BytesIO(), io.BytesIO()
    torch.save(obj, theirs, _use_new_zipfile_serialization=zipped)
    weighlock.torch.save(obj, ours, _use_new_zipfile_serialization=zipped)
    if not zipped:
        loaded = [weighlock.torch.load(io.BytesIO(file.getvalue()), weights_only=False) for file in (theirs, ours)]
        same(torch, *loaded)
        return
    expected, found = zipfile.ZipFile(theirs), zipfile.ZipFile(ours)
    facts = [[(i.filename, i.header_offset, i.file_size) for i in archive.infolist()] for archive in (expected, found)]
    assert facts[0] == facts[1]
    for record in expected.namelist():
        if not record.endswith("serialization_id"):
            assert found.read(record) == expected.read(record), record


@pytest.mark.parametrize("options", [{}, {"mmap": True}, {"map_location": "meta"}], ids=["read", "mapped", "meta"])
@pytest.mark.parametrize("name", CASES)
def test_stock_torch_reads_what_the_drop_in_saved(torch, tmp_path, name, options):
    """With weights_only=True, and the same result as from its own file."""
    import weighlock.torch

    obj = CASES[name](torch)
    theirs, ours = tmp_path / "theirs.pt", tmp_path / "ours.pt"
    torch.save(obj, theirs)
    weighlock.torch.save(obj, ours)
    expected = Outcome(lambda: torch.load(theirs, weights_only=True, **options))
    found = Outcome(lambda: torch.load(ours, weights_only=True, **options))
    assert type(found.error) is type(expected.error)
    if expected.error is None:
        same(torch, expected.result, found.result)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("name", ["state_dict", "dtype_bfloat16", "shared_storage", "parameters"])
def test_fake_tensors(torch, name, container):
    """Under FakeTensorMode nothing is read, and tensors say where they would be."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    import weighlock.torch

    data = CONTAINERS[container](torch, CASES[name](torch))
    loads = (torch.load, weighlock.torch.load)
    outcomes = []
    for load in loads:
        with FakeTensorMode():
            outcomes.append(Outcome(lambda load=load: load(io.BytesIO(data))))  # type: ignore[misc]
    theirs, ours = outcomes
    assert ours.error is None or theirs.error is not None, ours.error
    if theirs.error is None:
        facts = [
            [(type(t), t.shape, t.stride(), t.dtype, t.device) for t in _tensors(torch, outcome.result)]
            for outcome in outcomes
        ]
        assert facts[0] == facts[1]


def _tensors(torch: Any, obj: Any) -> list[Any]:
    return [value for value in (obj.values() if isinstance(obj, dict) else obj) if isinstance(value, torch.Tensor)]


def test_many_threads_load_and_save_at_once(torch, tmp_path):
    import threading

    import weighlock.torch

    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                path = tmp_path / f"{number % 4}.pt"
                state = {"t": torch.full((50, 50), float(number % 4)), "n": turn}
                weighlock.torch.save(state, path)
                place = "meta" if number % 2 else "cpu"
                loaded = weighlock.torch.load(path, map_location=place)["t"]
                assert loaded.device.type == place
                assert place == "meta" or (loaded == number % 4).all()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
