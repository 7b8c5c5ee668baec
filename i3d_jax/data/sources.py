"""The sources that a run's videos may come from; each gives a `Dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from i3d_jax.data.dataset import Dataset, open_dataset
from i3d_jax.data.foreign import Stated
from i3d_jax.data.foreign_records import open_records
from i3d_jax.data.foreign_tfds import open_set
from i3d_jax.system.errors import UserError, did_you_mean

# What `data.directory` is for each.
SOURCES = {
    "prepared": "a folder that `prepare` wrote",
    "sequence_examples": "a folder of shards that MediaPipe or DMVR wrote",
    "tfds": "the data_dir of TensorFlow Datasets",
}


def open_source(
    source: str, *, directory: str | None, tfds_name: str | None, labels: str | None, stated: Mapping[str, Any]
) -> Dataset:
    """Opens a dataset; the arguments are the keys `data.*` of a configuration (`experiments/base.py`).

    Raises:
      UserError: there is no such source, a key that it needs is not set, one is set that it does not read, or what is
        named is no such dataset.
    """
    if source not in SOURCES:
        raise UserError(
            f"data.source must be one of {', '.join(SOURCES)}, found {source!r}{did_you_mean(source, SOURCES)}"
        )
    # Somebody who sets a key that is not read means another source.
    idle = {
        "data.tfds_name": tfds_name is not None and source != "tfds",
        "data.labels": labels is not None and source != "sequence_examples",
        **{f"data.stated.{key}": value is not None and source == "prepared" for key, value in stated.items()},
    }
    if found := [key for key, is_idle in idle.items() if is_idle]:
        raise UserError(f"data.source {source!r} does not read {', '.join(found)}: another source was expected with it")
    if directory is None:
        raise UserError(f"no dataset is named: expected --config.data.directory=DIR, {SOURCES[source]}")
    if source == "prepared":
        return open_dataset(directory)
    if source == "sequence_examples":
        return open_records(directory, labels=labels, stated=Stated(**stated))
    if tfds_name is None:
        raise UserError("no set is named: expected --config.data.tfds_name=SET, such as ucf101/ucf101_1")
    return open_set(tfds_name, directory, stated=Stated(**stated))
