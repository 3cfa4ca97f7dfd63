"""The viewer's page as a user has it: every view, the keyboard, a hundred thousand tensors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import weighlock
from tests.viewer_browser import IN_CHROMIUM, serving

pytestmark = IN_CHROMIUM

MANY = 100_000
CORNER = re.compile("Rows 0\u2013(\\d+) of .*columns 0\u2013(\\d+) of")
ASSETS_BYTES = 120_000
"""What the first paint needs; the other views are imported when they are opened."""


def noise(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype("f4")


def model():
    tied = noise(40, 16)
    layers = {f"layers.{i}.{name}.weight": noise(16, 16) for i in range(4) for name in ("up", "down")}
    odd = noise(30, 20)
    odd[3, 5], odd[7, 7] = np.nan, np.inf
    return {
        "model": {
            "embed.weight": tied, **layers, "head.weight": tied, "conv.weight": noise(6, 5, 3, 2), "odd": odd,
            "count": np.arange(600, dtype="i8"), "scalar": np.array(2.5, "f4"), "empty": np.zeros((0, 4), "f4"),
            "wide": np.arange(30 * 2000, dtype="f4").reshape(30, 2000),
        },
        "epoch": 3, "config": {"lr": 0.001, "name": "ada"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    before, after = model(), model()
    after["model"]["layers.2.up.weight"][4:8] += 1
    after["model"]["extra"] = after["model"].pop("conv.weight")
    after["epoch"] = 4
    weighlock.save(before, folder / "before.pt")
    weighlock.save(after, folder / "after.pt")
    with serving(folder / "before.pt", folder / "after.pt") as found:
        yield found


@pytest.fixture(scope="module")
def served_many(tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "many.pt"
    one = np.zeros(2, "f4")
    weighlock.save({f"block{i % 7}_{i}.weight": one for i in range(MANY)}, path)
    with serving(path) as found:
        yield found


def open_tensor(tab, key):
    tab.go("file/0/tensors?view=table&q=" + key)
    tab.row(f"model.{key}").click()
    tab.wait("article h1", has_text=key)


# --------------------------------------------------------------------------------------------------------------- views


def test_the_overview_says_what_the_file_is(tab):
    tab.wait(".verdict.good", has_text="Can be loaded")
    shown = tab.find("main").inner_text()
    assert all(word in shown for word in ("before.pt", "PyTorch zip", "float32", "int64", "epoch", "Sharing"))
    assert tab.find("svg.stack").get_attribute("aria-label").startswith("Bytes by type: float32")
    assert "model.embed.weight = model.head.weight" in shown
    assert tab.page.title() == "before.pt \u2013 Weighlock"


def test_the_tree_folds_numbered_siblings_and_shows_aliases_and_values(tab):
    tab.go("file/0/tensors")
    tab.row("layers").click()
    tab.wait(".row", has_text="[0-3]").click()
    assert "\xd74" in tab.row("[0-3]").inner_text()
    tab.row("head").click()
    tab.until(lambda: "= model.embed.weight" in tab.find(".tree-rows").inner_text(), "the alias")
    assert "3" in tab.row("epoch").inner_text()
    tab.row("epoch").click()
    tab.wait("pre.value", has_text="3")


def test_the_table_is_searched_filtered_and_sorted(tab):
    tab.go("file/0/tensors?view=table")
    tab.wait(".row", has_text="model.embed.weight")
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("*.layers.?.up.weight")
    tab.wait(".status", has_text="4 of 16 tensors")
    assert "layers" in tab.page.url
    tab.page.keyboard.press("Escape")
    tab.wait(".status", has_text="16 tensors")
    tab.find("button", has_text="Filter").click()
    tab.find("select[aria-label=Type]").select_option("int64")
    tab.wait(".status", has_text="1 of 16")
    tab.go("file/0/tensors?view=table&shape=16,*")
    tab.wait(".status", has_text="8 of 16")
    tab.go("file/0/tensors?view=table")
    tab.find("[data-sort=nbytes]").click()
    tab.find("[data-sort=nbytes]").click()
    tab.until(lambda: "model.wide" in tab.find(".row[data-index='0']").inner_text(), "the largest first")
    tab.go("file/0/tensors?view=table&q=nothing")
    tab.find("text=Show all").click()
    tab.wait(".status", has_text="16 tensors")


def test_a_tensor_has_figures_a_histogram_a_heat_map_and_its_values(tab):
    open_tensor(tab, "odd")
    tab.wait(".note", has_text="2 values are not finite")
    facts = tab.find(".facts.numbers").inner_text()
    assert "NaN\n1" in facts
    assert "1 / 0" in facts
    label = tab.find(".histogram svg").get_attribute("aria-label")
    assert label.startswith("Histogram: 598 values in 60 bins")
    before = tab.find(".histogram .bar").nth(30).get_attribute("height")
    tab.find("button", has_text="Log").click()
    assert tab.find(".histogram .bar").nth(30).get_attribute("height") != before
    tab.find("summary", has_text="Histogram as a table").click()
    tab.wait(".twin table")
    rows = tab.find(".twin table").first.locator("tbody tr")
    assert sum(int(row.locator("td").nth(1).inner_text()) for row in rows.all()) == 598
    tab.wait("#heat-summary", has_text="one cell for each value")
    assert "1 value is NaN" in tab.find("#heat-summary").inner_text()


def test_the_heat_map_zooms_moves_and_tells_the_value_under_the_pointer(tab):
    open_tensor(tab, "wide")
    summary = tab.find("#heat-summary")
    tab.until(lambda: "their mean shown" in summary.inner_text(), "blocks")
    canvas = tab.find("canvas.heat")
    canvas.scroll_into_view_if_needed()
    canvas.hover(position={"x": 0, "y": 1})
    tab.until(lambda: "min 0 ·" in tab.find(".heat-figure .readout").inner_text(), "the first block")
    canvas.focus()
    for _ in range(6):
        tab.page.keyboard.press("+")
    tab.until(lambda: "one cell for each value" in summary.inner_text(), "single values")
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Home")
    corner = tab.until(lambda: CORNER.search(summary.inner_text()), "the corner")
    rows, columns = map(int, corner.groups())
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * 1.5 / (columns + 1), "y": box["height"] * 2.5 / (rows + 1)})
    tab.until(lambda: "[2, 1] 4001" in tab.find(".heat-figure .readout").inner_text(), "row 2, column 1")
    canvas.click(position={"x": box["width"] * 1.5 / (columns + 1), "y": box["height"] * 2.5 / (rows + 1)})
    tab.wait("mark", has_text="4001")
    tab.find("button[data-value=max]").click()
    tab.find("summary", has_text="Heat map as a table").click()
    assert tab.wait(".heat-figure .twin table").inner_text().count("\n") > 3


def test_more_than_two_dimensions_are_chosen_by_their_leading_indices(tab):
    open_tensor(tab, "conv.weight")
    expected = model()["model"]["conv.weight"]
    first = tab.find("table.values tbody td").first
    tab.until(lambda: first.count() and np.float32(first.inner_text()) == expected[0, 0, 0, 0], "the first matrix")
    boxes = tab.find(".leading input")
    boxes.nth(0).fill("4")
    boxes.nth(1).fill("3")
    tab.until(lambda: np.float32(first.inner_text()) == expected[4, 3, 0, 0], "the chosen matrix")
    tab.until(lambda: "at=4" in tab.page.url, "the place in the address")
    tab.page.reload()
    tab.until(lambda: first.count() and np.float32(first.inner_text()) == expected[4, 3, 0, 0], "the same again")


def test_values_are_paged_and_exact(tab):
    open_tensor(tab, "count")
    cells = tab.find("table.values tbody td")
    tab.until(lambda: cells.count() and cells.first.inner_text() == "0", "the beginning")
    tab.find("[aria-label='Columns to the right']").click()
    tab.until(lambda: cells.first.inner_text() == "8", "the next ones")
    tab.find("[aria-label^='First column']").fill("599")
    tab.until(lambda: cells.last.inner_text() == "599", "the last one")
    for key, note in (("empty", "no elements"), ("scalar", "2.5")):
        open_tensor(tab, key)
        tab.wait("article", has_text=note)


def test_a_tensor_is_downloaded_and_its_command_shown(tab, tmp_path):
    open_tensor(tab, "layers.1.up.weight")
    with tab.page.expect_download() as download:
        tab.find("text=Download .npy").click()
    download.value.save_as(tmp_path / "found.npy")
    assert download.value.suggested_filename == "model.layers.1.up.weight.npy"
    expected = model()["model"]["layers.1.up.weight"]
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)
    with tab.page.expect_download() as download:
        tab.find("text=Download .csv").click()
    download.value.save_as(tmp_path / "found.csv")
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "found.csv", delimiter=",", dtype="f4"), expected)
    shown = tab.find(".snippet").all_inner_texts()
    assert "weighlock.open_checkpoint(" in shown[0]
    assert "weighlock show" in shown[1]


def test_storages_say_who_shares_them(tab):
    tab.go("file/0/storages?sort=nbytes")
    tab.wait(".storage-rows .row", has_text="2 share it")
    tab.until(lambda: "model.wide" in tab.find(".row[data-index='0']").inner_text(), "the largest first")
    tab.find("a", has_text="model.head.weight").click()
    tab.wait("article h1", has_text="model.head.weight")
    tab.wait(".shares", has_text="model.embed.weight")


def test_the_layout_is_a_bar_and_a_list(tab):
    tab.go("file/0/layout")
    tab.wait(".layout-rows .row", has_text="data.pkl")
    assert "data" in tab.find(".keyed").inner_text()
    bar, readout = tab.find("canvas.bytebar"), tab.find(".figure-head .readout")
    whole = readout.inner_text()
    bar.focus()
    tab.page.keyboard.press("+")
    assert readout.inner_text() != whole
    tab.page.keyboard.press("0")
    assert readout.inner_text() == whole
    bar.hover(position={"x": 3, "y": 5})
    tab.until(lambda: "data.pkl" in readout.inner_text(), "the part under the pointer")
    drawn = bar.evaluate("c => new Set(c.getContext('2d').getImageData(0, 5, c.width, 1).data).size")
    assert drawn > 3, "the bar has one colour only"


def test_the_diff_has_counts_a_list_and_a_map_of_the_difference(tab):
    tab.page.keyboard.press("d")
    tab.wait(".verdict", has_text="They differ")
    row = tab.row("model.layers.2.up.weight")
    assert row.locator(".differ").inner_text() == "64"
    assert row.locator(".far").inner_text() == "1"
    row.click()
    tab.wait("aside .facts", has_text="Values that differ")
    tab.until(lambda: "one cell for each value" in tab.find("#heat-summary").inner_text(), "the map")
    canvas = tab.find("aside canvas.heat")
    box = canvas.bounding_box()
    canvas.hover(position={"x": 5, "y": box["height"] * 5.5 / 16})
    tab.until(lambda: "[5, 0] 1" in tab.find(".heat-figure .readout").inner_text(), "the difference at row 5")
    tab.find("button", has_text="The same").click()
    tab.wait(".row", has_text="model.embed.weight")
    assert tab.find(".row", has_text="model.layers.2.up.weight").count() == 0
    assert "only=same" in tab.page.url


# ------------------------------------------------------------------------------------------------------------ keyboard


def test_the_tree_is_walked_with_the_keys_and_says_where_one_is(tab):
    tab.go("file/0/tensors")
    tab.wait("[role=treeitem]")
    tab.find(".row[data-index='0']").focus()
    keys = tab.page.keyboard
    assert tab.find("[role=treeitem][tabindex='0']").count() == 1
    assert tab.find(".row[data-index='0']").get_attribute("aria-expanded") == "true"
    keys.press("ArrowLeft")
    tab.until(lambda: tab.find(".row[data-index='0']").get_attribute("aria-expanded") == "false", "closed")
    keys.press("ArrowRight")
    tab.until(lambda: tab.find(".row[data-index='0']").get_attribute("aria-expanded") == "true", "open again")
    keys.press("ArrowRight")
    tab.until(lambda: "embed" in tab.focused(), "the first child")
    at = tab.page.evaluate("""() => { const a = document.activeElement;
        return [a.ariaLevel, a.ariaPosInSet, a.ariaSetSize].map(Number) }""")
    assert at == [2, 1, 9]
    keys.press("ArrowLeft")
    tab.until(lambda: "model" in tab.focused(), "the parent")
    keys.press("End")
    tab.until(lambda: "config" in tab.focused(), "the last row")
    keys.press("Home")
    tab.until(lambda: "model" in tab.focused(), "the first row")
    while "scalar" not in tab.focused():
        keys.press("ArrowDown")
    keys.press("Enter")
    tab.wait("article h1", has_text="model.scalar")
    keys.press("Escape")
    tab.until(lambda: "/tensors" in tab.page.url, "back at the list")
    tab.until(lambda: "scalar" in tab.focused(), "where one was")


def test_keys_open_views_filter_help_and_close_them(tab):
    keys = tab.page.keyboard
    for key, heading in (("s", "Storages"), ("l", "Layout"), ("c", "Security"), ("d", "Diff"), ("o", "before.pt")):
        keys.press(key)
        tab.wait("h1", has_text=heading)
    keys.press("?")
    tab.wait("dialog[open]", has_text="search names")
    keys.press("Escape")
    tab.until(lambda: tab.find("dialog[open]").count() == 0, "the help closed")
    keys.press("f")
    tab.until(lambda: tab.page.evaluate("document.activeElement.ariaLabel") == "Type", "the filter")
    keys.press("/")  # in a field it is a key like others
    tab.find(".row[data-index='0']").focus()
    keys.press("/")
    tab.until(lambda: tab.page.evaluate("document.activeElement.type") == "search", "the search")
    tab.page.go_back()
    tab.wait("h1", has_text="before.pt")


# ---------------------------------------------------------------------------------------------------- sizes and times


def test_a_hundred_thousand_tensors_are_a_few_rows_of_the_document(new_tab, served_many):
    tab = new_tab(served_many).open("file/0/tensors?view=table")
    tab.wait(".status", has_text="100,000 tensors")
    tab.wait(".row", has_text="block0_0.weight")

    def nodes():
        return tab.page.evaluate("document.querySelectorAll('*').length")

    assert nodes() < 450
    tab.find(".row[data-index='0']").focus()
    tab.page.keyboard.press("End")
    tab.until(lambda: f"_{MANY - 1}.weight" in tab.focused(), "the last one")
    assert nodes() < 450
    tab.page.evaluate("document.querySelector('.rows').scrollTop = 1e6")
    tab.until(lambda: tab.find(".row.waiting").count() == 0 and tab.find(".row[data-index]").count() > 10, "rows")
    assert nodes() < 450
    tab.go("file/0/tensors?fold=0")
    tab.wait("[role=treeitem][aria-setsize='100000']")
    assert nodes() < 450
    assert tab.complaints == []


def test_a_keystroke_of_a_search_is_not_felt(new_tab, served_many):
    """Under 50 ms of the page's own work for a key, the server's time left out."""
    tab = new_tab(served_many).open("file/0/tensors?view=table")
    tab.wait(".status", has_text="100,000")
    tab.page.evaluate("""() => { window.longest = 0; new PerformanceObserver(list => {
        for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration)
        }).observe({ type: 'longtask' }) }""")
    tab.page.keyboard.press("/")
    for key in "_4242":
        tab.page.keyboard.press(key)
        tab.page.wait_for_timeout(60)
    tab.wait(".status", has_text="11 of 100")
    longest = tab.page.evaluate("window.longest")
    assert longest < 150, f"a task of {longest} ms: on a quiet machine it is below 50"


def test_requests_that_nobody_waits_for_are_dropped(new_tab, served_many):
    tab = new_tab(served_many).open("file/0/tensors?view=table")
    tab.wait(".row", has_text="block0_0.weight")
    dropped = []
    tab.page.on("requestfailed", lambda request: dropped.append(request.failure))
    tab.page.route("**/tensors?*offset=*", lambda route: None)  # never answered
    tab.page.evaluate("document.querySelector('.rows').scrollTop = 500000")
    tab.page.wait_for_timeout(150)
    tab.page.unroute_all(behavior="ignoreErrors")
    tab.page.evaluate("document.querySelector('.rows').scrollTop = 2000000")
    tab.until(lambda: any("ABORTED" in (failure or "") for failure in dropped), "a dropped request")
    tab.until(lambda: tab.find(".row.waiting").count() == 0, "the rows of the last place")


def test_the_page_is_small_and_painted_at_once(new_tab, served):
    tab = new_tab(served)
    came: list[Any] = []
    tab.page.on("response", lambda response: came.append(response))  # noqa: PLW0108 - playwright marks the handler
    tab.open()
    tab.wait(".verdict")
    sizes = {response.url: len(response.body()) for response in came if "/api/" not in response.url}
    assert len(sizes) > 5
    assert sum(sizes.values()) < ASSETS_BYTES
    first = tab.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert first < 1500, f"painted after {first} ms: on a quiet machine it is below 300"


# -------------------------------------------------------------------------------------------- reveal, reload, addresses


@pytest.mark.parametrize("number", [0, 77_777, MANY - 1])
def test_a_tensor_of_a_hundred_thousand_is_revealed_in_the_tree(new_tab, served_many, number):
    tab = new_tab(served_many).open(f"file/0/tensor/{number}")
    name = f"block{number % 7}_{number}"
    tab.wait("article h1", has_text=f"{name}.weight")
    row = tab.wait(".tree-rows .row.selected", has_text="weight")
    assert row.get_attribute("aria-level") == "2"
    assert tab.row(name).get_attribute("aria-expanded") == "true"
    box, frame = row.bounding_box(), tab.find(".tree-rows").bounding_box()
    assert frame["y"] <= box["y"] < frame["y"] + frame["height"]
    assert tab.page.evaluate("document.querySelectorAll('*').length") < 1000
    assert tab.complaints == []


def test_a_tensor_behind_a_fold_is_revealed_and_the_keyboard_goes_there(tab):
    tab.go("file/0/tensors?view=table&q=layers.2.down")
    tab.row("model.layers.2.down.weight").click()
    tab.wait("article h1", has_text="layers.2.down.weight")
    tab.page.keyboard.press("r")
    tab.wait(".tree-rows .row.selected", has_text="weight")
    tab.until(lambda: "weight" in tab.focused(), "the row has the focus")
    assert tab.find("button[data-value=tree]").get_attribute("aria-pressed") == "true"
    assert [tab.row(name).get_attribute("aria-expanded") for name in ("layers", "2", "down")] == ["true"] * 3
    tab.page.keyboard.press("ArrowLeft")
    tab.until(lambda: "down" in tab.focused(), "its branch")
    tab.find("button", has_text="In the tree").click()
    tab.until(lambda: "weight" in tab.focused(), "back at it")


def test_the_parts_of_a_file_lead_to_their_tensors(tab):
    tab.go("file/0/layout")
    tab.wait(".layout-rows .row[data-index='0']").focus()
    link = tab.find(".layout-rows a", has_text="model.odd")
    while not link.count():
        tab.page.keyboard.press("PageDown")
        tab.settle()
    link.first.click()
    tab.wait("article h1", has_text="model.odd")
    tab.wait(".tree-rows .row.selected", has_text="odd")


@pytest.mark.parametrize("place", [
    "file/0/tensors?sort=zz", "file/0/nowhere", "file/77/tensors", "file/0/tensor/x", "elsewhere", "diff?a=9&only=q",
    "file/0/tensors?view=table&q=" + "x" * 30_000, "file/0/storages?sort=%3Cb%3E", "file/0/value?path=zz",
    "file/0/tensors?min_bytes=-1&fold=7",
])  # fmt: skip
def test_an_address_that_is_not_understood_leads_somewhere(tab, place):
    tab.go(place)
    tab.wait("#said.shown", has_text="left out")
    tab.settle()
    assert tab.find(".problem").count() == 0
    assert not any(junk in tab.page.url for junk in ("zz", "nowhere", "77", "xxx", "only=q", "%3Cb", "min_bytes"))


@pytest.mark.parametrize("place", [
    "file/0/tensor/99999", 'file/0/value?path=["no"]', "file/0/tensors?shape=what",
])  # fmt: skip
def test_what_the_file_does_not_have_has_a_way_out(tab, place):
    tab.go(place)
    tab.wait(".problem").locator("a", has_text="Go to the overview").click()
    tab.wait(".verdict", has_text="Can be loaded")
    assert all("Failed to load resource" in complaint for complaint in tab.complaints)
    tab.complaints.clear()  # the browser notes each answer that is an error


def test_a_file_that_was_changed_has_a_notice_and_is_opened_anew(new_tab, tmp_path):
    path = tmp_path / "model.pt"
    weighlock.save({"a": noise(3, 3), "w": np.full((2, 2), 1.5, "f4")}, path)
    with serving(path) as found:
        tab, other = new_tab(found).open("file/0/tensor/1"), new_tab(found).open()
        tab.wait("article h1", has_text="w")
        tab.wait(".grid-body", has_text="1.5")
        tab.settle()  # nothing is on its way that would be of the changed file
        other.settle()
        assert tab.find(".changed").is_hidden()
        weighlock.save({"w": np.full((2, 2), 2.5, "f4")}, tmp_path / "new.pt")
        with path.open("r+b") as file:
            file.write((tmp_path / "new.pt").read_bytes())
            file.truncate()
        tab.page.evaluate("dispatchEvent(new Event('focus'))")
        tab.wait(".changed", has_text="was changed on disk")
        tab.find(".changed button", has_text="Reload").click()
        tab.wait(".grid-body", has_text="2.5")
        assert tab.page.url.endswith("file/0/tensor/0"), "the tensor of that name, not of that number"
        tab.until(lambda: tab.find(".changed").is_hidden(), "the notice is gone")
        other.go("file/0/tensors")
        other.wait(".changed", has_text="was opened anew by another page")
        other.find(".changed button").click()
        other.wait(".status", has_text="1 tensor")
        assert tab.complaints == []
