"""The hub's functions: torch.hub's names and parameters, and what torch.hub lacks, keyword-only.

The functions that repositories' entry points see in the place of torch.hub's own are those of `torch_surface`.
"""

from collections.abc import Iterable
from typing import Any, Literal

from weighlock.errors import HubError
from weighlock.hub import entrypoints
from weighlock.hub.checkpoints import Weights, download_to, find_weights
from weighlock.hub.directories import find_store
from weighlock.hub.settings import configured, current
from weighlock.hub.weights import load_weights

__all__ = ["download_url_to_file", "entry", "help", "inspect", "list", "load", "load_state_dict_from_url"]


# Reason for the parameters: torch.hub.list's own, then ours.
def list(
    github: Any, force_reload: bool = False, skip_validation: bool = False, trust_repo: Any = "check",
    verbose: bool = True, *, source: str = "github", execute: bool = False, offline: bool | None = None,
    locked: bool | None = None,
) -> Any:  # fmt: skip
    r"""List the entry points of a repository. Nothing of it runs.

    Parameters
    ----------
    github : str or os.PathLike
        ``owner/name[:ref]``, a URL, or a folder with ``source="local"``.
    force_reload : bool
        Ask and fetch again.
    skip_validation : bool
        Do not look whether a commit belongs to the repository.
    trust_repo : bool or "check"
        Only for ``execute=True``.
    verbose : bool
        Say where the cached copy is.
    source : str
        One of `weighlock.hub.sources.SOURCES`.
    execute : bool
        Run the hubconf, in a process of its own, and list what it then offers: for names that are made by running code.
    offline, locked : bool, optional
        See `weighlock.hub.Settings`.

    Returns
    -------
    list of str
        In alphabetical order. A warning says so where the syntax tree cannot tell all of them.

    Raises
    ------
    HubError
        If the repository cannot be had or read.

    Examples
    --------
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(os.path.join(folder, "hubconf.py"), "w") as file:
    ...     _ = file.write("def net(pretrained=False):\n    'A net.'\n")
    >>> list(folder, source="local")
    ['net']
    """
    with configured(offline=offline, locked=locked):
        request = entrypoints.Request(
            repository=github, source=source, trust_repo=trust_repo, force=force_reload, validate=not skip_validation,
            verbose=verbose, runs=execute,
        )  # fmt: skip
        working = entrypoints.obtain(request, current())
        if execute:
            return [name for name, _ in entrypoints.executed_names(working)]
        report = entrypoints.report_of(working.root)
    if not report.complete:
        import warnings

        warnings.warn(
            f"the list may not be complete: {'; '.join(report.reasons[:3])}. execute=True runs the hubconf to see.",
            stacklevel=2,
        )
    return [found.name for found in report.entries]


# Reason for the parameters: torch.hub.help's own, then ours.
def help(
    github: Any, model: str, force_reload: bool = False, skip_validation: bool = False, trust_repo: Any = "check",
    *, source: str = "github", verbose: bool = False, execute: bool = False, offline: bool | None = None,
    locked: bool | None = None,
) -> str | None:  # fmt: skip
    """Return the docstring of an entry point. Nothing of the repository runs.

    Parameters
    ----------
    github : str or os.PathLike
    model : str
        The entry point's name.
    force_reload, skip_validation, trust_repo, source, verbose, execute, offline, locked
        As for `list`.

    Returns
    -------
    str or None
        Of a `functools.partial` the docstring of the function that it calls.

    Raises
    ------
    EntryPointError
        If there is no such entry point.
    """
    with configured(offline=offline, locked=locked):
        request = entrypoints.Request(
            repository=github, source=source, trust_repo=trust_repo, force=force_reload, validate=not skip_validation,
            verbose=verbose, runs=execute,
        )  # fmt: skip
        working = entrypoints.obtain(request, current())
        if execute:
            found = dict(entrypoints.executed_names(working))
            if model in found:
                return found[model]
        doc: str | None = entrypoints.describe(entrypoints.report_of(working.root), model).doc
        return doc


