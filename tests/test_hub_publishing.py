"""`weighlock hub check`: each finding in a repository that has it, and none in one that only looks like it."""

from __future__ import annotations

import json

import pytest

from tests.schema_check import schema, violations
from tests.test_hub_isolation import put
from weighlock.cli import run
from weighlock.hub.publishing import check_folder

GOOD = "dependencies = ['torch']\nimport torch as _torch\ndef net(pretrained=False):\n    'A net.'\n"

# Rule: what has it; what only looks like it.
RULES: dict[str, tuple[list[str | dict[str, str]], list[str | dict[str, str]]]] = {
    "no-dependencies": (
        ["def net():\n    'A net.'\n", "dependencies = list(open('requirements.txt'))\ndef net():\n    'A net.'\n"],
        ["dependencies = []\ndef net():\n    'A net.'\n", ("BASE = ['json']\ndependencies = BASE + ['re']\n"
            "def net():\n    'D.'\n")],
    ),
    "undeclared-dependency": (
        [
            "dependencies = ['torch']\nimport numpy as _np\ndef net():\n    'A net.'\n",
            "dependencies = []\ndef net():\n    'A net.'\n    import scipy.io\n",
            {"hubconf.py": "dependencies = []\nfrom models.net import net\n",
             "models/net.py": "from yaml import safe_load as _load\ndef net():\n    'A net.'\n"},
            {"hubconf.py": "dependencies = []\ndef net():\n    'A net.'\n    from late import x\n"
            "", "late.py": "import tqdm\n"},
        ],
        [
            ("dependencies = ['numpy', 'PIL']\nimport numpy as _np, PIL.Image as _image, os.path as _p\n"
            "def net():\n    'D.'\n"),
            ("dependencies = []\ntry:\n    import apex as _apex\nexcept ImportError:\n    _apex = None\n"
            "def net():\n    'D.'\n"),
            {"hubconf.py": "dependencies = []\nimport numpy_like as _n\ndef net():\n    'D.'\n"
            "", "numpy_like.py": "x = 1\n",
             "train.py": "import wandb\n", "tests/test_x.py": "import pytest\n"},
            {"hubconf.py": "dependencies = []\nimport sys, os\n"
            "sys.path.append(os.path.join(os.path.dirname(__file__), 'src'))\n"
             "import inner as _i\ndef net():\n    'D.'\n", "src/inner.py": "x = 1\n"},
            ("dependencies = []\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy\n"
            "def net():\n    'D.'\n"),
        ],
    ),
    "foreign-name": (
        [GOOD + "from functools import partial\n", GOOD + "from torch.hub import load_state_dict_from_url\n"],
        [GOOD + "from functools import partial as _partial\nimport functools, os.path\nfrom os import path\n",
         GOOD + "from typing import TYPE_CHECKING\n"],
    ),
    "class-offered": (
        [{"hubconf.py": GOOD + "from models.net import Net\n", "models/net.py": "class Net:\n    'A class.'\n"}],
        [{"hubconf.py": GOOD + "from models.net import Net as _Net, make\n",
          "models/net.py": "class Net:\n    'A class.'\ndef make():\n    'Makes.'\n"}],
    ),
    "hidden-names": (
        [GOOD + "for _n in dir(_torch):\n    globals()[_n] = getattr(_torch, _n)\n", GOOD + "from os.path import *\n"],
        [GOOD + "for _n in ['a', 'b']:\n    globals()['net_' + _n] = net\n",
         {"hubconf.py": GOOD + "from more import *\n", "more.py": "def other():\n    'D.'\n"},
         GOOD + "def _registry():\n    return globals()['net']\n"],
    ),
    "no-entry-point": (["dependencies = []\n", "dependencies = []\ndef _net():\n    'D.'\n"], [GOOD]),
    "missing-docstring": (
        ["dependencies = []\ndef net():\n    pass\n", "dependencies = []\ndef net():\n    '   '\n",
         {"hubconf.py": "dependencies = []\nfrom m import net\n", "m.py": "def net():\n    return 'A net.'\n"}],
        [GOOD, ("dependencies = []\ndef _helper():\n    pass\nfrom functools import partial as _p\ndef _n(a):\n"
            "    'D.'\n"
         "net = _p(_n, 1)\n")],
    ),
    "import-side-effect": (
        [GOOD + "import os\nos.system('true')\n", GOOD + "import subprocess\nsubprocess.run(['true'])\n",
         GOOD + "print('hello')\n", GOOD + "import os\nos.environ['X'] = '1'\n", GOOD + "import os\nos.chdir('/')\n",
         GOOD + "import urllib.request\nurllib.request.urlretrieve('https://x.org/a')\n",
         GOOD + "_torch.backends.cudnn.benchmark = True\n", GOOD + "_torch.manual_seed(0)\n", GOOD + "exec('x = 1')\n",
         GOOD + "import warnings\nwarnings.filterwarnings('ignore')\n", GOOD + "import sys\nsys.exit\nsys.exit()\n",
         GOOD + "class _A:\n    print('in a class')\n", GOOD + "def _d(x=print('default')):\n    pass\n",
         GOOD + "@print\ndef _d():\n    pass\n",
         {"hubconf.py": GOOD + "import m\n", "m.py": "import pip\npip.main(['install', 'x'])\n"}],
        [GOOD + "import os\ndef run():\n    'D.'\n    os.system('true')\n    print('x')\n",
         GOOD + "if __name__ == '__main__':\n    print(net())\n", GOOD + "_f = lambda: print('x')\n",
         GOOD + "import sys, os\nsys.path.insert(0, os.path.dirname(__file__))\n",
         GOOD + "import os\n_home = os.environ.get('HOME')\n_there = os.path.exists('/')\n",
         {"hubconf.py": GOOD + "import printer\nprinter.system('x')\n", "printer.py": "def system(x):\n    'D.'\n"},
         {"hubconf.py": GOOD, "setup.py": "import os\nos.system('true')\n"}],
    ),
    "insecure-url": (
        [GOOD + "_url = 'http://x.org/net-01234567.pth'\n", GOOD + "_url = 'ftp://x.org/net-01234567.pth'\n"],
        [GOOD + "_url = 'https://x.org/net-01234567.pth'\n", GOOD + "_home = 'http://x.org/about'\n",
         GOOD + "# http://x.org/net.pth\n_text = 'see http://x.org/net-01234567.pth for more'\n"],
    ),
    "page-url": (
        [GOOD + "_url = 'https://github.com/o/n/blob/main/net-01234567.pth'\n"],
        [GOOD + "_url = 'https://github.com/o/n/raw/main/net-01234567.pth'\n"],
    ),
    "unhashed-weights": (
        [GOOD + "_url = 'https://x.org/net.pth'\n", GOOD + "_url = 'https://x.org/net-0123.pth'\n",
         GOOD + "_url = 'https://x.org/net-abcdefgh.pth'\n",
         {"hubconf.py": GOOD + "def other():\n    'D.'\n    import late\n", "late.py": "u = 'https://x.org/net.safetensors'\n"}],
        [GOOD + "_url = 'https://x.org/net-0123abcd.pth'\n", GOOD + "_url = 'https://x.org/net.html'\n",
         {"hubconf.py": GOOD, "train.py": "u = 'https://x.org/net.pth'\n"}],
    ),
    "plain-names": (
        [{"hubconf.py": GOOD + "import sys\n_m = sys.modules['models']\n", "models/__init__.py": ""}],
        [{"hubconf.py": GOOD + "import sys\n_m = sys.modules['torch']\n", "models/__init__.py": ""}],
    ),
}  # fmt: skip

