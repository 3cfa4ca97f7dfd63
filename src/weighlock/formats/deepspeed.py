"""Folders of DeepSpeed's ZeRO, stages 1 to 3: the weights in full precision, put together from all ranks.

Each rank saves its part of one flat vector per group of parameters, in ``zero_pp_rank_N_mp_rank_00_optim_states.pt``;
the names and shapes, in the vector's order, stand in ``*_model_states.pt``. Source: `deepspeed/utils/zero_to_fp32.py`.

Stages 1 and 2 cut the vector of a group into one part per rank. Stage 3 cuts every parameter into one part per rank,
filled up so that all are equally long, and each rank's vector holds its parts of all parameters.
"""

import re
from typing import Any, Final, NamedTuple

from weighlock.errors import DamagedError, MissingFileError, UnsupportedError, WeighlockError
from weighlock.formats.joined import Stretch, joined_ref
from weighlock.formats.reading import Contents, Options, Reading
from weighlock.pickling.inert import Stub
from weighlock.storages.folders import FolderSource, check_name
from weighlock.storages.refs import StorageRef
from weighlock.tensors.layout import check_view, contiguous_stride
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import TensorSpec

__all__ = ["find_tag", "is_zero", "read"]

_OPTIMIZER: Final = re.compile(r"(?:bf16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{2,6})_optim_states\.pt")
_MODEL: Final = re.compile(r"(?:zero_pp_rank_(\d{1,6})_)?mp_rank_(\d{2,6})_model_states\.pt")
_LATEST: Final = "latest"
_LONGEST_TAG: Final = 1000
_HINT: Final = "DeepSpeed's own programs put it together: zero_to_fp32.py in the folder, or ds_to_universal.py."


def is_zero(names: list[str]) -> bool:
    """Whether a folder holds the files of the ranks themselves."""
    return any(map(_OPTIMIZER.fullmatch, names))


def find_tag(source: FolderSource, names: list[str]) -> str | None:
    """Return the folder inside that holds the latest checkpoint, where the file ``latest`` names one."""
    if _LATEST not in names:
        return None
    latest = source.folder.open(_LATEST)
    try:
        tag = latest.read_at(0, min(latest.size, _LONGEST_TAG)).decode("utf-8", "replace").strip()
    finally:
        latest.close()
    if not re.fullmatch(r"[\w.-]{1,200}", tag) or tag in (".", ".."):
        return None
    inside = source.folder.below(check_name(tag))
    return tag if inside is not None and is_zero(inside.names()) else None


class _Ranks(NamedTuple):
    """What all ranks saved.

    Attributes
    ----------
    stage : int
    vectors : list of list of TensorSpec
        Of each rank: the vectors of its groups.
    models : list of dict
        The ``*_model_states.pt``: one, or one per rank for stage 3.
    """

    stage: int
    vectors: list[list[TensorSpec]]
    models: list[dict[str, Any]]


def read(source: FolderSource, names: list[str], prefix: str, reading: Reading) -> Contents:
    """Read a folder: a state_dict of all weights.

    Parameters
    ----------
    names : list of str
        The files, without `prefix`.
    prefix : str
        The folder inside of `source` that holds them, with its slash, or nothing.

    Raises
    ------
    MissingFileError
        If files of ranks are missing.
    DamagedError
        If the files contradict each other.
    UnsupportedError
        If the model was cut in other ways too.
    """
    try:
        ranks = _read_ranks(source, names, prefix, reading)
        builder = _Builder(reading)
        made = builder.state_dict(ranks)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, WeighlockError):
            raise
        what = f"the files are not as DeepSpeed writes them: {type(error).__name__}: {error}"
        raise DamagedError(what, path=source.name, hint=_HINT) from error
    notes: dict[str, Any] = {
        "stage": ranks.stage,
        "ranks": len(ranks.vectors),
        "files": len(ranks.vectors) + len(ranks.models),
    }
    if prefix:
        notes["tag"] = prefix.rstrip("/")
    version = ranks.models[0].get("ds_version")
    if type(version) is str:
        notes["deepspeed"] = version
    return Contents(made, "deepspeed", 0, lambda: notes, builder.storages)


# -------------------------------------------------------------------------------------------------------- files


