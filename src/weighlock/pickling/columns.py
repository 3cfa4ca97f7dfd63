"""Many tensors in one step: the items of a state_dict taken as columns, so that the work of each is done in C.

`idiom` takes one tensor's call at once; in a state_dict such calls follow each other by the thousand, each behind its
key and each stored in the memo. Here a whole run of them is recognised, and what it says is checked and decoded column
by column. What the opcodes would have put into the memo exists only when something asks for it: next to nothing ever
does. Where anything in a run is not as it nearly always is, nothing has been changed, and its opcodes take the ordinary
way, one by one, errors included. A test compares the two ways.
"""

import re
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any, Final, Protocol

from weighlock.pickling.idiom import INT, INTS, REF, decode_int, decode_ints, index_of

__all__ = ["Form", "LazyMemo", "Runs", "take"]

_FEWEST: Final = 4  # Shorter runs are not worth the preparation.
_MOST: Final = 1 << 14  # Bounds the memory that a run takes. pickle writes dictionaries in batches of 1,000.
_MOST_FORMS: Final = 8192
_SHORT_INDICES: Final = 256
_SHORT_PUTS: Final = b"".join(b"q%c" % index for index in range(_SHORT_INDICES))


_PUT: Final = rb"(q.|r.{4})"  # BINPUT, LONG_BINPUT
# The spelling of one item. A scalar's size and stride are the empty tuple, which is not stored.
_ITEM: Final = re.compile(
    rb"X(.)\0\0\0([^\0]{1,255}?)" + _PUT  # 1 length, 2 key of the dictionary, 3 its put
    + rb"(" + REF + rb"\(\(h." + REF + rb")"  # 4 function, 'storage' and class
    + rb"X(.)\0\0\0([0-9]{1,20})" + _PUT  # 5 length, 6 key of the storage, 7 its put
    + rb"(" + REF + INT + rb"N?)t" + _PUT + rb"Q"  # 8 location, numel and None (legacy); 9 put of the id
    + rb"(" + INT + rb"(?:" + INTS + rb"|\)\)))"  # 10 storage offset and size
    + rb"(?:" + _PUT + rb"(" + INTS + rb")" + _PUT + rb")?"  # 11 put of the size, 12 stride, 13 its put
    + rb"([\x88\x89]h.)\)R" + _PUT  # 14 requires_grad and OrderedDict, 15 put of the hooks
    + rb"t" + _PUT + rb"R" + _PUT,  # 16 put of the arguments, 17 put of the tensor
    re.DOTALL,
)  # fmt: skip
_scanner: Final[Callable[[bytes, int], Any]] = _ITEM.scanner  # type: ignore[attr-defined]


class Form:
    """All that an item says besides its names: thousands of items are of one form.

    Attributes
    ----------
    refs : list of (int, object)
        The entries of the memo that its spelling refers to, and what they held.
    pid : tuple
        The persistent id without its key: ('storage', class, location, numel[, None]).
    offset, size, stride, requires_grad
        The other arguments of the call.
    made : object
        What `Runs.form` made of it, or None where it wants such items to go the ordinary way.
    """

    __slots__ = ("made", "offset", "pid", "refs", "requires_grad", "size", "stride")

    def __init__(self, memo: dict[int, Any], token: tuple[bytes, bytes, bytes, bytes, bytes]) -> None:
        names, place, shape, stride, flag = token
        middle = 2 if names[0] == 0x68 else 5
        end = 2 if place[0] == 0x68 else 5
        bare = place[:-1] if place[-1:] == b"N" and _is_int(place[end:-1]) else place
        function, mark, kind = index_of(names[:middle]), names[middle + 3], index_of(names[middle + 4 :])
        location, hooks = index_of(place[:end]), flag[2]
        self.refs = [(index, memo[index]) for index in (function, mark, kind, location, hooks)]
        self.pid = (memo[mark], memo[kind], memo[location], decode_int(bare[end:]), *(None,) * (bare is not place))
        width = 2 if shape[0] == 0x4B else 3 if shape[0] == 0x4D else 5
        self.offset = decode_int(shape[:width])
        self.size = () if shape[width:] == b"))" else decode_ints(shape[width:])
        self.stride = decode_ints(stride) if stride else ()
        if bool(stride) != bool(self.size):
            raise ValueError("a size without a stride, or the other way round")
        self.requires_grad = flag[0] == 0x88
        self.made: Any = None

    def full_pid(self, key: str) -> tuple[Any, ...]:
        """Return the persistent id of the storage with this key."""
        mark, kind, *rest = self.pid
        return (mark, kind, key, *rest)

    def stands(self, memo: dict[int, Any], function: Any) -> bool:
        """Whether the memo holds what it held when this form was read, and the names are those of a tensor's call."""
        refs = self.refs
        return (
            refs[0][1] is function and refs[4][1] is OrderedDict
            and all(memo[index] is value for index, value in refs)
        )  # fmt: skip


def _is_int(raw: bytes) -> bool:
    return len(raw) == {0x4B: 2, 0x4D: 3, 0x4A: 5}.get(raw[0] if raw else 0)


