"""Whether a file is whole: `weighlock.verify`, and the manifests that it can be held against.

Reads every byte, which a scan does not: checksums, sizes, places, padding, the bounds of every view, indices and
quantization parameters, and the digests of a manifest or a lock file. What a file would run is no matter of this room.
"""
