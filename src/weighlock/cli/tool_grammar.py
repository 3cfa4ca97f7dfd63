"""The grammar of the commands that set things up: completion, schemas, git."""

from typing import Any, Final

import click

from weighlock.cli.output import COLORS

__all__ = ["completion", "env", "git", "schema"]

_PATTERNS: Final = ("*.pt", "*.pth", "*.ckpt", "*.safetensors")


@click.command(short_help="The script that completes commands and tensor names in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(**options: Any) -> int:
    r"""Print the script that makes SHELL complete commands, options, files, and the names of tensors inside of them.

    \b
    bash:  eval "$(weighlock completion bash)"             in ~/.bashrc
    zsh:   eval "$(weighlock completion zsh)"              in ~/.zshrc, behind compinit
    fish:  weighlock completion fish > ~/.config/fish/completions/weighlock.fish
    """
    from weighlock.cli.completing import print_script

    return print_script(**options)


@click.command(short_help="The JSON Schema of a document.")
@click.argument("name", required=False)
def schema(**options: Any) -> int:
    """Print the JSON Schema of the document NAME, such as ls; without NAME, the names of all."""
    from weighlock.cli.schemas import print_schema

    return print_schema(**options)


@click.command(short_help="What Weighlock runs on here, for a report.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
@click.option("--color", type=click.Choice(COLORS), default="auto", show_default=True)
def env(**options: Any) -> int:
    """Print versions, paths and settings, as somebody who helps you will ask for them. No tokens, no passwords."""
    from weighlock.cli.environment import print_environment

    return print_environment(**options)


@click.group(short_help="Have git show differences of checkpoints.")
def git() -> None:
    """Have git show what has changed in a checkpoint: `git diff`, `git log -p`, `git show`."""


def _where(command: Any) -> Any:
    command = click.option("--dry-run", is_flag=True, help="Only say what would be written.")(command)
    return click.option("--global", "everywhere", is_flag=True, help="For all repositories of this user.")(command)


@git.command(short_help="Set it up in this repository.")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--shared", is_flag=True, help="In .gitattributes, for everybody who has the repository.")
@click.option("--force", is_flag=True, help="Replace what is set up already in another way.")
@_where
def install(**options: Any) -> int:
    """Have git compare files called PATTERN with Weighlock; by default *.pt *.pth *.ckpt *.safetensors.

    Writes the driver to the configuration of this repository, and the patterns to .git/info/attributes.
    """
    from weighlock.cli.git_driver import install as carry_out

    options["patterns"] = options["patterns"] or _PATTERNS
    return carry_out(**options)


@git.command(short_help="Undo that.")
@click.option("--shared", is_flag=True, help="From .gitattributes.")
@_where
def uninstall(**options: Any) -> int:
    """Undo `weighlock git install`: nothing of it stays."""
    from weighlock.cli.git_driver import uninstall as carry_out

    return carry_out(**options)


@git.command(short_help="What git calls to see a checkpoint as text.")
@click.argument("file")
def textconv(**options: Any) -> int:
    """Print a checkpoint as lines that can be compared: tensors with the SHA-256 of their values, plain values."""
    from weighlock.cli.git_driver import print_text

    return print_text(**options)


@git.command(short_help="What git calls to compare two checkpoints.")
@click.argument("arguments", nargs=-1, metavar="PATH OLD OLD-HEX OLD-MODE NEW NEW-HEX NEW-MODE [RENAMED-TO INFO]")
def driver(**options: Any) -> int:
    """Print what two versions of a checkpoint differ in, called as git calls an external diff."""
    from weighlock.cli.git_driver import print_diff

    return print_diff(**options)
