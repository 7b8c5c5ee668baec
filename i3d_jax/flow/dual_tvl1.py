"""TV-L1 optical flow (Zach, Pock and Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", 2007).

Computed as OpenCV's DualTVL1 does (`tvl1flow.cpp` of opencv_contrib): its pyramid, its bicubic warping (of OpenCV 5;
OpenCV 4 rounds places to 1/32 pixel), its median filter, its stopping rule. docs/flow.md says how near the two are.

The flow u minimises the sum over all pixels of |grad u1| + |grad u2| + lambda |I1(x + u) - I0(x)|. On each scale, from
the coarsest on, the second frame is warped by the flow so far, and the difference is taken as linear around it. Then
two steps take turns: u is moved towards a zero difference, pixel by pixel, and a dual variable p, whose divergence
moves u, is led towards grad u / |grad u|.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Real

from i3d_jax.flow import equations, tiled_iterations
from i3d_jax.flow.equations import Number, Numbers
from i3d_jax.flow.median import median as median_of
from i3d_jax.flow.sampling import gradient, resize, warp
from i3d_jax.shapes import AnyArray
from i3d_jax.system.errors import UserError

# Of the numbers that come out: a change that moves them is another version, which trained networks refuse by name.
VERSION = "1"

# A pyramid ends before a side gets shorter, in pixels.
SHORTEST_SIDE = 16


# A GPU's answer whether any pair goes on takes about as long as an iteration. It is asked after several, at
# most this many; a pair that ends among them stays as it is.
MOST_AT_ONCE = 10


# Of u and v, or of a dual variable across and down.
Pair = tuple[jax.Array, jax.Array]


class _Counts(NamedTuple):
    """The parameters that decide about the program; the names are those of `tvl1`."""

    scales: int
    warps: int
    inner_iterations: int
    outer_iterations: int
    scale_step: float
    median: int


def tvl1(
    previous: Real[AnyArray, "*frames"],
    following: Real[AnyArray, "..."],
    *,
    tau: float = 0.25,
    lambda_: float = 0.15,
    theta: float = 0.3,
    scales: int = 5,
    warps: int = 5,
    epsilon: float = 0.01,
    inner_iterations: int = 30,
    outer_iterations: int = 10,
    scale_step: float = 0.8,
    median: int = 5,
) -> Float32[Array, "*frames 2"]:
    """Returns the optical flow from each frame to the one that follows it.

    Compiled once for each shape of the frames and each set of parameters. Each pair of a batch stops on its own, and
    what the others do does not change its flow; but the batch goes on as long as the slowest of its pairs, at every
    warp of every scale, so pairs of one video go well together and a still one saves no time beside a moving one.

    Args:
      previous: grey frames [..., H, W], uint8 or float, 0 to 255. Both sides at least 3 pixels.
      following: the frames after them, of the same shape.
      tau: the step of the dual variable.
      lambda_: the weight of the difference of the frames against the variation of the flow; smaller is smoother.
      theta: how far the flow may stay from the one that fits the frames.
      scales: of the pyramid, 1 or more; fewer where a side would get shorter than 16 pixels.
      warps: on each scale, 1 or more.
      epsilon: pixels; iterating stops where a step moves the flow by less, as the root of the mean over all pixels.
      inner_iterations: between two median filters, 1 or more.
      outer_iterations: median filters in a warp, each followed by `inner_iterations`, 1 or more.
      scale_step: the size of a scale over that of the finer one, above 0 and below 1.
      median: side of the median filter's window, 3 or 5; 1 for none.

    Returns:
      float32 [..., H, W, 2]: the displacement in pixels, u to the right and v downwards. A pair with a value that is
      not finite has NaN throughout.

    Raises:
      UserError: the frames do not go together or are too small, or a parameter is out of range.
    """
    previous, following = jnp.asarray(previous), jnp.asarray(following)
    if previous.shape != following.shape or previous.ndim < 2 or min(previous.shape[-2:]) < 3:
        raise UserError(
            "TV-L1 needs two arrays of grey frames [..., height, width] of one shape, at least 3 pixels a side, "
            f"found {list(previous.shape)} and {list(following.shape)}"
        )
    for name, value in {"tau": tau, "lambda_": lambda_, "theta": theta, "epsilon": epsilon}.items():
        if not value > 0:
            raise UserError(f"TV-L1: {name} must be above 0, found {value}")
    numbers = Numbers(*map(np.float32, (lambda_ * theta, theta, tau / theta, epsilon**2)))
    counts = _Counts(scales, warps, inner_iterations, outer_iterations, scale_step, median)
    for name in ("scales", "warps", "inner_iterations", "outer_iterations"):
        if getattr(counts, name) < 1:
            raise UserError(f"TV-L1: {name} must be 1 or more, found {getattr(counts, name)}")
    if not 0 < scale_step < 1:
        raise UserError(f"TV-L1: scale_step must be above 0 and below 1, found {scale_step}")
    if median not in (1, 3, 5):
        raise UserError(f"TV-L1: median must be 1, 3 or 5, found {median}")
    if previous.size == 0:
        return jnp.zeros((*previous.shape, 2), jnp.float32)
    return _tvl1(previous, following, numbers, counts)


@functools.partial(jax.jit, static_argnames="counts")
def _tvl1(previous: jax.Array, following: jax.Array, numbers: Numbers, counts: _Counts) -> jax.Array:
    shape = previous.shape
    previous, following = (frame.reshape(-1, *shape[-2:]).astype(jnp.float32) for frame in (previous, following))
    finite = (jnp.isfinite(previous) & jnp.isfinite(following)).all((1, 2), keepdims=True)
    pyramid = [(previous, following)]
    for _ in range(1, counts.scales):
        # OpenCV rounds half a pixel to the even number, as Python does.
        height, width = (round(side * counts.scale_step) for side in pyramid[-1][0].shape[1:])
        if min(height, width) < SHORTEST_SIDE:
            break
        step = (1 / counts.scale_step,) * 2
        previous, following = (resize(frame, height, width, step=step) for frame in pyramid[-1])
        pyramid.append((previous, following))
    u = v = jnp.zeros_like(pyramid[-1][0])
    for previous, following in reversed(pyramid):
        if u.shape != previous.shape:
            u, v = (resize(one, *previous.shape[1:]) * np.float32(1 / counts.scale_step) for one in (u, v))
        u, v = _one_scale(previous, following, (u, v), numbers, counts)
    return jnp.stack([jnp.where(finite, one, jnp.nan) for one in (u, v)], axis=-1).reshape(*shape, 2)


class _State(NamedTuple):
    """Of the iteration over a batch of pairs.

    Attributes:
      flow: (u, v), each float32 [N, H, W].
      dual: for u and for v the dual variable (across, down), each float32 [N, H, W].
      change: float32 [N], the sum over all pixels of the squared length of the last step; a pair whose change is below
        the threshold is at its end for this warp and stays as it is.
      iteration: int32 scalar, since the last median filter.
    """

    flow: Pair
    dual: tuple[Pair, Pair]
    change: jax.Array
    iteration: jax.Array


def _one_scale(previous: jax.Array, following: jax.Array, flow: Pair, numbers: Numbers, counts: _Counts) -> Pair:
    """Improves the flow (u, v), each [N, H, W], of frames [N, H, W]."""
    images = jnp.stack([following, *gradient(following)], axis=1)
    height, width = previous.shape[1:]
    x, y = jnp.arange(width, dtype=jnp.float32), jnp.arange(height, dtype=jnp.float32)[:, None]
    iterated = functools.partial(_iterated, counts=counts)
    ways = {"default": iterated}
    if tiled_iterations.available():
        ways["cuda"] = functools.partial(_iterated_by_tiles, counts=counts)

    def one_warp(_, carry):
        flow, dual = carry
        warped, *slope = jnp.moveaxis(warp(images, x + flow[0], y + flow[1]), 1, 0)
        # The difference of the frames, linear in the flow, is this and slope * flow.
        constant = warped - slope[0] * flow[0] - slope[1] * flow[1] - previous
        return jax.lax.platform_dependent(flow, dual, slope, constant, numbers, **ways)

    still = jnp.zeros_like(previous)
    flow, _ = jax.lax.fori_loop(0, counts.warps, one_warp, (flow, ((still, still),) * 2))
    return flow


def _iterated(
    flow: Pair, dual: tuple[Pair, Pair], slope: list[jax.Array], constant: jax.Array, numbers: Numbers, counts: _Counts
) -> tuple[Pair, tuple[Pair, Pair]]:
    """Returns the flow and the dual variables at the end of a warp."""
    batch, height, width = constant.shape
    threshold = numbers.squared_change * (height * width)
    at_once = max(one for one in range(1, MOST_AT_ONCE + 1) if counts.inner_iterations % one == 0)

    def go_on(state: _State, iterations: int) -> jax.Array:
        return (state.iteration < iterations) & (state.change > threshold).any()

    def iterate(state: _State, step=_step) -> _State:
        stepped = step(state, slope, constant, numbers)
        return _unless_ended(stepped, state, threshold)._replace(iteration=state.iteration + 1)

    def iterate_many_times(state: _State) -> _State:
        # Two a turn, of which each writes where the other has read; else every turn would copy the state.
        return jax.lax.fori_loop(0, at_once, lambda _, state: iterate(state, _step_in_one), state, unroll=2)

    def iterate_at_once(state: _State) -> _State:
        ways = {"cuda": iterate_many_times, "rocm": iterate_many_times, "default": iterate}
        return jax.lax.platform_dependent(state, **ways)

    def filter_and_iterate(state: _State) -> _State:
        u, v = median_of(jnp.stack(state.flow), counts.median)
        filtered = state._replace(flow=(u, v))
        begun = _unless_ended(filtered, state, threshold)._replace(iteration=jnp.int32(0))
        ended = jax.lax.while_loop(lambda state: go_on(state, counts.inner_iterations), iterate_at_once, begun)
        return ended._replace(iteration=state.iteration + 1)

    begun = _State(flow, dual, jnp.full(batch, jnp.inf), jnp.int32(0))
    ended = jax.lax.while_loop(lambda state: go_on(state, counts.outer_iterations), filter_and_iterate, begun)
    return ended.flow, ended.dual


class _Passes(NamedTuple):
    """Of the passes over a batch of pairs, each of several iterations.

    Attributes:
      states: as `tiled_iterations.iterate` has them.
      which: int32 [N], the state of each pair that is valid.
      change: float32 [N], as in `_State`.
      iteration: int32 [N], made by each pair since the last median filter.
      limit: int32 [N], how many each pair makes in the next pass.
    """

    states: jax.Array
    which: jax.Array
    change: jax.Array
    iteration: jax.Array
    limit: jax.Array


def _iterated_by_tiles(
    flow: Pair, dual: tuple[Pair, Pair], slope: list[jax.Array], constant: jax.Array, numbers: Numbers, counts: _Counts
) -> tuple[Pair, tuple[Pair, Pair]]:
    """`_iterated` for NVIDIA GPUs, in passes of several iterations.

    A pair that comes to its end amidst a pass makes the pass once more, up to there: a pass leaves the state that it
    begins with as it is.
    """
    batch, height, width = constant.shape
    threshold = numbers.squared_change * (height * width)
    tiling = tiled_iterations.TILING
    (top, bottom), (left, right) = tiling.padding(height, width)
    nothing = jnp.zeros(batch, jnp.int32)

    def padded(arrays: list[jax.Array]) -> jax.Array:
        return jnp.pad(jnp.stack(arrays), ((0, 0), (0, 0), (top, bottom), (left, right)))

    def inside(states: jax.Array) -> jax.Array:
        return states[..., top : top + height, left : left + width]

    def valid(passes: _Passes, parts: slice) -> jax.Array:
        first, second = inside(passes.states[:, parts])
        return jnp.where(passes.which[:, None, None] == 0, first, second)

    def begun(passes: _Passes) -> _Passes:
        """Of those that are not at their end, the next pass, as long as there are iterations left."""
        left = jnp.minimum(tiling.iterations, counts.inner_iterations - passes.iteration)
        return passes._replace(limit=jnp.where(passes.change > threshold, left, 0))

    fixed = padded([*slope, constant])

    def one_pass(passes: _Passes) -> _Passes:
        states, changes = tiled_iterations.iterate(
            passes.states, passes.which, passes.limit, fixed, numbers, (height, width), tiling=tiling
        )
        wanted = _wanted(changes, passes.limit, threshold)
        made = (wanted == passes.limit) & (passes.limit > 0)
        last = jnp.take_along_axis(changes, jnp.maximum(passes.limit - 1, 0)[:, None], axis=1)[:, 0]
        goes_on = begun(
            _Passes(
                states=states,
                which=jnp.where(made, 1 - passes.which, passes.which),
                change=jnp.where(made, last, passes.change),
                iteration=jnp.where(made, passes.iteration + passes.limit, passes.iteration),
                limit=passes.limit,
            )
        )
        return goes_on._replace(limit=jnp.where(wanted < passes.limit, wanted, goes_on.limit))

    def two_passes(passes: _Passes) -> _Passes:
        # The host's question in between would take as long as a pass. One in which no pair goes on changes nothing.
        return one_pass(one_pass(passes))

    def filter_and_iterate(carry: tuple[jax.Array, _Passes]) -> tuple[jax.Array, _Passes]:
        outer, passes = carry
        flow = valid(passes, slice(0, 2))
        goes_on = passes.change > threshold
        flow = jnp.where(goes_on[:, None, None], median_of(flow, counts.median), flow)
        # Into both: which of the two is valid need not be asked, and the other one is written next.
        states = passes.states.at[:, :2, :, top : top + height, left : left + width].set(flow)
        filtered = begun(passes._replace(states=states, iteration=nothing))
        return outer + 1, jax.lax.while_loop(lambda passes: (passes.limit > 0).any(), two_passes, filtered)

    def go_on(carry: tuple[jax.Array, _Passes]) -> jax.Array:
        outer, passes = carry
        return (outer < counts.outer_iterations) & (passes.change > threshold).any()

    states = jnp.broadcast_to(padded([*flow, *dual[0], *dual[1]]), (2, 6, *fixed.shape[1:]))
    first = _Passes(states, nothing, jnp.full(batch, jnp.inf), nothing, nothing)
    _, ended = jax.lax.while_loop(go_on, filter_and_iterate, (jnp.int32(0), first))
    u, v, *dual_parts = valid(ended, slice(0, 6))
    return (u, v), ((dual_parts[0], dual_parts[1]), (dual_parts[2], dual_parts[3]))


def _wanted(changes: jax.Array, limit: jax.Array, threshold: Number) -> jax.Array:
    """Of the iterations of a pass, `limit` int32 [N], with these changes [N, most], those up to the end of a pair."""
    at_end = ~(changes > threshold) & (jnp.arange(changes.shape[1]) < limit[:, None])
    return jnp.where(at_end.any(1), at_end.argmax(1).astype(jnp.int32) + 1, limit)


def _unless_ended(new: _State, old: _State, threshold: Number) -> _State:
    """Returns the new state of the pairs that have not come to their end, and the old one of those that have."""
    goes_on = old.change > threshold

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(goes_on.reshape(-1, *[1] * (new.ndim - 1)), new, old) if new.ndim else new

    return jax.tree.map(choose, new, old)


def _step(state: _State, slope: list[jax.Array], constant: jax.Array, numbers: Numbers) -> _State:
    """Moves the flow, then the dual variable, by one iteration (the paper's equations 14 to 17)."""
    flow = _moved(state, slope, constant, numbers)
    to_the_right = [jnp.pad(one[..., 1:] - one[..., :-1], ((0, 0), (0, 0), (0, 1))) for one in flow]
    downwards = [jnp.pad(one[..., 1:, :] - one[..., :-1, :], ((0, 0), (0, 1), (0, 0))) for one in flow]
    return _stepped(state, flow, to_the_right, downwards, numbers)


def _step_in_one(state: _State, slope: list[jax.Array], constant: jax.Array, numbers: Numbers) -> _State:
    """`_step` for GPUs, as one pass over the arrays of the state, each of which is read and written once.

    A pixel's neighbours have their flow moved again in place of being waited for: the memory, not the arithmetic,
    bounds an iteration there.
    """
    flow = _moved(state, slope, constant, numbers)
    height, width = constant.shape[1:]
    has_right, has_below = jnp.arange(width) < width - 1, (jnp.arange(height) < height - 1)[:, None]
    right, below = (_moved(state, slope, constant, numbers, at=at) for at in ((0, 1), (1, 0)))
    to_the_right = [jnp.where(has_right, other - own, 0) for other, own in zip(right, flow, strict=True)]
    downwards = [jnp.where(has_below, other - own, 0) for other, own in zip(below, flow, strict=True)]
    return _stepped(state, flow, to_the_right, downwards, numbers)


def _moved(
    state: _State, slope: list[jax.Array], constant: jax.Array, numbers: Numbers, at: tuple[int, int] = (0, 0)
) -> Pair:
    """The flow after an iteration, for each pixel that of the one so many rows below and columns to the right of it."""
    u, v = (_shifted(one, at) for one in state.flow)
    along_x, along_y = (_shifted(one, at) for one in slope)
    of_u, of_v = (_divergence(*dual, at) for dual in state.dual)
    return equations.moved((u, v), (of_u, of_v), (along_x, along_y), _shifted(constant, at), numbers)


def _stepped(
    state: _State,
    flow: Pair,
    to_the_right: list[jax.Array],
    downwards: list[jax.Array],
    numbers: Numbers,
) -> _State:
    """The state whose flow this is, given u's and v's differences to the pixel on the right and to the one below."""
    (old_u, old_v), (u, v) = state.flow, flow
    change = (jnp.square(u - old_u) + jnp.square(v - old_v)).sum((1, 2))
    of_u, of_v = (
        equations.dual_step(across, down, dual, numbers.dual_step)
        for across, down, dual in zip(to_the_right, downwards, state.dual, strict=True)
    )
    return state._replace(flow=(u, v), dual=(of_u, of_v), change=change)


def _divergence(across: jax.Array, down: jax.Array, at: tuple[int, int]) -> jax.Array:
    """The divergence of a field that is 0 before its first column and row: the negative adjoint of the gradient."""
    row, column = at
    before, above = _shifted(across, (row, column - 1)), _shifted(down, (row - 1, column))
    return (_shifted(across, at) - before) + (_shifted(down, at) - above)


def _shifted(array: jax.Array, at: tuple[int, int]) -> jax.Array:
    """For each pixel of [N, H, W] the value so many rows below and columns to the right of it, 0 outside."""
    edges = [(0, 0, 0), *((-places, places, 0) for places in at)]
    return jax.lax.pad(array, jnp.float32(0), edges) if any(at) else array
