"""What the Markdown pages of the repository hold: fenced blocks, code in the text, links, anchors and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for folder in (".", "docs", "benchmarks") for path in (ROOT / folder).glob("*.md"))

_FENCE = re.compile(r"```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SEPARATORS = {"&&", "||", ";", "|", "&"}


class Found(NamedTuple):
    """Something in a page: where ("docs/flow.md:12"), of which kind (a block's language) and what."""

    where: str
    kind: str
    text: str


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _found(page: Path, text: str, pattern: re.Pattern) -> Iterator[Found]:
    """Yields a pattern's matches; its groups are the kind and the text, or the text alone."""
    for match in pattern.finditer(text):
        where = f"{name(page)}:{text.count(chr(10), 0, match.start()) + 1}"
        yield Found(where, match.group(1) if pattern.groups == 2 else "", match.group(pattern.groups))


def blocks(page: Path) -> list[Found]:
    """The fenced blocks."""
    return list(_found(page, page.read_text(), _FENCE))


def prose(page: Path) -> str:
    """The page with empty lines in place of its fenced blocks."""
    return _FENCE.sub(lambda match: "\n" * match.group().count("\n"), page.read_text())


def spans(page: Path) -> list[Found]:
    """The pieces of code in the text."""
    return list(_found(page, prose(page), re.compile(r"`([^`\n]+)`")))


def links(page: Path) -> list[Found]:
    """The targets of links and pictures."""
    text = re.sub(r"`[^`\n]+`", lambda match: "_" * len(match.group()), prose(page))
    return list(_found(page, text, re.compile(r"\]\(([^()\s]+)\)")))


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings: small letters, no punctuation, hyphens for blanks, numbered where repeated."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        copies = (slug if number == 0 else f"{slug}-{number}" for number in range(len(found) + 1))
        found.add(next(copy for copy in copies if copy not in found))
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each simple command of a shell text, without the variables that are set for it alone."""
    lexer = shlex.shlex(text.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in _SEPARATORS:
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            found[-1].append(word)
    return [command for command in found if command]