class Runs(Protocol):
    """What makes the tensors of a run: a persistent-id function that knows how."""

    def __call__(self, pid: Any) -> Any:
        """Return the storage of a persistent id."""

    def form(self, form: Form, key: str) -> Any:
        """Return what is known of all items of this form, one of which has its storage under `key`; None to decline."""

    def batch(self, keys: list[str], forms: list[Any]) -> "Batch":
        """Return what makes tensors on these storages, by what `form` returned."""


class Batch(Protocol):
    """What makes the tensors of a run."""

    doubts: list[int]
    """Which of the items are to go the ordinary way, in their order."""

    def make(self, begin: int, end: int) -> list[Any] | None:
        """Return a stretch of the tensors, no doubt among them; None, with nothing changed, to decline."""


class LazyMemo(dict[int, Any]):
    """A memo that may hold runs, whose entries are made when one of them is asked for.

    What is stored explicitly wins over what a run stored before: runs come only where no entry stands yet.
    """

    __slots__ = ("_firsts", "_runs", "top")

    def __init__(self, entries: dict[int, Any]) -> None:
        super().__init__(entries)
        self._firsts: list[int] = []
        self._runs: list[Run | None] = []
        self.top = 0

    def add(self, run: "Run") -> None:
        """Hold a run; its indices lie behind those of every run before."""
        self._firsts.append(run.first)
        self._runs.append(run)
        self.top = run.stop

    def __missing__(self, index: int) -> Any:
        at = bisect_right(self._firsts, index) - 1
        run = self._runs[at] if at >= 0 else None
        if run is None or index >= run.stop:
            raise KeyError(index)
        self._unfold(at, run)
        return self[index]

    def __len__(self) -> int:
        # Asked for by MEMOIZE, whose index it is: from here on this is an ordinary memo.
        for at, run in enumerate(self._runs):
            if run is not None:
                self._unfold(at, run)
        return super().__len__()

    def _unfold(self, at: int, run: "Run") -> None:
        self._runs[at] = None
        for index, value in run.entries():
            self.setdefault(index, value)


class Run:
    """One run: where it stands in the pickle, and what came of it."""

    __slots__ = ("_forms", "_machine", "_position", "_tensors", "first", "stop")

    def __init__(self, machine: Any, items: "_Items", begin: int, end: int, tensors: list[Any]) -> None:
        self._machine = machine
        self._position = items.start(begin)
        self._forms = items.forms[begin:end]
        self._tensors = tensors
        self.first = items.first_put(begin)
        self.stop = items.first_put(end)

    def __len__(self) -> int:
        return len(self._tensors)

    def entries(self) -> Iterator[tuple[int, Any]]:
        """Yield what the opcodes would have stored, in their order."""
        machine, index = self._machine, self.first
        matches = iter(_scanner(machine.data, self._position).match, None)
        for match, form, tensor in zip(matches, self._forms, self._tensors, strict=False):
            key = match[6].decode("ascii")
            pid = form.full_pid(key)
            hooks = machine.context.hooks_of(tensor)
            shape = (form.size, form.stride) if match[12] is not None else ()
            call = (
                machine.persistent_load(pid), form.offset, form.size, form.stride, form.requires_grad, hooks,
            )  # fmt: skip
            values = (match[2].decode("utf-8", "surrogatepass"), key, pid, *shape, hooks, call, tensor)
            yield from enumerate(values, index)
            index += len(values)


class _Items:
    """Items that follow each other in a pickle, as columns.

    Attributes
    ----------
    end : int
        Where the last one ends in the pickle.
    labels, keys : list of str
        The keys of the dictionary, and those of the storages.
    forms : list of Form
    doubts : list of int
        Which of them are to take the ordinary way.
    batch : Batch
    """

    __slots__ = ("_data", "_places", "_position", "_puts", "_stop", "batch", "doubts", "end", "forms", "keys", "labels")

    def __init__(self, data: bytes, position: int, end: int, puts: Sequence[bytes], last_put: bytes) -> None:
        self._data = data
        self._position = position
        self.end = end
        self._puts = puts
        self._stop = _index(last_put) + 1
        self._places: list[int] = []
        self.labels: list[str] = []
        self.keys: list[str] = []
        self.forms: list[Form] = []
        self.doubts: list[int] = list(range(len(puts)))
        self.batch: Any = None

    def first_put(self, index: int) -> int:
        """Return the memo index of an item's first entry; of the last one's end for the index behind it."""
        return _index(self._puts[index]) if index < len(self._puts) else self._stop

    def start(self, index: int) -> int:
        """Return where an item stands in the pickle; where the last one ends for the index behind it."""
        if index == len(self._puts):
            return self.end
        return self._starts()[index] if index else self._position

    def _starts(self) -> list[int]:
        """Return all places: looked for only where something in the run is unusual."""
        if not self._places:
            matches = islice(iter(_scanner(self._data, self._position).match, None), len(self._puts))
            self._places = [match.start() for match in matches]
        return self._places

    def stretch(self, position: int) -> tuple[int, int] | None:
        """Return which items, from the one at this position on, can be taken at once; None for no known position."""
        starts = self._starts()
        begin = bisect_left(starts, position)
        if begin == len(starts) or starts[begin] != position:
            return None
        at = bisect_left(self.doubts, begin)
        return begin, self.doubts[at] if at < len(self.doubts) else len(self.forms)


