"""How the tests compile: quickly. Most of a network's time in them goes into machine code for what runs once."""

import importlib.metadata

# Without optimising, machine code is made in half of the time; in one piece, with less work in all.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
# The older emitters of fused operations take a third of the newer ones' time. JAX 0.12 has the newer ones alone, and
# ends the process at a flag that it does not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"


def flags(devices: int = 1) -> str:
    """XLA_FLAGS for a process with so many virtual CPU devices."""
    return f"--xla_force_host_platform_device_count={devices} {FLAGS}"
