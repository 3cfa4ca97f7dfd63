from __future__ import annotations

import pytest

from tools import check_budgets as budgets


@pytest.fixture
def measure(tmp_path):
    def run(source, name="room/module.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return budgets.measure_module(path, tmp_path)

    return run


def body(lines):
    return "    x = 1\n" * lines


def test_length_is_without_the_docstring(measure):
    (function,) = measure('def f():\n    """One.\n\n    Two.\n    """\n    x = 1\n    return x\n').functions
    assert (function.name, function.lines) == ("room.module.f", 3)


def test_methods_and_nested_functions_are_named_and_counted(measure):
    source = (
        "class A:\n"
        "    def m(self, a, *rest, b=1, **more):\n"
        "        def inner(self): ...\n"
        "    @staticmethod\n"
        "    def s(a): ...\n"
        "    if True:\n"
        "        async def late(self): ...\n"
    )
    measured = {function.name: function.parameters for function in measure(source, "p/__init__.py").functions}
    assert measured == {"p.A.m": 2, "p.A.m.inner": 1, "p.A.s": 1, "p.A.late": 0}


@pytest.mark.parametrize(("values", "share", "expected"), [([], 0.5, 0), ([4], 0.9, 4), (list(range(1, 11)), 0.9, 9)])
def test_percentile(values, share, expected):
    assert budgets.percentile(values, share) == expected


def test_a_small_module_breaks_nothing(measure):
    assert budgets.violations([measure("def f(a):\n    return a\n")], {}) == []


def test_long_modules_are_reported(measure):
    (found,) = budgets.violations([measure("x = 1\n" * 501)], {})
    assert "501 lines" in found


def test_median_and_percentile_are_reported(measure):
    nine = "".join(f"def f{n}():\n{body(8)}" for n in range(3))
    assert any("median: 9" in found for found in budgets.violations([measure(nine)], {}))
    long = "def g():\n" + body(31)
    assert any("90th percentile: 32" in found for found in budgets.violations([measure(long)], {}))


@pytest.mark.parametrize(
    ("source", "is_reported"),
    [
        ("def f():\n" + body(61), True),
        ("# Reason: one table\ndef f():\n" + body(61), False),
        ("# Reason: one table\n# of many rows\n@cache\ndef f():\n" + body(61), False),
        ('def f():\n    """Doc."""\n    # The reason is the format.\n' + body(61), False),
        ("def f():\n    # The reason is the format.\n" + body(61), False),
        ("# Reason: for something else\n\ndef f():\n" + body(61), True),
        ("def f():\n" + body(30) + "    # reason, but too late\n" + body(31), True),
        ("# It is treason.\ndef f():\n" + body(61), True),
    ],
)
def test_a_very_long_function_needs_its_reason_beside_it(measure, source, is_reported):
    # Short neighbours keep the median and the percentile out of the way.
    neighbours = "".join(f"\ndef n{n}(): ...\n" for n in range(20))
    assert bool(budgets.violations([measure(source + neighbours)], {})) is is_reported


def test_parameters_are_bounded_but_for_the_table(measure):
    module = measure("def f(a, b, c, d, *, e, f, g, h): ...\n")
    (found,) = budgets.violations([module], {})
    assert "8 parameters" in found
    assert budgets.violations([module], {"room.module.f": "torch's own"}) == []


def test_an_allowance_that_is_not_needed_is_reported(measure):
    (found,) = budgets.violations([measure("def f(a): ...\n")], {"room.module.f": "torch's own"})
    assert "does not need it" in found


def test_main_prints_the_figures_and_fails_on_a_violation(measure, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(budgets, "ALLOWED_PARAMETERS", {})
    monkeypatch.setattr(budgets.violations, "__defaults__", ({},))
    measure("def f(): ...\n")
    assert budgets.main([str(tmp_path)]) == 0
    assert "1 modules" in capsys.readouterr().out
    measure("x = 1\n" * 600, "long.py")
    assert budgets.main([str(tmp_path)]) == 1


def test_main_fails_on_an_empty_folder(tmp_path):
    assert budgets.main([str(tmp_path)]) == 1