CASES = [
    pytest.param(rule, text, has, id=f"{rule}-{'has' if has else 'looks like'}-{number}")
    for rule, pair in RULES.items()
    for has, texts in zip((True, False), pair, strict=True)
    for number, text in enumerate(texts)
]


@pytest.mark.parametrize(("rule", "text", "has"), CASES)
def test_a_rule_finds_what_it_is_for_and_nothing_else(tmp_path, rule, text, has):
    folder = put(tmp_path, text if isinstance(text, dict) else {"hubconf.py": text})
    found = check_folder(folder)
    assert (rule in {advice.rule for advice in found}) == has, found
    for advice in found:
        name, _, line = advice.where.partition(":")
        lines = (tmp_path / name).read_text().splitlines()
        assert 1 <= int(line) <= max(len(lines), 1)
        assert advice.remedy


def test_a_good_repository_has_no_finding(tmp_path):
    assert check_folder(put(tmp_path, {"hubconf.py": GOOD})) == []


def test_the_command(tmp_path, capsys):
    put(tmp_path, {"hubconf.py": GOOD + "print('\\x1b[31m')\n_u = 'http://x.org/\u202enet.pth'\n"})
    assert run(("hub", "check", str(tmp_path))) == 1
    out = capsys.readouterr().out
    assert "hubconf.py:5 importing it prints: print  [import-side-effect]" in out
    assert "\u202e" not in out
    assert run(("hub", "check", str(tmp_path), "--json")) == 1
    document = json.loads(capsys.readouterr().out)
    assert violations(document, schema("hub")) == []
    assert run(("hub", "check", str(tmp_path / "nowhere"))) == 2
    put(tmp_path, {"hubconf.py": "def net(:\n"})
    assert run(("hub", "check", str(tmp_path))) == 2
    assert "hubconf" in capsys.readouterr().err
