"""A trained network for use on videos, from Python (`i3d_jax.load(DIR)`) and by the commands."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from i3d_jax import checkpoint
from i3d_jax.clips import STREAMS
from i3d_jax.importers import hub
from i3d_jax.inference.batching import Program, Wanted
from i3d_jax.inference.scores import best, refuse_not_finite
from i3d_jax.inference.timeline import moments
from i3d_jax.inference.videos import Video, videos
from i3d_jax.models.network import Network
from i3d_jax.system import copies, files, terminal
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file
from i3d_jax.training.partition import Devices
from i3d_jax.video.frames import Frames
from i3d_jax.video.pictures import FrameArray, Making, Source, VideoFile
from i3d_jax.video.plans import Plan, Sliding, Spread
from i3d_jax.video.view import View, completed, together
from i3d_jax.video.windows import refuse_missing, too_few

# Frames of a window, and from one to the next, unless they are asked for.
WINDOW, STRIDE = 64, 16

# A file, or uint8 RGB [T, H, W, 3] in 0..255 at the frame rate that the network was trained on.
VideoOrFrames = str | os.PathLike | np.ndarray


class LoadedNetwork:
    """A checkpoint that looks at videos.

    Every method takes a video file of any length or format, or frames uint8 RGB [T, H, W, 3] in 0..255 at the rate of
    `preprocessing["frame_rate"]`, of any size. Their pixels are prepared exactly as those that the network was trained
    on, JPEG included. A program is compiled once for each size of a window.

    Attributes:
      directory: the checkpoint.
      name: what it is called in a sentence.
      model: the network.
      variables: {"params", "batch_stats"}, on this process's devices.
      metadata: the object of `model.json`.
      labels: the names of the classes, in the order of the logits.
      preprocessing: how pixels are prepared: `metadata["preprocessing"]`.
      notes: sentences on what had to be assumed.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        name: str | None = None,
        precision: str = "highest",
    ):
        """Reads a checkpoint.

        Args:
          directory: a checkpoint, a workdir, of which the newest is taken, or a Hub folder.
          name: what to call it in a sentence; None for the directory.
          precision: as of `training.precision.computed_in`.

        Raises:
          UserError: as `checkpoint.load`; or the network sees no videos, or pixels that cannot be prepared here.
        """
        self.directory = files.path(directory)
        self.name = str(directory) if name is None else name
        self.model: Network
        # A workdir has a config.json, too.
        if is_file(self.directory / hub.ARRAYS) and not checkpoint.is_whole(self.directory):
            with copies.on_this_machine(self.directory) as here:
                description, variables, _ = hub.read(here)
            self.model, self.metadata = description.create_model(), dataclasses.asdict(description)
        else:
            self.model, variables, self.metadata = checkpoint.load(directory)
        if not self.model.sees_videos:
            raise UserError(f"{self.name} is a network of single images, inception_v1: it names nothing in a video")
        self.labels: list[str] = list(self.metadata["labels"])
        self.preprocessing: dict[str, Any] = self.metadata["preprocessing"]
        complete, note = completed(self.preprocessing, streams=self.model.streams, where=self.name)
        self.notes = [note] if note else []
        self.view = View.of_checkpoint(complete, streams=self.model.streams, where=self.name)
        self._devices = Devices(devices=jax.local_devices())
        self.variables: Mapping[str, Any] = self._devices.place(variables)
        self._precision = precision
        self._programs: dict[Any, Program] = {}

    def program(self, wanted: Wanted, window: int | None = None) -> Program:
        """Returns what computes something of windows of a size; asked for the same again, it gives the same.

        Args:
          wanted: what is computed.
          window: frames that a window stands for; None for the evaluation's.
        """
        key = wanted, window
        if key not in self._programs:
            self._programs[key] = Program(
                self.model,
                self._devices,
                self.variables,
                wanted,
                precision=self._precision,
            )
        return self._programs[key]

    def predict(self, video: VideoOrFrames, *, top_k: int = 5, windows: int | None = None) -> list[dict[str, Any]]:
        """Names the action in a video: the mean of the logits of the evaluation's windows over the whole of it.

        Args:
          video: a file, or frames.
          top_k: classes named.
          windows: of the video, evenly spread; None for as many as cover it.

        Returns:
          The best classes, the best first: {"label", "probability" (0 to 1), "logit"} each.

        Raises:
          UserError: the video cannot be read, or the scores are no numbers.
        """
        done = self._of_video(video, Wanted(), Spread(windows), None)
        return best(self.logits(done, video_name(video)).mean(0), self.labels, top_k)

    def timeline(
        self, video: VideoOrFrames, *, window: int = WINDOW, stride: int = STRIDE, top_k: int = 5
    ) -> list[dict[str, Any]]:
        """Names the actions in a video's windows, one after the other.

        Args:
          video: a file, or frames.
          window, stride: in frames.
          top_k: classes named of each window.

        Returns:
          For each window {"start", "end" (seconds), "label", "probability", "predictions" (as of `predict`)}.

        Raises:
          UserError: as `predict`; or the video is shorter than a window.
        """
        done = self._of_video(video, Wanted(steps=True), Sliding(window, stride), window)
        rate = float(self.view.stored.frame_rate)
        spans = [(first / rate, after / rate) for first, after in done.spans]
        logits = self.logits(done, video_name(video))[:, 0]
        return [moment.to_json() for moment in moments(logits, spans, self.labels, top_k)]

    def features(
        self,
        video: VideoOrFrames,
        *,
        window: int = WINDOW,
        stride: int = STRIDE,
        endpoint: str = "",
        pooled: bool = True,
    ) -> np.ndarray:
        """Computes a vector for each window of a video; vector i stands for the frames from i x stride on.

        Args:
          video: a file, or frames.
          window, stride: in frames. There are N = floor((F - window) / stride) + 1 windows.
          endpoint: the name of one; "" for what the classifier sees: I3D's last pool, 1024 values.
          pooled: whether an endpoint's mean over time and space is taken.

        Returns:
          float32 [N, C]; with `pooled` False [N, ...], as the endpoint is.

        Raises:
          UserError: as `timeline`; or there is no such endpoint: those there are are named.
        """
        wanted = Wanted(endpoint, pooled)
        done = self._of_video(video, wanted, Sliding(window, stride), window)
        values = np.concatenate(done.results[0])
        self.refuse_not_finite(values, "features", video_name(video))
        return values

    def logits(self, done: Video, name: str, number: int = 0) -> np.ndarray:
        """Returns the logits of a video's windows, float32 [N, classes], means over crops, of which all are numbers.

        With `Wanted.steps` those of each step, too: [N, 1 + steps, classes].
        """
        logits = np.stack([own.mean(0) for own in done.results[number]])
        self.refuse_not_finite(logits, "scores", name)
        return logits

    def refuse_not_finite(self, values: np.ndarray, what: str, name: str) -> None:
        """Raises a `UserError` where scores or features are no numbers."""
        refuse_not_finite(values, what=what, where=self.name, video=name)

    def _of_video(self, video: VideoOrFrames, wanted: Wanted, plan: Plan, window: int | None) -> Video:
        [done] = videos([self.program(wanted, window)], sources_of([self], [video], plan), plan, [self.view])
        done.refuse_failure(video_name(video))
        return done


