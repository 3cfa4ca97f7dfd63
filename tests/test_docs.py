"""The examples in the README and in the docs run as they are written, and the tables say what the code says."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import pkgutil
import re
import shutil
from pathlib import Path

import pytest

import weighlock
from tests.conftest import HAS_FSSPEC, HAS_S3, HAS_TORCH
from tests.hub_world import HOME
from tests.markdown_blocks import blocks, run_page
from weighlock.cli import hub_grammar
from weighlock.dtypes import DTYPES
from weighlock.hub import settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "hub").glob("*.md"))]
NEEDS_HUB = "<!-- needs the hub's hosts -->"
NEEDS_S3 = "<!-- needs an S3 server -->"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(blocks(page.read_text("utf-8")))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_examples_run(page, tmp_path, monkeypatch, request):
    """The blocks of a page run one after the other, beside the example files."""
    folder, shown_as = tmp_path, {}
    if NEEDS_HUB in page.read_text("utf-8"):
        request.getfixturevalue("world")
        folder, shown_as = tmp_path / "home" / "work", {str(tmp_path / "home"): HOME}
        folder.mkdir()
    for example in (ROOT / "examples").glob("*.pt"):
        shutil.copy(example, folder)
    found = {name for name, is_there in (("torch", HAS_TORCH), ("s3", HAS_S3), ("fsspec", HAS_FSSPEC)) if is_there}
    if "s3" in found and NEEDS_S3 in page.read_text("utf-8"):
        server = request.getfixturevalue("s3_by_environment")
        server.system.put(str(ROOT / "examples" / "digits.pt"), "bucket/digits.pt")
    update = bool(request.config.getoption("--update-goldens"))
    ran = run_page(page, folder, monkeypatch, available=found, shown_as=shown_as, update=update)
    assert ran > 0 or all(block.needs for block in blocks(page.read_text("utf-8")))


MODULES = [name for _, name, _ in pkgutil.walk_packages(weighlock.__path__, "weighlock.") if "__main__" not in name]


NEEDS_TORCH = ("weighlock.torch", "weighlock.backends.torch_")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.requires_torch] if name.startswith(NEEDS_TORCH) else [])
        for name in ("weighlock", *MODULES)
    ],
)
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


TYPE_ROW = re.compile(r"^\| `(\w+)` \| `([\w.]+)` \| (\d+) \| `(\w+)` \| (the same|refused) \|$", re.MULTILINE)


def test_the_table_of_types_says_what_the_code_says():
    text = (ROOT / "docs" / "mapping.md").read_text("utf-8")
    section = text.partition("## Element types")[2].partition("## Tensors")[0]
    expected = [
        (
            row.name,
            "QuantizedTensor" if row.kind == "q" else row.numpy_name or "PackedTensor",
            str(row.itemsize),
            row.storage_class or "UntypedStorage",
            "the same" if row.storage_class else "refused",
        )
        for row in DTYPES.values()
    ]
    assert TYPE_ROW.findall(section) == expected
    assert section.count("\n| `") == len(expected)


SETTING_ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| (?:`(\w+)`)? ?\| ", re.MULTILINE)


def test_the_table_of_settings_says_what_the_code_says():
    text = (ROOT / "docs" / "hub" / "settings.md").read_text("utf-8").partition("## The file")[0]
    variables = {name: variable for variable, name in settings._VARIABLES.items()}
    rows = [
        (name, json.dumps(default if default is not dataclasses.MISSING else {}), variables.get(name, ""))
        for name, default in [(field.name, field.default) for field in dataclasses.fields(settings.Settings)]
    ]
    assert SETTING_ROW.findall(text) == rows


def commands(group, words):
    """Every command below a group of the command line, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


@pytest.mark.parametrize("group", ["hub", "cache"])
def test_the_page_on_the_command_line_names_every_command_and_option(group):
    text = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    section = text.partition(f"\n## {group}\n")[2].partition("\n## ")[0]
    for words, command in commands(getattr(hub_grammar, group), f"weighlock {group}"):
        assert words in section or words.rpartition(" ")[2] in section.partition(words.rpartition(" ")[0])[2], words
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or set(parameter.opts) & set(
                re.findall(r"--?[a-z-]+", section)
            ), (words, parameter.opts)


def test_the_page_on_publishing_names_every_rule():
    source = (ROOT / "src" / "weighlock" / "hub" / "publishing.py").read_text("utf-8")
    rules = set(re.findall(r'Advice\(\s*"([a-z-]+)"', source))
    page = (ROOT / "docs" / "hub" / "publish.md").read_text("utf-8").partition("| rule |")[2].partition("\n\n")[0]
    assert rules
    assert set(re.findall(r"`([a-z]+-[a-z-]+)`", page)) == rules


def test_every_public_name_of_the_hub_is_explained():
    text = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "hub").glob("*.md"))
    assert [name for name in weighlock.hub.__all__ if f"hub.{name}" not in text and name != "Settings"] == []


def test_the_example_of_the_publish_page_is_the_one_in_the_examples():
    page = (ROOT / "docs" / "hub" / "publish.md").read_text("utf-8")
    shown = next(block.code for block in blocks(page) if block.file == "digits/hubconf.py")
    assert (ROOT / "examples" / "hub" / "digits" / "hubconf.py").read_text("utf-8").startswith(shown)


PAGE = """
```sh file:words.txt
a word
```

```sh exit:3
cat words.txt; weighlock --version | cut -c 1-9; exit 3
```

```text
a word
weighlock
```

```python
print("one")
```
```text
one
```
"""


@pytest.mark.parametrize(
    ("old", "new"), [("one\n```\n", "two\n```\n"), ("a word\nweigh", "weigh"), ("exit:3", ""), ('"one")', '"one"')]
)
def test_a_page_that_is_wrong_is_noticed(tmp_path, monkeypatch, old, new):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert run_page(page, tmp_path, monkeypatch) == 2
    page.write_text(PAGE.replace(old, new))
    with pytest.raises((AssertionError, SyntaxError)):
        run_page(page, tmp_path, monkeypatch)


def test_what_blocks_print_can_be_written_into_the_page(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("one\n```\n", "two\nthree\n```\n").replace("a word\nweigh", "weigh"))
    run_page(page, tmp_path, monkeypatch, update=True)
    assert page.read_text() == PAGE
