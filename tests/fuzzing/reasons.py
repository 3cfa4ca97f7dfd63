"""Why one of PyTorch and Weighlock reads a file and the other does not: each class by the words of who refuses.

A row is one class: the beginning of the error (its class and what it says), the reason, and the beginning of the row of
``docs/compatibility.md`` that tells a user. A run of the fuzzer counts how often each row was needed. A mutant
brought each of them here, but for the names of the closed table and for some checks of the rebuild functions, which are
there as a whole. What no row fits is a finding.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["OF_THE_PLACE", "OURS_ALONE", "THEIRS_ALONE", "Reason"]


class Reason(NamedTuple):
    """One class of files that only one side reads."""

    words: str
    """A regular expression for the beginning of the error."""
    why: str
    page: str
    """How the first cell of a row in the page begins."""

    def told(self, answer: str) -> str:
        """The row in a list of counts."""
        return f"{answer}: {self.why} [{self.words}]"


# The rows of the page, by how their first cells begin.
CHECKSUM = "a record whose CRC-32 is wrong"
DIRECTORY = "an archive whose directory cannot be believed"
STREAM = "a legacy stream that lacks the bytes of a storage it names"
MALFORMED = "a pickle that does what no pickler writes"
HIDDEN = "tensor attributes with names such as"
FRAMES = "a pickle with a frame (protocol 4)"
HASHES = "many keys of a dictionary with one hash"
CALLS = "`torch.FloatTensor(1 << 40)` and the like"
OUTSIDE = "a tensor that reaches outside of its storage"
QUANTIZED = "a quantized storage in the call for a plain tensor"
CONVERTED = "a legacy stream whose sparse or quantized tensor has parts of another type"
STRIDES = "with NumPy, strides that are beyond 64 bits in bytes"
MARKED = "a record with data that has the attribute of a folder"
TWICE = "a tar archive in which `storages`"
LIMITS = "quantized tensors out of all proportion"
KEYS = "with NumPy, tensors as keys of dictionaries"
NESTED_BOUNDS = "a nested tensor that reaches outside of its buffer"
SPARSE = "a sparse tensor whose indices lie outside of its shape"
VALUES = "empty `bytes`, `frozenset`"
NUMPY = "NumPy arrays, scalars and dtypes"
TORCH_VALUES = "`torch.return_types`"
PROTOCOLS = "pickle protocols 0, 1, 3, 4 and 5"
PLAIN = "plain pickles of tensors"
NEW_TYPES = "legacy streams of `float8`"
SCRIPT = "TorchScript archives"
FOLDER = "archives without a folder"
EMPTY = "archives with records outside of the folder of the others"
VERSION = "archives without the record `version`"
PLACES = "with NumPy, storages of any place"
CONJUGATE = "tensors with the conjugate or negative bit that require a gradient"
ATTRIBUTES = "with NumPy, attributes of tensors"
SUBCLASS = "with NumPy, tensors of what is no class of tensors"
PARTS = "descriptions with more parts than PyTorch knows"
CLASSES = "tensors of 2016 whose class names another type"
EMPTY_SIZES = "sizes and strides beyond 64 bits"
DISKS = "archives whose end record counts other disks"
AGAIN = "a storage that is mentioned again with another length"
NESTED = "legacy streams of nested tensors"
NESTED_ORDER = "with NumPy, nested tensors whose sizes"


THEIRS_ALONE: tuple[Reason, ...] = (
    Reason(r"ChecksumError: the bytes of the record", "a checksum is wrong", CHECKSUM),
    *(
        Reason(rf"DirectoryError: {words}", words, DIRECTORY)
        for words in (
            "a name stands twice in the directory",
            "the end record and its zip64 form differ",
            "the archive has two end records that both hold together",
            "a record has one name in the directory and another one in its header",
            "local header and directory differ in CRC-32",
            "local header and directory differ in compressed size",
            "local header and directory differ in size",
            "local header and directory differ",
            "two records overlap",
            "the archive does not begin at the file's first byte",
            "the zip64 end record does not end at its locator",
            "a record reaches outside of the file",
            "other bytes stand before the first record",
            "a record's name holds a NUL byte",
            "the archive's comment reaches past the end of the file",
            "sizes of 4 GiB without their zip64 field",
            "the record's local header pushes its data into the next record",
            "a stored record has two sizes",
            "the directory names a record, but its header is not where it should be",
            "there is no zip64 end record where its locator says",
            "a storage that the pickle names has no record",
            "bytes are missing inside the archive",
            "the directory ends inside an entry",
            "the archive's first record lies outside of the folder of its pickle",
            "the record cannot be inflated",
            "the record inflates to another size",
            "a record has a second name in its extra field",
        )
    ),
    Reason(r"DirectoryError: a record with data is marked as a folder", "data marked as a folder", MARKED),
    Reason(r"DamagedError: a member stands twice", "a member of a tar archive stands twice", TWICE),
    *(
        Reason(rf"UnsupportedError: {words}", words, DIRECTORY)
        for words in (
            "the archive is spread over several disks",
            "the record is on another disk",
            "a record is encrypted or a patch",
            "the record is compressed by a method that checkpoints do not use",
        )
    ),
    *(
        Reason(rf"DamagedError: {words}", words, STREAM)
        for words in (
            "the stream holds no data for a storage",
            "the list of storages is no list",
        )
    ),
    Reason(
        r"TruncatedError: the storages that the pickle names are larger than the whole file",
        "storages larger than the file",
        STREAM,
    ),
    Reason(
        r"TensorBoundsError: a storage has another length than the pickle says", "a storage's length is another", STREAM
    ),
    *(
        Reason(rf"PickleStreamError: {words}", words, MALFORMED)
        for words in (
            "objects are left over at the end of the pickle",
            "an unknown pickle protocol",
            "the arguments of a call are not a tuple",
            "a storage with a malformed description",
            "a tensor's metadata is no dictionary",
            "a tensor's metadata is more than names and truth values",
            "a storage of an unknown class",
            "a tensor's hooks are no mapping",
            "a tensor's size or stride holds something that is no length",
            "a tensor's offset, size and stride do not fit together",
            "a state is set on something that takes none",
            r"a tensor's \w+ holds something that is no size",
            # What else the rebuild functions check, where PyTorch may find a use for what it is given.
            "a tensor's dtype is no dtype",
            "unknown quantizer parameters",
            "a sparse tensor with an unknown layout",
            "an unknown tensor layout",
            "a device that is no device",
            "a torch.Size that is no shape",
            "a persistent id that is no storage",
            "a key or location that is neither text nor number",
            "a sparse tensor whose parts are no tensors",
            "a nested tensor whose parts are no tensors",
            "a parameter of something that is no tensor",
            "a tensor's attribute has an impossible name",
            "a tensor's state is no tuple",
            "a tensor's state has an unknown form",
            "a tensor of a class that is no tensor class",
            "an object's state is no dictionary",
            "a tensor's attributes are no mapping",
            "a storage stands on the meta device and elsewhere",
            "the arguments of a tensor's call stand where they are not called",
            "a tensor or an array is named, but never described",
            r"a tensor's \w+ is not a short list of integers",
            "a storage in an archive is named by a number",
        )
    ),
    Reason(
        r"NotACheckpointError: the file is a zip archive with files that may be checkpoints",
        "data.pkl in another case",
        DIRECTORY,
    ),
    Reason(
        r"PickleStreamError: a tensor's part would have to be converted",
        "parts converted in a legacy stream",
        CONVERTED,
    ),
    Reason(
        r"PickleStreamError: \w+ is called with arguments that no checkpoint gives it",
        "arguments of other kinds",
        MALFORMED,
    ),
    Reason(
        r"PickleStreamError: the pickle is malformed at \w+: ValueError: Maximum allowed dimension exceeded",
        "strides beyond 64 bits",
        STRIDES,
    ),
    Reason(
        r"DamagedError: the magic number of a legacy stream is written as no pickler writes it",
        "a magic number in another spelling",
        MALFORMED,
    ),
    *(
        Reason(rf"PickleStreamError: {words}", words, QUANTIZED)
        for words in (
            "a quantized storage in the call for a plain tensor, without a quantizer",
            "the scales of a quantized tensor are no fractions, or its zero points no real numbers",
            "a quantized tensor's scale or zero point is no number",
            "a quantized tensor needs one scale and zero point per channel",
        )
    ),
    Reason(
        r"PickleStreamError: a key of a dictionary, or a member of a set, is something that has no hash",
        "arrays as keys",
        KEYS,
    ),
    *(
        Reason(rf"PickleStreamError: {words}", words, NESTED_BOUNDS)
        for words in (
            "a nested tensor reaches outside of its buffer",
            "a nested tensor with a negative size",
            "a nested tensor whose parts do not fit together",
        )
    ),
    Reason(
        r"PickleStreamError: an attribute that would hide a method of its object", "an attribute hides a method", HIDDEN
    ),
    Reason(r"PickleStreamError: a frame ends inside of an instruction", "a frame ends too early", FRAMES),
    Reason(r"LimitError: too many dictionary keys of one hash", "keys that collide", HASHES),
    Reason(r"TensorBoundsError: a tensor has more elements than can be counted", "elements beyond 64 bits", OUTSIDE),
    Reason(r"LimitError: a quantized tensor is out of all proportion", "a quantized tensor of a small storage", LIMITS),
    Reason(r"TensorBoundsError: a record has another size than its storage", "a storage's length is another", OUTSIDE),
    Reason(r"UnsupportedError: the pickle asks for a new, uninitialised storage", "an uninitialised storage", CALLS),
    Reason(r"TensorBoundsError: a tensor reaches outside of its storage", "a tensor outside of its storage", OUTSIDE),
    *(
        Reason(rf"TensorBoundsError: a sparse tensor contradicts itself: {words}", words, SPARSE)
        for words in (
            "an index outside of the shape",
            "compressed indices do not rise from 0 to the number of values",
            "compressed indices, plain indices and values do not fit together",
            "indices are no integer matrix",
            "indices are no integers",
            "indices, values and shape do not fit together",
            "a part of it is no tensor",
            "the shape is no multiple of the block",
            "compressed indices do not fit the shape",
        )
    ),
    Reason(r"DamagedError: a tensor contradicts itself", "PyTorch's own check of sparse tensors", SPARSE),
)
"""PyTorch reads it, Weighlock refuses: what our error says, and why. The first that fits counts."""

# What PyTorch's own registry says of a place leaves the drop-in as it is; NumPy puts every storage on the CPU.
OF_THE_PLACE = r"\w+: (don't know how to restore data location|Attempting to deserialize object on|Invalid device)"

OURS_ALONE: tuple[Reason, ...] = (
    *(
        Reason(
            rf"UnpicklingError: Unsupported global: GLOBAL {names}\b",
            f"a value that a closed table makes: {names}",
            VALUES,
        )
        for names in (
            *("argparse", "collections", "copyreg", "datetime", "decimal", "fractions", "pathlib", "types", "uuid"),
            *("Ellipsis", "NoneType", "NotImplemented", "bool", "bytes", "dict", "float", "frozenset", "int", "list"),
            *("object", "range", "slice", "str", "tuple"),
        )
    ),
    Reason(r"UnpicklingError: Unsupported global: GLOBAL numpy", "NumPy's values", NUMPY),
    Reason(
        r"UnpicklingError: Weights only load failed\. ``torch\.distributed\.tensor`` must be imported",
        "a device mesh, described",
        TORCH_VALUES,
    ),
    *(
        Reason(
            rf"UnpicklingError: Unsupported global: GLOBAL torch\.{names} was",
            f"a value of PyTorch's: {names}",
            TORCH_VALUES,
        )
        for names in (
            r"return_types\.\w+",
            r"(strided|jagged|sparse_\w+)",
            "UntypedStorage",
            r"autograd\.variable\.Variable",
        )
    ),
    Reason(r"UnpicklingError: Unsupported operand", "opcodes of other protocols", PROTOCOLS),
    Reason(r"RuntimeError: Invalid magic number", "a plain pickle", PLAIN),
    Reason(r"AttributeError: type object '\S+' has no attribute 'dtype'", "a legacy stream of a new type", NEW_TYPES),
    Reason(r"RuntimeError: Cannot use ``weights_only=True`` with TorchScript", "TorchScript", SCRIPT),
    Reason(r"RuntimeError: file in archive is not in a subdirectory: ", "an archive without a folder", FOLDER),
    Reason(r"RuntimeError: file in archive is not in a subdirectory .+:", "a record outside of the folder", EMPTY),
    Reason(r"TypeError: get_storage_from_record\(\)", "a storage without bytes, of no possible name", EMPTY),
    Reason(
        r"RuntimeError: PytorchStreamReader failed locating file data\.pkl", "the pickle is in another folder", FOLDER
    ),
    Reason(r"RuntimeError: Expected one of cpu, cuda", "a device of another name", PLACES),
    Reason(
        r"RuntimeError: PytorchStreamReader failed locating file data/", "a storage without bytes has no record", EMPTY
    ),
    Reason(r"RuntimeError: Expected hasRecord\(\"version\"\)", "no record version", VERSION),
    Reason(r"RuntimeError: Couldn't parse the version", "a version that is no number", VERSION),
    Reason(r"IndexError: stoull", "a version that is no number", VERSION),
    Reason(r"RuntimeError: Attempted to read a PyTorch file with version", "another version", VERSION),
    Reason(r"ValueError: invalid literal for int\(\)", "an alignment that is no number", VERSION),
    Reason(r"ValueError: Unknown endianness type", "another byteorder, nothing to swap", VERSION),
    Reason(r"UnicodeDecodeError: 'utf-8' codec", "a name that is no UTF-8", EMPTY),
    Reason(OF_THE_PLACE, "a place that is not here", PLACES),
    Reason(r"RuntimeError: requires_grad must be a bool", "a flag that is no bool", PLACES),
    Reason(
        r"RuntimeError: (only|Only) Tensors of floating point and complex dtype can require gradients",
        "integers that require a gradient",
        PLACES,
    ),
    Reason(
        r"RuntimeError: data set to a tensor that requires gradients must be floating point",
        "integers as a Parameter that requires a gradient",
        PLACES,
    ),
    Reason(
        r"RuntimeError: isComplexType\(typeMetaToScalarType\(dtype\(\)\)\) INTERNAL ASSERT",
        "the conjugate of real numbers",
        CONJUGATE,
    ),
    Reason(
        r"RuntimeError: a leaf Variable that requires grad is being used in an in-place operation",
        "conj or neg, and a gradient",
        CONJUGATE,
    ),
    Reason(
        r"AttributeError: attribute '\w+' of 'torch._C.TensorBase' objects is not writable",
        "an attribute that is taken",
        ATTRIBUTES,
    ),
    Reason(r"RuntimeError: Invalid serialized state", "attributes that are no mapping", ATTRIBUTES),
    Reason(r"TypeError: __class__ must be set to a class", "an attribute that is taken", ATTRIBUTES),
    Reason(r"TypeError: attribute name must be string", "an attribute whose name is no text", ATTRIBUTES),
    Reason(r"ValueError: (too many|not enough) values to unpack", "parts too many or too few", PARTS),
    Reason(r"TypeError: _rebuild_\w+\(\) takes", "arguments too many", PARTS),
    Reason(r"RuntimeError: Expected a Storage of type", "a tensor class of one type on a storage of another", CLASSES),
    Reason(r"TypeError: _make_subclass\(\): argument 'require_grad'", "a flag that is no bool", PLACES),
    Reason(r"AttributeError: '\w+' object has no attribute 'items'", "attributes that are no mapping", ATTRIBUTES),
    Reason(
        r"RuntimeError: PytorchStreamReader failed reading file \.(data/ser|storage_al|format_ver)",
        "a small record that is not whole",
        VERSION,
    ),
    Reason(r"TypeError: empty(_strided)?\(\): argument 'requires_grad' must be bool", "a flag that is no bool", PLACES),
    Reason(
        r"TypeError: set_\(\): argument '\w+' failed to unpack", "sizes of an empty tensor beyond 64 bits", EMPTY_SIZES
    ),
    Reason(r"RuntimeError: numel: integer multiplication overflow", "a shape without data beyond 64 bits", EMPTY_SIZES),
    Reason(
        r"TypeError: empty_strided\(\): argument '\w+' failed to unpack",
        "a shape without data beyond 64 bits",
        EMPTY_SIZES,
    ),
    Reason(r"ValueError: Overflow when unpacking long", "sizes of an empty tensor beyond 64 bits", EMPTY_SIZES),
    Reason(
        r"TypeError: Creating a Tensor subclass from a class that does not inherit from Tensor",
        "another class",
        SUBCLASS,
    ),
    Reason(r"TypeError: cls must be a type", "no class", SUBCLASS),
    Reason(r"TypeError: expected string or bytes-like object", "a location that is no text", PLACES),
    Reason(r"RuntimeError: PytorchStreamReader failed reading file version", "a version that is not whole", VERSION),
    Reason(
        r"RuntimeError: PytorchStreamReader failed reading zip archive: unsupported multidisk archive",
        "several disks",
        DISKS,
    ),
    Reason(r"RuntimeError: record size", "a storage is mentioned again with another length", AGAIN),
    Reason(
        r"RuntimeError: (Storage size calculation overflowed|setStorage)", "a nested tensor in a legacy stream", NESTED
    ),
    Reason(
        r"RuntimeError: (nested_sizes|nested_strides|storage_offsets)\.is_contiguous\(\) INTERNAL ASSERT",
        "sizes of a nested tensor in another order of memory",
        NESTED_ORDER,
    ),
)
"""Weighlock reads it, PyTorch refuses: what PyTorch says, and why. The first that fits counts."""
