"""A file on a web server, of which only the ranges that are needed are fetched.

The first request asks for the file's beginning, and so learns its length, its validators (a strong ETag, else the time
of its last change) and whether the server sends ranges at all. Every later one says that it means this very file
(``If-Range``), and its answer is compared with the first: a file that changes meanwhile is an error, never a mixture. A
server that sends no ranges is asked for the whole file once, up to a bound, into a temporary file.
"""

import os
import re
import threading
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from weighlock.errors import (
    ArgumentTypeError,
    ChangedFileError,
    DownloadError,
    NetworkError,
    OfflineError,
    UnsupportedError,
    WeighlockError,
)
from weighlock.storages.connections import Advice, Answer, Connections, basic_authorization, netrc_authorization
from weighlock.storages.ranges import HEAD, RangedSource, Stretch
from weighlock.storages.source import ByteSource, FileObjectSource
from weighlock.storages.urls import shown, without_user

__all__ = ["HttpSource", "Patient", "open_http"]

_BITE: Final = 1 << 20
_IN_MEMORY: Final = 16 << 20
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")
_TRUE: Final = ("1", "y", "yes", "true", "on")


class Patient(NamedTuple):
    """What `storage_options` may say of ``http`` and ``https``.

    Attributes
    ----------
    headers : mapping of str to str
        Sent with each request to the address itself, not to where it is redirected.
    timeout : float
        Seconds without a byte.
    retries : int
        Further attempts after one that failed in a way that may pass.
    connections : int
        Requests under way at once.
    max_download : int
        Bytes that may be downloaded from a server that sends no ranges.
    """

    headers: Mapping[str, str] = {}
    timeout: float = 30.0
    retries: int = 5
    connections: int = 8
    max_download: int = 2 << 30
    backoff: float = 0.5

    @property
    def connect_timeout(self) -> float:
        """Seconds until a connection must stand."""
        return min(self.timeout, 10.0)

    @property
    def read_timeout(self) -> float:
        """Seconds without a byte."""
        return self.timeout


def _options(given: Mapping[str, Any]) -> Patient:
    try:
        return Patient(**given)
    except TypeError as error:
        known = ", ".join(Patient._fields)
        raise ArgumentTypeError("an unknown option for an http address", expected=known, got=str(error)) from error


def open_http(url: str, options: Mapping[str, Any] | None = None) -> ByteSource:
    """Open the file at an address.

    Parameters
    ----------
    url : str
    options : mapping, optional
        The fields of `Patient`.

    Raises
    ------
    DownloadError
        If it cannot be reached.
    OfflineError
        If the environment variable ``WEIGHLOCK_OFFLINE`` is set.
    UnsupportedError
        If the server sends no ranges and the file is too large to be downloaded as a whole, or packs what it sends.
    """
    if os.environ.get("WEIGHLOCK_OFFLINE", "").strip().lower() in _TRUE:
        raise OfflineError("nothing may be fetched: offline", url=shown(url), hint="WEIGHLOCK_OFFLINE=0 allows it.")
    remote = _Remote(url, _options(options or {}))
    answer = remote.ask(0, HEAD - 1)
    try:
        return _opened(remote, answer)
    except WeighlockError:
        answer.close()
        raise


def _opened(remote: "_Remote", answer: Answer) -> ByteSource:
    _refuse_packed(answer)
    if answer.status == 416:  # of an empty file no range can be had
        total = _content_range(answer)[2]
        answer.close()
        if total != 0:
            raise DownloadError("the server refuses the file's first bytes", got="HTTP status 416", url=remote.name)
        return _Downloaded(b"", remote.name)
    if answer.status == 206:
        start, end, total = _content_range(answer)
        if start == 0 and total is not None and (end or 0) < total:
            remote.note(answer)
            return HttpSource(remote, total, _body(answer, (end or 0) + 1))
        if start is not None and start > 0:
            raise _other_bytes(remote.name, answer, 0)
        answer.close()
        answer = remote.ask(None, None)
    return _download(remote, answer)


def _body(answer: Answer, count: int) -> bytes:
    """Return the bytes of an answer, or those that came before it broke off: the rest is asked for later."""
    data = bytearray()
    try:
        while len(data) < count and (more := answer.read(count - len(data))):
            data += more
    except NetworkError:
        answer.close()
    else:
        answer.done()
    return bytes(data)


def _refuse_packed(answer: Answer) -> None:
    if answer.packed:
        raise UnsupportedError(
            "the server packs the file for the transfer, so that no part of it can be had", path=answer.url,
            got=f"Content-Encoding: {answer.header('Content-Encoding')}", hint="Download it first.",
        )  # fmt: skip


