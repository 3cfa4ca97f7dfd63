"""nginx itself on loopback: what a real server says to ranges, resumption, conditions and TLS."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

PROGRAM = shutil.which("nginx") or next((path for path in ("/usr/sbin/nginx",) if os.path.exists(path)), None)

_CONFIG = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format seen '$request_method $uri $status $body_bytes_sent "$http_range" "$http_if_range"';
  access_log {folder}/seen.log seen;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  default_type application/octet-stream;
  sendfile on; tcp_nopush on; keepalive_requests 100000;
  server {{
    listen 127.0.0.1:{port};
    {tls}
    root {root};
    location /slow/ {{ alias {root}/; limit_rate {rate}; }}
    location /whole/ {{ alias {root}/; max_ranges 0; }}
    location /packed/ {{ alias {root}/; gzip on; gzip_min_length 1; gzip_types *; }}
  }}
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nginx:
    """A running nginx that serves a folder."""

    def __init__(self, folder: Path, root: Path, rate: str = "2m", certificate: tuple[Path, Path] | None = None):
        if PROGRAM is None:
            raise RuntimeError("nginx is missing: apt-get install nginx-light")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.root = folder, root
        self.port = free_port()
        self._marks = 0
        tls = f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};" if certificate else ""
        text = _CONFIG.format(folder=folder, root=root, port=self.port, rate=rate, tls=tls)
        if certificate:
            text = text.replace(f":{self.port};", f":{self.port} ssl;")
        (folder / "nginx.conf").write_text(text)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [PROGRAM, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._wait()

    def _wait(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise RuntimeError("nginx did not start: " + (self.folder / "error.log").read_text()[-500:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._process.terminate()
        self._process.wait(10)

    def seen(self) -> list[str]:
        """Return a line for each request: method, path, status, bytes of the body, Range, If-Range.

        nginx writes a line when it has finished with a request, which may be after its client has. So one more
        request is made, and its line waited for: the one worker writes the others before it.
        """
        self._marks += 1
        mark = f"/mark-{self._marks}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if self.url.startswith("https"):
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        connection.request("GET", mark)
        connection.getresponse().read()
        connection.close()
        for _ in range(500):
            lines = (self.folder / "seen.log").read_text().splitlines()
            if any(f" {mark} " in line for line in lines):
                return [line for line in lines if " /mark-" not in line]
            time.sleep(0.02)
        raise AssertionError("nginx writes no log")
