"""Mappings of names to tensors: in, out, and out of objects whose class is not here."""

from weighlock.state_dicts.drawing import state_dict

__all__ = ["state_dict"]
