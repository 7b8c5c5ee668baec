"""Which runs fill the tables, and the tables: by hand, and by what the published numbers say of each other."""

from __future__ import annotations

import csv
import io
import re

import pytest

from i3d_jax.study import __main__ as command
from i3d_jax.study import published, table
from i3d_jax.study.plan import PlannedRun, cells, chosen, runs, with_sources
from i3d_jax.system.errors import UserError


def names(found):
    return [run.name for run in found]


def cell(table_name, row, column, splits=(1,)):
    return next(one for one in cells(table_name, splits) if (one.row, one.column) == (row, column))


def test_every_cell_of_the_tables_is_there_and_no_other():
    # (a) and (b) see RGB alone; (b) is from scratch alone, (a) has no flow.
    assert {name: len(cells(name, [1])) for name in published.TITLES} == {
        "accuracy": 33,
        "transfer": 40,
        "kinetics": 21,
        "transfer_from_kinetics": 54,
    }
    for name in published.TITLES:
        assert set(published.numbers(name)) <= {(one.row, one.column) for one in cells(name, [1])}
    assert cell("accuracy", "fused", "hmdb51/rgb+flow").published == 56.8
    assert cell("transfer", "i3d", "ucf101/full").published == 96.5
    assert cell("kinetics", "i3d", "scratch/flow").published == 61.5
    assert cell("kinetics", "c3d", "scratch/rgb").published == 56.1
    assert cell("kinetics", "fused", "scratch/rgb").published is None
    # Of the facts on I3D, with and without ImageNet.
    facts = {"original": (93.4, 88.8, 66.4, 62.2), "fixed": (97.7, 97.4, 79.7, 78.6), "full": (98.0, 97.6, 81.2, 81.3)}
    for kind, numbers in facts.items():
        for group, number in zip(published.GROUPS["transfer_from_kinetics"], numbers, strict=True):
            assert cell("transfer_from_kinetics", "i3d", f"{group}/{kind}").published == number
            assert not published.of_one_source("transfer_from_kinetics", "i3d", f"{group}/{kind}")


def test_published_numbers_that_stand_in_two_tables_are_the_same():
    accuracy, kinetics = published.numbers("accuracy"), published.numbers("transfer_from_kinetics")
    for row in published.ARCHITECTURES:
        for dataset in ("ucf101", "hmdb51"):
            group, stream = (f"{dataset}_scratch" if row == "c3d" else dataset), "rgb+flow"
            stream = "rgb" if row in ("conv_lstm", "c3d") else stream
            assert kinetics[row, f"{group}/original"] == accuracy[row, f"{dataset}/{stream}"]
            assert not published.of_one_source("transfer_from_kinetics", row, f"{group}/original")
    # ImageNet, Kinetics and fine-tuning each help: but for two numbers of Two-Stream and I3D on HMDB-51.
    for row in ("conv_lstm", "fused"):
        for dataset in ("ucf101", "hmdb51"):
            for kind in ("original", "fixed", "full"):
                assert kinetics[row, f"{dataset}/{kind}"] > kinetics[row, f"{dataset}_scratch/{kind}"]


