"""Flow of frames that stream by, against motion that is known."""

import cv2
import numpy as np
import pytest
from helpers.moving_pictures import sliding

from i3d_jax.flow import codec
from i3d_jax.records import image
from i3d_jax.video.fields import FieldEncoder
from i3d_jax.video.tvl1_backends import description

STEP = 40 / 255  # Pixels: of the bytes.


def stored_fields(frames):
    encoder = FieldEncoder("opencv")
    encoded = [field for frame in frames for field in encoder.add(frame)] + encoder.finish()
    assert len(encoded) == len(frames) - 1
    return np.stack([image.decode(field).numpy() for field in encoded])


@pytest.mark.parametrize(("right", "down"), [(3, 2), (-2, 1)])
def test_a_slide_comes_back(right, down):
    stored = stored_fields(sliding(4, right=right, down=down))
    assert stored.shape == (3, 48, 64, 3)
    assert not stored[..., 2].any()
    inside = codec.to_pixels(stored[:, 8:-8, 8:-8, :2])
    np.testing.assert_allclose(inside, np.broadcast_to([right, down], inside.shape), atol=STEP)
    np.testing.assert_allclose(inside.mean((0, 1, 2)), [right, down], atol=STEP / 2 + 0.02)


def test_flow_is_that_of_opencv_on_grey_frames():
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    first, second = (cv2.resize(frame, (40, 32), interpolation=cv2.INTER_CUBIC) for frame in frames)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    expected = cv2.optflow.DualTVL1OpticalFlow_create().calc(*grey, None)
    (found,) = stored_fields([first, second])
    assert np.abs(expected).max() > 2
    np.testing.assert_allclose(codec.to_pixels(found[..., :2]), expected.clip(-20, 20), atol=STEP / 2 + 1e-4)


def test_a_frame_that_repeats_has_no_flow():
    first, second = sliding(2, right=3, down=2)
    fields = stored_fields([first, first, first.copy(), second, second])
    for still in (0, 1, 3):
        assert set(np.unique(fields[still, ..., :2])) == {128}
    assert fields[2, ..., 0].mean() > 128 + 10


def passing(seed):
    """Frames of a square that moves to the left over a background that moves to the right and down."""
    frames, near = sliding(3, right=2, down=1, seed=seed).copy(), sliding(3, right=-3, down=0, seed=seed + 1)
    for number in range(3):
        left = 24 - 3 * number
        frames[number, 12:34, left : left + 22] = near[number, 12:34, left : left + 22]
    return frames


@pytest.mark.parametrize("frames", [sliding(3, right=3, down=-1), passing(2)])
def test_a_mirrored_clip_has_the_mirrored_flow(frames):
    """But for TV-L1's own asymmetry where the picture ends or is covered: the mean error was .08 and .13 px."""
    found = codec.to_pixels(stored_fields(frames[:, :, ::-1])[..., :2])
    expected = codec.to_pixels(codec.negate_u(stored_fields(frames)[:, :, ::-1, :2], codec.NEAREST))
    errors = np.linalg.norm(found - expected, axis=-1)
    assert np.linalg.norm(expected, axis=-1).mean() > 2
    assert np.median(errors) <= STEP + 1e-4
    assert (np.abs(found - expected).max(-1) <= STEP + 1e-4).mean() > 0.9
    assert errors.mean() < 0.2


def test_the_parameters_are_opencvs_own():
    """What a dataset says of its flow, against what OpenCV's DualTVL1 says of itself."""
    defaults = cv2.optflow.DualTVL1OpticalFlow_create()
    assert description() == {
        "algorithm": "tvl1",
        "implementation": "opencv",
        "version": cv2.__version__,
        "bound": 20.0,
        "rounding": "nearest",
        "tau": defaults.getTau(),
        "lambda": defaults.getLambda(),
        "theta": defaults.getTheta(),
        "scales": defaults.getScalesNumber(),
        "warps": defaults.getWarpingsNumber(),
        "epsilon": defaults.getEpsilon(),
        "inner_iterations": defaults.getInnerIterations(),
        "outer_iterations": defaults.getOuterIterations(),
        "scale_step": defaults.getScaleStep(),
        "median": defaults.getMedianFiltering(),
    }
