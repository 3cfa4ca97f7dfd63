"""`git http-backend`, git's own server, behind a small HTTP server on loopback."""

from __future__ import annotations

import http.server
import os
import subprocess
from pathlib import Path

from tests.hub_host import _ENVIRONMENT, serve, text_of


class GitServer:
    """Serves every repository below a folder, as a web server with git's CGI program does."""

    def __init__(self, folder: Path, version: int = 2):
        self.log: list[tuple[str, str, int]] = []
        program = Path(text_of(folder, "--exec-path")) / "git-http-backend"
        environment = {**_ENVIRONMENT, "GIT_PROJECT_ROOT": str(folder), "GIT_HTTP_EXPORT_ALL": "1"}
        self._server = serve(_Handler, log=self.log, program=str(program), environment=environment, version=version)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log: list[tuple[str, str, int]]
    program: str
    environment: dict[str, str]
    version: int

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body):
        path, _, query = self.path.partition("?")
        environment = {
            **self.environment, "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type") or "", "CONTENT_LENGTH": str(len(body)),
            "REMOTE_ADDR": "127.0.0.1", "PATH": os.environ["PATH"],
        }  # fmt: skip
        if self.version == 2:
            environment["GIT_PROTOCOL"] = self.headers.get("Git-Protocol") or ""
        done = subprocess.run([self.program], env=environment, input=body, capture_output=True, check=False)
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0]) if head else 500
        self.log.append((self.command, self.path, len(data)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
