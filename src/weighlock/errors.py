"""Every exception that Weighlock raises, in one tree.

Each class derives from `WeighlockError` and from the builtin that callers of torch, NumPy and the standard
library already catch in that situation::

    WeighlockError
    ├── SourceError (OSError)                    the bytes cannot be reached
    │   ├── MissingFileError (FileNotFoundError)
    │   └── ChangedFileError                     the file changed while it was open
    ├── CheckpointError (RuntimeError)           the bytes are there, but cannot be read as asked
    │   ├── NotACheckpointError (UnpicklingError)  some other kind of file: a web page, a Git LFS pointer ...
    │   ├── DamagedError                         a checkpoint that is not whole or contradicts itself
    │   │   ├── TruncatedError (EOFError)        bytes are missing at the end
    │   │   ├── ChecksumError                    bytes are not the ones that were written
    │   │   ├── DirectoryError                   the archive's directory cannot be believed
    │   │   └── TensorBoundsError                a tensor reaches outside its storage, or a record has another size
    │   ├── PickleStreamError (UnpicklingError)  the pickle inside is malformed
    │   │   ├── TruncatedPickleError (TruncatedError)  it ends inside of an instruction
    │   │   └── UnsafeGlobalError                it names globals that are neither known data nor allowed by the user
    │   ├── LimitError                           reading it would exceed `weighlock.Limits`
    │   └── UnsupportedError (NotImplementedError)  valid, but outside of what this call can do
    │       └── ScriptArchiveError               a TorchScript program where only data were asked for
    ├── DeviceError (RuntimeError)               a location that the framework does not have
    ├── SaveError (RuntimeError)                 the object or the target cannot be written
    │   ├── TargetError (OSError)                the target cannot be opened or written
    │   │   └── MissingFolderError (FileNotFoundError)
    │   └── UnsupportedTypeError (TypeError)     PyTorch has no form for this object
    ├── StateDictError (ValueError)              a state_dict that cannot be drawn, loaded or changed as asked
    │   └── StateDictMismatchError (RuntimeError)  its keys or shapes are not those of the object
    ├── ArgumentError (ValueError)               a parameter's value makes no sense
    │   ├── ConflictError (RuntimeError)         two parameters exclude each other
    │   ├── ArgumentTypeError (TypeError)
    │   ├── MissingKeyError (KeyError)           nothing in the file has this key
    │   └── OutOfRangeError (IndexError)         an index outside of a tensor
    ├── HubError (RuntimeError)                  a repository or a download that cannot be had as asked
    │   ├── RepositoryNameError (ValueError)     the text names no repository
    │   ├── NotInRepositoryError (ValueError)    there is no such repository, branch, tag or commit
    │   ├── ArchiveError (ValueError)            an archive that is unsafe, or not what it should be
    │   ├── UntrustedRepositoryError             code that nobody has said to trust
    │   ├── EntryPointError                      hubconf has no such entry point, or it cannot be run here
    │   │   └── MissingPackagesError (ImportError)  packages that the repository needs are not installed
    │   ├── ReadOnlyCacheError (PermissionError) what is not in the cache cannot be put there
    │   ├── PinError                             not what the lock file says, or not in it
    │   ├── HashMismatchError                    bytes with another digest than was asked for
    │   └── DownloadError (OSError)              the bytes did not arrive
    │       ├── OfflineError                     nothing may be fetched, and the cache does not have it
    │       ├── NetworkError (ConnectionError)   no answer, or one that broke off
    │       ├── StatusError                      the server answered, but with an error
    │       │   ├── RateLimitError               the server asks to wait
    │       │   └── AuthenticationError (PermissionError)  a token is wrong, missing or not enough
    │       └── NotWeightsError                  a page or something else where weights were asked for
    └── MissingDependencyError (ImportError)     an optional package is not installed

A message says what happened, what was expected and what was found, where (file, record, byte offset, object
path) and what to do next; the same facts are attributes, for programs.
"""

from _pickle import UnpicklingError  # The exception type alone: the module `pickle` is never loaded for it.
from typing import Any, Final, Self

from weighlock.text import safe_text

__all__ = [
    "ArchiveError",
    "ArgumentError",
    "ArgumentTypeError",
    "AuthenticationError",
    "ChangedFileError",
    "CheckpointError",
    "ChecksumError",
    "ConflictError",
    "DamagedError",
    "DeviceError",
    "DirectoryError",
    "DownloadError",
    "EntryPointError",
    "HashMismatchError",
    "HubError",
    "LimitError",
    "MissingDependencyError",
    "MissingFileError",
    "MissingFolderError",
    "MissingKeyError",
    "MissingPackagesError",
    "NetworkError",
    "NotACheckpointError",
    "NotInRepositoryError",
    "NotWeightsError",
    "OfflineError",
    "OutOfRangeError",
    "PickleStreamError",
    "PinError",
    "RateLimitError",
    "ReadOnlyCacheError",
    "RepositoryNameError",
    "SaveError",
    "ScriptArchiveError",
    "SourceError",
    "StateDictError",
    "StateDictMismatchError",
    "StatusError",
    "TargetError",
    "TensorBoundsError",
    "TruncatedError",
    "TruncatedPickleError",
    "UnsafeGlobalError",
    "UnsupportedError",
    "UnsupportedTypeError",
    "UntrustedRepositoryError",
    "WeighlockError",
]


