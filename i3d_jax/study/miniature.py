"""Miniature copies of the three datasets: drawn videos in the published layouts, prepared as the published ones are."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from i3d_jax import checkpoint, models
from i3d_jax.drawn.miniature_actions import ACTIONS, FRAME_RATE, draw
from i3d_jax.system import hosts, progress
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import make_folder, written_whole

SEED = 0
DRAWN = ("minikinetics", "ucf101", "hmdb51")
SPLITS = (1, 2, 3)
# Listed by the annotations of miniKinetics, which are Kinetics', and left out by its list of classes: never drawn.
_OTHER_ACTIONS = ("bouncing", "vanishing")
_KINETICS_LISTS = {"train": "train.csv", "val": "validate.csv"}
_STAND_IN_LABELS = ("first", "second")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is drawn.

    Attributes:
      train, validation: videos of each action of miniKinetics.
      groups: scenes of UCF-101 and of HMDB-51; every third is on the test list of a split.
      clips: videos of each action in a group.
      frames: of a video.
      short_side: pixels of the prepared frames.
      width_multiplier, last_block: of the image network that stands in for ImageNet's, as the recipes have them.
    """

    train: int = 32
    validation: int = 8
    groups: int = 9
    clips: int = 2
    frames: int = 20
    short_side: int = 36
    width_multiplier: float = 0.25
    last_block: str = "Mixed_3c"


@dataclasses.dataclass(frozen=True)
class _Video:
    path: str
    label: str
    scene: int
    take: int


def make(folder: Path, size: Size, *, prepare: Callable[[list[str]], int], write_video: Callable) -> dict[str, Path]:
    """Draws the datasets and prepares them with flow; done again, it does only what is missing.

    Args:
      folder: gets `videos/DATASET/`, the published layouts, and `DATASET/`, the prepared datasets.
      size: how much is drawn; a folder takes one size only.
      prepare: `i3d_jax.prepare.main`.
      write_video: `ingest.write_video.write_video`, which leaves a whole file or none.

    Returns:
      The prepared datasets by name.
    """
    _refuse_other_size(folder, size)
    layouts = dict(zip(DRAWN, (_minikinetics(size), _ucf101(size), _hmdb51(size)), strict=True))
    planned = [(name, video) for name, layout in layouts.items() for video in layout.videos]
    for name, video in progress.over(planned, "drawing", total=len(planned), unit="videos"):
        path = folder / "videos" / name / video.path
        if not path.exists():
            make_folder(path.parent)
            frames = draw(name, video.label, scene=video.scene, take=video.take, frames=size.frames, seed=SEED)
            write_video(path, frames, FRAME_RATE, codec="libx264" if path.suffix == ".mp4" else "mpeg4")
    for name, layout in layouts.items():
        for file, lines in layout.files.items():
            path = folder / "videos" / name / file
            make_folder(path.parent)
            with written_whole(path) as opened:
                opened.write("".join(f"{line}\n" for line in lines).encode())
        lists = folder / "videos" / name
        arguments = ["--dialect", layout.dialect, "--annotations", *(str(lists / one) for one in layout.annotations)]
        arguments += ["--videos", str(lists / layout.folder), "--output", str(folder / name), "--name", name]
        arguments += ["--short_side", str(size.short_side), "--flow", "tvl1"]
        arguments += ["--classes", str(lists / layout.classes)] if layout.classes else []
        # What it prints is no result of the study.
        with contextlib.redirect_stdout(sys.stderr):
            prepare(arguments)
    return {name: folder / name for name in layouts}


def _refuse_other_size(folder: Path, size: Size) -> None:
    path = folder / "size.txt"
    if path.is_file() and path.read_text() != f"{size}\n":
        raise UserError(f"{folder} holds miniature datasets of another size ({path}): choose another --output")
    make_folder(folder)
    with written_whole(path) as file:
        file.write(f"{size}\n".encode())


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """A dataset as it is published: its videos, the text of its lists, and what `prepare` is told of them."""

    videos: list[_Video]
    files: Mapping[str, list[str]]
    dialect: str
    annotations: tuple[str, ...]
    folder: str
    classes: str | None = None


