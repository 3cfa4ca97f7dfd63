"""THE table of rules: what a scan can find. Reports, ``weighlock explain``, SARIF and the docs read it.

WL1xx: code and globals. WL2xx: the archive. WL3xx: the pickle itself. WL4xx: tensors. WL5xx: repositories. WL6xx: what
`weighlock verify` finds beyond a scan. WL9xx: what was not examined; these are gaps, not findings.
"""

from typing import Final, NamedTuple

from weighlock.errors import ArgumentError

__all__ = ["FAMILIES", "RULES", "SEVERITIES", "Rule", "rank", "rule"]

SEVERITIES: Final = ("info", "low", "medium", "high", "critical")
"""From the least to the worst. ``info`` is a remark: it is no finding and changes no verdict."""

FAMILIES: Final = {
    "WL1": "Code and globals",
    "WL2": "The archive",
    "WL3": "The pickle",
    "WL4": "Tensors",
    "WL5": "Repositories",
    "WL6": "Integrity",
    "WL9": "Not examined",
}


class Rule(NamedTuple):
    """One rule.

    Attributes
    ----------
    id : str
    title : str
    severity : str
        One of `SEVERITIES`; of a gap ``info``.
    means : str
        What it is and why it matters.
    example : str
        What such a file holds.
    advice : str
        What to do.
    cwe : int
        The weakness in MITRE's list.
    """

    id: str
    title: str
    severity: str
    means: str
    example: str
    advice: str
    cwe: int = 502

    @property
    def is_gap(self) -> bool:
        """Whether it says that something was not examined."""
        return self.id.startswith("WL9")


def rank(severity: str) -> int:
    """Return how bad a severity is, from 0."""
    return SEVERITIES.index(severity)


_DO_NOT_LOAD: Final = (
    "Do not load the file with pickle, torch.load(weights_only=False) or anything built on them. Ask its author for a "
    'state_dict or for safetensors. `weighlock.load(path, on_unknown="stub")` reads its weights and calls nothing.'
)
_GET_AGAIN: Final = "Get the file again from its author, and compare its SHA-256 with what they publish."
_MADE_BY_HAND: Final = "No program writes this by itself. Treat the file as hostile, and ask where it comes from."

