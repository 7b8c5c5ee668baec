"""Trains a recipe to the end, evaluating on the way, or evaluates the checkpoint that it finds.

Started again on the same workdir, training goes on where it stopped. On SIGTERM it saves the step that it is at and
ends with exit code 143.
"""

from __future__ import annotations

from collections.abc import Sequence

from i3d_jax.run import build
from i3d_jax.run import recipe as configuration
from i3d_jax.system import cluster, files, hosts
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run

EXAMPLE = """\
examples:
  python -m i3d_jax.main --config experiments/quickstart.py --workdir runs/quickstart
  python -m i3d_jax.main --config experiments/custom.py:small --config.data.directory=DATASET --config.total_steps=500
  python -m i3d_jax.main --config experiments/custom.py --workdir DIR --mode evaluate --config.evaluation.split=test
  python -m i3d_jax.main --config experiments/custom.py --config.data.directory=DATASET --workdir DIR \\
    --mode evaluate --checkpoint checkpoints/rgb_scratch

experiments/base.py holds every key, with a comment.
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options, overrides = _parser().parse_known_args(arguments)
    cluster.join(options)
    with cluster.explained():
        config = configuration.load(options.config, overrides)
        workdir = files.path(options.workdir or f"runs/{configuration.recipe_name(options.config)}")
        if options.checkpoint is not None and (options.mode != "evaluate" or options.workdir is None):
            raise UserError("--checkpoint goes with --mode evaluate and with --workdir, a folder for the figures")
        given = {"--mode": options.mode, "--workdir": str(workdir), "--checkpoint": options.checkpoint}
        hosts.refuse_different({**given, **configuration.flat(config)}, what="configuration")
        if options.mode == "train":
            build(config, workdir).train()
        else:
            source = None if options.checkpoint is None else files.path(options.checkpoint)
            build(config, workdir, evaluates_only=True, source=source).evaluate(source)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m i3d_jax.main",
        description=__doc__,
        epilog=EXAMPLE,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE.py[:VARIANT]",
        required=True,
        help="the recipe; --config.KEY=VALUE changes a key of it",
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="gets checkpoints, metrics and predictions (default: runs/NAME-OF-THE-RECIPE)"
    )
    parser.add_argument(
        "--mode", choices=("train", "evaluate"), default="train", help="what to do (default: %(default)s)"
    )
    checkpoint_help = (
        "with --mode evaluate: a checkpoint to score in place of the workdir's, such as a published one; the dataset's "
        "classes are found among its own by their names, and the figures go to the workdir"
    )
    parser.add_argument("--checkpoint", metavar="DIR", help=checkpoint_help)
    parser.add_quiet("; what the log says of steps is in metrics.jsonl")
    cluster.add_flags(parser)
    return parser


if __name__ == "__main__":
    run(main, leave=cluster.leave)