def _minikinetics(size: Size) -> _Layout:
    """Kinetics' CSV files and the folders of ActivityNet's crawler, with a list of the classes that are wanted."""
    labels = (*ACTIONS["minikinetics"], *_OTHER_ACTIONS)
    videos, files = [], {"classes.txt": list(ACTIONS["minikinetics"])}
    scenes = iter(range(size.train + size.validation))
    for split, count in (("train", size.train), ("val", size.validation)):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for scene in itertools.islice(scenes, count):
            for number, label in enumerate(labels):
                identifier = f"drawn{number:02d}{scene:04d}"
                rows.append(f"{label},{identifier},0,1,{split}")
                if label not in _OTHER_ACTIONS:
                    videos.append(_Video(f"videos/{label}/{identifier}_000000_000001.mp4", label, scene, 0))
        files[_KINETICS_LISTS[split]] = rows
    return _Layout(
        videos=videos,
        files=files,
        dialect="kinetics",
        annotations=tuple(_KINETICS_LISTS.values()),
        folder="videos",
        classes="classes.txt",
    )


def _ucf101(size: Size) -> _Layout:
    """`v_CLASS_gGG_cCC.avi` in folders of the classes, and training and test lists of three splits."""
    videos = []
    lists: dict[str, list[str]] = {f"{half}list0{split}.txt": [] for split in SPLITS for half in ("train", "test")}
    for number, label in enumerate(ACTIONS["ucf101"], 1):
        for group, clip in itertools.product(range(size.groups), range(size.clips)):
            name = f"{label}/v_{label}_g{group + 1:02d}_c{clip + 1:02d}.avi"
            videos.append(_Video(f"UCF-101/{name}", label, group, clip))
            for split in SPLITS:
                tested = _tested(group, split)
                lists[f"{'test' if tested else 'train'}list0{split}.txt"].append(name if tested else f"{name} {number}")
    files = {f"ucfTrainTestlist/{name}": lines for name, lines in lists.items()}
    files["ucfTrainTestlist/classInd.txt"] = [f"{number} {label}" for number, label in enumerate(ACTIONS["ucf101"], 1)]
    return _Layout(videos=videos, files=files, dialect="ucf101", annotations=("ucfTrainTestlist",), folder="UCF-101")


def _hmdb51(size: Size) -> _Layout:
    """A file for each class and split that marks its videos 1 (training), 2 (test) or, of each class one, 0."""
    videos, files = [], {}
    lists = "testTrainMulti_7030_splits"
    for label in ACTIONS["hmdb51"]:
        names = {}
        for group, clip in itertools.product(range(size.groups), range(size.clips)):
            names[f"scene{group + 1:02d}_{label}_{clip}.avi"] = group
            videos.append(_Video(f"hmdb51/{label}/scene{group + 1:02d}_{label}_{clip}.avi", label, group, clip))
        for split in SPLITS:
            lines = [f"{name} {2 if _tested(group, split) else 1}" for name, group in names.items()]
            files[f"{lists}/{label}_test_split{split}.txt"] = [*lines, f"unused_{label}_0.avi 0"]
    return _Layout(videos=videos, files=files, dialect="hmdb51", annotations=(lists,), folder="hmdb51")


def _tested(group: int, split: int) -> bool:
    return group % len(SPLITS) == split - 1


def image_network(directory: Path, size: Size) -> Path:
    """Writes an image network of random weights, which stands in for ImageNet's; it knows nothing of images.

    Returns:
      The checkpoint directory; one that is whole is left alone.
    """
    if not hosts.by_first(lambda: checkpoint.is_whole(directory)):
        options = {"width_multiplier": size.width_multiplier, "last_block": size.last_block}
        model = models.create("inception_v1", num_classes=len(_STAND_IN_LABELS), **options)
        shapes = {
            stream: jax.ShapeDtypeStruct((1, *shape), np.float32) for stream, shape in model.example_shapes().items()
        }
        description = checkpoint.Description(
            model="inception_v1",
            options=options,
            num_classes=len(_STAND_IN_LABELS),
            labels=_STAND_IN_LABELS,
            preprocessing={"interpolation": "bilinear"},
            provenance={"weights": "random"},
        )
        checkpoint.save(directory, description, model.init(jax.random.key(SEED), shapes))
    return directory