def inspect(
    repository: Any, *, source: str = "github", force_reload: bool = False, skip_validation: bool = False,
    offline: bool | None = None, locked: bool | None = None,
) -> Any:  # fmt: skip
    """Report what a repository offers, needs and does, from its syntax tree alone.

    Parameters
    ----------
    repository : str or os.PathLike
    source, force_reload, skip_validation, offline, locked
        As for `list`.

    Returns
    -------
    weighlock.hub.static.report.Report
        Entry points with signatures and docstrings, dependencies declared and undeclared, URLs, side effects of the
        import, and whether the syntax tree tells all.

    Raises
    ------
    HubError
        If the repository cannot be had or read.
    """
    with configured(offline=offline, locked=locked):
        request = entrypoints.Request(
            repository=repository, source=source, force=force_reload, validate=not skip_validation, verbose=False,
            runs=False,
        )  # fmt: skip
        return entrypoints.report_of(entrypoints.obtain(request, current()).root)


# Reason for the parameters: torch.hub.load's own, then ours.
def load(
    repo_or_dir: Any, model: str, *args: Any, source: str = "github", trust_repo: Any = "check",
    force_reload: bool = False, verbose: bool = True, skip_validation: bool = False, offline: bool | None = None,
    locked: bool | None = None, **kwargs: Any,
) -> Any:  # fmt: skip
    r"""Call an entry point of a repository: **this runs the repository's code**.

    Parameters
    ----------
    repo_or_dir : str or os.PathLike
        ``owner/name[:ref]``; ``host/owner/name[:ref]``; the URL of a repository's page, of git or of an archive; with
        ``source="local"`` a folder or a zip file.
    model : str
        The entry point's name.
    *args, **kwargs
        What it is given. Arguments that have the name of a parameter of this function go through `entry`.
    source : str
        One of `weighlock.hub.sources.SOURCES`.
    trust_repo : bool, "check" or None
        True trusts the repository, now and later. ``"check"`` and None ask where no rule lets it pass; False asks
        always. Where nobody can be asked, `UntrustedRepositoryError` says what to do.
    force_reload : bool
        Ask and fetch again.
    verbose : bool
        Say where the cached copy is.
    skip_validation : bool
        Do not look whether a commit belongs to the repository.
    offline, locked : bool, optional
        See `weighlock.hub.Settings`; also for what the entry point fetches.

    Returns
    -------
    object
        What the entry point returns.

    Raises
    ------
    UntrustedRepositoryError
        If nobody has said that the repository's code may run.
    EntryPointError
        If there is no such entry point, or packages are missing.
    HubError
        If the repository cannot be had.
    Exception
        Whatever the repository's code raises.

    Examples
    --------
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(os.path.join(folder, "hubconf.py"), "w") as file:
    ...     _ = file.write("def net(width=1):\n    return [0] * width\n")
    >>> load(folder, "net", width=3, source="local")
    [0, 0, 0]
    """
    request = entrypoints.Request(
        repository=repo_or_dir, source=source, trust_repo=trust_repo, force=force_reload, validate=not skip_validation,
        verbose=verbose,
    )  # fmt: skip
    with configured(offline=offline, locked=locked):
        working = entrypoints.obtain(request, current())
        return entrypoints.call_entry(working, model, args, kwargs, _torch_names)


def entry(repository: Any, model: str, *, source: str = "github", trust_repo: Any = "check", **options: Any) -> Any:
    r"""Return an entry point as a function: for arguments that `load` keeps for itself.

    Parameters
    ----------
    repository : str or os.PathLike
    model : str
    source, trust_repo
        As for `load`.
    **options
        `force_reload`, `skip_validation`, `verbose`, `offline`, `locked`, as for `load`.

    Returns
    -------
    callable

    Examples
    --------
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(os.path.join(folder, "hubconf.py"), "w") as file:
    ...     _ = file.write("def voice(source):\n    return source\n")
    >>> entry(folder, "voice", source="local")(source="microphone")
    'microphone'
    """
    import functools

    return functools.partial(_call, (repository, source, trust_repo, options), model)


def _call(place: Any, model: str, /, *args: Any, **kwargs: Any) -> Any:
    repository, source, trust_repo, options = place
    settings = {name: options.get(name) for name in ("offline", "locked")}
    unknown = set(options) - {"offline", "locked", "force_reload", "skip_validation", "verbose"}
    if unknown:
        raise HubError(f"unknown options: {', '.join(sorted(unknown))}")
    request = entrypoints.Request(
        repository=repository, source=source, trust_repo=trust_repo, force=options.get("force_reload", False),
        validate=not options.get("skip_validation", False), verbose=options.get("verbose", True),
    )  # fmt: skip
    with configured(**settings):
        return entrypoints.call_entry(entrypoints.obtain(request, current()), model, args, kwargs, _torch_names)


