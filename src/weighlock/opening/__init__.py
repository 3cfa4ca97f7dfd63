"""Checkpoints opened, not loaded: an index of lazy tensors, each read, or a part of it, when it is asked for.

- `opened`: `weighlock.open_checkpoint` and `LazyCheckpoint`, what stands in a file;
- `tensors`: `LazyTensor` and `LazyTensors`, the mapping of keys to them;
- `naming`: how paths are spelled as keys, so that no two are the same;
- `plain`: the values beside the tensors;
- `making`: descriptions handed to a framework once more, over parts of their storages;
- `planning`: which bytes that takes, and reading them.

Opening reads the directory and the pickles. A framework is reached only from `LazyTensor.read` and its relatives.
"""
