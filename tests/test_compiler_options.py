"""What the compiler is asked for, and what is done where it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from i3d_jax.training import compiler_options


class Lowered:
    """Keeps the options that it is compiled with; some it refuses."""

    def __init__(self, refused=()):
        self.refused, self.asked = refused, []

    def compile(self, compiler_options=None):
        self.asked.append(compiler_options)
        if set(compiler_options or ()) & set(self.refused):
            raise jax.errors.JaxRuntimeError("No such compile option")
        return compiler_options


def test_cuda_gets_its_layout_and_who_does_not_know_it_compiles_without():
    layout = {"xla_gpu_force_conv_nhwc": True}
    known, unknown = Lowered(), Lowered(refused=layout)
    assert compiler_options.compiled_for("PJRT C API\ncuda 12090", known) == layout
    assert compiler_options.compiled_for("PJRT C API\ncuda 12090", unknown) is None
    assert (known.asked, unknown.asked) == ([layout], [layout, None])
    for other in ("cpu", "PJRT C API\nrocm 60300", "PJRT C API\nTFRT TPU v5 lite"):
        lowered = Lowered()
        assert compiler_options.compiled_for(other, lowered) is None
        assert lowered.asked == [None]


def test_the_layout_is_an_option_of_this_compiler():
    """Which would refuse one that it does not know, on any platform."""
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    assert lowered.compile(compiler_options=compiler_options.OPTIONS_FOR_CUDA)(1.0) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered.compile(compiler_options={"xla_gpu_force_conv_nhwcs": True})


@pytest.mark.parametrize("known", [True, False])
def test_what_is_jitted_for_cuda_runs_where_the_layout_is_not_known_too(monkeypatch, known):
    monkeypatch.setattr(compiler_options, "_is_cuda", lambda _: True)
    if not known:
        monkeypatch.setattr(compiler_options, "OPTIONS_FOR_CUDA", {"xla_gpu_force_conv_nhwcs": True})
    program = compiler_options.jitted(lambda values: 2 * values)
    for length in (3, 4, 3):
        assert program(jnp.arange(length)).tolist() == list(range(0, 2 * length, 2))


def test_an_error_of_the_program_itself_stays_one(monkeypatch):
    monkeypatch.setattr(compiler_options, "_is_cuda", lambda _: True)

    def fail(values):
        raise jax.errors.JaxRuntimeError(f"out of memory for {values.shape}")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        compiler_options.jitted(fail)(jnp.ones(3))
