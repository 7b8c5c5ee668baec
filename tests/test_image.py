import cv2
import numpy as np
import pytest

from i3d_jax.records import image


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (18, 20), (256, 340), (300, 7)])
def test_size(size, progressive):
    encoded = cv2.imencode(".jpg", picture(*size), [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    assert image.size(encoded) == size


def test_fill_bytes_before_a_marker_are_passed_over():
    encoded = cv2.imencode(".jpg", picture(18, 20))[1].tobytes()
    assert image.size(encoded[:2] + b"\xff\xff" + encoded[2:]) == (18, 20)


@pytest.mark.parametrize("size", [(1, 1), (18, 20), (256, 340), (300, 7)])
def test_png(size):
    """Readers that decode JPEG get the pixels of a PNG too."""
    encoded = cv2.imencode(".png", picture(*size))[1].tobytes()
    assert image.size(encoded) == size
    np.testing.assert_array_equal(image.decode(encoded).numpy(), picture(*size)[..., ::-1])
    assert image.decodes(encoded)
    assert not image.decodes(encoded[:-20])


def test_what_is_no_image_is_refused():
    encoded, png, bmp = (cv2.imencode(suffix, picture(18, 20))[1].tobytes() for suffix in (".jpg", ".png", ".bmp"))
    for data in (b"", b"\xff\xd8", bmp, png[:20], encoded[:30], encoded[:2] + b"\x00" * 40):
        with pytest.raises(ValueError, match="a JPEG image"):
            image.size(data)


def test_a_header_alone_does_not_decode():
    encoded = cv2.imencode(".jpg", picture(18, 20))[1].tobytes()
    assert image.decodes(encoded)
    assert image.size(encoded[:300]) == (18, 20)
    assert not image.decodes(encoded[:300])


@pytest.mark.parametrize("quality", [50, 95])
def test_pixels_are_those_of_opencv(quality):
    encoded = cv2.imencode(".jpg", picture(61, 47), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(image.decode(encoded.tobytes()).numpy(), expected)