class _Downloaded(FileObjectSource):
    """A file that was downloaded as a whole, because its server sends no ranges."""

    def __init__(self, data: Any, name: str) -> None:
        import io

        self._opened = io.BytesIO(data) if isinstance(data, bytes) else data
        super().__init__(self._opened)
        self.name = name

    def finish(self, end: int) -> None:
        """Nothing to do: the file is ours."""

    def close(self) -> None:
        self._opened.close()


def _download(remote: "_Remote", answer: Answer) -> ByteSource:
    """Take the whole body of an answer; of one that breaks off nothing is kept, since the next may be another file."""
    attempt = 0
    while True:
        try:
            return _downloaded(remote, answer)
        except NetworkError:
            answer.close()
            if attempt >= remote.options.retries:
                raise
        remote.connections.wait(attempt)
        attempt += 1
        answer = remote.ask(None, None)


def _downloaded(remote: "_Remote", answer: Answer) -> ByteSource:
    import tempfile

    most, length = remote.options.max_download, answer.length
    if length is not None and length > most:
        raise _too_large(remote.name, length, most)
    file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by the source
    try:
        _copy(answer, file, remote.name, most)
    except BaseException:
        file.close()
        raise
    answer.done()
    file.seek(0)
    return _Downloaded(file, remote.name)


def _copy(answer: Answer, file: Any, name: str, most: int) -> None:
    total = 0
    while data := answer.read(_BITE):
        total += len(data)
        if total > most:
            raise _too_large(name, total, most)
        file.write(data)
    if answer.length is not None and total != answer.length:
        raise NetworkError("the answer broke off", expected=f"{answer.length} bytes", got=str(total), url=name)


def _too_large(name: str, length: int, most: int) -> UnsupportedError:
    return UnsupportedError(
        "the server sends no ranges, and the whole file is too large to be downloaded unasked",
        expected=f"at most {most} bytes", got=str(length), path=name,
        hint=f"Download it first, or pass storage_options={{'max_download': {length}}}.",
    )  # fmt: skip


def _content_range(answer: Answer) -> tuple[int | None, int | None, int | None]:
    """Return the first and the last byte that an answer holds, and the file's length; None for what it does not say."""
    match = _CONTENT_RANGE.fullmatch((answer.header("Content-Range") or "").strip())
    if match is None:
        return None, None, None
    start, end, total = (int(text) if text and text != "*" else None for text in match.groups())
    return start, end, total


def _other_bytes(name: str, answer: Answer, offset: int) -> DownloadError:
    return DownloadError(
        "the server sends other bytes than were asked for", expected=f"bytes from {offset} on",
        got=answer.header("Content-Range") or "no Content-Range", url=name,
    )  # fmt: skip


