"""Checkpoints written again without ever being in memory: in another format, under other names, in other types.

- `conversion`: `weighlock.convert`;
- `edits`: `weighlock.edit`;
- `trees`: the description of a checkpoint's object, its entries left out, renamed and moved;
- `derived`: storages that are made of others while they are read: cast, replaced;
- `streams`: the bytes of a tensor on their way to a file;
- `describing`: descriptions in a pickle again, for PyTorch's own formats;
- `flat`: descriptions as named tensors, for safetensors and npz;
- `writing`: one plan, one file, or several with an index;
- `checking`: what was written, read back and compared.
"""
