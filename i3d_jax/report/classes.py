"""Which classes a network knows, and which it takes for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from scipy.cluster import hierarchy
from scipy.spatial import distance

from i3d_jax.report import page
from i3d_jax.report.scored import Scored

# Rows of a table and classes of a matrix: more nobody reads, and the page stays small whatever the dataset.
MOST_CLASSES = 600
MOST_IN_MATRIX = 110
MOST_PAIRS = 200


def accuracies(one: Scored) -> dict[str, tuple[int, int]]:
    """Returns, by class that has a video, how many of its videos are named right first, and how many it has."""
    videos = np.bincount(one.predictions.label, minlength=one.predictions.logits.shape[1])
    right = np.bincount(one.predictions.label[one.right], minlength=len(videos))
    names = one.classes
    return {names[number]: (int(right[number]), int(videos[number])) for number in np.flatnonzero(videos)}


def table(scored: Sequence[Scored]) -> Markup:
    """Returns the accuracy by class of each; of several, sorted by the gain of the second over the first."""
    shown = list(scored[:4])
    own = [accuracies(one) for one in shown]
    shares = [{name: right / videos for name, (right, videos) in one.items()} for one in own]
    names = list(dict.fromkeys(name for one in own for name in one))
    gains: dict[str, float] = {}
    if len(shown) > 1:
        gains = {name: shares[1][name] - shares[0][name] for name in names if name in shares[0] and name in shares[1]}
        names.sort(key=lambda name: (name not in gains, -gains.get(name, 0)))
    else:
        names.sort(key=lambda name: shares[0][name])
    note = ""
    if len(names) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        which = "that gain most and that lose most" if gains else "with the lowest accuracy and with the highest"
        which = which.replace(" and ", f" and the {half} ")
        note = f"Of the {len(names):,} classes that have a video these are the {half} {which}."
        names = names[:half] + names[-half:]
    columns = [page.Column("class"), page.Column("videos", numeric=True)]
    columns += [page.Column(one.title, numeric=True, bars=True) for one in shown]
    if gains:
        columns.append(page.Column(f"gain of {shown[1].title}", numeric=True))
    rows = []
    for name in names:
        videos = next(one[name][1] for one in own if name in one)
        row: list[page.Cell | str] = [name, page.Cell(f"{videos:,}", videos)]
        for series, one in enumerate(shares):
            share = one.get(name)
            bar = "–" if share is None else page.bar(share, series=series, text=f"{100 * share:.1f}%")
            row.append(page.Cell(bar, "" if share is None else share))
        if gains:
            row.append(gain_cell(gains.get(name)))
        rows.append(row)
    return page.table("Accuracy by class", columns, rows, searched=True, note=note)


def gain_cell(gain: float | None) -> page.Cell:
    """Returns a difference of two shares in points, with its sign."""
    if gain is None:
        return page.Cell("–", "")
    text = f"{100 * gain:+.1f}".replace("-", "−") if gain else "0.0"
    kind = "up" if gain > 0 else "down" if gain < 0 else ""
    return page.Cell(Markup('<span class="{}">{}</span>').format(kind, text), gain)


def pairs(one: Scored) -> list[tuple[int, int, int]]:
    """Returns (right class, class named, videos) of the videos that are named wrong, the most frequent first."""
    wrong = ~one.right
    both = np.stack([one.predictions.label[wrong], one.predictions.logits[wrong].argmax(1)], 1)
    found, counts = np.unique(both, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(found[at, 0]), int(found[at, 1]), int(counts[at])) for at in order]


def confusion(one: Scored) -> Markup:
    """Returns what is taken for what: the most confused pairs in words, as a table, and as a matrix."""
    names, found = one.classes, pairs(one)
    if not found:
        return page.paragraph(f"Every one of the {len(one.predictions.label)} videos is named right.")
    videos = np.bincount(one.predictions.label, minlength=len(names))
    said = Markup("; ").join(
        Markup("{} for {} ({} of {})").format(page.named(names[right]), page.named(names[named]), count, videos[right])
        for right, named, count in found[:3]
    )
    note = f"Of {len(found):,} pairs these are the {MOST_PAIRS} most frequent." if len(found) > MOST_PAIRS else ""
    columns = [page.Column("right class"), page.Column("taken for")]
    columns += [page.Column("videos", numeric=True), page.Column("of the class", numeric=True, bars=True)]
    rows: list[list[page.Cell | str]] = [
        [
            names[right],
            names[named],
            page.Cell(str(count), count),
            page.Cell(
                page.bar(count / videos[right], series=1, text=f"{100 * count / videos[right]:.0f}%"),
                count / videos[right],
            ),
        ]
        for right, named, count in found[:MOST_PAIRS]
    ]
    listed = page.table("Classes that are taken for others", columns, rows, searched=True, note=note)
    return page.joined([page.paragraph(Markup("Taken most often: {}.").format(said)), _matrix(one, found), listed])


def _matrix(one: Scored, found: Sequence[tuple[int, int, int]]) -> Markup:
    names = one.classes
    chosen = sorted(range(len(names)))
    note = "Rows are the right classes, columns those named. A cell's number is how many videos; empty is none."
    if len(names) > MOST_IN_MATRIX:
        errors = np.zeros(len(names), np.int64)
        for right, named, count in found:
            errors[right] += count
            errors[named] += count
        chosen = sorted(np.argsort(-errors, kind="stable")[:MOST_IN_MATRIX].tolist())
        note += f" Of {len(names):,} classes these are the {MOST_IN_MATRIX} that are confused most."
    place = {number: at for at, number in enumerate(chosen)}
    counts = np.zeros((len(chosen),) * 2, np.int64)
    for right, named in zip(one.predictions.label.tolist(), one.predictions.logits.argmax(1).tolist(), strict=True):
        if right in place and named in place:
            counts[place[right], place[named]] += 1
    shares = counts / np.maximum(np.bincount(one.predictions.label, minlength=len(names))[chosen], 1)[:, None]
    order = clustered(counts)
    alphabet = sorted(range(len(chosen)), key=lambda at: names[chosen[at]])
    orders = {"cluster": _places(order), "name": _places(alphabet)}
    orders["accuracy"] = _places(np.argsort(np.diag(shares), kind="stable").tolist())
    return page.render(
        "matrix.html",
        title=f"Confusion matrix of {one.title}",
        note=note,
        names=[names[number] for number in chosen],
        order=order,
        orders=orders,
        counts=counts.tolist(),
        shares=shares.round(3).tolist(),
    )


def _places(order: Sequence[int]) -> list[int]:
    """Returns where each stands in an order."""
    return np.argsort(np.asarray(order)).tolist()


def clustered(counts: np.ndarray) -> list[int]:
    """Returns an order of classes in which those that are taken for each other stand together.

    Args:
      counts: int [classes, classes], rows the right ones. Average linkage; the distance of two classes falls with the
        share of their videos that are taken for the other.
    """
    if len(counts) < 3:
        return list(range(len(counts)))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    apart = 1 - (shares + shares.T) / 2
    np.fill_diagonal(apart, 0)
    tree = hierarchy.linkage(distance.squareform(apart, checks=False), "average", optimal_ordering=True)
    return hierarchy.leaves_list(tree).tolist()
