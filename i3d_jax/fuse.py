"""Takes two streams that were trained apart together: sums their predictions of the same videos and scores the sum."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from i3d_jax.evaluation.accuracy import score
from i3d_jax.evaluation.fusion import fuse
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.system import files
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.files import is_standard_output

EXAMPLE = """\
example:
  python -m i3d_jax.fuse runs/rgb/predictions/test01.npz runs/flow/predictions/test01.npz
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = _parser().parse_args(arguments)
    names = (options.first, options.second)
    first, second = (Predictions.load(file) for file in names)
    fused = fuse(first, second, _weights(options.weights), names=names)
    rows = [*zip(names, (first, second), strict=True), ("the sum", fused)]
    width = max(len(name) for name, _ in rows)
    # The figures are not to get among the bytes of a file.
    screen = sys.stderr if options.output and is_standard_output(options.output) else sys.stdout
    for name, one in rows:
        figures = score(one.logits, one.label)
        print(
            f"{name:{width}}  top-1 {100 * figures['top1']:5.1f}%, top-5 {100 * figures['top5']:5.1f}%, "
            f"mean class accuracy {100 * figures['mean_class_accuracy']:5.1f}%, {figures['videos']} videos",
            file=screen,
        )
    if options.output:
        fused.save(files.path(options.output))
        print(f"the predictions of the sum are in {options.output}", file=screen)


def _weights(text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise UserError(f"--weights: two numbers with a comma between them were expected, found {text!r}") from None


def _parser() -> Parser:
    parser = Parser(
        prog="python -m i3d_jax.fuse",
        description=__doc__,
        epilog=EXAMPLE,
    )
    parser.add_argument("first", metavar="A.npz", help="WORKDIR/predictions/SPLIT.npz of one run")
    parser.add_argument("second", metavar="B.npz", help="that of another, of the same split")
    parser.add_argument(
        "--weights", metavar="A,B", default="1,1", help="what each one's logits count (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="FILE", help="gets the sum, an .npz file as those that are read")
    return parser


if __name__ == "__main__":
    run(main)
