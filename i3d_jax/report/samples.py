"""Videos that a network is surely wrong about, and some that it names right, as short animations."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from i3d_jax.data.reader import DamagedRecord, EncodedVideo, SplitReader
from i3d_jax.inference.scores import best, probabilities
from i3d_jax.report import page
from i3d_jax.report.scored import Scored
from i3d_jax.report.workdir import Workdir
from i3d_jax.system.errors import UserError

WRONG, RIGHT = 8, 4
# Of an animation: its pictures, the pixels of its longer side, and how long a picture is shown, in milliseconds.
FRAMES, SIDE, LONGEST_SHOWN = 24, 176, 120
# Of all animations of a page, in bytes.
MOST_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Animation:
    """A short animation: WebP that moves, WebP of its first picture, and their size in pixels."""

    moving: bytes
    still: bytes
    width: int
    height: int


def chosen(one: Scored) -> tuple[list[int], list[int]]:
    """Returns the rows of the videos that are wrong with the highest probability, and of some right ones (seeded)."""
    logits = one.predictions.logits
    # Piece by piece: of ten thousand classes the probabilities of all videos take gigabytes.
    sure = np.concatenate([probabilities(part).max(1) for part in np.array_split(logits, len(logits) // 1000 + 1)])
    wrong = np.flatnonzero(~one.right)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:WRONG]
    right = np.flatnonzero(one.right)
    drawn = np.random.default_rng(0).permutation(right)[:RIGHT]
    return wrong.tolist(), sorted(drawn.tolist())


class Animations:
    """The animations of a page: each video once, and no more bytes than there is room for.

    Attributes:
      problems: a sentence for each video that has none.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._left = MOST_BYTES
        self._told_full = False

    def of_rows(self, run: Workdir, rows: Sequence[int]) -> Mapping[int, Animation]:
        """Returns the animations of videos of the split that a run shows, by their row in its predictions."""
        if run.dataset is None or run.predictions is None or run.split is None:
            return {}
        try:
            reader = SplitReader(run.dataset, run.split, max_damaged_share=1.0)
        except UserError as error:
            self.problems.append(f"{run.name} is shown without animations: {error}")
            return {}
        found = {}
        names = run.predictions.video
        # Predictions stand in the order of the split, without the videos that were damaged.
        lost = max(len(reader.places) - len(names), 0)
        rate = run.dataset.preprocessing.frame_rate
        rate = float(rate) if isinstance(rate, int | float) else 25.0
        for row in rows:
            animation = self._of_row(reader, row, str(names[row]), lost, rate)
            if animation is not None:
                found[row] = animation
        return found

    def _of_row(self, reader: SplitReader, row: int, name: str, lost: int, rate: float) -> Animation | None:
        if self._left <= 0:
            if not self._told_full:
                self.problems.append(
                    f"Of further videos there are no animations: there is room for {MOST_BYTES >> 20} MB"
                )
            self._told_full = True
            return None
        for place in reader.places[row : row + lost + 1]:
            made = reader.read(place, lambda video: animated(video, rate) if video.name == name else "another")
            if isinstance(made, Animation):
                self._left -= len(made.moving) + len(made.still)
                return made
            if made is None and not lost:
                self.problems.append(f"{name} cannot be shown: {reader.damaged[place]}")
                return None
        self.problems.append(f"{name} cannot be shown: the dataset has no such video at its place, or it is damaged")
        return None


def animated(video: EncodedVideo, rate: float) -> Animation:
    """Makes an animation of the frames of a stored video; raises `DamagedRecord` where one does not decode."""
    numbers = np.unique(np.linspace(0, video.num_frames - 1, min(FRAMES, video.num_frames)).round().astype(int))
    pictures = [_picture(video, int(number)) for number in numbers]
    shown = min(video.num_frames / rate / len(numbers) * 1000, LONGEST_SHOWN)
    moving, still = io.BytesIO(), io.BytesIO()
    pictures[0].save(
        moving, "WEBP", save_all=True, append_images=pictures[1:], duration=round(shown), loop=0, quality=45, method=2
    )
    pictures[0].save(still, "WEBP", quality=45)
    return Animation(moving.getvalue(), still.getvalue(), *pictures[0].size)


def _picture(video: EncodedVideo, number: int) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(video.image("rgb", number))).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedRecord(video.place, f"its frame {number} is no whole image ({error})") from error
    share = min(SIDE / max(picture.size), 1)
    width, height = picture.size
    return picture.resize((max(round(width * share), 1), max(round(height * share), 1)), Image.Resampling.BILINEAR)


def cards(run: Workdir, one: Scored, animations: Animations) -> Markup:
    """Returns the videos that are surely wrong and the sample of right ones, each with its five best classes."""
    wrong, right = chosen(one)
    moving = animations.of_rows(run, [*wrong, *right])
    parts = []
    for title, rows in (("Most surely wrong", wrong), ("Named right, drawn at random", right)):
        parts.append(page.heading(f"{title}: {one.title}"))
        if not rows:
            parts.append(page.paragraph("There are none."))
            continue
        shown = [_card(one, row, moving.get(row)) for row in rows]
        parts.append(page.render("cards.html", cards=shown))
    return page.joined(parts)


def stop_button() -> Markup:
    """Returns the button that stops all animations of a page, and lets them go on."""
    button = (
        '<div class="tools"><button type="button" data-motion aria-pressed="false">Stop the animations</button></div>'
    )
    return Markup(button)


def _card(one: Scored, row: int, animation: Animation | None) -> dict:
    named = best(one.predictions.logits[row], one.classes, 5)
    picture = None
    if animation is not None:
        picture = {
            "moving": page.data_uri(animation.moving, "image/webp"),
            "still": page.data_uri(animation.still, "image/webp"),
            "width": animation.width,
            "height": animation.height,
        }
    label = one.classes[one.predictions.label[row]]
    return {"video": str(one.predictions.video[row]), "label": label, "named": named, "picture": picture}
