"""A proxy on loopback, for http and https; and a TLS server with a certificate of its own."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import select
import socket
import ssl
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.hub_host import serve


class Proxy:
    """Passes requests on, and notes them: method, target, headers."""

    def __init__(self, user: str = ""):
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self._server = serve(_Proxy, log=self.log, user=user)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log: list[tuple[str, str, dict[str, str]]]
    user: str

    def log_message(self, *_):
        pass

    def _refused(self):
        self.log.append((self.command, self.path, dict(self.headers)))
        wanted = "Basic " + base64.b64encode(self.user.encode()).decode()
        if self.user and self.headers.get("Proxy-Authorization") != wanted:
            self.send_response(407)
            self.send_header("Proxy-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return True
        return False

    def do_CONNECT(self):
        if self._refused():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as onward:
            self.send_response(200)
            self.end_headers()
            sides = {self.connection: onward, onward: self.connection}
            while True:
                for side in select.select(list(sides), [], [])[0]:
                    data = side.recv(1 << 16)
                    if not data:
                        self.close_connection = True
                        return
                    sides[side].sendall(data)

    def do_GET(self):
        self._pass_on(None)

    def do_POST(self):
        self._pass_on(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _pass_on(self, body):
        if self._refused():
            return
        parts = urlsplit(self.path)
        headers = {name: value for name, value in self.headers.items() if name != "Proxy-Authorization"}
        with contextlib.closing(http.client.HTTPConnection(parts.netloc)) as connection:
            connection.request(self.command, parts.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name not in ("Transfer-Encoding", "Content-Length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class TlsServer:
    """Serves one body over TLS; its certificate, which signs itself, is `certificate`."""

    def __init__(self, folder: Path, data: bytes, name: str = "IP:127.0.0.1"):
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate, key = folder / "cert.pem", folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                   "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={name}",
                   "-keyout", str(key), "-out", str(self.certificate)]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        self.log: list[dict[str, str]] = []
        self._server = serve(_Tls, log=self.log, data=data)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Tls(http.server.BaseHTTPRequestHandler):
    log: list[dict[str, str]]
    data: bytes

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.log.append(dict(self.headers))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data)
