"""The viewer's page before hostile and damaged files, a lost server, other looks; and for those who do not see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weighlock
from tests.viewer_browser import IN_CHROMIUM, serving

pytestmark = IN_CHROMIUM

AXE = Path(__file__).parent.parent / ".work/page/node_modules/axe-core/axe.min.js"
IMG = "<img src=x onerror=alert(1)>"
PLACES = (
    "file/0/overview", "file/0/tensors", "file/0/tensors?view=table", "file/0/tensor/0", "file/0/storages",
    "file/0/layout", "file/0/security", "file/1/overview", "file/1/security", "file/2/security", "diff?a=0&b=3",
)  # fmt: skip


def model(scale=1.0):
    values = (np.arange(600, dtype="f4").reshape(20, 30) - 300) * np.float32(scale)
    return {
        "w": values,
        "nested": {IMG: np.ones((2, 2), "f4"), "rtl\u202egnp": np.ones(3, "f4"), "L" * 10_000: np.ones(3, "f4")},
        IMG: "<script>alert(2)</script>", "'\"><svg onload=alert(3)>": 1, "__proto__": np.zeros(2, "f4"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safety")
    names = ["good.pt", "cut.pt", "hostile.pt", "other.pt"]
    paths = [folder / name for name in names]
    weighlock.save(model(), paths[0])
    paths[1].write_bytes(paths[0].read_bytes()[:9000])
    # Never loaded: the scan reads what it would run.
    command = b"echo <b>pwned</b> true"
    paths[2].write_bytes(b"\x80\x02cposix\nsystem\nX" + len(command).to_bytes(4, "little") + command + b"\x85R.")
    weighlock.save(model(1.5), paths[3])
    return paths


@pytest.fixture(scope="module")
def served(files):
    with serving(*files) as found:
        yield found


# ------------------------------------------------------------------------------------------------------------- safety


def test_the_token_leaves_the_address_and_survives_a_reload(tab, served):
    assert served.token not in tab.page.url
    assert served.token not in tab.page.content()
    tab.go("file/0/tensors?view=table")
    tab.wait(".row", has_text="nested")
    tab.page.reload()
    tab.wait(".row", has_text="nested")
    assert served.token not in tab.page.url
    tab.page.evaluate("history.back()")
    tab.wait(".verdict")
    asked = tab.page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked
    assert served.token not in str(asked)


def test_without_the_token_the_page_says_where_to_find_it(new_tab, served):
    tab = new_tab(served)
    tab.page.goto(served.root)
    tab.wait(".problem", has_text="Open the address that `weighlock view` printed")
    assert tab.find("nav a").count() == 0


def test_names_of_a_hostile_file_are_text(tab):
    tab.wait("main", has_text=IMG)
    tab.go("file/0/tensors")
    tab.row("nested").click()
    tab.wait(".row", has_text="rtl\\u202egnp")
    assert IMG in tab.find(".tree-rows").inner_text()
    tab.go("file/0/tensors?view=table")
    tab.wait(".row", has_text=IMG).click()
    assert IMG in tab.wait("article h1").inner_text()
    assert IMG in tab.find(".snippet").first.inner_text()
    tab.go("file/0/tensors?view=table&q=LLLL")
    tab.wait(".status", has_text="1 of 5")
    assert tab.find(".row[data-index='0']").bounding_box()["width"] <= 1280
    assert "\u202e" not in tab.page.content()
    tab.go("file/2/security")
    tab.wait(".finding.critical", has_text="echo <b>pwned</b> true")
    tab.wait(".facts.prose", has_text="What to do")
    made = "document.querySelectorAll('img:not(.logo), script:not([src]), main b, [onerror], [onload]').length"
    assert tab.page.evaluate(made) == 0


def test_the_policy_stops_what_is_not_ours(new_tab, served):
    """The page works under it (no complaint in any other test); here it is seen to bite."""
    tab = new_tab(served).open()
    for attack in (
        "document.body.innerHTML = '<b>x</b>'", "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)",
    ):  # fmt: skip
        tab.page.evaluate(f"() => {{ try {{ {attack} }} catch (error) {{ window.stopped = error.name }} }}")
    left = tab.page.evaluate("[window.stopped, window.ran, document.querySelectorAll('body > b').length]")
    assert left == ["TypeError", None, 0]
    assert tab.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'stopped')") == "stopped"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)


def test_nothing_is_asked_of_other_hosts_and_nothing_is_sent_but_get(new_tab, served):
    tab = new_tab(served)
    asked = []
    tab.page.on("request", lambda request: asked.append((request.method, request.url)))
    tab.open()
    for place in PLACES:
        tab.go(place)
        tab.settle()
    assert len(asked) > 20
    assert all(method == "GET" and url.startswith((served.root, "data:")) for method, url in asked)
    assert not any(served.token in url for _, url in asked)


# ------------------------------------------------------------------------------------------------------------- errors


def test_a_damaged_file_is_shown_as_far_as_it_can_be(new_tab, served):
    tab = new_tab(served).open("file/1/overview")
    tab.wait(".problem", has_text="the archive was cut")
    assert "weighlock salvage" in tab.find(".problem .next").inner_text()
    tab.find("a", has_text="what a scan finds").click()
    tab.wait(".note.warn", has_text="Not fully examined")
    assert tab.find(".verdict.good").count() == 0
    tab.go("file/1/layout")
    tab.wait(".layout-rows .row[data-index]")
    tab.go("file/1/tensors")
    tab.wait(".browser .problem", has_text="the archive was cut")


def test_a_clean_file_is_called_clean(tab):
    tab.go("file/0/security")
    tab.wait(".verdict.good", has_text="Clean")
    assert tab.find(".finding").count() == 0


def test_what_is_not_there_is_said_in_place(new_tab, served):
    tab = new_tab(served).open("file/0/tensor/12345")
    tab.wait(".detail .problem")
    assert tab.find(".browser .row").count() > 0


def test_a_lost_server_is_said_and_found_again(new_tab, files):
    with serving(files[0]) as served:
        tab = new_tab(served).open()
        tab.wait(".verdict")
        tab.page.route("**/api/**", lambda route: route.abort())
        tab.go("file/0/tensors")
        lost = tab.wait(".lost", has_text="weighlock view FILE")
        tab.wait(".problem", has_text="The server does not answer")
        tab.page.unroute_all()
        lost.locator("button").click()
        tab.until(lambda: not lost.is_visible(), "the server found again")
        tab.find(".problem button").click()
        tab.wait(".row", has_text="nested")
    tab.go("file/0/security")
    tab.wait(".lost", has_text="weighlock view FILE")


# -------------------------------------------------------------------------------------------------------------- looks


def luminance(tab):
    colour = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 3


def test_dark_and_light_follow_the_system_and_the_switch(new_tab, served):
    tab = new_tab(served, color_scheme="dark").open()
    assert luminance(tab) < 50
    tab.find("#theme").click()
    assert luminance(tab) > 200
    tab.page.reload()
    tab.wait(".verdict")
    assert luminance(tab) > 200, "the choice is kept"
    assert luminance(new_tab(served, color_scheme="light").open()) > 200


@pytest.mark.parametrize("size", [(320, 640), (640, 400)], ids=["320 px", "200 %"])
def test_a_narrow_window_needs_no_sideways_scrolling(new_tab, served, size):
    tab = new_tab(served, viewport={"width": size[0], "height": size[1]}).open()
    for place in PLACES[:: 1 if size[0] == 320 else 3]:
        tab.go(place)
        tab.settle()
        wide = tab.page.evaluate(
            "[...document.querySelectorAll('html, main, .detail')].map(e => e.scrollWidth - e.clientWidth)"
        )
        assert max(wide) <= 1, (place, wide)


def test_less_motion_and_the_colours_of_the_system_are_respected(new_tab, served):
    tab = new_tab(served, reduced_motion="reduce", forced_colors="active").open("file/0/tensors")
    tab.wait(".row", has_text="nested")
    moving = tab.page.evaluate(
        "[...document.querySelectorAll('*')].filter(e => parseFloat(getComputedStyle(e).transitionDuration) > 0).length"
    )
    assert moving == 0
    assert tab.page.evaluate("getComputedStyle(document.querySelector('[aria-current]')).outlineStyle") == "solid"


# ------------------------------------------------------------------------------------------------------ accessibility


@pytest.fixture(scope="module")
def axe():
    """The source of axe-core, which `make page-tools` fetches."""
    if not AXE.exists():
        pytest.skip("axe-core is not here: make page-tools")
    return AXE.read_text("utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_view(new_tab, served, axe, scheme):
    # The policy would stop axe's own styles, not the page's: every other test runs under it.
    tab = new_tab(served, color_scheme=scheme, bypass_csp=True).open()
    tab.page.evaluate(axe)
    options = ", runOnly: ['color-contrast']" if scheme == "dark" else ""
    found = []
    for place in PLACES:
        tab.go(place)
        tab.settle()
        results = tab.page.evaluate(f"axe.run(document, {{ resultTypes: ['violations']{options} }})")
        serious = [rule for rule in results["violations"] if rule["impact"] in ("serious", "critical")]
        found += [(place, rule["id"], rule["nodes"][0]["failureSummary"]) for rule in serious]
    assert not found


def test_axe_is_seen_to_find_something(new_tab, served, axe):
    tab = new_tab(served, bypass_csp=True).open()
    tab.page.evaluate(axe)
    tab.page.evaluate("document.querySelector('#theme').replaceWith(document.createElement('button'))")
    results = tab.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert "button-name" in [rule["id"] for rule in results["violations"]]


# ------------------------------------------------------------------------------------------------- addresses, long use


@pytest.mark.parametrize("view", ["constructor", "__proto__", "toString", "nothing"])
def test_a_view_that_is_none_is_the_overview(tab, view):
    tab.go("file/0/tensors")
    tab.wait(".tree-rows .row", has_text="nested")
    tab.go(f"file/0/{view}")
    tab.wait(".verdict.good")
    assert "does not answer" not in tab.find("body").inner_text()


def test_another_token_in_the_address_ends_in_a_sentence(new_tab, served):
    tab = new_tab(served).open()
    tab.page.goto("about:blank")
    tab.page.goto(served.root + "#token=%E0%A4%A")
    tab.wait(".problem", has_text="key is missing or no longer valid")
    assert "%E0" not in tab.page.url
    assert [text for text in tab.complaints if "401" not in text] == []


def test_a_page_in_sight_holds_off_the_idle_timeout(new_tab, files):
    with serving("--idle-timeout", "2", files[0]) as served:
        tab = new_tab(served).open()
        tab.page.wait_for_timeout(5000)
        assert served.process.poll() is None
        tab.context.close()
        assert served.process.wait(20) == 0


def test_parts_open_with_the_values(new_tab):
    golden = Path(__file__).parent / "goldens" / "torch-2.13.0" / "sparse.zip.pt"
    with serving(golden) as served:
        tab = new_tab(served).open("file/0/tensor/0")
        tab.wait(".choice[aria-label=Part] [aria-pressed=true]", has_text="values")
        tab.find(".choice[aria-label=Part] button", has_text="indices").click()
        tab.wait(".lead", has_text="indices")
        assert tab.complaints == []


def test_the_picker_of_files_is_away_where_the_diff_has_its_own(tab):
    tab.wait("#file")
    tab.go("diff?a=0&b=3")
    tab.wait(".diff-rows")
    assert not tab.find("#file").is_visible()
    tab.go("file/0/overview")
    tab.wait("#file")
