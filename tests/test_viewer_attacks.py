"""What broke the viewer once: idle connections, slow readers, closed terminals, names made to hurt."""

from __future__ import annotations

import asyncio
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import numpy as np
import pytest

import weighlock
from tests.test_viewer_server_process import address, ask, end_with_its_browser_open, started
from tests.viewer_client import viewing
from weighlock.viewer import serving
from weighlock.viewer.bounds import HEAVY_AT_ONCE, MOST_CONNECTIONS
from weighlock.viewer.jobs import Desk
from weighlock.viewer.looking import judging
from weighlock.viewer.serving import Settings, serve

pytestmark = pytest.mark.one_lane

LONG = "N" * 1_000_000
ONE = np.ones(2, "f4")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.pt"
    weighlock.save({"w": np.arange(6.0)}, path)
    return path


@contextmanager
def serving_here(path):
    """Serve in a thread of this process; give the port and the token."""
    urls: list[str] = []
    thread = threading.Thread(target=lambda: serve([str(path)], Settings(idle=1.0), urls.append))
    thread.start()
    try:
        for _ in range(500):
            if urls:
                break
            time.sleep(0.01)
        yield urlsplit(urls[0]).port, urls[0].rpartition("=")[2]
    finally:
        thread.join(30)
        assert not thread.is_alive()


# --------------------------------------------------------------------------------------------------------- connections


def test_idle_connections_without_a_token_do_not_shut_the_owner_out(model, monkeypatch):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
    with serving_here(model) as (port, token):
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(MOST_CONNECTIONS + 10)]
        try:
            for one in held:
                one.settimeout(10)
                assert one.recv(1) == b""  # closed by the server, though nothing was sent
        finally:
            for one in held:
                one.close()
        assert ask(port, "/api/v1/ping", token)[0] == 200


def test_a_head_that_trickles_in_is_cut_off(model, monkeypatch):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
    with serving_here(model) as (port, _), socket.create_connection(("127.0.0.1", port)) as slow:
        begin = time.monotonic()
        with pytest.raises(OSError):  # reset or broken pipe, as it comes
            for mark in b"GET / HTTP/1.1\r\nX: " + b"x" * 500:
                slow.sendall(bytes([mark]))
                time.sleep(0.02)
        assert time.monotonic() - begin < 8


def test_a_connection_in_use_is_kept(model, monkeypatch):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.1)
    with serving_here(model) as (port, token), socket.create_connection(("127.0.0.1", port)) as held:
        head = f"GET /api/v1/ping HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        for _ in range(4):
            held.sendall(head)
            got = b""
            while not got.endswith(b"}"):
                got += held.recv(4096)
            assert got.startswith(b"HTTP/1.1 200")
            time.sleep(0.3)


def test_whoever_is_refused_holds_no_connection(model):
    with viewing(model) as viewer:
        for answer in (viewer.ask("/api/v1/files"), viewer.ask("/", headers={"host": "evil.example"})):
            assert answer.status in (401, 421)
            assert answer.headers["connection"] == "close"


def test_a_download_that_is_read_slowly_holds_off_the_idle_timeout(tmp_path):
    path = tmp_path / "large.pt"
    weighlock.save({"w": np.zeros((4000, 4000), "f4")}, path)
    with started(path, "--no-browser", "--idle-timeout", "1") as process:
        port, token = address(process)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", int(port)))
            slow.sendall(
                f"GET /api/v1/file/0/tensor/0/export.npy HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Authorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode()
            )
            assert slow.recv(15) == b"HTTP/1.1 200 OK"
            time.sleep(2.5)
            got = 15
            while piece := slow.recv(1 << 20):
                got += len(piece)
            assert got > 64_000_000
        assert process.wait(20) == 0


def test_downloads_share_the_threads_that_read_tensors():
    desk, at_once, most = Desk(), [0], [0]

    def pieces():
        for _ in range(3):
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            time.sleep(0.02)
            at_once[0] -= 1
            yield b"x"

    async def read():
        return [piece async for piece in desk.stream(pieces())]

    async def all_of_them():
        tasks = [asyncio.ensure_future(read()) for _ in range(8)]
        await asyncio.sleep(0.03)
        assert desk.working == 8
        return await asyncio.gather(*tasks)

    assert asyncio.run(all_of_them()) == [[b"x"] * 3] * 8
    assert most[0] <= HEAVY_AT_ONCE
    assert desk.working == 0
    desk.close()


def test_the_tree_does_not_wait_for_a_scan(model, monkeypatch):
    begun, may_end = threading.Event(), threading.Event()

    def scan(file):
        begun.set()
        may_end.wait(20)
        return {"gaps": []}

    monkeypatch.setattr(judging, "scan_one", scan)
    with viewing(model) as viewer:
        thread = threading.Thread(target=lambda: viewer.get("/file/0/scan"))
        thread.start()
        assert begun.wait(10)
        done: list[int] = []
        other = threading.Thread(target=lambda: done.append(viewer.get("/file/0/tree").status))
        other.start()
        other.join(10)
        assert done == [200]
        may_end.set()
        thread.join(20)