def _read_ranks(source: FolderSource, names: list[str], prefix: str, reading: Reading) -> _Ranks:
    optimizers = _by_rank(source, names, _OPTIMIZER)
    files = _by_rank(source, names, _MODEL)
    if any("expert" in name for name in names if name.endswith("_states.pt")):
        raise UnsupportedError(
            "a DeepSpeed checkpoint with experts in files of their own", path=source.name, hint=_HINT
        )
    # Descriptions only: whatever else DeepSpeed pickled stays what it is, inert.
    inner = Reading(
        Leaves(), reading.read_any, Options(limits=reading.limits, verify=reading.verify, stubs_allowed=True)
    )
    states = [_load(source, prefix + name, inner)["optimizer_state_dict"] for name in optimizers]
    stage, count = _number(states[0]["zero_stage"]), states[0]["partition_count"]
    count = max(map(_number, count)) if isinstance(count, list) else _number(count)
    if count != len(states):
        raise MissingFileError(
            f"a DeepSpeed checkpoint of {count} ranks", expected=f"{count} files of optimizer states",
            got=str(len(states)), path=source.name, hint="Get the files of all ranks.",
        )  # fmt: skip
    if stage not in (1, 2, 3):
        raise UnsupportedError("a DeepSpeed checkpoint of an unknown stage", got=str(stage), path=source.name)
    if not files:
        raise MissingFileError("the model states of a DeepSpeed checkpoint are missing", path=source.name)
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    vectors = [list(map(_vector, state[key])) for state in states]
    if len({tuple(len(group) for group in [rank]) for rank in vectors}) != 1:
        raise DamagedError("the ranks have different numbers of groups", path=source.name)
    return _Ranks(stage, vectors, [_load(source, prefix + name, inner) for name in files])


def _by_rank(source: FolderSource, names: list[str], pattern: re.Pattern[str]) -> list[str]:
    """Return the files of one kind, in the order of their ranks."""
    found = [match for match in map(pattern.fullmatch, names) if match]
    if len({match[2] for match in found}) > 1:
        raise UnsupportedError("the model was also cut by tensor or pipeline parallelism", path=source.name, hint=_HINT)
    ordered = sorted(found, key=lambda match: int(match[1] or 0))
    ranks = [int(match[1] or 0) for match in ordered]
    if ranks != list(range(len(ranks))):
        raise MissingFileError("files of some ranks are missing, or there twice", got=f"ranks {ranks[:20]}",
                               path=source.name, hint="Get the files of all ranks.")  # fmt: skip
    return [match[0] for match in ordered]


def _load(source: FolderSource, name: str, inner: Reading) -> dict[str, Any]:
    part = source.part(name)
    try:
        found = inner.read_any(part, inner).object
    except WeighlockError as error:
        raise error.locate(path=part.name) from error.__cause__
    if not isinstance(found, dict):
        raise DamagedError("a file of a DeepSpeed checkpoint is no dictionary", path=part.name)
    return found


def _number(value: Any) -> int:
    """Return a number, also where it is the value of an enumeration of DeepSpeed's."""
    if type(value) is Stub and len(value.args) == 1:
        value = value.args[0]
    if type(value) is not int or value < 0:
        raise TypeError(f"a number is missing: {type(value).__name__}")
    return value


def _vector(value: Any) -> TensorSpec:
    if type(value) is not TensorSpec or len(value.shape) != 1:
        raise TypeError(f"a flat tensor is missing: {type(value).__name__}")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not all(type(n) is int and 0 <= n < 1 << 48 for n in value):
        raise TypeError("a shape is missing")
    return tuple(value)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


# ------------------------------------------------------------------------------------------------------ weights


