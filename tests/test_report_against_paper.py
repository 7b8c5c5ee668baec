"""Which published number a run stands against, by workdirs made by hand, and when it must not."""

from __future__ import annotations

import pytest
from helpers import workdirs

pytest.importorskip("jinja2", reason="the extra `report` is not installed")

from i3d_jax.report import against_paper, plots
from i3d_jax.report.run_page import page_of_workdirs
from i3d_jax.report.workdir import read

IMAGENET = {"init_from": "imagenet", "protocol": "original"}
UCF101 = {"dataset": "ucf101", "split": "train01"}
KINETICS = {"dataset": "kinetics400", "split": "train", "init_from": None, "protocol": None}


def run_of(folder, model="i3d", *, classes=101, split="test01", videos=3783, stream="rgb", **more):
    """A workdir of a network as the paper trained it; `more` are differences by name."""
    frames, stride, crop, extra = {
        "i3d": (250, 1, 224, {}),
        "c3d": (240, 1, 112, {"network_short_side": 128}),
        "conv_lstm": (50, 5, 224, {}),
        "two_stream": (25, 10, 224, {}),
    }[model]
    figures = {"frames": frames, "stride": stride, "protocol": "whole_video", "windows": 1, "videos": videos}
    figures |= {"crops": 1, "average": "logits", **more.get("figures", {})}
    options = {"width_multiplier": 1.0, **more.get("options", {})}
    if model in ("i3d", "two_stream"):
        options["stream"] = stream
    workdirs.leave_figures(folder, split, figures)
    workdirs.leave_checkpoint(
        folder,
        model=model,
        options=options,
        num_classes=classes,
        preprocessing={"frame_rate": 25.0, "short_side": 256, "crop": crop, **extra, **more.get("pixels", {})},
        provenance={**UCF101, **IMAGENET, **more.get("provenance", {})},
    )
    return read(folder, folder.name)


# The numbers are those of the paper, as the project's reference has them.
@pytest.mark.parametrize(
    ("number", "model", "more"),
    [
        (84.5, "i3d", {}),
        (90.6, "i3d", {"stream": "flow"}),
        (49.8, "i3d", {"classes": 51, "videos": 1530, "provenance": {"dataset": "HMDB-51"}}),
        (81.0, "conv_lstm", {}),
        (51.6, "c3d", {"provenance": {"init_from": None}}),
        (91.2, "two_stream", {"stream": "both"}),
        (83.6, "two_stream", {}),
        (68.4, "i3d", {"classes": 400, "split": "val", "videos": 19906, "provenance": KINETICS}),
        (61.5, "i3d", {"classes": 400, "split": "test", "videos": 39805, "stream": "flow", "provenance": KINETICS}),
        (71.1, "i3d", {"classes": 400, "split": "val", "videos": 19906, "provenance": {**KINETICS, **IMAGENET}}),
        (74.1, "i3d", {"classes": 213, "split": "val", "provenance": {"dataset": "minikinetics", "split": "train"}}),
        (83.6, "two_stream", {"stream": "both", "provenance": {"init_from": None}}),
    ],
)
def test_the_published_number(tmp_path, number, model, more):
    found = against_paper.of_runs([run_of(tmp_path / "run", model, **more)])
    assert found is not None
    assert (found.top1, found.differs) == (pytest.approx(number / 100), ())


@pytest.mark.parametrize(
    ("clause", "more"),
    [
        ("scored on 'test02', the paper's is of 'test01'", {"split": "test02", "videos": 3734}),
        ("trained on 'train02', the paper's on 'train01'", {"provenance": {"split": "train02"}}),
        ("scored by dense: all frames of each video at once, ", {"figures": {"protocol": "dense"}}),
        (
            "scored by windows: 10 windows of 64 frames, 3 crops, ",
            {"figures": dict(protocol="windows", frames=64, windows=10, crops=3)},
        ),
        ("scored by whole_video: 1 window of 64 frames, ", {"figures": {"frames": 64}}),
        ("crop 160, the paper's 224", {"pixels": {"crop": 160}}),
        ("short side 128, the paper's 256", {"pixels": {"short_side": 128}}),
        ("scored on 200 of the split's 3,783 videos", {"videos": 200}),
    ],
)
def test_what_does_not_compare_says_why(tmp_path, clause, more):
    found = against_paper.of_runs([run_of(tmp_path / "run", **more)])
    assert found is not None
    assert len(found.differs) == 1
    assert found.differs[0].startswith(clause)


@pytest.mark.parametrize(
    "more",
    [
        {"options": {"width_multiplier": 0.25}},
        {"options": {"last_block": "Mixed_4f"}},
        {"classes": 100},
        {"provenance": {"dataset": "mine"}},
        # One stream alone from scratch, and what a network started from that is gone.
        {"provenance": {"init_from": None}},
        {"provenance": {"init_from": "gone", "protocol": "full"}},
    ],
)
def test_others_have_no_published_number(tmp_path, more):
    assert against_paper.of_runs([run_of(tmp_path / "run", **more)]) is None


def test_both_streams_have_their_own(tmp_path):
    runs = [run_of(tmp_path / stream, stream=stream) for stream in ("rgb", "flow")]
    found = against_paper.of_runs(runs)
    assert found is not None
    assert found.top1 == pytest.approx(0.934)
    other = run_of(tmp_path / "other", stream="flow", split="test02", videos=3734)
    assert "'test02'" in against_paper.of_runs([runs[0], other]).differs[0]
    scratch = run_of(tmp_path / "scratch", stream="flow", provenance={"init_from": None})
    assert against_paper.of_runs([runs[0], scratch]) is None


def test_transfer_is_told_by_what_a_network_started_from(tmp_path):
    source = tmp_path / "kinetics"
    run_of(source, "c3d", classes=400, split="val", videos=19906, provenance=KINETICS)
    for kind, number in (("fixed", 76.0), ("full", 79.9)):
        own = run_of(tmp_path / kind, "c3d", provenance={"init_from": str(source), "protocol": kind})
        assert against_paper.of_runs([own]).top1 == pytest.approx(number / 100)
    source = tmp_path / "minikinetics"
    run_of(source, "conv_lstm", classes=213, split="val", provenance={"dataset": "minikinetics", "split": "train"})
    own = run_of(tmp_path / "lstm", "conv_lstm", provenance={"init_from": str(source), "protocol": "fixed"})
    assert against_paper.of_runs([own]).top1 == pytest.approx(0.816)


def test_the_page_shows_the_difference_only_where_they_compare(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "bundle", lambda: "")
    run_of(tmp_path / "split1")
    text = page_of_workdirs([tmp_path / "split1"])
    assert "published: 84.5%, here −4.5 points; it lies outside of the interval" in text
    assert '<s style="left:84.5%">' in text
    run_of(tmp_path / "split2", split="test02", videos=3734)
    text = page_of_workdirs([tmp_path / "split2"])
    assert "published: 84.5%<" in text
    assert "Not compared: scored on &#39;test02&#39;, the paper&#39;s is of &#39;test01&#39;" in text
    assert "here −" not in text
    assert "<s style" not in text
