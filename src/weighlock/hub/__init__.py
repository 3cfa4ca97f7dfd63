"""Models and weights from repositories and URLs: what `torch.hub` does, without PyTorch.

`list`, `help` and `inspect` read a repository and run nothing of it; `load` runs it, after asking. Weights are fetched
once, checked, and read as data. Everything works offline once it is in the cache, and a lock file pins it.

Examples
--------
>>> import weighlock
>>> weighlock.hub.get_dir().endswith("hub")
True
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from weighlock.hub.bundles import read_bundle as read_bundle
    from weighlock.hub.bundles import write_bundle as write_bundle
    from weighlock.hub.directories import get_dir as get_dir
    from weighlock.hub.directories import set_dir as set_dir
    from weighlock.hub.locking import lock as lock
    from weighlock.hub.settings import Settings as Settings
    from weighlock.hub.settings import configured as configured
    from weighlock.hub.surface import download_url_to_file as download_url_to_file
    from weighlock.hub.surface import entry as entry
    from weighlock.hub.surface import help as help
    from weighlock.hub.surface import inspect as inspect
    from weighlock.hub.surface import list as list
    from weighlock.hub.surface import load as load
    from weighlock.hub.surface import load_state_dict_from_url as load_state_dict_from_url
    from weighlock.hub.surface import prefetch as prefetch
    from weighlock.hub.usage import recording as recording

# THE list of public names: the module that holds each. Nothing of it is imported before it is used.
_ROOMS = {
    "bundles": "read_bundle write_bundle",
    "directories": "get_dir set_dir",
    "locking": "lock",
    "usage": "recording",
    "settings": "Settings configured",
    "surface": "download_url_to_file entry help inspect list load load_state_dict_from_url prefetch",
}
_ROOM_OF = {name: f"weighlock.hub.{room}" for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted(_ROOM_OF)  # noqa: PLE0605 - a list, sorted; ruff cannot see it


def __getattr__(name: str) -> "Any":
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module 'weighlock.hub' has no attribute {name!r}")
    import sys

    __import__(room)
    value = getattr(sys.modules[room], name)
    globals()[name] = value
    return value


def __dir__() -> "Any":
    return __all__
