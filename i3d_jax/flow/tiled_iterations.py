"""Several iterations of TV-L1 for one pass over memory, for NVIDIA GPUs: a kernel in Pallas, compiled by Triton.

What bounds a single iteration there is the memory. So a program of the kernel takes a tile of a pair of frames with a
margin around it, iterates with everything in registers, and writes the tile without its margin. An iteration looks one
pixel far: with each of them one more ring of pixels lacks neighbours that are up to date, and the margin is as wide as
the iterations are many.

A thread has a patch of neighbouring pixels. What lies at a patch's edges goes to the threads beside it through a small
array, which stays in the cache.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from i3d_jax.flow.equations import Numbers


def _compiler() -> Any:
    """The part of Pallas that compiles by Triton, or None where this version of JAX has none."""
    try:
        triton = importlib.import_module("jax.experimental.pallas.triton")
    except ImportError:
        return None
    # JAX will drop it some day, and says so wherever it compiles the kernel, to users who can do nothing about it.
    warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
    return triton


triton = _compiler()

# XLA's own limit for Triton: NVIDIA's Ampere and later.
LEAST_COMPUTE_CAPABILITY = 8.0
# Where both slopes are 0 the flow does not move along them, whatever it is multiplied by.
LEAST_STEEPNESS = 1e-30

# Of each pixel of a patch: rows of columns, each an array over the threads.
Patch = list[list[jax.Array]]


class Tiling(NamedTuple):
    """How the work is divided; of one pass, the tile with its margin has threads times patch pixels.

    Attributes:
      iterations: of a pass, 1 or more; also the width of the margin in pixels.
      threads: (rows, columns) of the threads of a program; their product is a power of two, 32 or more.
      patch: (rows, columns) of the pixels of a thread.
    """

    iterations: int
    threads: tuple[int, int]
    patch: tuple[int, int]

    @property
    def inner(self) -> tuple[int, int]:
        """(rows, columns) of a tile without its margin."""
        rows, columns = (
            threads * pixels - 2 * self.iterations for threads, pixels in zip(self.threads, self.patch, strict=True)
        )
        return rows, columns

    @property
    def slots(self) -> int:
        """How many values of each thread an exchange holds: of two arrays two edges, and a spare one."""
        return 2 * sum(self.patch) + 1

    def tiles(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the tiles that cover a frame."""
        return -(-height // self.inner[0]), -(-width // self.inner[1])

    def padding(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Pixels (above, below) and (on the left, on the right) of a frame, so that no tile reaches beyond them."""
        rows, columns = (
            (self.iterations, tiles * inner - side + self.iterations)
            for tiles, inner, side in zip(self.tiles(height, width), self.inner, (height, width), strict=True)
        )
        return rows, columns


# Of those tried on an H100 (benchmarks/devices.md): among the fastest on real clips, and compiled in half the time.
TILING = Tiling(iterations=5, threads=(32, 32), patch=(2, 2))


def available() -> bool:
    """Whether this version of JAX has the kernel's compiler, and all of NVIDIA's GPUs of this process run it."""
    if triton is None:
        return False
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        # Else a CPU's program would take two thirds of a second longer to trace, for nothing.
        return False
    return all(float(device.compute_capability) >= LEAST_COMPUTE_CAPABILITY for device in devices) and _is_lowered()


@functools.cache
def _is_lowered() -> bool:
    """Whether Pallas takes the kernel: it knows GPUs by name, and each version refuses others in its own way."""
    (above, below), (left, right) = TILING.padding(1, 1)
    frames = (1, above + 1 + below, left + 1 + right)
    of_pairs = jax.ShapeDtypeStruct((1,), jnp.int32)
    states, fixed = (jax.ShapeDtypeStruct((*parts, *frames), jnp.float32) for parts in ((2, 6), (3,)))
    program = jax.jit(functools.partial(iterate, numbers=Numbers(*[np.float32(1)] * 4), size=(1, 1), tiling=TILING))
    try:
        program.trace(states, of_pairs, of_pairs, fixed).lower(lowering_platforms=("cuda",))
    except Exception:
        return False
    return True


def iterate(
    states: jax.Array,
    which: jax.Array,
    limit: jax.Array,
    fixed: jax.Array,
    numbers: Numbers,
    size: tuple[int, int],
    *,
    tiling: Tiling,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Iterates each pair from one of its two states into the other.

    Args:
      states: float32 [2, 6, N, rows, columns]: two for each pair, of u, v, the dual variables (across, down) of u and
        those of v; frames with `tiling.padding` around them, where the dual variables are 0.
      which: int32 [N], 0 or 1: the state that a pair goes on from. It stays as it is, and the other one is overwritten.
      limit: int32 [N], 0 to `tiling.iterations`: how many a pair makes.
      fixed: float32 [3, N, rows, columns], padded with zeros as far: the slope along x, that along y and the constant
        of `equations.moved`.
      numbers: the parameters.
      size: (height, width) of a frame.
      tiling: how the work is divided, which changes no number but the sums, whose terms are added in another order.
      interpret: run the kernel as JAX's operations on any device, one program after the other, to test what it finds.

    Returns:
      The states, and float32 [N, tiling.iterations]: the sum over a frame of the squared length of the step, for each
      iteration that was made; for the others some number or none.
    """
    pairs, tiles = which.shape[0], tiling.tiles(*size)[0] * tiling.tiles(*size)[1]
    threads = tiling.threads[0] * tiling.threads[1]
    # One index for a pixel: the fewer the indices, the fewer the registers.
    states_of_rows = states.reshape(*states.shape[:3], -1)
    parameters = None if interpret else triton.CompilerParams(num_warps=threads // 32, num_stages=1)
    iterated, changes, _ = pl.pallas_call(
        functools.partial(_kernel, tiling=tiling, size=size, barrier=_pass if interpret else triton.debug_barrier),
        grid=(tiles, pairs),
        out_shape=[
            jax.ShapeDtypeStruct(states_of_rows.shape, jnp.float32),
            jax.ShapeDtypeStruct((pairs, tiles, tiling.iterations), jnp.float32),
            jax.ShapeDtypeStruct((pairs, tiles, 2 * tiling.slots, threads), jnp.float32),
        ],
        # Tiles may write while others read: another state of the pair.
        input_output_aliases={4: 0},
        interpret=interpret,
        name="tvl1_iterations",
        compiler_params=parameters,
    )(which, limit, jnp.stack(numbers[:3]), fixed.reshape(*fixed.shape[:2], -1), states_of_rows)
    return iterated.reshape(states.shape), changes.sum(1)


def _pass() -> None:
    """The interpreter ends each store before it goes on."""


class _Places(NamedTuple):
    """Where the pixels of the threads' patches lie.

    Attributes:
      in_frame: int32, in a padded frame, row after row.
      inner: whether in the tile without its margin.
      counted: whether inner and in the frame.
      has_right: for each column of a patch, whether in the frame and not in its last column.
      has_below: for each row of a patch, whether in the frame and not in its last row.
    """

    in_frame: Patch
    inner: Patch
    counted: Patch
    has_right: list[jax.Array]
    has_below: list[jax.Array]


def _places(tile: jax.Array, row: jax.Array, column: jax.Array, tiling: Tiling, size: tuple[int, int]) -> _Places:
    """Of a tile, and of threads in these rows and columns of it."""
    margin, (_, across) = tiling.iterations, tiling.tiles(*size)
    lines, inner, last = [], [], []
    for axis, (which, first) in enumerate(((lax.div(tile, across), row), (lax.rem(tile, across), column))):
        in_tile = [first * tiling.patch[axis] + one for one in range(tiling.patch[axis])]
        lines.append([which * tiling.inner[axis] + one for one in in_tile])
        inner.append([(one >= margin) & (one < margin + tiling.inner[axis]) for one in in_tile])
        last.append(margin + size[axis] - 1)
    stride = across * tiling.inner[1] + 2 * margin
    within = [[one <= end for one in places] for places, end in zip(lines, last, strict=True)]
    return _Places(
        in_frame=[[one * stride + other for other in lines[1]] for one in lines[0]],
        inner=[[one & other for other in inner[1]] for one in inner[0]],
        counted=[
            [one & in_rows & other & in_columns for other, in_columns in zip(inner[1], within[1], strict=True)]
            for one, in_rows in zip(inner[0], within[0], strict=True)
        ],
        has_right=[(one >= margin) & (one < last[1]) for one in lines[1]],
        has_below=[(one >= margin) & (one < last[0]) for one in lines[0]],
    )


def _kernel(
    which_ref: Any,
    limit_ref: Any,
    numbers_ref: Any,
    fixed_ref: Any,
    states_ref: Any,
    iterated_ref: Any,
    changes_ref: Any,
    exchange_ref: Any,
    *,
    tiling: Tiling,
    size: tuple[int, int],
    barrier: Callable[[], None],
) -> None:
    tile, pair = pl.program_id(0), pl.program_id(1)
    rows, columns = tiling.threads
    thread = lax.iota(jnp.int32, rows * columns)
    row, column = lax.div(thread, jnp.int32(columns)), lax.rem(thread, jnp.int32(columns))
    # At the edges of the tile a thread is its own neighbour; what comes of that stays in the margin.
    left, right = thread - (column > 0), thread + (column < columns - 1)
    above, below = thread - columns * (row > 0), thread + columns * (row < rows - 1)

    def exchange(first: jax.Array, edges: list[list[jax.Array]], neighbours: list[jax.Array]) -> list[list[jax.Array]]:
        """Stores edges of patches from a slot on, and returns those of the neighbours.

        Every thread stores, then waits for all, then reads. It has read when it waits in the next exchange, that of the
        other half of an iteration, which has its own slots; so none of these is written before all have read it.
        """
        slots = itertools.count()
        numbered = [[(first + next(slots), one) for one in edge] for edge in edges]
        for slot, one in itertools.chain.from_iterable(numbered):
            exchange_ref[pair, tile, slot, thread] = one
        barrier()
        return [
            [exchange_ref[pair, tile, slot, neighbour] for slot, _ in edge]
            for edge, neighbour in zip(numbered, neighbours, strict=True)
        ]

    @pl.when(limit_ref[pair] > 0)
    def _() -> None:
        places = _places(tile, row, column, tiling, size)
        pull, theta, step = (numbers_ref[one] for one in range(3))

        def read(ref: Any, *which: Any) -> Patch:
            return jax.tree.map(lambda place: ref[(*which, pair, place)], places.in_frame)

        *slope, constant = (read(fixed_ref, one) for one in range(3))
        # A division for a pass in place of one for an iteration.
        to_zero = jax.tree.map(lambda x, y: -1 / jnp.maximum(x * x + y * y, LEAST_STEEPNESS), *slope)

        def iteration(number: jax.Array, state: list[Patch]) -> list[Patch]:
            old, across, down = state[:2], state[2::2], state[3::2]
            # Of two neighbouring slots in turn: addresses that stay the same would be kept in registers, 48 of 64 bits.
            turn = lax.rem(number, 2)
            edges = [[line[-1] for line in one] for one in across] + [one[-1] for one in down]
            edges = exchange(turn, edges, [left, left, above, above])
            divergences = map(_divergence, across, down, edges[:2], edges[2:])
            move = _move(old, slope, constant, to_zero, pull)
            flow = [
                jax.tree.map(
                    lambda old, along, move, div: old + move * along + theta * div,
                    one,
                    along,
                    move,
                    divergence,
                )
                for one, along, divergence in zip(old, slope, divergences, strict=True)
            ]
            changes_ref[pair, tile, number] = _squared_change(old, flow, places.counted)
            edges = [[line[0] for line in one] for one in flow] + [one[0] for one in flow]
            edges = exchange(tiling.slots + turn, edges, [right, right, below, below])
            differences = map(functools.partial(_differences, places), flow, edges[:2], edges[2:])
            dual = [_dual_step(*one, step) for one in zip(across, down, differences, strict=True)]
            return [*flow, *itertools.chain.from_iterable(dual)]

        begin = which_ref[pair]
        state = lax.fori_loop(0, limit_ref[pair], iteration, [read(states_ref, begin, one) for one in range(6)])
        for number, one in enumerate(state):
            for place, value, mask in zip(*map(jax.tree.leaves, (places.in_frame, one, places.inner)), strict=True):
                triton.store(iterated_ref.at[1 - begin, number, pair, place], value, mask=mask)


def _move(flow: list[Patch], slope: list[Patch], constant: Patch, to_zero: Patch, pull: jax.Array) -> Patch:
    """How far to go along the slope, as in `equations.moved`."""
    difference = jax.tree.map(lambda c, x, u, y, v: c + (x * u + y * v), constant, slope[0], flow[0], slope[1], flow[1])
    return jax.tree.map(lambda one, way: jnp.clip(one * way, -pull, pull), difference, to_zero)


def _divergence(across: Patch, down: Patch, left: list[jax.Array], above: list[jax.Array]) -> Patch:
    """Of a dual variable, given that of the pixels beside the patch on the left and above it."""
    before = [[edge, *line[:-1]] for edge, line in zip(left, across, strict=True)]
    over = [above, *down[:-1]]
    return jax.tree.map(
        lambda across, before, down, over: (across - before) + (down - over), across, before, down, over
    )


def _differences(places: _Places, field: Patch, right: list[jax.Array], below: list[jax.Array]) -> tuple[Patch, Patch]:
    """Of a field to the pixels on the right and to those below, given those beside the patch; 0 at the frame's ends."""
    after = [[*line[1:], edge] for edge, line in zip(right, field, strict=True)]
    under = [*field[1:], below]
    has_right = [places.has_right] * len(field)
    has_below = [[has] * len(line) for has, line in zip(places.has_below, field, strict=True)]
    to_the_right, downwards = (
        jax.tree.map(lambda has, other, own: jnp.where(has, other - own, 0), *fields, field)
        for fields in ((has_right, after), (has_below, under))
    )
    return to_the_right, downwards


def _dual_step(across: Patch, down: Patch, differences: tuple[Patch, Patch], step: jax.Array) -> tuple[Patch, Patch]:
    """`equations.dual_step`, with one division for two."""
    shrink = jax.tree.map(lambda x, y: 1 / (1 + step * jnp.sqrt(x * x + y * y)), *differences)
    new_across, new_down = (
        jax.tree.map(lambda old, way, shrink: (old + step * way) * shrink, old, difference, shrink)
        for old, difference in zip((across, down), differences, strict=True)
    )
    return new_across, new_down


def _squared_change(old: list[Patch], new: list[Patch], counted: Patch) -> jax.Array:
    """The sum over the pixels that count of the squared length of the step."""
    step_u, step_v = (jax.tree.map(jnp.subtract, *one) for one in zip(new, old, strict=True))
    squared = jax.tree.map(lambda counts, u, v: jnp.where(counts, u * u + v * v, 0), counted, step_u, step_v)
    return functools.reduce(jnp.add, jax.tree.leaves(squared)).sum()
