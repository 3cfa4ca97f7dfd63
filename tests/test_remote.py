"""Checkpoints on web servers and in the file systems of fsspec: few requests, only the bytes needed, every fault."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from tests.hub_nginx import Nginx
from tests.hub_proxy import Proxy
from tests.range_server import Held, RangeServer, changed, fine, hang, status
from weighlock.cli import run
from weighlock.storages.addresses import is_address
from weighlock.storages.connections import Connections

RNG = np.random.default_rng(6)
TENSORS = 290
MODEL = {
    **{f"layer.{number}.weight": RNG.random((32, 64), "f4") for number in range(TENSORS - 2)},
    "large": RNG.integers(0, 255, (3000, 1500), "u1"),
    "wide": np.arange(400_000, dtype="i4").reshape(400, 1000),
}


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    wl.save(value, file, **options)
    return file.getvalue()


DATA = saved(MODEL)
SMALL = saved({"w": np.arange(10.0), "n": 3})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch, request):
    """Waits between attempts are noted, not waited for; no proxy of the machine is asked."""
    waits: list[float | None] = []
    monkeypatch.setattr(Connections, "wait", lambda _self, _attempt, seconds=None: waits.append(seconds))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "WEIGHLOCK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/dev/null")
    return waits


@pytest.fixture
def server():
    with RangeServer(model=DATA, small=SMALL) as running:
        yield running


@pytest.fixture
def url(server):
    return f"{server.url}/model"


def open_small(server: RangeServer, **options: Any) -> wl.LazyCheckpoint:
    return wl.open_checkpoint(f"{server.url}/small", storage_options={"timeout": 2, "retries": 2, **options})


class TestCost:
    def test_opening_takes_three_requests_and_a_megabyte(self, server, url):
        with wl.open_checkpoint(url) as ckpt:
            assert len(ckpt) == TENSORS
            assert ckpt["large"].shape == (3000, 1500)
            assert ckpt.name == url
            assert ckpt.size == len(DATA)
        assert len(server.requests) <= 3
        assert server.sent < 1_000_000

    def test_a_small_file_takes_one(self, server):
        with open_small(server) as ckpt:
            assert ckpt["w"].read().tolist() == list(range(10))
            assert ckpt.objects["n"] == 3
        assert len(server.requests) == 1

    def test_a_tensor_takes_its_bytes_in_one_request(self, server, url):
        with wl.open_checkpoint(url) as ckpt:
            server.forget()
            assert np.array_equal(ckpt["large"].read(), MODEL["large"])
            assert len(server.requests) == 1
            assert server.sent < MODEL["large"].nbytes + 1000

    def test_a_slice_takes_its_rows(self, server, url):
        with wl.open_checkpoint(url) as ckpt:
            server.forget()
            assert np.array_equal(ckpt["large"][2000:2010], MODEL["large"][2000:2010])
            assert len(server.requests) <= 2
            assert server.sent < 100_000
            server.forget()
            assert np.array_equal(ckpt["large"][10:2900:1000, ::-7], MODEL["large"][10:2900:1000, ::-7])
            assert len(server.requests) <= 3
            assert server.sent < 10_000

    def test_close_rows_take_one_request(self, server, url):
        with wl.open_checkpoint(url) as ckpt:
            ckpt["wide"][:1]
            server.forget()
            assert np.array_equal(ckpt["wide"][100:300, 5], MODEL["wide"][100:300, 5])
            assert len(server.requests) == 1

    def test_several_tensors_are_fetched_together(self, server, url):
        with wl.open_checkpoint(url) as ckpt:
            server.forget()
            found = ckpt.read("layer.*.weight")
            assert len(found) == TENSORS - 2
            for key, array in found.items():
                assert np.array_equal(array, MODEL[key])
            assert len(server.requests) <= 3
            assert server.sent < sum(array.nbytes for array in found.values()) + 200_000

    def test_requests_run_side_by_side(self, server):
        server.files["/big"] = Held(saved({"w": np.zeros((40 << 20,), "u1")}))
        with wl.open_checkpoint(f"{server.url}/big") as ckpt:
            server.delay = 0.05
            server.forget()
            assert not ckpt["w"].read().any()
        assert 2 <= server.most_busy <= 8

    def test_connections_can_be_fewer(self, server):
        server.files["/big"] = Held(saved({"w": np.zeros((40 << 20,), "u1")}))
        with wl.open_checkpoint(f"{server.url}/big", storage_options={"connections": 1}) as ckpt:
            server.delay = 0.02
            server.forget()
            assert not ckpt["w"].read().any()
        assert server.most_busy == 1

    def test_a_legacy_stream(self, server):
        server.files["/legacy"] = Held(saved(MODEL, _use_new_zipfile_serialization=False))
        with wl.open_checkpoint(f"{server.url}/legacy") as ckpt:
            assert len(ckpt) == TENSORS
            assert np.array_equal(ckpt["wide"].read(), MODEL["wide"])
        assert len(server.requests) < 20

    def test_load_fetches_all_of_it(self, server, url):
        found = wl.load(url)
        assert all(np.array_equal(found[key], MODEL[key]) for key in MODEL)
        assert len(server.requests) < 20

    def test_the_layout(self, server, url):
        with wl.open_checkpoint(url) as ckpt:
            rows = ckpt.layout
        assert sum(row.nbytes for row in rows) == len(DATA)
        assert len(server.requests) < 20

    def test_the_command(self, server, url, capfd):
        assert run(["ls", url, "--include", "large", "--format", "tsv"]) == 0
        assert capfd.readouterr().out.startswith("large\tuint8\t3000,1500\t")
        assert run(["show", url, "wide[:2, :2]"]) == 0
        assert "1000, 1001" in capfd.readouterr().out
        server.forget()
        assert run(["show", url, "large[::50, 7]", "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["values"] == MODEL["large"][::50, 7].tolist()
        assert len(server.requests) <= 4
        assert run([url]) == 0
        assert "290" in capfd.readouterr().out
        assert run(["ls", f"{server.url}/nothing"]) == 2
        assert "404" in capfd.readouterr().err


class TestFaults:
    def test_what_may_pass_is_tried_again(self, server, no_waiting):
        server.faults = [status(503), status(429, Retry_After="7"), status(500)]
        with open_small(server, retries=3) as ckpt:
            assert ckpt["w"].read().sum() == 45
        assert no_waiting == [None, 7.0, None]

    def test_what_does_not_pass_is_an_error(self, server):
        server.faults = [status(503)] * 9
        with pytest.raises(wl.StatusError, match="503"):
            open_small(server)
        assert len(server.requests) == 3

    def test_who_asks_to_wait_for_long_is_believed(self, server):
        server.faults = [status(429, Retry_After="3600")]
        with pytest.raises(wl.RateLimitError, match="rate limit"):
            open_small(server)
        assert len(server.requests) == 1

    def test_a_missing_file(self, server):
        with pytest.raises(wl.StatusError, match="404"):
            wl.open_checkpoint(f"{server.url}/nothing")

    def test_no_server(self):
        with pytest.raises(wl.NetworkError):
            wl.open_checkpoint("http://127.0.0.1:1/a", storage_options={"retries": 0})

    def test_an_answer_that_breaks_off_is_continued(self, server, url):
        with wl.open_checkpoint(url) as ckpt:
            server.forget()
            server.faults = [changed(keep=1_000_000), changed(keep=70_000)]
            assert np.array_equal(ckpt["large"].read(), MODEL["large"])
        first, second, third = [request.range for request in server.requests]
        assert second[0] == first[0] + 1_000_000
        assert third[0] == second[0] + 70_000

    @pytest.mark.parametrize("keep", [0, 1, 60_000])
    @pytest.mark.parametrize("number", range(5))
    def test_any_answer_may_break_off(self, server, url, number, keep):
        """The beginning with the pickle, the directory, the data: what is missing is asked for, and hardly more."""
        server.faults = [fine] * number + [changed(keep=keep)]
        found = wl.load(url)
        assert all(np.array_equal(found[key], MODEL[key]) for key in MODEL)
        assert not server.faults
        assert server.sent <= len(DATA) + 500_000

    def test_the_first_answer_always_breaks_off(self, server):
        server.faults = [changed(keep=10)] + [changed(keep=0)] * 20
        with pytest.raises(wl.NetworkError, match="broke off"):
            open_small(server)
        assert len(server.requests) == 4, "the first, and one with two more attempts"

    @pytest.mark.parametrize("number", range(3))
    def test_503_twice_and_then_an_answer(self, server, url, number, no_waiting):
        server.faults = [fine] * number + [status(503), status(429, Retry_After="3")]
        found = wl.load(url, storage_options={"connections": 1})
        assert all(np.array_equal(found[key], MODEL[key]) for key in MODEL)
        assert no_waiting == [None, 3.0]

    def test_an_answer_that_always_breaks_off(self, server, url):
        with wl.open_checkpoint(url, storage_options={"retries": 2}) as ckpt:
            server.forget()
            server.faults = [changed(keep=0)] * 9
            with pytest.raises(wl.NetworkError, match="broke off"):
                ckpt["large"].read()
        assert len(server.requests) == 3

    def test_a_server_that_hangs(self, server):
        server.faults = [hang, hang]
        with pytest.raises(wl.NetworkError, match="no answer"):
            open_small(server, timeout=0.2, retries=1)

    def test_a_server_that_hangs_once(self, server):
        server.faults = [hang]
        with open_small(server, timeout=0.2) as ckpt:
            assert len(ckpt) == 1

    @pytest.mark.parametrize("header", ["bytes 5-99/{size}", "bytes 0-9/{size}", "bytes */{size}", "nonsense", None])
    def test_a_wrong_content_range(self, server, url, header):
        with wl.open_checkpoint(url) as ckpt:
            text = header and header.format(size=len(DATA))
            server.faults = [changed(headers={"Content-Range": text})]
            with pytest.raises(wl.DownloadError, match="other bytes"):
                ckpt["large"].read()

    def test_a_range_that_is_shorter_than_asked(self, server, url):
        """A server may send less of a range than was asked for, if it says so."""
        with wl.open_checkpoint(url) as ckpt:
            server.forget()

            def shorter(handler, request):
                first, last = request.range
                request.range = (first, first + 99_999)
                handler.answer(request)
                request.range = (first, last)
                return True

            server.faults = [shorter, shorter]
            assert np.array_equal(ckpt["large"].read(), MODEL["large"])
        assert len(server.requests) == 3

    def test_416_for_a_file_that_became_shorter(self, server, url):
        with wl.open_checkpoint(url) as ckpt:
            server.faults = [changed(status=416, headers={"Content-Range": "bytes */100"}, data=b"")]
            with pytest.raises(wl.ChangedFileError, match="has changed"):
                ckpt["large"].read()

    def test_416_at_once(self, server):
        server.faults = [changed(status=416, headers={"Content-Range": None}, data=b"")]
        with pytest.raises(wl.DownloadError, match="first bytes"):
            open_small(server)

    def test_an_empty_file(self, server):
        server.files["/empty"] = Held(b"")
        with pytest.raises(wl.CheckpointError, match="empty"):
            wl.open_checkpoint(f"{server.url}/empty")

    def test_a_packed_answer_is_refused(self, server, url):
        server.faults = [changed(headers={"Content-Encoding": "gzip"})]
        with pytest.raises(wl.UnsupportedError, match="packs the file"):
            wl.open_checkpoint(url)
        with wl.open_checkpoint(url) as ckpt:
            assert all(request.headers["Accept-Encoding"] == "identity" for request in server.requests)
            server.faults = [changed(headers={"Content-Encoding": "gzip"})]
            with pytest.raises(wl.UnsupportedError, match="packs the file"):
                ckpt["large"].read()

    def test_truncation(self, server):
        server.files["/cut"] = Held(DATA[:-50_000])
        with pytest.raises(wl.TruncatedError, match="cut"):
            wl.open_checkpoint(f"{server.url}/cut")
        assert server.sent < 3_000_000

    def test_damage(self, server):
        damaged = bytearray(DATA)
        damaged[damaged.index(MODEL["large"].tobytes()[:64]) + 7] ^= 1
        server.files["/damaged"] = Held(bytes(damaged))
        with wl.open_checkpoint(f"{server.url}/damaged") as ckpt, pytest.raises(wl.ChecksumError):
            ckpt["large"].read()

    def test_a_page_is_said_to_be_one(self, server):
        server.files["/page"] = Held(b"<!doctype html><html><title>Sign in</title></html>")
        with pytest.raises(wl.NotACheckpointError, match=r"(?i)html|page"):
            wl.open_checkpoint(f"{server.url}/page")

    def test_offline(self, server, monkeypatch):
        monkeypatch.setenv("WEIGHLOCK_OFFLINE", "1")
        with pytest.raises(wl.OfflineError):
            open_small(server)
        assert server.requests == []

    def test_an_unknown_option(self, server):
        with pytest.raises(wl.ArgumentTypeError, match="timeout"):
            open_small(server, speed="high")

    def test_the_first_error_ends_the_others(self, server):
        server.files["/big"] = Held(saved({"w": np.zeros((80 << 20,), "u1")}))
        with wl.open_checkpoint(f"{server.url}/big", storage_options={"retries": 0, "connections": 2}) as ckpt:
            server.forget()
            server.faults = [status(403)] * 99
            with pytest.raises(wl.AuthenticationError):
                ckpt["w"].read()
        assert len(server.requests) <= 4


class TestChanged:
    """A file that changes while it is open is an error, never a mixture."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({"etag": '"one"'}, {"etag": '"two"'}),
            ({"etag": 'W/"one"'}, {"etag": 'W/"two"'}),
            (
                {"etag": None, "modified": "Mon, 02 Nov 2026 10:00:00 GMT"},
                {"etag": None, "modified": "Mon, 02 Nov 2026 10:00:09 GMT"},
            ),
        ],
        ids=["strong", "weak", "time"],
    )
    def test_another_validator(self, before, after):
        other = saved({**MODEL, "large": MODEL["large"][::-1].copy()})
        with RangeServer(model=Held(DATA, **before)) as server, wl.open_checkpoint(f"{server.url}/model") as ckpt:
            ckpt["wide"].read()
            server.files["/model"] = Held(other, **after)
            with pytest.raises(wl.ChangedFileError, match="has changed since it was opened"):
                ckpt["large"].read()

    def test_another_length_where_there_is_no_validator(self):
        with RangeServer(model=Held(DATA, etag=None)) as server, wl.open_checkpoint(f"{server.url}/model") as ckpt:
            server.files["/model"] = Held(DATA + b"x", etag=None)
            with pytest.raises(wl.ChangedFileError):
                ckpt["large"].read()

    def test_the_condition_is_sent(self, server, url):
        with wl.open_checkpoint(url) as ckpt:
            ckpt["large"].read()
        assert "If-Range" not in server.requests[0].headers
        assert {request.headers.get("If-Range") for request in server.requests[1:]} == {'"one"'}

    def test_a_weak_validator_is_no_condition(self):
        with RangeServer(model=Held(DATA, etag='W/"one"')) as server, wl.open_checkpoint(f"{server.url}/model") as ckpt:
            ckpt["large"].read()
        assert {request.headers.get("If-Range") for request in server.requests} == {None}


