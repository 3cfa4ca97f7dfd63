"""What a hubconf offers after its code ran: started as a process of its own by `list(..., execute=True)`."""

import json
import sys

__all__: list[str] = []


def main(arguments: list[str]) -> None:
    """Import a folder's hubconf and print the names and docstrings of its callables as one line of JSON."""
    from weighlock.hub import torch_surface
    from weighlock.hub.entrypoints import ANSWER, open_hubconf
    from weighlock.hub.repositories import Working
    from weighlock.hub.routing import routed
    from weighlock.hub.settings import current
    from weighlock.hub.sources import parse

    root, commit, _ = arguments
    repository = parse(root, "local", current())
    with routed(lambda: torch_surface):
        _, module = open_hubconf(Working(root, repository, commit or None, "local"))
    names = [name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")]
    docs = [getattr(module, name).__doc__ for name in names]
    rows = [[name, doc if isinstance(doc, str) else None] for name, doc in zip(names, docs, strict=True)]
    sys.stdout.write(f"\n{ANSWER}{json.dumps(rows)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