def refuse_other_streams(networks: Sequence[LoadedNetwork]) -> None:
    """Raises a `UserError` for two networks, of --checkpoint and --flow_checkpoint, that are not of RGB and of flow."""
    if len(networks) == 1:
        return
    for flag, stream, network in zip(("--checkpoint", "--flow_checkpoint"), STREAMS, networks, strict=True):
        if tuple(network.model.streams) != (stream,):
            raise UserError(
                f"{flag}: with --flow_checkpoint a network of {stream} alone was expected, {network.name} is one of "
                f"{' and '.join(network.model.streams)}"
            )


def sources_of(
    networks: Sequence[LoadedNetwork],
    given: Sequence[VideoOrFrames],
    plan: Plan,
    *,
    frames: Frames | None = None,
    start: float | None = None,
    end: float | None = None,
    note: Callable[[str, str], None] = lambda name, sentence: None,
) -> list[Callable[[], Source]]:
    """Returns what opens each video as the networks see it.

    Args:
      networks: they see the same frames.
      given: files, or frames.
      plan: which windows are wanted; of those that are spread over a video too few frames are told.
      frames: at which rate and size, if not those that the networks were trained on.
      start, end: seconds of the piece of each.
      note: called with a video's name and each sentence on it.

    Raises:
      UserError: two networks see other frames; both are named.
    """
    views = [network.view for network in networks]
    stored = together(views, [network.name for network in networks])
    streams = tuple({stream: None for view in views for stream in view.streams})
    making = Making(streams=streams, stored=stored, flow_threads=os.cpu_count() or 1)

    def opened(video: VideoOrFrames) -> Source:
        name = video_name(video)
        tell = functools.partial(note, name)
        if isinstance(video, np.ndarray):
            return FrameArray(video, frames or Frames.of(stored), making)
        refuse_missing(video)
        if "flow" in streams:
            terminal.say(f"computing the flow of {name} …")
        source = VideoFile(video, frames or Frames.of(stored), making, start=start, end=end, note=tell)
        reach = max(view.reach for view in views)
        if plan.needs_count and (warning := too_few(source.count(reach), reach)):
            tell(warning)
        return source

    return [functools.partial(opened, video) for video in given]


def video_name(video: VideoOrFrames) -> str:
    """Returns what to call a video in a sentence."""
    return "the array of frames" if isinstance(video, np.ndarray) else os.fspath(video)