def test_the_runs_of_a_cell_by_hand():
    assert names(runs([cell("accuracy", "i3d", "hmdb51/rgb+flow")])) == [
        "hmdb51-i3d_rgb-split1",
        "hmdb51-i3d_flow-split1",
    ]
    assert names(runs([cell("accuracy", "two_stream", "minikinetics/rgb+flow")])) == ["minikinetics-two_stream"]
    assert names(runs([cell("transfer", "i3d", "ucf101/fixed", (1, 3))])) == [
        "minikinetics-i3d_rgb",
        "ucf101-i3d_rgb_fixed-split1",
        "minikinetics-i3d_flow",
        "ucf101-i3d_flow_fixed-split1",
        "ucf101-i3d_rgb_fixed-split3",
        "ucf101-i3d_flow_fixed-split3",
    ]
    # From Kinetics each is there twice, and nothing of one is taken for the other.
    scratch = names(runs([cell("transfer_from_kinetics", "fused", "ucf101_scratch/fixed", (2,))]))
    assert scratch == ["kinetics-fused-from_scratch", "ucf101-fused_fixed-split2-from_kinetics-from_scratch"]
    [original] = runs([cell("transfer_from_kinetics", "fused", "hmdb51_scratch/original")])
    assert (original.name, original.start) == ("hmdb51-fused-split1-from_scratch", None)
    imagenet = names(runs([cell("transfer_from_kinetics", "i3d", "hmdb51/full")]))
    assert imagenet[:2] == ["kinetics-i3d_rgb-from_imagenet", "hmdb51-i3d_rgb_full-split1-from_kinetics"]
    # The modality of the slides: RGB for (a) and (b), both streams in one network for (c) and (d).
    assert names(runs([cell("transfer", "c3d", "ucf101/full")])) == ["minikinetics-c3d", "ucf101-c3d_full-split1"]
    assert names(runs([cell("transfer", "fused", "hmdb51/original")])) == ["hmdb51-fused-split1"]
    both = cells("kinetics", [1])
    assert {(run.name, run.start) for run in runs(both) if run.variant == "i3d_flow"} == {
        ("kinetics-i3d_flow-from_imagenet", "imagenet"),
        ("kinetics-i3d_flow-from_scratch", None),
    }
    # From ImageNet, but for the 3D-ConvNet.
    assert {run.variant for run in runs(cells("accuracy", [1])) if run.start is None} == {"c3d"}


def test_each_run_once_behind_what_it_starts_from():
    everything = [one for name in published.TITLES for one in cells(name, [1, 2, 3])]
    ordered = runs(everything)
    # Ten networks and six that are transferred twice, on two datasets of three splits; ten on miniKinetics; on Kinetics
    # ten, all but one from ImageNet too. From Kinetics the six are transferred twice, and all but one so without
    # ImageNet, and trained without it.
    assert len(ordered) == (10 + 6 * 2) * 2 * 3 + 10 + 10 + 9 + (6 * 2 + 5 * 2 + 5) * 2 * 3
    assert len(set(names(ordered))) == len(ordered)
    for position, run in enumerate(ordered):
        if isinstance(run.start, PlannedRun):
            assert ordered.index(run.start) < position
            assert run.variant in (f"{run.start.variant}_fixed", f"{run.start.variant}_full")
    with_flow = {run.variant for run in ordered if run.needs_flow}
    assert {"i3d_flow", "two_stream", "two_stream_flow", "fused_fixed", "i3d_flow_full"} <= with_flow
    assert not with_flow & {"i3d_rgb", "i3d_rgb_fixed", "two_stream_rgb", "fused_rgb", "c3d_full", "conv_lstm"}


def test_rows_and_columns_choose_cells():
    found = chosen(["accuracy", "transfer"], [1], rows=["i3d"], columns=["ucf101/rgb", "hmdb51"])
    assert [(one.table, one.column) for one in found] == [
        ("accuracy", "ucf101/rgb"),
        ("accuracy", "hmdb51/rgb"),
        ("accuracy", "hmdb51/flow"),
        ("accuracy", "hmdb51/rgb+flow"),
        ("transfer", "hmdb51/original"),
        ("transfer", "hmdb51/fixed"),
        ("transfer", "hmdb51/full"),
        ("transfer", "hmdb51/reduction"),
    ]
    reduction = chosen(["transfer"], [1], rows=["c3d"], columns=["ucf101/reduction"])
    assert len(reduction) == 1
    assert names(runs(with_sources(reduction, [1]))) == [
        "ucf101-c3d-split1",
        "minikinetics-c3d",
        "ucf101-c3d_fixed-split1",
        "ucf101-c3d_full-split1",
    ]


def test_the_published_reductions_follow_from_the_published_accuracies():
    """But for the rounding of the accuracies, and of the reductions."""
    needed = cells("transfer", [1])
    filled = table.fill(needed, {one: one.published for one in needed if one.sums})
    found = [one for one in filled if one.cell.from_cells]
    assert len(found) == 10
    for one in found:
        assert one.value == pytest.approx(one.cell.published, abs=0.6), one.cell


@pytest.fixture
def filled():
    """Two rows; one run of the second has failed."""
    needed = with_sources(chosen(["transfer"], [1, 2], rows=["c3d", "fused"], columns=["ucf101"]), [1, 2])
    values = {"original": 50.0, "fixed": 60.0, "full": 70.0}
    measured = {one: values[one.column.partition("/")[2]] for one in needed if one.sums}
    measured[cell("transfer", "fused", "ucf101/fixed", (1, 2))] = "the loss of step 3 is nan"
    return table.fill(needed, measured)


