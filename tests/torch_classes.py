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
