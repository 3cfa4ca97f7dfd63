"""The command's grammar, in click: its verbs, their options, and what stands for ``inspect``."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from weighlock.cli.common import ALIASES, FORMATS, TAKEN, WRITTEN_FORMATS
from weighlock.cli.hub_grammar import cache, hub
from weighlock.cli.output import COLORS, Output
from weighlock.cli.scan_grammar import explain, scan
from weighlock.cli.tool_grammar import completion, env, git, schema
from weighlock.cli.verbs import VERBS
from weighlock.cli.view_grammar import view
from weighlock.inspection import MAX_VALUES

__all__ = ["application"]

_EXAMPLES: Final = """\b
Examples:
  weighlock model.pth                     what is it, is it safe, what is inside
  weighlock ls model.pth                  one line per tensor
  weighlock ls model.pth --include 'encoder.**' --format tsv
  weighlock show model.pth 'fc.weight[:2, :5]'
  weighlock scan models/                  what would loading run, is it whole
  weighlock verify model.pth              is every byte as it was written
  weighlock salvage broken.pth out.pth    save what is whole in a damaged file
  weighlock stats model.pth --check       minima, means, NaN; ends with 1 where there are any
  weighlock diff before.pth after.pth     what has changed
  weighlock view model.pth                look at it in the browser
  weighlock convert model.pth model.safetensors
  weighlock edit model.pth clean.pth --strip-prefix module.
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
@click.option("--debug", is_flag=True, expose_value=False, help="Also say where in Weighlock an error arose.")
def application() -> None:
    """Hold the commands together; see `_Verbs`."""


_files: Final = click.argument("files", nargs=-1, metavar="FILE...")
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


def _options(command: _F, *options: Callable[[_F], _F]) -> _F:
    """Add options in the order in which the help shows them."""
    for option in reversed(options):
        command = option(command)
    return command


def _form(*forms: str) -> Callable[[_F], _F]:
    """Add the formats of a command, and ``--json`` where that is one."""

    def add(command: _F) -> _F:
        choice = click.option("--format", "-f", "form", type=click.Choice(forms), default="text", show_default=True)
        return choice(_json(command) if "json" in forms else command)

    return add


def _listed(command: _F) -> _F:
    """Add what reads names of files from a list."""
    return _options(
        command,
        click.option("--files-from", metavar="FILE", help="Also the files named in FILE, one a line; - reads stdin."),
        click.option("--null", "-0", is_flag=True, help="Names in that list end with a null byte."),
    )  # fmt: skip


def _chosen(command: _F) -> _F:
    """Add the choice of keys."""
    return _options(
        command,
        click.option(
            "--include", "-i", multiple=True, metavar="GLOB", help="Only matching keys; * stops at dots, ** does not."
        ),
        click.option("--exclude", "-x", multiple=True, metavar="GLOB", help="No matching keys."),
    )


def _written(command: _F) -> _F:
    """Add where the result goes, and how."""
    return _options(
        command,
        click.option("--output", "-o", "target", metavar="FILE", help="Write the result there: all of it, or nothing."),
        click.option("--force", is_flag=True, help="Overwrite that file."),
        click.option("--dry-run", is_flag=True, help="Only say what would be written to it."),
        click.option("--quiet", "-q", is_flag=True, help="Print nothing: the exit code is the answer."),
        click.option("--no-progress", "progress", flag_value=False, default=True, help="No bar on a terminal."),
        click.option("--no-truncate", "truncate", flag_value=False, default=True, help="Shorten no name."),
        _common,
    )  # fmt: skip


@application.command(short_help=VERBS["inspect"])
@_files
@_listed
@_chosen
@_form("text", "json", "jsonl")
@_written
def inspect(**options: Any) -> int:
    """Say what each FILE is, what is inside, and whether it can be loaded.

    Reads the pickle and the directory, no tensor data; nothing in the file is run or imported. With --include or
    --exclude only the tensors that match are counted and drawn; the exit code is 1 where there are none.
    """
    from weighlock.cli.inspecting import inspect_files

    return inspect_files(**options)


