"""What a syntax tree tells of a repository, compared with what running it tells; and that nothing runs meanwhile."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from typing import Any

import pytest

import weighlock as wl
from tests.test_hub_isolation import put
from weighlock.cli import run

hub = wl.hub

MODELS = {
    "models/__init__.py": "from .a import *\nfrom models.b import big\n__all__ = ['small', 'big']\n",
    "models/a.py": "def small():\n    'Small.'\ndef other():\n    pass\ndef _private():\n    pass\nNUMBER = 3\n",
    "models/b.py": "class Big:\n    pass\ndef big(a, *, b=1):\n    'Big.'\n    return Big()\n",
}

# What a hubconf may look like, and whether its syntax tree tells all names. {} stands for MODELS.
WHOLE: dict[str, str | dict[str, str]] = {
    "functions, classes, lambdas": "def net():\n    pass\nclass Net:\n    pass\nasync def wait():\n    pass\n"
    "small = lambda: 1\n"
    "_hidden = lambda: 1\nnumber = 3\ntext = 'x'\nitems = [net]\ntable = {'a': net}\n",
    "imports of the repository": "from models.a import small, other as renamed, NUMBER, _private\n"
    "from models.b import Big\n"
    "import models.b as b\nfrom models import a\n",
    "imports of others": "from functools import partial\nfrom pathlib import Path as _Path\n"
    "import os, json as j\nfrom os import path\n",
    "constants of others": "from typing import TYPE_CHECKING\nimport sys\nfrom string import ascii_lowercase as _a\n"
    "VERSION = sys.version\nv = json.__version__ if False else json.__name__\n".replace("json", "sys"),
    "a star": "from models.a import *\n",
    "a star with __all__": "from models import *\n",
    "stars within stars": {"hubconf.py": "from outer import *\n", "outer.py": "from middle import *\n"
    "from middle import __all__\n",
                           "middle.py": "from models.a import *\nfrom models.b import Big\n"
                           "__all__ = ['small', 'Big']\n"},
    "__all__ that grows": {"hubconf.py": "from a1 import *\n", "a1.py": "import a2\n__all__ = ['x'] + ['y']\n"
    "__all__ += ['z']\n"
                           "__all__.append('w')\n__all__.extend(['v'])\ndef x(): pass\ndef y(): pass\ndef z(): pass\n"
                           "def w(): pass\ndef v(): pass\ndef hidden(): pass\n", "a2.py": "__all__ = ['q']\n"},
    "a list of names in hubconf itself": "__all__ = ['net']\ndef net(): pass\ndef other(): pass\n",
    "partials": "import functools\nimport functools as ft\nfrom functools import partial\n"
    "from models.b import big as _big\n"
    "one = partial(_big, 1)\ntwo = functools.partial(one, b=2)\nthree = ft.partial(two)\nfour = partial(print, 'x')\n",
    "other names": "def net(): pass\nalias = net\na = b = net\nc, (d, e) = net, (net, 3)\nf, *g = net, 1, 2\n",
    "loops over globals": "def make(n):\n    def entry():\n        return n\n    return entry\n"
    "for i in range(3):\n    globals()[f'net{i}'] = make(i)\nfor n in ['a', 'b']:\n    locals()['net_' + n] = make(n)\n"
    "for n, k in zip(['c'], ['d']):\n    vars()[n + k] = make(n)\nfor n in {'x': 1, 'y': 2}:\n"
    "    globals()[n] = lambda: n\n",
    "loops over comprehensions": "from functools import partial\ndef _make(n): return partial(print, n)\n"
    "NAMES = ['net_b' + str(i) for i in range(4)]\nfor name in NAMES:\n    locals()[name] = _make(name)\n"
    "TABLE = {f'm{i}': dict(width=i) for i in range(2)}\nfor name, config in TABLE.items():\n"
    "    globals()[name] = partial(print, **config)\nfor i, name in enumerate(sorted(TABLE)):\n"
    "    globals()[name.upper() + str(i)] = partial(print)\n",
    "update": "def net(): pass\nglobals().update({'a': net, 'b': net, 'c': 3})\n"
    "globals().update({f'n{i}': net for i in range(2)})\n"
    "globals().update(d=net)\nlocals().update(dict(e=net))\n",
    "decorators": "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def inner(*a):\n        return f(*a)\n"
    "    return inner\n@deco\ndef net():\n    'Doc.'\n@functools.lru_cache(maxsize=2)\ndef cached(): pass\n"
    "@functools.cache\ndef cached2(): pass\nwrapped = deco(net)\n",
    "class instances": "class Call:\n    def __call__(self): pass\nclass Plain:\n    pass\ncall = Call()\n"
    "plain = Plain()\n",
    "classes made by calls": "from collections import namedtuple\nimport collections, enum, typing, dataclasses\n"
    "Point = namedtuple('Point', 'x')\nP2 = collections.namedtuple('P2', 'x')\nT = typing.TypeVar('T')\n"
    "N = typing.NamedTuple('N', [('x', int)])\nD = dataclasses.make_dataclass('D', ['x'])\nE = enum.Enum('E', 'A')\n"
    "K = type('K', (), {})\nd = collections.OrderedDict()\n",
    "deleted": "def net(): pass\ndef gone(): pass\ndel gone\na = b = net\ndel a, b\n",
    "loop variables that stay": "def net(): pass\ndef other(): pass\nfor f in [net, other]:\n    pass\n"
    "for i in range(3):\n    pass\n"
    "for g in []:\n    pass\n",
    "bound again": "def net(): pass\nnet = 3\ndef other(): pass\nother = None\nback = 1\ndef back(): pass\n",
    "try": "try:\n    import no_such_module as nsm\nexcept ImportError as error:\n    nsm = None\n"
    "try:\n    from models.a import small\nexcept ImportError:\n    small = None\nelse:\n    also = small\n"
    "finally:\n    last = lambda: 1\n",
    "a condition on the version": "import sys\nif sys.version_info >= (3, 8):\n    def new(): pass\nelse:\n"
    "    def old(): pass\n"
    "if False:\n    def never(): pass\nif 1:\n    def always(): pass\nif sys.version_info[0] == 2:\n"
    "    def ancient(): pass\n",
    "both ways of a condition": "import os\nif os.environ.get('X'):\n    def net(): pass\nelse:\n    net = lambda: 1\n",
    "main": "def net(): pass\nif __name__ == '__main__':\n    def script(): pass\n    import models\n",
    "type checking": "from typing import TYPE_CHECKING\nimport typing\nif TYPE_CHECKING:\n"
    "    from models.a import small\n"
    "if typing.TYPE_CHECKING:\n    from models.a import other\ndef net() -> 'small': pass\n",
    "match": "import sys\nmatch sys.argv:\n    case _:\n        def net(): pass\n",
    "while and with": "import contextlib\nwith contextlib.suppress(ValueError) as s:\n    def net(): pass\n"
    "while True:\n"
    "    def other(): pass\n    break\n",
    "walrus": "def make(): return lambda: 1\nif (net := make()):\n    pass\nprint_ = (other := net)\n",
    "a registry that is written out": "from models.a import small\nTABLE = {'a': small, 'b': lambda: 1, 'c': 3}\n"
    "net = TABLE['a']\nthree = TABLE['c']\nglobals().update(TABLE)\n",
    "attributes of modules": "import models.a, models\nimport os\nsmall = models.a.small\nbig = models.big\n"
    "number = models.a.NUMBER\n"
    "join = os.path.join\nsep = os.sep\n".replace("sep = os.sep\n", "SEP = os.sep\n"),
    "sys.path": {"hubconf.py": "import os, sys\n"
    "sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'src'))\n"
                 "from inner import net\nfrom pathlib import Path\n"
                 "sys.path.append(str(Path(__file__).resolve().parent / 'lib'))\n"
                 "from other import more\n", "src/inner.py": "def net(): pass\n", "lib/other.py": "def more(): pass\n"},
    "sys.path by sys.path[0]": {"hubconf.py": "import os, sys\nsys.path.append(os.path.join(sys.path[0], 'a', 'b'))\n"
                                "from inner import net as bert, Other as _Other\n",
                                "a/b/inner.py": "def net(): pass\nclass Other: pass\n"},
    "sub-packages as others import them": {
        "hubconf.py": "from pkg.hub import a, b\nfrom pkg.hub.c import C as _C\n",
        "pkg/__init__.py": "", "pkg/hub/__init__.py": "from .a import a\nfrom pkg.hub.b import b\n",
        "pkg/hub/a.py": "def a(): pass\n", "pkg/hub/b.py": "from . import c\ndef b(): pass\n",
        "pkg/hub/c.py": "class C: pass\n"},
    "a package of that name is installed": {"hubconf.py": "from click import net\nimport click\n",
                                            "click/__init__.py": "def net(): pass\n"},
    "exceptions": "def net(): pass\ntry:\n    raise ValueError\nexcept ValueError as caught:\n    pass\n",
    "taken out of globals": "def net(): pass\nfor name in ['net']:\n    del globals()[name]\n",
    "popped out of globals": "def net(): pass\nglobals().pop('net')\n",
    "nothing": "",
    "a module's docstring": "'''About.'''\ndependencies = ['json']\ndef net(): pass\n",
    "bytes of another encoding": "# -*- coding: latin-1 -*-\ndef net():\n    'caf\\xe9'\n",
    "async and generators": "def net():\n    yield 1\nasync def agen():\n    yield 1\n",
    "a name that is taken back by a function": "def net(): pass\ndef helper():\n    global _cache\n    _cache = 1\n",
}  # fmt: skip

UNKNOWN: dict[str, str | dict[str, str]] = {
    "a registry at run time": "import models.a\nfor name, value in vars(models.a).items():\n"
    "    if callable(value):\n        globals()[name] = value\n",
    "update with what a call gives": "import models.a\nglobals().update(vars(models.a))\n",
    "getattr in a loop": "import models.a as a\nfor name in dir(a):\n    globals()[name] = getattr(a, name)\n",
    "a star of another package": "from string import *\n",
    "text that is run": "exec('def net(): pass')\n",
    "setattr on itself": "import sys\nsetattr(sys.modules[__name__], 'net', print)\n",
    "its own dictionary": "import sys\nsys.modules[__name__].__dict__['net'] = print\n",
    "globals by a method": "globals().__setitem__('net', print)\nglobals().setdefault('net2', print)\n",
    "globals under a name": "space = globals()\nspace['net'] = print\n",
    "a module by text": "import importlib\nm = importlib.import_module('models.a')\nsmall = m.small\n",
    "a method of an object": "class Hub:\n    def net(self): pass\nhub = Hub()\nnet = hub.net\n",
    "an item of what is not known": "import models.a\nnet = vars(models.a)['small']\n",
    "a function that sets a global": "def setup():\n    global net\n    net = print\nsetup()\n",
    "only under a condition": "import os\nif os.environ.get('SURELY_NOT_SET'):\n    def net(): pass\n"
    "def other(): pass\n",
    "taken out by what is not known": "import os\ndef net(): pass\nglobals().pop(os.sep, None)\n"
    "del globals()[''.join(['net'])]\n",
    "its own dir": "def net(): pass\ndef hidden(): pass\ndef __dir__():\n    return ['net']\n",
    "what a call of another package gives": "import operator\nnet = operator.attrgetter('x')\n",
    "a decorator that may give anything": "import models.a\ndef deco(f):\n    return 3\n@deco\ndef net(): pass\n",
    "a star through a package that is made at run time": {
        "hubconf.py": "from made import *\n", "made.py": "for n in open(__file__).read().split()[:0]:\n"
        "    globals()[n] = n\ndef net(): pass\n"},
    "a module that cannot be read": {"hubconf.py": "try:\n    from broken import net\nexcept SyntaxError:\n    pass\n",
                                     "broken.py": "def net(:\n"},
}  # fmt: skip

EXECUTED = """
import contextlib, importlib.util, io, json, sys
for folder in sys.argv[1:]:
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("hubconf.py", folder + "/hubconf.py")
    module = sys.modules["hubconf.py"] = importlib.util.module_from_spec(spec)
    with contextlib.redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
    print(json.dumps([n for n in dir(module) if callable(getattr(module, n)) and not n.startswith("_")]))
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]
"""


def written(folder, shape):
    return put(folder, {**MODELS, **({"hubconf.py": shape} if isinstance(shape, str) else shape)})


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """What each shape offers when it is run, as torch.hub runs it: one process for all."""
    base = tmp_path_factory.mktemp("shapes")
    shapes = {**WHOLE, **UNKNOWN}
    folders = [written(base / str(number), shape) for number, shape in enumerate(shapes.values())]
    done = subprocess.run([sys.executable, "-c", EXECUTED, *folders], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(shapes, zip(folders, lines, strict=True), strict=True))


class TestNames:
    @pytest.mark.parametrize("name", WHOLE)
    def test_what_the_tree_tells_is_what_running_it_tells(self, executed, name):
        folder, wanted = executed[name]
        report = hub.inspect(folder, source="local")
        assert [entry.name for entry in report.entries] == wanted
        assert (report.complete, report.reasons) == (True, ())

    @pytest.mark.parametrize("name", UNKNOWN)
    def test_what_it_cannot_tell_it_says(self, executed, name):
        folder, _ = executed[name]
        report = hub.inspect(folder, source="local")
        assert not report.complete
        assert all(":" in reason for reason in report.reasons)

    @pytest.mark.parametrize("name", UNKNOWN)
    def test_running_it_tells_all(self, executed, name):
        folder, wanted = executed[name]
        assert hub.list(folder, source="local", execute=True) == wanted


class TestNothingRuns:
    """Told by Python's own audit events, in a process of its own."""

    WATCH = """
import sys, weighlock as wl
hub = wl.hub
def look(folder):
    hub.list(folder, source="local"); hub.inspect(folder, source="local")
    for name in ("net", "nothing"):
        try:
            hub.help(folder, name, source="local")
        except wl.EntryPointError:
            pass
    from weighlock.hub.publishing import check_folder
    check_folder(folder)
import warnings
warnings.simplefilter("ignore")
look(sys.argv[1])  # what we ourselves import is imported now
seen = []
def hook(event, args):
    if event in ("exec", "import", "subprocess.Popen", "os.system", "socket.connect", "socket.getaddrinfo", "os.mkdir",
                 "os.remove", "os.rename", "os.chdir", "os.putenv"):
        seen.append((event, str(args)[:200]))
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen.append((event, str(args)[:200]))
    elif event == "compile" and args[0] is None:
        pass
sys.addaudithook(hook)
for folder in sys.argv[2:]:
    look(folder)
print(seen)
print([m for m in sys.modules if m.split(".")[0] in ("hubconf", "models", "inner", "torch", "numpy")])
"""

    def test_no_code_no_import_no_process_no_connection_no_file(self, executed, tmp_path):
        evil = put(tmp_path / "evil", {
            "hubconf.py": "import os, models.net, inner\nfrom models.net import *\nfrom torch.hub import load\n"
            "dependencies = [open('ran', 'w').name]\nos.system('true')\nopen('ran', 'w')\n"
            "def net(a=open('ran', 'w'), *, b=os.system('true')) -> os.system('true'):\n    'Doc.'\n"
            "@os.system\ndef other(): pass\nclass C(metaclass=os.system('x')):\n    x = os.system('true')\n"
            "x = f'{os.system(1)}' % ()\ny = '{0.__class__}'.format(os)\nz = 'a' * 10 ** 10\nq = [0] * 10 ** 10\n"
            "for n in os.listdir('.'):\n    globals()[n] = os.remove\n",
            "models/__init__.py": "raise SystemExit\n", "models/net.py": "import numpy\nraise SystemExit\n",
            "inner.py": "raise SystemExit\n", "sitecustomize.py": "raise SystemExit\n",
            "pyproject.toml": "[build-system]\n", "setup.py": "raise SystemExit\n",
        })  # fmt: skip
        first = put(
            tmp_path / "first",
            {"hubconf.py": "import x\ndef net():\n    'Doc.'\nglobals()[y] = 1\n", "x.py": "a = 1\n"},
        )
        folders = [folder for folder, _ in executed.values()]
        done = subprocess.run([sys.executable, "-c", self.WATCH, first, *folders, evil], capture_output=True, text=True,
                              check=True, cwd=tmp_path)  # fmt: skip
        assert done.stdout == "[]\n[]\n"
        assert not (tmp_path / "ran").exists()

    def test_the_watch_sees_what_it_should(self, tmp_path):
        folder = put(tmp_path / "r", {"hubconf.py": "def net():\n    pass\n"})
        watch = self.WATCH.replace("look(folder)\nprint", "hub.load(folder, 'net', source='local')\nprint")
        assert watch != self.WATCH
        done = subprocess.run([sys.executable, "-c", watch, folder, folder], capture_output=True, text=True, check=True)
        assert "'exec'" in done.stdout
        assert "'import'" in done.stdout


