"""The names of classes: one spelling for one text, and no two that people cannot tell apart."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from i3d_jax.system.errors import UserError

# Letters of Greek and Cyrillic that look as a Latin one does (some of Unicode's confusables, UTS 39).
_LATIN = str.maketrans(
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοАВЕЅІЈКМНОРСТУХаеорсухѕіј",
    "ABEZHIKMNOPTYXoABESIJKMHOPCTYXaeopcyxsij",
)


def spelt(label: str) -> str:
    """Returns a label as datasets hold it: composed (Unicode's NFC), with single blanks and none around it.

    Two keyboards, or macOS and Linux, write one text in other code points.
    """
    return " ".join(unicodedata.normalize("NFC", label).split())


def check_labels(labels: Iterable[str]) -> None:
    """Refuses labels that people cannot read or tell apart.

    Args:
      labels: as `spelt` gives them.

    Raises:
      UserError: one has control characters or none that is seen, or two that differ look the same: in letters of
        another script, of another width, or unseen ones.
    """
    seen: dict[str, str] = {}
    for label in labels:
        look = _look(label)
        if not look or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in label):
            raise UserError(f"a label of letters that are seen was expected, found {label!a}")
        other = seen.setdefault(look, label)
        if other != label:
            raise UserError(
                f"classes that can be told apart were expected, found two that look the same: {other!r} and {label!r},"
                f" which are written {other!a} and {label!a}: spell both in one way"
            )


def _look(label: str) -> str:
    """Returns what people see of a label."""
    plain = unicodedata.normalize("NFKC", label).translate(_LATIN)
    return spelt("".join(letter for letter in plain if unicodedata.category(letter) != "Cf"))
