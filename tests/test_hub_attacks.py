"""Attacks on the hub that once went through: what each of them did is said where it is tested."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import importlib.util
import io
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
from typing import Any, ClassVar

import pytest

import weighlock as wl
from tests.hub_host import serve, text_of
from tests.test_hub_archives import BASE, HUBCONF, archive
from tests.test_hub_download import DATA, replaced_meanwhile, weights

pytestmark = pytest.mark.one_lane

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
                data = opened(old, info)
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


def opened(bundle, info) -> bytes:
    file = bundle.extractfile(info)
    assert file is not None
    return file.read()


def add(bundle, name, data):
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


class _Sly(http.server.BaseHTTPRequestHandler):
    """Answers as `answers` says, one after the other, the last one for ever; each writes to the socket itself."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar[list[Any]] = []
    asked: ClassVar[list[Any]] = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked.append(dict(self.headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.wfile.write(answer)
        self.close_connection = True

    do_HEAD = do_GET


@pytest.fixture
def sly(host):
    servers = []

    def start(*answers):
        servers.append(serve(_Sly, answers=list(answers), asked=[]))
        server = servers[-1]
        return f"http://127.0.0.1:{server.server_address[1]}/w.pth", server.RequestHandlerClass.asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def response(status, headers, body):
    lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


OLD, NEW = "Mon, 05 Jan 2026 00:00:00 GMT", "Tue, 06 Jan 2026 00:00:00 GMT"


class TestAnswers:
    def test_a_new_version_that_only_its_date_tells(self, sly, tmp_path):
        """The server knows no If-Range: the end of the new file was put behind the beginning of the old one."""
        new = DATA[::-1]
        url, _ = sly(
            response(200, {"Content-Length": len(DATA), "Last-Modified": OLD}, DATA[:1000]),
            response(206, {"Content-Length": len(DATA) - 1000, "Last-Modified": NEW,
                           "Content-Range": f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"}, new[1000:]),
            response(200, {"Content-Length": len(DATA), "Last-Modified": NEW}, new),
        )  # fmt: skip
        hub.download_url_to_file(url, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == new

    @pytest.mark.parametrize("total", ["2000", "*"])
    def test_a_rest_that_is_shorter_than_the_file_was(self, sly, tmp_path, total):
        """The length of the second answer was believed: 2000 bytes of a file of 1.3 million."""
        part = response(206, {"Content-Length": 1000, "ETag": '"a"', "Content-Range": f"bytes 1000-1999/{total}"},
                        DATA[1000:2000])  # fmt: skip
        url, _ = sly(
            response(200, {"Content-Length": len(DATA), "ETag": '"a"'}, DATA[:1000]),
            part,
            response(200, {"Content-Length": len(DATA), "ETag": '"a"'}, DATA),
        )
        hub.download_url_to_file(url, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == DATA

    @pytest.mark.parametrize("range", ["bytes 0-999/*", "bytes 0-999/1000000"])
    def test_a_part_that_nobody_asked_for(self, sly, tmp_path, range):
        url, _ = sly(response(206, {"Content-Length": 1000, "Content-Range": range}, DATA[:1000]))
        with pytest.raises(wl.DownloadError):
            hub.download_url_to_file(url, tmp_path / "a")
        assert not (tmp_path / "a").exists()

    def test_a_packed_part(self, sly, tmp_path):
        """What the server packed was unpacked, and counted as the rest."""
        url, _ = sly(
            response(200, {"Content-Length": len(DATA), "ETag": '"a"'}, DATA[:1000]),
            response(206, {"ETag": '"a"', "Content-Encoding": "gzip",
                           "Content-Range": f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"},
                     gzip.compress(bytes(len(DATA) - 1000))),
            response(200, {"Content-Length": len(DATA), "ETag": '"a"'}, DATA),
        )  # fmt: skip
        hub.download_url_to_file(url, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == DATA

    def test_a_packed_body_that_breaks_off(self, sly, tmp_path):
        """Without a length, only the packing itself says that something is missing."""
        packed = gzip.compress(os.urandom(100_000))
        url, _ = sly(response(200, {"Content-Encoding": "gzip"}, packed[:50_000]))
        with pytest.raises(wl.DownloadError):
            hub.download_url_to_file(url, tmp_path / "a")
        assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize("headers", [
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "9" * 30},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "9" * 400},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "\xb2"},
        {"Retry-After": "9" * 30}, {"Retry-After": "9" * 400}, {"Retry-After": "inf"}, {"Retry-After": "nan"},
        {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, {"Retry-After": "Fri, 99 Dec 99999 23:59:59 GMT"},
    ])  # fmt: skip
    def test_times_that_are_none(self, sly, tmp_path, headers):
        """They ended in an OverflowError of Python's."""
        url, _ = sly(response(403, {**headers, "Content-Length": 0}, b""))
        with pytest.raises(wl.RateLimitError):
            hub.download_url_to_file(url, tmp_path / "a")

    @pytest.mark.parametrize("headers", [
        {"Content-Length": "\xb2"}, {"Content-Length": "9" * 5000}, {"X-Linked-Size": "\xb2"}, {"Content-Length": "-1"},
        {"Content-Range": "bytes 0-" + "9" * 5000 + "/" + "9" * 5000},
    ])  # fmt: skip
    @pytest.mark.parametrize("status", [200, 206])
    def test_lengths_that_are_none(self, sly, tmp_path, headers, status):
        url, _ = sly(response(status, headers, DATA))
        try:
            hub.download_url_to_file(url, tmp_path / "a")
        except wl.DownloadError:
            return
        assert (tmp_path / "a").read_bytes() == DATA

    @pytest.mark.parametrize("page", [
        b"<!-- saved --><html>", b"<head><title>Sign in</title>", b"<?xml version='1.0'?><Error>AccessDenied</Error>",
        b"\xef\xbb\xbf\n <!DOCTYPE HTML>", "<!DOCTYPE html>".encode("utf-16"), b"<script>location='/login'</script>",
        b"<meta http-equiv=refresh>", b"<svg onload=x>", b"<body>",
    ])  # fmt: skip
    def test_pages_that_do_not_say_so(self, sly, page):
        """They were kept as weights, and every later call failed on them."""
        url, _ = sly(
            response(200, {"Content-Length": len(page) + 999, "Content-Type": "text/plain"}, page + b" " * 999)
        )
        with pytest.raises(wl.NotWeightsError):
            hub.load_state_dict_from_url(url)


class TestOneNameForTwo:
    def test_two_urls_of_one_name_at_once(self, host, store):
        """Each found the name free. The second took it from the first, whose program then loaded the second's."""
        from weighlock.hub.checkpoints import Weights, find_weights
        from weighlock.hub.settings import current

        one, two = host.put("a/net.pth", weights(1)), host.put("b/net.pth", weights(2))
        host.fail("b/net.pth", "hold")
        found: dict[str, str] = {}
        thread = threading.Thread(
            target=lambda: found.update(two=find_weights(store, Weights(url=two), current())), daemon=True
        )
        thread.start()
        until(lambda: host.count("b/net.pth"))
        other = threading.Thread(
            target=lambda: found.update(one=find_weights(store, Weights(url=one), current())), daemon=True
        )
        other.start()
        other.join(2)
        host.released.set()
        thread.join(30)
        other.join(30)
        assert Path(found["one"]).read_bytes() == weights(1)
        assert Path(found["two"]).read_bytes() == weights(2)
        assert wl.hub.load_state_dict_from_url(one)["weight"][0] == 1
        assert wl.hub.load_state_dict_from_url(two)["weight"][0] == 2
        assert host.bodies("net.pth") == 2

    @pytest.mark.parametrize("lying", [False, True])
    def test_many_processes_with_two_urls(self, host, store, lying):
        from tests.test_hub_processes import finish, start

        urls = [host.put("a/net.pth", weights(1)), host.put("b/net.pth", weights(2))]
        code = "import weighlock as wl\nprint(wl.hub.load_state_dict_from_url({url!r})['weight'].max())\n"
        done = finish([start(code.format(url=urls[n % 2]), lying) for n in range(16)])
        assert [row[0] for row in done] == ["1.0\n", "2.0\n"] * 8, [row[1] for row in done if row[2]]

    def test_a_process_that_dies_before_it_has_written_down_what_it_fetched(self, host, store, monkeypatch):
        """Its file had the name and no record: another URL of that name, and of that length, took it for its own."""
        from weighlock.hub import checkpoints

        one, two = host.put("a/net.pth", weights(1)), host.put("b/net.pth", weights(2))

        class Killed(BaseException):
            pass

        def die(*_):
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(checkpoints._Finder, "_remember", die)
            with pytest.raises(Killed):
                hub.load_state_dict_from_url(one)
        assert hub.load_state_dict_from_url(two)["weight"][0] == 2
        assert hub.load_state_dict_from_url(one)["weight"][0] == 1


def until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class TestTargets:
    @pytest.mark.parametrize("kind", ["folder", "pipe", "null"])
    def test_what_is_no_file_stays(self, host, tmp_path, kind):
        """A pipe was replaced by a file, and for root /dev/null too; a folder was an error after all was fetched."""
        url = host.put("a.bin", DATA)
        target = tmp_path / "target"
        if kind == "folder":
            target.mkdir()
        elif kind == "pipe":
            os.mkfifo(target)
        else:
            target.symlink_to("/dev/null")
        with pytest.raises(wl.HubError):
            hub.download_url_to_file(url, target)
        assert host.count("a.bin") == 0
        assert stat.S_IFMT(target.lstat().st_mode) == {
            "folder": stat.S_IFDIR, "pipe": stat.S_IFIFO, "null": stat.S_IFLNK}[kind]  # fmt: skip

    def test_the_user_of_an_ftp_address_is_not_shown(self, tmp_path):
        with pytest.raises(wl.DownloadError) as caught:
            hub.download_url_to_file("ftp://anna:s3cret@127.0.0.1:1/w.pth", tmp_path / "w")
        assert "s3cret" not in str(caught.value)
        with pytest.raises(wl.DownloadError) as caught:
            hub.download_url_to_file("sftp://anna:s3cret@127.0.0.1:1/w.pth", tmp_path / "w")
        assert "s3cret" not in str(caught.value)

    def test_a_hash_in_capitals(self, tmp_path):
        digest = hashlib.sha256(b"abc").hexdigest().upper()
        hub.download_url_to_file("data:,abc", tmp_path / "w", hash_prefix=digest)
        assert (tmp_path / "w").read_bytes() == b"abc"


class TestLockFile:
    ENTRY = """
[[repository]]
name = "github.com/o/n"
commit = "{commit}"
tree = "{commit}"
content = "sha256:{commit}"
"""

    @pytest.mark.parametrize("text", [
        ENTRY.replace('"sha256:{commit}"', "5"), ENTRY.replace('"github.com/o/n"', "7"),
        ENTRY + "ref = 5\n", "x = " + "[" * 5000 + "]" * 5000,
        '[[weights]]\nurls = "https://a/b"\nsize = 1\nsha256 = "{sha}"\n',
        '[[weights]]\nurls = ["https://a/b"]\nsize = -1\nsha256 = "{sha}"\n',
        '[[weights]]\nurls = ["https://a/b"]\nsize = true\nsha256 = "{sha}"\n',
        '[[weights]]\nurls = ["https://a/b"]\nsize = 1\nsha256 = ["{sha}"]\n',
        '[[weights]]\nurls = ["https://a/b"]\nsize = 1\nsha256 = "' + "z" * 64 + '"\n',
        "[weights]\nurls = 5\n", "repository = 5\n",
    ])  # fmt: skip
    def test_what_is_no_lock_file(self, tmp_path, text):
        from weighlock.hub.lock_file import read_lock_file

        path = tmp_path / "weighlock.lock"
        path.write_text("version = 1\n" + text.format(commit="1" * 40, sha="1" * 64))
        with pytest.raises(wl.PinError):
            read_lock_file(str(path))

    def test_two_entries_that_say_different_things(self, tmp_path):
        """As a merge of two branches leaves them: the first was taken, without a word."""
        from weighlock.hub.lock_file import read_lock_file

        path = tmp_path / "weighlock.lock"
        path.write_text("version = 1\n" + self.ENTRY.format(commit="1" * 40) + self.ENTRY.format(commit="2" * 40))
        with pytest.raises(wl.PinError, match="twice"):
            read_lock_file(str(path))
        row = '[[weights]]\nurls = ["https://a/b"]\nsize = 1\nsha256 = "{sha}"\n'
        path.write_text("version = 1\n" + row.format(sha="1" * 64) + row.format(sha="2" * 64))
        with pytest.raises(wl.PinError, match="twice"):
            read_lock_file(str(path))

    def test_a_link_in_the_place_of_the_file_stays(self, host, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        host.repository("o/n", {"hubconf.py": HUBCONF})
        Path("weighlock.lock").symlink_to("real.lock")
        hub.lock("o/n")
        assert Path("weighlock.lock").is_symlink()
        assert "github.com/o/n" in Path("real.lock").read_text()


class TestReading:
    """A kilobyte of hubconf that kept `hub.list` busy for hours, or took all memory."""

    @pytest.mark.parametrize("text", [
        "a = [1]\n" + "a = [a, a]\n" * 60 + "dependencies = a\n",
        "d = {}\n" + "d = {'a': d, 'b': d}\n" * 60 + "dependencies = [d]\n",
        "x = 10\n" + "x = x * x\n" * 60,
        "x = [1 for a in range(10000) for b in range(10000) for c in range(10000) if a < 0]\n",
        "x = [1 for a in range(10000) for b in range(10000) if a < 0]\n",
    ])  # fmt: skip
    def test_values_that_grow(self, tmp_path, text):
        import subprocess
        import sys

        (tmp_path / "hubconf.py").write_text(text + "def net(x=1):\n    'A net.'\n")
        code = f"import weighlock as wl; print(wl.hub.list({str(tmp_path)!r}, source='local'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
        assert done.stdout == "['net']\n"


@pytest.mark.parametrize("text", [
    "http://[::1/x", "https://github.com:99999/o/n", "https://github.com:abc/o/n", "https://", "https:///x",
    "git+https://../x", "https://github.com\\@evil.com/o/n", "https://h/" + "a" * 9000 + ".zip", "o/n:\ud800",
    "o/" + "n" * 300, "o/n:" + "a" * 300, "https://h/a b.zip", "https://h/\ud800.zip",
    "https://anna:s3cret@h/x.git@a b",
    "ssh://anna:s3cret@h/x", "https://anna:s3cret@h/x.tar", "https://anna:s3cret@[h/x",
])  # fmt: skip
@pytest.mark.parametrize("source", ["github", "git", "archive"])
def test_names_that_are_none(text, source):
    """Some were an error of Python's own, one a folder outside of the store's, some showed the password."""
    from weighlock.hub.settings import current
    from weighlock.hub.sources import parse

    with pytest.raises(wl.RepositoryNameError) as caught:
        parse(text, source, current())
    assert "s3cret" not in str(caught.value)


def test_a_long_ref_of_other_letters(host, store):
    name = "ветка" * 20
    host.repository("o/n", {"hubconf.py": HUBCONF}, tag=name)
    assert hub.load(f"o/n:{name}", "net", trust_repo=True) == 1
    asked = host.count()
    assert hub.load(f"o/n:{name}", "net") == 1
    assert host.count() == asked


FULL_DISK = """
import errno, os, subprocess, sys, warnings
import weighlock as wl
disk, big, url = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
os.environ["TORCH_HOME"] = disk

def fails(call):
    try:
        call()
    except wl.DownloadError as error:
        assert error.errno == errno.ENOSPC and disk in str(error) and "prune" in str(error), error
    else:
        raise AssertionError("it fits")

def fill():
    filler = os.open(disk + "/filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(filler, bytes(4096))
    except OSError:
        os.close(filler)

fails(lambda: wl.hub.load("o/big", "net", trust_repo=True))
fails(lambda: wl.hub.load_state_dict_from_url(url))
fails(lambda: wl.hub.download_url_to_file(url, disk + "/x"))
assert wl.hub.load("o/n", "net", trust_repo=True) == 1
lock = disk + "/weighlock.lock"
wl.hub.lock("o/n", path=lock)
before = open(lock).read()
fill()
assert not [name for _, _, names in os.walk(disk) for name in names if name.startswith((".tmp", "tree."))]
fails(lambda: wl.hub.load("o/n", "net", force_reload=True))
with wl.hub.configured(refresh=0.0):
    assert wl.hub.load("o/n", "net") == 1, "what is there needs no room"
try:
    wl.hub.lock("o/n", path=lock)
except wl.TargetError as error:
    assert error.errno == errno.ENOSPC
assert open(lock).read() == before
assert not [name for name in os.listdir(disk) if "tmp" in name]
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    os.unlink(disk + "/hub/.weighlock/v1/trust.json")
    fill()
    os.unlink(disk + "/hub/trusted_list")
    fill()
    assert wl.hub.load("o/n", "net", trust_repo=True) == 1
assert any("could not be written down" in str(one.message) for one in seen), seen
os.unlink(disk + "/filler")
assert wl.hub.load("o/n", "net", trust_repo=True) == 1
"""


def test_a_full_disk(host, tmp_path):
    """A real one. Its error had neither place nor advice, and kept what was there from being used."""
    import subprocess
    import sys

    from tests.test_durability import small_disk

    host.repository("o/big", {"hubconf.py": HUBCONF, "data.bin": os.urandom(3 << 20)})
    host.repository("o/n", {"hubconf.py": HUBCONF})
    (tmp_path / "disk").mkdir()
    # Sent in chunks: nobody knows beforehand that it does not fit.
    words = [str(tmp_path / "disk"), "o/big", f"{host.files}/codeload/o/big/trunk"]
    done = subprocess.run([*small_disk(), sys.executable, "-W", "ignore", "-c", FULL_DISK, *words],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_parts_of_another_version_from_a_server_that_knows_no_if_range(host, tmp_path, monkeypatch):
    """Each part names the version that it is of: that was not looked at."""
    monkeypatch.setattr("weighlock.hub.parallel._RANGE", 1 << 18)
    monkeypatch.setattr("weighlock.hub.transfer._TRIAL_BYTES", 1)
    monkeypatch.setattr("weighlock.hub.transfer._FAST", float("inf"))
    handler = host._servers[2].RequestHandlerClass
    real = handler._send_file

    def send(self, held):
        del self.headers["If-Range"]
        real(self, held)

    monkeypatch.setattr(handler, "_send_file", send)
    assert replaced_meanwhile(host, tmp_path / "a") == DATA[::-1]


def test_a_program_that_restores_what_finds_modules(host):
    """As test runners do: afterwards no repository could be loaded in this process."""
    import sys

    from weighlock.hub.isolation import _Finder

    host.repository("o/n", {"hubconf.py": HUBCONF})
    host.repository("o/m", {"hubconf.py": HUBCONF})
    assert hub.load("o/n", "net", trust_repo=True) == 1
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not _Finder]
    assert hub.load("o/m", "net", trust_repo=True) == 1


def test_a_current_folder_that_was_deleted(tmp_path, monkeypatch):
    """It ended in an error of Python's own."""
    import shutil

    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.rmtree(folder)
    for call in (wl.save, lambda *words: wl.save_async(*words).result(), lambda _, path: wl.Checkpointer(path)):
        with pytest.raises(wl.MissingFolderError):
            call({}, "x.pt")