# --------------------------------------------------------------------------------------------------------------- names


def test_a_name_of_a_megabyte_is_not_repeated_in_every_row(tmp_path):
    path = tmp_path / "long.pt"
    weighlock.save({LONG: {f"k{i}": np.full(2, i) for i in range(40)}, "short": {"x": ONE}}, path)
    with viewing(path) as viewer:
        for where in ("/file/0/tree", "/file/0/tensors", "/diff", "/file/0/tensor/0", "/file/0/storages"):
            answer = viewer.get(where, **({"a": 0, "b": 0} if where == "/diff" else {}))
            assert answer.status == 200
            assert len(answer.body) < 200_000, where
        assert viewer.document("/file/0/tensors")["rows"][0]["path"] is None
        assert viewer.document("/file/0/tensors")["rows"][-1]["path"] == ["short", "x"]
        assert [node["path"] for node in viewer.document("/file/0/tree")["nodes"]] == [None, ["short"]]
        assert "cli" not in viewer.document("/file/0/tensor/0")


@pytest.mark.parametrize("key", ["-o", "--help", "-x y", "$(id)", "a'b\"`id`;rm", "w", "*"])
def test_the_copied_command_shows_the_tensor_whatever_its_name(tmp_path, key):
    path = tmp_path / "it's $(touch pwned).pt"
    weighlock.save({key: np.array([7.0, 8.0])}, path)
    with viewing(path) as viewer:
        line = viewer.document("/file/0/tensor/0")["cli"]
    assert shlex.split(line)[0] == "weighlock"
    command = f"{shlex.quote(sys.executable)} -m {line}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "[7.0, 8.0]" in done.stdout) == (0, True), done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_download_is_no_option_of_a_command(tmp_path):
    path = tmp_path / "model.pt"
    weighlock.save({"--output=x": ONE}, path)
    with viewing(path) as viewer:
        disposition = viewer.get("/file/0/tensor/0/export.npy").headers["content-disposition"]
    assert disposition == 'attachment; filename="output_x.npy"'


# ----------------------------------------------------------------------------------------------------- terminals, ends


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that hang up")
def test_a_closed_terminal_ends_it_and_leaves_nothing(model, tmp_path):
    temporary = tmp_path / "temporary"
    end_with_its_browser_open(model, temporary, signal.SIGHUP)
    assert list(temporary.iterdir()) == []


def in_a_shell(line, model):
    command = f"exec {shlex.quote(sys.executable)} -m weighlock view {shlex.quote(str(model))} {line}"
    return subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_closed_standard_output_is_no_crash(model):
    process = in_a_shell("--no-browser --idle-timeout 0.3 >&-", model)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "Ctrl-C ends the viewer" in said


def test_a_closed_standard_error_costs_no_answer(model):
    process = in_a_shell("--no-browser --log 2>&-", model)
    try:
        port, token = address(process)
        assert ask(port, "/api/v1/files", token)[0] == 200
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert rest.strip() == ""  # what is said to people does not get among the results
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is always a screen")
def test_without_a_screen_no_browser_takes_over_the_terminal(model, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("www-browser", "links", "lynx", "w3m", "xdg-open"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {shlex.quote(str(tmp_path / 'opened'))}\n")
        (tools / name).chmod(0o755)
    env = dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"), "")
    with started(model, "--idle-timeout", "1", env={**env, "PATH": f"{tools}:{os.environ['PATH']}"}) as process:
        address(process)
        process.communicate(timeout=20)
    assert not (tmp_path / "opened").exists()


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_temporary_folder_costs_the_browser_only(model):
    command = f"ulimit -f 0; exec {shlex.quote(sys.executable)} -m weighlock view {shlex.quote(str(model))}"
    process = subprocess.Popen(
        ["sh", "-c", f"{command} --idle-timeout 0.5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "BROWSER": "true %s"},
    )  # fmt: skip
    out, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "#token=" in out
    assert "weighlock: the browser could not be opened" in said


def test_a_pipe_that_nobody_writes_to_does_not_hold_the_viewer(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with started(path, "--no-browser") as process:
        port, token = address(process)
        assert ask(port, "/api/v1/ping", token)[0] == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130


def test_the_page_is_told_how_long_it_may_be_silent(model):
    with started(model, "--no-browser", "--idle-timeout", "30") as process:
        port, token = address(process)
        assert b'"idle":30.0' in ask(port, "/api/v1/files", token)[2]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_does_not_answer_does_not_hold_up_the_end(kind):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are taken by the system, and never answered
        place = f"http://127.0.0.1:{silent.getsockname()[1]}/model.pt"
        with started(place, "--no-browser") as process:
            port, token = address(process)

            def wait_for_it(port=port, token=token):
                with suppress(OSError, http.client.HTTPException):
                    ask(port, "/api/v1/files", token)

            thread = threading.Thread(target=wait_for_it)
            thread.start()
            time.sleep(1)
            begin = time.monotonic()
            process.send_signal(kind)
            process.communicate(timeout=30)
            assert time.monotonic() - begin < 8
            thread.join(30)
