"""Git's smart protocol as bytes: what to send, and what an answer says. No connection is opened here.

Sources: gitprotocol-common(5), gitprotocol-v2(5), gitprotocol-pack(5) for servers that only know version 0. Asking for
refs this way costs no quota of any API, gives the real default branch, and peels annotated tags to their commits.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from weighlock.errors import HubError

__all__ = ["Refs", "advertised_version", "fetch_request", "ls_refs_request", "pack_of", "read_refs", "v0_refs"]

_FLUSH: Final = b"0000"
_DELIMITER: Final = b"0001"
_AGENT: Final = "agent=weighlock"
_LARGEST: Final = 65520


@dataclasses.dataclass(frozen=True, slots=True)
class Refs:
    """What a repository says of its refs.

    Attributes
    ----------
    commits : mapping of str to str
        Full ref name to the commit; annotated tags are peeled.
    head : str or None
        The ref of the default branch.
    """

    commits: Mapping[str, str]
    head: str | None

    def find(self, ref: str | None) -> tuple[str, str] | None:
        """Return the full name and commit of a ref as a user writes it: a branch comes before a tag.

        Of the default branch the name may be unknown (a detached HEAD).
        """
        if ref is None:
            name = self.head or "HEAD"
            commit = self.commits.get(name, self.commits.get("HEAD"))
            return (name, commit) if commit else None
        for form in ("{}", "refs/heads/{}", "refs/tags/{}", "refs/{}"):
            name = form.format(ref)
            if name in self.commits and name != "HEAD":
                return name, self.commits[name]
        return None

    def ambiguous(self, ref: str | None) -> bool:
        """Whether a ref is both a branch and a tag, of different commits."""
        branch, tag = self.commits.get(f"refs/heads/{ref}"), self.commits.get(f"refs/tags/{ref}")
        return branch is not None and tag is not None and branch != tag


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    return b"%04x" % (len(data) + 4) + data


def lines(data: bytes) -> Iterator[bytes | None]:
    """Give each packet line's payload without its line feed; None for flush, delimiter and end.

    Raises
    ------
    HubError
        If the bytes are no packet lines.
    """
    at = 0
    while at < len(data):
        try:
            length = int(data[at : at + 4], 16)
        except ValueError as error:
            raise HubError("the answer is not git's protocol", got=repr(data[at : at + 20])) from error
        if length < 4:
            at += 4
            yield None
            continue
        if at + length > len(data):
            raise HubError("git's answer is cut off", expected=f"{length} bytes", got=f"{len(data) - at} bytes")
        payload = data[at + 4 : at + length]
        if payload.startswith(b"ERR "):
            raise HubError("the git server refuses", got=payload[4:].decode("utf-8", "replace").strip()[:200])
        yield payload[:-1] if payload.endswith(b"\n") else payload
        at += length


def ls_refs_request(ref: str | None) -> bytes:
    """Return what to post in order to learn a ref's commit (protocol 2); None asks for the default branch."""
    if ref is None:
        prefixes = ["HEAD"]
    elif ref.startswith("refs/"):
        prefixes = [ref]
    else:
        prefixes = [f"refs/heads/{ref}", f"refs/tags/{ref}"]
    parts = [_line("command=ls-refs"), _line(_AGENT), _line("object-format=sha1"), _DELIMITER, _line("peel")]
    parts += [_line("symrefs"), *(_line(f"ref-prefix {prefix}") for prefix in prefixes), _FLUSH]
    return b"".join(parts)


def tips_request() -> bytes:
    """Return what to post in order to learn every branch and tag."""
    parts = [_line("command=ls-refs"), _line(_AGENT), _line("object-format=sha1"), _DELIMITER, _line("peel")]
    return b"".join([*parts, _line("symrefs"), _FLUSH])


