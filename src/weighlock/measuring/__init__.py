"""Values measured: streamed in pieces of a megabyte, whatever their format, element type and size.

- `pieces`: the values of a tensor, one piece after the other, in row-major order;
- `contents`: the plain values beside the tensors, spelled so that equal ones read equal;
- `digests`: `weighlock.digest`, one hash of all that a checkpoint holds, whatever its format;
- `moments`: mean, deviation, extremes and counts of one stream of numbers;
- `summaries`: `weighlock.stats`, these figures for every tensor.
"""
