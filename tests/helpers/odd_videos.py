"""Videos whose frames tell their number, in files as muxers, editors and cameras leave them."""

import struct
from fractions import Fraction

import av
import numpy as np

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video.encoded import decode_images, streams_of

HEIGHT, WIDTH = 32, 48
SHADES = 40  # Of grey, 6 apart: the number of a frame, from 0 again after each 40.
AS_STORED = Preprocessing(short_side=HEIGHT)


def numbered(count, height=HEIGHT, width=WIDTH):
    """Yields uint8 [H, W, 3] frames that tell their number by their grey."""
    for number in range(count):
        yield np.full((height, width, 3), 6 * (number % SHADES) + 8, np.uint8)


def numbers(frames):
    """Returns the numbers, modulo `SHADES`, of frames [N, H, W, 3]."""
    return np.round((np.asarray(frames, np.float64).mean((1, 2, 3)) - 8) / 6).astype(int).tolist()


def quality(codec):
    """Returns the options with which FFmpeg's own encoders keep every shade."""
    own = ("mpeg2video", "mpeg4", "flv", "h263")
    return {"qmin": "1", "qmax": "2"} if codec in own else {}


def read(path, **piece):
    """Returns the numbers of the frames that a dataset would hold, and the notes."""
    notes = []
    streams = streams_of(path, AS_STORED, note=notes.append, **piece)
    return numbers(decode_images(streams["rgb"])), notes


def write(path, frames, *, codec="mpeg4", pixel_format="yuv420p", rate=25, times=None, sound=None, options=None):
    """Writes a video.

    Args:
      path: its suffix names the container.
      frames: uint8 [H, W, 3].
      codec: of the video.
      pixel_format: of the video.
      rate: frames a second.
      times: milliseconds of each frame, for packets as they are; None for a constant rate.
      sound: (codec, seconds) of a silent track; None for none.
      options: of the encoder.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={**quality(codec), **(options or {})})
        stream.pix_fmt = pixel_format
        audio = None
        if sound is not None:
            audio = container.add_stream(sound[0], rate=48000, layout="mono")
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            packets = stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))
            if times is not None:
                for packet in packets:
                    packet.time_base = Fraction(1, 1000)
                    packet.pts = packet.dts = times[number]
                    packet.duration = 0
            container.mux(packets)
        container.mux(stream.encode(None))
        if audio is not None:
            _write_silence(container, audio, sound[1])


def _write_silence(container, stream, seconds):
    size = 960
    for start in range(0, round(seconds * 48000), size):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, size), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def change_flv_times(path, change):
    """Gives every video packet of an FLV file the milliseconds change(number, milliseconds)."""
    content = bytearray(path.read_bytes())
    at, number = 13, 0
    while at < len(content):
        kind, size = content[at], int.from_bytes(content[at + 1 : at + 4], "big")
        if kind == 9:
            time = int.from_bytes(content[at + 4 : at + 7], "big") | content[at + 7] << 24
            changed = struct.pack(">I", change(number, time))
            content[at + 4 : at + 8] = changed[1:] + changed[:1]
            number += 1
        at += 11 + size + 4
    path.write_bytes(content)
    return number