def read_refs(data: bytes) -> Refs:
    """Read the answer to `ls_refs_request`.

    Raises
    ------
    HubError
        If it is not one.
    """
    commits: dict[str, str] = {}
    head = None
    if not data.endswith(_FLUSH):
        # A server that does not know protocol 2 may answer this with nothing at all; a list without refs has an end.
        raise HubError("git's list of refs has no end", got=repr(data[-20:]))
    for line in lines(data):
        if line is None:
            continue
        words = line.decode("utf-8", "surrogateescape").split(" ")
        if len(words) < 2 or not _is_id(words[0]):
            raise HubError("git's list of refs is not understood", got=repr(line[:60]))
        marks = dict(word.partition(":")[::2] for word in words[2:])
        commits[words[1]] = marks.get("peeled", words[0])
        if words[1] == "HEAD":
            head = marks.get("symref-target", head)
    return Refs(commits, head)


def advertised_version(data: bytes) -> int:
    """Return the protocol version of an answer to ``info/refs``: 2 or 0."""
    for line in lines(data):
        if line is not None and not line.startswith(b"# service="):
            return 2 if line == b"version 2" else 0
    return 0


def object_format(data: bytes) -> str:
    """Return how an answer to ``info/refs`` says that objects are named: ``sha1`` where it does not say."""
    for line in lines(data):
        for word in (line or b"").replace(b"\0", b" ").split(b" "):
            if word.startswith(b"object-format="):
                return word.removeprefix(b"object-format=").decode("ascii", "replace")
    return "sha1"


def v0_refs(data: bytes) -> Refs:
    """Read the refs that a server of protocol 0 or 1 lists of its own accord."""
    commits: dict[str, str] = {}
    head = None
    for line in lines(data):
        if line is None or line.startswith((b"# service=", b"version ")):
            continue
        text, _, capabilities = line.decode("utf-8", "surrogateescape").partition("\0")
        for word in capabilities.split(" "):
            if word.startswith("symref=HEAD:"):
                head = word.removeprefix("symref=HEAD:")
        commit, _, name = text.partition(" ")
        if not _is_id(commit):
            raise HubError("git's list of refs is not understood", got=repr(line[:60]))
        commits[name.removesuffix("^{}")] = commit
    return Refs(commits, head)


def fetch_request(commit: str, filters: Iterable[str] = ()) -> bytes:
    """Return what to post in order to get one commit without its history (protocol 2).

    Parameters
    ----------
    commit : str
        The commit's id.
    filters : iterable of str
        ``tree:0`` for the commit object alone.
    """
    parts = [_line("command=fetch"), _line(_AGENT), _line("object-format=sha1"), _DELIMITER]
    parts += [_line("no-progress"), _line("ofs-delta"), _line("deepen 1")]
    parts += [_line(f"filter {one}") for one in filters]
    return b"".join([*parts, _line(f"want {commit}"), _line("done"), _FLUSH])


def pack_of(data: bytes) -> bytes:
    """Take the pack out of the answer to `fetch_request`.

    Raises
    ------
    HubError
        If the server reports an error, or there is no pack.
    """
    inside = False
    pack = []
    for line in _raw_lines(data):
        if line in (b"packfile\n", b"packfile"):
            inside = True
        elif inside and line is not None:
            if line[:1] == b"\x03":
                raise HubError("the git server refuses", got=line[1:].decode("utf-8", "replace").strip()[:200])
            if line[:1] == b"\x01":
                pack.append(line[1:])
    if not pack:
        raise HubError("git's answer holds no objects")
    return b"".join(pack)


def _raw_lines(data: bytes) -> Iterator[bytes | None]:
    """Give packet lines as they are: in a pack a line feed at the end is data."""
    at = 0
    while at + 4 <= len(data):
        try:
            length = int(data[at : at + 4], 16)
        except ValueError as error:
            raise HubError("the answer is not git's protocol", got=repr(data[at : at + 20])) from error
        if length > _LARGEST or at + length > len(data):
            raise HubError("git's answer is cut off")
        if length < 4:
            yield None
            at += 4
            continue
        payload = data[at + 4 : at + length]
        if payload.startswith(b"ERR "):
            raise HubError("the git server refuses", got=payload[4:].decode("utf-8", "replace").strip()[:200])
        yield payload
        at += length


def _is_id(text: str) -> bool:
    return len(text) == 40 and all(character in "0123456789abcdef" for character in text)
