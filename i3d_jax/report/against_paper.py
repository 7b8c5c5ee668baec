"""The published number that a run's accuracy stands against, and what was otherwise than in the paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from i3d_jax.checkpoint import Description, find
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.evaluation import protocol
from i3d_jax.ingest.published_counts import SPECS, VALIDATION_NAMES
from i3d_jax.models import MODELS
from i3d_jax.report.workdir import Workdir
from i3d_jax.study import plan, published
from i3d_jax.system.errors import UserError
from i3d_jax.training import transfer

# By the name of a dataset, its letters and digits alone: the groups of `published` and its number of classes.
_DATASETS = {
    "kinetics": ("kinetics", 400),
    "kinetics400": ("kinetics", 400),
    "ucf101": ("ucf101", 101),
    "hmdb51": ("hmdb51", 51),
    "minikinetics": ("minikinetics", 213),
}
_IMAGENET = "imagenet"
# What the release's networks were trained on, the last first, by the end of their names.
_RELEASED = {"rgb_imagenet": ["kinetics", _IMAGENET], "flow_imagenet": ["kinetics", _IMAGENET]}
_RELEASED |= {"rgb_scratch": ["kinetics"], "flow_scratch": ["kinetics"]}
# Options that make another network than the paper's.
_OPTIONS = ("width_multiplier", "last_block", "stem_padding", "temporal_padding", "batch_norm_gain", "frame_size")
# Of a split's videos: fewer are another measurement (a run stops at as many damaged ones, `data.max_damaged_share`).
_LEAST_SHARE = 0.95


@dataclasses.dataclass(frozen=True)
class Published:
    """A published top-1 of what runs trained.

    Attributes:
      top1: 0 to 1.
      source: the table that has it, and what it is of.
      differs: what was otherwise in the paper, a clause each: then the two numbers do not compare.
    """

    top1: float
    source: str
    differs: tuple[str, ...]


def of_runs(runs: Sequence[Workdir]) -> Published | None:
    """Returns the published top-1 of a run, or of the sum of two; None where the paper has no such network.

    Drawn videos, networks that are not the paper's (narrow ones, other blocks), other numbers of classes and other
    sources of weights have none.
    """
    stream = "rgb+flow" if len(runs) > 1 else runs[0].stream or "rgb+flow"
    if len(runs) > 1 and any(one.description is None or one.description.model != "i3d" for one in runs):
        return None
    places = {_place(one, stream) for one in runs}
    place = places.pop()
    if places or place is None:
        return None
    table, row, column = place
    number = published.numbers(table).get((row, column))
    if number is None:
        return None
    # Numbers of Kinetics are of its test split (the release's README); most who have it score the validation split.
    source = published.TITLES[table] + (", of the test split" if table == "kinetics" else "")
    source += published.ONE_SOURCE if published.of_one_source(table, row, column) else ""
    differs = dict.fromkeys(clause for one in runs for clause in _differences(one))
    return Published(number / 100, source, tuple(differs))


def _place(run: Workdir, stream: str) -> tuple[str, str, str] | None:
    """Returns the table, the row and the column that a run fills, with its stream or the sum of both."""
    if run.description is None or run.recipe.get("data.synthetic_videos_per_action"):
        return None
    row = "i3d" if run.description.model == "two_stream_i3d" else run.description.model
    history = _history(run.description)
    if row not in published.ARCHITECTURES or not history:
        return None
    group, *before = history
    from_imagenet = _IMAGENET in before
    sources = [one for one in before if one != _IMAGENET]
    alone = row in plan.FROM_SCRATCH
    if alone and from_imagenet:
        return None
    if group == "kinetics":
        column = f"{'imagenet' if from_imagenet else 'scratch'}/{stream}"
        return None if sources else ("kinetics", row, column)
    if not sources and (from_imagenet or alone):
        return "accuracy", row, f"{group}/{stream}"
    # What is left are tables of transfer, which have the whole network alone.
    if stream != ("rgb" if row in plan.ONLY_RGB else "rgb+flow"):
        return None
    if not sources:
        return "transfer_from_kinetics", row, f"{group}_scratch/original"
    # Without a protocol everything is trained, from whatever network: that is "full".
    kind = run.description.provenance.get("protocol") or transfer.FULL
    if sources == ["minikinetics"] and (from_imagenet or alone):
        return "transfer", row, f"{group}/{kind}"
    if sources == ["kinetics"]:
        return "transfer_from_kinetics", row, f"{group}{'' if from_imagenet else '_scratch'}/{kind}"
    return None


def _history(description: Description, depth: int = 3) -> list[str] | None:
    """What a network was trained on, the last first: groups of `published`, "imagenet"; None where it cannot be told.

    What a run started from is read where it still stands.
    """
    provenance = description.provenance
    if description.model == "inception_v1":
        return [_IMAGENET]
    if provenance.get("release") in _RELEASED:
        return _RELEASED[provenance["release"]]
    name = "".join(filter(str.isalnum, str(provenance.get("dataset", "")).lower()))
    group, classes = _DATASETS.get(name, ("", 0))
    if description.num_classes != classes or not _is_papers(description):
        return None
    source = provenance.get("init_from")
    if source is None:
        return [group]
    if provenance.get("protocol") == transfer.ORIGINAL:
        return [group, _IMAGENET]
    try:
        before = _history(Description.read(find(str(source))), depth - 1) if depth else None
    except UserError:
        return None
    return None if before is None else [group, *before]


def _is_papers(description: Description) -> bool:
    known = MODELS.get(description.model)
    fields = {} if known is None else {field.name: field.default for field in dataclasses.fields(known)}
    options = {name: description.options.get(name, fields[name]) for name in _OPTIONS if name in fields}
    return bool(fields) and all(value == fields[name] for name, value in options.items())


def _differences(run: Workdir) -> list[str]:
    """What of a run's evaluation is otherwise than in the paper."""
    assert run.description is not None
    provenance, stored = run.description.provenance, run.description.preprocessing
    name = "".join(filter(str.isalnum, str(provenance.get("dataset", "")).lower()))
    group = _DATASETS.get(name, ("kinetics", 0))[0]
    clip = MODELS[run.description.model].test_clip
    found = _of_split(group, str(run.split), provenance.get("split"), run.figures.get("videos"))
    papers = {"protocol": protocol.WHOLE_VIDEO, "stride": clip.stride, "frames": clip.frames, "windows": 1}
    papers |= {"crops": 1, "average": protocol.LOGITS}
    described = run.protocol
    if described is None:
        found.append("how the videos were scored is not recorded")
    elif any(described.get(key) != value for key, value in papers.items()):
        found.append(f"scored by {protocol.text(described)}, the paper's by {protocol.text(papers)}")
    pixels: dict[str, Any] = {"crop": clip.size, "frame_rate": Preprocessing().frame_rate}
    pixels |= {"short_side": Preprocessing().short_side, "network_short_side": clip.short_side}
    found += [
        f"{key.replace('_', ' ')} {stored.get(key)}, the paper's {value}"
        for key, value in pixels.items()
        if stored.get(key) != value
    ]
    return found


def _of_split(group: str, split: str, trained: Any, videos: Any) -> list[str]:
    wanted: tuple[str, ...] = ("test", *VALIDATION_NAMES) if group == "kinetics" else VALIDATION_NAMES
    training = "train"
    if group in plan.SPLIT_DATASETS:
        wanted, training = ("test01",), "train01"
    found = []
    if split not in wanted:
        found.append(f"scored on {split!r}, the paper's is of {wanted[0]!r}")
    if trained is not None and trained != training:
        found.append(f"trained on {trained!r}, the paper's on {training!r}")
    spec = SPECS.get("kinetics400" if group == "kinetics" else group)
    count = None if spec is None else spec.published(split)
    if count and isinstance(videos, int) and videos < _LEAST_SHARE * count:
        found.append(f"scored on {videos:,} of the split's {count:,} videos")
    return found
