"""A file that gets its name only when it is whole.

It is written under a temporary name beside its target and takes the target's place by one rename: at every moment there
is either the old file or the new one, and a file that somebody has mapped is never written into.

A temporary file is locked for as long as its writer lives. A process that is killed cannot remove its own, but the
lock goes with it: the next save into the same folder finds what nobody holds, and removes it.
"""

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final

from weighlock.errors import MissingFolderError, TargetError, WeighlockError
from weighlock.storages.sinks import DescriptorSink, FileSink, Sink
from weighlock.storages.urls import is_address, shown

__all__ = [
    "Write", "absolute", "alone_in", "hold", "is_special", "os_reason", "refuse_address", "sweep", "sync_folder",
    "write_file", "write_path",
]  # fmt: skip

Write = Callable[[Sink], object]

_SUFFIX: Final = ".weighlock-tmp"
# Longest part of the target's name that is repeated in the temporary name: file names have at most 255 bytes.
_NAME_BYTES: Final = 200
# What a shell or a parent process has opened: there is no name to replace.
_OPEN_FILES: Final = re.compile(r"/dev/(?:std(?P<name>out|err)|fd/(?P<fd>\d+))|/proc/self/fd/(?P<proc>\d+)")
_FLAGS: Final[int] = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# A name in a folder of others may be anything: neither follow it, nor wait for it.
_CAREFUL: Final[int] = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_WINDOWS: Final = sys.platform == "win32"


def write_file(path: str, data: bytes, *, durable: bool = False) -> None:
    """Write these bytes to a file, or leave what is there as it was; raises as `write_path`."""

    def write(sink: Sink) -> None:
        sink.reserve(len(data))  # what is missing on a full disk is then said with the number of bytes
        sink.write_at(0, data)

    write_path(path, write, durable=durable)


def refuse_address(path: str) -> None:
    """Refuse to write to an address; `TargetError`.

    What stands there is replaced piece by piece, or by a whole upload, and neither can be taken back as a file can.
    """
    if is_address(path):
        raise TargetError(
            "an address cannot be written to", path=shown(path), expected="the path of a file on this machine",
            hint="Save to a file, then upload it: aws s3 cp, gsutil cp, or fsspec's put_file. "
                 "A file that is called so: pass a pathlib.Path.",
        )  # fmt: skip


def is_special(path: str) -> bool:
    """Whether a path names a pipe, a device or an open descriptor: nothing that could be replaced."""
    if _OPEN_FILES.fullmatch(path):
        return True
    held = _stat(path)
    return held is not None and not (stat.S_ISREG(held.st_mode) or stat.S_ISDIR(held.st_mode))


def write_path(path: str, write: Write, *, durable: bool, check: Callable[[str], None] | None = None) -> None:
    """Write a file, so that what was there before stays until the new one is whole.

    Devices, pipes and open descriptors (``/dev/stdout``) are written to directly, for want of a name to replace. So is
    an empty file that this process holds open (`tempfile.NamedTemporaryFile`): the program goes on with that very file,
    and there is nothing to lose. If that fails, it is empty again.

    Parameters
    ----------
    path : str
        A symbolic link is followed.
    write : callable
        Writes everything to the sink that it is given.
    durable : bool
        Wait until the file and its name are on the disk.
    check : callable, optional
        Given the path of the file that is written and has not got its name yet; what it raises leaves the old one.

    Raises
    ------
    TargetError
        If the target cannot be written; what was there before is untouched.
    """
    refuse_address(path)
    with _errors(path):
        held = _stat(path)
        if held is not None and stat.S_ISDIR(held.st_mode):
            raise TargetError("the target is a folder", path=path, hint="Give the name of a file in it.")
        named = (held is None or stat.S_ISREG(held.st_mode)) and not _OPEN_FILES.fullmatch(path)
        if named and held is not None and held.st_size == 0 and check is None and _is_open_here(held):
            _write_into(path, write, durable=durable)
        elif named:
            # Not for every path: the folders above the current one need not be open to us.
            target = os.path.realpath(path) if os.path.islink(path) else path
            _replace(target, write, held, check, durable=durable)
        else:
            _write_directly(path, write, durable=durable)


