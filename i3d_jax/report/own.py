"""The page that a run writes of itself at its end."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from i3d_jax.data.dataset import Dataset
from i3d_jax.system.errors import install_hint
from i3d_jax.system.files import written_whole

NAME = "report.html"


def write(workdir: Path, dataset: Dataset, split: str) -> None:
    """Writes `report.html` of a finished run; what goes wrong is told in a sentence, and the run stays finished.

    Then a page of a former evaluation, which would tell old figures, is removed.

    Args:
      workdir: of the run.
      dataset: of which it has scored videos.
      split: that was scored.
    """
    try:
        from i3d_jax.report.run_page import page_of_workdirs

        text = page_of_workdirs([workdir], dataset=dataset, split=split)
        with written_whole(workdir / NAME) as file:
            file.write(text.encode())
    except Exception as error:  # whatever it is: the run itself is finished
        with contextlib.suppress(OSError):
            (workdir / NAME).unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, ModuleNotFoundError):
            reason = f"{error.name} is not installed; {install_hint('report')}"
        print(f"warning: {workdir / NAME} is not written: {reason}", file=sys.stderr, flush=True)