class _Builder:
    """Makes the state_dict."""

    def __init__(self, reading: Reading) -> None:
        self.storages: dict[str, StorageRef] = {}
        self._leaves = reading.leaves
        self._made: dict[int, Any] = {}

    def state_dict(self, ranks: _Ranks) -> dict[str, Any]:
        model = ranks.models[0]
        module, made = model["module"], dict[str, Any]()
        for name in model.get("buffer_names") or []:
            if name in module:
                made[name] = self._tensor(name, module[name])
        self._frozen(ranks, made)
        groups = [
            {name: _shape(shape) for name, shape in group.items()}
            for group in ([model["param_shapes"]] if isinstance(model["param_shapes"], dict) else model["param_shapes"])
        ]
        if ranks.stage == 3:
            self._stage_3(ranks, {name: shape for group in groups for name, shape in group.items()}, made)
        else:
            self._stage_2(ranks, groups, made)
        shared = model.get("shared_params") or {}
        for name, owner in shared.items() if isinstance(shared, dict) else shared:
            if owner in made:
                made[name] = made[owner]
        return made

    def _tensor(self, name: str, spec: Any) -> Any:
        """Return a tensor that one file holds whole."""
        if type(spec) is not TensorSpec:
            raise TypeError(f"a tensor is missing: {name}")
        storage = self._made.get(id(spec.ref))
        if storage is None:
            self.storages[name] = spec.ref
            storage = self._made[id(spec.ref)] = self._leaves.storage(spec.ref)
        return self._leaves.tensor(TensorSpec(storage, spec.dtype, spec.offset, spec.shape, spec.stride))

    def _storage(self, key: str, stretches: list[Stretch], numel: int) -> Any:
        ref = self.storages[key] = joined_ref(key, stretches, numel)
        return self._leaves.storage(ref)

    def _view(self, storage: Any, ref: StorageRef, name: str, offset: int, shape: tuple[int, ...]) -> Any:
        stride = contiguous_stride(shape)
        try:
            check_view(ref.nbytes, ref.dtype.itemsize, offset, shape, stride)
        except WeighlockError as error:
            raise error.locate(object_path=name) from None
        return self._leaves.tensor(TensorSpec(storage, ref.dtype, offset, shape, stride))

    def _stage_2(self, ranks: _Ranks, groups: list[dict[str, tuple[int, ...]]], made: dict[str, Any]) -> None:
        """Put the parts of each group's vector one behind the other; the parameters are views of it."""
        if len(groups) != len(ranks.vectors[0]):
            raise DamagedError("the ranks have other groups than the model", expected=f"{len(groups)} groups",
                               got=str(len(ranks.vectors[0])))  # fmt: skip
        for number, group in enumerate(groups):
            stretches, end = [], 0
            for rank in ranks.vectors:
                stretches.append(Stretch(rank[number], end, 0, rank[number].numel))
                end += rank[number].numel
            # The vector is filled up to a multiple of twice the number of ranks, or more: by less than that is right.
            needed, unit = sum(map(_count, group.values())), 2 * len(ranks.vectors)
            if -(-needed // unit) != -(-end // unit):
                raise DamagedError(
                    "the vector of a group has another length than its parameters",
                    expected=f"{needed} elements, filled up to a multiple of {unit}", got=str(end),
                )  # fmt: skip
            key = f"group {number}"
            storage, offset = self._storage(key, stretches, end), 0
            for name, shape in group.items():
                made[name] = self._view(storage, self.storages[key], name, offset, shape)
                offset += _count(shape)

    def _stage_3(self, ranks: _Ranks, shapes: dict[str, tuple[int, ...]], made: dict[str, Any]) -> None:
        """Put each parameter's parts one behind the other, all parameters in one storage."""
        world = len(ranks.vectors)
        ends = [_ends(rank) for rank in ranks.vectors]
        if len({rank[-1] for rank in ends}) != 1:
            raise DamagedError("the vectors of the ranks have different lengths")
        parts = {name: -(-_count(shape) // world) for name, shape in shapes.items()}
        if sum(parts.values()) != ends[0][-1]:
            raise DamagedError("the vectors of the ranks have another length than the parameters",
                               expected=f"{sum(parts.values())} elements", got=str(ends[0][-1]))  # fmt: skip
        stretches: list[Stretch] = []
        for number, rank in enumerate(ranks.vectors):
            offset = 0
            for part in parts.values():
                stretches += _cut(rank, ends[number], offset, part, world * offset + number * part)
                offset += part
        if not stretches:
            return
        key = "parameters"
        storage, offset = self._storage(key, stretches, world * ends[0][-1]), 0
        for name, shape in shapes.items():
            made[name] = self._view(storage, self.storages[key], name, world * offset, shape)
            offset += parts[name]

    def _frozen(self, ranks: _Ranks, made: dict[str, Any]) -> None:
        """Add the parameters that are not trained, of which the optimizer knows nothing."""
        shapes = ranks.models[0].get("frozen_param_shapes") or {}
        for name, given in shapes.items():
            fragments = [model["frozen_param_fragments"][name] for model in ranks.models]
            if ranks.stage < 3:
                made[name] = self._tensor(name, fragments[0])
                continue
            stretches, end = [], 0
            for fragment in map(_vector, fragments):
                stretches.append(Stretch(fragment, end, 0, fragment.numel))
                end += fragment.numel
            storage = self._storage(name, stretches, end)
            made[name] = self._view(storage, self.storages[name], name, 0, _shape(given))


def _ends(vectors: list[TensorSpec]) -> list[int]:
    """Return where each of the vectors ends, were they one."""
    ends = [0]
    for vector in vectors:
        ends.append(ends[-1] + vector.numel)
    return ends


def _cut(vectors: list[TensorSpec], ends: list[int], offset: int, size: int, target: int) -> list[Stretch]:
    """Return the stretches of one part, which may lie in several vectors."""
    found = []
    for vector, begin, end in zip(vectors, ends[:-1], ends[1:], strict=True):
        first, last = max(offset, begin), min(offset + size, end)
        if first < last:
            found.append(Stretch(vector, target + first - offset, first - begin, last - first))
    return found
