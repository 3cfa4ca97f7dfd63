"""A file that is written, replaced or out of reach while it is viewed: old and new are never mixed."""

from __future__ import annotations

import gc
import json
import os
import weakref
from typing import Any

import numpy as np
import pytest

import weighlock
from tests.range_server import Held, RangeServer
from tests.viewer_client import viewing
from weighlock.storages.connections import Connections
from weighlock.viewer.looking import holding


def saved(path, **arrays):
    weighlock.save({name: np.asarray(value, "f4") for name, value in arrays.items()}, path)
    return path


def overwritten(path, data):
    """Write into a file in place, as `cp` does, with a time of its own."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 1_000_000))


@pytest.fixture
def two(tmp_path):
    """A file, and the bytes of another one that is to stand in its place."""
    other = saved(tmp_path / "other.pt", w=[7, 8], v=[1]).read_bytes()
    return saved(tmp_path / "model.pt", w=[1, 2]), other


def values(viewer, **parameters):
    return viewer.document("/file/0/tensor/0/grid", **parameters)["values"]


# -------------------------------------------------------------------------------------------------------------- reload


def test_a_file_that_was_changed_in_place_is_opened_anew(two):
    path, other = two
    with viewing(path) as viewer:
        assert values(viewer, g=1) == [[1.0, 2.0]]
        overwritten(path, other)
        answer = viewer.get("/file/0/tensor/0/grid", g=1)
        assert answer.status == 409
        assert "Reload" in answer.json["error"]["next"]
        assert viewer.document("/ping")["files"] == [{"file": 0, "generation": 1, "state": "changed"}]
        assert viewer.document("/file/0/reload", g=1) == {"file": 0, "generation": 2, "state": "same"}
        assert values(viewer, g=2) == [[7.0, 8.0]]
        assert viewer.document("/file/0", g=2)["totals"]["tensors"] == 2


def test_no_answer_is_given_to_a_page_of_another_generation(two):
    path, other = two
    with viewing(path, path) as viewer:
        assert values(viewer, g=1) == [[1.0, 2.0]]
        overwritten(path, other)
        viewer.document("/file/0/reload", g=1)
        for where in ("", "/tree", "/tensors", "/storages", "/layout", "/scan", "/tensor/0", "/tensor/0/heat"):
            answer = viewer.get(f"/file/0{where}", g=1)
            assert (answer.status, answer.json["error"]["type"]) == (409, "StaleError"), where
        assert viewer.get("/diff", ga=1, gb=1).json["error"]["type"] == "StaleError"
        assert viewer.document("/file/1/reload", g=1)["generation"] == 2
        assert viewer.document("/diff", ga=2, gb=2)["identical"]
        assert viewer.document("/file/0/tensors", g=2)["total"] == 2


def test_two_pages_that_reload_at_once_open_the_file_once(two):
    path, other = two
    with viewing(path) as viewer:
        values(viewer)
        overwritten(path, other)
        assert viewer.document("/file/0/reload", g=1)["generation"] == 2
        assert viewer.document("/file/0/reload", g=1)["generation"] == 2
        assert viewer.document("/file/0/reload", g=2, failed=1)["generation"] == 2, "it is read well"


def test_a_comparison_is_of_the_files_as_they_are(two, tmp_path):
    path, other = two
    with viewing(path, saved(tmp_path / "same.pt", w=[1, 2])) as viewer:
        assert viewer.document("/diff")["identical"]
        overwritten(path, other)
        assert viewer.get("/diff").status == 409
        viewer.document("/file/0/reload", g=1)
        assert not viewer.document("/diff", ga=2)["identical"]


def test_a_file_that_changes_while_an_answer_is_made_gives_none(two, monkeypatch):
    path, other = two
    with viewing(path) as viewer:
        values(viewer)

        def rows(file):
            found = file.inventory.rows
            overwritten(path, other)
            return found

        monkeypatch.setattr(holding.ViewedFile, "rows", property(rows))
        assert viewer.get("/file/0/tensors").status == 409


def test_a_download_breaks_off_where_the_file_changes(tmp_path):
    path = tmp_path / "large.pt"
    weighlock.save({"w": np.ones(8 << 20, "f4")}, path)
    with viewing(path) as viewer:
        file = viewer.files[0]
        from weighlock.viewer.application import _unchanged

        pieces = _unchanged(file, iter([b"one", b"two"]))
        file.tried  # noqa: B018 - it is opened
        assert next(pieces) == b"one"
        overwritten(path, b"else")
        with pytest.raises(weighlock.ChangedFileError):
            next(pieces)


def test_a_file_that_was_replaced_is_not_judged_in_place_of_the_one_that_is_shown(two, tmp_path):
    path, other = two
    with viewing(path) as viewer:
        assert values(viewer) == [[1.0, 2.0]]
        (tmp_path / "new").write_bytes(other)
        os.replace(tmp_path / "new", path)
        assert values(viewer) == [[1.0, 2.0]], "it is still open"
        answer = viewer.get("/file/0/scan")
        assert answer.status == 409
        assert "not the one that was opened" in answer.json["error"]["message"]
        viewer.document("/file/0/reload", g=1)
        assert viewer.document("/file/0/scan")["judgement"] == "clean"
        assert values(viewer) == [[7.0, 8.0]]


def test_a_part_that_was_replaced_has_changed_a_checkpoint_of_several_files(tmp_path):
    """Parts are opened when they are read: the new one would be read with the description of the old one."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    arrays = {name: np.full(4000, place, "f4") for place, name in enumerate("abc")}
    weighlock.save(arrays, folder / "model.safetensors", format="safetensors", max_shard_size=20_000)
    with viewing(folder) as viewer:
        assert viewer.document("/file/0/tensors")["total"] == 3
        (folder / "notes.txt").write_text("what else is written there is nothing to it")
        assert viewer.document("/ping")["files"][0]["state"] == "same"
        part = min(folder.glob("*.safetensors"))
        (tmp_path / "new").write_bytes(part.read_bytes())
        os.replace(tmp_path / "new", part)
        assert viewer.get("/file/0/tensor/0/heat").status == 409
        viewer.document("/file/0/reload", g=1)
        assert viewer.document("/file/0/tensors")["total"] == 3


