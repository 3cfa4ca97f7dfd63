"""Arrays of one element type copied into another, with the results that PyTorch has."""

from typing import Any, Final

__all__ = ["cast_array", "cast_into"]

# PyTorch 2.13 gives the largest number where one is too large for this type, infinities included, as its hardware does;
# ml_dtypes gives NaN. In all other types both give the same.
_LARGEST: Final = {"float8_e4m3fn": 448}


def cast_into(target: Any, source: Any) -> None:
    """Copy an array into one of another type. A number that is too large becomes inf, or what PyTorch makes of it."""
    import numpy as np

    with np.errstate(all="ignore"):  # which is nothing to warn of
        largest = _LARGEST.get(target.dtype.name)
        if largest is not None and source.dtype.name not in _LARGEST and source.dtype.kind not in "bc":
            source = _within(source, largest)
        np.copyto(target, source, casting="unsafe")


def cast_array(source: Any, dtype: Any) -> Any:
    """Return an array in another of NumPy's types; itself where it has that."""
    import numpy as np

    if source.dtype == dtype:
        return source
    made = np.empty_like(source, dtype=dtype)
    cast_into(made, source)
    return made


def _within(source: Any, largest: int) -> Any:
    import numpy as np

    if source.dtype.kind in "iu":  # no limit that their type may not have
        source = source.astype("f8")
    kind = source.dtype.type
    return np.maximum(np.minimum(source, kind(largest)), kind(-largest))
