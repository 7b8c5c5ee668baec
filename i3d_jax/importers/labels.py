"""The classes' names of a foreign checkpoint, from a file with one name a line."""

from __future__ import annotations

from pathlib import Path

from i3d_jax.data.labels import spelt
from i3d_jax.importers.imported import Imported
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import opened

# The release's layout: data/label_map.txt above data/checkpoints/rgb_imagenet/model.ckpt.index.
LEVELS_UP = 3


def labels_of(imported: Imported, path: Path | None) -> tuple[list[str], str]:
    """Finds the names of an imported network's classes.

    Args:
      imported: the network.
      path: a file of names, if the user gives one; otherwise they are those that the file of the weights holds, or
        those found beside it. An image network does without: nobody looks at its classes once it has been inflated.

    Returns:
      (the names in the order of the scores, where they come from).

    Raises:
      UserError: there are none, or another number than there are classes.
    """
    if path is not None:
        return read_labels(path, imported.num_classes), str(path)
    if imported.weights.labels is not None:
        return list(imported.weights.labels), str(imported.weights.source)
    if imported.model == "inception_v1":
        names = [f"class {number}" for number in range(imported.num_classes)]
        return names, "none given, so they are called 'class 0', 'class 1' and so on"
    found, names = find_labels(imported.weights.files[0], imported.num_classes)
    return names, str(found)


def read_labels(path: Path, num_classes: int) -> list[str]:
    """Reads the names of classes, one a line in the order of the scores.

    Raises:
      UserError: the file cannot be read, has an empty line between others, or another number of names.
    """
    labels = _lines(path)
    if "" in labels:
        raise UserError(f"{path}: line {labels.index('') + 1} is empty, expected the name of a class")
    if len(labels) != num_classes:
        raise UserError(f"{path} names {len(labels)} classes, the checkpoint has {num_classes}")
    return labels


def find_labels(checkpoint: Path, num_classes: int) -> tuple[Path, list[str]]:
    """Finds the file `label_map*.txt` that has as many names as there are classes.

    Args:
      checkpoint: the file whose folder, the three above it and the folder `data` in each are searched, nearest first.
      num_classes: names to find.

    Returns:
      (the file, its names).

    Raises:
      UserError: there is none, or several in one folder that differ.
    """
    parent = checkpoint.resolve().parent
    above = [parent, *list(parent.parents)[:LEVELS_UP]]
    seen = []
    # The folder `data` is met twice where the checkpoint is below it.
    for folder in dict.fromkeys(folder for one in above for folder in (one, one / "data")):
        maps = {path: _lines(path) for path in sorted(folder.glob("label_map*.txt"))}
        fitting = {path: labels for path, labels in maps.items() if len(labels) == num_classes}
        if len(set(map(tuple, fitting.values()))) > 1:
            raise UserError(f"{' and '.join(map(str, fitting))} differ: name one of them by --labels")
        if fitting:
            path = next(iter(fitting))
            return path, read_labels(path, num_classes)
        seen += [f"{path} names {len(labels)}" for path, labels in maps.items()]
    raise UserError(
        f"the names of the {num_classes} classes of {checkpoint} were not found: looked for label_map*.txt in "
        f"{above[0]} and up to {above[-1]}, and in the folders 'data' there"
        + (f" ({'; '.join(seen)})" if seen else "")
        + "; give --labels FILE"
    )


def _lines(path: Path) -> list[str]:
    """The lines of a text file without the empty ones at its end."""
    try:
        with opened(path) as file:
            text = file.read().decode("utf-8-sig")
    except UserError as error:
        raise UserError(f"the labels {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the labels {path}: text in UTF-8 was expected, found none at byte {error.start}") from None
    return [spelt(line) for line in text.rstrip().splitlines()]
