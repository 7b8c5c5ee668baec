"""Transport streams whose counters do not go on: recordings that were joined, and those that lack packets."""

import pytest
from helpers.odd_videos import SHADES, numbered, read, write

from i3d_jax.video.decode import UnreadableVideo

PACKET = 188  # Bytes.
SENTENCE = "as damaged, as where recordings were joined: no frame is missing there"


def stream(path, count, codec="mpeg2video"):
    write(path, numbered(count), codec=codec, options={"g": "10", "bf": "2"})
    return path.read_bytes()


@pytest.mark.parametrize("codec", ["mpeg2video", "mpeg4", "libx264"])
def test_a_recording_joined_to_itself(tmp_path, codec):
    path = tmp_path / "a.ts"
    once = stream(path, 100, codec)
    expected, notes = read(path)
    assert (expected, notes) == ([number % SHADES for number in range(100)], [])
    path.write_bytes(once * 3)
    found, notes = read(path)
    assert found == expected * 3
    assert notes == ["time begins anew 2x on the way: carried on", f"the file marks 2 places {SENTENCE}"]


def test_two_recordings_joined(tmp_path):
    path = tmp_path / "a.ts"
    path.write_bytes(stream(tmp_path / "b.ts", 60) + stream(tmp_path / "c.ts", 30))
    found, notes = read(path)
    assert found == [number % SHADES for number in (*range(60), *range(30))]
    assert len(notes) == 2


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
@pytest.mark.parametrize(("first", "last"), [(0.3, 0.4), (0.5, 0.9), (0.6, None)])
def test_a_stream_of_which_packets_are_missing(tmp_path, codec, first, last):
    path = tmp_path / "a.ts"
    whole = stream(path, 100, codec)
    packets = len(whole) // PACKET
    end = round(first * packets) + 1 if last is None else round(last * packets)
    path.write_bytes(whole[: round(first * packets) * PACKET] + whole[end * PACKET :])
    with pytest.raises(UnreadableVideo, match=r"damaged or cut off after \d+ frames"):
        read(path)


def test_the_public_file(cases, tmp_path):
    path = cases / "joined_transport_streams" / "hls_joined.ts"
    found, notes = read(path)
    assert (len(found), notes) == (150, [f"the file marks 2 places {SENTENCE}"])
    (tmp_path / "twice.ts").write_bytes(path.read_bytes() * 2)
    assert len(read(tmp_path / "twice.ts")[0]) == 300
