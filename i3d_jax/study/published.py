"""The published numbers of the paper's tables, in percent.

- `accuracy` and `transfer` are of the first version of the paper (Carreira and Zisserman, arXiv 1705.07750v1) and of
  the talk's slides, "Results 1" and "Results 2". UCF-101 and HMDB-51: test split 1. The two tables differ in one number
  that should be the same: the 3D-ConvNet on UCF-101 without miniKinetics has 51.6 in the first and 49.2 in the second.
- `kinetics` and `transfer_from_kinetics` are tables 3 and 4 of the third version. The 3D-ConvNet is trained from
  scratch in either case. Its transferred numbers are those of the first version, but for 47.0 on HMDB-51, 47.5 there.

Every number was compared in two sources: the paper's first version with the slides; the third version, in a
transcription of its text, with its Kinetics column in table 2, with what it shares with the first version, and with the
release's README (github.com/google-deepmind/kinetics-i3d). Where only the transcription has a number, a † follows it.
In table 2 the transcription has 63.6 for (a), in table 3, as everywhere else, 63.3.
"""

from __future__ import annotations

# By row: the paper's letter and name, and the beginnings of the recipes' variants.
ARCHITECTURES = {
    "conv_lstm": "(a) ConvNet+LSTM",
    "c3d": "(b) 3D-ConvNet",
    "two_stream": "(c) Two-Stream",
    "fused": "(d) 3D-Fused Two-Stream",
    "i3d": "(e) Two-Stream I3D",
}
# The tables, and the groups of their columns: a group's columns are named GROUP/COLUMN.
TITLES = {
    "accuracy": "Training and testing on each dataset, top-1",
    "transfer": "Transfer from miniKinetics, top-1, and the change of the error",
    "kinetics": "Kinetics, top-1",
    "transfer_from_kinetics": "Transfer from Kinetics, top-1",
}
ONE_SOURCE = "†"
ONE_SOURCE_NOTE = f"{ONE_SOURCE} published, and found in one source only"
GROUPS = {
    "accuracy": {"ucf101": "UCF-101", "hmdb51": "HMDB-51", "minikinetics": "miniKinetics"},
    "transfer": {"ucf101": "UCF-101", "hmdb51": "HMDB-51"},
    "kinetics": {"imagenet": "from ImageNet", "scratch": "from scratch"},
    "transfer_from_kinetics": {
        "ucf101": "UCF-101, from ImageNet",
        "ucf101_scratch": "UCF-101, from scratch",
        "hmdb51": "HMDB-51, from ImageNet",
        "hmdb51_scratch": "HMDB-51, from scratch",
    },
}
STREAM_COLUMNS = {"rgb": "RGB", "flow": "flow", "rgb+flow": "RGB+flow"}
TRANSFER_COLUMNS = {"original": "Original", "fixed": "Fixed", "full": "Full-FT", "reduction": "Δ error"}
PROTOCOL_COLUMNS = {name: title for name, title in TRANSFER_COLUMNS.items() if name != "reduction"}
COLUMNS = {
    "accuracy": STREAM_COLUMNS,
    "transfer": TRANSFER_COLUMNS,
    "kinetics": STREAM_COLUMNS,
    "transfer_from_kinetics": PROTOCOL_COLUMNS,
}

_NUMBERS = {
    "accuracy": """
        conv_lstm   81.0    -    -  36.0    -    -  69.9    -    -
        c3d         51.6    -    -  24.3    -    -  60.0    -    -
        two_stream  83.6 85.6 91.2  43.2 56.3 58.3  70.1 58.4 72.9
        fused       83.2 85.8 89.3  49.2 55.5 56.8  71.4 61.0 74.0
        i3d         84.5 90.6 93.4  49.8 61.9 66.4  74.1 69.6 78.7
    """,
    "transfer": """
        conv_lstm   81.0 81.6 82.1  -6.0  36.0 46.6 46.4 -16.7
        c3d         49.2 76.0 79.9 -60.5  24.3 47.5 49.4 -33.1
        two_stream  91.2 90.3 91.5  -3.4  58.3 64.0 58.7 -13.7
        fused       89.3 88.5 90.1  -7.5  56.8 59.0 61.4 -10.6
        i3d         93.4 95.7 96.5 -47.0  66.4 74.3 75.9 -28.3
    """,
    "kinetics": """
        conv_lstm   63.3    -    -  53.9†     -     -
        c3d            -    -    -  56.1      -     -
        two_stream  62.2 52.4 65.6  57.9† 49.6† 62.8†
        fused          -    - 67.2      -     - 62.7†
        i3d         71.1 63.4 74.2  68.4   61.5  71.6
    """,
    "transfer_from_kinetics": """
        conv_lstm   81.0 88.1† 91.0†  54.2† 82.6† 86.8†  36.0 50.8† 53.4†  18.3† 47.1† 49.7†
        c3d            -     -     -  51.6  76.0  79.9      -     -     -  24.3  47.0† 49.4
        two_stream  91.2 93.9† 94.2†  83.6† 93.3† 93.8†  58.3 66.6† 66.6†  47.1† 65.9† 64.3†
        fused       89.3 94.3† 94.2†  69.5† 89.8† 91.5†  56.8 69.9† 71.0†  37.3† 64.6† 66.5†
        i3d         93.4 97.7  98.0   88.8  97.4  97.6   66.4 79.7  81.2   62.2  78.6  81.3
    """,
}


def columns(table: str) -> list[str]:
    """The names of a table's columns, GROUP/COLUMN, from left to right."""
    return [f"{group}/{column}" for group in GROUPS[table] for column in COLUMNS[table]]


def numbers(table: str) -> dict[tuple[str, str], float]:
    """A table's published numbers, in percent, by row and column; a cell without one is not there."""
    return {place: float(text.removesuffix(ONE_SOURCE)) for place, text in _texts(table).items()}


def of_one_source(table: str, row: str, column: str) -> bool:
    """Says whether a cell's published number was found in one source only."""
    return _texts(table).get((row, column), "").endswith(ONE_SOURCE)


def _texts(table: str) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for line in _NUMBERS[table].strip().splitlines():
        row, *values = line.split()
        pairs = zip(columns(table), values, strict=True)
        found |= {(row, column): value for column, value in pairs if value != "-"}
    return found
