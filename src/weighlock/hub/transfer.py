"""One file from one URL: resumed, hashed on the way, checked against everything that is known of it, then published.

What can be known: the length that the server gives, the digest that a server declares (`digests`), the size and
SHA-256 of the lock file, the hash in the file's name. A body that ends too early is never a file.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from weighlock.errors import DownloadError, HashMismatchError, NetworkError, NotWeightsError, StatusError
from weighlock.hub.digests import asset_sha256, declared_sha256
from weighlock.hub.directories import free_bytes
from weighlock.hub.download import Answer, Client, count_of
from weighlock.hub.fetched import Expected, Fetched, Progress
from weighlock.hub.parts import Part, orphans, usable

__all__ = ["fetch_file"]

_BLOCK: Final = 1 << 20
_BLOCKS: Final = 6
_TRIAL: Final = 1.0
_TRIAL_BYTES: Final = 32 << 20
"""Seconds and bytes after which one connection has shown how fast it is."""
_FAST: Final = 200e6
"""Bytes a second."""
_PIECE: Final = 1 << 17
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\Z")
_PAGE: Final = re.compile(rb"<(?:!doctype|!--|\?xml|[a-z][a-z0-9]*[\s>/])")


def fetch_file(client: Client, url: str, target: str, expected: Expected, progress: Progress | None = None) -> Fetched:
    """Fetch a URL into a file, which is there whole or not at all.

    Parameters
    ----------
    target : str
        Is replaced if it is there. Its folder must exist.

    Raises
    ------
    DownloadError
        If the bytes do not arrive, or are none that were asked for.
    HashMismatchError
        If they are not what was expected.
    OSError
        If they cannot be written.
    """
    part = Part(target, url)
    keep = True
    try:
        for orphan in list(orphans(target, url)):
            if part.size == 0 and usable(orphan.note):
                part.take_over(orphan)
            orphan.remove()
        result = _Transfer(client, url, part, expected, progress).run()
        result = _published(part, result, expected)
    except (NetworkError, KeyboardInterrupt, StatusError):
        raise
    except BaseException:
        keep = False
        raise
    else:
        return result
    finally:
        part.close(keep=keep)


def _published(part: Part, result: Fetched, expected: Expected) -> Fetched:
    """Give a file its name: where that must be free, and another file has taken it meanwhile, the other name."""
    if expected.otherwise is not None:
        try:
            if not os.path.lexists(part.target):
                expected.announce(result, part.path, part.target)
                part.publish(replace=False)
                return result
        except FileExistsError:
            pass
        part.target = expected.otherwise
    result = dataclasses.replace(result, path=part.target)
    expected.announce(result, part.path, part.target)
    part.publish()
    return result


class _Transfer:
    def __init__(self, client: Client, url: str, part: Part, expected: Expected, progress: Progress | None) -> None:
        self.client, self.url, self.part, self.expected = client, url, part, expected
        self.progress = progress or (lambda done, total: None)
        self.hash = hashlib.sha256()
        self.declared: str | None = None
        self.length: int | None = None

    def run(self) -> Fetched:
        if self.part.size:
            self._hash_what_is_there()
        attempt = 0
        while True:
            before = self.part.size
            try:
                if self._attempt():
                    break
            except NetworkError:
                attempt = 0 if self.part.size > before else attempt + 1
                if attempt > self.client.settings.retries:
                    raise
                self.client.wait(attempt)
            else:
                attempt += 1
                if attempt > self.client.settings.retries + 1:
                    raise NetworkError("the server answers differently each time", url=self.url)
        return self._checked()

    def _hash_what_is_there(self) -> None:
        for piece in _pieces(self.part.descriptor, self.part.size):
            self.hash.update(piece)

    def _restart(self) -> None:
        self.part.restart()
        self.hash = hashlib.sha256()

    def _attempt(self) -> bool:
        """Ask once; return whether the file is whole."""
        answer = self._ask()
        if answer is None:
            return self.length is not None and self.part.size == self.length
        try:
            if not self._fits(answer):
                return False
            self._note(answer)
            if self.expected.weights and self.part.size == 0:
                _refuse_page(answer)
            self._check_space()
            if not self._read(answer, stop_if_slow=self._may_divide(answer)):
                answer.close()
                return self._in_parallel()
            answer.done()
        finally:
            answer.close()
        if self.length is not None and self.part.size < self.length:
            raise NetworkError(
                "the answer ended too early",
                expected=f"{self.length} bytes",
                got=f"{self.part.size} bytes",
                url=self.url,
            )
        return True

    def _ask(self) -> Answer | None:
        """Send the request for what is missing; None where nothing is, or what is there cannot be continued."""
        headers = {}
        validator = self.part.note.get("etag") or self.part.note.get("modified")
        if self.part.size and not validator:
            self._restart()
        elif self.part.size:
            headers = {"Range": f"bytes={self.part.size}-", "If-Range": str(validator)}
        try:
            return self.client.open("GET", self.url, headers)
        except StatusError as error:
            if error.status != 416 or not self.part.size:
                raise
            self.length = self.part.note.get("length")
            if self.part.size != self.length:
                self._restart()
            return None

    def _fits(self, answer: Answer) -> bool:
        """Whether an answer continues what is there, or begins anew; False where it does neither."""
        if answer.status != 206:
            if self.part.size:
                self._restart()
            if answer.end_is_unseen:
                raise NetworkError("the answer is packed, and does not say how long it is", url=self.url)
            self.length = answer.length
            return True
        found = _CONTENT_RANGE.match(answer.header("Content-Range") or "")
        length = self._length_of(answer, found[3]) if found else None
        if found is None or answer.packed or int(found[1]) != self.part.size or length is None:
            self._restart()
            return False
        self.length = length
        return True

    def _length_of(self, answer: Answer, total: str) -> int | None:
        """Return the length of the file that a part is of; None where it is not the one whose beginning is there.

        That cannot be left to If-Range: there are servers that do not know it.
        """
        note: dict[str, Any] = self.part.note if self.part.size else {}
        for name, header in (("etag", "ETag"), ("modified", "Last-Modified")):
            if note.get(name) is not None and answer.header(header) not in (None, note[name]):
                return None
        known = note.get("length")
        length = known if total == "*" else int(total)
        return length if known in (None, length) else None

    def _note(self, answer: Answer) -> None:
        etag = answer.header("ETag")
        strong = etag if etag and not etag.startswith("W/") and not answer.packed else None
        modified = None if answer.packed else answer.header("Last-Modified")
        if answer.status == 200:
            self.part.describe(etag=strong, modified=modified, length=self.length)
        self.declared = declared_sha256(answer) or self.declared
        wanted = self.expected.size
        linked = [size for hop in answer.hops if (size := count_of(hop.get("X-Linked-Size"))) is not None]
        if wanted is None and linked:
            wanted = linked[0]
        if wanted is not None and self.length is not None and wanted != self.length:
            raise HashMismatchError(
                "the file has another size", expected=f"{wanted} bytes", got=f"{self.length} bytes", url=self.url
            )

    def _check_space(self) -> None:
        free = free_bytes(os.path.dirname(self.part.target))
        if self.length is None or free is None:
            return
        missing = self.length - self.part.size - free
        if missing > 0:
            raise DownloadError(
                f"the disk has {missing:,} bytes too few for this file",
                path=os.path.dirname(self.part.target),
                url=self.url,
            )

    def _may_divide(self, answer: Answer) -> bool:
        """Whether the file is large and the server can send parts of one version of it."""
        settings = self.client.settings
        large = self.length is not None and self.length - self.part.size >= settings.parallel_from
        can = answer.status == 206 or (answer.header("Accept-Ranges") or "").lower() == "bytes"
        return bool(large and can and self.part.note.get("etag") and settings.connections > 1)

    def _in_parallel(self) -> bool:
        """Fetch the rest over several connections; False, and nothing there, where the server ignores ranges."""
        from weighlock.hub.parallel import fetch_ranges

        length = self.length or 0
        if fetch_ranges(self.client, self.url, self.part, length, self.hash, self.progress):
            return True
        self._restart()
        return False

    def _read(self, answer: Answer, *, stop_if_slow: bool) -> bool:
        """Read the body: one thread receives, another hashes and writes. Return False where it stopped as too slow.

        One connection that is as fast as the hash gains nothing from others: they are opened where it is slower.
        """
        done = begin = self.part.size
        started = time.monotonic()
        with _writer(self.part, self.hash) as (take, put):
            while True:
                block = take()
                count, failure = _filled(answer, memoryview(block))
                if not count:
                    if failure is not None:
                        raise failure
                    return True
                if done == 0 and self.expected.weights:
                    _refuse_page_text(bytes(block[: min(count, 1024)]), self.url)
                if self.length is not None and done + count > self.length:
                    raise NetworkError(
                        "the answer is longer than it says", expected=f"{self.length} bytes", url=self.url
                    )
                put(block, count)
                done += count
                self.progress(done, self.length)
                if failure is not None:
                    raise failure
                taken = time.monotonic() - started
                if stop_if_slow and (taken > _TRIAL or done - begin >= _TRIAL_BYTES):
                    if done - begin < _FAST * taken:
                        return False
                    stop_if_slow = False

    def _checked(self) -> Fetched:
        digest = self.hash.hexdigest()
        size = self.part.size
        if self.expected.size is not None and size != self.expected.size:
            raise HashMismatchError("the file has another size", expected=f"{self.expected.size} bytes",
                                    got=f"{size} bytes", url=self.url)  # fmt: skip
        prefix = self.expected.prefix
        if prefix is not None and digest[: len(prefix)] != prefix.lower():
            raise HashMismatchError(f'invalid hash value (expected "{prefix}", got "{digest}")', url=self.url)
        if self.declared is None and (prefix is None or len(prefix) < 64):
            self.declared = asset_sha256(self.client, self.url)
        if self.declared is not None and digest != self.declared:
            raise HashMismatchError("the file is not what the server declares", expected=self.declared, got=digest,
                                    url=self.url)  # fmt: skip
        note = self.part.note
        return Fetched(digest, size, note.get("etag"), note.get("modified"), self.declared, self.part.target)


def _filled(answer: Answer, view: memoryview) -> tuple[int, NetworkError | None]:
    """Fill memory from a body; return how much of it, and why it is not more if the body broke off.

    In pieces, since what a single read had when it broke off is lost.
    """
    at = 0
    while at < len(view):
        try:
            count = answer.readinto(view[at : at + _PIECE])
        except NetworkError as error:
            return at, error
        if not count:
            break
        at += count
    return at, None


_Writer = tuple[Callable[[], bytearray], Callable[[bytearray, int], None]]


@contextlib.contextmanager
def _writer(part: Part, digest: Any) -> Iterator[_Writer]:
    """Hash and write in a thread of its own; what fails there is raised here.

    Gives two functions: one for an empty block, one for handing it over with the bytes that are in it. There are a few
    blocks, used again and again: new memory for each would cost as much as the hash.
    """
    import queue

    empty: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
    failures: list[BaseException] = []
    for _ in range(_BLOCKS):
        empty.put(bytearray(_BLOCK))

    def work() -> None:
        while (item := full.get()) is not None:
            block, count = item
            try:
                if not failures:
                    part.write(memoryview(block)[:count])
                    digest.update(memoryview(block)[:count])
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
                failures.append(error)
            empty.put(block)

    def put(block: bytearray, count: int) -> None:
        if failures:
            raise failures[0]
        full.put((block, count))

    thread = threading.Thread(target=work, name="weighlock-hub-writer", daemon=True)
    thread.start()
    try:
        yield empty.get, put
    finally:
        full.put(None)
        thread.join()
    if failures:
        raise failures[0]


def _pieces(descriptor: int, size: int) -> Iterator[bytes]:
    at = 0
    while at < size:
        piece = os.pread(descriptor, min(_BLOCK, size - at), at)
        if not piece:
            raise DownloadError("the unfinished download was cut off while it was read")
        at += len(piece)
        yield piece


def _refuse_page(answer: Answer) -> None:
    kind = (answer.header("Content-Type") or "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise NotWeightsError("the server sent a web page, not weights", url=answer.url, hint=_page_hint(answer.url))


def _refuse_page_text(start: bytes, url: str) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        start = start[:512].decode("utf-16", "replace").encode()
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if _PAGE.match(text) and b"\0" not in text[:64]:  # the length of a safetensors header could begin alike
        raise NotWeightsError("the server sent a web page, not weights", url=url, hint=_page_hint(url))
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        raise NotWeightsError(
            "the server sent a Git LFS pointer, not the weights that it stands for",
            url=url,
            hint="The host has the file itself under another address (media, resolve, raw).",
        )


def _page_hint(url: str) -> str:
    if "/blob/" in url:
        return f"The file itself is at {url.replace('/blob/', '/raw/', 1)} (at Hugging Face: /resolve/)."
    if "drive.google.com" in url:
        return "Google Drive asks for a confirmation before large files: host them elsewhere, or fetch them by hand."
    return "Is it the address of a page about the file, or does the site ask to sign in?"
