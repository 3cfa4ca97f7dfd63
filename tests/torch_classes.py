"""Tensor classes for the tests, importable by name."""

from __future__ import annotations

import torch


class Int4Tensor(torch.Tensor):
    """Elements of four bits, two in each byte of `elem`."""

    @staticmethod
    def __new__(cls, elem):
        shape = (*elem.shape[:-1], elem.shape[-1] * 2)
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.int4, requires_grad=False)

    def __init__(self, elem):
        self.elem = elem

    @classmethod
    def __torch_dispatch__(cls, func, types, args, kwargs=None):
        pass


class Subclass(torch.Tensor):
    pass


class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_subclass(cls, inner.to("meta"), inner.requires_grad)
        made.inner = inner
        return made


class Restored(Wrapper):
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __getstate__(self):
        return "mark", getattr(self, "inner", None), self.__dict__

    def __setstate__(self, state):
        mark, self.inner, self.__dict__ = state
        assert mark == "mark"
        self.total = float(self.inner.sum())  # looks at data: they must be there


class WithExtra(torch.nn.Linear):
    def get_extra_state(self):
        return {"calls": 3, "seen": torch.ones(2)}

    def set_extra_state(self, state):
        self.extra = state