def take(machine: Any, data: bytes, position: int) -> int:
    """Take the run of items that begins at `position` with the key of one.

    Returns
    -------
    int
        The position behind the run: its keys and tensors are on the stack. `position` itself, with nothing changed,
        where there is no run or the first item is unusual.
    """
    items: _Items | None = machine.items
    if items is None or position >= items.end:
        items = _read(machine, data, position)
        if items is None:
            return position
        begin, end = 0, items.doubts[0] if items.doubts else len(items.forms)
        machine.items = items
    else:  # behind an item that took the ordinary way
        found = items.stretch(position)
        if found is None:
            return position
        begin, end = found
    if end - begin < _FEWEST:
        return position
    memo, forms, function = machine.memo, items.forms[begin:end], machine.allowlist.idiom_function
    tensors = None
    if _is_free(memo, items.first_put(begin), items.first_put(end)) and all(
        form.stands(memo, function) for form in set(forms)
    ):
        tensors = items.batch.make(begin, end)
    if tensors is None:
        items.doubts = list(range(len(items.forms)))  # once: asking again at each item would take its square in time
        return position
    if type(memo) is not LazyMemo:
        memo = machine.memo = LazyMemo(memo)
    memo.add(Run(machine, items, begin, end, tensors))
    machine.stack.extend(chain.from_iterable(zip(items.labels[begin:end], tensors, strict=True)))
    return items.start(end)


def _read(machine: Any, data: bytes, position: int) -> _Items | None:
    """Return the items from `position` on, if they are several, and their names and indices are what they claim."""
    rows, end = _rows(data, position)
    if len(rows) < _FEWEST:
        return None
    (lengths, texts, put1, names, key_lengths, keys, put2, places, put3, sizes, put4, strides, put5, flags, put6, put7,
     put8) = zip(*rows, strict=True)  # fmt: skip
    items = _Items(data, position, end, put1, put8[-1])
    if bytes(map(len, texts)) != b"".join(lengths) or bytes(map(len, keys)) != b"".join(key_lengths):
        return items
    puts = b"".join(chain.from_iterable(zip(put1, put2, put3, put4, put5, put6, put7, put8, strict=True)))
    if puts != _spelled(items.first_put(0), items.first_put(len(rows))):
        return items
    try:
        items.labels = b"\0".join(texts).decode("utf-8", "surrogatepass").split("\0")
        items.keys = b",".join(keys).decode("ascii").split(",")
        items.forms = _forms(machine, list(zip(names, places, sizes, strides, flags, strict=True)), items.keys)
    except (ValueError, KeyError):  # no text, or something that was never stored: the opcodes report it
        return items
    items.batch = machine.runs.batch(items.keys, [form.made for form in items.forms])
    items.doubts = items.batch.doubts
    return items


def _rows(data: bytes, position: int) -> tuple[list[tuple[bytes, ...]], int]:
    """Return the groups of each item from `position` on, and where the last one ends."""
    matches = list(islice(iter(_scanner(data, position).match, None), _MOST))
    return list(map(re.Match.groups, matches, repeat(b""))), matches[-1].end() if matches else position


def _index(put: bytes) -> int:
    return put[1] if put[0] == 0x71 else int.from_bytes(put[1:], "little")


def _spelled(first: int, stop: int) -> bytes:
    """Return how the puts of a run are spelled, whose indices follow each other."""
    short = _SHORT_PUTS[2 * first : 2 * min(stop, _SHORT_INDICES)]
    words = array("I", range(max(first, _SHORT_INDICES), max(min(stop, 1 << 32), _SHORT_INDICES)))
    if sys.byteorder == "big":
        words.byteswap()
    raw, spelled = words.tobytes(), bytearray(len(words) * 5)
    spelled[::5] = b"r" * len(words)
    for place in range(4):
        spelled[place + 1 :: 5] = raw[place::4]
    return short + spelled


def _is_free(memo: dict[int, Any], first: int, stop: int) -> bool:
    """Whether no entry stands at these indices or, for runs, behind them."""
    if first < getattr(memo, "top", 0):
        return False
    if dict.__len__(memo) < stop - first:
        return max(memo, default=-1) < first
    return memo.keys().isdisjoint(range(first, stop))


def _forms(machine: Any, tokens: list[tuple[Any, ...]], keys: list[str]) -> list[Form]:
    """Return each item's form, as the memo has it now."""
    known: dict[tuple[Any, ...], Form] = machine.forms
    memo, function = machine.memo, machine.allowlist.idiom_function
    if len(known) > _MOST_FORMS:
        known.clear()
    for token, key in dict(zip(tokens, keys, strict=True)).items():
        form = known.get(token)
        if form is None or not form.stands(memo, function):
            form = known[token] = Form(memo, token)
            form.made = machine.runs.form(form, key)
    return list(map(known.__getitem__, tokens))