def test_text(filled):
    title, head, first, second, _, *notes = table.as_text(filled).splitlines()
    assert "UCF-101" in title
    assert head.split() == ["Original", "Fixed", "Full-FT", "Δ", "error"]
    # The error falls from 50 to 30.
    assert re.sub(" +", " ", first) == " (b) 3D-ConvNet 50.0 | 49.2 60.0 | 76.0 70.0 | 79.9 -40.0 | -60.5"
    assert re.sub(" +", " ", second) == " (d) 3D-Fused Two-Stream 50.0 | 89.3 [1] | 88.5 70.0 | 90.1 [2] | -7.5"
    assert notes == ["[1] the loss of step 3 is nan", "[2] ucf101/fixed is missing: the loss of step 3 is nan"]


def test_a_published_number_of_one_source_is_marked():
    needed = [cell("transfer_from_kinetics", "fused", f"ucf101/{kind}") for kind in ("original", "fixed")]
    filled = table.fill(needed, {one: 50.0 for one in needed})
    *_, row, _, note = table.as_text(filled).splitlines()
    assert re.sub(" +", " ", row) == " (d) 3D-Fused Two-Stream 50.0 | 89.3 50.0 | 94.3†"
    *_, line, _, noted = table.as_markdown(filled, heading="Title").splitlines()
    assert line == "| (d) 3D-Fused Two-Stream | 50.0 (89.3) | 50.0 (94.3†) |"
    assert note == noted == "† published, and found in one source only"
    assert list(csv.DictReader(io.StringIO(table.as_csv(filled))))[1]["published"] == "94.3000"


def test_markdown(filled):
    lines = table.as_markdown(filled, heading="Title").splitlines()
    assert "| (b) 3D-ConvNet | 50.0 (49.2) | 60.0 (76.0) | 70.0 (79.9) | -40.0 (-60.5) |" in lines
    assert "| (d) 3D-Fused Two-Stream | 50.0 (89.3) | none (1) (88.5) | 70.0 (90.1) | none (2) (-7.5) |" in lines
    assert "- none (1): the loss of step 3 is nan" in lines


def test_csv(filled):
    rows = {(row["row"], row["column"]): row for row in csv.DictReader(io.StringIO(table.as_csv(filled)))}
    assert len(rows) == 8
    good = rows["c3d", "ucf101/full"]
    assert [float(good[name]) for name in ("value", "published", "difference")] == pytest.approx([70, 79.9, -9.9])
    assert good["runs"] == "minikinetics-c3d ucf101-c3d_full-split1 ucf101-c3d_full-split2"
    assert good["splits"] == "1 2"
    bad = rows["fused", "ucf101/fixed"]
    assert (bad["value"], bad["difference"], bad["reason"]) == ("", "", "the loss of step 3 is nan")
    assert "ucf101-c3d-split1" in rows["c3d", "ucf101/reduction"]["runs"]


def test_no_error_to_reduce():
    needed = chosen(["transfer"], [1], rows=["c3d"], columns=["ucf101"])
    filled = table.fill(needed, {one: 100.0 for one in needed if one.sums})
    assert filled[-1].value is None
    assert "no error" in filled[-1].reason


