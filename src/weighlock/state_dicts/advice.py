"""Why names and shapes do not match, and what to do about it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from weighlock.errors import StateDictError
from weighlock.state_dicts.finding import Candidate, candidates, find_state_dict, weights_in
from weighlock.state_dicts.trees import is_tensor, shape_of

__all__ = ["advise", "advise_on_shape", "shapes_differ", "stated_shape"]

_REASONS: Final = {
    "module.": "saved from DataParallel or DistributedDataParallel",
    "_orig_mod.": "saved from a compiled model (torch.compile)",
    "_fsdp_wrapped_module.": "saved from FullyShardedDataParallel",
    "model.": "saved from a wrapper around the model, such as a LightningModule",
    "state_dict.": "flattened from a training checkpoint",
}
# These stand in the middle of a name too, where a part of the model was wrapped.
_WRAPPERS: Final = {
    "_orig_mod": "torch.compile", "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing", "base_layer": "an adapter of peft",
}  # fmt: skip
_LEADING: Final = ("module.", "base_model.model.")
_TRIED: Final = 64
_MOST_PLACES: Final = 200
_MOST_NESTED: Final = 3


class _Prefix(NamedTuple):
    """A prefix that the names on one side have and the others lack.

    Attributes
    ----------
    text : str
    carrying : int
        How many names have it.
    fitting : int
        How many of these are on the other side without it.
    others : int
        How many without it are on both sides as they are.
    """

    text: str
    carrying: int
    fitting: int
    others: int


def advise(names: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return sentences that explain why the names of a mapping are not the expected ones: those that mend the most."""
    matched = sum(1 for name in names if name in expected)
    if matched == len(expected) or not expected:
        return []
    found = [
        *_stripped(names, expected, matched),
        *_lacking(names, expected, matched),
        *_unwrapped(names, expected, matched),
        *_nested(names, expected, matched),
        *_adapter(names),
    ]
    most = max((count for count, _ in found), default=0)
    return [sentence for count, sentence in found if count == most]


def _stripped(names: Mapping[str, Any], expected: Mapping[str, Any], matched: int) -> list[tuple[int, str]]:
    prefix = _prefix(names, expected)
    if prefix is None or prefix.fitting + prefix.others <= matched:
        return []
    count, text = prefix.fitting + prefix.others, prefix.text
    reason = f": {_REASONS[text]}" if text in _REASONS else ""
    call = f"weighlock.state_dicts.strip_prefix(mapping, {text!r})"
    what = f"{_some(prefix.carrying, names)} keys carry the prefix {text!r}{reason}"
    unfit = _unfit(_cut(names, text), expected)
    return [(count, f"{what}; {call} makes {count} of {len(expected)} match{unfit}")]


def _lacking(names: Mapping[str, Any], expected: Mapping[str, Any], matched: int) -> list[tuple[int, str]]:
    prefix = _prefix(expected, names)
    if prefix is None or prefix.fitting <= matched:  # it would go before the names that match already, too
        return []
    call = f"weighlock.state_dicts.add_prefix(mapping, {prefix.text!r})"
    what = (
        f"{_some(prefix.carrying, expected)} expected keys carry the prefix {prefix.text!r}, which the mapping's lack"
    )
    grown = ((prefix.text + name, value) for name, value in _texts(names))
    makes = f"{call} makes {prefix.fitting} of {len(expected)} match{_unfit(grown, expected)}"
    return [(prefix.fitting, f"{what}; {makes}")]


def _unwrapped(names: Mapping[str, Any], expected: Mapping[str, Any], matched: int) -> list[tuple[int, str]]:
    """Find the names of wrappers inside of names, where stripping one prefix does less."""
    texts = [name for name in names if type(name) is str]
    held = [wrapper for wrapper in _WRAPPERS if any(f"{wrapper}." in text for text in texts)]
    if not held:
        return []
    outer = [start for start in _LEADING if any(text.startswith(start) for text in texts)]
    leading = "".join(f"^{start}|".replace(".", r"\.") for start in outer)
    expression = rf"{leading}\b({'|'.join(held)})\."
    pattern = re.compile(expression)
    count = sum(1 for text in texts if pattern.sub("", text) in expected)
    prefix = _prefix(names, expected)
    if count <= max(matched, prefix.fitting + prefix.others if prefix is not None else 0):
        return []
    carrying = sum(1 for text in texts if pattern.search(text))
    reasons = ", ".join(_WRAPPERS[wrapper] for wrapper in held)
    what = f"{_some(carrying, names)} keys name wrappers of parts of the model ({reasons})"
    call = f"weighlock.state_dicts.rename(mapping, [(re.compile(r{expression!r}), '')])".replace("\\\\", "\\")
    return [(count, f"{what}; {call} makes {count} of {len(expected)} match")]


