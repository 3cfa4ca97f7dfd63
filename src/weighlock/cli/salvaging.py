"""``weighlock salvage``: what is whole in a damaged file, in a new one."""

from typing import TYPE_CHECKING, Any, Final

from weighlock.cli import wording
from weighlock.cli.common import STDOUT, taken
from weighlock.cli.documents import document
from weighlock.cli.opening import GOOD, NO
from weighlock.cli.output import Output, Piece
from weighlock.cli.progress import Bar, file_size
from weighlock.errors import ArgumentError
from weighlock.text import safe_text

if TYPE_CHECKING:
    from weighlock.salvaging.report import SalvagedTensor, SalvageReport

__all__ = ["salvage_file"]

_MOST: Final = 40
_KEY_WIDTH: Final = 72
_STYLES: Final = {"proven": "good", "unproven": "note", "lost": "bad"}


def salvage_file(damaged: str, out: str, **options: Any) -> int:
    """Save what can be saved; return 0 where nothing is lost, 1 where something is."""
    from weighlock.salvaging.salvage import salvage

    require_crc, raw = options.pop("require_crc", False), options.pop("raw", False)
    everything, manifest = options.pop("everything", False), options.pop("manifest", None)
    common = taken(options)
    if out == STDOUT:
        raise ArgumentError("what is saved goes into a file", got=out, hint="A file that is called so: ./-")
    output = Output(json=common.form == "json", color=common.color, quiet=common.quiet)
    # Searched, checked and written; and with a manifest, hashed.
    total = file_size(damaged) * (3 if manifest is None else 4)
    with Bar(total, shown=common.progress and not common.quiet) as bar:
        report = salvage(
            damaged, out, force=common.force, dry_run=common.dry_run, require_crc=require_crc, raw=raw,
            manifest=manifest, progress=bar,
        )  # fmt: skip
    if common.form == "json":
        output.document(document("weighlock/salvage", **report.to_dict()))
    else:
        _write(report, output, everything=everything, truncate=common.truncate)
    return GOOD if report.whole else NO


def _write(report: "SalvageReport", output: Output, *, everything: bool, truncate: bool) -> None:
    shown = report.tensors if everything else [t for t in report.tensors if t.state != "proven"]
    most = len(shown) if everything or not truncate else _MOST
    for tensor in shown[:most]:
        output.line(*_tensor(tensor, truncate=truncate))
    if len(shown) > most:
        output.line((f"… and {len(shown) - most:,} more; --all lists them", "note"))
    for note in report.notes:
        output.line(("note       ", "note"), note)
    counts = [f"{len(report.kept):,} of {len(report.tensors):,} tensors kept"]
    unproven = sum(tensor.state == "unproven" for tensor in report.kept)
    counts += [f"{unproven:,} of them unproven"] if unproven else []
    counts += [f"{len(report.lost):,} lost"] if report.lost else []
    done = "would be written" if report.target is None else f"{wording.size(report.nbytes)} written"
    where = "" if report.target is None else f" to {safe_text(report.target)}"
    output.line(f"{safe_text(report.source, limit=60)}: {', '.join(counts)}; {done}{where}")


def _tensor(tensor: "SalvagedTensor", *, truncate: bool) -> list[Piece]:
    key = wording.short(tensor.key, _KEY_WIDTH) if truncate else tensor.key
    return [(f"{tensor.state:<11}", _STYLES[tensor.state]), f"{key}  ", (tensor.reason, "note")]
