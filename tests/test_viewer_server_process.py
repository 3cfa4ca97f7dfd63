"""`weighlock view` as a process: what it prints, where it listens, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import weighlock
from weighlock.errors import ArgumentError
from weighlock.viewer.serving import Settings, serve

pytestmark = pytest.mark.one_lane

URL = re.compile(r"http://127\.0\.0\.1:(\d+)/#token=([A-Za-z0-9_-]{43})\n")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.pt"
    weighlock.save({"w": np.arange(6.0), "big": np.zeros((1000, 1000), "f4")}, path)
    return path


@contextmanager
def started(*arguments, env=None):
    process = subprocess.Popen(
        [sys.executable, "-m", "weighlock", "view", *map(str, arguments)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def address(process) -> tuple[str, str]:
    """Return the port and the token of the one line that is printed."""
    found = URL.fullmatch(process.stdout.readline())
    assert found is not None
    return found[1], found[2]


def ask(port, path, token=None, host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.putrequest(method, path, skip_host=host is not None)
        for name, value in {**headers, **({"Host": host} if host is not None else {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def failed(*arguments, **options):
    done = subprocess.run(
        [sys.executable, "-m", "weighlock", "view", *map(str, arguments)], capture_output=True, text=True, timeout=60,
        check=False, **options,
    )  # fmt: skip
    assert done.stdout == ""
    return done


def test_it_prints_one_address_serves_it_and_ends_with_ctrl_c(model):
    with started(model, "--no-browser", "--log") as process:
        port, token = address(process)
        status, headers, body = ask(port, "/api/v1/files", token)
        assert status == 200
        assert json.loads(body)["files"][0]["name"] == "model.pt"
        assert "server" not in {name.lower() for name in headers}
        assert ask(port, "/api/v1/files?token=abc")[0] == 401
        assert ask(port, "/api/v1/files", token, host="evil.example")[0] == 421
        assert ask(port, "/", method="POST")[0] == 405
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert out == ""
        assert "Traceback" not in err
        assert token not in err
        assert "weighlock: GET /api/v1/files 200\n" in err
        assert "weighlock: GET /api/v1/files 401\n" in err


def end_with_its_browser_open(model, temporary, ending) -> int:
    """Start a viewer, end it by a signal while the file is there that opened the browser; return its exit code."""
    temporary.mkdir()
    with started(model, env={"TMPDIR": str(temporary), "BROWSER": "true %s"}) as process:
        address(process)
        for _ in range(400):
            if list(temporary.glob("*/*")):  # tempfile itself tries the folder with a file that is gone at once
                break
            time.sleep(0.02)
        assert list(temporary.glob("*/*"))
        process.send_signal(ending)
        process.communicate(timeout=20)
        return process.returncode


def test_it_ends_with_a_terminating_signal_too_and_leaves_nothing(model, tmp_path):
    temporary = tmp_path / "temporary"
    assert end_with_its_browser_open(model, temporary, signal.SIGTERM) == 0
    assert list(temporary.iterdir()) == []


def test_it_listens_on_loopback_alone(model):
    with started(model, "--no-browser") as process:
        port = int(address(process)[0])
        listening = [
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
        ] if Path("/proc/net/tcp").exists() else ["0100007F:"]  # fmt: skip
        assert [entry.split(":")[0] for entry in listening] == ["0100007F"]


def test_every_start_has_another_token(model):
    tokens = set()
    for _ in range(2):
        with started(model, "--no-browser") as process:
            tokens.add(address(process)[1])
    assert len(tokens) == 2


def test_it_ends_when_nobody_asks(model):
    with started(model, "--no-browser", "--idle-timeout", "0.5") as process:
        port, token = address(process)
        for _ in range(4):
            time.sleep(0.3)
            assert ask(port, "/api/v1/ping", token)[0] == 200
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "nobody has asked for long" in err


def test_the_browser_gets_a_file_that_only_the_user_can_read_and_no_token(model, tmp_path):
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\necho "$@" > {seen}.new\n'
        f'path="${{1#file://}}"\nstat -c %a "$path" "$(dirname "$path")" >> {seen}.new\ncat "$path" >> {seen}.new\n'
        f"mv {seen}.new {seen}\n"
    )
    browser.chmod(0o755)
    with started(model, env={"BROWSER": f"{browser} %s"}) as process:
        token = address(process)[1]
        for _ in range(200):
            if seen.exists():
                break
            time.sleep(0.05)
        arguments, mode, folder, *page = seen.read_text().splitlines()
        assert arguments.startswith("file://")
        assert token not in arguments
        assert (mode, folder) == ("600", "700")
        assert token in "".join(page)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert not Path(arguments.removeprefix("file://")).exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_machines_are_kept_out_unless_that_is_asked_for(model, host):
    done = failed(model, "--no-browser", "--host", host)
    assert done.returncode == 2
    assert "other machines could read your files there" in done.stderr
    assert "--i-know-this-exposes-files" in done.stderr


def test_exposed_it_still_wants_the_token(model):
    with started(model, "--no-browser", "--host", "0.0.0.0", "--i-know-this-exposes-files") as process:
        port, token = address(process)
        assert ask(port, "/api/v1/files")[0] == 401
        assert ask(port, "/api/v1/files", token)[0] == 200
        assert ask(port, "/api/v1/files", token, host=f"evil.example:{port}")[0] == 421


def test_a_port_that_is_taken_is_said(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        done = failed(model, "--no-browser", "--port", taken.getsockname()[1])
        assert done.returncode == 2
        assert "cannot listen on 127.0.0.1 port" in done.stderr
        assert "hint: Another program has that port" in done.stderr


def test_a_chosen_port_is_used(model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with started(model, "--no-browser", "--port", port) as process:
        assert int(address(process)[0]) == port


def test_a_proxy_is_named(model):
    base = "https://hub.example/user/ada/proxy/1"
    with started(model, "--no-browser", "--base-url", f"{base}/") as process:
        line = process.stdout.readline().strip()
        assert line.startswith(f"{base}/#token=")
    for wrong in ("hub.example/proxy", "ftp://hub.example/", "https://hub.example/?a=b", "https://me@hub.example/"):
        done = failed(model, "--no-browser", "--base-url", wrong)
        assert done.returncode == 2
        assert "--base-url is the address" in done.stderr


def test_files_that_are_not_there_are_said_before_anything_is_served(model, tmp_path):
    done = failed(model, tmp_path / "missing.pt", "--no-browser")
    assert done.returncode == 2
    assert "there is no such file" in done.stderr
    for arguments, what in [
        ((), "no file is given"),
        (("-",), "standard input"),
        ((model, "--encoding", "no"), "encod"),
    ]:
        done = failed(*arguments)
        assert done.returncode == 2
        assert what in done.stderr


def test_without_the_extra_it_says_what_to_install(model, tmp_path):
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('no', name='starlette')\n")
    where = os.pathsep.join([str(tmp_path), *sys.path])
    done = failed(model, "--no-browser", env={**os.environ, "PYTHONPATH": where})
    assert done.returncode == 2
    assert done.stderr == (
        "weighlock: the viewer needs the package starlette\n  hint: Install it with: pip install 'weighlock[view]'\n"
    )


def test_a_damaged_file_is_served_with_its_error(tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes(b"PK\x03\x04 and no more")
    with started(path, "--no-browser") as process:
        port, token = address(process)
        assert json.loads(ask(port, "/api/v1/files", token)[2])["files"][0]["error"]["message"]


def test_a_client_that_leaves_stops_its_work(tmp_path):
    """The connection is closed while a histogram of 400 MB is made: the work is gone long before it could be done."""
    path = tmp_path / "model.pt"
    weighlock.save({"w": np.zeros((10_000, 10_000), "f4")}, path)
    with started(path, "--no-browser") as process:
        port, token = address(process)
        ask(port, "/api/v1/file/0/tensor/0/stats?bins=0", token)  # what is imported first is imported now
        for number in range(2):
            left = socket.create_connection(("127.0.0.1", int(port)))
            left.sendall(
                f"GET /api/v1/file/0/tensor/0/stats?bins={900 + number} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            time.sleep(0.1)
            assert json.loads(ask(port, "/api/v1/ping", token)[2])["working"] >= 2  # the ping itself, and that work
            left.close()
            begin = time.monotonic()
            while json.loads(ask(port, "/api/v1/ping", token)[2])["working"] > 1:
                assert time.monotonic() - begin < 2
                time.sleep(0.01)


def test_it_ends_at_once_also_when_it_works(tmp_path):
    path = tmp_path / "model.pt"
    weighlock.save({f"w{at}": np.zeros((5000, 5000), "f4") for at in range(4)}, path)
    with started(path, "--no-browser") as process:
        port, token = address(process)
        sockets = [socket.create_connection(("127.0.0.1", int(port))) for _ in range(5)]
        for at, connection in enumerate(sockets[:4]):
            connection.sendall(
                f"GET /api/v1/file/0/tensor/{at}/stats?bins=900 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
        time.sleep(0.2)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - begin < 3
        assert process.returncode == 130
        assert "Traceback" not in err
        for connection in sockets:
            connection.close()


def test_a_download_that_cannot_go_on_breaks_off(tmp_path):
    """The file is cut while it is downloaded: the client sees fewer bytes than were announced, never a good end."""
    path = tmp_path / "model.pt"
    weighlock.save({"w": np.zeros((10_000, 5000), "f4")}, path)
    with started(path, "--no-browser") as process:
        port, token = address(process)
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
        connection.request("GET", "/api/v1/file/0/tensor/0/export.npy", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        assert answer.status == 200
        os.truncate(path, 1 << 20)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
        connection.close()
        assert ask(port, "/api/v1/file/0/tensor/0/grid", token)[0] == 409
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert "weighlock: a download broke off: the file was changed while it was open" in err
        assert "Traceback" not in err


def test_a_large_file_takes_little_memory(tmp_path):
    """Of 400 MB are drawn, measured and compared; the process stays far below."""
    paths = [tmp_path / name for name in ("a.pt", "b.pt")]
    for number, path in enumerate(paths):
        weighlock.save({"w": np.full((10_000, 10_000), number, "f4")}, path)
    with started(*paths, "--no-browser") as process:
        port, token = address(process)
        for path in ("file/0", "file/0/tensor/0/heat", "file/0/tensor/0/stats", "diff", "diff/heat?i=0&j=0"):
            assert ask(port, f"/api/v1/{path}", token)[0] == 200
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        assert int(peak) < 200_000


def test_serve_refuses_in_the_library_too(model):
    with pytest.raises(ArgumentError, match="other machines"):
        serve([str(model)], Settings(host="0.0.0.0"), lambda url: None)


def test_no_thread_outlives_the_server(model):
    before = set(threading.enumerate())
    urls: list[str] = []

    def work():
        serve([str(model)], Settings(idle=0.2), urls.append)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert urlsplit(urls[0]).hostname == "127.0.0.1"
    for _ in range(100):
        if not set(threading.enumerate()) - before:
            break
        time.sleep(0.02)
    assert not set(threading.enumerate()) - before