class _Remote:
    """One address: asking for ranges of it, and telling whether an answer is of the file that was opened."""

    def __init__(self, url: str, options: Patient) -> None:
        parts = urlsplit(url)
        self.url = without_user(url.partition("#")[0])
        self.name = shown(url)
        self.options = options
        self.connections = Connections(options)
        self.validator: str | None = None
        self._authorization = (
            netrc_authorization(url) if parts.username is None
            else basic_authorization(unquote(parts.username), unquote(parts.password or ""))
        )  # fmt: skip
        where = "~/.netrc" if parts.username is None else "the address"
        self._sent = None if self._authorization is None else f"The name and password in {where} were"
        self._final: str | None = None
        self._etag: str | None = None
        self._modified: str | None = None
        self._length: int | None = None

    def ask(self, first: int | None, last: int | None) -> Answer:
        """Ask for a range, or for all; return the answer if it is no error, 416 excepted.

        Raises
        ------
        DownloadError
            If no answer comes, or an error.
        """
        headers: dict[str, str] = {}
        if first is not None:
            headers["Range"] = f"bytes={first}-{last}"
            if self.validator:
                headers["If-Range"] = self.validator
        final = self._final
        if final is not None:
            # Where a redirect led last time: one round trip less. Such addresses may expire.
            answer = self.connections.followed("GET", final, headers, None, None)
            if answer.status < 400 or answer.status == 416:
                return answer
            answer.close()
            self._final = None
        answer = self.connections.followed("GET", self.url, headers, None, self._authorization, self.options.headers)
        if answer.status >= 400 and answer.status != 416:
            raise self.connections.failed(answer, self._advice())
        if answer.hops:
            self._final = answer.url
        return answer

    def _advice(self) -> Advice:
        if self._sent is not None:
            return Advice(f"{self._sent} refused: check them.")
        if any(name.lower() == "authorization" for name in self.options.headers):
            return Advice("The Authorization in storage_options['headers'] was refused: check it.")
        return Advice(
            "If it is private: give https://USER:PASSWORD@host/..., an entry in ~/.netrc, or storage_options="
            "{'headers': {'Authorization': ...}}."
        )  # fmt: skip

    def note(self, answer: Answer) -> None:
        """Take the first answer for the file that is meant."""
        self._etag, self._modified = answer.header("ETag"), answer.header("Last-Modified")
        self._length = _content_range(answer)[2]
        strong = self._etag if self._etag and not self._etag.startswith("W/") else None
        self.validator = strong or (self._modified if not self._etag else None)

    def check(self, answer: Answer, offset: int) -> int:
        """Return how many bytes an answer holds from `offset` on.

        Raises
        ------
        ChangedFileError
            If it is of another file than the first answer.
        DownloadError
            If it holds other bytes.
        """
        start, end, total = _content_range(answer)
        etag, modified = answer.header("ETag"), answer.header("Last-Modified")
        same_etag = etag is None or self._etag is None or _opaque(etag) == _opaque(self._etag)
        same_time = self._etag is not None or modified is None or self._modified in (None, modified)
        same_length = total is None or total == self._length
        if answer.status == 416 or not (same_etag and same_time and same_length):
            raise self._changed(
                f"length {self._length}, {self._etag or self._modified}", f"{total}, {etag or modified}"
            )
        if answer.status != 206:
            told = self._etag is None or etag is not None, self._modified is None or modified is not None
            if answer.length == self._length and (self.validator is None or all(told)):
                raise DownloadError(
                    "the server has stopped sending ranges", got=f"HTTP status {answer.status}", url=self.name,
                    hint="Download the file first.",
                )  # fmt: skip
            raise self._changed("a range of the same file", f"HTTP status {answer.status}")
        if start != offset or end is None:
            raise _other_bytes(self.name, answer, offset)
        _refuse_packed(answer)
        return end + 1 - offset

    def _changed(self, expected: str, got: str) -> ChangedFileError:
        return ChangedFileError(
            "the file has changed since it was opened", expected=expected, got=got, path=self.name,
            hint="Open it again.",
        )  # fmt: skip


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/")


class HttpSource(RangedSource):
    """A file on a web server that sends ranges.

    Parameters
    ----------
    remote : _Remote
    size : int
    head : bytes
        Its first bytes, which came with the first answer.
    """

    def __init__(self, remote: _Remote, size: int, head: bytes) -> None:
        super().__init__(remote.name, remote.options.connections)
        self.size = size
        self._remote = remote
        self._waiting = threading.Lock()
        self.keep(0, head)

    def fetch(self, stretch: Stretch) -> None:
        """Fetch one stretch; an answer that breaks off is continued where it broke off."""
        sink = _Sink(stretch)
        attempt = 0
        while not sink.full:
            before = sink.offset
            try:
                self._fetch_some(sink, stretch.end)
            except NetworkError:
                attempt = 0 if sink.offset > before else attempt + 1
                if attempt > self._remote.options.retries:
                    raise
                self._remote.connections.wait(attempt)

    def _fetch_some(self, sink: "_Sink", end: int) -> None:
        answer = self._remote.ask(sink.offset, end - 1)
        try:
            left = min(self._remote.check(answer, sink.offset), end - sink.offset)
            while left:
                got = sink.take(answer, left)
                if not got:
                    raise NetworkError("the answer broke off", expected=f"{left} more bytes", url=self.name)
                left -= got
            answer.done()
        finally:
            answer.close()


class _Sink:
    """Where the bytes of a stretch go: its targets one after the other, what nobody wants to the side."""

    def __init__(self, stretch: Stretch) -> None:
        self.offset = stretch.offset
        self._targets = iter(stretch.targets)
        self._left = 0
        self._view: memoryview | None = None
        self._next()

    @property
    def full(self) -> bool:
        """Whether all bytes are there."""
        return self._left == 0

    def _next(self) -> None:
        while self._left == 0:
            step = next(self._targets, None)
            if step is None:
                return
            self._left, self._view = step

    def take(self, answer: Answer, most: int) -> int:
        """Read on; return how many bytes came, 0 at the answer's end."""
        count = min(self._left, most, _BITE)
        if self._view is None:
            got = len(answer.read(count))
        else:
            got = answer.readinto(self._view[:count])
            self._view = self._view[got:]
        self._left -= got
        self.offset += got
        self._next()
        return got
