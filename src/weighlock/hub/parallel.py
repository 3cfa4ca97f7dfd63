"""One large file over several connections: ranges of it, each written where it belongs, hashed in order behind them."""

import os
import threading
from typing import Any, Final

from weighlock.errors import DownloadError, NetworkError
from weighlock.hub.download import Client
from weighlock.hub.parts import WRITE, Part

__all__ = ["fetch_ranges"]

_RANGE: Final = 16 << 20
_BLOCK: Final = 1 << 20


def fetch_ranges(client: Client, url: str, part: Part, length: int, digest: Any, progress: Any) -> bool:
    """Fetch the rest of a file in ranges; return False where the server does not keep to them.

    Parameters
    ----------
    part : Part
        Its beginning stays; its note has a strong ETag, which every range must be of.
    length : int
        Bytes of the whole file.
    digest : hash object
        Has seen the beginning, and then sees the rest in order.

    Raises
    ------
    NetworkError
        If ranges do not arrive. The beginning that did is noted.
    """
    # The file is as long as its last range from the start on, so its size no longer says how far it is whole.
    part.reached(part.size)
    work = _Ranges(client, url, part, length, progress)
    threads = [
        threading.Thread(target=work.run, name=f"weighlock-hub-range-{index}", daemon=True)
        for index in range(min(client.settings.connections, -(-(length - part.size) // _RANGE)))
    ]
    for thread in threads:
        thread.start()
    try:
        work.follow(digest)
    except BaseException:
        work.stop()
        raise
    finally:
        for thread in threads:
            thread.join()
    if work.refused:
        part.restart()
        part.note = {**part.note, "etag": None}
        return False
    return True


class _Ranges:
    def __init__(self, client: Client, url: str, part: Part, length: int, progress: Any) -> None:
        self.client, self.url, self.part, self.length, self.progress = client, url, part, length, progress
        self.begin = part.size
        self.starts = iter(range(part.size, length, _RANGE))
        self.arrived: set[int] = set()
        self.changed = threading.Condition()
        self.failure: BaseException | None = None
        self.refused = False
        self.stopped = False
        self.received = part.size

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def run(self) -> None:
        """Fetch one range after the other, until there is none left or one fails for good."""
        while True:
            with self.changed:
                start = None if self.stopped else next(self.starts, None)
            if start is None:
                return
            try:
                good = self._range(start, min(start + _RANGE, self.length))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
                with self.changed:
                    self.failure, self.stopped = self.failure or error, True
                    self.changed.notify_all()
                return
            with self.changed:
                if good:
                    self.arrived.add(start)
                else:
                    self.refused = self.stopped = True
                self.changed.notify_all()

    def _range(self, start: int, end: int) -> bool:
        attempt = 0
        at = start
        while True:
            before = at
            try:
                for at in self._received(at, end):  # noqa: B007, B020 - where the next attempt begins
                    if self.stopped:
                        return True
            except NetworkError:
                attempt = 0 if at > before else attempt + 1
                if attempt > self.client.settings.retries:
                    raise
                self.client.wait(attempt)
                continue
            return at == end

    def _received(self, at: int, end: int) -> Any:
        """Receive one range, giving the place reached after each block; nothing where the answer is another file's."""
        headers = {"Range": f"bytes={at}-{end - 1}", "If-Range": self.part.note["etag"]}
        answer = self.client.open("GET", self.url, headers)
        try:
            right = f"bytes {at}-{end - 1}/{self.length}"
            other = answer.packed or answer.header("ETag") not in (None, self.part.note["etag"])
            if answer.status != 206 or answer.header("Content-Range") != right or other:
                return
            view = memoryview(bytearray(WRITE))
            while at < end:
                count = answer.readinto(view[: end - at])
                if not count:
                    raise NetworkError("the answer ended too early", url=self.url)
                _write_at(self.part.descriptor, view[:count], at)
                at += count
                self._count(count)
                yield at
            answer.done()
        finally:
            answer.close()

    def _count(self, count: int) -> None:
        with self.changed:
            self.received += count
            self.progress(self.received, self.length)

    def follow(self, digest: Any) -> None:
        """Hash ranges in the file's order as they arrive, and note how far the file is whole."""
        for start in range(self.begin, self.length, _RANGE):
            with self.changed:
                self.changed.wait_for(lambda start=start: start in self.arrived or self.stopped)  # type: ignore[misc]
                if start not in self.arrived:
                    break
            at, end = start, min(start + _RANGE, self.length)
            while at < end:
                piece = os.pread(self.part.descriptor, min(_BLOCK, end - at), at)
                if not piece:
                    raise DownloadError("the unfinished download was cut off while it was read", path=self.part.path)
                digest.update(piece)
                at += len(piece)
            self.part.size = end
            self.part.reached(end)
        if self.failure is not None:
            os.ftruncate(self.part.descriptor, self.part.size)
            raise self.failure


def _write_at(descriptor: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        at += written
        data = data[written:]
