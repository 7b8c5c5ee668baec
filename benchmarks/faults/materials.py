"""What faults are tried on: drawn videos, a dataset and a run made of them, and small files of every other format."""

from __future__ import annotations

import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from .processes import Ended, Process, run

# Of a narrow network that is trained in a second once it is compiled.
NARROW = {
    "model.width_multiplier": 0.0625,
    "model.last_block": "Mixed_3c",
    "data.crop": 32,
    "data.frames": 9,
    "batch_size": 2,
    "evaluation.frames": 9,
    "evaluation.windows": 1,
    "evaluation.batch_size": 4,
    "log_every": 1,
}
STEPS = 12
PREPROCESSING = {"frame_rate": 10.0, "short_side": 40, "jpeg_quality": 90}
ACTIONS = ("moving left", "moving right", "growing")


class Materials:
    """The files, each made when it is first asked for.

    Attributes:
      folder: that holds them.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def videos(self) -> Path:
        """A folder of twelve videos of about a second in three containers, and `labels.csv`."""
        return self._made("videos", self._draw)

    def dataset(self) -> Path:
        """The dataset of the videos, two shards a split."""
        return self._made("dataset", lambda path: _succeed(self.prepare(path, path.parent / "logs_dataset")))

    def trained(self) -> Path:
        """The workdir of a run on the dataset that nothing interrupted."""
        dataset = self.dataset()
        return self._made("run", lambda path: _succeed(self.main(path, path.parent / "logs_run", dataset).wait()))

    def small(self) -> Path:
        """A folder of small files in the other formats."""
        return self._made("small", _write_small)

    def recipes(self) -> Path:
        """A folder with a recipe."""
        return self._made("recipes", _write_recipe)

    def hub(self) -> Path:
        """The trained network as a Hub folder."""
        newest = self.newest()
        return self._made("hub", lambda path: _write_hub(path, newest))

    def newest(self) -> Path:
        """The newest checkpoint of the trained network."""
        return max((self.trained() / "checkpoints").iterdir(), key=lambda path: int(path.name))

    def features(self) -> Path:
        """The folder of features of the videos, by the trained network."""
        arguments = self.features_arguments
        return self._made("features", lambda path: _succeed(run(arguments(path), path.parent / "logs_features")))

    def features_arguments(self, output: Path) -> list[str]:
        """The arguments of a `features` of the videos."""
        windows = ["--window", "9", "--stride", "2", "--frame_rate", "native"]
        given = [str(self.videos()), "--checkpoint", str(self.trained())]
        return ["-m", "i3d_jax.features", *given, *windows, "--output", str(output)]

    def port(self) -> Path:
        """A whole I3D of 400 classes as the other Flax port pickles it, and the names of its classes: 50 MB."""
        return self._made("port", _write_port)

    def prepare_arguments(self, output: Path, videos: Path | None = None) -> list[str]:
        """The arguments of a `prepare` of the videos."""
        videos = videos or self.videos()
        flags = [f"--{name}={value:g}" for name, value in PREPROCESSING.items()]
        names = ["--annotations", str(videos / "labels.csv"), "--videos", str(videos), "--output", str(output)]
        return ["-m", "i3d_jax.prepare", *names, "--shards=2", "--processes=1", "--name=drawn", *flags]

    def prepare(self, output: Path, logs: Path) -> Ended:
        """Runs `prepare` on the videos."""
        return run(self.prepare_arguments(output), logs)

    def main_arguments(self, workdir: Path, dataset: Path | None = None, *, steps: int = STEPS) -> list[str]:
        """The arguments of a `main` that trains on the dataset."""
        cadence = {"checkpoints.every": max(2, steps // 6), "evaluation.every": max(5, steps // 2)}
        keys = {**NARROW, **cadence, "data.directory": dataset or self.dataset(), "total_steps": steps}
        changes = [f"--config.{key}={value}" for key, value in keys.items()]
        return ["-m", "i3d_jax.main", "--config=custom.py:small", f"--workdir={workdir}", *changes]

    def main(self, workdir: Path, logs: Path, dataset: Path | None = None) -> Process:
        """Starts `main` on the dataset."""
        return Process(self.main_arguments(workdir, dataset), logs)

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        path, mark = self.folder / name, self.folder / f"{name}.made"
        if not mark.exists():
            shutil.rmtree(path, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            make(path)
            mark.touch()
        return path

    def _draw(self, folder: Path) -> None:
        import numpy as np

        from i3d_jax.drawn import actions
        from i3d_jax.video.write import write_video

        folder.mkdir()
        rows = ["video,label,split,start,end"]
        forms = ((".mp4", "libx264", "yuv420p"), (".avi", "mpeg4", "yuv420p"), (".mkv", "ffv1", "bgr0"))
        for number, video in enumerate(v for v in actions.plan({"train": 2, "test": 2}, seed=0) if v.action in ACTIONS):
            suffix, codec, pixels = forms[number % 3]
            name = Path(video.name).with_suffix(suffix).name
            frames = actions.draw(
                video.action,
                np.random.default_rng(video.scene),
                frames=video.frames,
                height=48,
                width=64,
                frame_rate=video.frame_rate,
            )
            write_video(folder / name, frames, video.frame_rate, codec=codec, pixel_format=pixels)
            rows.append(f"{name},{video.action},{video.split},{'0.1' if number % 2 else ''},")
        (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def _succeed(ended: Ended) -> None:
    if ended.code != 0:
        raise RuntimeError(f"what faults are tried on could not be made: {ended.errors[-2000:]}")


def _write_small(folder: Path) -> None:
    import numpy as np

    from i3d_jax.evaluation.features import Features
    from i3d_jax.evaluation.predictions import Predictions

    folder.mkdir()
    texts = {
        "kinetics.csv": "label,youtube_id,time_start,time_end,split\ngrowing,abcdefghijk,1,11,train\n"
        "moving left,bbcdefghijk,5,15,test\n",
        "trainlist01.txt": "Growing/v_Growing_g01_c01.avi 1\nMoving/v_Moving_g01_c01.avi 2\n",
        "classInd.txt": "1 Growing\n2 Moving\n",
        "growing_test_split1.txt": "a.avi 1 \nb.avi 2 \nc.avi 0 \n",
        "classes.txt": "growing\nmoving left\nmoving right\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    random = np.random.default_rng(0)
    logits = random.standard_normal((6, 3)).astype(np.float32)
    names = np.array([f"video{number}.mp4" for number in range(6)])
    labels = np.arange(6, dtype=np.int32) % 3
    Predictions(names, labels, logits, {"rgb": logits}).save(folder / "predictions.npz")
    values = {"rgb": random.standard_normal((6, 2, 1, 8)).astype(np.float32)}
    Features(names, labels, values, ("one",), {"checkpoint": "x", "step": 3}).save(folder / "features.npz")
    _write_statistics(folder)
    (folder / "results.json").write_text(json.dumps({"test": {"top1": 0.5, "videos": 6}}))
    lines = [{"step": step, "split": "train", "loss": 1.0 / step} for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _write_arrays(folder)


def _write_statistics(folder: Path) -> None:
    """Writes features of two sets as `fvd --save_statistics` does."""
    import numpy as np

    from i3d_jax.fvd.facts import Facts
    from i3d_jax.fvd.saved import Statistics

    facts = Facts()
    for _ in range(12):
        facts.add((64, 48), 25.0, "h264", 0.5)
    description = {
        "layer": "logits", "release": "rgb_scratch", "crc32c": "00000000", "protocol": "reference", "frames": 16,
        "stride": 1, "clips": "first", "seed": 0, "videos": 12, "shard": [0, 1], "facts": facts.to_json(),
    }  # fmt: skip
    place = np.arange(12)
    for number in range(2):
        features = np.random.default_rng(number).standard_normal((12, 4)).astype(np.float32)
        Statistics(features, place, place.astype(np.str_), description).save(folder / f"statistics{number}.npz")


def _write_recipe(folder: Path) -> None:
    folder.mkdir()
    changes = {**NARROW, "total_steps": 2, "data.directory": None, "optimizer.name": "adam"}
    lines = [f"    config.{key} = {value!r}" for key, value in changes.items() if value is not None]
    text = "\n".join(
        [
            '"""A recipe of the campaign."""',
            "",
            "from experiments import base",
            "",
            "",
            "def get_config():",
            "    config = base.get_config()",
            *lines,
            "    config.optimizer.learning_rates = (0.01, 0.001)",
            "    config.optimizer.boundaries = (1,)",
            "    return config",
        ]
    )
    (folder / "own.py").write_text(text + "\n")


def _write_hub(folder: Path, checkpoint_directory: Path) -> None:
    from i3d_jax.importers import hub
    from i3d_jax.importers.exported import Original

    hub.write(folder, Original.read(checkpoint_directory))


def _write_arrays(folder: Path) -> None:
    """Writes a few arrays as the files of other programs, without what makes them an I3D."""
    import numpy as np

    arrays = {
        "Conv3d_1a_7x7/Conv_0/kernel": np.ones((2, 2, 2, 3, 4), np.float32),
        "Conv3d_1a_7x7/BatchNorm_0/bias": np.ones(4, np.float32),
    }
    with open(folder / "arrays.ckpt", "wb") as file:
        pickle.dump({"params": arrays}, file)
    with tarfile.open(folder / "arrays.tar.gz", "w:gz") as archive:
        archive.add(folder / "arrays.ckpt", "package/arrays.ckpt")
    from i3d_jax.data import cpu_tensorflow

    tf = cpu_tensorflow.load()
    names = {f"RGB/inception_i3d/{name}": array for name, array in arrays.items()}
    tf.raw_ops.SaveV2(
        prefix=str(folder / "model.ckpt"),
        tensor_names=list(names),
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(array) for array in names.values()],
    )
    try:
        from i3d_jax.importers import torch_file

        state = {name.replace("/", "."): array for name, array in arrays.items()}
        torch_file.write_state_dict(folder / "arrays.pt", state)
        torch_file.write_safetensors(folder / "arrays.safetensors", state, labels=["a", "b"], stream="rgb")
    # Without PyTorch its files are not tried.
    except ValueError:
        pass


def _write_port(folder: Path) -> None:
    import jax
    import numpy as np

    from i3d_jax import models
    from i3d_jax.importers import flax_i3d, naming

    folder.mkdir()
    random = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: random.uniform(0.5, 1.5, leaf.shape).astype(np.float32), models.template(models.create("i3d", 400))
    )
    content: dict = {}
    for name, array in naming.scatter(variables, flax_i3d.NAMING).items():
        *above, leaf = name.split("/")
        place = content
        for key in above:
            place = place.setdefault(key, {})
        place[leaf] = array
    with open(folder / "i3d.ckpt", "wb") as file:
        pickle.dump(content, file, protocol=4)
    (folder / "label_map.txt").write_text("".join(f"class {number}\n" for number in range(400)))
