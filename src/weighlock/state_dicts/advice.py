"""Why names and shapes do not match, and what to do about it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from weighlock.state_dicts.trees import is_tensor

__all__ = ["HOLDERS", "advise", "advise_on_shape", "holders_in"]

# Under these names trainers keep the weights inside of a checkpoint, the most specific first.
HOLDERS: Final = (
    "state_dict", "model_state_dict", "ema", "model_ema", "ema_state_dict", "model", "module", "net", "network",
    "generator", "params", "weights",
)  # fmt: skip

_REASONS: Final = {
    "module.": "saved from DataParallel or DistributedDataParallel",
    "_orig_mod.": "saved from a compiled model (torch.compile)",
    "_fsdp_wrapped_module.": "saved from FullyShardedDataParallel",
    "model.": "saved from a wrapper around the model, such as a LightningModule",
    "state_dict.": "flattened from a training checkpoint",
}
_TRIED: Final = 64


def advise(names: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return sentences that explain why the names of a mapping are not the expected ones; best first."""
    matched = sum(1 for name in names if name in expected)
    if matched == len(expected) or not expected:
        return []
    found = [
        *_nested(names, expected, matched),
        *_prefix(names, expected, matched, strip=True),
        *_prefix(expected, names, matched, strip=False),
    ]
    return [sentence for _, sentence in sorted(found, key=lambda item: -item[0])]


def holders_in(mapping: Mapping[Any, Any]) -> list[tuple[str, Mapping[Any, Any]]]:
    """Return the entries of a checkpoint that hold mappings with tensors: the usual names first."""
    found = {
        key: value for key, value in mapping.items()
        if isinstance(key, str) and isinstance(value, Mapping) and any(map(is_tensor, value.values()))
    }  # fmt: skip
    usual = [key for key in HOLDERS if key in found]
    return [(key, found[key]) for key in (*usual, *(key for key in found if key not in usual))]


def _nested(names: Mapping[str, Any], expected: Mapping[str, Any], matched: int) -> list[tuple[int, str]]:
    found = []
    for key, inner in holders_in(names):
        count = sum(1 for name in inner if name in expected)
        if count > matched or not matched:
            call = f"mapping[{key!r}], or weighlock.state_dicts.find_state_dict(mapping),"
            found.append((count, f"the weights lie under {key!r}: {call} makes {count} of {len(expected)} match"))
    return found


def _prefix(
    longer: Mapping[str, Any], shorter: Mapping[str, Any], matched: int, *, strip: bool
) -> list[tuple[int, str]]:
    """Find the prefix that the names on one side have and the others lack."""
    texts = list(map(str, longer))
    candidates = Counter(_candidates((name for name in texts if name not in shorter), shorter))
    if not candidates:
        return []
    prefix = candidates.most_common(1)[0][0]
    carrying = [name for name in texts if name.startswith(prefix)]
    count = sum(1 for name in carrying if name[len(prefix) :] in shorter)
    count += sum(1 for name in texts if not name.startswith(prefix) and name in shorter)
    if count <= matched:
        return []
    some = f"all {len(texts)}" if len(carrying) == len(texts) else f"{len(carrying)} of {len(texts)}"
    total = len(shorter) if strip else len(longer)
    call = f"weighlock.state_dicts.{'strip' if strip else 'add'}_prefix(mapping, {prefix!r})"
    if strip:
        reason = f": {_REASONS[prefix]}" if prefix in _REASONS else ""
        what = f"{some} keys carry the prefix {prefix!r}{reason}"
    else:
        what = f"{some} expected keys carry the prefix {prefix!r}, which the mapping's lack"
    return [(count, f"{what}; {call} makes {count} of {total} match")]


def _candidates(names: Iterable[str], shorter: Mapping[str, Any]) -> Iterable[str]:
    for number, name in enumerate(names):
        if number == _TRIED:
            return
        place = name.find(".")
        while place >= 0:
            if name[place + 1 :] in shorter:
                yield name[: place + 1]
            place = name.find(".", place + 1)


def advise_on_shape(expected: tuple[int, ...], found: tuple[int, ...]) -> str | None:
    """Return what two shapes have to do with each other."""
    if found == expected[::-1] and len(expected) > 1:
        return "transposed"
    if _size(expected) == _size(found):
        return "the same number of elements in another shape: reshape it"
    if _broadcasts(found, expected):
        return "it would have to be repeated (broadcast), which nobody asked for"
    if len(expected) == len(found) and expected[1:] == found[1:]:
        return f"another number of outputs ({found[0]} instead of {expected[0]}), such as of classes"
    return None


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _broadcasts(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    if len(found) > len(expected):
        return False
    return all(one in (1, other) for one, other in zip(found[::-1], expected[::-1], strict=False))
