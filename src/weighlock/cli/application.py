"""The command's grammar: its verbs, what stands for ``inspect``, and how errors leave."""

import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from weighlock.cli.output import Output
from weighlock.errors import ArgumentError, WeighlockError

__all__ = ["application", "invoke"]

# THE list of commands: the module that holds each, and what it does.
_COMMANDS: Final = {
    "inspect": ("inspecting", "What a file is, what is inside, and whether it can be loaded."),
    "ls": ("listing", "One line per tensor."),
    "show": ("showing", "The values of a tensor, or what stands at a place."),
    "tree": ("drawing", "The names of the tensors as a tree."),
}

_EXAMPLES: Final = """\b
Examples:
  weighlock model.pth                     what is it, is it safe, what is inside
  weighlock ls model.pth                  one line per tensor
  weighlock ls model.pth --include 'encoder.**' --format tsv
  weighlock show model.pth 'fc.weight[:2, :5]'
  weighlock model.pth --json              for programs

`weighlock FILE...` is short for `weighlock inspect FILE...`; a file that is called like a command is opened with
`weighlock inspect ls` or `weighlock ./ls`. Nothing in a file is ever run or imported.

Exit codes: 0 good; 1 the answer is "no"; 2 it could not be done; 3 not everything was examined.
"""


class _Verbs(click.Group):
    """Commands that are imported when they are called; anything else on the line is a file to inspect."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # Written out, so that type checkers see them and nothing is imported by a computed name.
        match cmd_name:
            case "inspect":
                from weighlock.cli.inspecting import inspect

                return inspect
            case "ls":
                from weighlock.cli.listing import ls

                return ls
            case "show":
                from weighlock.cli.showing import show

                return show
            case "tree":
                from weighlock.cli.drawing import tree

                return tree
        return None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in _COMMANDS and args[0] not in ("--help", "-h", "--version"):
            args = ["inspect", *args]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples first."""
        self.format_help_text(ctx, formatter)
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
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version.")
def application() -> None:
    """Hold the commands together; see `_Verbs`."""


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. No exception but those of the terminal leaves."""
    wants_json = _wants_json(arguments)
    try:
        result = application.main(list(arguments), prog_name="weighlock", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        Output(stream=sys.stderr).text(error.ctx.get_help() if error.ctx else "")
        return 2
    except click.ClickException as error:
        return Output(json=wants_json).error(_usage_error(error))
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except WeighlockError as error:
        return Output(json=wants_json).error(error)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - Python's own exit code for a traceback is 1, which would say "no"
        return Output(json=wants_json).crash(error)
    return result if isinstance(result, int) else 0


def _wants_json(arguments: Sequence[str]) -> bool:
    """Tell the format of an error on a command line that could not be understood."""
    before = ["", *arguments]
    return any(
        argument in ("--json", "--format=json", "-fjson") or (argument == "json" and before[at] in ("--format", "-f"))
        for at, argument in enumerate(arguments)
    )


def _usage_error(error: click.ClickException) -> WeighlockError:
    name = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else "weighlock"
    what = error.format_message().strip().rstrip(".")
    return ArgumentError(what[:1].lower() + what[1:], hint=f"Try: {name} --help")