class TestHelp:
    def test_signatures_and_docs_are_those_that_python_gives(self, tmp_path):
        text = (
            "import functools\nfrom functools import partial\n"
            'def a(x, /, y, z=1, *rest, k, l=2, **more) -> int:\n    """Doc.\n\n    More.\n    """\n'
            "def b(): pass\nclass C:\n    'Doc of C.'\n    def __init__(self, n, m=(1, 'x')): pass\n"
            "p = partial(a, 1, z=3)\nq = partial(p, l=5, k=1)\nl = lambda x, y=1: x\nalias = a\n"
            "async def w(x): 'W.'\n"
        )
        folder = put(tmp_path / "r", {"hubconf.py": text})
        report = hub.inspect(folder, source="local")
        found = {entry.name: entry for entry in report.entries}
        space: dict[str, Any] = {}
        exec(compile(text, "hubconf", "exec", dont_inherit=True), space)
        for name in ("a", "b", "C", "p", "q", "l", "alias", "w"):
            real = inspect.signature(space[name])
            assert found[name].signature == str(real), name
        for name in ("a", "b", "C", "alias", "w"):
            assert found[name].doc == space[name].__doc__
        assert found["p"].doc == found["q"].doc == space["a"].__doc__, "the function's, not that of partial itself"
        kinds = {name: entry.kind for name, entry in found.items()}
        assert kinds == {"a": "def", "b": "def", "C": "class", "p": "partial", "q": "partial", "l": "def", "w": "def",
                         "alias": "alias", "partial": "external"}  # fmt: skip

    def test_dependencies_urls_and_effects(self, tmp_path):
        folder = put(tmp_path / "r", {
            "hubconf.py": "dependencies = ['torch', 'PIL']\nimport torch, numpy as np, json\n"
            "from models.net import Net\n"
            "try:\n    import xformers\nexcept ImportError:\n    xformers = None\n"
            "def net():\n    import scipy.io\n    from models.late import x\n"
            "    return torch.hub.load_state_dict_from_url('https://example.com/net-0123abcd.pth')\n",
            "models/__init__.py": "", "models/net.py": "import yaml\nclass Net: pass\n",
            "models/late.py": "import requests\nx = 'http://example.com/other.pt'\nDOCS = 'https://example.com/docs'\n",
            "train.py": "import wandb\nurl = 'https://example.com/train.pth'\n",
        })  # fmt: skip
        report = hub.inspect(folder, source="local")
        assert report.dependencies == ("torch", "PIL")
        assert report.undeclared == ("numpy", "requests", "scipy", "yaml")
        assert {(url.url, url.https, url.hashed) for url in report.urls} == {
            ("https://example.com/net-0123abcd.pth", True, True),
            ("http://example.com/other.pt", False, False),
        }
        assert report.effects == ()

    def test_imports_that_lead_very_deep(self, tmp_path):
        files = {f"m{n}.py": f"from m{n + 1} import net\n" for n in range(400)}
        folder = put(tmp_path / "r", {"hubconf.py": "from m0 import net\n", **files, "m400.py": "def net(): pass\n"})
        report = hub.inspect(folder, source="local")
        assert not report.complete
        assert any("deeper" in reason for reason in report.reasons)