class TestWithoutRanges:
    def test_the_file_is_downloaded_once(self, server, url):
        server.ranges = False
        with wl.open_checkpoint(url) as ckpt:
            assert np.array_equal(ckpt["large"].read(), MODEL["large"])
            assert np.array_equal(ckpt["wide"][::7, ::-3], MODEL["wide"][::7, ::-3])
        assert len(server.requests) == 1

    def test_up_to_a_bound(self, server, url):
        server.ranges = False
        with pytest.raises(wl.UnsupportedError, match="sends no ranges") as caught:
            wl.open_checkpoint(url, storage_options={"max_download": 1_000_000})
        assert f"'max_download': {len(DATA)}" in str(caught.value)

    def test_also_where_the_length_is_not_said(self, server, url):
        def unsaid(handler, request):
            handler.answer(request, headers={"Content-Length": None, "Connection": "close"})
            handler.close_connection = True
            return True

        server.ranges = False
        server.faults = [unsaid, unsaid]
        with wl.open_checkpoint(url) as ckpt:
            assert len(ckpt) == TENSORS
        with pytest.raises(wl.UnsupportedError, match="sends no ranges"):
            wl.open_checkpoint(url, storage_options={"max_download": 1_000_000})

    def test_a_download_that_breaks_off(self, server):
        server.ranges = False
        server.faults = [changed(keep=100)] * 9
        with pytest.raises(wl.NetworkError, match="broke off"):
            open_small(server)
        assert len(server.requests) == 3

    def test_a_download_that_breaks_off_once_is_begun_again(self, server, url):
        server.ranges = False
        server.faults = [changed(keep=1_000_000), changed(keep=0)]
        found = wl.load(url)
        assert all(np.array_equal(found[key], MODEL[key]) for key in MODEL)
        assert len(server.requests) == 3

    def test_a_length_that_is_not_known(self, server, url):
        """Content-Range may leave the length out; then nothing can be found from the end."""
        server.faults = [changed(headers={"Content-Range": f"bytes 0-{(128 << 10) - 1}/*"})]
        with wl.open_checkpoint(url) as ckpt:
            assert len(ckpt) == TENSORS
        assert [request.range is None for request in server.requests] == [False, True]

    def test_a_server_that_stops_sending_ranges(self):
        with RangeServer(model=Held(DATA, etag=None)) as server, wl.open_checkpoint(f"{server.url}/model") as ckpt:
            server.ranges = False
            with pytest.raises(wl.DownloadError, match="stopped sending ranges"):
                ckpt["large"].read()

    @pytest.mark.parametrize(
        "said", [{"etag": '"one"'}, {"etag": None, "modified": "Mon, 02 Nov 2026 10:00:00 GMT"}, {"etag": 'W/"one"'}]
    )
    def test_it_is_still_the_same_file(self, said):
        """It was said to have changed, although the answer says that it has not."""
        with RangeServer(model=Held(DATA, **said)) as server, wl.open_checkpoint(f"{server.url}/model") as ckpt:
            server.ranges = False
            with pytest.raises(wl.DownloadError, match=r"stopped sending ranges.*Download the file first"):
                ckpt["large"].read()


