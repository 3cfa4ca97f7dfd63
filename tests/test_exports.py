"""What `weighlock` exports is sorted, there, listed by dir(), of our own making and documented."""

from __future__ import annotations

import dataclasses
import inspect
import types

import pytest

import weighlock


def documentation(exported: object) -> str:
    """The object's own documentation: not inherited, not made up by dataclass, not that of a constant's class."""
    if isinstance(exported, types.FunctionType | types.ModuleType):
        return (exported.__doc__ or "").strip()
    if isinstance(exported, type):
        own = (vars(exported).get("__doc__") or "").strip()
        made_up = dataclasses.is_dataclass(exported) and own.startswith(f"{exported.__name__}(")
        return "" if made_up else own
    return "constant"


def undocumented_methods(exported: type) -> list[str]:
    """Public methods and properties that our classes define and that have no docstring, here or in a base of theirs."""
    ours = {name for base in exported.__mro__ if base.__module__.startswith("weighlock") for name in vars(base)}
    public = sorted(name for name in ours if not name.startswith("_"))
    kinds = types.FunctionType | types.MethodType | property
    return [
        name
        for name in public
        if isinstance(found := getattr(exported, name), kinds) and not (inspect.getdoc(found) or "").strip()
    ]


def test_all_is_sorted_and_without_repetition():
    assert list(weighlock.__all__) == sorted(set(weighlock.__all__))


def test_dir_lists_all():
    assert set(weighlock.__all__) <= set(dir(weighlock))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = weighlock.no_such_name  # type: ignore[attr-defined,unused-ignore]


@pytest.mark.parametrize("name", weighlock.__all__)
def test_each_name_is_there_and_documented(name):
    exported = getattr(weighlock, name)
    assert documentation(exported), f"weighlock.{name} has no docstring of its own"


@pytest.mark.parametrize("name", weighlock.__all__)
def test_each_method_is_documented(name):
    exported = getattr(weighlock, name)
    if isinstance(exported, type):
        assert undocumented_methods(exported) == []


@pytest.mark.parametrize("name", weighlock.__all__)
def test_each_name_is_ours(name):
    exported = getattr(weighlock, name)
    if inspect.isclass(exported) or inspect.isfunction(exported):
        assert exported.__module__.split(".")[0] == "weighlock"


def test_the_check_of_documentation_can_fail():
    @dataclasses.dataclass
    class Undocumented:
        x: int

    class Heir(ValueError):
        pass

    def silent() -> None:
        pass

    class Methods:
        def silent(self): ...

        @property
        def quiet(self): ...

        def spoken(self):
            """Say it."""

    Methods.__module__ = "weighlock.somewhere"
    assert undocumented_methods(Methods) == ["quiet", "silent"]
    assert [documentation(thing) for thing in (Undocumented, Heir, silent)] == ["", "", ""]
