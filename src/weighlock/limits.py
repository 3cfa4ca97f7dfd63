"""How much a file may ask of the machine before it is refused.

A checkpoint may be hostile: forty bytes of pickle can ask for eight gigabytes of memory. Nothing is ever allocated
beyond what the file's own bytes justify; these limits bound what is left, the work and the memory per byte of input.
"""

from typing import Any

from weighlock.errors import ArgumentError, ArgumentTypeError

__all__ = ["Limits"]


class Limits:
    """Upper bounds for reading one file. All are checked before the memory is taken. Immutable.

    Parameters
    ----------
    **bounds : int
        Any of the attributes, each a positive integer; the others keep their defaults.

    Attributes
    ----------
    max_records : int
        Records in an archive. The largest real checkpoints seen have some 100,000 storages.
    max_pickle_bytes : int
        Bytes of one pickle, which is held in memory as a whole. Tensor data does not count: it lies outside.
    max_inflation : int
        Bytes that one byte of a deflated record may become. Deflate cannot exceed 1,032.
    max_inflated_bytes : int
        Bytes that all deflated records of a file may become together.
    max_nesting : int
        Checkpoints inside checkpoints (`pickle.dumps` of a tensor holds a whole legacy checkpoint as a byte string).
    max_key_nodes : int
        Objects in one dictionary key or set member. Hashing a tuple visits each of them, again on each reference:
        sixty nested pairs of one shared tuple take longer than the age of the universe.
    max_large_keys : int
        Dictionary keys of one hash, or that are integers beyond 2**61: they collide, and n of them cost n**2.
    max_dimensions : int
        Dimensions of a tensor, as in NumPy 2 and PyTorch.
    max_integer_bytes : int
        Bytes of one integer. Arithmetic on longer ones, and printing them, is slow enough to be an attack.

    Examples
    --------
    >>> Limits(max_records=1000).max_records
    1000
    """

    max_records: int = 4_000_000
    max_pickle_bytes: int = 4 << 30
    max_inflation: int = 1100
    max_inflated_bytes: int = 64 << 30
    max_nesting: int = 64
    max_key_nodes: int = 100_000
    max_large_keys: int = 4096
    max_dimensions: int = 64
    max_integer_bytes: int = 1 << 20

    def __init__(self, **bounds: int) -> None:
        for name, value in bounds.items():
            if name not in Limits.__annotations__:
                raise ArgumentTypeError(
                    f"there is no limit called {name!r}", expected=", ".join(Limits.__annotations__)
                )
            if type(value) is not int or value < 1:
                raise ArgumentError(f"Limits.{name} must be a positive integer", got=repr(value))
        self.__dict__.update(bounds)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"limits are immutable: make new ones, Limits({name}=...)")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limits) and self._bounds() == other._bounds()

    def __hash__(self) -> int:
        return hash(tuple(self._bounds().items()))

    def __repr__(self) -> str:
        return f"Limits({', '.join(f'{name}={value}' for name, value in self.__dict__.items())})"

    def _bounds(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in Limits.__annotations__}


DEFAULT_LIMITS = Limits()
