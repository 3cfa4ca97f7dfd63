"""The viewer asked in this process, without a socket: what a browser would send, and what it would get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from weighlock.viewer.application import make_application
from weighlock.viewer.guarding import Access, Guard
from weighlock.viewer.jobs import Desk
from weighlock.viewer.looking.holding import Files
from weighlock.viewer.statics import read_assets

TOKEN = "a-token-of-the-tests"
PORT = 8123


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        def refuse(text):
            raise ValueError(f"{text} is no JSON")

        return json.loads(self.body, parse_constant=refuse)


class Viewer:
    """One viewer over some files."""

    def __init__(self, files: Sequence[str], **access: Any) -> None:
        self.files = Files(files)
        self.desk = Desk()
        self.seen: list[tuple[str, str, int]] = []
        given = {
            "token": TOKEN, "port": PORT,
            "hosts": frozenset({f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"[::1]:{PORT}"}),
        }  # fmt: skip
        self.app = Guard(
            make_application(self.files, self.desk, "0.0"), Access(**{**given, **access}), read_assets(),
            lambda *seen: self.seen.append(seen),
        )  # fmt: skip

    def close(self) -> None:
        self.desk.close()
        self.files.close()

    def get(self, where: str, /, **parameters: Any) -> Answer:
        """Ask the API as the page does."""
        query = {name: json.dumps(value) if isinstance(value, list) else value for name, value in parameters.items()}
        return self.ask(f"/api/v1{where}", urlencode(query), {"authorization": f"Bearer {TOKEN}"})

    def document(self, where: str, /, **parameters: Any) -> Any:
        """Return the document of an answer that must be good."""
        answer = self.get(where, **parameters)
        assert answer.status == 200, (where, answer.status, answer.body[:500])
        return answer.json

    def ask(
        self, path: str, query: str = "", headers: Mapping[str, str] | None = None, *, method: str = "GET",
        raw: Sequence[tuple[bytes, bytes]] | None = None, leave: float | None = None,
    ) -> Answer:  # fmt: skip
        """Send one request; with `leave`, close the connection after so many seconds."""
        named = {"host": f"127.0.0.1:{PORT}", **(headers or {})}
        pairs = (
            [(name.encode(), value.encode("latin-1")) for name, value in named.items()] if raw is None else list(raw)
        )
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": quote(path).encode(), "query_string": query.encode(), "root_path": "",
            "headers": pairs, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", PORT),
        }  # fmt: skip
        return asyncio.run(self._send(scope, leave))

    async def _send(self, scope: dict[str, Any], leave: float | None) -> Answer:
        sent: list[Any] = []
        requested = False

        async def receive() -> dict[str, Any]:
            nonlocal requested
            if not requested:
                requested = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await asyncio.sleep(3600 if leave is None else leave)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start = sent[0]
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


@contextmanager
def viewing(*files: Any, **access: Any) -> Iterator[Viewer]:
    viewer = Viewer([str(file) for file in files], **access)
    try:
        yield viewer
    finally:
        viewer.close()
