"""The zip archives that hosts make of a commit: judged first, then extracted into an empty folder.

An archive comes from the network, and its names and links are chosen by its author. A name that leaves the folder,
means two things on another system, or stands there twice is refused, with all of the archive; nothing is written
before all names have been judged. Advisory GHSA-2v3f-vmh6-4h65 (torch.hub wrote where an archive told it to) is why.
"""

import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from weighlock.errors import ArchiveError
from weighlock.hub.git_tree import is_left_behind

__all__ = ["MOST_BYTES", "MOST_MEMBERS", "Member", "check_names", "extract", "read_members", "why_unsafe"]

MOST_MEMBERS: Final = 100_000
MOST_BYTES: Final = 8 << 30
_MOST_FOLDERS: Final = MOST_MEMBERS
_MOST_RATIO: Final = 200
"""Code packs ten to one, tables of text fifty to one; deflate's own limit is 1032 to one."""
_RATIO_FROM: Final = 64 << 20
"""Bytes: below this size packing well is no attack."""
_LONGEST_LINK: Final = 4096
_LONGEST_NAME: Final = 255
"""Bytes; what file systems allow."""
_LONGEST_PATH: Final = 1000
"""Bytes; macOS allows 1024, and the cache's own path comes before."""

_DRIVE: Final = re.compile(r"[A-Za-z]:")
# Names that mean a device on Windows, whatever follows the first dot.
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)", re.IGNORECASE)
_WINDOWS: Final = os.name == "nt"
_COMMIT: Final = re.compile(rb"[0-9a-f]{40}\Z")


class Member(NamedTuple):
    """One member that may be extracted.

    Attributes
    ----------
    path : str
        Below the top folder, with slashes.
    mode : int
        Git's mode: 0o100644, 0o100755, 0o120000; 0o40000 for a folder.
    info : zipfile.ZipInfo or None
        None for a file of a commit that came by git.
    """

    path: str
    mode: int
    info: Any = None


def read_members(archive: zipfile.ZipFile, path: str) -> list[Member]:
    """Judge every member of an archive.

    Parameters
    ----------
    archive : zipfile.ZipFile
    path : str
        Its place, for messages.

    Returns
    -------
    list of Member
        Without the one top folder that all have in common.

    Raises
    ------
    ArchiveError
        If one member may not be extracted.
    """
    infos = archive.infolist()
    if not infos:
        raise ArchiveError("the archive is empty", path=path)
    if len(infos) > MOST_MEMBERS:
        raise ArchiveError(f"the archive has {len(infos):,} members, more than {MOST_MEMBERS:,}", path=path)
    _check_sizes(infos, path)
    top = _top(infos, path)
    members = [member for info in infos if (member := _member(info, top, path)) is not None]
    check_names(members, path)
    return members


def commit_of(archive: zipfile.ZipFile) -> str | None:
    """Return the commit that git wrote into the archive's comment; None where there is none."""
    return archive.comment.decode("ascii") if _COMMIT.match(archive.comment) else None


def commit_at_end(tail: bytes) -> str | None:
    """Return the commit in the comment of an archive of which only the end is there (at least 62 bytes)."""
    at = tail.rfind(b"PK\5\6")
    comment = tail[at + 22 :] if at >= 0 else b""
    return comment.decode("ascii") if _COMMIT.match(comment) else None


def _check_sizes(infos: list[zipfile.ZipInfo], path: str) -> None:
    total = packed = 0
    for info in infos:
        total += info.file_size
        packed += info.compress_size
        if info.flag_bits & 1:
            raise ArchiveError("the archive is encrypted", path=path, record=info.filename)
    if packed > os.path.getsize(path):
        raise ArchiveError("members of the archive overlap", path=path)
    if total > MOST_BYTES or (total > _RATIO_FROM and total > packed * _MOST_RATIO):
        raise ArchiveError(
            "the archive unpacks to more than can be meant", expected=f"at most {MOST_BYTES:,} bytes",
            got=f"{total:,} bytes out of {packed:,}", path=path,
        )  # fmt: skip


def _top(infos: list[zipfile.ZipInfo], path: str) -> str:
    """Return the one folder that holds everything, with its slash; an archive may also have none, and a hubconf."""
    tops = {info.filename.split("/", 1)[0] for info in infos}
    if len(tops) == 1 and all("/" in info.filename for info in infos):
        return next(iter(tops)) + "/"
    if any(info.filename == "hubconf.py" for info in infos):
        return ""
    raise ArchiveError("the archive has no single top folder", got=", ".join(sorted(tops)[:5]), path=path)


def _member(info: zipfile.ZipInfo, top: str, path: str) -> Member | None:
    # What stands in the file, before Python cuts it at a NUL or turns its slashes.
    raw = info.orig_filename
    why = why_unsafe(raw)
    if why:
        raise ArchiveError(f"the archive has a member that {why}", path=path, record=raw)
    name = info.filename[len(top) :]
    if not name or is_left_behind(name):
        return None
    mode = info.external_attr >> 16 if info.create_system == 3 else 0
    if name.endswith("/"):
        return Member(name.rstrip("/"), 0o40000, info)
    if stat.S_ISLNK(mode):
        return Member(name, 0o120000, info)
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        raise ArchiveError("the archive has a member that is neither file, folder nor link", path=path, record=raw)
    return Member(name, 0o100755 if mode & 0o100 else 0o100644, info)