@application.command(short_help=VERBS["ls"])
@_files
@_listed
@_chosen
@click.option("--long", "-l", "long", is_flag=True, help="Also strides, layouts and the like.")
@_form(*FORMATS)
@_written
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
@click.option("--dtype", metavar="NAME", help="Cast an array that is saved.")
@_form("text", "json", "csv", "tsv")
@_written
def show(**options: Any) -> int:
    r"""Print what stands at KEY in FILE: numbers of a tensor, a plain value, or what a container holds.

    \b
    weighlock show model.pth fc.weight
    weighlock show model.pth 'fc.weight[:2, -1]'
    weighlock show model.pth epoch
    weighlock show model.pth '["optimizer", "state", 0, "step"]'

    Of a tensor only the bytes that the slice needs are read. KEY is a path joined by dots; where that is ambiguous, a
    path as a JSON array. With -o NAME.npy the tensor is saved as an array of NumPy.
    """
    from weighlock.cli.showing import show_place

    return show_place(**options)


@application.command(short_help=VERBS["tree"])
@_files
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Levels to show.")
@click.option("--fold/--no-fold", "folded", default=True, help="Draw numbered siblings of one structure only once.")
@_listed
@_chosen
@_written
def tree(**options: Any) -> int:
    """Draw the tensors of each FILE as a tree, numbered blocks of one structure folded into one."""
    from weighlock.cli.drawing import draw_files

    return draw_files(**options)


@application.command(short_help=VERBS["stats"])
@_files
@_listed
@_chosen
@click.option("--hist", is_flag=True, help="Also a histogram of each.")
@click.option("--bins", type=click.IntRange(1, 10_000), default=40, show_default=True, metavar="N", help="Its bins.")
@click.option("--check", is_flag=True, help="End with 1 where a tensor holds NaN or infinities.")
@_form(*FORMATS)
@_written
def stats(**options: Any) -> int:
    """Measure the tensors of each FILE: minimum, maximum, mean, standard deviation, zeros, NaN, infinities.

    Figures are those of the finite numbers. Every tensor is read, a megabyte at a time. In JSON a figure that there is
    not is null.
    """
    from weighlock.cli.measuring import measure_files

    return measure_files(**options)


@application.command(short_help=VERBS["digest"])
@_files
@_listed
@_chosen
@click.option("--tensors", is_flag=True, help="The SHA-256 of the values of each tensor instead.")
@click.option("--weights", is_flag=True, help="The digest of the tensors alone, without the plain values.")
@_form(*FORMATS)
@_written
def digest(**options: Any) -> int:
    """Hash what each FILE holds: the same for every format, order of keys, stride and file name."""
    from weighlock.cli.measuring import digest_files

    return digest_files(**options)


@application.command(short_help=VERBS["layout"])
@_files
@_listed
@_form(*FORMATS)
@_written
def layout(**options: Any) -> int:
    """Say what each byte of each FILE is there for: records, headers, padding, gaps, bytes behind the end."""
    from weighlock.cli.layout import lay_out_files

    return lay_out_files(**options)


@application.command(short_help=VERBS["diff"])
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@_chosen
@click.option("--values/--no-values", default=True, help="Compare the values too, or only what there is.")
@click.option("--rtol", type=float, default=0.0, metavar="X", help="Equal is |a - b| <= ATOL + RTOL * |b|.")
@click.option("--atol", type=float, default=0.0, metavar="X")
@click.option("--strip-prefix-a", default="", metavar="TEXT", help="What stands before the names in A.")
@click.option("--strip-prefix-b", default="", metavar="TEXT", help="What stands before the names in B.")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="New names for those in A; * is any text.")
@click.option("--all", "everything", is_flag=True, help="Also what is the same, and nothing folded.")
@_form(*FORMATS)
@_written
def diff(**options: Any) -> int:
    """Compare the checkpoints A and B: tensors, types, shapes, values, plain values; of any two formats.

    Ends with 0 where nothing differs, 1 where something does, 3 where something could not be compared.
    """
    from weighlock.cli.comparing import diff_files

    return diff_files(**options)


