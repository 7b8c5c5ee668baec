"""Pages of a report in a browser: nothing is fetched or moves, the keyboard reaches all, axe-core finds no fault."""

from __future__ import annotations

import pytest
from helpers import browser, studies

pytest.importorskip("jinja2", reason="the extra `report` is not installed")

from i3d_jax.study.page import page_of_study

NAMES = ("ucf101-c3d-split1", "ucf101-i3d_rgb-split1", "ucf101-i3d_flow-split1")


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = studies.leave_study(tmp_path_factory.mktemp("study"))
    (folder / "report.html").write_text(page_of_study(folder))
    return folder / "report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", browser.WIDTHS)
def test_the_page_of_a_study(chromium, study, width, dark):
    with browser.opened(chromium, study, width=width, dark=dark) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert browser.faults(page) == []
        assert page.evaluate("window.shift") < 0.01
        light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert light != dark


def test_runs_are_sorted_searched_and_filtered_by_the_keyboard(chromium, study):
    with browser.opened(chromium, study) as page:
        table = page.locator("#runs [data-table]")
        shown = table.locator("tbody tr:visible th")
        table.get_by_role("combobox").first.select_option("finished")
        # 62%, and twice a third.
        table.get_by_role("button", name="Top-1").press("Enter")
        assert shown.all_inner_texts()[0] == NAMES[0]
        table.get_by_role("button", name="Top-1").press("Space")
        assert shown.all_inner_texts()[-1] == NAMES[0]
        table.get_by_role("button", name="Run").press("Enter")
        assert shown.all_inner_texts() == sorted(NAMES)
        table.get_by_role("searchbox").press_sequentially("I3D")
        assert shown.all_inner_texts() == sorted(NAMES[1:])
        assert table.locator("output").inner_text() == "2 of 30 rows"


def test_tab_reaches_every_control_of_a_study(chromium, study):
    with browser.opened(chromium, study, width=390) as page:
        controls = page.locator("a[href], button, input, select, [tabindex='0']").count()
        assert len(browser.reached(page)) == controls


def test_a_link_leads_to_the_page_of_a_run(chromium, study):
    with browser.opened(chromium, study) as page:
        link = page.locator("#runs a").first
        assert study.parent.joinpath(link.get_attribute("href")).read_text().startswith("<!doctype html>")


def test_a_study_in_print(chromium, study):
    with browser.opened(chromium, study, width=750, dark=True) as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browser.faults(page) == []
        assert page.locator("#runs tbody tr:visible").count() == 30
        assert page.pdf().startswith(b"%PDF")