class TestRefusals:
    """What to do about a refusal depends on what was sent; the hub's tokens are for the hub's hosts."""

    @pytest.mark.parametrize("code", [401, 403])
    @pytest.mark.parametrize(
        ("user", "options", "text"),
        [
            ("me:secret@", {}, "The name and password in the address were refused"),
            ("", {"headers": {"authorization": "Bearer secret"}}, r"Authorization in storage_options.* was refused"),
            ("", {}, r"https://USER:PASSWORD@host.*netrc.*storage_options"),
        ],
    )
    def test_the_advice(self, server, code, user, options, text):
        server.faults = [status(code)]
        with pytest.raises(wl.AuthenticationError, match=text) as caught:
            wl.load(server.url.replace("//", f"//{user}") + "/small", storage_options=options)
        assert "TOKEN" not in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_of_netrc(self, server, monkeypatch, tmp_path):
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        server.faults = [status(401)]
        with pytest.raises(wl.AuthenticationError, match=r"name and password in ~/\.netrc were refused"):
            open_small(server)

    def test_others(self, server):
        for code, kind in ((404, wl.StatusError), (429, wl.RateLimitError)):
            server.faults = [status(code, Retry_After="9999")]
            with pytest.raises(kind) as caught:
                open_small(server)
            assert "TOKEN" not in str(caught.value)
            assert "token" not in str(caught.value)


