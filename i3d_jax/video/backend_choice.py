"""Who is to compute the flow, by what the machine has and what the user wants."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

from i3d_jax.system.errors import UserError
from i3d_jax.video.tvl1_backends import description, refuse_plain_opencv

# Processes that compute on a GPU unless the user says otherwise: each takes some of its memory before it begins.
MOST_ON_A_GPU = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Who computes the flow, and where.

    Attributes:
      implementation: one of `flow_backend.BACKENDS`.
      platform: "cpu", "gpu" or "tpu": where it runs.
      reason: for the user to read.
    """

    implementation: str
    platform: str
    reason: str

    def description(self) -> dict[str, Any]:
        """Returns what a dataset says of the flow."""
        return description(self.implementation)

    def processes(self, asked: int | None, cores: int) -> int:
        """Returns how many processes are to read videos.

        Args:
          asked: what the user wants; None for as many as suit the platform.
          cores: of the machine.

        Raises:
          UserError: several processes would need the TPU, which serves one.
        """
        if self.platform == "tpu":
            if asked not in (None, 1):
                raise UserError(f"a TPU serves one process: --processes 1 was expected, found {asked}")
            return 1
        return asked or (min(cores, MOST_ON_A_GPU) if self.platform == "gpu" else cores)


def choose(backend: str) -> Choice:
    """Chooses who computes the flow by what the machine has.

    This process does not touch the accelerator: the processes that read videos need it.

    Args:
      backend: "opencv", "jax", or "auto" for JAX on an accelerator and OpenCV without one.

    Raises:
      UserError: JAX is asked for and cannot start, or the OpenCV that is installed has no flow.
    """
    if backend == "opencv":
        refuse_plain_opencv()
        return Choice(implementation="opencv", platform="cpu", reason="as asked for")
    program = "import jax; print(jax.default_backend())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if found.returncode:
        complaint = (found.stderr.strip().splitlines() or ["it gives no reason"])[-1]
        if platforms := os.environ.get("JAX_PLATFORMS"):
            complaint = f"JAX_PLATFORMS is {platforms!r}, {complaint}"
        if backend == "jax":
            raise UserError(f"--flow_backend jax needs JAX, which cannot start here: {complaint}")
        refuse_plain_opencv()
        return Choice(implementation="opencv", platform="cpu", reason=f"JAX cannot start: {complaint}")
    platform = found.stdout.split()[-1]
    if platform == "cpu":
        if backend == "jax":
            reason = "as asked for; without an accelerator each process first compiles for seconds for each frame size"
            return Choice(implementation="i3d_jax", platform="cpu", reason=reason)
        refuse_plain_opencv()
        return Choice(implementation="opencv", platform="cpu", reason="this machine has no accelerator")
    return Choice(implementation="i3d_jax", platform=platform, reason=f"this machine has a {platform.upper()}")
