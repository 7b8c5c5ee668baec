"""The published datasets: how many classes and, in each split, how many videos they are said to have.

The counts are what `prepare --check` compares a copy with. Those of UCF-101 and HMDB-51 are exact: the lists have been
published once. **Those of Kinetics vary with the version of the CSV**: videos that had left YouTube were taken out
again and again, and DeepMind, the ActivityNet crawler and CVDF each published their own. Every row says whose it has:
those of CVDF, which hosts the videos too, where it has published some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# What the validation split is called in one or another version of Kinetics: its CSV files and its folders.
VALIDATION_NAMES = ("val", "validate", "validation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """A published dataset.

    Attributes:
      name: under which `--spec` knows it.
      dialect: of its annotations.
      classes: how many it has.
      splits: how many videos each has, by name.
      source: whose counts these are.
    """

    name: str
    dialect: str
    classes: int
    splits: Mapping[str, int]
    source: str

    def published(self, split: str) -> int | None:
        """Returns how many videos a split has, None where no count was published."""
        names = VALIDATION_NAMES if split in VALIDATION_NAMES else (split,)
        return next((self.splits[name] for name in names if name in self.splits), None)


SPECS = {
    spec.name: spec
    for spec in (
        Spec(
            name="kinetics400",
            dialect="kinetics",
            classes=400,
            splits={"train": 246_534, "val": 19_906, "test": 39_805},
            source="CVDF's CSV files (arrange_by_classes.py of github.com/cvdfoundation/kinetics-dataset)",
        ),
        Spec(
            name="kinetics600",
            dialect="kinetics",
            classes=600,
            splits={"train": 427_549, "val": 29_793, "test": 72_924},
            source="CVDF's lists, by FiftyOne's documentation (docs.voxel51.com); ActivityNet's has 30,000 in val",
        ),
        Spec(
            name="kinetics700",
            dialect="kinetics",
            classes=700,
            splits={"train": 529_046, "val": 33_925, "test": 67_446},
            source="FiftyOne's documentation (docs.voxel51.com)",
        ),
        Spec(
            name="kinetics700_2020",
            dialect="kinetics",
            classes=700,
            splits={"train": 534_073, "val": 33_914, "test": 64_260},
            source="CVDF's lists, by FiftyOne's documentation (docs.voxel51.com); the original has 542,352 in train",
        ),
        # Not the miniKinetics of I3D's slides, whose 213 classes were never published.
        Spec(
            name="mini_kinetics200",
            dialect="kinetics",
            classes=200,
            splits={"train": 80_000, "val": 5_000},
            source="the lists of github.com/s9xie/Mini-Kinetics-200 (Xie et al., arXiv 1712.04851)",
        ),
        # 13,320 videos, each of them in the training or the test split of every one of the three.
        Spec(
            name="ucf101",
            dialect="ucf101",
            classes=101,
            splits={
                **{"train01": 9_537, "test01": 3_783},
                **{"train02": 9_586, "test02": 3_734},
                **{"train03": 9_624, "test03": 3_696},
            },
            source="the lists for action recognition of crcv.ucf.edu/data/UCF101.php (Soomro et al., CRCV-TR-12-01)",
        ),
        # 6,766 videos; each split takes 70 of every class for training and 30 for testing and leaves the rest out.
        Spec(
            name="hmdb51",
            dialect="hmdb51",
            classes=51,
            splits={
                f"{half}0{number}": count for number in (1, 2, 3) for half, count in (("train", 3_570), ("test", 1_530))
            },
            source="the marks of its split files (Kuehne et al., ICCV 2011)",
        ),
    )
}
