"""The resampling rule against tables made by hand, and the law that a piece is a slice of the whole."""

from fractions import Fraction

import pytest

from i3d_jax.video.resample import resample

RATE = Fraction(25)


def at_rate(count, rate):
    """Returns `count` frames at a constant rate; a frame is its own number."""
    return [(number / Fraction(rate), number) for number in range(count)]


def milliseconds(*times):
    return [(Fraction(time, 1000), number) for number, time in enumerate(times)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # Result k is nearest to source frame 1.12 k, 1.2 k, k, 2 k and 0.5 k; of two equally near, the earlier.
        (at_rate(14, 28), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]),
        (at_rate(12, 30), [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]),
        (at_rate(4, 25), [0, 1, 2, 3]),
        (at_rate(6, 50), [0, 2, 4]),
        (at_rate(4, Fraction(25, 2)), [0, 0, 1, 1, 2, 2, 3, 3]),
        # Matroska's milliseconds at 30 frames a second.
        (milliseconds(0, 33, 67, 100, 133, 167), [0, 1, 2, 4, 5]),
        # Results at 0, 40, 80, 120 ms; the video ends a mean interval of 36 ms after 144 ms, at 180 ms: 4.5, so 4.
        (milliseconds(0, 50, 59, 121, 144), [0, 1, 2, 3]),
        # A pause of 160 ms: frame 1 lasts up to its middle, 120 ms included. The end is at 293.3 ms: 7.3, so 7.
        (milliseconds(0, 40, 200, 220), [0, 1, 1, 1, 2, 2, 3]),
        # Much faster than the result: 6 frames at 100 a second are 60 ms, 1.5 results, so 2, at 0 and 40 ms.
        (at_rate(6, 100), [0, 4]),
        (at_rate(2, 1000), [0]),
        (at_rate(1, 30), [0]),
        ([], []),
    ],
)
def test_nearest_frames(source, expected):
    assert list(resample(source, RATE)) == expected


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [
        (280, 28, 250),
        (300, 30, 250),
        (79, 25, 79),
        (107, Fraction(30000, 1001), 89),
        (10, Fraction(25, 2), 20),
        (3, 30, 2),
    ],
)
def test_counts(count, rate, expected):
    assert len(list(resample(at_rate(count, rate), RATE))) == expected


@pytest.mark.parametrize("rate", [12, 25, Fraction(30000, 1001), 60])
@pytest.mark.parametrize(("start", "end"), [(0, 25), (10, 35), (40, 50), (70, None), (30, 1000)])
def test_a_piece_is_a_slice_of_the_whole(rate, start, end):
    source = at_rate(round(4 * rate), rate)
    whole = list(resample(source, RATE))
    stop = None if end is None else Fraction(end, 25)
    assert list(resample(source, RATE, start=Fraction(start, 25), end=stop)) == whole[start:end]
    # As after a seek: the frames before the last one before the start are not there.
    after_seek = [(time, number) for time, number in source if time > Fraction(start, 25) - 1 / Fraction(rate)]
    assert list(resample(after_seek, RATE, start=Fraction(start, 25), end=stop)) == whole[start:end]


def test_a_piece_between_two_frames_has_the_nearer_one():
    assert list(resample(at_rate(50, 25), RATE, start=Fraction(101, 100), end=Fraction(102, 100))) == [25]


def test_a_piece_after_the_end_has_no_frames():
    assert list(resample(at_rate(50, 25), RATE, start=Fraction(2), end=Fraction(3))) == []


@pytest.mark.parametrize("rate", [10, 25, 100])
def test_frames_are_passed_on_as_they_come(rate):
    read = 0

    def source():
        nonlocal read
        for timed_frame in at_rate(10 * rate, rate):
            read += 1
            yield timed_frame

    for number, _ in enumerate(resample(source(), RATE)):
        assert read <= (number + 2) * rate / 25 + 2


def test_nothing_is_read_after_the_end_of_a_piece():
    source = iter(at_rate(1000, 25))
    assert len(list(resample(source, RATE, start=Fraction(1), end=Fraction(2)))) == 25
    assert len(list(source)) > 940
