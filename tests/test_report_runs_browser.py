"""The page of runs in a browser: plots are drawn and looked into, matrices searched and sorted, animations stopped."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import browser, workdirs
from helpers.small_dataset import write_dataset

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("vl_convert", reason="the extra `report` is not installed")

from i3d_jax.report.run_page import page_of_workdirs


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_dataset(folder / "dataset", [9, 5, 30, 4], split="test")
    options = {"labels": [0, 1, 2, 0], "classes": ("left", "right", "up"), "dataset": folder / "dataset"}
    runs = [workdirs.leave(folder / stream, stream=stream, **options) for stream in ("rgb", "flow")]
    (folder / "page.html").write_text(page_of_workdirs(runs))
    return folder / "page.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", browser.WIDTHS)
def test_the_page_of_runs(chromium, path, width, dark):
    with browser.opened(chromium, path, width=width, dark=dark) as page:
        assert page.locator(".chart svg").count() == page.locator(".chart").count() == 6
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert browser.faults(page) == []
        assert page.evaluate("window.shift") < 0.01


def test_nothing_moves_when_the_plots_are_drawn(chromium, path):
    """However late that is: without its program the page is as high."""
    with browser.opened(chromium, path) as page:
        drawn = page.evaluate("document.documentElement.scrollHeight")
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollHeight") == drawn
    context.close()


def test_curves_are_looked_into(chromium, path):
    with browser.opened(chromium, path) as page:
        first = page.locator("[data-bound=first]")
        labels = page.locator(".zoomed .chart").first.locator(".role-axis-label")
        assert "10" in labels.first.text_content()
        first.fill("15")
        first.press("Tab")
        page.wait_for_function("() => !document.querySelector('.zoomed .role-axis-label').textContent.includes('10')")
        page.get_by_role("button", name="All steps").press("Enter")
        assert first.input_value() == "10"
        # Dragged over the middle half of a plot, all of them show what lies there.
        plot = page.locator(".zoomed .chart svg").first
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] / 4, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + 3 * box["width"] / 4, middle, steps=5)
        page.mouse.up()
        page.wait_for_function("() => document.querySelector('[data-bound=first]').value > 10")
        assert 10 < int(first.input_value()) < int(page.locator("[data-bound=last]").input_value()) < 20


def test_a_matrix_is_sorted_and_searched(chromium, path):
    with browser.opened(chromium, path) as page:
        matrix = page.locator("[data-matrix]").first
        matrix.get_by_role("button", name="by name").press("Enter")
        assert matrix.locator("tbody th").all_inner_texts() == ["left", "right", "up"]
        assert matrix.locator("thead th").all_inner_texts()[1:] == ["left", "right", "up"]
        # Scores of "left", "right", "right" and "left": of "left" both are right, "up" is taken for "right".
        found = [row.locator("td").all_inner_texts() for row in matrix.locator("tbody tr").all()]
        assert found == [["2", "", ""], ["", "1", ""], ["", "1", ""]]
        matrix.get_by_role("searchbox").fill("up")
        assert matrix.locator("tbody tr:visible th").all_inner_texts() == ["right", "up"]


def test_tables_are_sorted_searched_and_filtered(chromium, path):
    with browser.opened(chromium, path) as page:
        table = page.locator("[data-table]").filter(has_text="Accuracy by class")
        shown = table.locator("tbody tr:visible th")
        # Of "left" both are right, of "right" the one, of "up" none.
        rgb = table.locator("thead button").nth(2)
        rgb.press("Enter")
        assert shown.all_inner_texts()[-1] == "up"
        rgb.press("Space")
        assert shown.all_inner_texts()[0] == "up"
        table.get_by_role("searchbox").fill("GHT")
        assert shown.all_inner_texts() == ["right"]
        recipe = page.locator("#recipe [data-table]")
        recipe.get_by_role("combobox").select_option("differs")
        assert recipe.locator("tbody tr:visible th").all_inner_texts() == ["model.stream"]


def test_animations_play_and_stop(chromium, path):
    with browser.opened(chromium, path) as page:
        moving = page.locator("img[data-still]")
        longest = moving.and_(page.locator("[alt*='video2,']")).first
        longest.scroll_into_view_if_needed()
        seen = {longest.screenshot()}
        for _ in range(20):
            page.wait_for_timeout(60)
            seen.add(longest.screenshot())
        assert len(seen) > 1
        assert moving.first.evaluate("image => image.complete && image.naturalWidth") == 21
        page.get_by_role("button", name="Stop the animations").press("Space")
        assert moving.evaluate_all("images => images.every((image) => image.src === image.dataset.still)")
        page.wait_for_timeout(200)
        seen = {longest.screenshot()}
        page.wait_for_timeout(200)
        assert seen == {longest.screenshot()}
        page.get_by_role("button", name="Stop the animations").press("Space")
        assert not moving.evaluate_all("images => images.some((image) => image.src === image.dataset.still)")


def test_tab_reaches_every_control_of_runs(chromium, path):
    with browser.opened(chromium, path) as page:
        controls = page.locator("a[href], button, input, select, [tabindex='0']").count()
        assert len(browser.reached(page)) == controls


def test_runs_in_print(chromium, path):
    with browser.opened(chromium, path, width=700, dark=True) as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browser.faults(page) == []
        # Nothing can be scrolled on paper.
        assert page.evaluate("[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > 700)") == []
        assert page.pdf().startswith(b"%PDF")


NAMES = ("<script>window.ran = 1</script>", "<img src=x onerror='window.ran = 1'>", "\u202eturned \x1b[31m", "x" * 300)


@pytest.mark.parametrize("width", browser.WIDTHS)
def test_names_run_nothing_and_keep_the_page_in_its_place(chromium, tmp_path, width):
    logits = 3 * np.eye(4)[[1, 1, 3, 3]]
    run = workdirs.leave(tmp_path / "run", classes=NAMES, logits=logits, labels=[0, 1, 2, 3], videos=NAMES)
    (tmp_path / "page.html").write_text(page_of_workdirs([run]))
    with browser.opened(chromium, tmp_path / "page.html", width=width) as page:
        assert page.evaluate("window.ran") is None
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert browser.faults(page) == []
        assert page.locator(".bar:visible").first.bounding_box()["x"] < 1440


def test_a_hundred_classes(chromium, tmp_path):
    """The whole matrix, legible, in seconds; the page is small."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 100, 2000)
    logits = random.normal(size=(2000, 100)) + 3 * np.eye(100)[labels]
    names = [f"class number {number}" for number in range(100)]
    run = workdirs.leave(tmp_path / "run", classes=names, logits=logits, labels=labels)
    (tmp_path / "page.html").write_text(page_of_workdirs([run]))
    assert (tmp_path / "page.html").stat().st_size < 4e6
    with browser.opened(chromium, tmp_path / "page.html", width=390) as page:
        matrix = page.locator("[data-matrix]")
        assert matrix.locator("tbody tr").count() == 100
        matrix.get_by_role("searchbox").fill("number 42")
        assert matrix.locator("tbody th.found").all_inner_texts() == ["class number 42"]
        assert matrix.locator("tbody tr:visible").count() < 100
        matrix.get_by_role("searchbox").fill("no such class")
        assert matrix.locator("output").inner_text() == "none of the 100 classes here"
