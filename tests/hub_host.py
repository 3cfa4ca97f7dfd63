"""A host on loopback that plays GitHub: its pages, its API, its archives, git itself, and files; with faults on demand.

Real sockets, real git: `git upload-pack` answers, and `git archive` makes the archives.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.server
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}


def git(folder, *words, data=None, protocol=""):
    environment = {**_ENVIRONMENT, "GIT_PROTOCOL": protocol} if protocol else _ENVIRONMENT
    done = subprocess.run(
        ["git", "-C", str(folder), *words], env=environment, input=data, capture_output=True, check=False
    )
    if done.returncode:
        raise LookupError(done.stderr.decode())
    return done.stdout


def text_of(folder, *words):
    return git(folder, *words).decode().strip()


class Repository:
    """A real git repository with a branch called trunk."""

    def __init__(self, folder: Path, branch="trunk"):
        folder.mkdir(parents=True)
        self.folder = folder
        git(folder, "init", "-q", "-b", branch)
        with (folder / ".git" / "config").open("a") as file:
            file.write("[uploadpack]\nallowFilter = true\nallowAnySHA1InWant = true\n[gc]\nauto = 0\n")
            file.write("[maintenance]\nauto = false\n")

    def commit(self, files, tag=None, annotated=None, branch=None) -> str:
        if branch:
            git(self.folder, "checkout", "-q", "-B", branch)
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, tuple):
                path.symlink_to(content[0])
                continue
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            if name.endswith(".sh"):
                path.chmod(0o755)
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "--allow-empty", "-m", "x")
        if tag:
            git(self.folder, "tag", tag)
        if annotated:
            git(self.folder, "tag", "-a", "-m", "x", annotated)
        return text_of(self.folder, "rev-parse", "HEAD")


_BREAKS = ("truncate", "reset", "stall")
"""Faults that end a body before its end."""


def serve(handler, **facts):
    """Start a server on a port of its own, whose handlers have these facts as attributes."""

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request, client_address):
            pass

    server = Server(("127.0.0.1", 0), type("Bound", (handler,), facts))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


@dataclasses.dataclass
class Fault:
    pattern: str
    kind: str
    times: int
    options: dict[str, Any]


class Host:
    """The host: `web`, `api` and `files` are base addresses, on ports of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.repositories: dict[str, Repository] = {}
        self.files_held: dict[str, dict[str, Any]] = {}
        self.archives: dict[str, bytes] = {}
        self.renamed: dict[str, str] = {}
        self.releases: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.token = ""
        self.quota: int | None = None
        self.git_works = True
        self.api_works = True
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, str, dict[str, str]]] = []
        self.whole: list[str] = []
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.closing = threading.Event()
        self._stopping: list[threading.Thread] = []
        self._servers = [serve(_Handler, host=self, role=role) for role in ("web", "api", "files")]
        self.web, self.api, self.files = [f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.released.set()
        for thread in [threading.Thread(target=server.shutdown) for server in self._servers]:
            thread.start()
            self._stopping.append(thread)
        while self._stopping:
            self._stopping.pop().join()
        for server in self._servers:
            server.server_close()

    def repository(self, name, files=None, **options) -> Repository:
        repository = self.repositories[name] = Repository(self.folder / name.replace("/", "__"))
        if files is not None:
            repository.commit(files, **options)
        return repository

    def put(self, path, data, **options) -> str:
        if isinstance(data, str):
            data = data.encode()
        self.files_held[path] = {"data": data, "etag": f'"{hashlib.md5(data).hexdigest()}"', "ranges": True, **options}
        return f"{self.files}/{path}"

    def fail(self, pattern, kind, times=1, **options):
        self.faults.append(Fault(pattern, kind, times, options))

    def count(self, part="", method=None, role=None) -> int:
        with self.lock:
            return sum(part in row[2] and method in (None, row[1]) and role in (None, row[0]) for row in self.log)

    def bodies(self, part) -> int:
        with self.lock:
            return sum(part in path for path in self.whole)

    def config(self, path: Path, **more) -> str:
        """Write a file of settings that sends github.com here."""
        lines = [f"{name} = {json.dumps(value)}" for name, value in more.items()]
        lines += ["[hosts.'github.com']", f"web = '{self.web}'", f"api = '{self.api}'"]
        path.write_text("\n".join(lines) + "\n")
        return str(path)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: Host
    role: str

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    def do_HEAD(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def _answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        with self.host.lock:
            self.host.log.append((self.role, self.command, self.path, dict(self.headers)))
            fault = next((one for one in self.host.faults if one.pattern in self.path and one.times), None)
            if fault is not None:
                fault.times -= 1
        self.fault = fault
        if fault and self._broken(fault):
            return
        try:
            getattr(self, f"_{self.role}")(self.path.partition("?")[0].strip("/").split("/"))
        except LookupError:
            self._send(404, b"Not Found")

    def _broken(self, fault) -> bool:
        """Answer as the fault wants; False for faults of the body."""
        options = fault.options
        if fault.kind == "status":
            self._send(options["code"], options.get("body", b""), **options.get("headers", {}))
        elif fault.kind == "html":
            self._send(200, b"<!DOCTYPE html><html>sign in</html>", **{"Content-Type": "text/html; charset=utf-8"})
        elif fault.kind == "redirect":
            self._send(302, b"", Location=options["to"], **options.get("headers", {}))
        elif fault.kind == "hold":
            self.host.released.wait(30)
            return False
        else:
            return False
        return True

    def _allowed(self, name) -> bool:
        """Whether who asks may see a repository; answers if not."""
        sent = self.headers.get("Authorization") or ""
        if sent.startswith("Basic "):
            sent = "Basic " + base64.b64decode(sent[6:]).decode().partition(":")[2]
        token = sent.partition(" ")[2]
        if token and token != self.host.token:
            self._send(401, b'{"message": "Bad credentials"}')
            return False
        if name in self.host.private and not token:
            self._send(401 if "git-upload-pack" in self.path else 404, b"Not Found")
            return False
        return True

    def _find(self, owner, name):
        name = f"{owner}/{name.removesuffix('.git')}"
        if name in self.host.renamed:
            return name, None
        return name, self.host.repositories[name]

    def _without_groups(self, parts):
        """Put the groups that a repository is in into one part, as if they were its owner."""
        for length in range(3, len(parts)):
            name = "/".join(parts[:length]).removesuffix(".git")
            if name in self.host.repositories:
                return ["/".join(parts[: length - 1]), *parts[length - 1 :]]
        return parts

    def _other_api(self, parts):
        """Tell a ref's commit as the APIs of GitLab, Gitea, Bitbucket and Hugging Face do."""
        words = [unquote(part) for part in parts]
        if words[:3] == ["api", "v4", "projects"]:
            name, ref, key = words[3], words[6], "id"
        elif words[:3] == ["api", "v1", "repos"]:
            name, ref, key = "/".join(words[3:5]), "/".join(words[7:]), "sha"
        elif words[:2] == ["2.0", "repositories"]:
            name, ref, key = "/".join(words[2:4]), "/".join(words[5:]), "hash"
        else:
            name, ref, key = "/".join(words[2:4]), words[5], "sha"
        if not self._allowed(name):
            return
        folder = self.host.repositories[name].folder
        self._send(200, json.dumps({key: text_of(folder, "rev-parse", "--verify", f"{ref}^{{commit}}")}).encode())

    def _web(self, parts):
        if parts[0] in ("api", "2.0"):
            self._other_api(parts)
            return
        parts = self._without_groups(parts)
        name, repository = self._find(parts[0], parts[1])
        if not self._allowed(name):
            return
        if repository is None:
            self._send(301, b"", Location=self.host.web + self.path.replace(name, self.host.renamed[name], 1))
            return
        rest = parts[2:]
        if rest[:1] in (["git-upload-pack"], ["info"]):
            self._git(repository)
        elif rest[0] == "zipball":
            ref = "/".join(rest[1:])
            tags, heads = self._has(repository, f"refs/tags/{ref}"), self._has(repository, f"refs/heads/{ref}")
            if tags and heads:
                self._send(300, b"choose")
                return
            self._send(302, b"", Location=f"{self.host.files}/codeload/{name}/{ref}")
        elif rest[:2] == ["releases", "download"] or rest[:2] == ["releases", "latest"]:
            whole = self.path.lstrip("/")
            place = whole if whole in self.host.files_held else f"signed/{rest[-1]}"
            self._send(302, b"", Location=f"{self.host.files}/{place}")
        elif rest[0] == "tree":
            git(repository.folder, "rev-parse", "--verify", f"{rest[1]}^{{commit}}")
            self._send(200, b"<html>")
        else:
            raise LookupError

    @staticmethod
    def _has(repository, ref):
        try:
            git(repository.folder, "rev-parse", "--verify", "-q", ref)
        except LookupError:
            return False
        return True

    def _git(self, repository):
        if not self.host.git_works:
            self._send(403, b"no")
            return
        protocol = self.headers.get("Git-Protocol") or ""
        if self.command == "GET":
            data = git(repository.folder, "upload-pack", "--stateless-rpc", "--advertise-refs", ".", protocol=protocol)
            kind = {"Content-Type": "application/x-git-upload-pack-advertisement"}
            self._send(200, b"001e# service=git-upload-pack\n0000" + data, **kind)
            return
        data = git(repository.folder, "upload-pack", "--stateless-rpc", ".", data=self.body, protocol=protocol)
        self._send(200, data, **{"Content-Type": "application/x-git-upload-pack-result"})

    def _api(self, parts):
        if not self.host.api_works:
            self._send(503, b"")
            return
        if self.host.quota is not None:
            self.host.quota -= 1
            if self.host.quota < 0:
                headers = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0",
                           "X-RateLimit-Reset": str(int(time.time()) + 1000)}  # fmt: skip
                self._send(403, b'{"message": "API rate limit exceeded for 127.0.0.1."}', **headers)
                return
        name, repository = self._find(parts[1], parts[2])
        if not self._allowed(name):
            return
        folder = repository.folder
        if parts[3] == "commits":
            ref = "/".join(parts[4:])
            try:
                commit = text_of(folder, "rev-parse", "--verify", f"{ref}^{{commit}}")
            except LookupError:
                self._send(422, b"{}")
                return
            self._send(200, json.dumps({"sha": commit}).encode())
        elif parts[3] == "compare":
            base, _, other = "/".join(parts[4:]).partition("...")
            merged = text_of(folder, "merge-base", base, other)
            status = "behind" if merged == text_of(folder, "rev-parse", other) else "diverged"
            self._send(200, json.dumps({"status": status}).encode())
        elif parts[3] == "releases":
            assets = self.host.releases[parts[-1]].items()
            rows = [{"name": name, "digest": "sha256:" + hashlib.sha256(data).hexdigest()} for name, data in assets]
            self._send(200, json.dumps({"assets": rows}).encode())
        elif parts[3] in ("branches", "tags"):
            kind = {"branches": "heads", "tags": "tags"}[parts[3]]
            rows = text_of(
                folder, "for-each-ref", f"refs/{kind}", "--format=%(refname:lstrip=2) %(objectname)"
            ).splitlines()
            page = int(self.path.rpartition("page=")[2]) if "page=" in self.path else 1
            found = [{"name": row.split()[0], "commit": {"sha": row.split()[1]}} for row in rows] if page == 1 else []
            self._send(200, json.dumps(found).encode())
        else:
            raise LookupError

    def _files(self, parts):
        path = "/".join(parts)
        if parts[0] == "codeload":
            name = f"{parts[1]}/{parts[2]}"
            data = self.host.archives.get(name)
            if data is None:
                folder = self.host.repositories[name].folder
                commit = text_of(folder, "rev-parse", "--verify", f"{'/'.join(parts[3:])}^{{commit}}")
                prefix = f"{parts[1]}-{parts[2]}-{commit[:7]}/"
                data = git(folder, "archive", "--format=zip", f"--prefix={prefix}", commit)
            self._send_chunked(data)
            return
        held = self.host.files_held[path]
        self._send_file(held)

    def _send_file(self, held):
        data, etag = held["data"], held["etag"]
        size = len(data)
        headers = {"ETag": etag, "Content-Type": held.get("type", "application/octet-stream")}
        if held["ranges"]:
            headers["Accept-Ranges"] = "bytes"
        headers |= held.get("headers", {})
        if held.get("digest"):
            headers["Repr-Digest"] = "sha-256=:" + base64.b64encode(hashlib.sha256(data).digest()).decode() + ":"
        wanted = re.match(r"bytes=(\d+)-(\d*)\Z", self.headers.get("Range") or "")
        ignored = self.fault and self.fault.kind == "ignore-range"
        if wanted and held["ranges"] and not ignored and self.headers.get("If-Range") in (None, etag):
            start, end = int(wanted[1]), int(wanted[2] or size - 1)
            if start >= size:
                self._send(416, b"", **{"Content-Range": f"bytes */{size}"})
                return
            shown = start + 1 if self.fault and self.fault.kind == "wrong-range" else start
            headers["Content-Range"] = f"bytes {shown}-{end}/{size}"
            self._send(206, data[start : end + 1], **headers)
            return
        self._send(200, data, **headers)

    def _send_chunked(self, data):
        """Send a body without its length, as GitHub does for archives that it has just made."""
        self.send_response(200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = self.fault if self.fault and self.fault.kind in _BREAKS else None
        piece = data[: len(data) // 2] if cut else data
        self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
        if cut:
            self._break_off(cut)
            return
        self.wfile.write(b"0\r\n\r\n")
        with self.host.lock:
            self.host.whole.append(self.path)

    def _send(self, status, data, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        fault = self.fault
        kind = fault.kind if fault and status < 300 else ""
        options: dict[str, Any] = fault.options if fault else {}
        after = options.get("after", len(data) // 2)
        if fault and kind in _BREAKS:
            self.wfile.write(data[:after])
            self._break_off(fault)
            return
        if kind == "drip":
            for at in range(0, len(data), options["piece"]):
                self.wfile.write(data[at : at + options["piece"]])
                self.wfile.flush()
                if self.host.closing.wait(options["delay"]):
                    return
        else:
            self.wfile.write(data)
        if status < 300:
            with self.host.lock:
                self.host.whole.append(self.path)

    def _break_off(self, fault):
        """End a body before its end, as the fault wants."""
        self.wfile.flush()
        if fault.kind == "stall":
            self.host.closing.wait(fault.options.get("seconds", 30))
        if fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
