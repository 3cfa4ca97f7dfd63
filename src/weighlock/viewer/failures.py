"""Errors as answers: which status each has, and the document that the page shows."""

from typing import Any, Final

from weighlock.errors import (
    ArgumentError,
    ChangedFileError,
    CheckpointError,
    DownloadError,
    LimitError,
    MissingDependencyError,
    MissingKeyError,
    SourceError,
    UnsupportedError,
    WeighlockError,
)
from weighlock.text import safe_text

__all__ = [
    "AbandonedError", "BusyError", "NoSuchThingError", "StaleError", "error_document", "failure_document", "may_pass",
    "status_of",
]  # fmt: skip


class NoSuchThingError(ArgumentError):
    """There is no such file, tensor or place."""


class StaleError(ChangedFileError):
    """The page asks of a generation of a file that is no more: it was opened anew."""


class BusyError(WeighlockError):
    """Too much is being worked on already."""


class AbandonedError(Exception):
    """Nobody waits for the answer any more. Not a `WeighlockError`: no result may hold it."""


# The first that fits decides.
_STATUSES: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (NoSuchThingError, 404),
    (MissingKeyError, 404),
    (BusyError, 503),
    (ChangedFileError, 409),
    (LimitError, 422),
    (UnsupportedError, 422),
    (ArgumentError, 400),
    (CheckpointError, 422),
    (SourceError, 503),
    (DownloadError, 503),
    (MissingDependencyError, 422),
    (WeighlockError, 422),
)


def status_of(error: BaseException) -> int:
    """Return the HTTP status for an error; 500 for what is no error of ours."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def may_pass(error: BaseException) -> bool:
    """Whether another attempt may do better: what could not be reached may be there again, what is damaged stays so."""
    return isinstance(error, SourceError | DownloadError)


def failure_document(error: WeighlockError) -> dict[str, Any]:
    """Return what an error says, escaped: its message names what stands in a file."""
    hint, error.hint = error.hint, None
    message = str(error)
    error.hint = hint
    return {
        "type": type(error).__name__,
        "message": safe_text(message, limit=2000),
        "next": None if hint is None else safe_text(hint, limit=2000),
    }


def error_document(error: BaseException) -> dict[str, Any]:
    """Return the document of an answer that is an error."""
    if isinstance(error, WeighlockError):
        return {"error": failure_document(error)}
    what = f"internal error: {type(error).__name__}: {safe_text(error, limit=200)}"
    return {"error": {"type": "InternalError", "message": what, "next": "The terminal of the viewer says where."}}
