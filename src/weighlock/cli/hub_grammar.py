"""The grammar of ``weighlock hub`` and ``weighlock cache``."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from weighlock.cli.verbs import VERBS

__all__ = ["cache", "hub"]

_F = TypeVar("_F", bound=Callable[..., Any])

_SOURCES: Final = ("github", "gitlab", "gitea", "bitbucket", "huggingface", "git", "archive", "local")

_json: Final = click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
_yes: Final = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
_dry: Final = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
_source: Final = click.option("--source", type=click.Choice(_SOURCES), default="github", show_default=True)
_lock: Final = click.option("--lock-file", "lock_file", metavar="FILE", help="Another lock file than weighlock.lock.")
_repository: Final = click.argument("repository", metavar="REPOSITORY")


def _reaching(command: _F) -> _F:
    """Add the options of commands that may use the network."""
    offline = click.option("--offline", is_flag=True, help="Open no connection; take what is in the cache.")
    force = click.option("--refresh", is_flag=True, help="Ask and fetch again.")
    return offline(force(_source(command)))


def _run(name: str, options: dict[str, Any]) -> int:
    from weighlock.cli import hub_commands

    return int(getattr(hub_commands, name)(**options))


def _run_cache(name: str, options: dict[str, Any]) -> int:
    from weighlock.cli import cache_commands

    return int(getattr(cache_commands, name)(**options))


@click.group(short_help=VERBS["hub"], subcommand_metavar="COMMAND ...")
def hub() -> None:
    """Models and weights from repositories with a hubconf.py, as torch.hub loads them.

    REPOSITORY is owner/name, owner/name:ref, host/owner/name, a URL, or with --source local a folder. Nothing of a
    repository runs here, but by `lock --entry` and `list --execute`, which need trust.
    """


@hub.command("list")
@_repository
@click.option("--all", "everything", is_flag=True, help="Also names that come from other packages.")
@click.option("--execute", is_flag=True, help="Run the hubconf, in a process of its own, to see what it then offers.")
@_reaching
@_json
def list_entries(**options: Any) -> int:
    """List the entry points of REPOSITORY.

    One line each: name, parameters, first line of the docstring.
    """
    return _run("list_entries", options)


@hub.command("help")
@_repository
@click.argument("entry", metavar="ENTRY")
@_reaching
@_json
def help_entry(**options: Any) -> int:
    """Show the parameters and the docstring of an entry point."""
    return _run("help_entry", options)


@hub.command("inspect")
@_repository
@_reaching
@_json
def inspect_repository(**options: Any) -> int:
    """Say what REPOSITORY offers, needs, fetches, does on import."""
    return _run("inspect_repository", options)


@hub.command("prefetch")
@click.argument("repositories", nargs=-1, metavar="[REPOSITORY]...")
@click.option("--url", "urls", multiple=True, metavar="URL", help="Weights; may be given several times.")
@click.option("--locked", is_flag=True, help="All that the lock file names.")
@click.option(
    "--write-bundle", metavar="FILE", help="Also put all of it into one file, for a machine without a network."
)
@click.option("--read-bundle", metavar="FILE", help="Put what such a file holds into the cache.")
@_lock
@_reaching
@_json
def prefetch(**options: Any) -> int:
    """Fetch repositories and weights ahead, for use offline."""
    return _run("prefetch", options)


@hub.command("lock")
@click.argument("repositories", nargs=-1, metavar="[REPOSITORY]...")
@click.option("--url", "urls", multiple=True, metavar="URL", help="Weights; may be given several times.")
@click.option(
    "--entry", "entries", multiple=True, metavar="ENTRY", help="Run an entry point, and lock what it fetches."
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if the cache is not as the lock file says.")
@_lock
@_reaching
@_json
def lock(**options: Any) -> int:
    """Write commits and digests into weighlock.lock."""
    return _run("lock", options)


@hub.command("check")
@click.argument("folder", metavar="DIR", default=".")
@_json
def check(**options: Any) -> int:
    """Say what an author should mend in DIR.

    Exits with 1 if there is something.
    """
    return _run("check", options)


@hub.command("dir")
def directory(**options: Any) -> int:
    """Show the hub's folder."""
    return _run("directory", options)


@hub.group("trust")
def trust() -> None:
    """Say whose code may run.

    A PATTERN is such as owner/name, host/owner/*, owner/name@commit.
    """


@trust.command("add")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
def trust_add(**options: Any) -> int:
    """Let the code of matching repositories run, now and later."""
    return _run("trust_add", options)


@trust.command("remove")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
def trust_remove(**options: Any) -> int:
    """Take a pattern back. Exits with 1 if one was not there."""
    return _run("trust_remove", options)


@trust.command("list")
@_json
def trust_list(**options: Any) -> int:
    """Show every pattern and where it comes from."""
    return _run("trust_list", options)


@click.group(short_help=VERBS["cache"], subcommand_metavar="COMMAND ...")
def cache() -> None:
    """What the hub has stored: repositories by commit, weights by URL, and what torch.hub left there."""


@cache.command("ls")
@click.argument("words", nargs=-1, metavar="[TEXT]...")
@_json
def cache_ls(**options: Any) -> int:
    """List what is stored; with TEXT only what has it in its name."""
    return _run_cache("list_items", options)


@cache.command("du")
@_json
def cache_du(**options: Any) -> int:
    """Show how much each kind of thing takes."""
    return _run_cache("usage", options)


@cache.command("rm")
@click.argument("words", nargs=-1, required=True, metavar="TEXT...")
@_dry
@_yes
@_json
def cache_rm(**options: Any) -> int:
    """Remove what has TEXT in its name. Exits with 1 if there is nothing."""
    return _run_cache("remove_items", options)


@cache.command("prune")
@click.option("--older-than", "days", type=float, metavar="DAYS", help="Also what was not read for so long.")
@click.option("--keep-locked", "lock_files", multiple=True, metavar="FILE", help="A lock file whose entries stay.")
@_dry
@_yes
@_json
def cache_prune(**options: Any) -> int:
    """Remove what nothing refers to.

    That is commits that no ref means any more, unfinished downloads, and what killed processes left.
    """
    return _run_cache("prune", options)


@cache.command("verify")
@click.argument("words", nargs=-1, metavar="[TEXT]...")
@_json
def cache_verify(**options: Any) -> int:
    """Compare everything with its digests, without a network.

    Exits with 1 if something is damaged.
    """
    return _run_cache("verify", options)


@cache.command("why")
@click.argument("text", metavar="TEXT")
@click.option("--lock-file", "lock_files", multiple=True, metavar="FILE", help="A lock file to look into.")
@_json
def cache_why(**options: Any) -> int:
    """Say why something is stored. Exits with 1 if it is not."""
    return _run_cache("explain", options)


@cache.command("dir")
@_json
def cache_dir(**options: Any) -> int:
    """Show the hub's folder."""
    return _run_cache("directory", options)
