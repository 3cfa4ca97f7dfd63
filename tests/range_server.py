"""A web server on loopback that sends ranges, with every fault that one may have; it counts what it is asked."""

from __future__ import annotations

import dataclasses
import http.server
import re
import threading
import time
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass
class Request:
    path: str
    range: tuple[int, int] | None
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclasses.dataclass
class Held:
    """One file: its bytes, and what is said of it."""

    data: Any
    etag: str | None = '"one"'
    modified: str | None = None


class RangeServer:
    """Files by path. `delay` is waited before each answer; `faults` change the next answers, one each.

    A fault is a function of the handler and the request, which answers itself and returns True, or returns False and
    leaves the answer to the server.
    """

    def __init__(self, **files: Any):
        self.files = {f"/{name}": held if isinstance(held, Held) else Held(held) for name, held in files.items()}
        self.delay = 0.0
        self.ranges = True
        self.faults: list[Callable[[Any, Request], bool]] = []
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.busy = self.most_busy = 0

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request, client_address):
                pass

        self._server = Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"host": self}))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def sent(self) -> int:
        return sum(request.sent for request in self.requests)

    def forget(self):
        self.requests.clear()
        self.most_busy = 0


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: RangeServer
    # Headers and body go out together, or at once: the second of two small packets would wait for the first (Nagle).
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        host = self.host
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        asked = (int(match[1]), int(match[2])) if match else None
        request = Request(self.path, asked, dict(self.headers.items()))
        with host.lock:
            host.requests.append(request)
            host.busy += 1
            host.most_busy = max(host.most_busy, host.busy)
            fault = host.faults.pop(0) if host.faults else None
        try:
            if host.delay:
                time.sleep(host.delay)
            if fault is None or not fault(self, request):
                self.answer(request)
            self.wfile.flush()
        finally:
            with host.lock:
                host.busy -= 1

    def answer(self, request: Request, **changes: Any) -> None:
        """Answer as a good server does, but for `changes`: status, headers, data."""
        held = self.host.files.get(request.path)
        if held is None:
            self.reply(request, 404, {}, b"no such file")
            return
        size = len(held.data)
        headers = {"ETag": held.etag, "Last-Modified": held.modified, "Accept-Ranges": "bytes"}
        condition = request.headers.get("If-Range")
        fits = condition is None or condition in (held.etag, held.modified)
        status, data = 200, held.data
        if request.range and self.host.ranges and fits:
            first, last = request.range
            if first >= size:
                status, data, headers["Content-Range"] = 416, b"", f"bytes */{size}"
            else:
                last = min(last, size - 1)
                status, data = 206, memoryview(held.data)[first : last + 1]
                headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        headers |= changes.get("headers", {})
        self.reply(request, changes.get("status", status), headers, changes.get("data", data), changes.get("keep"))

    def reply(self, request: Request, status: int, headers: dict[str, Any], data: Any, keep: int | None = None) -> None:
        """Send an answer; with `keep`, only so many bytes of its body, and then the connection breaks."""
        request.status = status
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        part = memoryview(data)[: len(data) if keep is None else keep]
        request.sent += len(part)
        self.wfile.write(part)
        if keep is not None:
            self.close_connection = True


def status(code: int, **headers: Any) -> Callable[[Any, Request], bool]:
    """Answer with an error."""

    def fault(handler: Any, request: Request) -> bool:
        handler.reply(request, code, {name.replace("_", "-"): value for name, value in headers.items()}, b"fault")
        return True

    return fault


def changed(**changes: Any) -> Callable[[Any, Request], bool]:
    """Answer, but with another status, other headers, other bytes, or only some of them."""

    def fault(handler: Any, request: Request) -> bool:
        handler.answer(request, **changes)
        return True

    return fault


def hang(handler: Any, request: Request) -> bool:
    """Say nothing until the server is closed."""
    handler.host.closing.wait(30)
    handler.close_connection = True
    return True


def fine(handler: Any, request: Request) -> bool:
    """No fault."""
    return False
