"""Attacks on the hub that once went through: what each of them did is said where it is tested."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import marshal
import os
import stat
import struct
import tarfile
import threading
import time
import zlib
from pathlib import Path

import pytest

import weighlock as wl
from tests.hub_host import git, serve, text_of
from tests.test_hub_archives import BASE, HUBCONF, archive, tree
from tests.test_hub_download import DATA, weights

hub = wl.hub


def compiled(source: str) -> bytes:
    """Bytecode that Python runs without a look at the source beside it (PEP 552: by hash, unchecked)."""
    code = compile(source, "hubconf.py", "exec")
    return importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + b"\0" * 8 + marshal.dumps(code)


def pyc_name(module: str) -> str:
    return os.path.basename(importlib.util.cache_from_source(module + ".py"))


EVIL = "def net():\n    return 'evil'\n"


class TestBytecode:
    """Python runs what lies in `__pycache__` instead of the source that was verified."""

    def test_from_a_mirror(self, host, store):
        repository = host.repository("o/n", {"hubconf.py": HUBCONF})
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        cache = f"top/__pycache__/{pyc_name('hubconf')}"
        host.put(f"{commit}.zip", archive([BASE, (cache, compiled(EVIL))]))
        with hub.configured(mirrors=(host.files + "/{commit}.zip",)):
            assert hub.load("o/n", "net", trust_repo=True) == 1
        assert not list(Path(store.path("repos")).rglob("*.pyc"))

    def test_from_git(self, host, store):
        cache = f"__pycache__/{pyc_name('hubconf')}"
        host.repository("o/n", {"hubconf.py": HUBCONF, cache: compiled(EVIL)})
        assert hub.load(f"git+{host.web}/o/n.git", "net", trust_repo=True) == 1
        assert hub.load("o/n", "net", trust_repo=True) == 1
        from weighlock.hub.cache import check_item, items

        assert [check_item(item) for item in items(store)] == [None, None]

    def test_from_a_bundle_under_a_lock(self, host, store, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        host.repository("o/n", {"hubconf.py": HUBCONF})
        hub.lock("o/n")
        hub.write_bundle("good.bundle", "o/n")
        cache = f"__pycache__/{pyc_name('hubconf')}"
        with tarfile.open("good.bundle") as old, tarfile.open("evil.bundle", "w", format=tarfile.PAX_FORMAT) as new:
            for info in old:
                data = old.extractfile(info).read()
                if info.name.endswith(".json"):
                    index = json.loads(data)
                    code = compiled(EVIL)
                    index["repositories"][0]["meta"]["files"][cache] = [0o100644, "", len(code)]
                    data = json.dumps(index).encode()
                add(new, info.name, data)
            add(new, f"repositories/0/{cache}", code)
        hub.set_dir(tmp_path / "other")
        try:
            with hub.configured(locked=True, offline=True):
                with pytest.raises(wl.ArchiveError, match="may not be written"):
                    hub.read_bundle("evil.bundle")
                hub.read_bundle("good.bundle")
                assert hub.load("o/n", "net", trust_repo=True) == 1
        finally:
            hub.set_dir(None)

    def test_put_into_the_cache(self, host, store, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        host.repository("o/n", {"hubconf.py": HUBCONF})
        hub.lock("o/n")
        root = Path(hub.prefetch("o/n")[0])
        (root / "__pycache__").mkdir()
        (root / "__pycache__" / pyc_name("hubconf")).write_bytes(compiled(EVIL))
        assert hub.load("o/n", "net", trust_repo=True, locked=True) == 1


def add(bundle, name, data):
    import io

    info = tarfile.TarInfo(name)
    info.size = len(data)
    bundle.addfile(info, io.BytesIO(data))


def pack(objects):
    """A pack of objects: (type, content) or (base id, delta)."""
    parts = [b"PACK" + struct.pack(">II", 2, len(objects))]
    for kind, content in objects:
        number = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}.get(kind, 7)
        size = len(content)
        byte, size = number << 4 | size & 15, size >> 4
        while size:
            parts.append(bytes([byte | 0x80]))
            byte, size = size & 127, size >> 7
        parts.append(bytes([byte]))
        if number == 7:
            parts.append(bytes.fromhex(kind))
        parts.append(zlib.compress(content))
    body = b"".join(parts)
    return body + hashlib.sha1(body).digest()


class TestPacks:
    def test_folders_that_hold_themselves_ten_times_over(self):
        """A few hundred bytes that are ten thousand million files."""
        from weighlock.hub.git_pack import object_id, read_pack, walk

        content = b"x"
        rows = [("blob", content)]
        name, mode = object_id(b"blob", content), b"100644"
        for _ in range(10):
            body = b"".join(mode + b" %d\0" % n + bytes.fromhex(name) for n in range(10))
            rows.append(("tree", body))
            name, mode = object_id(b"tree", body), b"40000"
        objects = read_pack(pack(rows))
        with pytest.raises(wl.ArchiveError, match="files"):
            for _ in walk(objects, name):
                pass

    def test_a_delta_that_makes_far_more_than_it_is(self):
        """Eight bytes each that copy 16 MB."""
        from weighlock.hub.git_pack import object_id, read_pack

        base = bytes(0xFFFFFF)
        copies = b"\xf0\xff\xff\xff" * 10_000
        size = len(base) * 10_000

        def number(value):
            made = b""
            while value > 127:
                made, value = made + bytes([value & 127 | 128]), value >> 7
            return made + bytes([value])

        delta = number(len(base)) + number(size) + copies
        with pytest.raises(wl.ArchiveError, match="2 GiB"):
            read_pack(pack([("blob", base), (object_id(b"blob", base), delta)]))

    def test_a_mode_that_is_no_number(self):
        from weighlock.hub.git_pack import object_id, read_pack, walk

        body = b"100999 a\0" + bytes(20)
        with pytest.raises(wl.ArchiveError):
            list(walk(read_pack(pack([("tree", body)])), object_id(b"tree", body)))

    def test_a_long_chain_of_tags(self):
        from weighlock.hub.git_pack import commit_tree, object_id, read_pack

        rows = [("tag", b"object " + b"0" * 40 + b"\n")]
        for _ in range(2000):
            rows.append(("tag", b"object " + object_id(b"tag", rows[-1][1]).encode() + b"\n"))
        with pytest.raises(wl.ArchiveError):
            commit_tree(read_pack(pack(rows)), object_id(b"tag", rows[-1][1]))

    def test_deltas_in_the_worst_order(self):
        """Each waits for the next one in the pack: the square of their number."""
        from weighlock.hub.git_pack import object_id, read_pack

        content = b"0" * 8
        rows = []
        base = object_id(b"blob", content)
        made = [("blob", content)]
        for number in range(20_000):
            new = b"%08d" % number
            made.append((base, b"\x08\x08\x08" + new))
            base = object_id(b"blob", new)
        rows = [made[0], *reversed(made[1:])]
        started = time.process_time()
        assert len(read_pack(pack(rows))) >= 20_000
        assert time.process_time() - started < 10


def test_an_archive_of_folders_alone(host, store):
    """Each name brings hundreds of folders: names are not packed, but folders cost a thousand times as much."""
    deep = [(f"top/{number}/" + "d/" * 400 + "x", "") for number in range(400)]
    url = host.put("deep.zip", archive([BASE, *deep]))
    with pytest.raises(wl.ArchiveError, match="folders"):
        hub.load(url, "net", trust_repo=True)


def test_the_commit_that_a_plain_archive_names_is_no_proof(host, store):
    """Its comment can say what it likes: a rule for that commit let any code run."""
    from weighlock.hub import trust

    claimed = "1" * 40
    url = host.put("model.zip", archive([BASE], claimed.encode()))
    assert hub.load(url, "net", trust_repo=True) == 1
    name = next(iter(trust._record(store)["rules"]))["pattern"]
    trust.remove(store, name)
    trust.add(store, f"{name}@{claimed}")
    host.put("model.zip", archive([("top/hubconf.py", EVIL)], claimed.encode()))
    with pytest.raises(wl.UntrustedRepositoryError):
        hub.load(url, "net", force_reload=True)


class TestTrust:
    @pytest.mark.parametrize("line", ["*_*", "o_*", "[o]_n", "?_n", "o_n@", "o_n\u200b"])
    def test_lines_of_torch_hubs_list_are_names(self, host, store, line):
        """They were read as patterns: `*_*` trusted everyone."""
        host.repository("o/n", {"hubconf.py": HUBCONF})
        Path(store.hub).mkdir(parents=True)
        Path(store.hub, "trusted_list").write_text(line + "\n", encoding="utf-8")
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n", "net")

    def test_a_list_whose_last_line_has_no_end(self, host, store):
        """The next name was written into that line: `foo` and `o_n` made `fooo_n`, which is somebody else."""
        host.repository("o/n", {"hubconf.py": HUBCONF})
        Path(store.hub).mkdir(parents=True)
        Path(store.hub, "trusted_list").write_text("a_b\nfoo")
        hub.load("o/n", "net", trust_repo=True)
        assert Path(store.hub, "trusted_list").read_text().splitlines() == ["a_b", "foo", "o_n"]

    @pytest.mark.parametrize("value", [[True], "yes", 1, 0, b"check", {}, object(), float("nan")])
    def test_values_that_are_none(self, host, value):
        host.repository("o/n", {"hubconf.py": HUBCONF})
        with pytest.raises(wl.ArgumentError, match="trust_repo"):
            hub.load("o/n", "net", trust_repo=value)

    def test_an_array_as_the_value(self, host):
        import numpy as np

        host.repository("o/n", {"hubconf.py": HUBCONF})
        for value in (np.array([1, 0]), np.True_):
            with pytest.raises(wl.ArgumentError, match="trust_repo"):
                hub.load("o/n", "net", trust_repo=value)


def test_a_branch_whose_name_could_be_a_commit(host, store):
    """Where git does not answer, the API's word was taken for ever: the branch `deadbeef` never moved again."""
    repository = host.repository("o/n", {"hubconf.py": HUBCONF}, branch="deadbeef")
    host.git_works = False
    assert hub.load("o/n:deadbeef", "net", trust_repo=True, skip_validation=True) == 1
    repository.commit({"hubconf.py": HUBCONF.replace("1", "2")})
    with hub.configured(refresh=0.0):
        assert hub.load("o/n:deadbeef", "net", skip_validation=True) == 2


class TestCacheBehindALink:
    def test_paths_that_the_repository_resolves(self, host, tmp_path, monkeypatch):
        """They were not taken for the repository's own, and stayed in sys.path: the second version got the first's."""
        import sys

        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "link"))
        text = (
            "import sys, pathlib\n"
            "sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / 'src'))\n"
            "from attacked_helper import VALUE\n"
            "def net():\n    return VALUE\n"
        )
        repository = host.repository("o/n", {"hubconf.py": text, "src/attacked_helper.py": "VALUE = 1\n"}, tag="v1")
        repository.commit({"src/attacked_helper.py": "VALUE = 2\n"}, tag="v2")
        before = list(sys.path)
        try:
            assert hub.load("o/n:v1", "net", trust_repo=True) == 1
            assert sys.path == before
            assert "attacked_helper" not in sys.modules
            assert hub.load("o/n:v2", "net", trust_repo=True) == 2
            assert hub.load("o/n:v1", "net", trust_repo=True) == 1
        finally:
            sys.path[:] = before
            sys.modules.pop("attacked_helper", None)