def absolute(path: str) -> str:
    """Return a path that still means the same when the current folder is another one.

    Raises
    ------
    MissingFolderError
        If the current folder was deleted.
    TargetError
        If it is an address.
    """
    refuse_address(path)
    with _errors(path):
        return os.path.abspath(path)


def os_reason(error: OSError) -> str:
    """Return what an error of the system says, in its own words."""
    return error.strerror or str(error) or type(error).__name__


@contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except WeighlockError as error:
        error.locate(path=path)
        raise
    except OSError as error:
        kind = MissingFolderError if isinstance(error, FileNotFoundError) else TargetError
        made = kind(f"the file cannot be written: {os_reason(error)}", path=path, hint=_hint(error, path))
        raise made.caused_by(error) from error


def _hint(error: OSError, path: str) -> str | None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"Parent directory {os.path.dirname(path) or os.curdir} does not exist. Create it first."
    if isinstance(error, PermissionError) or error.errno in (errno.EROFS, errno.EBUSY):
        return "Check the permissions of the file and of its folder: a new file is made there, and renamed."
    if error.errno == errno.EFBIG:
        return "The limit on the size of files is too low: see ulimit -f."
    return None


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _is_open_here(held: os.stat_result) -> bool:
    """Whether this process has a descriptor of the file; False where the system does not list them."""
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError, ValueError):  # the descriptor of the listing itself is closed by now
                if os.path.samestat(os.fstat(int(name)), held):
                    return True
    return False


def _write_into(path: str, write: Write, *, durable: bool) -> None:
    """Write into a file that is empty, and leave it so if that fails."""
    descriptor = os.open(path, os.O_WRONLY | _FLAGS)
    try:
        write(FileSink(descriptor) if hasattr(os, "pwrite") else DescriptorSink(descriptor))
        if durable:
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        raise
    finally:
        os.close(descriptor)


def _write_directly(path: str, write: Write, *, durable: bool) -> None:
    # An open file is written to from where it stands: opened again by its name, it would be from its beginning.
    match = _OPEN_FILES.fullmatch(path)
    number = {"out": 1, "err": 2}.get(match["name"]) if match else None
    if match and number is None:
        number = int(match["fd"] or match["proc"])
    descriptor = os.open(path, os.O_WRONLY | _FLAGS) if number is None else os.dup(number)
    try:
        write(DescriptorSink(descriptor))
        if durable:
            with suppress(OSError):  # pipes and terminals have nothing to wait for
                os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(
    target: str, write: Write, held: os.stat_result | None, check: Callable[[str], None] | None, *, durable: bool
) -> None:
    if held is not None and not os.access(target, os.W_OK):
        # The rename would need the folder's permission only, and take a file that was protected on purpose.
        raise TargetError("the file is read-only", path=target, hint="Save under another name, or make it writable.")
    folder, name = os.path.split(target)
    sweep(folder)
    temporary, descriptor = _create(folder, name, 0o666 if held is None else stat.S_IMODE(held.st_mode) & 0o666)
    try:
        try:
            if held is not None:
                _keep_attributes(target, held, descriptor)
            write(FileSink(descriptor) if hasattr(os, "pwrite") else DescriptorSink(descriptor))
            if check is not None:
                check(temporary)
            _settle(descriptor, durable=durable, replacing=held is not None)
            if not _WINDOWS:  # there, open files cannot be renamed; here, the lock must be held until it is done
                os.replace(temporary, target)
        finally:
            with suppress(*(() if _WINDOWS else (OSError,))):  # here, a close that matters came before the rename
                os.close(descriptor)
        if _WINDOWS:
            os.replace(temporary, target)
    except BaseException:  # an interrupt too must not leave half a file behind
        with suppress(OSError):  # gone already, with its folder or to its new name
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(folder)


