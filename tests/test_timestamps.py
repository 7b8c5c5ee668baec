"""Bad timestamps: which of a list are bad, and files in which a few are."""

import itertools

import pytest
from helpers.odd_videos import SHADES, change_flv_times, numbered, read, write

from i3d_jax.video.timestamps import mend

GOOD = [40 * number for number in range(100)]


def changed(**values):
    """Returns GOOD with other values at some places, `at7=5` for 5 at place 7."""
    times = list(GOOD)
    for place, value in values.items():
        times[int(place.removeprefix("at"))] = value
    return times


@pytest.mark.parametrize(
    ("timestamps", "bad"),
    [
        (GOOD, 0),
        (changed(at30=GOOD[29]), 1),  # Repeated.
        (changed(at30=GOOD[28]), 1),
        (changed(at30=3), 1),
        (changed(at30=-(10**9)), 1),
        (changed(at30=10**9), 1),  # All that follow lie before it.
        (changed(at0=10**9), 1),
        (changed(at1=0), 1),
        (changed(at98=10**9), 1),
        (changed(at99=0), 1),
        (changed(at99=GOOD[98]), 1),
        (changed(at30=None), 1),
        (changed(at0=None, at99=None), 2),
        (changed(at40=GOOD[39], at41=GOOD[39], at42=GOOD[39], at43=GOOD[39]), 4),
        (changed(at20=GOOD[19], at40=10**9, at60=None, at80=7), 4),
        (changed(at50=10**9, at51=10**9 + 40, at52=10**9 + 80), 3),
    ],
)
def test_a_few_bad_ones_are_mended_and_the_others_stay(timestamps, bad):
    mended = mend(timestamps)
    assert list(mended.times) == GOOD
    assert (mended.bad, mended.jumps) == (bad, 0)


def test_a_variable_rate_stays():
    times = [0, 33, 67, 500, 533, 533, 600, 8000, 8033, 8033, 8100]
    mended = mend(times * 1 + [8100 + 40 * number for number in range(1, 40)])
    assert mended.times[:11] == (0, 33, 67, 500, 533, 566.5, 600, 8000, 8033, 8066.5, 8100)


@pytest.mark.parametrize("place", [30, 50, 95])
def test_time_that_begins_anew_is_carried_on(place):
    again = GOOD[:place] + GOOD[: 100 - place]
    assert list(mend(again).times) == GOOD
    thrice = GOOD[:40] * 3
    mended = mend(thrice)
    assert list(mended.times) == [40 * number for number in range(120)]
    assert (mended.bad, mended.jumps) == (0, 2)


@pytest.mark.parametrize(
    "timestamps",
    [
        [],
        [None] * 50,
        [0] * 50,
        [7],
        GOOD[::-1],
        [time for pair in zip(GOOD[1::2], GOOD[::2], strict=True) for time in pair],  # In another order.
        [time if place % 5 else None for place, time in enumerate(GOOD)],
    ],
)
def test_where_many_are_bad_none_is_trusted(timestamps):
    assert mend(timestamps) is None


@pytest.mark.parametrize("repeated", [[30], [30, 60, 61, 90]])
def test_a_matroska_file_with_repeated_timestamps(tmp_path, repeated):
    write(tmp_path / "good.mkv", numbered(100), times=[40 * number for number in range(100)])
    bad = [40 * number for number in range(100)]
    for place in repeated:
        bad[place] = bad[place - 1]
    write(tmp_path / "bad.mkv", numbered(100), times=bad)
    expected, notes = read(tmp_path / "good.mkv")
    assert (len(expected), notes) == (100, [])
    sentence = f"of 100 timestamps {len(repeated)} missing or out of order: mended"
    assert read(tmp_path / "bad.mkv") == (expected, [sentence])
    assert read(tmp_path / "bad.mkv", start=1, end=3) == (expected[25:75], [sentence])


def test_a_webm_file_without_a_frame_rate(tmp_path):
    """As browsers record it; what FFmpeg takes for the rate is then a guess."""
    times = [40 * number + 7 * (number % 3) for number in range(100)]
    options = {"lag-in-frames": "0"}
    found = []
    for name, bad in (("good.webm", None), ("bad.webm", 50)):
        written = [times[49] if number == bad else time for number, time in enumerate(times)]
        write(tmp_path / name, numbered(100), codec="libvpx", times=written, options=options)
        content = (tmp_path / name).read_bytes()
        place = content.index(b"\x23\xe3\x83\x84")  # DefaultDuration, of four bytes, becomes a void of as many.
        (tmp_path / name).write_bytes(content[:place] + b"\xec\x86" + bytes(6) + content[place + 8 :])
        found.append(read(tmp_path / name))
    (expected, nothing), (mended, notes) = found
    assert (mended, nothing) == (expected, [])
    assert len(notes) == 1


@pytest.mark.parametrize("milliseconds", [0, 400, 3_000_000])
def test_an_flv_file_with_one_timestamp_elsewhere(tmp_path, milliseconds):
    path = tmp_path / "a.flv"
    write(path, numbered(100), codec="flv")
    expected, _ = read(path)
    assert change_flv_times(path, lambda number, time: milliseconds if number == 50 else time) >= 100
    assert read(path) == (expected, ["of 100 timestamps 1 missing or out of order: mended"])


def test_a_piece_in_which_one_timestamp_is_elsewhere(tmp_path):
    """Time goes past the piece's end there, and comes back."""
    path = tmp_path / "a.flv"
    write(path, numbered(100), codec="flv")
    expected, _ = read(path)
    change_flv_times(path, lambda number, time: 3900 if number == 25 else time)
    assert read(path, end=2)[0] == expected[:50]


@pytest.mark.parametrize("place", [97, 98, 99])
def test_a_timestamp_beyond_all_that_the_file_states(tmp_path, place):
    """Nothing comes back after the last one, but the file says that it takes four seconds."""
    path = tmp_path / "a.flv"
    write(path, numbered(100), codec="flv")
    expected, _ = read(path)
    change_flv_times(path, lambda number, time: 3_000_000 if number == place else time)
    assert read(path) == (expected, ["of 100 timestamps 1 missing or out of order: mended"])


def test_an_flv_file_whose_time_begins_anew(tmp_path):
    path = tmp_path / "a.flv"
    write(path, numbered(100), codec="flv")
    expected, _ = read(path)
    change_flv_times(path, lambda number, time: time - 1600 if number >= 50 else time)
    assert read(path) == (expected, ["time begins anew 1x on the way: carried on"])


def test_a_rate_that_cannot_be_is_not_taken(tmp_path):
    """Too many timestamps are bad; the header says 1000 frames a second, and the track's own duration four seconds."""
    path = tmp_path / "a.mkv"
    write(path, numbered(100), rate=1000, times=[80 * (number // 2) for number in range(100)])
    found, notes = read(path)
    assert 95 <= len(found) <= 101
    assert all((after - before) % SHADES in (0, 1, 2) for before, after in itertools.pairwise(found))
    assert len(notes) == 1
    assert notes[0].startswith("its timestamps cannot be used: the frames are placed 2")


def test_the_public_files(cases):
    """They differ in one timestamp."""
    folder = cases / "one_repeated_timestamp"
    expected, _ = read(folder / "phone.mkv")
    assert len(expected) == 201
    assert read(folder / "phone_dup.mkv") == (expected, ["of 140 timestamps 1 missing or out of order: mended"])
