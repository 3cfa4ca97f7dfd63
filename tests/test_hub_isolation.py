"""Several repositories and versions in one process: whatever a repository's code does to find its own modules."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import subprocess
import sys
import textwrap
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import weighlock as wl

hub = wl.hub


def put(folder, files):
    for name, text in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return str(folder)


@pytest.fixture
def load(host, tmp_path):
    """A function that writes a repository and calls its entry point; the number makes each a folder of its own."""
    made: list[str] = []

    def loaded(files, *args, entry="net", **kwargs):
        made.append(put(tmp_path / f"repository{len(made)}", files))
        return hub.load(made[-1], entry, *args, source="local", **kwargs)

    return loaded


def is_plain(files, tmp_path):
    return bool(hub.inspect(put(tmp_path / "looked-at", files), source="local").compatibility)


# Each is a repository with one entry point `net`, what it gives, and whether plain names are needed for it.
SHAPES: dict[str, tuple[dict[str, str], object]] = {
    "own package by its whole name from deep inside": (
        {
            "hubconf.py": "from pkg.a.b.c import found\ndef net():\n    return found()\n",
            "pkg/__init__.py": "TOP = 1\n",
            "pkg/a/__init__.py": "",
            "pkg/a/b/__init__.py": "from pkg.a import other\n",
            "pkg/a/b/c.py": "import pkg\nimport pkg.a.other as o\nfrom pkg import TOP\nfrom pkg.a.other import OTHER\n"
            "def found():\n    import pkg.a.other\n    return TOP, o.OTHER, OTHER, pkg.a.other.OTHER, pkg.TOP\n",
            "pkg/a/other.py": "OTHER = 2\n",
        },
        (1, 2, 2, 2, 1),
    ),
    "from . import": (
        {
            "hubconf.py": "from pkg import net\n",
            "pkg/__init__.py": "from . import one, two as second\nfrom .one import *\n"
            "def net():\n    return one.x, second.y, x\n",
            "pkg/one.py": "from . import two\nx = two.y + 1\n",
            "pkg/two.py": "y = 1\n",
        },
        (2, 1, 2),
    ),
    "stars through packages, with and without __all__": (
        {
            "hubconf.py": "from models import *\ndef net():\n    return small(), large(), 'hidden' in globals()\n",
            "models/__init__.py": "from models.small import *\nfrom .large import *\n",
            "models/small.py": "def small():\n    return 's'\n_private = 1\n",
            "models/large.py": "__all__ = ['large']\ndef large():\n    return 'l'\ndef hidden():\n    pass\n",
        },
        ("s", "l", False),
    ),
    "conditional imports": (
        {
            "hubconf.py": "try:\n    from no_such_package_anywhere import thing\nexcept ImportError:\n"
            "    from fallback import thing\nif thing:\n    import extra\n"
            "def net():\n    try:\n        import fallback_too\n    except ModuleNotFoundError as error:\n"
            "        return thing, extra.name, error.name\n",
            "fallback.py": "thing = 'fallback'\n",
            "extra.py": "name = 'extra'\n",
        },
        ("fallback", "extra", "fallback_too"),
    ),
    "a module that is not there, inside of its package": (
        {
            "hubconf.py": "import pkg\ndef net():\n    try:\n        import pkg.missing\n"
            "    except ModuleNotFoundError as error:\n        return error.name.endswith('pkg.missing')\n",
            "pkg/__init__.py": "",
        },
        True,
    ),
    "relative import by text": (
        {
            "hubconf.py": "from pkg import net\n",
            "pkg/__init__.py": "import importlib\ndef net(kind='first'):\n"
            "    return importlib.import_module('.' + kind, __name__).x, "
            "importlib.import_module(f'{__name__}.second').x\n",
            "pkg/first.py": "x = 1\n",
            "pkg/second.py": "x = 2\n",
        },
        (1, 2),
    ),
    "import by text": (
        {
            "hubconf.py": "import importlib\ndef net(kind='first'):\n"
            "    return importlib.import_module('models.' + kind).x\n",
            "models/__init__.py": "",
            "models/first.py": "x = 'first'\n",
        },
        "first",
    ),
    "__import__": (
        {
            "hubconf.py": "def net(kind='first'):\n    return __import__('models.' + kind).first.x\n",
            "models/__init__.py": "",
            "models/first.py": "x = 'first'\n",
        },
        "first",
    ),
    "modules found by pkgutil": (
        {
            "hubconf.py": "import models\ndef net():\n    return models.ALL\n",
            "models/__init__.py": "import importlib, pkgutil\n"
            "ALL = {m.name: importlib.import_module(__name__ + '.' + m.name).x\n"
            "       for m in pkgutil.iter_modules(__path__)}\n",
            "models/first.py": "x = 1\n",
            "models/second.py": "x = 2\n",
        },
        {"first": 1, "second": 2},
    ),
    "pkgutil.walk_packages with plain names": (
        {
            "hubconf.py": "import models\ndef net():\n    return models.ALL\n",
            "models/__init__.py": "import pkgutil\nALL = sorted(m.name for m in "
            "pkgutil.walk_packages(__path__, 'models.'))\n",
            "models/first.py": "x = 1\n",
            "models/deep/__init__.py": "",
            "models/deep/second.py": "x = 2\n",
        },
        ["models.deep", "models.deep.second", "models.first"],
    ),
    "files of a package through importlib.resources": (
        {
            "hubconf.py": "from pkg import net\n",
            "pkg/__init__.py": "from importlib import resources\nfrom importlib.resources import files\n"
            "import pkgutil\n"
            "import pkg\n"
            "def net():\n    return (resources.files(__name__).joinpath('data.txt').read_text(),\n"
            "        files(pkg).joinpath('data.txt').read_text(), files('pkg').joinpath('data.txt').read_text(),\n"
            "        pkgutil.get_data('pkg', 'data.txt').decode(), pkgutil.get_data(__name__, 'data.txt').decode())\n",
            "pkg/data.txt": "data",
        },
        ("data",) * 5,
    ),
    "files beside the module": (
        {
            "hubconf.py": "import os, pathlib\nHERE = os.path.dirname(os.path.abspath(__file__))\n"
            "def net():\n    from pkg.read import text\n"
            "    with open(os.path.join(HERE, 'a.txt')) as f:\n        read = f.read()\n"
            "    return read, pathlib.Path(__file__).with_name('a.txt').read_text(), text\n",
            "a.txt": "a",
            "pkg/__init__.py": "",
            "pkg/read.py": "import pathlib\ntext = (pathlib.Path(__file__).parent.parent / 'a.txt').read_text()\n",
        },
        ("a", "a", "a"),
    ),
    "folders without __init__": (
        {
            "hubconf.py": "from models.deep.net import x\nimport models.deep.net\ndef net():\n"
            "    from models.other import y\n    return x, y, models.deep.net.x\n",
            "models/deep/net.py": "from models.other import y\nfrom ..other import y as z\nx = y + z\n",
            "models/other.py": "y = 2\n",
        },
        (4, 2, 4),
    ),
    "folders without __init__, by text": (
        {
            "hubconf.py": "import importlib\nfrom models.other import y\ndef net():\n"
            "    return importlib.import_module('models.deep.net').x\n",
            "models/deep/net.py": "from models.other import y\nx = y + 2\n",
            "models/other.py": "y = 2\n",
        },
        4,
    ),
    "if __name__ is __main__": (
        {
            "hubconf.py": "from tool import x\ndef net():\n    return x\nif __name__ == '__main__':\n"
            "    raise SystemExit\n",
            "tool.py": "x = 3\nif __name__ == '__main__':\n    raise SystemExit\n",
        },
        3,
    ),
    "names of the standard library": (
        {
            "hubconf.py": "import json, mailbox, turtledemo, test\ndef net():\n"
            "    return mailbox.mine, turtledemo.mine, test.mine, hasattr(json, 'mine')\n",
            "json.py": "mine = True\n",
            "mailbox.py": "mine = True\n",
            "turtledemo/__init__.py": "mine = True\n",
            "test.py": "mine = True\n",
        },
        (True, True, True, False),
    ),
    "a module that replaces itself": (
        {
            "hubconf.py": "import lazy\ndef net():\n    return lazy.value, lazy.other\n",
            "lazy.py": "import sys, types\nclass Lazy(types.ModuleType):\n    value = 5\n    other = __name__\n"
            "sys.modules[__name__] = Lazy(__name__)\n",
        },
        None,
    ),
    "attributes of a module that are made when they are asked for": (
        {
            "hubconf.py": "import pkg\nfrom pkg import late\ndef net():\n    return late.x, pkg.later.x\n",
            "pkg/__init__.py": "import importlib\ndef __getattr__(name):\n"
            "    if name not in ('late', 'later'):\n        raise AttributeError(name)\n"
            "    return importlib.import_module('.' + name, __name__)\n",
            "pkg/late.py": "x = 1\n",
            "pkg/later.py": "x = 2\n",
        },
        (1, 2),
    ),
    "a circle of imports": (
        {
            "hubconf.py": "import a\ndef net():\n    return a.b.value(), a.name\n",
            "a.py": "import b\nfrom b import value\nname = 'a'\n",
            "b.py": "import a\ndef value():\n    from a import name\n    return a.name + name\n",
        },
        ("aa", "a"),
    ),
    "a module that is imported again": (
        {
            "hubconf.py": "import importlib, counter\ndef net():\n    first = counter.made\n"
            "    importlib.reload(counter)\n    return first is not counter.made, type(counter.made).__name__\n",
            "counter.py": "made = object()\n",
        },
        (True, "object"),
    ),
    "text that is run": (
        {
            "hubconf.py": "import utils\ndef net():\n    space = {}\n    exec('import utils\\nx = utils.y', space)\n"
            "    exec('from utils import y as z')\n    return space['x'], eval('__import__(\"utils\").y')\n",
            "utils.py": "y = 4\n",
        },
        (4, 4),
    ),
    "functions that are made by others and called much later": (
        {
            "hubconf.py": "import functools\nfrom utils import late\ndef net():\n"
            "    return [f() for f in (functools.partial(late, 1), lambda: late(2), *(lambda: late(3),))]\n",
            "utils.py": "def late(n):\n    import utils\n    from models.net import x\n"
            "    return n + x + utils.one\none = 1\n",
            "models/net.py": "x = 10\n",
        },
        [12, 13, 14],
    ),
    "metaclasses, properties, generators and coroutines": (
        {
            "hubconf.py": "import asyncio\nclass Meta(type):\n    def __call__(cls):\n        from utils import x\n"
            "        return x\nclass Net(metaclass=Meta):\n    pass\nclass Has:\n    @property\n    def p(self):\n"
            "        import utils\n        return utils.x\n    @staticmethod\n    def s():\n        import utils as u\n"
            "        return u.x\ndef generate():\n    from utils import x\n    yield x\n"
            "async def wait():\n    from utils import x\n    return x\n"
            "def net():\n    return Net(), Has().p, Has.s(), next(generate()), asyncio.run(wait())\n",
            "utils.py": "x = 1\n",
        },
        (1, 1, 1, 1, 1),
    ),
}


class TestShapes:
    @pytest.mark.parametrize("name", SHAPES)
    def test_a_repository_finds_its_own(self, load, name):
        files, wanted = SHAPES[name]
        before, modules = list(sys.path), set(sys.modules)
        found = load(files)
        if wanted is not None:
            assert found == wanted
        assert sys.path == before
        stray = {one for one in set(sys.modules) - modules if not one.startswith("weighlock.")}
        own = {Path(one).parts[0].removesuffix(".py") for one in files}
        assert not stray & own - {"json"}

    @pytest.mark.parametrize("name", [name for name in SHAPES if SHAPES[name][1] is not None])
    def test_it_still_does_where_the_program_has_modules_of_those_names(self, load, name, tmp_path, monkeypatch):
        files, wanted = SHAPES[name]
        tops = {Path(one).parts[0].removesuffix(".py") for one in files} - {"hubconf", "json", "a.txt"}
        put(tmp_path / "mine", {f"{top}/__init__.py": "mine = 'the program\\'s'\n" for top in tops})
        monkeypatch.syspath_prepend(str(tmp_path / "mine"))
        mine = {top: __import__(top) for top in tops}
        try:
            skipped = {"names of the standard library"}  # what is loaded counts, as it does for torch.hub
            if name not in skipped:
                assert load(files) == wanted
            assert {top: sys.modules[top] for top in tops} == mine
            assert all(module.mine == "the program's" for module in mine.values())
        finally:
            for top in tops:
                del sys.modules[top]

    @pytest.mark.parametrize("name", [name for name in SHAPES if SHAPES[name][1] is not None])
    def test_it_does_where_plain_names_are_asked_for(self, load, name, monkeypatch):
        """The compatible way does all that torch.hub does."""
        monkeypatch.setattr("weighlock.hub.static.reading.effects.plain_names_of", lambda scope: iter(["asked for"]))
        files, wanted = SHAPES[name]
        before = list(sys.path)
        assert load(files) == wanted
        assert sys.path == before
        assert "hubconf" not in sys.modules

    def test_import_by_text_much_later_and_from_a_thread(self, load):
        files = {
            "hubconf.py": "import importlib, importlib.util as u\nfrom importlib import import_module as im\n"
            "class Net:\n    def named(self, kind):\n"
            "        return importlib.import_module('models.' + kind).x + im('models').y\n"
            "    def other(self):\n        return im('json') is __import__('json'), u.find_spec('json').name\n"
            "net = Net\n",
            "models/__init__.py": "y = '!'\n",
            "models/late.py": "x = {!r}\n",
        }
        one = load({name: text.format("one") for name, text in files.items()})
        two = load({name: text.format("two") for name, text in files.items()})
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda net: net.named("late"), [one, two, one])) == ["one!", "two!", "one!"]
        assert one.other() == (True, "json")
        assert not {"models", "models.late"} & set(sys.modules)

    def test_which_repositories_need_plain_names(self, tmp_path):
        own = {"models/__init__.py": "", "models/a.py": ""}
        for number, (text, needed) in enumerate([
            ("import importlib\nimportlib.import_module('models.a')", False),
            ("__import__('models.a')", False),
            ("import importlib.resources\nimportlib.resources.files('models')", True),
            ("import importlib.resources, models\nimportlib.resources.files(models)", False),
            ("import importlib.resources\nimportlib.resources.files('json')", False),
            ("import importlib.resources\nimportlib.resources.files(__package__)", False),
            ("import pkgutil\npkgutil.get_data('models', 'x')", True),
            ("import pkgutil\npkgutil.get_data(__name__, 'x')", False),
            ("import pkgutil, models\npkgutil.walk_packages(models.__path__, 'models.')", True),
            ("import pkgutil, models\npkgutil.walk_packages(models.__path__, models.__name__ + '.')", False),
            ("import pkgutil, models\npkgutil.iter_modules(models.__path__)", False),
            ("import importlib.util\nimportlib.util.find_spec('models.a')", True),
            ("import importlib.util\nimportlib.util.find_spec('torch')", False),
            ("import sys\nsys.modules['models']", True),
            ("import sys\nsys.modules['json']", False),
            ("import sys\nsys.modules[__name__]", False),
            ("import sys\nsys.modules.get('models.a')", True),
            ("import sys\nsys.path.append(sys.path[0] + '/x')", True),
            ("import sys\nsys.path.append('x')", False),
        ]):  # fmt: skip
            folder = put(tmp_path / str(number), {"hubconf.py": text + "\n", **own})
            assert bool(hub.inspect(folder, source="local").compatibility) == needed, text


CLASSES = {
    "hubconf.py": "from __future__ import annotations\nimport collections, dataclasses, enum, functools, typing\n"
    "from models.net import Net, make, Base\n"
    "@dataclasses.dataclass\nclass Config:\n    size: int = 3\n    base: typing.ClassVar[Base | None] = None\n"
    "    inner: Base | None = None\n    def late(self):\n        from models.other import NAME\n        return NAME\n"
    "class Color(enum.Enum):\n    RED = 1\n"
    "Point = collections.namedtuple('Point', 'x y')\n"
    "class Typed(typing.NamedTuple):\n    x: int\n"
    "@functools.lru_cache\ndef cached(x):\n    return x + 1\n"
    "def outer():\n    from models.other import NAME\n    return NAME\n"
    "class Outer:\n    class Inner:\n        def late(self):\n            import models.other\n"
    "            return models.other.NAME\n    def bound(self):\n        return outer()\n"
    "class Slots:\n    __slots__ = ('x',)\n    def __init__(self, x=1):\n        self.x = x\n"
    "    def __reduce__(self):\n        return Slots, (self.x,)\n"
    "def net(width=1):\n    return Net(width)\n"
    "def everything():\n    return [net(2), Config(inner=Base()), Color.RED, Point(1, 2), Typed(3), cached, outer,\n"
    "            Outer(), Outer.Inner(), Outer().bound, Slots(5), functools.partial(outer), Config, make(4), len]\n",
    "models/__init__.py": "",
    "models/net.py": "class Base:\n    pass\nclass Net(Base):\n    def __init__(self, width):\n"
    "        self.width = width\n"
    "    def late(self):\n        from models.other import NAME\n        import models.other as o\n"
    "        return NAME, o.NAME, self.width\n"
    "def make(width):\n    return Net(width)\n",
    "models/other.py": "NAME = {!r}\n",
}


def classes(name, *, plain=False):
    files = {path: text.format(name) if path.endswith("other.py") else text for path, text in CLASSES.items()}
    if plain:
        files["hubconf.py"] += "import sys\nassert 'models' in sys.modules, sys.modules['models']\n"
    return files


def late(value):
    """What a worker does with an object: call it, so that it imports what it needs only there."""
    return type(value).__module__.rpartition(".")[0], value.late()


WORKER = """
import multiprocessing, os, pickle, sys
from concurrent.futures import ProcessPoolExecutor
import weighlock as wl