def why_unsafe(name: str) -> str:
    """Say why a file of an archive or a commit may not have a name; an empty text where it may."""
    parts = name.rstrip("/").split("/")
    if len(os.fsencode(name)) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
        return "has a name that is too long"
    if "\0" in name or any(ord(character) < 32 for character in name):
        return "has a control character in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/"):
        return "has an absolute path"
    if _DRIVE.match(name):
        return "names a drive"
    if ".." in parts:
        return "leads out of its folder"
    if "" in parts or "." in parts:
        return "has an empty part in its path"
    if any(_is_gits_own(part) for part in parts):
        return "would become git's own"
    if _WINDOWS and any(_DEVICES.match(part) or part[-1] in " ." or ":" in part for part in parts):
        return "has a name that Windows does not allow"
    return ""


def _is_gits_own(part: str) -> bool:
    """Whether some system takes a name for ``.git``: in any case, as Windows shortens it, with what systems ignore."""
    plain = "".join(character for character in part if unicodedata.category(character) != "Cf").casefold()
    return plain.rstrip(" .").partition(":")[0] in (".git", "git~1")


def _key(name: str) -> str:
    """Return what is the same for names that some system takes for one: in case, or in how accents are written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_names(members: list[Member], path: str) -> None:
    """Refuse two members of one name, names that some system takes for one, and a file where a folder is.

    Raises
    ------
    ArchiveError
        If there are such.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for member in members:
        key = _key(member.path)
        if key in seen and not (member.mode == 0o40000 and seen[key] == member.path):
            raise ArchiveError("the archive has two members of one name", path=path, record=member.path)
        seen[key] = member.path
        parts = member.path.split("/")
        for depth in range(1, len(parts) + (member.mode == 0o40000)):
            folder = "/".join(parts[:depth])
            if folders.setdefault(_key(folder), folder) != folder:
                raise ArchiveError("the archive has two folders that differ in case alone", path=path, record=folder)
        if len(folders) > _MOST_FOLDERS:  # one name can bring hundreds of them
            raise ArchiveError(f"the archive has more than {_MOST_FOLDERS:,} folders", path=path, record=member.path)
    for member in members:
        if member.mode != 0o40000 and _key(member.path) in folders:
            raise ArchiveError("the archive has a file where it also has a folder", path=path, record=member.path)


def extract(archive: zipfile.ZipFile, members: list[Member], folder: str, path: str) -> None:
    """Write members into an empty folder: files first, then links, so that no file is written through a link.

    Raises
    ------
    ArchiveError
        If a member is damaged, longer than it says, or a link that leads out of the folder.
    """
    for member in members:
        if member.mode == 0o40000:
            os.makedirs(os.path.join(folder, member.path), exist_ok=True)
    for member in members:
        if member.mode in (0o100644, 0o100755):
            _write(archive, member, folder, path)
    links = [
        (member, b"".join(_data(archive, member, path, _LONGEST_LINK))) for member in members if member.mode == 0o120000
    ]
    for member, target in links:
        link(folder, member.path, target, path)
    check_links(folder, [member.path for member, _ in links], path)


def _write(archive: zipfile.ZipFile, member: Member, folder: str, path: str) -> None:
    target = os.path.join(folder, *member.path.split("/"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    mode = 0o777 if member.mode == 0o100755 else 0o666
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
    with open(descriptor, "wb") as file:
        file.writelines(_data(archive, member, path, member.info.file_size))


def _data(archive: zipfile.ZipFile, member: Member, path: str, most: int) -> Iterator[bytes]:
    total = 0
    try:
        with archive.open(member.info) as stream:
            while piece := stream.read(1 << 20):
                total += len(piece)
                if total > most:
                    raise ArchiveError("a member is longer than it says", path=path, record=member.path)
                yield piece
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"the archive is damaged: {error}", path=path, record=member.path) from error


def link(folder: str, name: str, target: bytes, path: str) -> None:
    """Make a symbolic link that leads to a place inside of the folder.

    Raises
    ------
    ArchiveError
        If it would lead out, or where no file can be.
    """
    text = os.fsdecode(target)
    if not text or "\0" in text or "\\" in text or os.path.isabs(text) or _DRIVE.match(text):
        raise _leads_out(text, path, name)
    start = os.path.dirname(os.path.join(folder, *name.split("/")))
    inside = os.path.realpath(folder)
    reached = os.path.normpath(os.path.join(os.path.realpath(start), text))
    resolved = os.path.realpath(reached)
    if not all(place == inside or place.startswith(inside + os.sep) for place in (reached, resolved)):
        raise _leads_out(text, path, name)
    os.makedirs(start, exist_ok=True)
    try:
        os.symlink(text, os.path.join(folder, *name.split("/")))
    except FileExistsError as error:
        raise ArchiveError("the archive has two members of one name", path=path, record=name) from error
    except OSError:
        # A system or a user that may not make links: git then leaves a file with the target's name, and so do we.
        with open(os.path.join(folder, *name.split("/")), "xb") as file:
            file.write(target)


def _leads_out(text: str, path: str, name: str) -> ArchiveError:
    return ArchiveError("the archive has a link that leads out of its folder", got=text[:100], path=path, record=name)


def check_links(folder: str, names: list[str], path: str) -> None:
    """Look where links lead once all are made: one may pass through another that was not there before.

    Raises
    ------
    ArchiveError
        If one leads out of the folder.
    """
    inside = os.path.realpath(folder)
    for name in names:
        reached = os.path.realpath(os.path.join(folder, *name.split("/")))
        if reached != inside and not reached.startswith(inside + os.sep):
            raise ArchiveError("the archive has a link that leads out of its folder", path=path, record=name)
