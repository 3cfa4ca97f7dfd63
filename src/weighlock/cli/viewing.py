"""``weighlock view``: a page on this machine that shows what checkpoints hold."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from weighlock.cli.common import STDIN
from weighlock.cli.opening import GOOD, check_encoding
from weighlock.cli.output import Output, note
from weighlock.errors import ArgumentError, MissingDependencyError, MissingFileError

__all__ = ["view_files"]


def view_files(files: Sequence[str], *, browser: bool = True, **options: Any) -> int:
    """Show files in a browser until interrupted; return the exit code. Options: those of `Settings`, and `color`."""
    options.pop("color", None)
    if not files:
        raise ArgumentError("no file is given", hint="Try: weighlock view --help")
    _check_files(files)
    check_encoding(options.get("encoding", "utf-8"))
    try:
        from weighlock.viewer.serving import Settings, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "anyio", "h11"):
            raise
        raise MissingDependencyError(
            f"the viewer needs the package {error.name}", hint="Install it with: pip install 'weighlock[view]'"
        ) from error
    from weighlock.cli.documents import our_version

    with ExitStack() as stack:

        def started(url: str) -> None:
            Output().line(url)
            _flush()
            note("Ctrl-C ends the viewer; who has this address can read these files")
            if browser and _has_screen():
                try:
                    _open_browser(stack.enter_context(_redirecting(url)))
                except OSError as error:
                    note(f"the browser could not be opened: {error.strerror}")

        why = serve(files, Settings(version=our_version(), **options), started)
    if why == "idle":
        note("nobody has asked for long: the viewer has ended")
    return GOOD


def _check_files(files: Sequence[str]) -> None:
    """Complain of what is not there now: a page that says so helps nobody."""
    from weighlock.storages.addresses import is_address, local_path

    for name in files:
        if name == STDIN:
            raise ArgumentError("standard input cannot be viewed", hint="Write it to a file first.")
        path = local_path(name)
        if not is_address(path) and not os.path.exists(path):
            raise MissingFileError("there is no such file", path=name)


def _flush() -> None:
    import sys

    sys.stdout.flush()


@contextmanager
def _redirecting(url: str) -> Iterator[str]:
    """Give a file that leads to the page and that only this user can read.

    The address itself would stand in the browser's command line, which every user of the machine can list.
    """
    with tempfile.TemporaryDirectory(prefix="weighlock-view-") as folder:  # only for its owner, as mkdtemp makes it
        path = os.path.join(folder, "open.html")
        page = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={url}">Weighlock\n'
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(page)
        yield path


def _has_screen() -> bool:
    """Whether a browser has somewhere to show itself.

    Without, as over ssh, Python finds lynx or w3m where they are installed: these take over the terminal on which the
    address stands, and cannot show the page.
    """
    import sys

    named = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("win32", "cygwin", "darwin") or any(os.environ.get(name) for name in named)


def _open_browser(path: str) -> None:
    """Open the browser, beside the server: some browsers return only when they are closed."""
    import threading
    import webbrowser
    from pathlib import Path

    threading.Thread(target=webbrowser.open, args=(Path(path).as_uri(),), daemon=True).start()
