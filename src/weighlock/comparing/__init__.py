"""Two checkpoints compared: what each holds, then the values, streamed.

- `values`: two tensors, element by element;
- `pairing`: which tensor of one belongs to which of the other;
- `diffing`: `weighlock.diff`.
"""
