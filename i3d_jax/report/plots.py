"""Plots of a page: Vega-Lite, whose program stands in the page and draws SVG when it is opened.

The programs are those that vl-convert carries: nothing is fetched. Colours are variables of the page's style, so that
they follow the reader's choice of light or dark.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from i3d_jax.report import page
from i3d_jax.system.files import is_file, make_folder, users_cache, written_whole
from i3d_jax.system.terminal import json_text

# The programs of vega, vega-lite and vega-embed of the newest Vega-Lite that the installed vl-convert has.
_PACKAGE = "vl-convert-python"
_TEXT, _MUTED, _LINE = "var(--text)", "var(--muted)", "var(--line)"
SERIES = tuple(f"var(--s{number})" for number in range(1, 5))
# What series are told apart by besides their colours.
DASHES = ((1, 0), (6, 3), (12, 3), (8, 3, 2, 3))
_FONT = "system-ui, sans-serif"
CONFIG: Mapping[str, Any] = {
    "background": "transparent",
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": _MUTED,
        "titleColor": _TEXT,
        "titleFontWeight": "normal",
        "gridColor": _LINE,
        "domainColor": _MUTED,
        "tickColor": _MUTED,
        "labelFontSize": 12,
        "titleFontSize": 12,
    },
    "legend": {"labelColor": _TEXT, "titleColor": _TEXT, "labelFontSize": 12, "orient": "top", "title": None},
    "range": {"category": list(SERIES)},
}


def figure(title: str, spec: Mapping[str, Any], *, description: str, height: int = 220) -> Markup:
    """Returns a plot that is as wide as its place.

    Args:
      title: the caption.
      spec: of Vega-Lite, with its data, without size and look.
      description: what a reader who does not see it is told.
      height: in pixels.
    """
    whole = {
        **spec,
        "description": description,
        "width": "container",
        "height": height - 5,
        "autosize": {"type": "fit", "contains": "padding", "resize": True},
        "config": CONFIG,
    }
    # What ends a script or begins a comment in it would be HTML of its own.
    text = json_text(whole).replace("<", "\\u003c")
    return page.render("plot.html", title=title, spec=Markup(text), height=height)


def bundle() -> str:
    """Returns the programs that draw the plots; put together once (seconds), then kept in the user's cache folder."""
    import vl_convert

    cache = users_cache()
    path = cache and cache / "report" / f"vega-{importlib.metadata.version(_PACKAGE)}.js"
    if path is not None and is_file(path):
        return path.read_text(encoding="utf-8")
    text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if path is not None:
        make_folder(path.parent)
        with written_whole(path) as file:
            file.write(text.encode())
    return text
