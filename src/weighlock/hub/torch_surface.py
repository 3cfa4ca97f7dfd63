"""torch.hub's functions with torch.hub's signatures, defaults and results, on this hub.

`weighlock.torch.hub` offers them, and while a repository's code runs they stand in the place of torch.hub's own
(`weighlock.hub.routing`). PyTorch is never imported here: whoever calls these has it.
"""

import functools
import io
import math
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from weighlock.errors import ArgumentError, DownloadError
from weighlock.hub import entrypoints
from weighlock.hub.checkpoints import Weights, download_to, find_weights
from weighlock.hub.directories import find_store, get_dir, set_dir
from weighlock.hub.routing import with_plain_names
from weighlock.hub.settings import configured, current
from weighlock.hub.weights import load_weights

__all__ = ["download_url_to_file", "get_dir", "help", "list", "load", "load_state_dict_from_url", "set_dir"]


_F = TypeVar("_F", bound=Callable[..., Any])


def _as_urllib(function: _F) -> _F:
    """Let the errors of the network also be those of urllib, which callers of torch.hub catch."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except DownloadError as error:
            raise _urllib_error(error) from error

    return wrapper  # type: ignore[return-value]


def _urllib_error(error: DownloadError) -> DownloadError:
    from urllib.error import HTTPError, URLError

    if isinstance(error, URLError):
        return error
    base: Any = HTTPError if getattr(error, "status", None) else URLError
    kind = type(type(error).__name__, (type(error), base), {"__module__": type(error).__module__})
    new: Any = OSError.__new__(kind)
    if base is HTTPError:
        HTTPError.__init__(new, error.url or "", error.status, error.what, {}, io.BytesIO())  # type: ignore[attr-defined, arg-type]
    else:
        new.reason = error.what
    new.__dict__.update(error.__dict__)
    new.args = error.args
    return new  # type: ignore[no-any-return]


@_as_urllib
def list(
    github: Any, force_reload: bool = False, skip_validation: bool = False, trust_repo: Any = "check",
    verbose: bool = True,
) -> Any:  # fmt: skip
    """List the entry points of a repository, as `torch.hub.list` does.

    They are read from the syntax tree. Only where that cannot tell them all is the hubconf imported, as torch.hub
    always does, and only then is trust asked for.

    Parameters
    ----------
    github : str
        ``owner/name[:ref]``.
    force_reload, skip_validation, verbose : bool
    trust_repo : bool or "check"

    Returns
    -------
    list of str
    """
    report, request = _report(github, force_reload, skip_validation, trust_repo, verbose)
    if report.complete:
        return [entry.name for entry in report.entries]
    module = _imported(request)
    return [name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")]


@_as_urllib
def help(
    github: Any, model: Any, force_reload: bool = False, skip_validation: bool = False, trust_repo: Any = "check"
) -> Any:
    """Return the docstring of an entry point, as `torch.hub.help` does, from the syntax tree where it is there.

    Parameters
    ----------
    github : str
    model : str
        The entry point's name.
    force_reload, skip_validation : bool
    trust_repo : bool or "check"

    Returns
    -------
    str or None
    """
    report, request = _report(github, force_reload, skip_validation, trust_repo, verbose=True)
    found = next((entry for entry in report.entries if entry.name == model), None)
    if found is not None and found.kind == "partial":
        return functools.partial.__doc__  # torch.hub has that of the object; weighlock.hub that of its function
    if found is not None and found.kind in ("def", "class", "reexport") and found.literal:
        return found.doc
    if found is None and report.complete and isinstance(model, str) and not model.startswith("_"):
        return entrypoints.describe(report, model).doc
    working = entrypoints.obtain(request, current())
    return entrypoints.find_entry(_imported(request), model, working).__doc__


def _report(github: Any, force: bool, skip: bool, trust_repo: Any, verbose: bool) -> tuple[Any, entrypoints.Request]:
    request = entrypoints.Request(
        repository=github, trust_repo=_trust(trust_repo), force=force, validate=not skip, verbose=verbose, runs=False
    )
    with configured(refresh=math.inf):
        working = entrypoints.obtain(request, current())
    run = entrypoints.Request(repository=github, trust_repo=request.trust_repo, verbose=False, validate=not skip)
    return entrypoints.report_of(working.root), run


def _imported(request: entrypoints.Request) -> Any:
    with configured(refresh=math.inf):
        working = entrypoints.obtain(request, current())
        return entrypoints.open_hubconf(working)[1]


def _trust(given: Any) -> Any:
    """Return what torch.hub makes of `trust_repo`: None lets pass. Its list of names is there from then on."""
    store = find_store()
    if store.writable():
        os.makedirs(store.hub, exist_ok=True)
        with open(os.path.join(store.hub, "trusted_list"), "a", encoding="utf-8"):
            pass
    return True if given is None else given


# Reason for the parameters: torch.hub.load's own.
@_as_urllib
def load(
    repo_or_dir: Any, model: Any, *args: Any, source: str = "github", trust_repo: Any = "check",
    force_reload: bool = False, verbose: bool = True, skip_validation: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    """Call an entry point of a repository or a folder, as `torch.hub.load` does.

    Parameters
    ----------
    repo_or_dir : str or os.PathLike
        ``owner/name[:ref]``, or a folder with ``source="local"``.
    model : str
        The entry point's name.
    *args, **kwargs
        What the entry point is given.
    source : str
        ``"github"`` or ``"local"``, or another of `weighlock.hub.sources.SOURCES`.
    trust_repo : bool or "check"
        True trusts the repository, now and later; ``"check"`` asks if it is not on the list; False asks always.
    force_reload : bool
        Ask and fetch again.
    verbose : bool
        Say where the cached copy is.
    skip_validation : bool
        Do not look whether a commit belongs to the repository.

    Returns
    -------
    object
        What the entry point returns.
    """
    source = source.lower()
    request = entrypoints.Request(
        repository=repo_or_dir, source=source, trust_repo=trust_repo if source == "local" else _trust(trust_repo),
        force=force_reload,
        validate=not skip_validation, verbose=verbose,
    )  # fmt: skip
    with configured(refresh=math.inf):
        working = entrypoints.obtain(request, current())
        return entrypoints.call_entry(working, model, args, kwargs, lambda: sys.modules[__name__])


@_as_urllib
def download_url_to_file(url: str, dst: Any, hash_prefix: str | None = None, progress: bool = True) -> None:
    """Fetch a URL into a file, as `torch.hub.download_url_to_file` does; whole, or not at all.

    Parameters
    ----------
    url : str
    dst : str
        The file; its folder must exist.
    hash_prefix : str, optional
        How the file's SHA-256 must begin.
    progress : bool
        Draw a bar where there is a terminal.
    """
    download_to(find_store(), url, dst, hash_prefix, progress, current())


# Reason for the parameters: torch.hub.load_state_dict_from_url's own.
@_as_urllib
def load_state_dict_from_url(
    url: str, model_dir: Any = None, map_location: Any = None, progress: bool = True, check_hash: bool = False,
    file_name: str | None = None, weights_only: bool = False,
) -> Any:  # fmt: skip
    """Load weights from a URL, as `torch.hub.load_state_dict_from_url` does.

    `weights_only` is False by default, as it is there: **the file can then run any code**.
    `weighlock.hub.load_state_dict_from_url` reads it as data.

    Parameters
    ----------
    url : str
    model_dir : str, optional
        Where the file is kept.
    map_location : None, str, torch.device, dict or callable
    progress : bool
    check_hash : bool
        Compare the SHA-256 with the one in the file's name. A name without one is warned about.
    file_name : str, optional
    weights_only : bool

    Returns
    -------
    object
        What `torch.load` returns for the file.
    """
    if os.environ.get("TORCH_MODEL_ZOO"):
        warnings.warn("TORCH_MODEL_ZOO is deprecated, please use env TORCH_HOME instead", stacklevel=2)
    weights = Weights(url=url, folder=model_dir, name=file_name, check_hash=check_hash, lenient=True, progress=progress)
    path = find_weights(find_store(), weights, current())
    load_file = with_plain_names(_loader())
    return load_weights(path, lambda file: load_file(file, map_location=map_location, weights_only=weights_only))


def _loader() -> Any:
    """Return the drop-in's `load` if it is there, else PyTorch's own."""
    for name in ("weighlock.torch", "torch"):
        load = getattr(sys.modules.get(name), "load", None)
        if load is not None:
            return load
    raise ArgumentError("PyTorch is not loaded", hint="weighlock.hub has the same functions without PyTorch.")
