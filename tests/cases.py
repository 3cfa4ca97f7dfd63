"""THE table of cases: objects that a checkpoint can hold. Readers, writers, goldens and mutations are driven by it.

Each case is a function from the torch module to an object; where torch is not installed, the goldens made from the
same table stand in for it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

CASES: dict[str, Callable[[Any], Any]] = {}

NUMPY_DTYPES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
    "complex128", "complex32", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip
PACKED_DTYPES = ("float4_e2m1fn_x2", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2")

# Legacy streams of these cannot be reloaded by torch 2.13 itself: their storages have no dtype there.
V3_DTYPES = frozenset(
    {"complex32", "uint16", "uint32", "uint64", *PACKED_DTYPES, *(n for n in NUMPY_DTYPES if n.startswith("float8"))}
)


def case(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    CASES[function.__name__] = function
    return function


def values_of(torch: Any, name: str, shape: tuple[int, ...] = (3, 4)) -> Any:
    """A tensor of this dtype with arbitrary bits, the same on every call."""
    dtype = getattr(torch, name)
    width = 1 if name in ("bool", *PACKED_DTYPES) and name != "bits16" else torch.empty((), dtype=dtype).element_size()
    count = 1
    for length in shape:
        count *= length
    raw = torch.tensor([(i * 37 + 11) % 256 for i in range(count * width)], dtype=torch.uint8)
    if name == "bool":
        return (raw % 2 == 0).reshape(shape)
    return raw.view(dtype).reshape(shape)


def _dtype_case(name: str) -> None:
    def make(torch: Any) -> Any:
        return {
            "t": values_of(torch, name),
            "scalar": values_of(torch, name, ()),
            "empty": values_of(torch, name, (0, 3)),
        }

    CASES[f"dtype_{name}"] = make


for _name in (*NUMPY_DTYPES, *PACKED_DTYPES):
    _dtype_case(_name)


@case
def state_dict(torch: Any) -> Any:
    torch.manual_seed(0)
    layers = (torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2, bias=False))
    return torch.nn.Sequential(*layers).state_dict()


@case
def parameters(torch: Any) -> Any:
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    return [torch.nn.Parameter(torch.arange(3.0)), frozen, torch.nn.Buffer(torch.ones(2))]


@case
def parameter_with_state(torch: Any) -> Any:
    parameter = torch.nn.Parameter(torch.arange(3.0))
    parameter.note = "kept"
    tensor = torch.arange(4.0)
    tensor.note = {"a": 1}
    return [parameter, tensor]


@case
def shared_storage(torch: Any) -> Any:
    base = torch.arange(24.0).reshape(4, 6)
    return {"base": base, "row": base[1], "column": base[:, 2], "tail": base[2:], "again": base, "transposed": base.t()}


@case
def strides(torch: Any) -> Any:
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    return {
        "permuted": base.permute(3, 1, 0, 2),
        "stepped": base[:, ::2, :, ::3],
        "expanded": torch.arange(3.0).expand(4, 3),
        "channels_last": base.to(memory_format=torch.channels_last),
        "offset": base[1, 2:],
        "zero_dim": base[1, 1, 1, 1],
    }


@case
def zero_sized(torch: Any) -> Any:
    return [torch.empty(0), torch.empty(3, 0, 2), torch.tensor(1.5), torch.empty(0, dtype=torch.int64)]


@case
def big_view(torch: Any) -> Any:
    return torch.arange(100_000, dtype=torch.int32)[5000:5010]


@case
def conj_and_neg(torch: Any) -> Any:
    base = torch.tensor([1 + 2j, 3 - 4j, 5 + 6j])
    return {"plain": base, "conj": base.conj(), "conj_view": base.conj()[1:], "neg": torch._neg_view(base)}


@case
def sparse(torch: Any) -> Any:
    dense = torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 4.0, 0.0], [0.0, 0.0, 5.0, 6.0]])
    twice = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (2, 3))
    return {
        "coo": dense.to_sparse(),
        "uncoalesced": twice,
        "hybrid": torch.sparse_coo_tensor([[0, 2]], [[1.0, 2.0], [3.0, 4.0]], (3, 2)),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((2, 2)),
        "bsc": dense.to_sparse_bsc((2, 2)),
        "batched": torch.stack([dense, dense]).to_sparse_csr(),
        "empty": torch.zeros(2, 3).to_sparse(),
    }


@case
def quantized(torch: Any) -> Any:
    torch.manual_seed(1)
    x = torch.randn(4, 6)
    scales, zeros = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 1, 2, 3])
    return {
        "qint8": torch.quantize_per_tensor(x, 0.1, 3, torch.qint8),
        "quint8": torch.quantize_per_tensor(x, 0.05, 10, torch.quint8),
        "qint32": torch.quantize_per_tensor(x, 0.01, 0, torch.qint32),
        "channels": torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8),
        "channels_float": torch.quantize_per_channel(x, scales, zeros.float(), 0, torch.quint8),
        "quint4x2": torch.quantize_per_channel(x, scales, zeros.float(), 0, torch.quint4x2),
    }


@case
def nested(torch: Any) -> Any:
    return torch.nested.nested_tensor([torch.arange(6.0).reshape(2, 3), torch.ones(4, 3)])


@case
def jagged(torch: Any) -> Any:
    return torch.nested.nested_tensor([torch.arange(6.0).reshape(2, 3), torch.ones(4, 3)], layout=torch.jagged)


@case
def meta(torch: Any) -> Any:
    return {"m": torch.empty(1 << 20, 3, device="meta"), "t": torch.ones(2)}


@case
def storages(torch: Any) -> Any:
    return [torch.arange(5, dtype=torch.uint8).untyped_storage()]


@case
def torch_values(torch: Any) -> Any:
    return {
        "size": torch.Size([2, 3]), "device": torch.device("cuda:1"), "cpu": torch.device("cpu"),
        "dtypes": [torch.float32, torch.bfloat16, torch.uint16, torch.int4],
        "scheme": torch.tensor([3.0, 1.0]).max(0), "top": torch.arange(5.0).topk(2),
    }  # fmt: skip


@case
def optimizer_adamw(torch: Any) -> Any:
    return _trained(torch, lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True))


@case
def optimizer_sgd(torch: Any) -> Any:
    return _trained(torch, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True))


@case
def scheduler(torch: Any) -> Any:
    torch.manual_seed(3)
    model = torch.nn.Linear(2, 2)
    steps = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD(model.parameters(), lr=0.1), [3, 5])
    return {"scheduler": steps.state_dict(), "rng": torch.get_rng_state()}


def _trained(torch: Any, make: Callable[[Any], Any]) -> Any:
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    optimizer = make(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 2, "loss": 0.25, "best": None}


@case
def plain_values(torch: Any) -> Any:
    return {
        "ints": [0, 1, -1, 255, 256, 65535, 65536, 2**31 - 1, -(2**31), 2**31, 2**63, -(2**100), 2**2000],
        "floats": [0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan"), 5e-324],
        "text": ["", "a", "ü", "漢字", "\U0001f600", "x" * 300, "line\nfeed"],
        "bytes": [b"\x00\xff", bytes(range(256))],
        "constants": [None, True, False],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "complex": 1 - 2j,
        "array": bytearray(b"abc"),
        "set": {1, 2, 3},
        3: "integer key",
        (1, "a"): "tuple key",
        None: "none key",
    }


@case
def many_numbers(torch: Any) -> Any:
    return [
        [i / 7 for i in range(2500)],
        list(range(70_000)),
        [-i for i in range(2500)],
        [2**40 + i for i in range(1200)],
    ]


@case
def ordered_dict(torch: Any) -> Any:
    made: Any = collections.OrderedDict(b=1, a=2)
    made._metadata = collections.OrderedDict({"": {"version": 1}})
    return made


@case
def counter(torch: Any) -> Any:
    return collections.Counter({"a": 2, "b": -1})


@case
def shared_objects(torch: Any) -> Any:
    part = [1, 2]
    return {"a": part, "b": part, "t": (part, part)}
