"""The tutorial notebook runs from top to bottom, and what is stored of it is whole and small."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers import forked
from helpers.pages import ROOT

nbformat = pytest.importorskip("nbformat", reason="the extra notebook is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra notebook is not installed")
pytest.importorskip("ipykernel", reason="the extra notebook is not installed")
pytest.importorskip("matplotlib", reason="the extra notebook is not installed")

TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
# In place of the cell of that tag: so little that every cell has what it needs. What is stored shows that more learns.
STEPS = 10
PARAMETERS = f"VIDEOS_PER_ACTION = 4\nSTEPS = {STEPS}\nWIDTH = 0.0625\n"


@pytest.fixture
def notebook():
    return nbformat.read(TUTORIAL, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook) -> str:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.long
def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    from traitlets.config import Config

    for name, value in forked.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert re.findall(r"^\w+ =", parameters.source, re.MULTILINE) == re.findall(r"^\w+ =", PARAMETERS, re.MULTILINE)
    parameters.source = PARAMETERS
    client = nbclient.NotebookClient(
        notebook,
        # By sockets in its own folder: no port is opened.
        config=Config({"KernelManager": {"transport": "ipc", "ip": str(tmp_path / "k")}}),
        timeout=600,
        resources={"metadata": {"path": str(tmp_path)}},
        coalesce_streams=True,
    )
    # A cell that fails, and a command in one, is a `CellExecutionError`.
    client.execute()
    rows = [json.loads(line) for line in (tmp_path / "tutorial/run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == [STEPS]
    videos = 4 * 4
    text = printed(notebook)
    assert re.search(rf"top-1 [\d.]+% \(.*\) of {videos} videos; by chance 25\.0%", text)
    assert f"features: ({videos}, 64)" in text
    assert "\r" not in text
    # The run's own page, and the one with the timeline in its place.
    assert "run/report.html" in text
    assert "What happens when in long.mp4" in (tmp_path / "tutorial/run/report.html").read_text()


def test_what_is_stored_was_run_in_order_and_is_small(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert TUTORIAL.stat().st_size < 1_000_000
    text = printed(notebook)
    assert re.search(r"^  report       run/report.html$", text, re.MULTILINE)
    assert re.search(r"^the report is run/report.html \([\d.]+ MB\)$", text, re.MULTILINE)
    assert not re.search(r"/(home|root|tmp|usr)/", text)
    found = re.search(r"top-1 ([\d.]+)% .* by chance 25\.0%", text)
    assert found
    assert float(found[1]) > 60


def test_its_links_lead_to_pages(notebook):
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links
    assert not [link for link in links if not Path(TUTORIAL.parent, link).is_file()]
