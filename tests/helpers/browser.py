"""Debian's Chromium, driven by Playwright: the pages of a report as their readers have them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# What a phone and a desktop screen have.
WIDTHS = (390, 1440)
# Begins before the page does: how far what stands on it has moved by itself.
_SHIFTS = """
window.shift = 0;
new PerformanceObserver((list) => { for (const one of list.getEntries()) window.shift += one.value; })
  .observe({ type: "layout-shift", buffered: true });
"""


@contextlib.contextmanager
def chromium() -> Iterator:
    """A browser without a window; the test is skipped where the extra `browser` or Chromium is missing."""
    library = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    pytest.importorskip("axe_playwright_python", reason="the extra `browser` is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on this machine")
    # Root has no sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with library.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, path: Path, *, width: int = 1440, dark: bool = False) -> Iterator:
    """A file in a window of a width; what it logs as an error, and whatever else it asks for, fails the test."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    errors: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    page.add_init_script(_SHIFTS)
    page.goto(path.resolve().as_uri())
    page.wait_for_load_state("networkidle")
    try:
        yield page
        assert errors == []
        assert set(asked) == {path.resolve().as_uri()}
    finally:
        page.close()


def faults(page) -> list[str]:
    """What axe-core finds serious or critical: contrast, names, roles, order."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:120]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def reached(page, most: int = 300) -> list[str]:
    """Presses Tab until it comes round, and returns what had the focus, in order; each must be seen to have it."""
    page.evaluate("document.activeElement?.blur()")
    found: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        told = page.evaluate("""() => {
          const one = document.activeElement;
          if (one === document.body || one === null) return null;
          const style = getComputedStyle(one), box = one.getBoundingClientRect();
          const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 && box.width > 0;
          window.numbers ??= new Map();
          if (!window.numbers.has(one)) window.numbers.set(one, window.numbers.size);
          return [window.numbers.get(one), seen, one.outerHTML.slice(0, 100)];
        }""")
        if told is None or (told[2] in found[:1] and told[0] == 0):
            return found
        assert told[1], f"the focus is not seen on {told[2]}"
        found.append(told[2])
    raise AssertionError(f"Tab never came round: {found[-3:]}")