def test_a_file_that_was_half_written_is_whole_after_a_reload(two):
    path, other = two
    path.write_bytes(other[:200])
    with viewing(path) as viewer:
        assert viewer.document("/file/0")["error"]
        overwritten(path, other)
        assert viewer.get("/file/0").status == 409
        viewer.document("/file/0/reload", g=1)
        assert viewer.document("/file/0")["totals"]["tensors"] == 2


def test_a_file_that_is_written_while_it_is_opened_is_opened_once_more(two, monkeypatch):
    path, other = two
    read: Any = weighlock.read_checkpoint
    times: list[str] = []

    def reading(given, **options):
        found = read(given, **options)
        if not times:
            overwritten(path, other)
        times.append(given)
        return found

    monkeypatch.setattr(holding, "read_checkpoint", reading)
    with viewing(path) as viewer:
        assert viewer.document("/file/0/tensors")["total"] == 2
        assert len(times) == 2
        assert viewer.document("/ping")["files"][0]["state"] == "same"


def test_what_was_opened_before_is_let_go(two):
    path, _ = two
    with viewing(path) as viewer:
        values(viewer)
        viewer.document("/file/0/layout")
        old = weakref.ref(viewer.files[0])
        source = viewer.files[0].checkpoint._source
        viewer.document("/file/0/reload", g=1)
        gc.collect()
        assert old() is None
        with pytest.raises(weighlock.SourceError):
            source.read_at(0, 4)


