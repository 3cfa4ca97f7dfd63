"""How much a file may ask of the machine before it is refused.

A checkpoint may be hostile: forty bytes of pickle can ask for eight gigabytes of memory. Nothing is ever allocated
beyond what the file's own bytes justify; these limits bound what is left, the work and the memory per byte of input.
"""

from dataclasses import dataclass, fields

from weighlock.errors import ArgumentError

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds for reading one file. All are checked before the memory is taken.

    Examples
    --------
    >>> Limits(max_records=1000).max_records
    1000
    """

    max_records: int = 4_000_000
    """Records in an archive. The largest real checkpoints seen have some 100,000 storages."""

    max_pickle_bytes: int = 4 << 30
    """Bytes of one pickle, which is held in memory as a whole. Tensor data does not count: it lies outside."""

    max_inflation: int = 1100
    """Bytes that one byte of a deflated record may become. Deflate cannot exceed 1,032."""

    max_inflated_bytes: int = 64 << 30
    """Bytes that all deflated records of a file may become together."""

    max_nesting: int = 64
    """Checkpoints inside checkpoints (`pickle.dumps` of a tensor holds a whole legacy checkpoint as a byte string)."""

    max_key_nodes: int = 100_000
    """Objects in one dictionary key or set member. Hashing a tuple visits each of them, again on each reference:
    sixty nested pairs of one shared tuple take longer than the age of the universe."""

    max_large_keys: int = 4096
    """Dictionary keys that are integers beyond 2**61: those with one remainder collide, and n of them cost n**2."""

    max_dimensions: int = 64
    """Dimensions of a tensor, as in NumPy 2 and PyTorch."""

    max_integer_bytes: int = 1 << 20
    """Bytes of one integer. Arithmetic on longer ones, and printing them, is slow enough to be an attack."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ArgumentError(f"Limits.{field.name} must be a positive integer", got=repr(value))


DEFAULT_LIMITS = Limits()
