"""The JSON Schemas of the command's documents, as files beside this one."""

import os
from typing import Final

from weighlock.errors import ArgumentError

__all__ = ["names", "print_schema"]

_FOLDER: Final = os.path.dirname(os.path.abspath(__file__))


def names() -> list[str]:
    """Return the names of all documents."""
    return sorted(file.removesuffix(".json") for file in os.listdir(_FOLDER) if file.endswith(".json"))


def print_schema(name: str | None = None) -> int:
    """Print a schema, or the names of all; return the exit code."""
    import json

    from weighlock.cli.output import Output

    output = Output(color="never")
    if name is None:
        output.lines([found] for found in names())
        return 0
    name = name.removeprefix("weighlock/")
    if name not in names():
        raise ArgumentError("there is no such document", got=name[:80], hint=f"There are: {', '.join(names())}.")
    with open(os.path.join(_FOLDER, f"{name}.json"), encoding="utf-8") as file:
        output.text(json.dumps(json.load(file), indent=2, ensure_ascii=True))
    return 0