_ROWS: Final = (
    # --------------------------------------------------------------------------------------------- code and globals
    Rule("WL101", "Starts a program", "critical",
         "The pickle names or calls a function that runs a command or another program. Whoever unpickles the file runs "
         "that command with their own rights.",
         "`posix.system('curl ... | sh')` in data.pkl", _DO_NOT_LOAD, 78),
    Rule("WL102", "Runs text or bytes as code", "critical",
         "The pickle names or calls a function that executes Python code which it is given: `exec`, `eval`, code "
         "objects, debuggers, timers, profilers, runners of modules.",
         "`builtins.exec('import os; ...')`", _DO_NOT_LOAD, 94),
    Rule("WL103", "Imports or installs modules", "high",
         "The pickle imports a module by a name it carries, changes what can be imported, or installs a package. "
         "Importing runs the module's code.",
         "`importlib.import_module('x')`, `pip.main([...])`", _DO_NOT_LOAD, 829),
    Rule("WL104", "Walks attributes or passes calls on", "high",
         "The pickle uses a function that reaches other functions: `getattr`, `operator.attrgetter`, "
         "`functools.partial`, `map`. Data need none of them; exploits use them to reach what a list of forbidden "
         "names does not show.",
         "`getattr(os, 'sys' + 'tem')`", _DO_NOT_LOAD, 470),
    Rule("WL105", "Reads, writes or removes files", "high",
         "The pickle names or calls a function that opens, writes, moves or removes files, or lists folders.",
         "`shutil.rmtree('/home/me')`", _DO_NOT_LOAD, 73),
    Rule("WL106", "Uses the network", "high",
         "The pickle names or calls a function that connects to other machines, resolves names or opens web pages. "
         "It can give away what is on this machine, or fetch what runs next.",
         "`urllib.request.urlopen('http://...')`", _DO_NOT_LOAD, 918),
    Rule("WL107", "Reaches memory or native code", "critical",
         "The pickle names or calls a function that loads shared libraries, compiles extensions, or reads and writes"
         " memory at an address.",
         "`ctypes.CDLL('./x.so')`", _DO_NOT_LOAD, 114),
    Rule("WL108", "Unpickles more", "high",
         "The pickle calls a function that unpickles other bytes or another file, without any restriction. What is "
         "inside is examined where it is in the file.",
         "`pickle.loads(b'...')`, `torch.load('other.pt')`", _DO_NOT_LOAD),
    Rule("WL109", "Uses a gadget of PyTorch or another framework", "high",
         "The pickle calls a function of a framework that itself runs code, loads files or fetches repositories. It "
         "looks harmless because its name begins with the framework's.",
         "`torch.hub.load('someone/repo', 'model')`", _DO_NOT_LOAD),
    Rule("WL110", "Names an unknown class or function", "medium",
         "The pickle names something that is neither one of PyTorch's own rebuild functions nor known to be plain "
         "data. It would be imported, and its code would run with what the file gives it. Most are harmless classes "
         "of the program that saved the file; none can be judged from the file alone.",
         "A whole pickled model: `mypackage.models.Net`",
         "If you trust the package and the file, allow it by name: `--allow mypackage.models.Net`, or "
         '`weighlock.add_safe_globals`. Else read the file with `on_unknown="stub"`, and save a state_dict.'),
    Rule("WL111", "Works out the name of a global", "high",
         "The name of what is imported does not stand in the pickle: it is the result of other calls. The only "
         "reason for that is to hide it.",
         "STACK_GLOBAL of two joined strings", _DO_NOT_LOAD, 506),
    Rule("WL112", "Changes a class, function or module", "high",
         "BUILD sets attributes on a class, a function or a module instead of on an instance. That changes the "
         "program that loads the file.",
         "BUILD on `torch.Tensor` with `{'__reduce__': ...}`", _DO_NOT_LOAD, 915),
    Rule("WL113", "Uses an extension code", "high",
         "EXT opcodes stand for a global by a number of the registry `copyreg`. What it is depends on the program "
         "that loads the file, so nobody can tell from the file.",
         "`EXT1 7`", _MADE_BY_HAND),
    Rule("WL114", "Sets an attribute that hides a method", "medium",
         "The state of an object holds a name that is one of its methods, such as `items`. Code that calls the "
         "method gets the file's data instead.",
         "An OrderedDict with an attribute `items`", _MADE_BY_HAND, 915),
    Rule("WL120", "Holds a program", "info",
         "The archive is a TorchScript program: its text is code that `torch.jit.load` runs in PyTorch's own "
         "interpreter. `weighlock.load` reads the weights and never the program.",
         "`code/__torch__/model.py`",
         "Read the program before you run it; or take the weights only, with `weighlock.load`."),
    Rule("WL121", "The program uses files or the network", "high",
         "The text of the TorchScript program names an operator that reads or writes files, talks to other processes, "
         "or views memory without a check. A program may run as soon as it is loaded: `torch.jit.load`, and "
         "`torch.load(weights_only=False)` on such an archive, call the `__setstate__` of its classes.",
         "`torch.save(x, '/home/me/.profile')` in `code/__torch__.py`",
         "Do not load the file with torch.jit.load. `weighlock.load` reads its weights and never the program.", 73),
    # -------------------------------------------------------------------------------------------------- the archive
    Rule("WL201", "A record stands twice in the archive", "high",
         "Two records have one name. PyTorch and Python's zipfile take different ones, so a scanner may have looked "
         "at the harmless one.",
         "Two records `archive/data.pkl`", _MADE_BY_HAND, 436),
    Rule("WL202", "Two names differ only in case", "high",
         "PyTorch finds records without regard to case, other readers do not.",
         "`archive/data.pkl` and `archive/DATA.PKL`", _MADE_BY_HAND, 178),
    Rule("WL203", "Records overlap", "high",
         "Two records share bytes of the file, or a record reaches outside of it. Readers can be led to different "
         "contents, and a small file can unpack to a huge one.",
         "A record that begins inside another one", _MADE_BY_HAND, 436),
    Rule("WL204", "Two archives in one file", "high",
         "Something stands before the archive, or two ends of an archive hold together. PyTorch reads one, Python's "
         "zipfile the other.",
         "A hostile archive followed by a harmless one", _MADE_BY_HAND, 436),
    Rule("WL205", "Bytes behind the archive", "low",
         "The file goes on behind the end of the archive. Readers pass over it, but it is part of what you store and"
         " share.",
         "A file appended to a checkpoint",
         "If you did not put them there: " + _GET_AGAIN[0].lower() + _GET_AGAIN[1:], 506),
    Rule("WL206", "Directory and local header differ", "high",
         "A record is described twice in a zip archive, and the two do not agree on its name, method, size or "
         "checksum. Readers that go by one see another record than readers that go by the other.",
         "`data.pkl` in the directory, `evil.pkl` in the header", _MADE_BY_HAND, 436),
    Rule("WL207", "A checksum is wrong", "medium",
         "The bytes of a record are not those that were written. PyTorch does not check; other programs stop, and some "
         "scanners stop and call the file clean.",
         "A flipped bit in data.pkl", _GET_AGAIN, 354),
    Rule("WL208", "A record is encrypted or compressed in an unknown way", "medium",
         "Checkpoints are stored or deflated, never encrypted. Some scanners pass over what they cannot read.",
         "`data.pkl` with the encryption bit set", _MADE_BY_HAND, 311),
    Rule("WL209", "A record unpacks to too much", "high",
         "A small file would fill the memory or the disk of whoever unpacks it.",
         "A megabyte of zeros in a kilobyte", _MADE_BY_HAND, 409),
    Rule("WL210", "Readers see different pickles", "critical",
         "PyTorch, Python's zipfile and Weighlock would take the pickle of this archive from different places, and "
         "these differ. This is how a hostile file shows a harmless face to a scanner.",
         "`DATA.PKL` beside `data.pkl`, with other contents", _DO_NOT_LOAD, 436),
    Rule("WL211", "The archive is damaged", "medium",
         "The directory of the archive is missing, cut, or contradicts itself.",
         "A download that broke off", _GET_AGAIN, 354),
    Rule("WL212", "Several checkpoints in one archive", "medium",
         "The archive holds more than one pickle that could be the checkpoint, or its first record lies in another "
         "folder than its pickle, where PyTorch would look.",
         "`a/data.pkl` and `b/data.pkl`", _MADE_BY_HAND, 436),
    Rule("WL213", "A name that reaches outside", "medium",
         "A record's name begins with a slash or a drive, climbs with `..`, or holds a NUL. Programs that unpack the"
         " archive may write outside of their folder. Weighlock makes no file of a record.",
         "`archive/../../.bashrc`", _MADE_BY_HAND, 22),
    Rule("WL214", "The file is of two kinds", "high",
         "The file begins like safetensors, a picture, a tar archive or an array, and is read as such; a program that "
         "unpickles it does not ask, and takes the same bytes for opcodes that name functions. Which of the two it is "
         "depends on who loads it.",
         "A safetensors file whose header's length is the opcode of a text", _DO_NOT_LOAD, 436),
    Rule("WL215", "Data marked as a folder", "high",
         "A record has data and is marked as a folder, by its name or its attributes. PyTorch takes its length and "
         "reads nothing: the tensor is whatever the memory held. Other readers read the data. "
         "`weighlock.load` refuses it.",
         "`archive/data/0` with the attribute of a folder", _MADE_BY_HAND, 908),
    Rule("WL216", "A program beside the checkpoint", "high",
         "The archive is a checkpoint to `torch.load`, and also a `torch.package`, a program of `torch.export` or a "
         "library of native code to whoever loads it as such: that runs what it holds. PyTorch writes no such archive.",
         "`archive/.data/extern_modules` and Python files beside `archive/data.pkl`", _MADE_BY_HAND, 434),
    Rule("WL217", "An index that leads elsewhere", "high",
         "The index of a distributed checkpoint names its parts by paths, or in a form that PyTorch does not write. "
         "`torch.distributed.checkpoint` goes where it says, and unpickles without restriction what it finds there: in "
         "another folder, or in the middle of what is tensor data to all others.",
         "`relative_path` of `../other/__0_0.distcp` in `.metadata`", _DO_NOT_LOAD, 22),
    # --------------------------------------------------------------------------------------------------- the pickle
    Rule("WL301", "The pickle is malformed", "medium",
         "The machine that loads it has to stop: a byte that is no opcode, an empty stack, an argument that cannot "
         "be read. Everything before that has been done by then.",
         "A call, then a byte that is no opcode", _GET_AGAIN),
    Rule("WL302", "Bytes behind the end of a pickle", "medium",
         "Something follows the STOP of a pickle that should be alone. Loaders do not look at it; other programs may.",
         "A second pickle in data.pkl behind the first", _MADE_BY_HAND, 506),
    Rule("WL303", "Throws a result away", "medium",
         "The pickle calls something and drops the result. Calls in a pickle make objects; one whose object nobody "
         "wants is made for its side effect.",
         "`os.system('...')`, then POP", _DO_NOT_LOAD, 561),
    Rule("WL304", "Oddities of the protocol", "low",
         "The pickle declares its protocol twice or in the middle, holds a frame longer than itself, leaves objects "
         "behind at its end, or asks for buffers that nobody gives. No pickler writes that.",
         "PROTO in the middle of a pickle", _MADE_BY_HAND),
    Rule("WL305", "A memo index that takes all memory", "medium",
         "An index of the memo is far beyond the pickle's own length. Python's unpickler makes a table of that size.",
         "`LONG_BINPUT 4294967295`", _MADE_BY_HAND, 789),
    Rule("WL306", "A length beyond the data", "medium",
         "An argument declares more bytes than there are. Loaders that trust the number take that much memory.",
         "`BINBYTES8` of an exabyte in a file of a kilobyte", _GET_AGAIN, 789),
    Rule("WL307", "Nested very deeply", "medium",
         "Objects lie inside each other thousands of levels deep. Code that walks them by recursion, even to print "
         "them, ends with an error or crashes.",
         "A list in a list in a list ...", _MADE_BY_HAND, 674),
    Rule("WL308", "Fills something that is no container", "high",
         "Items are set on, or appended to, an object that is neither list, dictionary nor set. On a tensor that "
         "writes past its memory (CVE-2026-24747).",
         "SETITEMS on a tensor", _DO_NOT_LOAD, 787),
    Rule("WL309", "A known function with unknown arguments", "medium",
         "A function that checkpoints do use is called as none does: to make memory of any size, memory that is not "
         "initialised, or to be stopped half way.",
         "`bytearray(8589934592)`", _MADE_BY_HAND, 770),
    Rule("WL310", "Work out of all proportion", "high",
         "A few bytes would take unbounded time or memory: keys that collide or that nest, copies of copies.",
         "A dictionary key of sixty nested tuples", _MADE_BY_HAND, 400),
    Rule("WL311", "A persistent id that is no storage", "medium",
         "The pickle refers to something outside of itself that is no storage of tensors. What it becomes is up to the "
         "program that loads it.",
         "`BINPERSID` of ('module', ...)", _MADE_BY_HAND),
    # ------------------------------------------------------------------------------------------------------ tensors
    Rule("WL401", "A tensor reaches outside of its storage", "high",
         "Offset, size and stride lead beyond the storage's end. A loader that does not check reads or writes memory"
         " that is not the file's (CVE-2026-24747).",
         "A view of 1,000 elements in a storage of 10", _DO_NOT_LOAD, 125),
    Rule("WL402", "A storage is missing or has another size", "high",
         "The pickle says how long a storage is, and its record has another length or is not there. Mapped or "
         "unchecked, the bytes of the next record are read instead.",
         "4 floats declared, a record of 8 bytes", _GET_AGAIN, 131),
    Rule("WL403", "Sparse indices outside of the shape", "high",
         "The indices of a sparse tensor point outside of it. Turning it into a dense one writes memory that is not "
         "its own (CVE-2025-62164).",
         "Index 1,000,000 in a tensor of 4", _DO_NOT_LOAD, 787),
    Rule("WL404", "A small storage that claims to be huge", "medium",
         "Strides of 0 or a device without memory make a tensor of billions of elements out of a few bytes. Any copy"
         " of it fills the memory.",
         "A tensor of 10**12 elements with stride 0", _MADE_BY_HAND, 789),
    Rule("WL405", "An array's type that leads out of it", "high",
         "The pickle describes the element type of a NumPy array so that a field lies behind the end of the element, "
         "or so that it holds Python objects and says that it holds none. NumPy believes it, and reads memory that "
         "is not the array's, or takes bytes of the file for the address of an object.",
         "A field at byte 1,000 of an element of 8", _DO_NOT_LOAD, 125),
    # ------------------------------------------------------------------------------------------------- repositories
    Rule("WL501", "The repository acts when it is imported", "medium",
         "Importing the repository's hubconf does more than define functions: it starts processes, installs "
         "packages, uses the network, or changes other packages.",
         "`os.system('pip install ...')` at the top of hubconf.py",
         "Read the place before you trust the repository; `weighlock hub inspect` shows it.", 829),
    Rule("WL502", "Weights come unprotected", "low",
         "The repository fetches a file over http, or under a name without a hash: whoever sits between can replace "
         "it.",
         "`http://example.org/weights.pt`",
         "Pin the file with `weighlock hub lock --url URL`, or ask the author for an https address with a hash.", 494),
    # ---------------------------------------------------------------------------------------------------- integrity
    Rule("WL601", "Bytes around the data are not those of the writer", "low",
         "Padding, a header, a descriptor or the directory differs from what the writer of the file puts there. The "
         "data are whole, where nothing else is said: but something has changed the file.",
         "A zero where PyTorch fills up with Z", _GET_AGAIN, 354),
    Rule("WL602", "Line ends were translated", "medium",
         "Every line feed has a carriage return before it: the file went through a transfer of text.",
         "FTP in ASCII mode, a version control system that takes the file for text",
         "`weighlock salvage` undoes the translation. Transfer the file as binary.", 354),
    Rule("WL603", "Quantization parameters do not fit", "medium",
         "A quantized tensor has another number of scales or zero points than channels, or an axis that it does not "
         "have.",
         "3 scales for 4 channels", _GET_AGAIN, 354),
    Rule("WL604", "Indices contradict what is said of them", "medium",
         "A sparse tensor is said to be coalesced and its indices are not sorted and unique, or the offsets of a "
         "nested tensor lead outside of its values. Programs that rely on it compute wrong results.",
         "`coalesced=True`, and an index twice", _GET_AGAIN, 354),
    Rule("WL605", "A set of files is not whole", "medium",
         "The index of a checkpoint of several files names a file, or a tensor, that is not there.",
         "`model-00002-of-00003.safetensors` is missing", "Get the missing files, and put them beside the index.", 354),
    Rule("WL606", "Not what the manifest says", "medium",
         "A file or a tensor has another digest than when the manifest was made.",
         "One weight was changed", "Get the file again, or make a new manifest if the change was meant.", 353),
    Rule("WL607", "Missing of what the manifest lists", "medium",
         "The manifest lists a file or a tensor that is not there any more.",
         "A shard was deleted", "Get the file again, or make a new manifest if the change was meant.", 353),
    Rule("WL608", "Not in the manifest", "low",
         "There is a file or a tensor that the manifest does not list.",
         "A file was added", "Make a new manifest if the change was meant.", 353),
    Rule("WL609", "Not what the lock file says", "medium",
         "The file has another size or SHA-256 than `weighlock.lock` says, or is not in it.",
         "The file on the server was replaced",
         "Get the file again; `weighlock hub lock --url URL` pins what is there now.", 353),
    # ------------------------------------------------------------------------------------------------- not examined
    Rule("WL901", "The file could not be read", "info",
         "There is no such file, it may not be read, or reading it failed.",
         "A broken link", "See the reason, and scan again.", 0),
    Rule("WL902", "No format that is known", "info",
         "The file is of a kind that Weighlock does not read, so nobody has looked inside.",
         "An HDF5 file", "Use a tool for that kind of file, or leave it out with `--exclude`.", 0),
    Rule("WL903", "A record was not examined", "info", "A record is encrypted, unknown, damaged or unreachable.",
         "An encrypted record", "Unpack it with the right tool and scan what is inside.", 0),
    Rule("WL904", "A limit was reached", "info",
         "Examining everything would take more than `weighlock.Limits` allows, or more than the file's size justifies.",
         "A pickle of 5 GB", "If you trust the file, raise the limit that the message names.", 0),
    Rule("WL905", "A pickle was examined only in part", "info",
         "The machine had to stop. The rest was searched for names, but not followed.",
         "A pickle that was cut", "See the finding beside it.", 0),
    Rule("WL906", "A repository was examined only in part", "info",
         "Some of its code is made or found while it runs, so its text does not tell all.",
         "Entry points that are made in a loop over a download", "Read the code that the message names.", 0),
)  # fmt: skip

RULES: Final = {row.id: row for row in _ROWS}


def rule(name: str) -> Rule:
    """Return a rule by its id, in any case.

    Raises
    ------
    ArgumentError
        If there is none.

    Examples
    --------
    >>> rule("wl101").title
    'Starts a program'
    """
    found = RULES.get(name.upper())
    if found is None:
        raise ArgumentError("there is no such rule", got=name[:40], hint="weighlock explain lists all rules.")
    return found
