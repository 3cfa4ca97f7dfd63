"""The one place that decides where bytes come from: addresses are text with a scheme, everything else is local."""

import re
from collections.abc import Mapping
from typing import Any, Final

from weighlock.errors import ArgumentTypeError, UnsupportedError
from weighlock.storages.source import ByteSource, open_source

__all__ = ["is_address", "open_anywhere"]

# A scheme of two letters or more: one letter is a drive of Windows.
_ADDRESS: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)(?:://|::)")


def is_address(f: Any) -> bool:
    r"""Whether a caller means something elsewhere: text such as ``https://host/model.pth``. A `pathlib.Path` never is.

    Examples
    --------
    >>> is_address("s3://bucket/model.pth"), is_address("model.pth"), is_address("C:\\model.pth")
    (True, False, False)
    """
    return isinstance(f, str) and _ADDRESS.match(f) is not None


def open_anywhere(f: Any, options: Mapping[str, Any] | None = None) -> ByteSource:
    """Return the source for what a caller passed as `f`: a path, an address, bytes-like, or a file object.

    Parameters
    ----------
    f : object
    options : mapping, optional
        For an address: see `weighlock.open_checkpoint`.

    Raises
    ------
    ArgumentTypeError
        If it is none of these.
    SourceError, DownloadError, MissingDependencyError
        If it cannot be reached.
    """
    if is_address(f):
        raise UnsupportedError("addresses are not read yet", path=f)
    if options:
        raise ArgumentTypeError("storage_options are for addresses such as s3://...", got=type(f).__name__)
    return open_source(f)
