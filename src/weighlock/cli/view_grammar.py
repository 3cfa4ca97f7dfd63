"""The grammar of ``weighlock view``."""

from typing import Any

import click

from weighlock.cli.output import COLORS

__all__ = ["view"]


@click.command(short_help="A page in the browser that shows what files hold.")
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, metavar="N",
              help="Where to listen; 0 for any free port.")  # fmt: skip
@click.option("--no-browser", "browser", flag_value=False, default=True, help="Only print the address.")
@click.option("--idle-timeout", "idle", type=click.FloatRange(0), default=0.0, metavar="SECONDS",
              help="End when nobody has asked for so long; 0 for never.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option(
    "--i-know-this-exposes-files",
    "exposed",
    is_flag=True,
    help="Listen where other machines can reach it; only the token protects the files then.",
)
@click.option("--base-url", default="", metavar="URL", help="The address under which a proxy offers the viewer.")
@click.option("--allow-host", "hosts", multiple=True, metavar="HOST[:PORT]",
              help="Another name under which it may be asked.")  # fmt: skip
@click.option("--log", is_flag=True, help="A line for each request on standard error.")
@click.option("--encoding", default="utf-8", show_default=True, metavar="NAME", help="Of strings that Python 2 wrote.")
@click.option("--color", type=click.Choice(COLORS), default="auto", show_default=True)
def view(**options: Any) -> int:
    r"""Show what each FILE holds in the browser: tensors, values, storages, bytes, findings; of several, differences.

    \b
    weighlock view model.pth
    weighlock view before.pth after.safetensors
    weighlock view https://example.org/model.pth --no-browser

    Prints the address of the page, and serves it to this machine alone until Ctrl-C. Nothing in a file is run, nothing
    is written. Needs the extra: pip install 'weighlock[view]'
    """
    from weighlock.cli.viewing import view_files

    return view_files(**options)
