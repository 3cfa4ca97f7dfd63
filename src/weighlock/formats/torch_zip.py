"""The zip archive that `torch.save` writes since 1.4 (by default since 1.6).

Records under one root folder: the pickle ``data.pkl``, one record per storage in ``data/``, and small ones that say
how they were written (``version``, ``byteorder``, ``.format_version``, ``.storage_alignment``). The first builds of
2019 put storages into ``tensors/``.
"""

from weighlock.formats.reading import Contents, Reading
from weighlock.formats.zip_archive import ZipArchive
from weighlock.formats.zip_directory import ZipDirectory
from weighlock.storages.source import ByteSource

__all__ = ["read"]


def read(source: ByteSource, directory: ZipDirectory, reading: Reading) -> Contents:
    """Read a checkpoint whose archive has a record ``data.pkl``.

    Raises
    ------
    DamagedError
        If a record is missing, cut, or of another size than its storage.
    PickleStreamError
        If the pickle is malformed.
    """
    archive = ZipArchive(source, directory, reading)
    made, _ = reading.unpickle(
        archive.record("data.pkl"), archive.storage_loader("data/", "tensors/"), record=f"{archive.root}data.pkl"
    )
    return Contents(made, "torch-zip", source.size, archive.notes, archive.storages, layout=archive.layout)