SALVAGE: Final = "`weighlock verify` says where it is damaged, `weighlock salvage` saves what is whole."
"""What else can be done about a damaged file than to get it again."""


class WeighlockError(Exception):
    """The base of every error that Weighlock raises.

    Parameters
    ----------
    what : str
        What happened, as a clause without a full stop.
    **facts
        Any of `expected`, `got`, `path`, `record`, `offset` (bytes from the start of the record, or of the file
        where there is no record), `object_path`, and `hint` (what to do next, as a sentence).

    Examples
    --------
    >>> error = WeighlockError("the record is short", expected="64 bytes", got="60 bytes", record="data/0")
    >>> str(error)
    'the record is short: expected 64 bytes, got 60 bytes (record data/0)'
    """

    FACTS: tuple[str, ...] = ("expected", "got", "path", "record", "offset", "object_path", "hint")

    expected: str | None = None
    got: str | None = None
    path: str | None = None
    record: str | None = None
    offset: int | None = None
    object_path: str | None = None
    hint: str | None = None

    def __init__(self, what: str = "", **facts: Any) -> None:
        super().__init__(what)
        self.what = what
        for name, value in facts.items():
            if name not in self.FACTS:
                raise TypeError(f"{type(self).__name__} has no fact called {name!r}")
            if value is not None:
                setattr(self, name, value)

    def locate(self, **facts: Any) -> "WeighlockError":
        """Add facts that an outer caller knows (such as the file's path) where they are still missing."""
        for name, value in facts.items():
            if getattr(self, name) is None and value is not None:
                setattr(self, name, value)
        return self

    def caused_by(self, error: OSError) -> Self:
        """Take over the number and the file name of the system's own error, which programs look at (`errno`)."""
        for name in ("errno", "strerror", "filename"):
            setattr(self, name, getattr(error, name))
        return self

    def _where(self) -> str:
        parts = []
        url = getattr(self, "url", None)
        if url is not None:
            parts.append(safe_text(url))
        if self.path is not None:
            parts.append(safe_text(self.path))
        if self.record is not None:
            parts.append(f"record {safe_text(self.record)}")
        if self.offset is not None:
            parts.append(f"byte {self.offset}")
        if self.object_path is not None:
            parts.append(f"object {safe_text(self.object_path)}")
        return ", ".join(parts)

    def __str__(self) -> str:
        text = safe_text(self.what, keep_newlines=True)
        got_and_expected = [
            f"{label} {safe_text(value)}" for label, value in (("expected", self.expected), ("got", self.got)) if value
        ]
        if got_and_expected:
            text += ": " + ", ".join(got_and_expected)
        where = self._where()
        if where:
            text += f" ({where})"
        if self.hint is not None:
            text += f". {safe_text(self.hint, keep_newlines=True)}"
        return text


class SourceError(WeighlockError, OSError):
    """The bytes cannot be reached: no permission, not seekable, the disk failed."""


class MissingFileError(SourceError, FileNotFoundError):
    """There is no such file."""


class ChangedFileError(SourceError):
    """The file is not the one any more that was opened: what was read of it does not fit what would be read now."""


class CheckpointError(WeighlockError, RuntimeError):
    """The bytes were reached, but cannot be read as asked."""


class NotACheckpointError(CheckpointError, UnpicklingError):
    """The file is of some other kind; `kind` names it where it was recognised (``"html"``, ``"git-lfs"`` ...)."""

    FACTS = (*CheckpointError.FACTS, "kind")
    kind: str | None = None


class DamagedError(CheckpointError):
    """The file is a checkpoint that is not whole or that contradicts itself."""


class TruncatedError(DamagedError, EOFError):
    """Bytes are missing at the end of the file."""


class ChecksumError(DamagedError):
    """A record's bytes are not the ones that were written: its CRC-32 differs."""

    hint = SALVAGE


class DirectoryError(DamagedError):
    """The archive's directory cannot be believed: duplicate, overlapping or contradicting entries."""

    hint = SALVAGE


class TensorBoundsError(DamagedError):
    """A tensor reaches outside its storage, or a record has another size than its tensor needs."""


class PickleStreamError(CheckpointError, UnpicklingError):
    """The pickle inside the file is malformed, or does what no checkpoint does."""