class TestProxies:
    """The proxy of the environment, as curl and pip have it."""

    @pytest.fixture
    def proxy(self, monkeypatch):
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with Proxy("me:secret") as running:
            yield running

    @pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
    def test_it_is_asked(self, server, url, proxy, monkeypatch, variable):
        monkeypatch.setenv(variable, f"http://me:secret@{proxy.address}")
        with wl.open_checkpoint(url) as ckpt:
            assert np.array_equal(ckpt["large"][::500], MODEL["large"][::500])
        assert len(proxy.log) == len(server.requests) >= 3
        assert not any("Proxy-Authorization" in request.headers for request in server.requests)

    def test_it_is_passed_by(self, url, proxy, monkeypatch):
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        wl.open_checkpoint(url).close()
        assert proxy.log == []

    def test_it_asks_who_that_is(self, url, proxy, monkeypatch):
        monkeypatch.setenv("http_proxy", f"http://me:wrong@{proxy.address}")
        with pytest.raises(wl.AuthenticationError, match=r"proxy asks who you are.*USER:PASSWORD") as caught:
            wl.open_checkpoint(url)
        assert "wrong" not in str(caught.value)


class TestRedirects:
    def test_where_it_leads_is_remembered(self, server):
        server.faults = [status(302, Location="/small")]
        with wl.open_checkpoint(f"{server.url}/elsewhere") as ckpt:
            assert ckpt["w"].read().sum() == 45
        assert [request.path for request in server.requests] == ["/elsewhere", "/small"]

    def test_an_address_that_expires_is_asked_for_again(self, server):
        server.faults = [status(302, Location="/model"), fine, fine, status(403), status(302, Location="/model")]
        with wl.open_checkpoint(f"{server.url}/elsewhere") as ckpt:
            assert np.array_equal(ckpt["large"].read(), MODEL["large"])
        assert [request.path for request in server.requests] == [
            "/elsewhere", "/model", "/model", "/model", "/elsewhere", "/model",
        ]  # fmt: skip

    def test_secrets_stay_with_their_host(self, server):
        with RangeServer(small=SMALL) as other:
            server.faults = [status(302, Location=f"{other.url}/small")]
            options = {"headers": {"Authorization": "Bearer secret", "X-Own": "1"}}
            with wl.open_checkpoint(f"{server.url}/elsewhere", storage_options=options) as ckpt:
                assert len(ckpt) == 1
        assert server.requests[0].headers["Authorization"] == "Bearer secret"
        assert server.requests[0].headers["X-Own"] == "1"
        assert not {"Authorization", "X-Own"} & other.requests[0].headers.keys()

    def test_a_loop(self, server):
        server.faults = [status(302, Location="/loop")] * 20
        with pytest.raises(wl.DownloadError, match="redirects"):
            open_small(server)

    def test_names_and_signatures_are_not_shown(self, server):
        address = server.url.replace("//", "//user:password@") + "/nothing?signature=secret"
        with pytest.raises(wl.StatusError):
            wl.open_checkpoint(address)
        with wl.open_checkpoint(server.url.replace("//", "//user:password@") + "/small") as ckpt:
            assert ckpt.name == f"{server.url}/small"
        assert server.requests[-1].headers["Authorization"].startswith("Basic ")


