"""Downloads and weights: never wrong, never short; resumed, retried, checked."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import errno
import gzip
import hashlib
import io
import itertools
import os
import socket
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import weighlock as wl

pytestmark = pytest.mark.one_lane

hub = wl.hub

DATA = bytes(range(256)) * 20_000


def sha(data):
    return hashlib.sha256(data).hexdigest()


def weights(value=1.0, size=3000):
    """Weights of 3000 equal values, and zeros behind them."""
    file = io.BytesIO()
    wl.save({"weight": np.where(np.arange(size) < 3000, np.float32(value), np.float32(0))}, file)
    return file.getvalue()


def replaced_meanwhile(host, target):
    """Fetch a file by ranges that becomes another one when a part of it is there; return what came."""
    url = host.put("a.bin", DATA)
    seen: list[int] = []

    def report(done, total):
        if done > 1 << 20 and not seen:
            seen.append(done)
            host.put("a.bin", DATA[::-1])

    with hub.configured(parallel_from=1 << 20):
        hub.download_url_to_file(url, target, progress=report)
    assert seen
    return target.read_bytes()


def leftovers(folder):
    return [path.name for path in Path(folder).rglob("*") if path.name.startswith(".") and path.is_file()]


class TestWhole:
    def test_a_file(self, host, tmp_path):
        hub.download_url_to_file(host.put("a.bin", DATA), tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == DATA
        assert leftovers(tmp_path) == []

    def test_a_path_without_a_folder(self, host, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        hub.download_url_to_file(host.put("a.bin", DATA), "a")
        assert (tmp_path / "a").read_bytes() == DATA

    @pytest.mark.parametrize("kind", ["truncate", "reset"])
    @pytest.mark.parametrize("after", [0, 1, 100_000, len(DATA) - 1])
    def test_a_body_that_ends_too_early_is_continued(self, host, tmp_path, kind, after):
        url = host.put("a.bin", DATA)
        host.fail("a.bin", kind, 2, after=after)
        hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
        assert (tmp_path / "a").read_bytes() == DATA
        last = host.log[-1][3]
        if after and kind == "truncate":
            assert (
                last["Range"] == f"bytes={min(after + (len(DATA) - after > after) * after, len(DATA))}-"
                or "Range" in last
            )
            assert last["If-Range"].startswith('"')

    def test_a_body_that_never_comes_whole_leaves_no_file(self, host, tmp_path):
        url = host.put("a.bin", DATA, ranges=False)
        host.fail("a.bin", "truncate", 100, after=10)
        (tmp_path / "a").write_bytes(b"the old one")
        with pytest.raises(wl.NetworkError, match=f"ended too early: expected {len(DATA)} bytes, got 10 bytes"):
            hub.download_url_to_file(url, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b"the old one"

    def test_a_new_version_between_two_attempts_is_not_mixed(self, host, tmp_path):
        url = host.put("a.bin", DATA)
        host.fail("a.bin", "truncate", 1, after=1000)
        other = DATA[::-1]
        seen: list[tuple[int, int]] = []

        def report(done, total):
            if not seen:
                seen.append(done)
                host.put("a.bin", other)

        hub.download_url_to_file(url, tmp_path / "a", progress=report)
        assert (tmp_path / "a").read_bytes() == other

    @pytest.mark.parametrize("kind", ["ignore-range", "wrong-range"])
    def test_servers_that_misunderstand_ranges(self, host, tmp_path, kind):
        url = host.put("a.bin", DATA)
        host.fail("a.bin", "truncate", 1, after=1000)
        host.fail("a.bin", kind, 1)
        hub.download_url_to_file(url, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == DATA

    def test_a_weak_validator_is_not_continued_from(self, host, tmp_path):
        url = host.put("a.bin", DATA, etag='W/"weak"')
        host.fail("a.bin", "truncate", 1, after=1000)
        hub.download_url_to_file(url, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == DATA
        assert not any("Range" in row[3] for row in host.log)

    def test_a_later_run_continues_what_a_killed_one_left(self, host, tmp_path):
        url = host.put("a.bin", DATA)
        host.fail("a.bin", "truncate", 1, after=300_000)
        host.fail("a.bin", "status", 100, code=503)
        with pytest.raises(wl.StatusError):
            hub.download_url_to_file(url, tmp_path / "a")
        _as_if_killed(tmp_path)
        host.faults.clear()
        host.log.clear()
        hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
        assert (tmp_path / "a").read_bytes() == DATA
        assert int(host.log[0][3]["Range"].removeprefix("bytes=").rstrip("-")) >= 300_000
        assert leftovers(tmp_path) == []

    def test_the_same_process_continues_too(self, host, tmp_path):
        url = host.put("a.bin", DATA)
        host.fail("a.bin", "truncate", 1, after=3_000_000)
        host.fail("a.bin", "status", 100, code=503)
        with pytest.raises(wl.StatusError):
            hub.download_url_to_file(url, tmp_path / "a")
        host.faults.clear()
        host.log.clear()
        hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
        assert int(host.log[0][3]["Range"].removeprefix("bytes=").rstrip("-")) == 3_000_000
        assert leftovers(tmp_path) == []

    def test_a_damaged_beginning_does_not_survive_the_digest(self, host, tmp_path):
        url = host.put("a.bin", DATA, digest=True)
        host.fail("a.bin", "truncate", 1, after=300_000)
        host.fail("a.bin", "status", 100, code=503)
        with pytest.raises(wl.StatusError):
            hub.download_url_to_file(url, tmp_path / "a")
        part = next(path for path in tmp_path.iterdir() if path.name.endswith(".part"))
        with part.open("r+b") as file:
            file.write(b"damage")
        _as_if_killed(tmp_path)
        host.faults.clear()
        with pytest.raises(wl.HashMismatchError, match="not what the server declares"):
            hub.download_url_to_file(url, tmp_path / "a")
        assert leftovers(tmp_path) == []
        hub.download_url_to_file(url, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == DATA

    @pytest.mark.parametrize("connections", [2, 4])
    def test_a_large_file_comes_over_several_connections(self, host, tmp_path, monkeypatch, connections):
        monkeypatch.setattr("weighlock.hub.parallel._RANGE", 1 << 18)
        monkeypatch.setattr("weighlock.hub.transfer._TRIAL_BYTES", 1)
        monkeypatch.setattr("weighlock.hub.transfer._FAST", float("inf"))
        url = host.put("a.bin", DATA, digest=True)
        host.fail("a.bin", "truncate", 1, after=1 << 10)
        with hub.configured(parallel_from=1 << 20, connections=connections):
            hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
        assert (tmp_path / "a").read_bytes() == DATA
        assert len({row[3].get("Range") for row in host.log}) > 10

    def test_ranges_of_another_version_are_not_mixed(self, host, tmp_path, monkeypatch):
        monkeypatch.setattr("weighlock.hub.parallel._RANGE", 1 << 18)
        monkeypatch.setattr("weighlock.hub.transfer._TRIAL_BYTES", 1)
        monkeypatch.setattr("weighlock.hub.transfer._FAST", float("inf"))
        assert replaced_meanwhile(host, tmp_path / "a") == DATA[::-1]

    @pytest.mark.parametrize("form", ["seconds", "date"])
    @pytest.mark.parametrize("code", [429, 503])
    def test_retries_and_retry_after(self, host, tmp_path, monkeypatch, form, code):
        waits: list[float | None] = []
        monkeypatch.setattr(
            "weighlock.hub.download.Client.wait", lambda self, attempt, seconds=None: waits.append(seconds)
        )

        def later(seconds):
            text = str(seconds) if form == "seconds" else email.utils.formatdate(time.time() + seconds, usegmt=True)
            return {"Retry-After": text}

        url = host.put("a.bin", DATA)
        host.fail("a.bin", "status", 1, code=500)
        host.fail("a.bin", "status", 1, code=code, headers=later(70))
        hub.download_url_to_file(url, tmp_path / "a")
        assert waits[0] is None, "nobody said how long"
        assert len(waits) == 2
        assert 60 < (waits[1] or 0) <= 70
        host.fail("a.bin", "status", 1, code=code, headers=later(7200))
        with pytest.raises(wl.RateLimitError if code == 429 else wl.StatusError) as caught:
            hub.download_url_to_file(url, tmp_path / "a")
        assert len(waits) == 2, "two hours are not waited"
        if code == 429:
            assert 7100 < caught.value.reset - time.time() <= 7200  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("code", "headers", "body", "kind", "text"),
        [
            (401, {}, b"", wl.AuthenticationError, r"the server refuses .*401.*USER:PASSWORD@host.*netrc"),
            (403, {}, b"", wl.AuthenticationError, "the server refuses .*403"),
            (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800"}, b"", wl.RateLimitError,
             "403: rate limit exceeded until 2100-01-01"),
            (403, {}, b"You have exceeded a secondary rate limit", wl.RateLimitError, "rate limit exceeded"),
            (404, {}, b"", wl.StatusError, "HTTP Error 404: Not Found"),
            (407, {}, b"", wl.AuthenticationError, "the proxy asks who you are"),
            (410, {}, b"", wl.StatusError, "HTTP Error 410"),
            (429, {"Retry-After": "9999"}, b"", wl.RateLimitError, "429: rate limit exceeded until"),
            (451, {}, b"", wl.StatusError, "HTTP Error 451"),
            (500, {}, b"", wl.StatusError, "HTTP Error 500"),
        ],
    )  # fmt: skip
    def test_each_refusal_has_a_class_and_a_text(self, host, tmp_path, code, headers, body, kind, text):
        host.fail("a.bin", "status", 100, code=code, headers=headers, body=body)
        with pytest.raises(wl.StatusError, match=text) as caught:
            hub.download_url_to_file(host.put("a.bin", DATA), tmp_path / "a")
        assert type(caught.value) is kind
        assert caught.value.status == code
        assert caught.value.url == host.files + "/a.bin"
        assert host.count("a.bin") == (3 if code == 500 else 1), "what will not change is asked once"

    def test_a_server_that_stalls(self, host, tmp_path):
        """The server ends the body itself after a while: a longer wait than was allowed would see that end."""
        url = host.put("a.bin", DATA)
        host.fail("a.bin", "stall", 100, after=0, seconds=4)
        patience = hub.configured(connect_timeout=60, read_timeout=0.2, retries=0)
        with patience, pytest.raises(wl.NetworkError, match="[Tt]imed out|timeout=0.2"):
            hub.download_url_to_file(url, tmp_path / "a")

    def test_a_host_that_takes_no_connection(self, host, tmp_path):
        with socket.socket() as listening, contextlib.ExitStack() as waiting:
            listening.bind(("127.0.0.1", 0))
            listening.listen(0)
            for _ in range(3):
                one = waiting.enter_context(socket.socket())
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect(listening.getsockname())
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/a"
            patience = hub.configured(connect_timeout=0.2, read_timeout=60, retries=0)
            with patience, pytest.raises(wl.NetworkError, match=r"connect timeout=0\.2"):
                hub.download_url_to_file(url, tmp_path / "a")

    def test_a_body_without_a_length_that_breaks_off(self, host, tmp_path):
        """Chunked, as archives that are made at once: the missing last chunk is the only sign."""
        host.repository("o/n", {"hubconf.py": "x = 1\n" * 1000})
        url = host.files + "/codeload/o/n/trunk"
        host.fail("codeload", "truncate", 1)
        hub.download_url_to_file(url, tmp_path / "a")
        assert zipfile.ZipFile(tmp_path / "a").testzip() is None
        host.fail("codeload", "truncate", 100)
        with pytest.raises(wl.NetworkError, match="broke off"):
            hub.download_url_to_file(url, tmp_path / "b")
        assert not (tmp_path / "b").exists()

    def test_a_body_that_is_packed_unasked(self, host, tmp_path):
        packed = gzip.compress(DATA)
        url = host.put("a.bin", packed, headers={"Content-Encoding": "gzip"})
        hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
        host.fail("a.bin", "truncate", 1, after=len(packed) // 2)
        hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
        assert not any("Range" in row[3] for row in host.log), "a range would be of the packed bytes"

    def test_what_arrived_before_a_break_counts(self, host, tmp_path):
        """A line that breaks every few hundred kilobytes gets there in the end: each attempt goes on from the last."""
        url = host.put("a.bin", DATA)
        host.fail("a.bin", "stall", 100, after=400_000, seconds=20)
        with hub.configured(read_timeout=0.2, retries=0):
            hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
        assert 1 + len(DATA) // 400_000 <= host.count("a.bin") <= 2 + len(DATA) // 300_000

    def test_an_address_that_does_not_answer(self, host, tmp_path):
        with hub.configured(retries=0), pytest.raises(wl.NetworkError) as caught:
            hub.download_url_to_file("http://127.0.0.1:1/x", tmp_path / "a")
        assert isinstance(caught.value, ConnectionError)

    def test_errors_of_the_server(self, host, tmp_path):
        with pytest.raises(wl.StatusError, match="HTTP Error 404: Not Found"):
            hub.download_url_to_file(host.files + "/nothing", tmp_path / "a")
        host.fail("denied", "status", 10, code=403)
        with pytest.raises(wl.AuthenticationError, match="403"):
            hub.download_url_to_file(host.files + "/denied", tmp_path / "a")

    def test_redirects(self, host, tmp_path):
        url = host.put("a.bin", DATA)
        host.fail("start", "redirect", to=url)
        hub.download_url_to_file(host.files + "/start", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == DATA
        host.fail("loop", "redirect", 100, to=host.files + "/loop")
        with pytest.raises(wl.DownloadError, match="redirects"):
            hub.download_url_to_file(host.files + "/loop", tmp_path / "a")
        host.fail("ftp", "redirect", to="ftp://127.0.0.1/x")
        with pytest.raises(wl.DownloadError, match="a redirect leads from http to ftp"):
            hub.download_url_to_file(host.files + "/ftp", tmp_path / "a")

    def test_https_never_leads_to_http(self):
        from weighlock.storages.connections import checked_redirect

        with pytest.raises(wl.DownloadError, match="from https to http"):
            checked_redirect("https://a/b", "http://a/b")
        assert checked_redirect("https://a/b/c", "../d") == "https://a/d"

    def test_a_wrong_hash(self, host, tmp_path):
        url = host.put("a.bin", DATA)
        with pytest.raises(RuntimeError, match=rf'invalid hash value \(expected "00ff", got "{sha(DATA)}"\)'):
            hub.download_url_to_file(url, tmp_path / "a", hash_prefix="00ff")
        assert list(tmp_path.glob("a*")) == leftovers(tmp_path) == []

    @pytest.mark.parametrize("right", [True, False])
    @pytest.mark.parametrize("way", ["Repr-Digest", "Digest", "several", "X-Checksum-Sha256", "X-Linked-Etag"])
    def test_what_a_server_declares(self, host, tmp_path, way, right):
        said = hashlib.sha256(DATA if right else b"another file").digest()
        text = base64.b64encode(said).decode()
        headers = {
            "Repr-Digest": {"Repr-Digest": f"sha-256=:{text}:"},
            "Digest": {"Digest": f"SHA-256={text}"},
            "several": {"Repr-Digest": f"sha-512=:{'A' * 86}==:, sha-256=:{text}:"},
            "X-Checksum-Sha256": {"X-Checksum-Sha256": said.hex()},
            "X-Linked-Etag": {},
        }[way]
        url = host.put("a.bin", DATA, headers=headers)
        if way == "X-Linked-Etag":
            host.fail("start", "redirect", 9, to=url, headers={"X-Linked-Etag": f'"{said.hex()}"'})
            url = host.files + "/start"
        if right:
            hub.download_url_to_file(url, tmp_path / "a")
            return
        with pytest.raises(wl.HashMismatchError, match="not what the server declares"):
            hub.download_url_to_file(url, tmp_path / "a")
        assert not (tmp_path / "a").exists()
        assert leftovers(tmp_path) == []

    def test_a_size_that_hugging_face_declares(self, host, tmp_path):
        host.fail("start", "redirect", 9, to=host.put("a.bin", DATA), headers={"X-Linked-Size": str(len(DATA) + 1)})
        with pytest.raises(wl.HashMismatchError, match="another size"):
            hub.download_url_to_file(host.files + "/start", tmp_path / "a")

    @pytest.mark.parametrize("place", ["download/v1", "latest/download"])
    def test_what_github_knows_of_a_file_of_a_release(self, host, tmp_path, place):
        host.repository("o/n", {"hubconf.py": ""})
        host.put("signed/net.pth", DATA)
        url = f"{host.web}/o/n/releases/{place}/net.pth"
        hub.download_url_to_file(url, tmp_path / "unknown")
        host.releases[place.removesuffix("/download").rpartition("/")[2]] = {"net.pth": DATA}
        hub.download_url_to_file(url, tmp_path / "a")
        assert host.count("/releases/", role="api") == 2
        hub.download_url_to_file(url, tmp_path / "a", hash_prefix=sha(DATA))
        assert host.count("/releases/", role="api") == 2, "who knows it all needs not ask"
        host.put("signed/net.pth", DATA[::-1])
        with pytest.raises(wl.HashMismatchError, match="not what the server declares"):
            hub.download_url_to_file(url, tmp_path / "b")
        host.quota = 0
        hub.download_url_to_file(url, tmp_path / "b")

    def test_a_folder_that_is_missing(self, host, tmp_path):
        with pytest.raises(FileNotFoundError):
            hub.download_url_to_file(host.put("a.bin", DATA), tmp_path / "no" / "a")

    def test_a_full_disk_is_seen_before_anything_is_written(self, host, tmp_path, monkeypatch):
        real = os.statvfs(tmp_path)
        parts = list(real)
        parts[4] = 1000 // real.f_frsize if real.f_frsize <= 1000 else 0  # blocks that a user may still write
        free = parts[4] * real.f_frsize
        monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result(parts))
        with pytest.raises(wl.DownloadError, match=f"{len(DATA) - free:,} bytes too few"):
            hub.download_url_to_file(host.put("a.bin", DATA), tmp_path / "a")
        assert leftovers(tmp_path) == []

    def test_a_disk_that_fills_up_on_the_way(self, host, tmp_path, monkeypatch):
        def full(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("weighlock.hub.parts.Part.write", full)
        with pytest.raises(OSError, match="No space left"):
            hub.download_url_to_file(host.put("a.bin", DATA), tmp_path / "a")
        assert leftovers(tmp_path) == []

    def test_proxies(self, host, tmp_path, monkeypatch):
        url = host.put("a.bin", DATA)
        monkeypatch.setenv("http_proxy", host.files)
        monkeypatch.setenv("no_proxy", "")
        with hub.configured(retries=0), pytest.raises(wl.StatusError):
            hub.download_url_to_file("http://nowhere.invalid/a.bin", tmp_path / "a")
        assert host.log[-1][2].startswith("http://nowhere.invalid/a.bin")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        hub.download_url_to_file(url, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == DATA

    def test_progress(self, host, tmp_path, capfd):
        seen: list[tuple[int, int]] = []
        hub.download_url_to_file(host.put("a.bin", DATA), tmp_path / "a", progress=lambda *row: seen.append(row))
        assert seen[-1] == (len(DATA), len(DATA))
        assert all(one < two for one, two in itertools.pairwise(seen))
        hub.download_url_to_file(host.put("a.bin", DATA), tmp_path / "a", progress=True)
        assert capfd.readouterr() == ("", "")

    def test_a_bar_on_a_terminal(self, host, tmp_path, monkeypatch):
        screen = io.StringIO()
        screen.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr("sys.stderr", screen)
        hub.download_url_to_file(host.put("a.bin", DATA), tmp_path / "a\x1b[31m")
        assert "100%" in screen.getvalue()
        assert "\x1b[31m" not in screen.getvalue()
        assert "weighlock-hub-writer" not in {thread.name for thread in threading.enumerate()}


def _as_if_killed(folder):
    """Let an unfinished download belong to a process that is gone."""
    import json

    for path in Path(folder).glob(".*.note"):
        note = json.loads(path.read_text())
        note["pid"] = 2**22 + 12345
        path.write_text(json.dumps(note))


class TestWeights:
    def test_loaded_once(self, host):
        url = host.put("m/net.pth", weights())
        for _ in range(3):
            assert hub.load_state_dict_from_url(url)["weight"].sum() == 3000
        assert host.count("net.pth") == 1
        assert Path(hub.get_dir(), "checkpoints", "net.pth").exists()

    def test_two_urls_with_one_name(self, host):
        one, two = host.put("a/download", weights(1)), host.put("b/download", weights(2))
        for _ in range(2):
            assert hub.load_state_dict_from_url(one)["weight"][0] == 1
            assert hub.load_state_dict_from_url(two)["weight"][0] == 2
        assert host.count("download") == 2

    def test_queries_tell_files_apart(self, host):
        one = host.put("w?v=1", weights(1))
        with pytest.raises(wl.StatusError):
            hub.load_state_dict_from_url(one)
        host.put("w", weights(1))
        assert hub.load_state_dict_from_url(host.files + "/w?v=1")["weight"][0] == 1
        host.put("w", weights(2))
        assert hub.load_state_dict_from_url(host.files + "/w?v=2")["weight"][0] == 2
        assert hub.load_state_dict_from_url(host.files + "/w?v=1")["weight"][0] == 1

    def test_an_address_that_ends_in_a_slash(self, host):
        host.put("w", weights(3))
        host.files_held[""] = host.files_held["w"]
        assert hub.load_state_dict_from_url(host.files + "/")["weight"][0] == 3

    def test_check_hash(self, host):
        data = weights()
        good = host.put(f"net-{sha(data)[:8]}.pth", data)
        assert hub.load_state_dict_from_url(good, check_hash=True)["weight"].size == 3000
        wrong = host.put("net-0123456789.pth", data)
        with pytest.raises(RuntimeError, match="invalid hash value"):
            hub.load_state_dict_from_url(wrong, check_hash=True)
        version = host.put(f"yolo-3.1-{sha(data)[:12]}.pth", data)
        assert hub.load_state_dict_from_url(version, check_hash=True)["weight"].size == 3000

    @pytest.mark.parametrize("name", ["net.pth", "m-.pth", "yolo-3.1.pth"])
    def test_a_check_that_cannot_be_made_is_an_error(self, host, name):
        with pytest.raises(wl.HashMismatchError, match="no hash to check against"):
            hub.load_state_dict_from_url(host.put(name, weights()), check_hash=True)

    def test_a_page_instead_of_weights(self, host):
        url = host.put("blob/net.pth", weights())
        host.fail("net.pth", "html", 1)
        with pytest.raises(wl.NotWeightsError, match=r"web page, not weights.*/raw/net.pth"):
            hub.load_state_dict_from_url(url)
        page = host.put("p.pth", b"\n<!DOCTYPE html><html>", type="application/octet-stream")
        with pytest.raises(wl.NotWeightsError):
            hub.load_state_dict_from_url(page)
        pointer = host.put("l.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
        with pytest.raises(wl.NotWeightsError, match="LFS pointer"):
            hub.load_state_dict_from_url(pointer)
        assert leftovers(hub.get_dir()) == []
        assert hub.load_state_dict_from_url(url)["weight"].size == 3000

    @pytest.mark.parametrize("damage", ["flip", "cut", "replace", "keep-times"])
    def test_a_damaged_file_is_set_aside_and_fetched_again(self, host, damage):
        url = host.put("net.pth", weights())
        hub.load_state_dict_from_url(url)
        path = Path(hub.get_dir(), "checkpoints", "net.pth")
        before = path.stat()
        data = bytearray(path.read_bytes())
        if damage == "replace":
            path.unlink()
            path.write_bytes(weights(9))
        elif damage == "cut":
            path.write_bytes(data[:100])
        else:
            data[2000] ^= 1
            path.write_bytes(data)
            if damage == "keep-times":
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.warns(UserWarning, match="was set aside"):
            assert hub.load_state_dict_from_url(url)["weight"].sum() == 3000
        assert host.count("net.pth") == 2
        assert len(leftovers(path.parent)) == 1

    def test_touching_a_file_costs_a_hash_and_no_request(self, host):
        url = host.put("net.pth", weights())
        hub.load_state_dict_from_url(url)
        os.utime(Path(hub.get_dir(), "checkpoints", "net.pth"))
        assert hub.load_state_dict_from_url(url)["weight"].sum() == 3000
        assert host.count("net.pth") == 1

    def test_what_torch_hub_left_is_used(self, host):
        data = weights(5)
        hashed = f"net-{sha(data)[:8]}.pth"
        folder = Path(hub.get_dir(), "checkpoints")
        folder.mkdir(parents=True)
        (folder / hashed).write_bytes(data)
        (folder / "plain.pth").write_bytes(data)
        (folder / "short.pth").write_bytes(data[:500])
        assert hub.load_state_dict_from_url("http://127.0.0.1:1/" + hashed)["weight"][0] == 5
        url = host.put("plain.pth", data)
        assert hub.load_state_dict_from_url(url)["weight"][0] == 5
        assert host.bodies("plain.pth") == 0
        with pytest.warns(UserWarning, match="set aside"):
            assert hub.load_state_dict_from_url(host.put("short.pth", data))["weight"][0] == 5

    def test_a_folder_and_a_name_of_the_users(self, host, tmp_path):
        url = host.put("net.pth", weights(2))
        assert hub.load_state_dict_from_url(url, model_dir=str(tmp_path / "m"), file_name="own.pt")["weight"][0] == 2
        assert (tmp_path / "m" / "own.pt").exists()
        for name in ("../x", "/x", "..", "a/../../x"):
            with pytest.raises(ValueError, match="file_name"):
                hub.load_state_dict_from_url(url, model_dir=str(tmp_path / "m"), file_name=name)

    def test_local_files_are_used_in_place(self, host, tmp_path):
        (tmp_path / "a b.pth").write_bytes(weights(4))
        for url in ((tmp_path / "a b.pth").as_uri(), str(tmp_path / "a b.pth")):
            assert hub.load_state_dict_from_url(url)["weight"][0] == 4
        assert not Path(hub.get_dir(), "checkpoints").exists()
        with pytest.raises(FileNotFoundError):
            hub.load_state_dict_from_url(f"file://{tmp_path}/nothing.pth")

    def test_data_in_the_url(self, host):
        url = "data:application/octet-stream;base64," + base64.b64encode(weights(6)).decode()
        assert hub.load_state_dict_from_url(url, file_name="d.pth")["weight"][0] == 6

    def test_weights_are_read_as_data(self, host, tmp_path):
        import pickle

        class Evil:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "ran"),))

        url = host.put("evil.pth", pickle.dumps(Evil()))
        with pytest.raises(wl.CheckpointError):
            hub.load_state_dict_from_url(url)
        assert not (tmp_path / "ran").exists()

    def test_zipped_checkpoints(self, host):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.pth", weights(8))
        url = host.put("old.zip", file.getvalue())
        with pytest.warns(FutureWarning, match="Falling back to the old format"):
            assert hub.load_state_dict_from_url(url)["weight"][0] == 8

    def test_offline(self, host, monkeypatch):
        url = host.put("net.pth", weights())
        hub.load_state_dict_from_url(url)
        monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
        assert hub.load_state_dict_from_url(url, offline=True)["weight"].size == 3000
        with pytest.raises(wl.OfflineError, match="weighlock hub prefetch --url"):
            hub.load_state_dict_from_url(url + "2", offline=True)

    def test_what_was_fetched_to_a_place_is_found_again_offline(self, host, tmp_path):
        url = host.put("net.pth", weights())
        hub.download_url_to_file(url, tmp_path / "one")
        hub.download_url_to_file(url, tmp_path / "two", offline=True)
        assert (tmp_path / "two").read_bytes() == weights()
        assert host.count("net.pth") == 1
