"""TorchScript programs: the operators in their text that reach beyond tensors. The text is searched, never compiled.

An operator has one name, which stands in the text as an attribute: of ``torch``, of ``ops.<namespace>``, or of a
variable that either was given to. So the attribute is what is looked for, whatever it is an attribute of. Bytecode for
mobile devices names its operators in full, in a pickle of its own.
"""

import ast
import re
from collections.abc import Iterator
from typing import Final

__all__ = ["operators_in"]

# By the attribute's name; aten::save and aten::from_file are the operators of PyTorch itself that open files.
_REASONS: Final = {
    "save": "writes a file", "from_file": "maps a file, and writes to it if it is shared",
    "rpc_async": "calls another process", "rpc_sync": "calls another process", "rpc_remote": "calls another process",
    "c10d": "talks to other processes", "_c10d_functional": "talks to other processes",
    "_c10d_functional_autograd": "talks to other processes", "dist_c10d": "talks to other processes",
    "dist_rpc": "calls another process", "symm_mem": "shares memory with other processes",
    "_reinterpret_tensor": "views memory without a check", "_alloc_from_pool": "views memory without a check",
}  # fmt: skip
_NAMES: Final = "|".join(_REASONS)
# A program's text may hold spaces and continued lines wherever Python allows them.
_ATTRIBUTE: Final = re.compile(rf"(?:\b(\w+)|\((\w+)\)|(?<![\s\\]))[\s\\]*\.[\s\\]*\b({_NAMES})\b".encode())
_CALLED: Final = re.compile(rb"\b(rpc_async|rpc_sync|rpc_remote)\s*\(")
_BYTECODE: Final = re.compile(rb"\b(?:aten|prim)::(save|from_file|rpc_async|rpc_sync|rpc_remote)\b")
_METHOD: Final = re.compile(rb"\bdef \w+\((\w+): __torch__[\w.]*")
_MOST_OWN: Final = 8  # it is `self` nearly always, and each is searched for
# What a name may stand for that is no method's own object.
_GLOBALS: Final = frozenset({b"torch", b"ops"})
# As PyTorch's lexer reads them: whichever begins first. One without an end takes all that is left: a search for the
# end from every quote on would take for ever.
_TOKENS: Final = re.compile(
    rb"""#[^\n]*|'{3}(?:[^\\]|\\.)*?(?:'{3}|\\?\Z)|"{3}(?:[^\\]|\\.)*?(?:"{3}|\\?\Z)"""
    rb"""|'(?:[^'\\\n]|\\.)*(?:'|\n|\\?\Z)|"(?:[^"\\\n]|\\.)*(?:"|\n|\\?\Z)""",
    re.DOTALL,
)


def _texts(text: bytes) -> Iterator[tuple[str, int]]:
    """Give the texts of a program, and where they begin: several behind one another are one, as in Python."""
    parts: list[str] = []
    begin = end = 0
    for match in _TOKENS.finditer(text):
        if text[end : match.start()].strip(b" \t\r\n\\") and parts:
            yield "".join(parts), begin
            parts = []
        end = match.end()
        if match[0][:1] != b"#":
            begin = begin if parts else match.start()
            parts.append(_value(match[0]))
    yield "".join(parts), begin


def _value(literal: bytes) -> str:
    try:
        return str(ast.literal_eval(literal.decode("utf-8", "replace")))
    except (SyntaxError, ValueError):
        return ""


def _without_comments(text: bytes) -> bytes:
    return _TOKENS.sub(lambda match: b" " * len(match[0]) if match[0][:1] == b"#" else match[0], text)


def _is_rebound(name: bytes, text: bytes) -> bool:
    """Whether a method's own object is named otherwise than by the serializer: the name could be given to anything."""
    usual = rb"\b%b\.|\(%b\)\.|\(%b: __torch__[\w.]*" % (name, name, name)
    return re.search(rb"\b%b\b" % name, re.sub(usual, b"", text)) is not None


def operators_in(text: bytes, *, bytecode: bool = False) -> Iterator[tuple[str, str, int]]:
    r"""Give each operator that reaches beyond tensors: its name, what it does, and where it stands first.

    Examples
    --------
    >>> list(operators_in(b'x = torch . save(y, "f")'))
    [('save', 'writes a file', 12)]
    >>> list(operators_in(b"def f(self: __torch__.M):\n  (self).save(1)"))
    []
    """
    seen: set[str] = set()
    patterns = (_BYTECODE,) if bytecode else (_ATTRIBUTE, _CALLED)
    bare = text if bytecode else _without_comments(text)
    names = set(_METHOD.findall(bare)) - _GLOBALS
    own = {name for name in names if len(names) <= _MOST_OWN and not _is_rebound(name, bare)}
    if not bytecode and b"getattr" in bare:
        for name, offset in _texts(text):
            if name in _REASONS and name not in seen:
                seen.add(name)
                yield name, _REASONS[name], offset
    for data in (text, bare):
        for pattern in patterns:
            for match in pattern.finditer(data):
                name = match[match.lastindex or 1].decode()
                called_on_itself = pattern is _ATTRIBUTE and (match[1] or match[2]) in own and name == "save"
                if name not in seen and not called_on_itself:
                    seen.add(name)
                    yield name, _REASONS[name], match.start(match.lastindex or 0)
