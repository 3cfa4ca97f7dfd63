"""PyTorch's plain objects by our own pickler: the same bytes as by Python's, or a word that it cannot."""

from __future__ import annotations

import collections
import io
import random
from typing import Any

import pytest

pytestmark = pytest.mark.requires_torch


def both(obj: Any, protocol: int, *, zipped: bool) -> tuple[Any, Any]:
    """What our pickler makes of an object (None if it declines), and what Python's does."""
    from weighlock.backends import torch_saving

    plain = torch_saving._serialize_plainly(obj, protocol, zipped=zipped)
    real = torch_saving._serialize_plainly
    torch_saving._serialize_plainly = lambda *_args, **_options: None
    try:
        usual = torch_saving.serialize(obj, protocol, None, zipped=zipped)
    finally:
        torch_saving._serialize_plainly = real
    return plain, usual


def content(made: Any) -> Any:
    pickle, storages, units = made
    return pickle, [bytes(storages.buffer(index)) for index in range(len(storages.sizes))], list(units)


def random_tree(torch: Any, seed: int) -> Any:
    rng = random.Random(seed)
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint8]
    known: list[Any] = ["0", "1", "12", "cpu", "storage", "weight", (1, 2), ()]

    def tensor() -> Any:
        shape = rng.choice([(), (1,), (3,), (2, 3), (0,), (2, 1, 4), (1, 2, 3, 4), (300, 2)])
        made = torch.zeros(shape, dtype=rng.choice(dtypes))
        kind = rng.random()
        if kind < 0.2 and made.is_floating_point():
            made.requires_grad_()
        elif kind < 0.4 and made.numel() > 2:
            made = made.flatten()[1:]
        elif kind < 0.5 and made.dim() == 2:
            made = made.t()
        elif kind < 0.6:
            made = made.expand(2, *made.shape)
        return made

    def value(depth: int) -> Any:
        kind = rng.randrange(9 if depth else 6)
        if kind == 0:
            return rng.choice(known)
        if kind == 1:
            return rng.choice([0, 255, 256, 65536, -1, 2**31, -(2**40), 2**70, True, None, 1.5, float("inf")])
        if kind in (2, 3, 4, 5):
            made: Any = tensor() if kind < 5 else f"key{rng.randrange(1000)}"
        elif kind == 6:
            made = {f"layer{index}": value(depth - 1) for index in range(rng.choice([0, 1, 2, 30]))}
        elif kind == 7:
            made = collections.OrderedDict((str(index), value(depth - 1)) for index in range(rng.choice([0, 1, 5])))
            if rng.random() < 0.5:
                made._metadata = {"version": 1}
        else:
            made = rng.choice([list, tuple])(value(depth - 1) for _ in range(rng.choice([0, 1, 2, 3, 4])))
        known.append(made)
        return made

    return {str(index): value(3) for index in range(20)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("seed", range(15))
def test_the_same_bytes(torch, seed, protocol, zipped):
    plain, usual = both(random_tree(torch, seed), protocol, zipped=zipped)
    assert plain is not None
    assert content(plain) == content(usual)


def test_the_same_bytes_for_thousands(torch):
    tree = {f"t{index}": torch.full((index % 5, 2), index) for index in range(3_000)}
    plain, usual = both(tree, 2, zipped=True)
    assert content(plain) == content(usual)


class Named(collections.namedtuple("Named", "a b")):
    __slots__ = ()


@pytest.mark.filterwarnings("ignore:backward hook")
@pytest.mark.parametrize(
    "make",
    [
        lambda torch: torch.nn.Parameter(torch.ones(2)),
        lambda torch: torch.ones(2).to_sparse(),
        lambda torch: torch.ones(2, device="meta"),
        lambda torch: torch.ones(2, dtype=torch.complex64).conj(),
        lambda torch: torch.ones(2, dtype=torch.uint16),
        lambda torch: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda torch: with_attribute(torch.ones(2)),
        lambda torch: with_hook(torch.ones(2)),
        lambda torch: torch.ones(2).untyped_storage(),
        lambda torch: torch.float32,
        lambda torch: torch.Size([1, 2]),
        lambda torch: {1, 2},
        lambda torch: frozenset(),
        lambda torch: b"",
        lambda torch: bytearray(b"a"),
        lambda torch: int,
        lambda torch: Named(1, 2),
        lambda torch: collections.Counter("abc"),
        lambda torch: 1 + 2j,
    ],
)
def test_what_is_left_to_pythons_pickler(torch, make):
    plain, usual = both([make(torch), 1], 2, zipped=True)
    assert plain is None
    assert usual[0].startswith(b"\x80\x02]")


def with_attribute(tensor: Any) -> Any:
    tensor.note = "kept"
    return tensor


def with_hook(tensor: Any) -> Any:
    tensor.requires_grad_().register_hook(print)
    return tensor


def test_two_types_at_one_place_are_refused_as_ever(torch):
    from weighlock.errors import SaveError
    from weighlock.torch import save

    tensor = torch.zeros(4)
    with pytest.raises(SaveError, match="view the same data as different types"):
        save([tensor, tensor.view(torch.int32)], io.BytesIO())


def test_somebody_elses_reduction_is_asked(torch, monkeypatch):
    import copyreg

    from weighlock.torch import save

    asked = []

    def reduce(tensor):
        asked.append(tensor)
        return int, (5,)

    monkeypatch.setitem(copyreg.dispatch_table, torch.Tensor, reduce)
    file = io.BytesIO()
    save([torch.ones(1)], file)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("make", "declined"),
    [
        (lambda torch: [f"token {index}" for index in range(60_000)], True),
        (lambda torch: collections.OrderedDict((str(index), index) for index in range(60_000)), True),
        (lambda torch: [[index] for index in range(60_000)], True),
        (lambda torch: list(range(60_000)), False),
        (lambda torch: {f"weight {index}": torch.zeros(2) for index in range(6_000)}, False),
    ],
    ids=["strings", "ordered", "lists", "numbers", "tensors"],
)
def test_what_pythons_pickler_writes_faster_is_left_to_it(torch, make, declined):
    # A vocabulary of 300,000 words took twice as long as with torch.save.
    plain, usual = both(make(torch), 2, zipped=True)
    assert (plain is None) == declined
    if plain is not None:
        assert content(plain) == content(usual)
