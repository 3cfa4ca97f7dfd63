"""A file of weights, loaded: also the zip files around one legacy checkpoint that torch.hub still takes."""

import io
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, Final

from weighlock.errors import ArchiveError

__all__ = ["load_weights"]

_MOST: Final = 16 << 30


def load_weights(path: str, load: Callable[[Any], Any]) -> Any:
    """Load a file; of a zip file that holds nothing but one file, load that.

    Parameters
    ----------
    path : str
    load : callable
        Loads a path or a file object.

    Raises
    ------
    ArchiveError
        If the one file in it is damaged or far larger than it can be.
    """
    inner = _lone_member(path)
    if inner is None:
        return load(path)
    warnings.warn(
        "Falling back to the old format < 1.6. This support will be deprecated in favor of default zipfile format "
        "introduced in 1.6. Please redo torch.save() to save it in the new zipfile format.",
        FutureWarning,
        stacklevel=3,
    )
    return load(io.BytesIO(inner))


def _lone_member(path: str) -> bytes | None:
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if len(infos) != 1 or infos[0].is_dir():
                return None
            if infos[0].file_size > min(_MOST, 1100 * max(infos[0].compress_size, 1)):
                raise ArchiveError("the file in the archive is larger than it can be", path=path)
            return archive.read(infos[0])
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"the archive is damaged: {error}", path=path) from error