@pytest.mark.requires_nginx
class TestNginx:
    @pytest.fixture
    def nginx(self, tmp_path):
        root = tmp_path / "root"
        root.mkdir()
        (root / "model.pt").write_bytes(DATA)
        with Nginx(tmp_path / "nginx", root) as running:
            yield running

    def test_ranges(self, nginx):
        with wl.open_checkpoint(f"{nginx.url}/model.pt") as ckpt:
            assert np.array_equal(ckpt["large"][5:2900:700], MODEL["large"][5:2900:700])
            found = ckpt.read()
        assert all(np.array_equal(found[key], MODEL[key]) for key in MODEL)
        assert all(" 206 " in line for line in nginx.seen())

    def test_a_changed_file(self, nginx):
        with wl.open_checkpoint(f"{nginx.url}/model.pt") as ckpt:
            (nginx.root / "model.pt").write_bytes(DATA + b"more")
            with pytest.raises(wl.ChangedFileError):
                ckpt["large"].read()

    def test_without_ranges(self, nginx):
        with wl.open_checkpoint(f"{nginx.url}/whole/model.pt") as ckpt:
            assert np.array_equal(ckpt["wide"].read(), MODEL["wide"])


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("https://a/b", True), ("s3://a/b", True), ("simplecache::s3://a/b", True), ("zip://a::s3://b", True),
            ("memory://a", True), ("C://a", False), ("a/b://c", False), ("model.pt", False), ("a::b", False),
            (b"https://a/b", False), ("://a", False), ("http:/a", False),
        ],
    )  # fmt: skip
    def test_what_is_an_address(self, text, expected):
        assert is_address(text) is expected

    def test_a_path_is_never_one(self, tmp_path, monkeypatch):
        from pathlib import Path

        monkeypatch.chdir(tmp_path)
        with pytest.raises(wl.MissingFileError):
            wl.open_checkpoint(Path("http://127.0.0.1/a"))

    def test_file_addresses(self, tmp_path):
        path = tmp_path / "a b.pt"
        path.write_bytes(SMALL)
        with wl.open_checkpoint(f"file://{tmp_path}/a%20b.pt") as ckpt:
            assert ckpt["w"].read().sum() == 45
        with pytest.raises(wl.ArgumentError, match="another machine"):
            wl.open_checkpoint("file://elsewhere/a.pt")