def _torch_names() -> Any:
    from weighlock.hub import torch_surface

    return torch_surface


def download_url_to_file(
    url: str, dst: Any, hash_prefix: str | None = None, progress: Any = True, *, offline: bool | None = None,
    locked: bool | None = None,
) -> None:  # fmt: skip
    """Fetch a URL into a file: whole, or not at all.

    Parameters
    ----------
    url : str
    dst : str or os.PathLike
        The file; its folder must exist.
    hash_prefix : str, optional
        How the file's SHA-256 must begin.
    progress : bool or callable
        A bar where there is a terminal; or a function that is called with the bytes done and the bytes in all.
    offline, locked : bool, optional
        See `weighlock.hub.Settings`; what was fetched before is then copied.

    Raises
    ------
    DownloadError
        If the bytes do not arrive. What did is kept for the next attempt.
    HashMismatchError
        If they are not what was asked for.
    """
    with configured(offline=offline, locked=locked):
        download_to(find_store(), url, dst, hash_prefix, progress, current())


# Reason for the parameters: torch.hub.load_state_dict_from_url's own, then ours.
def load_state_dict_from_url(
    url: str, model_dir: Any = None, map_location: Any = None, progress: Any = True, check_hash: bool = False,
    file_name: str | None = None, weights_only: bool = True, *,
    framework: str = "numpy", on_unknown: Literal["error", "stub"] = "error", force_reload: bool = False,
    offline: bool | None = None, locked: bool | None = None,
) -> Any:  # fmt: skip
    """Load weights from a URL: from the cache, or fetched once.

    Parameters
    ----------
    url : str
        ``https:``, ``http:``, ``ftp:``, ``data:``; a ``file:`` URL or a path is read where it is.
    model_dir : str or os.PathLike, optional
        Where the file is kept; ``checkpoints`` in the hub's folder by default.
    map_location : None, str, torch.device, dict or callable
        As for `weighlock.load`.
    progress : bool or callable
    check_hash : bool
        Compare the file's SHA-256 with the one in its name, ``name-<8 or more digits>.ext``.
    file_name : str, optional
        The file's name; the URL's last part by default.
    weights_only : bool
        True (the default) reads the file as data. False runs its pickle: **the file can then run any code**.
    framework, on_unknown
        As for `weighlock.load`.
    force_reload : bool
        Fetch again.
    offline, locked : bool, optional
        See `weighlock.hub.Settings`.

    Returns
    -------
    object
        What `weighlock.load` returns.

    Raises
    ------
    DownloadError
        If the bytes do not arrive, or are a web page.
    HashMismatchError
        If they are not what they should be, or `check_hash` has nothing to check against.
    CheckpointError
        If they are no checkpoint.

    Examples
    --------
    >>> import weighlock as wl, numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "net.pth")
    >>> wl.save({"weight": np.ones(2, "float32")}, path)
    >>> load_state_dict_from_url("file://" + path)["weight"]
    array([1., 1.], dtype=float32)
    """
    from weighlock.loading import load as load_file

    with configured(offline=offline, locked=locked):
        weights = Weights(
            url=url, folder=model_dir, name=file_name, check_hash=check_hash, force=force_reload, progress=progress
        )
        path = find_weights(find_store(), weights, current())
    return load_weights(
        path,
        lambda file: load_file(
            file, map_location, weights_only=weights_only, framework=framework, on_unknown=on_unknown
        ),
    )


def prefetch(
    *repositories: Any, urls: Iterable[str] = (), source: str = "github", force_reload: bool = False,
    progress: Any = True,
) -> Any:  # fmt: skip
    """Fetch repositories and weights ahead, so that they can be used offline. Nothing runs.

    Parameters
    ----------
    *repositories : str
    urls : iterable of str
        Weights.
    source : str
        As for `load`.
    force_reload : bool
        Ask and fetch again.
    progress : bool or callable

    Returns
    -------
    list of str
        Where each of them is, repositories first.
    """
    settings = current()
    found = []
    for repository in repositories:
        request = entrypoints.Request(
            repository=repository, source=source, force=force_reload, verbose=False, runs=False
        )
        found.append(entrypoints.obtain(request, settings).root)
    for url in urls:
        weights = Weights(url=url, force=force_reload, progress=progress)
        found.append(find_weights(find_store(), weights, settings))
    return found


__all__ += ["prefetch"]
