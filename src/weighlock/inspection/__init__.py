"""Looking into a checkpoint without loading it: summaries, listings, trees, and the values of a slice.

Everything here reads the pickle and the directory, and of the data only the elements that are asked for. Nothing needs
NumPy; the command line, its JSON and the viewer are made from these facts.

- `inventory.tensors(checkpoint)`: every tensor with its path, type, shape, storage and aliases;
- `summary.summarize(checkpoint)`: what the file is and holds, who shares memory, and whether it can be loaded;
- `values.read_values(checkpoint, spec, index)`: the numbers in a part of a tensor;
- `paths.find(root, key)`: what stands at a place;
- `folding`: the names as a tree.

Nothing is imported here: a listing does not pay for what only a summary needs.
"""

from typing import Final

__all__ = ["MAX_VALUES"]

MAX_VALUES: Final = 10_000
"""How many values of a tensor are shown unless the caller asks for more."""