def _rewritten(command: _F) -> _F:
    """Add what the commands have in common that write a checkpoint again."""
    return _options(
        command,
        click.option("--to", type=click.Choice(WRITTEN_FORMATS), help="The format, where the name does not say it."),
        click.option(
            "--aliases", type=click.Choice(ALIASES), default="record", show_default=True,
            help="Of tensors that share memory in a safetensors file: noted, stored each, refused.",
        ),
        click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Of a safetensors file."),
        click.option("--no-verify", "verify", flag_value=False, default=True, help="Do not read it back and compare."),
        click.option("--durable", is_flag=True, help="Wait until it is on the disk."),
        _written,
    )  # fmt: skip


@application.command(short_help=VERBS["convert"])
@click.argument("sources", nargs=-1, metavar="SRC...")
@click.argument("dst", metavar="DST")
@_listed
@_chosen
@click.option(
    "--take", type=click.Choice(TAKEN), default="all", show_default=True,
    help="The whole object, all tensors by key, or the state_dict in it.",
)  # fmt: skip
@click.option("--dtype", metavar="NAME", help="Cast floating-point tensors.")
@click.option("--max-shard-size", metavar="SIZE", help="Cut it into files of so much, with an index: 5GB.")
@_form("text", "json", "jsonl")
@_rewritten
def convert(
    sources: tuple[str, ...], dst: str, files_from: str | None, *, null: bool, **options: Any
) -> int:  # fmt: skip
    r"""Write the checkpoint SRC in another format to DST, a piece at a time.

    \b
    weighlock convert model.pt model.safetensors
    weighlock convert model.safetensors model.pt
    weighlock convert checkpoint.pt small.safetensors --take state_dict --dtype bfloat16
    weighlock convert *.pt folder --to safetensors
    weighlock convert --files-from list.txt folder --to safetensors

    Names that end with .pt, .pth, .bin, .ckpt, .safetensors or .npz say the format. A safetensors file describes in its
    metadata what is no tensor, so that the way back restores it. The result is read back and compared before it gets
    its name. The report goes to standard output, or to the FILE of -o; --force is for both files. Several files go into
    the folder DST under their names, with the ending of the format; one that fails stops no other.
    """
    from weighlock.cli.rewriting import convert_file, convert_files

    if files_from is None and len(sources) == 1:
        return convert_file(src=sources[0], dst=dst, **options)
    return convert_files(sources, dst, files_from=files_from, null=null, **options)


@application.command(short_help=VERBS["edit"])
@click.argument("src", metavar="SRC")
@click.argument("dst", metavar="DST")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Another name; * is any text.")
@click.option("--drop", multiple=True, metavar="GLOB", help="Leave out matching keys, or what is inside of them.")
@click.option("--keep", multiple=True, metavar="GLOB", help="Leave out all others.")
@click.option("--strip-prefix", default="", metavar="TEXT", help="What names lose, with its dot.")
@click.option("--add-prefix", default="", metavar="TEXT", help="What names of tensors get, with its dot.")
@click.option("--cast", multiple=True, metavar="DTYPE[:GLOB]", help="Another element type.")
@click.option("--replace", multiple=True, metavar="KEY=FILE", help="The array in FILE.npy instead of a tensor.")
@click.option("--within", default="", metavar="KEY", help="All names are meant inside of this one.")
@_form("text", "json")
@_rewritten
def edit(**options: Any) -> int:
    r"""Change names, types or single tensors of the checkpoint SRC, and write it to DST.

    \b
    weighlock edit model.pt clean.pt --strip-prefix module.
    weighlock edit model.pt model.pt --force --rename 'block*.w=layers.*.weight'
    weighlock edit checkpoint.pt weights.pt --keep model --strip-prefix model. --cast float16

    In this order: places are left out, tensors replaced and cast, then names lose a prefix, are renamed, get a prefix.
    Patterns of --drop, --keep, --cast and --replace are names in SRC. What does not change is copied by the system.
    """
    from weighlock.cli.rewriting import edit_file

    return edit_file(**options)


