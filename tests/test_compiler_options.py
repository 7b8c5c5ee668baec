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


CUDA = "PJRT C API\ncuda 12090"
OPTIONS = {
    CUDA: {"xla_gpu_force_conv_nhwc": True},
    "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
}


@pytest.mark.parametrize(("platform_version", "options"), OPTIONS.items())
def test_a_platform_gets_its_options_and_who_does_not_know_them_compiles_without(platform_version, options):
    known, unknown = Lowered(), Lowered(refused=options)
    assert compiler_options.compiled_for(platform_version, known) == options
    assert compiler_options.compiled_for(platform_version, unknown) is None
    assert (known.asked, unknown.asked) == ([options], [options, None])


@pytest.mark.parametrize("other", ["PJRT C API\nrocm 60300", "PJRT C API\nTFRT TPU v5 lite"])
def test_other_platforms_are_asked_for_nothing(other):
    lowered = Lowered()
    assert compiler_options.compiled_for(other, lowered) is None
    assert lowered.asked == [None]


@pytest.mark.parametrize("options", OPTIONS.values())
def test_they_are_options_of_this_compiler(options):
    """Which would refuse what it does not know, on any platform."""
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    assert lowered.compile(compiler_options=options)(1.0) == 2
    [(name, value)] = options.items()
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered.compile(compiler_options={f"{name}s": value})


def test_what_is_jitted_for_a_cpu_is_asked_for_its_options(monkeypatch):
    ordered = compiler_options.jitted(lambda values: 2 * values)
    assert ordered(jnp.arange(3)).tolist() == [0, 2, 4]
    monkeypatch.setattr(compiler_options, "OPTIONS_FOR_CPU", {"xla_cpu_scheduler_type": "none of the compiler's"})
    monkeypatch.setattr(compiler_options, "_is_known", lambda name, value: True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="not a valid enum value"):
        compiler_options.jitted(lambda values: 2 * values)(jnp.arange(3))


def test_what_is_jitted_for_a_cpu_runs_where_the_option_is_not_known_too(monkeypatch):
    monkeypatch.setattr(compiler_options, "OPTIONS_FOR_CPU", {"xla_cpu_scheduler_types": 1})
    assert compiler_options.jitted(lambda values: 2 * values)(jnp.arange(3)).tolist() == [0, 2, 4]


@pytest.mark.parametrize("suits", [True, False])
def test_what_is_jitted_for_cuda_runs_where_the_layout_does_not_suit_it_too(monkeypatch, suits):
    monkeypatch.setattr(compiler_options, "_is_cuda", lambda _: True)
    if not suits:
        monkeypatch.setattr(compiler_options, "OPTIONS_FOR_CUDA", {"xla_gpu_force_conv_nhwcs": True})
    program = compiler_options.jitted(lambda values: 2 * values)
    for length in (3, 4, 3):
        assert program(jnp.arange(length)).tolist() == list(range(0, 2 * length, 2))


@pytest.mark.parametrize("is_cuda", [True, False])
def test_an_error_of_the_program_itself_stays_one(monkeypatch, is_cuda):
    monkeypatch.setattr(compiler_options, "_is_cuda", lambda _: is_cuda)

    def fail(values):
        raise jax.errors.JaxRuntimeError(f"out of memory for {values.shape}")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        compiler_options.jitted(fail)(jnp.ones(3))
