"""What a run starts from: the variables of another run or of an image network, as its protocol of transfer asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import flax.traverse_util

from i3d_jax import checkpoint, inflation
from i3d_jax.data.preprocessing import refuse_mismatch
from i3d_jax.models.network import CLASSIFIER, Network
from i3d_jax.system.errors import UserError, did_you_mean
from i3d_jax.training import transfer


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """What a run starts from.

    Attributes:
      source: a checkpoint directory or a workdir, None for scratch.
      profile: how the kernels of an image network are spread over time (`inflation.inflate`).
      protocol: of transfer, None for any.

    Raises:
      UserError: there is no such protocol, or it lacks a network to start from.
    """

    source: str | None
    profile: str = "average"
    protocol: str | None = None

    def __post_init__(self):
        if self.protocol is None:
            return
        if self.protocol not in transfer.PROTOCOLS:
            raise UserError(
                f"transfer.protocol must be one of {', '.join(transfer.PROTOCOLS)}, found {self.protocol!r}"
                f"{did_you_mean(self.protocol, transfer.PROTOCOLS)}"
            )
        if self.protocol != transfer.ORIGINAL and self.source is None:
            raise UserError(
                f"transfer.protocol {self.protocol!r} starts from a network that was trained on videos: init_from must "
                "name its checkpoint or workdir"
            )

    def fitted(self, description: checkpoint.Description, variables: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Reads the variables of `source`, which is set, for a run to start from.

        Those of an image network are inflated into the trunks of the run's. A classifier of other classes stays behind:
        the run's is kept as it was drawn.

        Args:
          description: of the run's checkpoints.
          variables: the run's, as drawn.

        Returns:
          (variables, one line on what was done).

        Raises:
          UserError: they are of another architecture, of other features, or were trained on other pixels; or the
            protocol of transfer starts from another kind of network.
        """
        directory = cast(str, self.source)
        stored_model, stored, metadata = checkpoint.load(directory)
        model = description.create_model()
        _refuse_other_kind(self.protocol, stored_model, metadata["model"], directory)
        _refuse_other_options(stored_model, model, directory)
        _refuse_other_pixels(metadata, description, directory)
        if metadata["model"] == description.model:
            _refuse_other_features(stored_model, stored, model, variables, directory)
            if list(metadata["labels"]) == list(description.labels):
                fitted = checkpoint.fit(stored, variables, source=directory, target="this run's model")
                return fitted, f"starting from {directory}"
            stored = inflation.with_classifier_of(variables, stored)
            fitted = checkpoint.fit(stored, variables, source=directory, target="this run's model")
            return fitted, f"starting from {directory}, but for the classifier: its classes are others"
        if stored_model.sees_videos:
            raise UserError(
                f"init_from: {directory} is of the model {metadata['model']!r}, this run's {description.model!r}"
            )
        started = inflation.inflate_trunks(stored, variables, model.image_trunks, profile=self.profile)
        return started, f"starting from the image network {directory}, inflated; the classifier is new"


def _refuse_other_kind(protocol: str | None, stored: Network, name: str, directory: str) -> None:
    if not stored.sees_videos and protocol in (transfer.FIXED, transfer.FULL):
        raise UserError(
            f"transfer.protocol {protocol!r} starts from a network that was trained on videos, init_from: {directory} "
            f"is of the image network {name!r}; the protocol that starts from one is 'original'"
        )
    if stored.sees_videos and protocol == transfer.ORIGINAL:
        raise UserError(
            f"transfer.protocol 'original' starts from an image network or from scratch, init_from: {directory} is of "
            f"the video network {name!r}; the protocols that start from one are 'fixed' and 'full'"
        )


def _refuse_other_options(stored: Network, model: Network, directory: str) -> None:
    options = ["stem_padding", "last_block", "temporal_padding", "batch_norm_gain"]
    if type(stored) is type(model):
        # An image network starts either stream.
        options.append("stream")
    for option in options:
        if not (hasattr(stored, option) and hasattr(model, option)):
            continue
        theirs, ours = getattr(stored, option), getattr(model, option)
        if theirs != ours:
            raise UserError(
                f"init_from: {option} of {directory} is {theirs!r}, this run's {ours!r}; "
                f"--config.model.{option}={theirs} takes it over"
            )


def _refuse_other_features(
    stored_model: Network, stored: Mapping[str, Any], model: Network, variables: Mapping[str, Any], directory: str
) -> None:
    theirs, ours = _classifier_widths(stored), _classifier_widths(variables)
    different = [scope for scope in ours if theirs.get(scope) != ours[scope]]
    if not different:
        return
    named = "; ".join(
        f"{scope} sees {theirs.get(scope, 'nothing')} there and {ours[scope]} here" for scope in different
    )
    hint = ""
    if stored_model.width_multiplier != model.width_multiplier:
        hint = f", whose width_multiplier is {stored_model.width_multiplier} there and {model.width_multiplier} here"
    raise UserError(f"init_from: the features of {directory} are not this run's{hint}: {named}")


def _classifier_widths(variables: Mapping[str, Any]) -> dict[str, int]:
    """How many features each classifier sees, by its scope."""
    flat = flax.traverse_util.flatten_dict(dict(variables["params"]))
    return {
        "/".join(path[: path.index(CLASSIFIER) + 1]): leaf.shape[-2]
        for path, leaf in flat.items()
        if CLASSIFIER in path and path[-1] == "kernel"
    }


def _refuse_other_pixels(metadata: Mapping[str, Any], description: checkpoint.Description, directory: str) -> None:
    # The crop and the windows are this run's to choose.
    stored = {key: metadata["preprocessing"].get(key) for key in ("frame_rate", "short_side", "interpolation", "flow")}
    refuse_mismatch(
        {key: value for key, value in stored.items() if value is not None},
        description.preprocessing,
        expected_by=directory,
        found_in="this run's dataset",
    )
