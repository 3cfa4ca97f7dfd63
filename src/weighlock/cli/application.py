"""The command's grammar, in click: its verbs, their options, and what stands for ``inspect``."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from weighlock.cli.hub_grammar import cache, hub
from weighlock.cli.output import COLORS, Output
from weighlock.cli.scan_grammar import explain, scan
from weighlock.cli.verbs import VERBS
from weighlock.inspection import MAX_VALUES

__all__ = ["application"]

_FORMATS: Final = ("text", "json", "tsv", "csv")

_EXAMPLES: Final = """\b
Examples:
  weighlock model.pth                     what is it, is it safe, what is inside
  weighlock ls model.pth                  one line per tensor
  weighlock ls model.pth --include 'encoder.**' --format tsv
  weighlock show model.pth 'fc.weight[:2, :5]'
  weighlock scan models/                  what would loading run, is it whole
  weighlock model.pth --json              for programs

`weighlock FILE...` is short for `weighlock inspect FILE...`; a file that is called like a command is opened with
`weighlock inspect ls` or `weighlock ./ls`. Nothing in a file is ever run or imported.

Exit codes: 0 good; 1 the answer is "no"; 2 it could not be done; 3 not everything was examined.
"""

_F = TypeVar("_F", bound=Callable[..., Any])


class _Verbs(click.Group):
    """A group for which anything but a command, at the start of the line, is a file to inspect."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in VERBS and args[0] not in ("--help", "-h", "--version"):
            args = ["inspect", *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help, examples first."""
        self.format_help_text(ctx, formatter)
        formatter.write_paragraph()
        self.format_usage(ctx, formatter)
        self.format_options(ctx, formatter)


def _print_version(ctx: click.Context, _: Any, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        from weighlock.cli.documents import our_version

        Output().line(f"weighlock {our_version()}")
        ctx.exit()


@click.group(
    cls=_Verbs, help=f"Look into PyTorch checkpoints, without PyTorch.\n\n{_EXAMPLES}",
    context_settings={"help_option_names": ["-h", "--help"]}, subcommand_metavar="FILE... | COMMAND ...",
)  # fmt: skip
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
def application() -> None:
    """Hold the commands together; see `_Verbs`."""


_files: Final = click.argument("files", nargs=-1, required=True, metavar="FILE...")
_json: Final = click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")


def _common(command: _F) -> _F:
    """Add the options that every command has."""
    color = click.option(
        "--color", type=click.Choice(COLORS), default="auto", show_default=True,
        help="Colour; NO_COLOR, FORCE_COLOR and TERM=dumb are respected.",
    )  # fmt: skip
    encoding = click.option(
        "--encoding", default="utf-8", show_default=True, metavar="NAME",
        help="Of strings that Python 2 wrote: utf-8, latin1, bytes ...",
    )  # fmt: skip
    return color(encoding(command))


@application.command(short_help=VERBS["inspect"])
@_files
@_json
@_common
def inspect(**options: Any) -> int:
    """Say what each FILE is, what is inside, and whether it can be loaded.

    Reads the pickle and the directory, no tensor data; nothing in the file is run or imported.
    """
    from weighlock.cli.inspecting import inspect_files

    return inspect_files(**options)


@application.command(short_help=VERBS["ls"])
@_files
@click.option(
    "--include", "-i", multiple=True, metavar="GLOB", help="Only matching keys; * stops at dots, ** does not."
)
@click.option("--exclude", "-x", multiple=True, metavar="GLOB", help="No matching keys.")
@click.option("--long", "-l", "long", is_flag=True, help="Also strides, layouts and the like.")
@click.option("--format", "-f", "form", type=click.Choice(_FORMATS), default="text", show_default=True)
@_json
@_common
def ls(**options: Any) -> int:
    """List the tensors of each FILE in the file's order: key, type, shape, bytes.

    Reads the pickle and the directory, no tensor data. TSV columns, without a heading: key, dtype, shape, nbytes,
    storage, storage offset, contiguous; with -l also stride, layout, requires_grad, alias_of. With several files their
    name comes first. The exit code is 1 where --include or --exclude leave nothing.
    """
    from weighlock.cli.listing import list_files

    return list_files(**options)


@application.command(short_help=VERBS["show"])
@click.argument("file", metavar="FILE")
@click.argument("key", metavar="KEY[slice]")
@click.option("--all", "everything", is_flag=True, help=f"Also more than {MAX_VALUES:,} values.")
@_json
@_common
def show(**options: Any) -> int:
    r"""Print what stands at KEY in FILE: numbers of a tensor, a plain value, or what a container holds.

    \b
    weighlock show model.pth fc.weight
    weighlock show model.pth 'fc.weight[:2, -1]'
    weighlock show model.pth epoch
    weighlock show model.pth '["optimizer", "state", 0, "step"]'

    Of a tensor only the bytes that the slice needs are read. KEY is a path joined by dots; where that is ambiguous, a
    path as a JSON array.
    """
    from weighlock.cli.showing import show_place

    return show_place(**options)


@application.command(short_help=VERBS["tree"])
@_files
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Levels to show.")
@click.option("--fold/--no-fold", "folded", default=True, help="Draw numbered siblings of one structure only once.")
@_common
def tree(**options: Any) -> int:
    """Draw the tensors of each FILE as a tree, numbered blocks of one structure folded into one."""
    from weighlock.cli.drawing import draw_files

    return draw_files(**options)


application.add_command(scan)
application.add_command(explain)
application.add_command(hub)
application.add_command(cache)
