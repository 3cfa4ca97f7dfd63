"""The web server around the viewer: where it listens, what it says, when it ends."""

import asyncio
import gc
import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from weighlock.errors import ArgumentError, SourceError
from weighlock.text import safe_text
from weighlock.viewer.application import make_application
from weighlock.viewer.bounds import HEAD_SECONDS, MOST_CONNECTIONS
from weighlock.viewer.guarding import Access, Guard
from weighlock.viewer.jobs import Desk
from weighlock.viewer.looking.holding import Files
from weighlock.viewer.looking.outline import outline_of
from weighlock.viewer.looking.overview import describe_file
from weighlock.viewer.statics import read_assets

__all__ = ["Settings", "serve"]

_TOKEN_BYTES: Final = 32
_ENDING: Final = tuple(int(getattr(signal, name)) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Settings(NamedTuple):
    """How the viewer runs.

    Attributes
    ----------
    host : str
        Where it listens.
    port : int
        0 for any that is free.
    exposed : bool
        Whether other machines may reach it.
    base_url : str
        The address under which a proxy offers it; ``""`` without one.
    hosts : sequence of str
        More names that the Host header may have.
    idle : float
        Seconds without a request after which it ends; 0 for never.
    log : bool
        Write a line for each request to standard error.
    """

    host: str = "127.0.0.1"
    port: int = 0
    exposed: bool = False
    base_url: str = ""
    hosts: Sequence[str] = ()
    idle: float = 0.0
    log: bool = False
    encoding: str = "utf-8"
    version: str = ""


def serve(given: Sequence[str], settings: Settings, started: Callable[[str], object]) -> str:
    """Serve until it is interrupted, or nobody has asked for long; return why it ended.

    Parameters
    ----------
    given : sequence of str
        Paths and addresses.
    settings : Settings
    started : callable
        Called with the address of the page, once it answers.

    Raises
    ------
    ArgumentError
        If it would listen where other machines can reach it, and that was not asked for.
    SourceError
        If the port cannot be had.
    """
    sock = _listen(settings)
    port: int = sock.getsockname()[1]
    access, url = _access(settings, port)
    files, desk = Files(given, settings.encoding), Desk()
    clock = _Clock(settings, desk)
    guard = Guard(make_application(files, desk, settings.version, settings.idle), access, read_assets(), clock.seen)
    config = uvicorn.Config(
        guard, log_config=None, log_level="critical", access_log=False, proxy_headers=False, server_header=False,
        date_header=False, ws="none", http=_Protocol, loop="asyncio", lifespan="off", timeout_keep_alive=30,
        limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=1, h11_max_incomplete_event_size=32 << 10,
    )  # fmt: skip
    gc.enable()  # a command that ends soon has it off

    def begun() -> None:
        started(url)
        if os.path.isfile(given[0]):  # what is remote is fetched when somebody looks; a pipe may never come
            desk.prepare(lambda: (outline_of(files.all[0]), describe_file(files.all[0])))

    server = _Server(config, clock, begun, desk)
    try:
        with _tidy_end(server):
            server.run(sockets=[sock])
    finally:
        desk.close()
        files.close()
        sock.close()
    return "idle" if clock.ended else "stopped"


@contextmanager
def _tidy_end(server: uvicorn.Server) -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the server, not the process: what is temporary would stay, a file with the token.

    uvicorn takes the first itself while it runs, and raises it once more at its end; of the second, which comes when a
    terminal is closed, it does not know.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        server.should_exit = True

    kinds = [kind for kind in map(signal.Signals, _ENDING) if signal.getsignal(kind) is not signal.SIG_IGN]
    before = {kind: signal.signal(kind, end) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _listen(settings: Settings) -> socket.socket:
    """Return a socket that listens."""
    if not settings.exposed and not _is_loopback(settings.host):
        raise ArgumentError(
            "other machines could read your files there", got=settings.host, expected="127.0.0.1, ::1 or localhost",
            hint="Forward a port instead (ssh -L), or add --i-know-this-exposes-files.",
        )  # fmt: skip
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let another program listen on the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, settings.port))
        sock.listen(128)
    except (OSError, UnicodeError, OverflowError) as error:
        sock.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = "Another program has that port. Without --port a free one is taken." if settings.port else None
        raise SourceError(
            f"the viewer cannot listen on {safe_text(host)} port {settings.port}: {reason}", hint=hint
        ) from error
    return sock


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _access(settings: Settings, port: int) -> tuple[Access, str]:
    """Return who may ask, and the address of the page."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    names = {"127.0.0.1", "localhost", "[::1]"}
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    hosts = {f"{name}:{port}" for name in names | {own}}
    if port == 80:
        hosts |= names | {own}
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "localhost") else "[::1]" if settings.host == "::" else own  # noqa: S104
    url, base = f"http://{shown}:{port}", ""
    if settings.base_url:
        parts = urlsplit(settings.base_url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.netloc
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
        ):
            raise ArgumentError(
                "--base-url is the address under which a proxy offers the viewer", got=settings.base_url[:80],
                expected="https://hub.example.org/user/ada/proxy/8123",
            )  # fmt: skip
        base = parts.path.rstrip("/")
        url = f"{parts.scheme}://{parts.netloc}{base}"
        hosts.add(parts.netloc.lower())
    hosts |= {name.lower() for name in settings.hosts}
    return Access(token, frozenset(hosts), port, settings.exposed, base), f"{url}/#token={token}"


class _Clock:
    """Notes each request, and tells when there was none for long."""

    def __init__(self, settings: Settings, desk: Desk) -> None:
        self._idle = settings.idle
        self._log = settings.log
        self._desk = desk
        self._last = time.monotonic()
        self.ended = False

    def seen(self, method: str, path: str, status: int) -> None:
        """Note a request; its query and its headers are written nowhere."""
        self._last = time.monotonic()
        if not self._log:
            return
        with suppress(Exception):  # a terminal that was closed must not cost the answer
            sys.stderr.write(f"weighlock: {safe_text(method, limit=20)} {safe_text(path, limit=200)} {status}\n")

    async def watch(self, server: uvicorn.Server) -> None:
        """End the server when nobody has asked for long, and nothing is worked on."""
        while self._idle and not server.should_exit:
            await asyncio.sleep(min(1.0, self._idle / 4))
            if self._desk.working:
                self._last = time.monotonic()
            if time.monotonic() - self._last >= self._idle:
                self.ended = server.should_exit = True


class _Protocol(H11Protocol):
    """A connection that is closed where no whole request comes: uvicorn waits for ever, and takes only so many.

    Any user of the machine could shut the owner out with idle connections, for these need no token.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._before: Any = self
        self._look = self.loop.call_later(HEAD_SECONDS, self._look_after)

    def _look_after(self) -> None:
        cycle: Any = self.cycle  # None before the first request, which its type does not say
        waits = (cycle is None or cycle.response_complete) and self.timeout_keep_alive_task is None
        if waits and self._before is cycle:
            self.transport.close()
            return
        self._before = cycle if waits else self
        self._look = self.loop.call_later(HEAD_SECONDS, self._look_after)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it answers, and lets go of all work when it ends."""

    def __init__(self, config: uvicorn.Config, clock: _Clock, started: Callable[[], object], desk: Desk) -> None:
        super().__init__(config)
        self._clock = clock
        self._started = started
        self._desk = desk
        self._watch: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._watch = asyncio.ensure_future(self._clock.watch(self))
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._desk.close()
        if self._watch is not None:
            self._watch.cancel()
        await super().shutdown(sockets)