# --------------------------------------------------------------------------------------------------------- out of reach


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A viewer over a file of a server that can go away; no waiting between attempts."""
    monkeypatch.setattr(Connections, "wait", lambda _self, _attempt, seconds=None: None)
    path = tmp_path / "m.pt"
    weighlock.save({"a": np.zeros((300, 300), "f4"), "b": np.ones((300, 300), "f4")}, path)
    with RangeServer(**{"m.pt": Held(path.read_bytes())}) as server, viewing(f"{server.url}/m.pt") as viewer:
        yield server, viewer


@pytest.mark.parametrize("what", ["stats", "heat", "export.csv", "export.npy"])
def test_a_read_that_failed_is_tried_again_at_once(remote, what):
    """The figures of a tensor were kept with their error: whoever tried again was told of it without any attempt."""
    server, viewer = remote
    assert viewer.document("/file/0/tensors")["total"] == 2
    away = server.files.pop("/m.pt")
    assert viewer.get(f"/file/0/tensor/0/{what}").status == 503
    server.files["/m.pt"] = away
    assert viewer.get(f"/file/0/tensor/0/{what}").status == 200


def test_a_scan_that_could_not_read_is_made_again(remote):
    server, viewer = remote
    assert viewer.document("/file/0/tensors")["total"] == 2
    away = server.files.pop("/m.pt")
    assert [gap["rule"] for gap in viewer.document("/file/0/scan")["gaps"]] == ["WL901"]
    server.files["/m.pt"] = away
    assert viewer.document("/file/0/scan")["judgement"] == "clean"


def test_a_comparison_that_could_not_read_is_made_again_after_a_while(remote, monkeypatch):
    server, viewer = remote
    assert viewer.document("/file/0/tensors")["total"] == 2
    away = server.files.pop("/m.pt")
    assert not viewer.document("/diff", a=0, b=0)["complete"]
    server.files["/m.pt"] = away
    assert not viewer.document("/diff", a=0, b=0)["complete"], "each page of rows asks"
    monkeypatch.setattr("weighlock.viewer.reading.comparison.RETRY_SECONDS", 0.0)
    assert viewer.document("/diff", a=0, b=0)["complete"]


def test_a_file_that_could_not_be_opened_is_tried_at_once_where_somebody_wants_it(remote):
    server, viewer = remote
    away = server.files.pop("/m.pt")
    assert viewer.get("/file/0/tensors", g=1).status == 503
    server.files["/m.pt"] = away
    assert viewer.get("/file/0/tensors", g=1).status == 503, "not by every request"
    assert viewer.document("/file/0/reload", g=1, failed=1)["generation"] == 2
    assert viewer.document("/file/0/tensors", g=2)["total"] == 2


# ---------------------------------------------------------------------------------------------------- place in the tree


def walked(viewer, steps, *, fold):
    """Return the node that the steps lead to, asked for level by level."""
    path: list[str] = []
    node = None
    for step in steps:
        offset = step["fold" if fold else "place"]
        (node,) = viewer.document("/file/0/tree", path=path, offset=offset, limit=1, fold=int(fold))["nodes"]
        path = [*path, step["part"]]
    return node


def test_the_tree_tells_how_it_leads_to_a_tensor(tmp_path):
    path = tmp_path / "m.pt"
    weighlock.save({
        "head.weight": np.zeros(1), **{f"layers.{i}.{n}": np.full(2, i) for i in range(4) for n in "wb"},
        "layers": {"0.w": np.zeros(9)}, "head": np.zeros(3),
    }, path)  # fmt: skip
    with viewing(path) as viewer:
        rows = viewer.document("/file/0/tensors")["rows"]
        assert len(rows) == 11
        for row in rows:
            steps = viewer.document(f"/file/0/tensor/{row['index']}/place")["steps"]
            assert walked(viewer, steps, fold=False)["index"] == row["index"], row["key"]
            folded = walked(viewer, steps, fold=True)["index"] == row["index"]
            assert folded is steps[-1]["first"], row["key"]
            hidden = [step["part"] for step in steps if not step["first"]]
            assert hidden == ([row["key"].split(".")[1]] if row["key"][:8] in ("layers.2", "layers.3") else []), row[
                "key"
            ]
        assert viewer.get("/file/0/tensor/99/place").status == 404
        assert json.dumps(steps)
