"""The published datasets: their counts keep what their papers say of them."""

import pytest

from i3d_jax.ingest.annotations import DIALECTS
from i3d_jax.ingest.published_counts import SPECS


def test_every_video_of_ucf101_is_in_one_half_of_each_split():
    splits = SPECS["ucf101"].splits
    assert [splits[f"train0{number}"] + splits[f"test0{number}"] for number in (1, 2, 3)] == [13_320] * 3


def test_hmdb51_takes_70_and_30_of_each_class():
    spec = SPECS["hmdb51"]
    assert {split: count / spec.classes for split, count in spec.splits.items()} == {
        **{"train01": 70, "train02": 70, "train03": 70},
        **{"test01": 30, "test02": 30, "test03": 30},
    }


def test_mini_kinetics_takes_400_and_25_of_each_class():
    spec = SPECS["mini_kinetics200"]
    assert {split: count / spec.classes for split, count in spec.splits.items()} == {"train": 400, "val": 25}


@pytest.mark.parametrize(("edition", "classes"), [("400", 400), ("600", 600), ("700", 700), ("700_2020", 700)])
def test_kinetics_has_as_many_classes_as_it_is_named_after(edition, classes):
    spec = SPECS[f"kinetics{edition}"]
    assert spec.classes == classes
    # The readme of the CSV files: at most 50 clips of a class are for validation.
    assert 45 * classes < spec.splits["val"] <= 50 * classes
    assert spec.splits["val"] < spec.splits["test"] < spec.splits["train"]


def test_specs_are_known_by_their_names_and_have_a_dialect_and_a_source():
    assert all(name == spec.name and spec.dialect in DIALECTS and spec.source for name, spec in SPECS.items())


def test_a_validation_split_by_any_name():
    spec = SPECS["kinetics400"]
    assert [spec.published(split) for split in ("val", "validate", "validation")] == [19_906] * 3
    assert (spec.published("train"), spec.published("holdout_test")) == (246_534, None)
    assert SPECS["ucf101"].published("val") is None