@application.command(short_help=VERBS["verify"])
@click.argument("paths", nargs=-1, metavar="PATH...")
@_listed
@click.option("--manifest", metavar="FILE", help="Hold files and tensors against it; without PATH, all that it lists.")
@click.option("--lock", metavar="FILE", help="Hold files against the weights of a weighlock.lock.")
@click.option("--jobs", "-j", type=click.IntRange(0), default=1, show_default=True, metavar="N",
              help="Files at once; 0 for one per core.")  # fmt: skip
@click.option("--allow-incomplete", is_flag=True, help="End with 0 where something was not checked.")
@_form("text", "json", "jsonl")
@_written
def verify(**options: Any) -> int:
    r"""Say whether each PATH is whole: checksums, sizes, places, padding, the bounds of every tensor.

    A PATH is a file, a folder, a pattern or an address. Every byte is read. What loading would run is the matter of
    `weighlock scan`.

    \b
    weighlock verify model.pth
    weighlock verify models/ --jobs 0
    weighlock verify models/ --manifest models/manifest.json

    Exit codes: 0 sound; 1 something is wrong; 2 nothing could be read; 3 something was not checked. A problem is
    never masked.
    """
    from weighlock.cli.verifying import verify_paths

    return verify_paths(**options)


@application.command(short_help=VERBS["manifest"])
@click.argument("paths", nargs=-1, metavar="PATH...")
@_listed
@_written
def manifest(**options: Any) -> int:
    r"""Write down the SHA-256 of each PATH and of every tensor in it, as JSON, for `weighlock verify --manifest`.

    \b
    weighlock manifest models/ -o models/manifest.json
    """
    from weighlock.cli.verifying import make_manifest

    return make_manifest(**options)


@application.command(short_help=VERBS["salvage"])
@click.argument("damaged", metavar="DAMAGED")
@click.argument("out", metavar="OUT")
@click.option(
    "--manifest", metavar="FILE", help="What `weighlock manifest` wrote when the file was whole: proves tensors."
)
@click.option("--require-crc", is_flag=True, help="Keep only what is proven.")
@click.option("--raw", is_flag=True, help="Where the structure is lost: the storages that are whole, as bytes.")
@click.option("--all", "everything", is_flag=True, help="List every tensor, not only those without proof.")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@click.option("--dry-run", is_flag=True, help="Only say what could be saved.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing: the exit code is the answer.")
@click.option("--no-truncate", "truncate", flag_value=False, default=True, help="Shorten no name.")
@_form("text", "json")
@click.option("--color", type=click.Choice(COLORS), default="auto", show_default=True)
def salvage(**options: Any) -> int:
    r"""Write to OUT, a new checkpoint, all that is whole in the file DAMAGED, which is never touched.

    Of PyTorch's zip archives and streams, TorchScript programs and .npz archives that were cut, or that hold damaged
    bytes, and of safetensors files that were cut. Tensors that are lost are named, and leave the object.

    \b
    weighlock salvage broken.pth saved.pth --dry-run
    weighlock salvage broken.pth saved.pth
    weighlock salvage broken.safetensors saved.safetensors --manifest manifest.json

    Exit codes: 0 nothing is lost; 1 something is lost; 2 nothing could be saved.
    """
    from weighlock.cli.salvaging import salvage_file

    return salvage_file(**options)


for tool in (view, scan, explain, completion, schema, env, git):
    application.add_command(tool)
application.add_command(hub)
application.add_command(cache)


def _keep_lines(command: click.Command) -> None:
    r"""Have the paragraphs behind a line ``\b`` keep their lines: docstrings are raw, and click wants the character."""
    if command.help is not None:
        command.help = command.help.replace("\\b\n", "\b\n")
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _keep_lines(inner)


_keep_lines(application)
