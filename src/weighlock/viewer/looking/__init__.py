"""What a page shows of a file without a tensor of it being built: descriptions, and bytes decoded one by one.

- `holding`: the files that were named, each opened when it is first asked for;
- `overview`: what a file is, and what it holds;
- `outline`: names as a tree; `listing`: tensors as a table; `describing`: one tensor;
- `cells`: exact values of a part; `tables`: storages, layout; `judging`: the security report.
"""