class TestRunningIt:
    """`execute=True`: in a process of its own."""

    def test_whatever_a_hubconf_prints_or_does_with_the_process(self, host, tmp_path):
        text = (
            "import atexit, os, sys\nprint('noise')\nsys.stdout.write('no end of line')\n"
            "atexit.register(print, 'bye')\n"
            "os.environ['HUB_STATIC_TEST'] = 'x'\nsys.path.insert(0, '/nowhere')\n"
            "def net():\n    'Doc \u00fc.'\nglobals()['made' + str(1)] = net\n"
        )
        folder = put(tmp_path / "r", {"hubconf.py": text})
        before = list(sys.path)
        assert hub.list(folder, source="local", execute=True) == ["made1", "net"]
        assert hub.help(folder, "net", source="local", execute=True) == "Doc \u00fc."
        assert sys.path == before
        assert "HUB_STATIC_TEST" not in os.environ

    @pytest.mark.parametrize(
        ("text", "why"),
        [("raise KeyError('x')\n", "KeyError"), ("import sys\nprint('[]')\nsys.exit(0)\n", "no answer"),
         ("import os\nos._exit(3)\n", "no answer"), ("import no_such_thing_anywhere\n", "ModuleNotFoundError")],
    )  # fmt: skip
    def test_a_hubconf_that_fails(self, host, tmp_path, text, why):
        folder = put(tmp_path / "r", {"hubconf.py": text})
        with pytest.raises(wl.EntryPointError, match=f"the hubconf fails: .*{why}"):
            hub.list(folder, source="local", execute=True)

    def test_what_holds_here_holds_there(self, host, tmp_path, monkeypatch):
        url = host.put("net.pth", b"x")
        text = f"import weighlock\nweighlock.hub.load_state_dict_from_url({url!r})\ndef net(): pass\n"
        folder = put(tmp_path / "r", {"hubconf.py": text})
        with pytest.raises(wl.EntryPointError, match="OfflineError"):
            hub.list(folder, source="local", execute=True, offline=True)
        (tmp_path / "weighlock.lock").write_text("version = 1\n")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(wl.EntryPointError, match="PinError"):
            hub.list(folder, source="local", execute=True, locked=True)
        assert not host.log

    def test_the_command_line(self, host, tmp_path, capsys):
        folder = put(tmp_path / "r", {"hubconf.py": "import models.a\nglobals().update(vars(models.a))\n", **MODELS})
        assert run(("hub", "list", folder, "--source", "local", "--json")) == 3
        assert not json.loads(capsys.readouterr().out)["complete"]
        assert run(("hub", "list", folder, "--source", "local", "--execute", "--json")) == 0
        document = json.loads(capsys.readouterr().out)
        assert [row["name"] for row in document["entries"]] == ["other", "small"]
