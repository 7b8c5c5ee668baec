"""The page of a study, by folders made by hand: what is measured, what is missing, and what it cannot be."""

from __future__ import annotations

import re

import pytest
from helpers import studies

from i3d_jax.report import __main__ as report
from i3d_jax.study import __main__ as command
from i3d_jax.study import state, table
from i3d_jax.study.plan import cells
from i3d_jax.system.errors import UserError

pytest.importorskip("jinja2", reason="the extra `report` is not installed")

from i3d_jax.study.page import page_of_study


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    return studies.leave_study(tmp_path_factory.mktemp("study"))


def outcome(output, row, column, table_name="accuracy"):
    cell = next(one for one in cells(table_name, [1]) if (one.row, one.column) == (row, column))
    return next(one for one in state.of_tables(output)[0] if one.filled.cell == cell)


def test_cells_by_hand(unfinished):
    c3d = outcome(unfinished, "c3d", "ucf101/rgb")
    assert (round(c3d.filled.value, 6), c3d.interval) == (62.0, (48.0, 76.0))
    # Neither stream alone has two of the three.
    assert outcome(unfinished, "i3d", "ucf101/rgb+flow").filled.value == pytest.approx(200 / 3)
    under_way, nothing = (outcome(unfinished, row, "hmdb51/rgb").filled for row in ("c3d", "fused"))
    assert (under_way.value, under_way.reason) == (None, "hmdb51-c3d-split1 under way")
    assert (nothing.value, nothing.reason) == (None, "not begun")


def test_only_tables_that_were_begun_are_shown(unfinished, tmp_path):
    """The runs that the tables share are the first one's."""
    assert {one.filled.cell.table for one in state.of_tables(unfinished)[0]} == {"accuracy"}
    studies.leave_run(tmp_path, "ucf101-c3d_full-split1", top1=0.8, interval=[0.7, 0.9])
    assert {one.filled.cell.table for one in state.of_tables(tmp_path)[0]} == {"transfer"}


def test_the_page_says_it(unfinished):
    text = page_of_study(unfinished)
    # Published: 51.6 of the 3D-ConvNet on UCF-101, within 48 to 76; 84.5 and 90.6 of the streams, outside of theirs.
    assert re.search(r"62\.0</b>.*?48\.0–76\.0.*?paper 51\.6</small>\s*<small class=\"\">\+10\.4", text, re.DOTALL)
    assert re.search(r'paper 84\.5</small>\s*<small class="down">−51\.2', text)
    assert 'href="runs/ucf101-c3d-split1/report.html"' in text
    assert "runs/ucf101-i3d_rgb-split1/report.html" not in text
    assert "hmdb51-c3d-split1: step 40 of 100" in text
    # 33 cells of 30 runs.
    assert "4 of 33" in text
    assert "3 of 30 runs are finished" in text


def test_a_dagger_and_narrow_networks_are_noted(tmp_path, unfinished):
    assert "found in one source only" not in page_of_study(unfinished)
    assert "fewer channels" not in page_of_study(unfinished)
    studies.leave_run(
        tmp_path, "kinetics-conv_lstm-from_scratch", top1=0.5, interval=[0.4, 0.6], split="val", width=0.25
    )
    text = page_of_study(tmp_path)
    assert "paper 53.9†" in text
    assert "found in one source only" in text
    assert "fewer channels" in text
    # Neither a median difference nor how many lie within the interval.
    assert text.count('<p class="figure">–</p>') == 2


def test_what_was_filled_stays_without_its_runs_and_a_failure_keeps_its_reason(tmp_path):
    rgb = [one for one in cells("accuracy", [1]) if one.row == "c3d"]
    failed = table.Filled(rgb[1], reason="<b>the loss</b> of step 3 is nan")
    (tmp_path / "table.csv").write_text(table.as_csv([table.Filled(rgb[0], 60.0), failed]))
    assert outcome(tmp_path, "c3d", "ucf101/rgb").filled.value == 60.0
    text = page_of_study(tmp_path)
    assert "[1] &lt;b&gt;the loss&lt;/b&gt; of step 3 is nan" in text
    assert "<b>the loss" not in text


def test_a_run_that_cannot_be_read_is_told(tmp_path):
    studies.leave_run(tmp_path, "ucf101-c3d-split1", top1=0.6, interval=[0.5, 0.7])
    (tmp_path / "runs/ucf101-c3d-split1/results.json").write_text("{")
    assert "ucf101-c3d-split1 cannot be read" in outcome(tmp_path, "c3d", "ucf101/rgb").filled.reason


def test_the_command_writes_it_into_the_folder(unfinished, tmp_path):
    report.main(["--study", str(unfinished)])
    assert "The paper" in (unfinished / "report.html").read_text()
    with pytest.raises(UserError, match=r"a study was expected in .*, with table\.csv or runs/; found neither"):
        report.main(["--study", str(tmp_path / "nowhere"), "--output", str(tmp_path / "report.html")])
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_fails_leaves_a_study_finished(tmp_path, capsys):
    command._write_page(tmp_path)
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path / 'report.html'} could not be written: a study was")
    assert not (tmp_path / "report.html").exists()
