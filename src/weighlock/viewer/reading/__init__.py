"""What a page shows that takes the values of tensors: streamed in bands, so that no tensor is held as a whole.

- `heat`: the least, mean and greatest value of each block of a plane;
- `figures`: extremes, mean, deviation, histogram; `comparison`: what two files differ in;
- `exporting`: a tensor as a file to keep.

NumPy is imported when the first of them is asked for.
"""