class TruncatedPickleError(PickleStreamError, TruncatedError):
    """The pickle ends inside of an instruction."""


class UnsafeGlobalError(PickleStreamError):
    """The file names globals that are neither known data nor allowed by the user.

    Attributes
    ----------
    globals : dict of str to tuple of str
        The full name of each such global, with the object paths where it stands.
    """

    FACTS = (*PickleStreamError.FACTS, "globals")
    globals: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - a class default that is only ever replaced.


class LimitError(CheckpointError):
    """Reading the file would exceed `weighlock.Limits`, or more than its own size justifies."""


class UnsupportedError(CheckpointError, NotImplementedError):
    """The file is valid, but holds something that this call cannot do."""


class ScriptArchiveError(UnsupportedError):
    """The file is a TorchScript archive: a program, where only data were asked for."""


class DeviceError(WeighlockError, RuntimeError):
    """A tensor should go to a location that the framework does not have."""


class SaveError(WeighlockError, RuntimeError):
    """The object cannot be written, or the target cannot be written to."""


class TargetError(SaveError, OSError):
    """The target cannot be opened or written to: no permission, no such folder, the disk is full."""


class MissingFolderError(TargetError, FileNotFoundError):
    """The folder of the target does not exist."""


class UnsupportedTypeError(SaveError, TypeError):
    """PyTorch checkpoints have no form for this object."""


class StateDictError(WeighlockError, ValueError):
    """A state_dict cannot be drawn from an object, loaded into one, or changed as asked."""


class StateDictMismatchError(StateDictError, RuntimeError):
    """The keys or shapes of a state_dict are not those of the object; nothing was loaded.

    Attributes
    ----------
    missing, unexpected : list of str
    mismatched : list of weighlock.state_dicts.Mismatch
    """

    FACTS = (*StateDictError.FACTS, "missing", "unexpected", "mismatched")
    missing: list[str] = []  # noqa: RUF012 - a class default that is only ever replaced
    unexpected: list[str] = []  # noqa: RUF012 - as above
    mismatched: list[Any] = []  # noqa: RUF012 - as above


class ArgumentError(WeighlockError, ValueError):
    """A parameter's value makes no sense."""


class ConflictError(ArgumentError, RuntimeError):
    """Two parameters exclude each other."""


class ArgumentTypeError(ArgumentError, TypeError):
    """A parameter is of the wrong type."""


class MissingKeyError(ArgumentError, KeyError):
    """Nothing in the file has this key, or more than one thing could be meant."""


class OutOfRangeError(ArgumentError, IndexError):
    """An index lies outside of a tensor, or has more dimensions than it."""


class MissingDependencyError(WeighlockError, ImportError):
    """An optional package that this call needs is not installed."""


class HubError(WeighlockError, RuntimeError):
    """A repository or a download cannot be had as asked."""

    FACTS = (*WeighlockError.FACTS, "url")
    url: str | None = None


class RepositoryNameError(HubError, ValueError):
    """The text names no repository."""


class NotInRepositoryError(HubError, ValueError):
    """There is no such repository, branch, tag or commit."""


class ArchiveError(HubError, ValueError):
    """An archive has members that may not be extracted, or is not the one that it should be."""


class UntrustedRepositoryError(HubError):
    """A repository's code would run, and nobody has said that it may."""


class EntryPointError(HubError):
    """A hubconf has no such entry point, or cannot be run here."""


class MissingPackagesError(EntryPointError, ImportError):
    """Packages that a repository declares as dependencies are not installed.

    Attributes
    ----------
    packages : tuple of str
    """

    FACTS = (*EntryPointError.FACTS, "packages")
    packages: tuple[str, ...] = ()


class ReadOnlyCacheError(HubError, PermissionError):
    """Something is not in the hub's folder, and nothing can be written there."""


class PinError(HubError):
    """What was found is not what the lock file says, or the lock file says nothing about it."""


class HashMismatchError(HubError):
    """Bytes have another SHA-256 or size than was asked for."""


class DownloadError(HubError, OSError):
    """The bytes did not arrive."""


class OfflineError(DownloadError):
    """Nothing may be fetched, and the cache does not have what was asked for."""


class NetworkError(DownloadError, ConnectionError):
    """A server did not answer, or its answer broke off."""


class StatusError(DownloadError):
    """A server answered with an error; `status` is its HTTP status."""

    FACTS = (*DownloadError.FACTS, "status")
    status: int | None = None


class RateLimitError(StatusError):
    """A server asks to wait; `reset` is when it will answer again, in seconds since 1970, where it said so."""

    FACTS = (*StatusError.FACTS, "reset")
    reset: float | None = None


class AuthenticationError(StatusError, PermissionError):
    """A token is wrong, missing, or not enough."""


class NotWeightsError(DownloadError):
    """A page, or something else that is no checkpoint, came where weights were asked for."""
