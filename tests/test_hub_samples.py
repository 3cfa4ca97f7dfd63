"""Repositories in the shapes that published ones have, all loaded side by side in one process.

Each is written for this test after the outline of what such repositories do: where their entry points come from, how
they find their own modules, and what they leave in their way.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from pathlib import Path

import pytest

import weighlock as wl
from tests.test_hub_isolation import put

hub = wl.hub

COLLIDING = {"models/__init__.py": "", "utils/__init__.py": "", "util/__init__.py": ""}


@dataclasses.dataclass(frozen=True)
class Sample:
    files: dict[str, str]
    names: list[str]
    """What `list` gives."""
    calls: list[tuple[str, tuple[object, ...], dict[str, object], object]]
    """Entry point, arguments, and what it gives."""
    whole: bool = True
    plain: bool = False
    undeclared: tuple[str, ...] = ()


def call(name, *args, gives, **kwargs):
    return name, args, kwargs, gives


SAMPLES = {
    "one file with its own class": Sample(
        {"hubconf.py": "dependencies = ['json']\nclass Net:\n    def __init__(self, n):\n        self.n = n\n"
         "def mnist(pretrained=False):\n    'Mnist.'\n    return Net(1).n\ndef mnist_zip(pretrained=False):\n"
         "    return 2\n"},
        ["Net", "mnist", "mnist_zip"], [call("mnist", gives=1), call("mnist_zip", pretrained=True, gives=2)],
    ),
    "modules with numbers in the way and lazy imports in the entry": Sample(
        {"hubconf.py": "dependencies = ['json', 're']\nfrom nts_net.model import attention_net\n"
         "def ntsnet(top_n=6):\n    from nts_net.bird_classes import CLASSES\n"
         "    return attention_net(top_n), CLASSES[0]\n",
         "nts_net/__init__.py": "", "nts_net/model.py": "from nts_net.core import resnet\n"
         "def attention_net(n):\n    return resnet.depth * n\n", "nts_net/core/__init__.py": "",
         "nts_net/core/resnet.py": "depth = 50\n", "nts_net/bird_classes.py": "CLASSES = ['001.Albatross']\n"},
        ["attention_net", "ntsnet"], [call("ntsnet", gives=(300, "001.Albatross"))],
    ),
    "src beside it, by an absolute path": Sample(
        {"hubconf.py": "dependencies = ['json']\nimport os, sys\n"
         "sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'src'))\n"
         "from vad.utils_vad import (find_speech,\n    VADIterator)\n"
         "def versiontuple(v):\n    return tuple(map(int, v.split('.')))\n"
         "def vad(onnx=False):\n    here = os.path.join(os.path.dirname(__file__), 'src', 'vad', 'data', 'm.jit')\n"
         "    with open(here) as f:\n        return f.read(), (find_speech, VADIterator)\n",
         "src/vad/__init__.py": "from vad.model import load\n"
         "", "src/vad/model.py": "from .utils_vad import find_speech as load\n",
         "src/vad/utils_vad.py": "def find_speech():\n    return 'speech'\nclass VADIterator:\n    pass\n",
         "src/vad/data/m.jit": "model"},
        ["VADIterator", "find_speech", "vad", "versiontuple"], [],
    ),
    "src by a path that is relative to nothing in particular": Sample(
        {"hubconf.py": "dependencies = ['json']\nimport sys\nsys.path.append('src/speech')\n"
         "from src.speech import stt, te, __all__ as _names\n",
         "src/speech/__init__.py": "__all__ = ['stt', 'te']\nfrom .speech import stt, te\n",
         "src/speech/speech.py": "def stt(language='en'):\n    from speech import te\n    return language, te()\n"
         "def te():\n    return 'te'\n"},
        ["stt", "te"], [call("te", gives="te")],
    ),
    "models and util, with classes imported by name": Sample(
        {**COLLIDING, "hubconf.py": "from models.backbone import Backbone, Joiner\n"
        "from models.detr import DETR, PostProcess\n"
         "dependencies = ['json']\ndef _make(n):\n    return DETR(Backbone(n)).n\n"
         "def detr(n=1, return_postprocessor=False):\n    'DETR.'\n    m = _make(n)\n"
         "    if return_postprocessor:\n        return m, PostProcess().kind\n    return m\n",
         "models/backbone.py": "from util.misc import NAME\nclass Backbone:\n    def __init__(self, n):\n"
         "        self.n = NAME + str(n)\nclass Joiner:\n    pass\n",
         "models/detr.py": "from util import misc\nfrom .backbone import Joiner\nclass DETR:\n"
         "    def __init__(self, b):\n"
         "        self.n = b.n\nclass PostProcess:\n    kind = misc.NAME\n", "util/misc.py": "NAME = 'detr'\n"},
        ["Backbone", "DETR", "Joiner", "PostProcess", "detr"],
        [call("detr", gives="detr1"), call("detr", 2, return_postprocessor=True, gives=("detr2", "detr"))],
    ),
    "models and utils, nothing declared, everything imported late": Sample(
        {**COLLIDING, "hubconf.py": "import json\ndef _create(name, pretrained=True, channels=3):\n"
         "    from pathlib import Path\n    from models.common import AutoShape\n    from models.yolo import Model\n"
         "    from utils.general import check_requirements, LOGGER\n    check_requirements(exclude=('x',))\n"
         "    return AutoShape(Model(Path(name).stem, channels)).kind, LOGGER\n"
         "def custom(path='path/to/model.pt', autoshape=True):\n    return _create(path)\n"
         "def small(pretrained=True, channels=3):\n    return _create('small.pt', pretrained, channels)\n"
         "if __name__ == '__main__':\n    import argparse\n    model = _create('x')\n",
         "models/common.py": "from utils.general import LOGGER\nimport utils\nclass AutoShape:\n"
         "    def __init__(self, m):\n"
         "        self.kind = m.kind\n", "models/yolo.py": "from models.experimental import attempt\n"
         "class Model:\n    def __init__(self, name, ch):\n        self.kind = attempt(name, ch)\n",
         "models/experimental.py": "def attempt(name, ch):\n    from models.yolo import Model\n"
         "    return Model.__name__, name, ch\n",
         "utils/general.py": "LOGGER = 'yolo'\ndef check_requirements(exclude=()):\n    import pkgutil\n"},
        ["custom", "small"], [call("small", channels=4, gives=(("Model", "small", 4), "yolo"))],
    ),
    "aliases behind an underscore": Sample(
        {"hubconf.py": "import json\nfrom functools import lru_cache as _lru_cache\n"
        "from models import small as _small\n"
         "dependencies = ['json', 're']\ndef small(pretrained=True, **kwargs):\n    return _small(**kwargs)\n",
         "models/__init__.py": "def small(width=7):\n    return width\n"},
        ["small"], [call("small", gives=7), call("small", True, width=8, gives=8)],
    ),
    "nothing but stars": Sample(
        {"hubconf.py": "from models import *\nfrom cait_models import *\nfrom patch import *\n"
        "dependencies = ['json']\n",
         "models.py": "__all__ = ['tiny', 'base']\nfrom functools import partial\ndef _register(f):\n    return f\n"
         "class Hidden:\n    pass\n@_register\ndef tiny():\n    return 't'\n@_register\ndef base():\n    return 'b'\n",
         "cait_models.py": "import math\nfrom models import Hidden as _Hidden\n__all__ = [\n    'cait', ]\n"
         "def cait():\n    return _Hidden.__name__\ndef hidden():\n    pass\n",
         "patch.py": "from models import tiny\nimport json as _json\n__all__ = ['tiny']\n"},
        ["base", "cait", "tiny"], [call("tiny", gives="t"), call("cait", gives="Hidden")],
    ),
    "one package of hub modules": Sample(
        {"hubconf.py": "from big.hub.backbones import vits, vitb\nfrom big.hub.depthers import (\n    vits_ld,\n)\n"
         "dependencies = ['json']\n", "big/__init__.py": "__version__ = '1'\n", "big/hub/__init__.py": "",
         "big/hub/utils.py": "from big import __version__\nBASE = 'v' + __version__\n",
         "big/hub/backbones.py": "from enum import Enum\nfrom typing import Union\nfrom .utils import BASE\n"
         "class Weights(Enum):\n    A = 'a'\n"
         "def _make(*, arch='vits', weights: Union[Weights, str] = Weights.A, **kw):\n"
         "    from ..models import vision as v\n    if isinstance(weights, str):\n        weights = Weights[weights]\n"
         "    return BASE, arch, getattr(v, arch)(**kw), weights.value\n"
         "def vits(*, pretrained=True, **kw):\n    return _make(**kw)\ndef vitb(**kw):\n"
         "    return _make(arch='vitb', **kw)\n",
         "big/hub/depthers.py": "from functools import partial\nfrom .backbones import _make\n"
         "def vits_ld(*, layers=1):\n    return layers\n", "big/models/__init__.py": "",
         "big/models/vision.py": "def vits(size=1):\n    return size\ndef vitb(size=2):\n    return size\n"},
        ["vitb", "vits", "vits_ld"],
        [call("vits", weights="A", gives=("v1", "vits", 1, "a")), call("vitb", size=9, gives=("v1", "vitb", 9, "a"))],
    ),
    "a package that is installed, too": Sample(
        {"hubconf.py": "dependencies = ['json']\nfrom pytest.models.hub import (a, b)\n"
        "", "pytest/__init__.py": "mine = True\n",
         "pytest/models/__init__.py": "", "pytest/models/hub/__init__.py": "from .a import a\nfrom .b import b\n",
         "pytest/models/hub/a.py": "import pytest\ndef a():\n    return pytest.mine\n",
         "pytest/models/hub/b.py": "from pytest.models import hub\ndef b():\n    return hub.a.__name__\n"},
        ["a", "b"], [call("a", gives=True), call("b", gives="a")],
    ),
    "a module that an entry changes and gives": Sample(
        {"hubconf.py": "dependencies = ['json']\nfrom midas.net import Net\n"
         "def transforms():\n    import midas.transforms\n    from midas.transforms import Resize\n"
         "    midas.transforms.default = [Resize(384)]\n    midas.transforms.small = lambda x: x + 1\n"
         "    return midas.transforms\n",
         "midas/__init__.py": "", "midas/net.py": "class Net:\n    pass\n",
         "midas/transforms.py": "class Resize:\n    def __init__(self, n):\n        self.n = n\n"},
        ["Net", "transforms"], [],
    ),
    "names in a loop over constants": Sample(
        {"hubconf.py": "from effnet import make as _make\ndependencies = ['json']\ndef _fn(name):\n"
        "    def _entry(pretrained=False):\n"
         "        'Makes one.'\n        return _make(name)\n    return _entry\n"
         "for model_name in ['effnet_b' + str(i) for i in range(3)]:\n    locals()[model_name] = _fn(model_name)\n",
         "effnet/__init__.py": "from .model import make\n", "effnet/model.py": "def make(name):\n"
         "    return name.upper()\n"},
        ["effnet_b0", "effnet_b1", "effnet_b2"], [call("effnet_b2", gives="EFFNET_B2")],
    ),
    "partials over a table": Sample(
        {"hubconf.py": "from functools import partial\nfrom loading import load_from_url as _load\n"
        "dependencies = ['json']\n"
         "CONFIGS = {\n    'mae_b16': dict(url='u1', size=1),\n    'mae_l16': dict(url='u2', size=2),\n}\n"
         "for name, config in CONFIGS.items():\n    globals()[name] = partial(_load, **config)\n"
         "_base = partial(_load, size=0)\nchained = partial(_base, 'u3')\n",
         "loading.py": "def load_from_url(url, size, extra=None):\n    'Loads.'\n    return url, size, extra\n"},
        ["chained", "mae_b16", "mae_l16", "partial"],
        [call("mae_l16", gives=("u2", 2, None)), call("chained", extra=1, gives=("u3", 0, 1))],
    ),
    "a registry that is filled when it is imported": Sample(
        {"hubconf.py": "import functools, importlib\nfrom seq.registry import MODELS as _MODELS\n"
        "from seq.models import lstm as _l\n"
         "dependencies = ['json']\nfor _n, _c in _MODELS.items():\n    for model in _c.hub_models():\n"
         "        globals()[model] = functools.partial(_c.from_pretrained, model)\n",
         "seq/__init__.py": "", "seq/registry.py": "MODELS = {}\ndef register(name):\n    def inner(cls):\n"
         "        MODELS[name] = cls\n        return cls\n    return inner\n", "seq/models/__init__.py": "",
         "seq/models/lstm.py": "from seq.registry import register\n@register('lstm')\nclass LSTM:\n    @classmethod\n"
         "    def hub_models(cls):\n        return {'lstm.wmt': 1, 'lstm_iwslt': 2}\n    @classmethod\n"
         "    def from_pretrained(cls, name):\n        return name, cls.__name__\n"},
        [], [call("lstm_iwslt", gives=("lstm_iwslt", "LSTM"))], whole=False,
    ),
    "whatever a module of many stars has": Sample(
        {"hubconf.py": "import up.hub as hub\nfor o in dir(hub):\n    if callable(getattr(hub, o)):\n"
         "        globals()[o] = getattr(hub, o)\n", "up/__init__.py": "",
         "up/hub.py": "from up.a.hubconf import *\nfrom up.b.hubconf import *\n"
         "", "up/a/__init__.py": "", "up/b/__init__.py": "",
         "up/a/hubconf.py": "from .expert import UpstreamExpert as _U\ndef a_local(ckpt):\n"
         "    return _U.__name__ + ckpt\n",
         "up/a/expert.py": "class UpstreamExpert:\n    pass\n", "up/b/hubconf.py": "def b_url(refresh=False):\n"
         "    return 'b'\n"},
        [], [call("a_local", "x", gives="UpstreamExpertx"), call("b_url", gives="b")], whole=False,
    ),
    "folders by sys.path[0]": Sample(
        {"hubconf.py": "import os, sys\nsys.path.append(os.path.join(sys.path[0], 'PyTorch/Detection/SSD'))\n"
         "from ssd.entrypoints import nv_ssd, nv_utils as nv_ssd_utils\n"
         "sys.path.append(os.path.join(sys.path[0], 'PyTorch/Speech/Tacotron'))\n"
         "from taco.entrypoints import nv_taco\nsys.path.append(os.path.join(sys.path[0], 'PyTorch/Cls'))\n"
         "from image_classification.models import resneXt as nv_resneXt\n",
         "PyTorch/Detection/SSD/ssd/__init__.py": "",
         "PyTorch/Detection/SSD/ssd/entrypoints.py": "import os, sys\ndef nv_ssd():\n    from ssd.model import SSD\n"
         "    return SSD.__name__\ndef nv_utils():\n    return 'utils'\n",
         "PyTorch/Detection/SSD/ssd/model.py": "class SSD:\n    pass\n", "PyTorch/Speech/Tacotron/taco/__init__.py": "",
         "PyTorch/Speech/Tacotron/taco/entrypoints.py": "def nv_taco():\n    from common_of_taco import x\n"
         "    return x\n",
         "PyTorch/Speech/Tacotron/common_of_taco.py": "x = 'taco'\n"
         "", "PyTorch/Cls/image_classification/__init__.py": "",
         "PyTorch/Cls/image_classification/models.py": "def resneXt():\n    return 'x'\n"},
        ["nv_resneXt", "nv_ssd", "nv_ssd_utils", "nv_taco"],
        [call("nv_ssd", gives="SSD"), call("nv_taco", gives="taco"), call("nv_resneXt", gives="x")], plain=True,
    ),
    "src, and docstrings that decorators make": Sample(
        {"hubconf.py": "import os, sys\nSRC_DIR = os.path.join(os.path.dirname(__file__), 'src')\n"
        "sys.path.append(SRC_DIR)\n"
         "from trans import AutoConfig, add_docs\ndependencies = ['json', 're']\n"
         "@add_docs('More.')\ndef config(*args, **kwargs):\n    'Config.'\n"
         "    return AutoConfig.make(*args, **kwargs)\n",
         "src/trans/__init__.py": "from .auto import AutoConfig\nfrom .docs import add_docs\n",
         "src/trans/auto.py": "class AutoConfig:\n    @classmethod\n    def make(cls, name, **kw):\n"
         "        return name, kw\n",
         "src/trans/docs.py": "def add_docs(*texts):\n    def decorator(f):\n"
         "        f.__doc__ = ''.join(texts) + f.__doc__\n"
         "        return f\n    return decorator\n"},
        ["AutoConfig", "add_docs", "config"], [call("config", "bert", a=1, gives=("bert", {"a": 1}))],
    ),
    "names out of another package's registry": Sample(
        {"hubconf.py": "dependencies = ['json']\nimport img\nfrom img.registry import entrypoints as _e\n"
        "globals().update(_e)\n",
         "img/__init__.py": "from .models import *\n", "img/registry.py": "entrypoints = {}\ndef register_model(f):\n"
         "    entrypoints[f.__name__] = f\n    return f\n", "img/models/__init__.py": "from .vit import *\n",
         "img/models/vit.py": "from ..registry import register_model\n__all__ = ['Vit']\nclass Vit:\n    pass\n"
         "@register_model\ndef vit_tiny(**kw):\n    return Vit.__name__\n@register_model\ndef vit_small(**kw):\n"
         "    return 's'\n"},
        [], [call("vit_tiny", gives="Vit")], whole=False,
    ),
    "keyword-only, with a class behind": Sample(
        {"hubconf.py": "import json\n_URL = 'https://example.com/cot2.pth'\n"
        "def _make(*, pretrained=True, online=False):\n"
         "    from cotracker.predictor import Online, Offline\n    return (Online if online else Offline)(2).n\n"
         "def cot2(*, pretrained: bool = True, **kwargs):\n    '''CoT.'''\n    return _make(pretrained=pretrained)\n"
         "def cot2_online(*, pretrained: bool = True, **kwargs):\n    return _make(online=True)\n",
         "cotracker/__init__.py": "", "cotracker/predictor.py": "class Offline:\n    def __init__(self, n):\n"
         "        self.n = n\n"
         "class Online(Offline):\n    def __init__(self, n):\n        super().__init__(n * 10)\n"},
        ["cot2", "cot2_online"], [call("cot2", gives=2), call("cot2_online", pretrained=False, gives=20)],
    ),
    "imports that may fail": Sample(
        {"hubconf.py": "dependencies = ['json']\nimport os\ntry:\n    from mmcv_that_is_nowhere import Config\n"
         "except ImportError:\n    from mono.config import Config\nDIR = os.path.dirname(__file__)\n"
         "def metric(pretrain=False, **kwargs):\n"
         "    return Config.__module__.endswith('mono.config'), os.path.isdir(DIR)\n"
         "if __name__ == '__main__':\n    import cv2_that_is_nowhere\n    metric()\n",
         "mono/__init__.py": "", "mono/config.py": "class Config:\n    pass\n"},
        ["Config", "metric"], [call("metric", gives=(True, True))],
    ),
}  # fmt: skip


@pytest.fixture
def folders(host, tmp_path):
    return {name: put(tmp_path / str(number), sample.files) for number, (name, sample) in enumerate(SAMPLES.items())}


@pytest.mark.parametrize("name", SAMPLES)
class TestEach:
    def test_its_names(self, folders, name):
        sample = SAMPLES[name]
        report = hub.inspect(folders[name], source="local")
        assert report.complete == sample.whole, report.reasons
        assert bool(report.compatibility) == sample.plain, report.compatibility
        if sample.whole:
            assert hub.list(folders[name], source="local") == sample.names
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            executed = hub.list(folders[name], source="local", execute=True)
        assert set(sample.names) <= set(executed)
        assert not sample.whole or executed == sample.names
        assert {entry for entry, *_ in sample.calls} <= set(executed)

    def test_its_entry_points(self, folders, name):
        before = list(sys.path), set(sys.modules)
        for entry, args, kwargs, gives in SAMPLES[name].calls:
            assert hub.entry(folders[name], entry, source="local", verbose=False)(*args, **kwargs) == gives
        assert list(sys.path) == before[0]
        tops = {Path(path).parts[0].removesuffix(".py") for path in SAMPLES[name].files}
        assert not (set(sys.modules) - before[1]) & tops


def test_all_of_them_side_by_side(folders):
    """In one process, in both orders, twice: what the first has imported is not what the next one gets."""
    for names in (list(SAMPLES), list(reversed(SAMPLES)), list(SAMPLES)):
        for name in names:
            for entry, args, kwargs, gives in SAMPLES[name].calls:
                made = hub.entry(folders[name], entry, source="local", verbose=False)
                assert made(*args, **kwargs) == gives, name


def test_a_hubconf_that_is_not_python(host, tmp_path):
    folder = put(tmp_path / "r", {"hubconf.py": "def net(x):\n    if x is None::\n        pass\n"})
    for function in (
        hub.list,
        hub.inspect,
        functools.partial(hub.help, model="net"),
        functools.partial(hub.load, model="net"),
    ):
        with pytest.raises(wl.EntryPointError, match=r"hubconf.py:2"):
            function(folder, source="local")


class TestObjects:
    def test_speech(self, folders):
        model, utils = hub.load(folders["src beside it, by an absolute path"], "vad", source="local")
        assert model == "model"
        assert utils[0]() == "speech"

    def test_a_module_that_was_changed(self, folders):
        module = hub.load(folders["a module that an entry changes and gives"], "transforms", source="local")
        assert (module.default[0].n, module.small(1)) == (384, 2)
        again = hub.load(folders["a module that an entry changes and gives"], "transforms", source="local")
        assert again is module

    def test_docstrings_of_decorators(self, folders):
        folder = folders["src, and docstrings that decorators make"]
        assert hub.help(folder, "config", source="local") == "Config."
        assert hub.help(folder, "config", source="local", execute=True) == "More.Config."
        entry = next(one for one in hub.inspect(folder, source="local").entries if one.name == "config")
        assert not entry.literal

    def test_urls_and_dependencies(self, folders):
        report = hub.inspect(folders["keyword-only, with a class behind"], source="local")
        assert [url.url for url in report.urls] == ["https://example.com/cot2.pth"]
        assert report.dependencies is None
        report = hub.inspect(folders["imports that may fail"], source="local")
        assert report.undeclared == ()
