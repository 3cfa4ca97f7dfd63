"""THE table of dangerous globals: which rule each breaks, how badly, and why.

A scan goes by what is known to be harmless (the loader's own closed table); this table only grades the rest. A name is
looked up as it stands, then by its modules from the longest, then by each of its later parts, because a dotted name
(``torch.os.system``) reaches through modules.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from weighlock.scanning.rules import rank

__all__ = ["DANGERS", "Danger", "judge"]


class Danger(NamedTuple):
    """Why a name is dangerous."""

    rule: str
    severity: str
    reason: str


_Row = tuple[str, str, str, str]

# (rule, severity, reason, names). A name that ends in ".*" stands for all of a module or class, itself included.
DANGERS: Final[tuple[_Row, ...]] = (
    ("WL101", "critical", "runs a command or a program", """
        os.system os.popen os.popen2 os.popen3 os.popen4 os.startfile subprocess.* _posixsubprocess.* popen2.*
        commands.* pty.* pexpect.* sh.* plumbum.* fabric.* invoke.* git.cmd.* platform.popen platform._syscmd_ver
        distutils.spawn.* setuptools._distutils.spawn.* numpy.distutils.* asyncio.create_subprocess_exec
        asyncio.create_subprocess_shell asyncio.subprocess.* asyncio.base_subprocess.* asyncio.unix_events.*
        asyncio.windows_utils.* ensurepip._run_pip uuid._get_command_stdout uuid._popen ctypes.util._findLib_gcc
        ctypes.util._findSoname_ldconfig webbrowser.GenericBrowser webbrowser.BackgroundBrowser
        test.support.script_helper.* _aix_support.* _osx_support.* mailcap.* pipes.* venv.*
        torch.utils.collect_env.* torch.distributed.run.* torch.distributed.launch.* torch.distributed.launcher.*
        torch._inductor.* _pyrepl.pager.* pydoc.pipepager pydoc.tempfilepager pydoc.pipe_pager
        pydoc.tempfile_pager
    """),
    ("WL101", "critical", "replaces, forks or ends the process", """
        os.execl os.execle os.execlp os.execlpe os.execv os.execve os.execvp os.execvpe os.spawnl os.spawnle
        os.spawnlp os.spawnlpe os.spawnv os.spawnve os.spawnvp os.spawnvpe os.posix_spawn os.posix_spawnp os.fork
        os.forkpty os._exit os.abort os.kill os.killpg sys.exit multiprocessing.* concurrent.futures.process.*
        torch.multiprocessing.*
    """),
    ("WL102", "critical", "runs code that it is given", """
        builtins.exec builtins.eval builtins.compile builtins.execfile builtins.input builtins.breakpoint
        builtins.apply code.* codeop.* runpy.* bdb.* pdb.* timeit.* trace.* cProfile.* profile.* doctest.*
        unittest.* idlelib.* lib2to3.* numpy.f2py.* numpy.testing.* torch.testing.* torch._dynamo.* torch.fx.*
        torch.jit.annotations.* torch._jit_internal.* torch.utils._config_module.* torch.utils.benchmark.*
        torch.utils.bottleneck.* torch.distributed.nn.jit.instantiator.* torch._functorch.* torch.package.*
        pandas.eval pandas.core.computation.* pandas.core.frame.DataFrame.eval pandas.core.frame.DataFrame.query
        numexpr.* jinja2.* mako.* IPython.* sympy.parsing.* logging.config.* cgitb.* cmd.*
        dataclasses.make_dataclass collections.namedtuple typing.get_type_hints annotationlib.* rlcompleter.*
        antigravity.* werkzeug.debug.* django.core.management.* transformers.dynamic_module_utils.*
        xmlrpc.server.* turtle.* tkinter.*
    """),
    ("WL102", "critical", "makes code out of bytes", """
        types.FunctionType types.CodeType types.LambdaType types.MethodType types.ModuleType marshal.* new.* dis.*
        cloudpickle.cloudpickle.* cloudpickle._make_function dill._dill._create_function dill._dill._create_code
        dill._dill._eval_repr dill._dill._import_module
    """),
    ("WL102", "high", "runs code later, or in another thread", """
        atexit.* signal.* threading.* _thread.* thread.* sched.* weakref.finalize concurrent.futures.thread.*
        asyncio.* gc.* faulthandler.* sys.settrace sys.setprofile queue.* selectors.*
    """),
    ("WL103", "high", "imports, finds or installs modules", """
        builtins.__import__ builtins.__loader__ builtins.__spec__ builtins.reload importlib.* imp.* pkgutil.*
        zipimport.* modulefinder.* _imp.* _frozen_importlib.* _frozen_importlib_external.* ihooks.* pip.*
        ensurepip.* setuptools.* pkg_resources.* distutils.* conda.* py_compile.* compileall.* pydoc.* site.*
        sys.modules sys.path sys.meta_path sys.path_hooks zipapp.*
    """),
    ("WL104", "high", "reaches other functions than the one that is named", """
        builtins.getattr builtins.setattr builtins.delattr builtins.hasattr builtins.vars builtins.dir
        builtins.globals builtins.locals builtins.type builtins.super builtins.map builtins.filter builtins.reduce
        builtins.iter builtins.next builtins.sorted builtins.min builtins.max builtins.any builtins.all
        builtins.sum builtins.__build_class__ operator.* functools.* itertools.* types.* inspect.* sys.*
        numpy.vectorize numpy.frompyfunc numpy.apply_along_axis numpy.core._internal.* toolz.*
        torch.nn.Module.apply torch.Tensor.apply_ torch.utils._pytree.* torch.vmap
    """),
    ("WL104", "high", "puts text or bytes together, as only something hidden needs", """
        builtins.chr codecs.* base64.* binascii.* zlib.* gzip.* bz2.* lzma.* string.Formatter string.Template
        builtins.str.* builtins.bytes.* builtins.format
    """),
    ("WL105", "high", "opens, writes, moves, removes or lists files", """
        builtins.open builtins.file io.* os.* ntpath.* posixpath.* genericpath.* shutil.* tempfile.* fileinput.*
        glob.* linecache.* mmap.* zipfile.* tarfile.* dbm.* sqlite3.* netrc.* plistlib.* pathlib.Path.*
        pathlib.PosixPath.* pathlib.WindowsPath.* numpy.save numpy.savez numpy.savez_compressed numpy.savetxt
        numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.memmap numpy.core.memmap.* numpy.DataSource
        numpy.lib._datasource.* numpy.lib.format.open_memmap numpy.ndarray.tofile torch.save torch.from_file
        torch.serialization.save torch.UntypedStorage.from_file torch.storage.UntypedStorage.from_file
        torch._export.* torch.onnx.* torch.profiler.* logging.FileHandler logging.handlers.* distutils.file_util.*
        distutils.dir_util.* fsspec.* h5py.File pandas.io.*
    """),
    ("WL106", "high", "uses the network", """
        socket.* ssl.* socketserver.* http.* httplib.* urllib.* urllib2.* ftplib.* smtplib.* smtpd.* telnetlib.*
        poplib.* imaplib.* nntplib.* asyncore.* asynchat.* requests.* urllib3.* httpx.* aiohttp.* pycurl.* wget.*
        gdown.* websocket.* websockets.* zmq.* grpc.* webbrowser.* boto3.* botocore.* s3fs.* gcsfs.*
        google.cloud.* azure.* paramiko.* dns.* twisted.* scapy.* huggingface_hub.* xmlrpc.* wsgiref.*
        uuid.getnode nis.* torch.utils.model_zoo.* torch.hub.download_url_to_file
        torch.hub.load_state_dict_from_url
    """),
    ("WL107", "critical", "loads native code, or reads and writes memory", """
        ctypes.* _ctypes.* cffi.* _cffi_backend.* numpy.ctypeslib.* torch.ops.* torch._ops.* torch.classes.*
        torch._classes.* torch.utils.cpp_extension.* torch.library.* torch._C._* torch.utils.dlpack.* triton.*
        numba.* cython.* Cython.* pyximport.* llvmlite.* _posixshmem.* winreg.* _winreg.* msvcrt.* _winapi.*
        fcntl.* resource.*
    """),
    ("WL108", "high", "unpickles other bytes or files without restriction", """
        pickle.* _pickle.* cPickle.* pickletools.* shelve.* dill.* cloudpickle.* joblib.* jsonpickle.* yaml.*
        ruamel.* srsly.* numpy.load numpy.lib.npyio.* numpy.lib._npyio_impl.* pandas.read_pickle
        pandas.compat.pickle_compat.* torch.load torch.serialization.* torch.storage._load_from_bytes
        sklearn.externals.joblib.* copyreg.* copy_reg.* torch.distributed.checkpoint.filesystem.*
        torch.distributed.checkpoint.state_dict_loader.* torch.utils.show_pickle.* skops.* keras.models.load_model
        tensorflow.keras.models.load_model statsmodels.iolib.smpickle.* spacy.load
    """),
    ("WL109", "high", "a gadget: it runs code, loads files or fetches repositories itself", """
        torch.hub.* torch.jit.* torch.distributed.rpc.* torch.distributed.elastic.* torch.distributed.algorithms.*
        torch.utils.data.datapipes.* torch.utils.data.dataloader.* torch.utils.tensorboard.*
        torch.utils.checkpoint.* torch.compile torch.export.* torch.overrides.* torchvision.datasets.*
        torchaudio.datasets.* transformers.pipelines.* datasets.load.* evaluate.* wandb.* mlflow.* streamlit.*
        gradio.* pytorch_lightning.cli.* lightning.pytorch.cli.*
    """),
)  # fmt: skip


def _table() -> dict[str, Danger]:
    found: dict[str, Danger] = {}
    for rule, severity, reason, names in DANGERS:
        for name in names.split():
            found.setdefault(
                name.removesuffix(".*") if name.endswith(".*") else "=" + name, Danger(rule, severity, reason)
            )
    return found


_TABLE: Final = _table()


# Modules that are another one's inside: posix.system is os.system.
_SAME: Final = {
    "__builtin__": "builtins", "__builtins__": "builtins", "posix": "os", "nt": "os", "_operator": "operator",
    "_functools": "functools", "_io": "io", "_pyio": "io", "_codecs": "codecs", "_socket": "socket", "_ssl": "ssl",
    "_sqlite3": "sqlite3", "_lsprof": "cProfile", "_asyncio": "asyncio",
}  # fmt: skip
_MOST_PARTS: Final = 64
_MOST_DOTTED: Final = max(name.count(".") + 1 for name in _TABLE)


@lru_cache(maxsize=4096)
def judge(name: str) -> Danger | None:
    """Return why a global is dangerous, by its full name; None where the table says nothing of it.

    Examples
    --------
    >>> judge("torch.os.system").reason
    'runs a command or a program'
    >>> judge("mypackage.Net") is None
    True
    """
    parts = name.split(".")[:_MOST_PARTS]
    parts[0] = _SAME.get(parts[0], parts[0])
    every = [_longest(parts[start:], inside=start > 0) for start in range(len(parts))]
    found = max((row for row in every if row is not None), key=lambda row: rank(row.severity), default=None)
    if found is not None:
        return found
    if any(part.startswith("__") and part.endswith("__") and len(part) > 4 for part in parts[1:]):
        return Danger("WL104", "high", "reaches through attributes that lead to the interpreter")
    return None


def _longest(parts: list[str], *, inside: bool) -> Danger | None:
    exact = _TABLE.get("=" + ".".join(parts))
    if exact is not None:
        return exact
    for stop in range(min(len(parts), _MOST_DOTTED), 0, -1):
        prefix = ".".join(parts[:stop])
        found = _TABLE.get(prefix) or _TABLE.get("=" + prefix)
        # Inside of a name, one common word proves nothing: mypackage.code.Net.
        if found is not None and (not inside or prefix in _THROUGH):
            return found
    return None


# Modules that other modules have as an attribute, and that a dotted name therefore reaches through them.
_THROUGH: Final = frozenset({
    "os", "sys", "subprocess", "builtins", "importlib", "shutil", "socket", "pickle", "ctypes", "posix", "runpy", "pty",
    "tempfile", "urllib", "http", "inspect", "types", "functools", "operator", "threading", "multiprocessing",
    "marshal",
    "requests", "io", "pathlib.Path", "torch.hub", "torch.load", "zipfile", "tarfile", "platform", "webbrowser", "pip",
})  # fmt: skip