@pytest.mark.requires_fsspec
class TestFsspec:
    @pytest.fixture
    def memory(self):
        import fsspec

        system = fsspec.filesystem("memory")
        system.pipe("/bucket/model.pt", DATA)
        yield system
        system.rm("/bucket", recursive=True)

    def test_memory(self, memory):
        with wl.open_checkpoint("memory://bucket/model.pt") as ckpt:
            assert len(ckpt) == TENSORS
            assert np.array_equal(ckpt["large"][::500, 3:9], MODEL["large"][::500, 3:9])
            found = ckpt.read()
        assert all(np.array_equal(found[key], MODEL[key]) for key in MODEL)
        assert np.array_equal(wl.load("memory://bucket/model.pt")["wide"], MODEL["wide"])

    def test_a_changed_file(self, memory):
        with wl.open_checkpoint("memory://bucket/model.pt") as ckpt:
            time.sleep(0.001)
            memory.pipe("/bucket/model.pt", DATA)
            with pytest.raises(wl.ChangedFileError):
                ckpt["large"].read()

    def test_a_file_that_became_shorter(self, memory):
        with wl.open_checkpoint("memory://bucket/model.pt") as ckpt:
            memory.pipe("/bucket/model.pt", DATA[:200_000])
            with pytest.raises((wl.ChangedFileError, wl.SourceError)):
                ckpt["large"].read()

    def test_a_missing_file(self, memory):
        with pytest.raises(wl.MissingFileError):
            wl.open_checkpoint("memory://bucket/nothing.pt")
        with pytest.raises(wl.NotACheckpointError, match="folder"):
            wl.open_checkpoint("memory://bucket")

    def test_an_unknown_scheme(self, memory):
        with pytest.raises(wl.SourceError, match="fsspec knows"):
            wl.open_checkpoint("nosuch://a/b")

    def test_a_missing_driver(self, memory, monkeypatch):
        import sys

        # Not s3fs: fsspec keeps a driver that it has loaded once, as other tests have let it.
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(wl.MissingDependencyError, match="gcsfs"):
            wl.open_checkpoint("gs://bucket/model.pt")

    def test_without_fsspec(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "fsspec", None)
        with pytest.raises(wl.MissingDependencyError, match=r"weighlock\[remote\]"):
            wl.open_checkpoint("memory://bucket/model.pt")

    def test_options_reach_the_file_system(self, memory):
        with pytest.raises(wl.WeighlockError):
            wl.open_checkpoint("ftp://127.0.0.1:1/a", storage_options={"timeout": 1})


