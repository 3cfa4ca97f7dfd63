"""Bytes and where they live: byte sources, the storages that a checkpoint names, and the locations they came from."""