def _nested(names: Mapping[str, Any], expected: Mapping[str, Any], matched: int) -> list[tuple[int, str]]:
    """Find the weights deeper in a checkpoint, under the expected names or with a prefix before them."""
    inner = [place for place, _ in zip(candidates(names), range(_MOST_PLACES), strict=False) if place.path]
    found = [(*_fitting(place, names, expected), place) for place in inner]
    fitting = [one for one in found if one[0] > matched]
    fitting.sort(key=lambda item: (-item[0], len(item[3].path)))
    if _is_optimizer(names):
        return [(0, "the mapping is the state of an optimizer (state, param_groups), and holds no weights")]
    if not fitting and inner and not weights_in(names):
        most = sorted(inner, key=lambda place: -len(place.names))[:_MOST_NESTED]
        listed = ", ".join(f"{_spelled(place)} ({len(place.names)} tensors)" for place in most)
        return [(0, f"the mapping is a checkpoint; under other names than the expected ones, weights lie in {listed}")]
    return [
        (count, f"the weights lie under {_spelled(place)}: {call} makes {count} of {len(expected)} match{unfit}")
        for count, call, unfit, place in fitting[:_MOST_NESTED]
    ]


def _fitting(place: Candidate, names: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[int, str, str]:
    """Return how many names of a part would fit, what takes it out, and how many would have another shape."""
    steps = "".join(f"[{part!r}]" for part in place.path)
    call = f"mapping{steps}" if place.value is place.names else f"weighlock.state_dict(mapping{steps})"
    count = sum(1 for name in place.names if name in expected)
    prefix = _prefix(place.names, expected)
    if prefix is not None and prefix.fitting + prefix.others > count:
        call = f"weighlock.state_dicts.strip_prefix({call}, {prefix.text!r})"
        return prefix.fitting + prefix.others, call, _unfit(_cut(place.names, prefix.text), expected)
    if place.value is place.names and _is_found(place, names):
        call = f"{call}, or weighlock.state_dicts.find_state_dict(mapping),"
    return count, call, _unfit(_texts(place.names), expected)


def _is_found(place: Candidate, names: Mapping[str, Any]) -> bool:
    try:
        return find_state_dict(names) is place.value
    except StateDictError:
        return False


def _adapter(names: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Explain the factors of a LoRA adapter that is loaded in place of weights."""
    texts = [name for name, _ in _texts(names)]
    factors = sum(1 for text in texts if ".lora_A." in text or ".lora_B." in text)
    if not factors or factors * 2 < len(texts):
        return []
    what = f"{_some(factors, names)} keys are factors of a LoRA adapter, and no weights"
    return [(0, f"{what}: the weight of each layer of the base model gets lora_alpha / r * lora_B @ lora_A added")]


def _is_optimizer(names: Mapping[str, Any]) -> bool:
    return set(names) == {"state", "param_groups"} and isinstance(names["state"], Mapping)


def _texts(names: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((name, value) for name, value in names.items() if type(name) is str)


def _cut(names: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    return ((name.removeprefix(prefix), value) for name, value in _texts(names))


def _unfit(renamed: Iterable[tuple[str, Any]], expected: Mapping[str, Any]) -> str:
    """Say how many entries would have the right name, and another shape."""
    count = sum(1 for name, value in renamed if name in expected and shapes_differ(expected[name], value))
    return f", {count} of them with another shape" if count else ""


def _spelled(place: Candidate) -> str:
    return repr(".".join(map(str, place.path)))


def _some(carrying: int, names: Mapping[str, Any]) -> str:
    return f"all {len(names)}" if carrying == len(names) else f"{carrying} of {len(names)}"


def _prefix(longer: Mapping[str, Any], shorter: Mapping[str, Any]) -> _Prefix | None:
    texts = list(map(str, longer))
    possible = Counter(_candidates((name for name in texts if name not in shorter), shorter))
    if not possible:
        return None
    text = possible.most_common(1)[0][0]
    carrying = [name for name in texts if name.startswith(text)]
    fitting = sum(1 for name in carrying if name[len(text) :] in shorter)
    others = sum(1 for name in texts if not name.startswith(text) and name in shorter)
    return _Prefix(text, len(carrying), fitting, others)


def _candidates(names: Iterable[str], shorter: Mapping[str, Any]) -> Iterable[str]:
    for number, name in enumerate(names):
        if number == _TRIED:
            return
        place = name.find(".")
        while place >= 0:
            if name[place + 1 :] in shorter:
                yield name[: place + 1]
            place = name.find(".", place + 1)


def shapes_differ(expected: Any, found: Any) -> bool:
    """Whether two tensors, or shapes, are of different shapes; of what has none nothing is said."""
    shapes = stated_shape(expected), stated_shape(found)
    # PyTorch takes a single element for a number without dimensions: files of before 0.4 have no others.
    return None not in shapes and shapes[0] != shapes[1] and shapes != ((), (1,))


def stated_shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor, or the shape that stands in its place."""
    if isinstance(value, tuple | list):
        return tuple(value) if all(type(length) is int for length in value) else None
    return shape_of(value) if is_tensor(value) else None


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
