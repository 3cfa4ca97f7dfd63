"""What processes that are started from this one are told of its spaces, so that they can unpickle what is in them.

A child reads the environment. A server for workers that runs already (`multiprocessing`'s forkserver) has an older one;
for its workers, and for any process that uses the same store, there are records.
"""

import json
import os
import sys
from typing import Any, Final

from weighlock.hub.directories import Store, find_store, torch_home
from weighlock.hub.locks import read_record, write_record

__all__ = ["recall", "tell"]

_VARIABLE: Final = "WEIGHLOCK_HUB_SPACES"
_LONGEST: Final = 60_000
"""Characters of that variable; Linux starts no process with one of 128 KiB."""


def tell(key: str, root: str, roots: tuple[str, ...], *, plain: bool) -> None:
    """Let children know where a space is."""
    known = _told()
    known.pop(key, None)
    known[key] = [root, list(roots), plain]
    while len(told := json.dumps(known, separators=(",", ":"))) > _LONGEST and len(known) > 1:
        del known[next(iter(known))]
    os.environ[_VARIABLE] = told
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    store = Store(os.path.join(torch_home(), "hub"))
    if getattr(server, "_forkserver_alive_fd", None) is not None and store.writable():
        facts = {"root": root, "roots": list(roots), "plain": plain}
        write_record(os.path.join(store.folder("spaces"), key + ".told.json"), facts)


def _told() -> dict[str, Any]:
    try:
        known = json.loads(os.environ.get(_VARIABLE, "{}"))
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def recall(key: str) -> list[Any] | None:
    """Return root, further roots and plainness of a space that another process opened; None where nobody told."""
    told = _told().get(key)
    if told is not None:
        return list(told)
    for end in (".json", ".told.json"):
        record = read_record(find_store().path("spaces", key + end))
        if record is not None:
            return [record["root"], record.get("roots", []), record.get("plain", False)]
    return None
