"""The grammar of ``weighlock scan`` and ``weighlock explain``, in click."""

from typing import Any, Final

import click

from weighlock.cli.output import COLORS
from weighlock.cli.verbs import VERBS

__all__ = ["explain", "scan"]

_FORMATS: Final = ("text", "json", "jsonl", "html", "sarif")
_SEVERITIES: Final = ("low", "medium", "high", "critical", "never")


@click.command(short_help=VERBS["scan"])
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--format", "-f", "form", type=click.Choice(_FORMATS), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("--output", "-o", metavar="FILE", help="Write the report to FILE, whole or not at all.")
@click.option(
    "--fail-on", type=click.Choice(_SEVERITIES), help="The least severity that ends with exit code 1.  [default: low]"
)
@click.option("--allow", multiple=True, metavar="GLOBAL", help="A global that you trust: pkg.Class, or pkg.*.")
@click.option("--exclude", "-x", multiple=True, metavar="GLOB", help="Paths below folders to leave out.")
@click.option("--files-from", metavar="FILE", help="Also the paths in FILE, one a line; - is standard input.")
@click.option("--policy", metavar="FILE", help="A TOML file with these options, and severities of rules.")
@click.option("--baseline", metavar="FILE", help="Findings in FILE are known, and do not count.")
@click.option("--write-baseline", metavar="FILE", help="Write all findings to FILE, and end with 0.")
@click.option("--deep", is_flag=True, help="Also the checksum and header of all tensor data: reads everything.")
@click.option("--allow-incomplete", is_flag=True, help="End with 0 where something was not examined.")
@click.option("--jobs", "-j", type=click.IntRange(0), default=1, show_default=True, metavar="N",
              help="Processes; 0 for one per core.")  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="Nothing but what is wrong.")
@click.option("--color", type=click.Choice(COLORS), default="auto", show_default=True)
def scan(**options: Any) -> int:
    r"""Say what loading each PATH would import, call or exhaust, and whether it is whole.

    A PATH is a file, a folder or a pattern; what a file is, its content tells. Nothing is imported, called or built,
    and no tensor data is read (but for --deep, and indices of sparse tensors).

    \b
    weighlock scan model.pth
    weighlock scan models/ --jobs 0 --fail-on high
    weighlock scan models/ -f sarif -o scan.sarif
    weighlock scan models/ --write-baseline known.json
    weighlock scan models/ --baseline known.json

    Exit codes: 0 clean; 1 something was found; 2 nothing could be read; 3 something was not examined. A finding is
    never masked.
    """
    from weighlock.cli.scanning import scan_paths

    if options.pop("as_json"):
        options["form"] = "json"
    return scan_paths(**options)


@click.command(short_help=VERBS["explain"])
@click.argument("rules", nargs=-1, metavar="[RULE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
@click.option("--color", type=click.Choice(COLORS), default="auto", show_default=True)
def explain(**options: Any) -> int:
    """Say what each RULE means, with an example and what to do; without RULE, list all of them."""
    from weighlock.cli.explaining import explain_rules

    return explain_rules(**options)
