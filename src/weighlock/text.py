"""Making text from a file or the network safe to show.

Tensor names, globals and record names are chosen by whoever wrote the file. Raw, they can move a terminal's cursor,
retitle its window, reverse the reading direction of a line, or forge a second line of output (CWE-150). Everything
that shows such text calls `safe_text`; nothing else decides what is safe.
"""

import re
from itertools import islice
from typing import Final

# C0 and C1 controls and DEL; zero-width and bidirectional controls; line and paragraph separators; the byte order
# mark; lone surrogates, which no UTF-8 terminal can encode; tag characters, invisible and used to smuggle text.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def safe_text(text: object, *, limit: int = 0, keep_newlines: bool = False) -> str:
    r"""Return `text` with everything escaped that could act on a terminal or a page.

    Parameters
    ----------
    text : object
        What to show; other objects than strings are passed through `str`.
    limit : int
        Longest result in characters, the middle being replaced by an ellipsis; 0 for no limit.
    keep_newlines : bool
        Leave line feeds alone: for our own sentences, never for a name.

    Examples
    --------
    >>> safe_text("weight\x1b[31m")
    'weight\\x1b[31m'
    """
    shown = text if isinstance(text, str) else str(text)
    if keep_newlines:
        shown = "\n".join(_UNSAFE.sub(_escape, line) for line in shown.split("\n"))
    else:
        shown = _UNSAFE.sub(_escape, shown)
    if limit and len(shown) > limit:
        half = max((limit - 1) // 2, 1)
        shown = f"{shown[:half]}…{shown[-half:]}"
    return shown


# Classes of ours whose own description never descends into what they hold.
_NAMED: Final = frozenset({
    "DType", "Described", "Device", "GlobalRef", "ReadFunction", "ScriptClass", "Storage", "StorageClass", "StorageRef",
    "Stub", "TorchClass", "TorchName",
})  # fmt: skip


def brief(value: object, limit: int = 60) -> str:
    """Return the beginning of `repr(value)`, for a value out of a file: in bounded time, whatever it is.

    Python's own `repr` visits an object as often as it is referred to: fifty pairs of one shared pair take longer than
    anybody waits. Of containers, the first items are shown, two levels deep; of objects, their class.

    Examples
    --------
    >>> brief(("storage", [1, 2], None))
    "('storage', [1, 2], None)"
    """
    return _brief(value, 2)[:limit]


def _brief(value: object, depth: int) -> str:
    if isinstance(value, str | bytes | bytearray):
        return repr(value[:200])
    if isinstance(value, int) and not -(1 << 64) < value < 1 << 64:
        return "<big integer>"
    if value is None or isinstance(value, int | float | complex | type):
        return repr(value)
    kind = type(value).__name__
    if isinstance(value, list | tuple | dict):
        return _brief_container(value, depth) if depth else f"<{kind} of {len(value)}>"
    return repr(value) if kind in _NAMED and type(value).__module__.startswith("weighlock.") else f"<{kind}>"


def _brief_container(value: "list[object] | tuple[object, ...] | dict[object, object]", depth: int) -> str:
    if isinstance(value, dict):
        pairs = [f"{_brief(key, 0)}: {_brief(item, depth - 1)}" for key, item in islice(value.items(), 6)]
        return "{" + ", ".join(pairs) + ", ..." * (len(value) > 6) + "}"
    items = ", ".join(_brief(item, depth - 1) for item in value[:6]) + ", ..." * (len(value) > 6)
    return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
