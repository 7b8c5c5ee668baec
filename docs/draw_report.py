"""Takes the picture of a page of a report: `python docs/draw_report.py PAGE PICTURE` (extra `browser`, Chromium)."""

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1200, 1205
# What tells most in a picture; the page itself has more.
SHOWN = """
nav, .tools, .note, section:not(#curves, #videos, #first-layer-filters) { display: none; }
section, main > section:first-child { margin-top: .5rem; padding-top: 1rem; }
#curves figure:nth-child(n + 3) { display: none; }
#videos h3:nth-of-type(1), #videos h3:nth-of-type(1) + .cards { display: none; }
.cards { grid-template-columns: repeat(4, 1fr); }
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python docs/draw_report.py", description=__doc__)
    parser.add_argument("page", type=Path, help="such as runs/quickstart/report.html")
    parser.add_argument("picture", type=Path, help="a .webp file")
    return parser


if __name__ == "__main__":
    options = _parser().parse_args()
    with sync_playwright() as playwright:
        # Root has no sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(options.page.resolve().as_uri())
        page.wait_for_load_state("networkidle")
        page.add_style_tag(content=SHOWN)
        picture = page.screenshot()
        browser.close()
    Image.open(io.BytesIO(picture)).save(options.picture, "WEBP", quality=80, method=6)