def test_means_over_other_splits_are_not_compared():
    """One command filled the first cells of split 1 alone, another one the last of all three."""
    columns = ("original", "fixed", "full", "reduction")
    one = [cell("transfer", "c3d", f"ucf101/{name}") for name in columns]
    of_three = cell("transfer", "c3d", "ucf101/full", (1, 2, 3))
    first = table.fill(one, dict(zip(one[:3], (50.0, 60.0, 70.0), strict=True)))
    assert first[3].value == pytest.approx(-40)
    *_, reduction = table.merge(first, table.fill([of_three], {of_three: 80.0}))
    assert reduction.value is None
    assert reduction.reason == (
        "its cells are means over other splits: ucf101/original of 1, ucf101/fixed of 1, ucf101/full of 1 2 3"
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--table", "accuracy", "--rows", "i4d"], r"no row 'i4d' \(did you mean 'i3d'\?\)"),
        (["--table", "accuracy", "--columns", "ucf/rgb"], r"no column 'ucf/rgb' \(did you mean 'ucf101/rgb'\?\)"),
        (["--table", "accuracy", "--rows", "c3d", "--columns", "ucf101/flow"], "no network is trained for"),
        (["--table", "accuracy", "--config.data.directory=x"], "is another in every run"),
        (["--table", "accuracy", "--split", "2"], "unknown argument '--split'"),
        ([], "expected --table"),
        (["--table", "transfer", "--columns", "hmdb51"], "need hmdb51, for .* expected --hmdb51 DIR"),
        (["--table", "accuracy", "--columns", "ucf101", "--ucf101", "nowhere"], "expected at nowhere, found nothing"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, more, words):
    with pytest.raises(UserError, match=words):
        command.main([*more, "--output", str(tmp_path / "study")])
    assert not (tmp_path / "study").exists()


def test_a_dry_run_lists_the_commands(tmp_path, capsys):
    choice = ["--table", "transfer", "--rows", "i3d", "--columns", "hmdb51/full", "--splits", "2"]
    assert command.main([*choice, "--config.batch_size=48", "--output", str(tmp_path / "study"), "--dry_run"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "HMDB51, MINIKINETICS, IMAGENET stand for folders that were not named\n"
    lines = printed.out.splitlines()
    assert [line.split()[4] for line in lines] == [
        "experiments/minikinetics.py:i3d_rgb",
        "experiments/hmdb51.py:i3d_rgb_full",
        "experiments/minikinetics.py:i3d_flow",
        "experiments/hmdb51.py:i3d_flow_full",
    ]
    assert "--config.data.directory=MINIKINETICS --config.init_from=IMAGENET" in lines[0]
    assert lines[0].endswith(" --config.batch_size=48")
    assert "--config.data.directory=HMDB51 --config.data.train_split=train02" in lines[1]
    assert "/runs/minikinetics-i3d_rgb/checkpoints/110000" in lines[1]
    assert not (tmp_path / "study").exists()


def test_a_dry_run_prints_nothing_that_would_not_run(tmp_path, capsys):
    choice = ["--table", "transfer", "--rows", "c3d", "--columns", "hmdb51/full", "--output", str(tmp_path / "study")]
    with pytest.raises(UserError, match=r"no key 'batchsize' \(did you mean 'batch_size'\?\)"):
        command.main([*choice, "--config.batchsize=48", "--dry_run"])
    for flag in ("--hmdb51", "--imagenet"):
        with pytest.raises(UserError, match="nowhere"):
            command.main([*choice, "--rows", "i3d", flag, "nowhere", "--dry_run"])
    assert capsys.readouterr() == ("", "")
    assert command.main([*choice, "--miniature", "--dry_run"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"--config.data.directory={tmp_path / 'study' / 'datasets' / 'hmdb51'}" in printed.out


def test_a_table_keeps_what_was_filled_before(tmp_path):
    """By hand: of an original error of 50 the better of 40 and 30 takes 40%; then of one of 60 half."""
    asked = [cell("transfer", "i3d", f"ucf101/{column}") for column in ("original", "fixed", "full", "reduction")]
    first = table.fill(asked, dict(zip(asked[:3], (50.0, 60.0, 70.0), strict=True)))
    other = table.fill(
        [cell("accuracy", "c3d", "ucf101/rgb", (1, 3))], {cell("accuracy", "c3d", "ucf101/rgb", (1, 3)): "lost"}
    )
    path = tmp_path / "table.csv"
    assert table.from_csv(path) == []
    path.write_text(table.as_csv(table.merge(table.merge([], first), other)))
    again = table.fill(asked[:1], {asked[0]: 40.0})
    found = table.merge(table.from_csv(path), again)
    assert [(one.cell.column, one.value and round(one.value, 4), one.reason) for one in found] == [
        ("ucf101/rgb", None, "lost"),
        ("ucf101/original", 40.0, None),
        ("ucf101/fixed", 60.0, None),
        ("ucf101/full", 70.0, None),
        ("ucf101/reduction", -50.0, None),
    ]
    assert found[0].cell.sums == other[0].cell.sums
    path.write_text("table,row\naccuracy,c3d\n")
    with pytest.raises(UserError, match=r"table\.csv cannot be read as the table of a study"):
        table.from_csv(path)