def _settle(descriptor: int, *, durable: bool, replacing: bool) -> None:
    """Bring what was written where it must be before it takes its name, and learn of errors that come late."""
    if durable:
        fcntl = None if _WINDOWS else _fcntl()
        full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves data in the drive's own cache
        if fcntl is not None and full is not None:
            fcntl.fcntl(descriptor, full)
        else:
            os.fsync(descriptor)
    elif replacing:
        # Else a power failure could find the new name on the disk without its data, and the old file gone.
        getattr(os, "fdatasync", os.fsync)(descriptor)
    if not _WINDOWS:
        os.close(os.dup(descriptor))  # network file systems report at a close that there was no space


def _keep_attributes(target: str, held: os.stat_result, descriptor: int) -> None:
    """Give the new file owner, mode, and extended attributes of the one that it replaces, as far as that is allowed."""
    if not hasattr(os, "fchmod"):
        return
    mode, made = stat.S_IMODE(held.st_mode), os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (held.st_uid, held.st_gid):
        for owner, group in ((held.st_uid, held.st_gid), (-1, held.st_gid)):
            with suppress(OSError):
                os.fchown(descriptor, owner, group)
                break
        made = os.fstat(descriptor)
        if made.st_uid != held.st_uid:
            mode &= 0o1777
        if made.st_gid != held.st_gid:  # another group may do no more than everybody
            mode &= 0o1707 | (mode & 0o007) << 3
    os.fchmod(descriptor, mode)
    if hasattr(os, "listxattr"):
        with suppress(OSError):
            for attribute in os.listxattr(target):
                with suppress(OSError):
                    os.setxattr(descriptor, attribute, os.getxattr(target, attribute))


def sync_folder(folder: str) -> None:
    """Wait until the names in a folder are on the disk."""
    if _WINDOWS:
        return  # folders cannot be opened there; NTFS journals the rename
    descriptor = os.open(folder or os.curdir, os.O_RDONLY | _FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Temporary files


def _create(folder: str, name: str, mode: int) -> tuple[str, int]:
    """Make a temporary file and hold it; return its path and its descriptor."""
    shown = os.fsdecode(os.fsencode(name)[:_NAME_BYTES])
    while True:
        temporary = os.path.join(folder, f".{shown}.{os.urandom(6).hex()}{_SUFFIX}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
        # Another process may have taken it for an orphan in the moment before it was locked.
        if hold(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def hold(descriptor: int) -> bool | None:
    """Lock a file for as long as it is open; False if another process has it, None where files cannot be locked."""
    fcntl = _fcntl()
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


@contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Wait until no other process does the same for this folder; where folders cannot be locked, do not wait."""
    fcntl = _fcntl()
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder or os.curdir, os.O_RDONLY | _FLAGS)
    try:
        with suppress(OSError):  # a network file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fcntl() -> Any:
    try:
        import fcntl
    except ImportError:
        return None
    return fcntl


_look_again: Final[dict[str, float]] = {}
_MANY_NAMES: Final = 100
_PAUSE: Final = 100


def sweep(folder: str) -> None:
    """Remove the temporary files in a folder that no living process holds.

    In a folder with hundreds of names it takes at most a hundredth of the time: one that was looked through a moment
    ago is not looked through again.
    """
    started = monotonic()
    if _look_again.get(folder, started) > started:
        return
    try:
        names = os.listdir(folder or os.curdir)
    except OSError:
        return  # making the file will say what is wrong
    for name in names:
        if name.startswith(".") and name.endswith(_SUFFIX):
            with suppress(OSError):
                _remove_orphan(os.path.join(folder, name))
    _look_again.pop(folder, None)
    if len(names) > _MANY_NAMES:
        _look_again[folder] = started + _PAUSE * (monotonic() - started)


def _remove_orphan(path: str) -> None:
    if _WINDOWS:
        os.unlink(path)  # fails while somebody has it open
        return
    descriptor = os.open(path, os.O_WRONLY | _CAREFUL | _FLAGS)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and hold(descriptor):
            os.unlink(path)
    finally:
        os.close(descriptor)
