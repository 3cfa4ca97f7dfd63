"""The one way out: text for people, or one strict JSON document for programs. Nothing else here prints.

Whatever comes from a file is escaped on its way (`weighlock.text.safe_text`): a line of text is escaped as a whole, and
only then coloured. Colour is for terminals, and follows ``NO_COLOR``, ``FORCE_COLOR`` and ``TERM=dumb``.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final, TextIO

from weighlock.errors import WeighlockError
from weighlock.text import safe_text

__all__ = ["COLORS", "Output", "Progress", "as_json", "debugging", "written_to"]

COLORS: Final = ("auto", "always", "never")

_STYLES: Final = {"name": "1", "type": "36", "note": "2", "bad": "31", "good": "32"}

Piece = str | tuple[str, str]
"""Text, or text with the name of its style."""


class Output:
    """Where one command's result goes.

    Parameters
    ----------
    json : bool
        Write errors as JSON documents.
    color : str
        One of `COLORS`.
    stream : file object
        Standard output by default.
    quiet : bool
        Write nothing but errors.
    """

    def __init__(
        self, *, json: bool = False, color: str = "auto", stream: TextIO | None = None, quiet: bool = False
    ) -> None:
        self.json = json
        self.quiet = quiet
        self._stream = sys.stdout if stream is None else stream
        self._color = _wants_color(color, self._stream)
        reconfigure = getattr(self._stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

    def line(self, *pieces: Piece) -> None:
        """Write one line."""
        self.lines([pieces])

    def lines(self, lines: Iterable[Sequence[Piece]]) -> None:
        """Write many lines at once."""
        if not self.quiet:
            self._stream.write("".join([self._drawn(pieces) + "\n" for pieces in lines]))

    def text(self, text: str) -> None:
        """Write text of our own that has line feeds in it."""
        self.lines([line] for line in text.split("\n"))

    def _drawn(self, pieces: Sequence[Piece]) -> str:
        if not self._color:
            return safe_text("".join([piece if isinstance(piece, str) else piece[0] for piece in pieces])).rstrip(" ")
        return "".join([self._styled(piece) for piece in pieces])

    def _styled(self, piece: Piece) -> str:
        if isinstance(piece, str):
            return safe_text(piece)
        return f"\x1b[{_STYLES[piece[1]]}m{safe_text(piece[0])}\x1b[0m"

    def cells(self, rows: Iterable[Sequence[object]], *, comma: bool) -> None:
        """Write rows as CSV (`comma`: RFC 4180, safe to open in a spreadsheet), or as tab-separated values."""
        if self.quiet:
            return
        end, separator, form = ("\r\n", ",", _csv_cell) if comma else ("\n", "\t", safe_text)
        self._stream.write("".join([separator.join([form(cell) for cell in row]) + end for row in rows]))

    def document(self, document: Any) -> None:
        """Write the one JSON document of this command."""
        if not self.quiet:
            self._stream.write(as_json(document) + "\n")

    def note(self, text: str) -> None:
        """Write a remark to standard error."""
        if not self.quiet:
            note(text)

    def error(self, error: WeighlockError) -> int:
        """Say what could not be done; return the exit code for that."""
        if self.json:
            from weighlock.cli.documents import error_document

            _trace(error)
            self.document(error_document(error))
        else:
            complain(error)
        return 2

    def crash(self, error: Exception) -> int:
        """Say that we have failed ourselves."""
        what = f"internal error: {type(error).__name__}: {str(error)[:200]}"
        ours = WeighlockError(what, hint="This is a mistake of Weighlock's. --debug shows where.")
        ours.__cause__ = error
        return self.error(ours)


debugging: Final[ContextVar[bool]] = ContextVar("weighlock command debugging", default=False)
"""Whether errors are followed to where they arose."""


def _trace(error: BaseException) -> None:
    if debugging.get():
        import traceback

        Output(stream=sys.stderr).text("".join(traceback.format_exception(error)).rstrip())


def complain(error: WeighlockError) -> None:
    """Write an error to standard error: one line, and one for what to do next."""
    _trace(error)
    hint, error.hint = error.hint, None
    lines: list[Sequence[Piece]] = [("weighlock: ", str(error).replace("\n", " "))]
    if hint is not None:
        lines.append(("  hint: ", hint))
    error.hint = hint
    Output(stream=sys.stderr).lines(lines)


def note(text: str) -> None:
    """Write a remark to standard error."""
    Output(stream=sys.stderr).line(f"weighlock: {text}")


class Progress:
    """A line on standard error that says how far a long command is: on a terminal only, gone at its end."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self._total = total
        self._shown = not quiet and total > 1 and sys.stderr.isatty()
        self._done = 0

    def step(self, name: str) -> None:
        """Say that one more is done."""
        self._done += 1
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{self._done:,}/{self._total:,} {safe_text(name, limit=60)}")
            sys.stderr.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._shown and self._done:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextlib.contextmanager
def written_to(path: str | None) -> Iterator[TextIO]:
    """Give where a document goes: standard output, or a file that takes its name only when it is whole.

    Raises
    ------
    TargetError
        If the file cannot be written.
    """
    if path is None or path == "-":
        yield sys.stdout
        return
    from weighlock.storages.targets import write_file

    text = io.StringIO(newline="")
    yield text
    write_file(path, text.getvalue().encode("utf-8"))


def _wants_color(color: str, stream: TextIO) -> bool:
    if color != "auto":
        return color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _csv_cell(cell: object) -> str:
    text = safe_text(cell)
    if not isinstance(cell, int | float) and text[:1] in ("=", "+", "-", "@"):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def as_json(document: Any) -> str:
    """Return a document as strict JSON in plain ASCII, on one line.

    Lone surrogates, which not every reader of JSON accepts, are written as the text of their escape.
    """
    import json

    try:
        text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise WeighlockError(f"the result cannot be written as JSON: {error}") from error
    if "\\ud" in text:
        text = _without_lone_surrogates(text)
    return text.replace("\x7f", "\\u007f")


def _without_lone_surrogates(text: str) -> str:
    import re

    # A backslash that is itself escaped is taken in pairs, so that "\\\\ud800" stays what it is.
    pattern = r"\\\\|(\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|\\(ud[89a-f][0-9a-f]{2})"
    return re.sub(pattern, lambda found: f"\\\\{found[2]}" if found[2] else found[0], text)
