"""Making text from a file or the network safe to show.

Tensor names, globals and record names are chosen by whoever wrote the file. Raw, they can move a terminal's cursor,
retitle its window, reverse the reading direction of a line, or forge a second line of output (CWE-150). Everything
that shows such text calls `safe_text`; nothing else decides what is safe.
"""

import re
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
