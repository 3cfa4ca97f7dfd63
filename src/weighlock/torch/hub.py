"""`torch.hub` with its own names: results as PyTorch's, on Weighlock's cache, checks and isolation."""

from torch.hub import HASH_REGEX, READ_DATA_CHUNK, tqdm

from weighlock.hub.torch_surface import (
    download_url_to_file,
    get_dir,
    help,  # noqa: A004 - torch.hub's own name
    list,  # noqa: A004 - torch.hub's own name
    load,
    load_state_dict_from_url,
    set_dir,
)

__all__ = [
    "HASH_REGEX",
    "READ_DATA_CHUNK",
    "download_url_to_file",
    "get_dir",
    "help",
    "list",
    "load",
    "load_state_dict_from_url",
    "set_dir",
    "tqdm",
]