def late(value):
    found = value.late() if hasattr(value, "late") else value()
    return found, "utils" in sys.modules, "models" in sys.modules

if __name__ == "__main__":
    method, kind, *folders = sys.argv[1:]
    context = multiprocessing.get_context(method)
    if "early" in kind:
        with context.Pool(1) as pool:
            pool.map(abs, [1])
    if "elsewhere" in kind:
        wl.hub.set_dir(os.environ["HOME"] + "/elsewhere")
    values = [wl.hub.load(folder, "net", 7, source="local") for folder in folders]
    values += [wl.hub.load(folder, "everything", source="local")[6] for folder in folders]
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        print([found for found in pool.map(late, values)])
    with context.Pool(2) as pool:
        print(pool.map(late, values))
    process = context.Process(target=values[2])
    process.start()
    process.join()
    print(process.exitcode)
"""


class TestObjects:
    @pytest.mark.parametrize("plain", [False, True])
    def test_everything_a_repository_makes_can_be_pickled_and_copied(self, load, plain):
        one, two = (load(classes(name, plain=plain), entry="everything") for name in ("one", "two"))
        for protocol in (0, 2, 5):
            again = pickle.loads(pickle.dumps(one, protocol))
            assert [type(x) for x in again] == [type(x) for x in one]
            assert again[0].late() == ("one", "one", 2)
        for made, name in ((one, "one"), (two, "two")):
            again = pickle.loads(pickle.dumps(made))
            assert [again[1].late(), again[6](), again[7].bound(), again[8].late(), again[9](), again[11]()] == [
                name
            ] * 6
            assert again[2] is made[2]
            assert (again[3].y, again[4].x, again[5](1), again[10].x) == (2, 3, 2, 5)
            for copied in (copy.copy(made[0]), copy.deepcopy(made[0]), copy.deepcopy(made)[0]):
                assert copied.late() == (name, name, 2)
                assert type(copied) is type(made[0])
        assert type(one[0]) is not type(two[0])

    @pytest.mark.parametrize("plain", [False, True])
    def test_what_python_tells_of_them(self, load, plain):
        made = load(classes("one", plain=plain), entry="everything")
        net, config = made[0], made[1]
        assert inspect.getsource(type(net)).startswith("class Net(Base):")
        assert inspect.getsource(made[6]).startswith("def outer():")
        assert inspect.getmodule(net) is sys.modules[type(net).__module__]
        assert inspect.getfile(type(net)).endswith("models/net.py")
        hints = typing.get_type_hints(type(config))
        assert hints["size"] is int
        assert type(net).__mro__[1] in typing.get_args(hints["inner"])
        assert list(inspect.signature(type(net)).parameters) == ["width"]

    @pytest.mark.parametrize("plain", [False, True])
    @pytest.mark.parametrize("kind", ["late", "early", "elsewhere", "early elsewhere"])
    @pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
    def test_workers(self, host, tmp_path, method, kind, plain):
        """`early`: a server for workers that runs before anything is loaded; `elsewhere`: `set_dir` was called."""
        folders = [put(tmp_path / name, classes(name, plain=plain)) for name in ("one", "two")]
        put(tmp_path / "program", {"main.py": WORKER, "utils.py": "", "models.py": "raise AssertionError\n"})
        done = subprocess.run(
            [sys.executable, str(tmp_path / "program" / "main.py"), method, kind, *folders],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        wanted: list[object] = [((name, name, 7), False, False) for name in ("one", "two")]
        wanted += [(name, False, False) for name in ("one", "two")]
        assert done.stdout.splitlines() == [str(wanted)] * 2 + ["0"], done.stderr[-3000:]

    def test_a_worker_runs_each_module_once(self, host, tmp_path):
        counter = "open(__file__ + '.ran', 'a').close()\nwith open(__file__ + '.ran', 'a') as f:\n    f.write('x')\n"
        for plain in (False, True):
            files = {name: counter + text if name.startswith("models/") else text
                     for name, text in classes("one", plain=plain).items()}  # fmt: skip
            folder = Path(put(tmp_path / str(plain), files))
            made = pickle.dumps(hub.load(folder, "net", source="local"))
            before = {path.name: path.read_text() for path in folder.rglob("*.ran")}
            assert set(before.values()) == {"x"}
            code = f"import pickle; pickle.loads({made!r}).late()"
            subprocess.run([sys.executable, "-c", code], check=True)
            assert (folder / "models/net.py.ran").read_text() == "xx"
            assert (folder / "models/__init__.py.ran").read_text() == "xx"

    def test_more_spaces_than_an_environment_holds(self, host, tmp_path):
        for number in range(600):
            folder = tmp_path / f"repository-with-quite-a-long-name-{number:04}"
            folder.mkdir()
            (folder / "hubconf.py").write_text("class Net:\n    pass\ndef net():\n    return Net()\n")
            made = hub.load(folder, "net", source="local")
        code = f"import pickle; print(type(pickle.loads({pickle.dumps(made)!r})).__name__)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "Net\n"

    def test_generic_classes_decorators_and_abstract_bases(self, load):
        files = {
            "hubconf.py": "import abc, contextlib, functools, typing\nfrom utils import wraps\n"
            "T = typing.TypeVar('T')\n"
            "class Box(typing.Generic[T]):\n    def __init__(self, x: T):\n        self.x = x\n"
            "class Base(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\n"
            "class Real(Base):\n    @functools.cached_property\n    def p(self):\n        from utils import y\n"
            "        return y\n    def f(self):\n        with manager() as found:\n            return found\n"
            "@contextlib.contextmanager\ndef manager():\n    from utils import y\n    yield y\n"
            "@wraps\ndef net():\n    return Box[int](1), Real()\n",
            "utils.py": "import functools\ny = 9\ndef wraps(f):\n    @functools.wraps(f)\n    def g(*a):\n"
            "        import utils\n        return f(*a), utils.y\n    return g\n",
        }
        (box, real), y = load(files)
        assert (box.x, real.p, real.f(), y) == (1, 9, 9, 9)
        assert pickle.loads(pickle.dumps(real)).f() == 9
        assert copy.deepcopy(box).x == 1


class TestTheProgram:
    def test_paths_that_the_program_put_into_sys_path_stay(self, host, tmp_path, monkeypatch):
        folder = put(
            tmp_path / "r", {"hubconf.py": "def net():\n    import utils\n    return utils.x\n", "utils.py": "x = 1\n"}
        )
        monkeypatch.syspath_prepend(folder)
        before = list(sys.path)
        assert hub.load(folder, "net", source="local") == 1
        assert sys.path == before
        later = put(tmp_path / "r" / "later", {"more.py": "y = 2\n"})
        monkeypatch.syspath_prepend(later)
        before = list(sys.path)
        assert hub.load(folder, "net", source="local") == 1
        assert sys.path == before

    def test_a_path_that_is_added_last_does_not_stay(self, load):
        before = list(sys.path)
        files = {"hubconf.py": "import os, sys\ndef net():\n    return later\ndef later():\n    import inner\n"
                 "    return inner.x\nsys.path.append(os.path.join(os.path.dirname(__file__), 'src'))\n",
                 "src/inner.py": "x = 1\n"}  # fmt: skip
        later = load(files)
        assert sys.path == before
        assert later() == 1

    def test_threads_that_change_sys_path_at_once(self, host, tmp_path):
        folder = put(tmp_path / "r", {
            "hubconf.py": "import os, sys\ndef net():\n"
            "    sys.path.insert(0, os.path.join(os.path.dirname(__file__), 'src'))\n    import inner\n"
            "    return inner.x\n",
            "src/inner.py": "x = 1\n",
        })  # fmt: skip
        before = list(sys.path)
        net = hub.entry(folder, "net", source="local", verbose=False)
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(lambda _: net(), range(400))) == [1] * 400
        assert sys.path == before

    def test_a_failure_leaves_no_trace(self, host, tmp_path):
        before, modules = list(sys.path), set(sys.modules)
        for text in ("import utils\nraise KeyError('x')\n", "import sys\nsys.modules['utils']\nimport utils\n",
                     ("import sys, os\nsys.path.insert(0, os.path.dirname(__file__))\nimport utils\n"
                     "raise KeyError('x')\n"),
                     "import utils\nimport no_such_thing_anywhere\n", "def broken(:\n"):  # fmt: skip
            folder = put(tmp_path / str(len(text)), {"hubconf.py": text, "utils.py": ""})
            with pytest.raises((KeyError, ModuleNotFoundError, SyntaxError, wl.EntryPointError)):
                hub.load(folder, "net", source="local")
            assert sys.path == before
            assert not {"utils", "hubconf"} & (set(sys.modules) - modules)
            put(folder, {"hubconf.py": "from utils import x\ndef net():\n    return x\n", "utils.py": "x = 'mended'\n"})
            assert hub.load(folder, "net", source="local") == "mended"

    def test_an_edited_folder_is_read_anew_and_old_objects_keep_their_code(self, load, tmp_path):
        folder = put(tmp_path / "r", {"hubconf.py": "from net import Net\ndef net():\n    return Net()\n",
                                      "net.py": "class Net:\n    def f(self):\n        return 1\n"})  # fmt: skip
        old = hub.load(folder, "net", source="local")
        put(folder, {"net.py": "class Net:\n    def f(self):\n        return 22\n"})
        new = hub.load(folder, "net", source="local")
        assert (old.f(), new.f()) == (1, 22)
        assert pickle.loads(pickle.dumps(new)).f() == 22

    def test_nothing_is_kept_alive(self, load):
        import weakref

        made = load({"hubconf.py": "class Net:\n    pass\ndef net():\n    return Net()\n"})
        seen = weakref.ref(made)
        del made
        gc.collect()
        assert seen() is None

    def test_the_program_runs_beside_a_repository_that_needs_plain_names(self, host, tmp_path):
        """Names of a repository stand in sys.modules only while its code runs, and under a lock."""
        files = {
            "hubconf.py": "import sys, time\ndef net():\n    import models\n    time.sleep(0.002)\n"
            "    return sys.modules['models'].x\n",
            "models/__init__.py": "x = {!r}\n",
        }
        folders = [put(tmp_path / name, {path: text.format(name) for path, text in files.items()}) for name in "abc"]
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda n: hub.load(folders[n % 3], "net", source="local", verbose=False), range(60)))
        assert found == ["abc"[n % 3] for n in range(60)]
        assert "models" not in sys.modules

    @pytest.mark.parametrize("plain", [False, True])
    def test_an_entry_point_that_waits_for_threads_of_its_own(self, host, tmp_path, plain):
        files = {
            "hubconf.py": "from concurrent.futures import ThreadPoolExecutor\ndef part(n):\n    import parts.late\n"
            "    from parts import other\n    return parts.late.x + other.x + n\n"
            "def net():\n    with ThreadPoolExecutor(4) as pool:\n        return sum(pool.map(part, range(8)))\n"
            + ("import sys\nsys.modules.get('parts')\n" if plain else ""),
            "parts/__init__.py": "", "parts/late.py": "x = 100\n", "parts/other.py": "x = 1000\n",
        }  # fmt: skip
        code = f"import weighlock; print(weighlock.hub.load({put(tmp_path / 'r', files)!r}, 'net', source='local'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == "8828\n"

    def test_repositories_that_load_each_other_from_threads(self, host, tmp_path):
        text = (
            "import sys\nfrom concurrent.futures import ThreadPoolExecutor\nimport weighlock\nimport names\n"
            "def net(*folders):\n    assert sys.modules['names'] is names\n    rest = []\n    if folders:\n"
            "        rest = weighlock.hub.load(folders[0], 'net', *folders[1:], source='local', verbose=False)\n"
            "    assert sys.modules['names'] is names\n    import names as again\n    return [again.x, *rest]\n"
        )
        folders = [put(tmp_path / name, {"hubconf.py": text, "names.py": f"x = {name!r}\n"}) for name in "abc"]
        code = (
            "import sys, weighlock\nfrom concurrent.futures import ThreadPoolExecutor\n"
            f"f = {folders!r}\n"
            "def one(n):\n    turned = f[n % 3:] + f[:n % 3] + [f[n % 3]]\n"
            "    return ''.join(weighlock.hub.load(turned[0], 'net', *turned[1:], source='local', verbose=False))\n"
            "with ThreadPoolExecutor(6) as pool:\n    print(*pool.map(one, range(30)))\n"
            "assert 'names' not in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.split() == ["abca", "bcab", "cabc"] * 10
