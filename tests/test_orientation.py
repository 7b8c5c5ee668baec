"""Display matrices: all eight orientations, as players show them."""

import av
import numpy as np
import pytest

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video.decode import decode

ONE = 1 << 16  # In a matrix, of a, b, c and d.
# The matrix's a, b, c and d, and what becomes of pixels [H, W, 3]. A point (x, y) is shown at (ax + cy, bx + dy).
ORIENTATIONS = {
    "as stored": ((1, 0, 0, 1), lambda pixels: pixels),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "half turn": ((-1, 0, 0, -1), lambda pixels: np.rot90(pixels, 2)),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
    "clockwise": ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),
    "transposed at the other diagonal": ((0, -1, -1, 0), lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1)),
    "anticlockwise": ((0, -1, 1, 0), np.rot90),
}
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def write_turned(path, frame, matrix, codec, pixel_format):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frame.shape[:2]
        stream.pix_fmt = pixel_format
        a, b, c, d = (round(number * ONE) for number in matrix)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
@pytest.mark.parametrize(("matrix", "turn"), ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_pixel_of_every_orientation(tmp_path, suffix, matrix, turn):
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    codec, pixel_format = {".mov": ("qtrle", "rgb24"), ".mkv": ("ffv1", "bgr0")}[suffix]  # Lossless.
    path = tmp_path / f"a{suffix}"
    write_turned(path, frame, matrix, codec, pixel_format)
    for pixels in decode(path, Preprocessing(short_side=32)):
        np.testing.assert_array_equal(pixels, turn(frame))


@pytest.mark.parametrize("degrees", [10, 100, -80, 170])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_slanted_matrix_is_taken_as_the_nearest_quarter_turn(tmp_path, degrees, mirrored):
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    sign = -1 if mirrored else 1
    # Mirrored first, then turned clockwise.
    write_turned(tmp_path / "a.mov", frame, (sign * cosine, sign * sine, -sine, cosine), "qtrle", "rgb24")
    expected = np.rot90(frame[:, ::sign], -round(degrees / 90))
    np.testing.assert_array_equal(next(decode(tmp_path / "a.mov", Preprocessing(short_side=32))), expected)


@pytest.mark.parametrize(
    ("name", "corners"),
    [
        ("1_none.mp4", (RED, GREEN, BLUE, WHITE)),
        ("2_hflip.mp4", (GREEN, RED, WHITE, BLUE)),
        ("7_transverse.mp4", (WHITE, GREEN, BLUE, RED)),
    ],
)
def test_the_public_files(cases, name, corners):
    pixels = next(decode(cases / "mirrored_display_matrix" / name, Preprocessing(short_side=64))).astype(int)
    height, width = (side // 4 for side in pixels.shape[:2])
    found = pixels[[height, height, -height, -height], [width, -width, width, -width]]
    np.testing.assert_allclose(found, corners, atol=12)