@pytest.mark.requires_s3
class TestS3:
    @pytest.fixture
    def bucket(self, s3_server):
        s3_server.system.pipe("bucket/model.pt", DATA)
        return s3_server

    def test_opening_and_reading(self, bucket):
        _, options, lines = bucket
        lines.clear()
        with wl.open_checkpoint("s3://bucket/model.pt", storage_options=options) as ckpt:
            assert len(ckpt) == TENSORS
            assert sum("GET" in line for line in lines) <= 2
            lines.clear()
            assert np.array_equal(ckpt["large"].read(), MODEL["large"])
            assert sum("GET" in line for line in lines) == 1
            assert np.array_equal(ckpt["large"][::900, ::-2], MODEL["large"][::900, ::-2])
            found = ckpt.read("layer.*.weight")
        assert all(np.array_equal(array, MODEL[key]) for key, array in found.items())

    def test_load(self, bucket):
        _, options, _ = bucket
        found = wl.load("s3://bucket/model.pt", storage_options=options)
        assert all(np.array_equal(found[key], MODEL[key]) for key in MODEL)

    def test_a_changed_object(self, bucket):
        system, options, _ = bucket
        system.pipe("bucket/other.pt", DATA)
        with wl.open_checkpoint("s3://bucket/other.pt", storage_options=options) as ckpt:
            system.pipe("bucket/other.pt", saved({**MODEL, "large": MODEL["large"][::-1].copy()}))
            with pytest.raises(wl.ChangedFileError):
                ckpt["large"].read()

    def test_a_missing_object(self, bucket):
        _, options, _ = bucket
        with pytest.raises(wl.MissingFileError, match="no such file"):
            wl.open_checkpoint("s3://bucket/nothing.pt", storage_options=options)

    def test_a_missing_bucket(self, bucket):
        with pytest.raises(wl.MissingFileError, match="no such bucket"):
            wl.open_checkpoint("s3://nowhere/model.pt", storage_options=bucket.options)

    @pytest.mark.parametrize(("data", "text"), [(b"x", "too short"), (b"", "is empty")])
    def test_objects_that_are_too_small(self, bucket, data, text):
        bucket.system.pipe("bucket/small.pt", data)
        with pytest.raises(wl.TruncatedError, match=text):
            wl.load("s3://bucket/small.pt", storage_options=bucket.options)

    @pytest.mark.parametrize("key", ["a b/m\u00f6del #1?x+y%20.pt", "\u6a21\u578b.pt"])
    def test_any_key(self, bucket, key):
        """What means something in a URL means nothing in a key."""
        bucket.system.pipe(f"bucket/keys/{key}", SMALL)
        address = f"s3://bucket/keys/{key}"
        with wl.open_checkpoint(address, storage_options=bucket.options) as ckpt:
            assert ckpt.name == address
            assert ckpt["w"].read().sum() == 45

    def test_credentials_that_are_refused(self, bucket):
        """Nobody may list, or read, without a name."""
        options = {**bucket.options, "anon": True}
        with pytest.raises(wl.SourceError, match=r"Forbidden.*AWS_ACCESS_KEY_ID"):
            wl.load("s3://bucket/model.pt", storage_options=options)

    def test_no_credentials(self, bucket, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        options = {"endpoint_url": bucket.options["endpoint_url"], "use_listings_cache": False}
        with pytest.raises(wl.SourceError, match=r"NoCredentials.*'anon': True"):
            wl.load("s3://bucket/model.pt", storage_options=options)

    def test_an_option_that_there_is_not(self, bucket):
        with pytest.raises(wl.ArgumentTypeError, match="storage_options do not fit s3://"):
            wl.load("s3://bucket/model.pt", storage_options={**bucket.options, "speed": 1})

    @pytest.mark.parametrize("name", ["lonely", "bucket/nothing/"])
    def test_a_bucket_without_a_checkpoint(self, bucket, name):
        bucket.system.mkdir("lonely")
        with pytest.raises((wl.NotACheckpointError, wl.MissingFileError)):
            wl.load(f"s3://{name}", storage_options=bucket.options)
        bucket.system.rmdir("lonely")


@pytest.mark.requires_s3
class TestS3Commands:
    """Every command that reads, on a file and on a set in a bucket whose folder has a space in its name."""

    @pytest.fixture
    def bucket(self, s3_by_environment, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        state = {f"l{number}.w": np.full((100, 30), number, "f4") for number in range(4)}
        wl.save(state, "m.pt")
        (tmp_path / "set").mkdir()
        wl.save(state, "set", max_shard_size="13KB", format="safetensors")
        system = s3_by_environment.system
        system.put("m.pt", "bucket/a b/m.pt")
        for path in (tmp_path / "set").iterdir():
            system.pipe(f"bucket/a set/{path.name}", path.read_bytes())
        system.pipe("bucket/a set/below/evil.pkl", b"cos\nsystem\n(S'true'\ntR.")
        yield state
        system.rm("bucket/a set", recursive=True)
        system.rm("bucket/a b", recursive=True)

    @pytest.mark.parametrize("command", ["ls", "inspect", "digest", "verify", "layout", "stats", "tree"])
    def test_reading(self, bucket, command, capfd):
        for name in ("a b/m.pt", "a set", "a set/", "a set/model.safetensors.index.json"):
            assert run([command, f"s3://bucket/{name}"]) == 0, name
            assert capfd.readouterr().out

    def test_diff_convert_and_show(self, bucket, capfd):
        assert run(["diff", "s3://bucket/a b/m.pt", "s3://bucket/a set/"]) == 0
        assert run(["convert", "s3://bucket/a set", "out.pt"]) == 0
        assert run(["show", "s3://bucket/a set", "l1.w[0,:2]"]) == 0
        assert "[1.0, 1.0]" in capfd.readouterr().out
        found = wl.load("out.pt")
        assert all(np.array_equal(found[key], value) for key, value in bucket.items())
        assert run(["salvage", "s3://bucket/a b/m.pt", "saved.pt"]) == 0

    def test_a_scan_looks_at_every_file_of_a_folder(self, bucket, capfd):
        """The address of a folder was said to be none of a file, and nothing was examined."""
        report = wl.scan("s3://bucket/a set")
        assert [file.verdict for file in report.files].count("findings") == 1
        assert len(report.files) == 6
        assert run(["scan", "s3://bucket/a set/"]) == 1
        assert "s3://bucket/a set/below/evil.pkl" in capfd.readouterr().out
        assert wl.scan("s3://bucket/a set", exclude=["*.pkl"]).verdict == "clean"

    def test_exit_codes(self, bucket, capfd):
        assert run(["ls", "s3://nowhere/x.pt"]) == 2
        assert "no such bucket" in capfd.readouterr().err
        for command in ("verify", "scan", "digest"):
            assert run([command, "s3://bucket/nothing.pt"]) == 2


def test_threads_share_one_checkpoint(server, url):
    with wl.open_checkpoint(url) as ckpt:
        keys = [key for key in ckpt if key.startswith("layer")][:40]
        wrong: list[str] = []

        def work(part: list[str]) -> None:
            wrong.extend(key for key in part if not np.array_equal(ckpt[key].read(), MODEL[key]))

        threads = [threading.Thread(target=work, args=(keys[at::4],)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
