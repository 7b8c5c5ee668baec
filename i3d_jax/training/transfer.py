"""The protocols of transfer (paper, section 5): masks over parameters, and the classifiers alone on features.

| protocol | starts from | trains |
|---|---|---|
| original | an image network, or scratch | everything |
| full | a network that was trained on videos, with a new classifier | everything |
| fixed | the same | the classifier alone, on features that are computed once |
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Integer, PRNGKeyArray, Shaped

from i3d_jax.clips import STREAMS
from i3d_jax.models.classifier import classify
from i3d_jax.models.network import CLASSIFIER, Network
from i3d_jax.shapes import AnyArray
from i3d_jax.training.step import scaled

ORIGINAL, FULL, FIXED = "original", "full", "fixed"
PROTOCOLS = (ORIGINAL, FIXED, FULL)
# Keeps the order of the features apart from that of `data.pipeline`'s clips.
_SHUFFLE = 0xF1


def trained(params: Mapping[str, Any], protocol: str | None) -> Any:
    """Marks the parameters that a protocol trains: a pytree of bool like `params`, all True but for "fixed".

    "fixed" trains the leaves in scopes named "Logits": those of each stream for the networks that have two.
    """
    if protocol != FIXED:
        return jax.tree.map(lambda _: True, params)
    return jax.tree_util.tree_map_with_path(lambda path, _: any(key.key == CLASSIFIER for key in path), params)


def restrict(optimizer: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    """Restricts an optimizer to the parameters that a mask marks; the others get updates of 0 and have no state."""
    if all(jax.tree.leaves(mask)):
        return optimizer
    rules = {"trained": optimizer, "frozen": optax.set_to_zero()}
    return optax.multi_transform(rules, jax.tree.map(lambda marked: "trained" if marked else "frozen", mask))


def statistics_of(
    features: Mapping[str, Float32[np.ndarray, "rows _n _channels"]],
) -> dict[str, tuple[Float32[np.ndarray, " _channels"], Float32[np.ndarray, " _channels"]]]:
    """Returns (mean, deviation) of every channel over the training split, float32 [C], by classifier.

    A thousandth of the mean variance is added to each: a channel that is hardly ever above 0 is not blown up.
    """
    found = {}
    for scope, values in features.items():
        rows = values.reshape(-1, values.shape[-1])
        mean, variance = rows.mean(0, dtype=np.float64), rows.var(0, dtype=np.float64)
        deviation = np.sqrt(variance + 1e-3 * variance.mean())
        # Where nothing varies there is nothing to learn from, whatever it is divided by.
        found[scope] = (mean.astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32))
    return found


def standardised(
    optimizer: optax.GradientTransformation,
    statistics: Mapping[str, tuple[Float32[np.ndarray, " _channels"], Float32[np.ndarray, " _channels"]]],
) -> optax.GradientTransformation:
    """Lets an optimizer train classifiers as if on standardised features, of mean 0 and deviation 1.

    So one learning rate suits features of any scale. A classifier of features f, W f + b, is one of standardised ones
    (f - mean) / deviation with the kernel W deviation and the bias b + W mean. Gradients are turned into those of the
    second, and its updates back: what is kept, averaged and evaluated is always the classifier of the features as they
    are, and the optimizer's state is that of the other.

    Args:
      optimizer: of the network's parameters.
      statistics: (mean, deviation) float32 [C] by the scope of each classifier, as `statistics_of` gives them.
    """

    def at_classifiers(tree, change):
        flat = flax.traverse_util.flatten_dict(dict(tree))
        for scope, (mean, deviation) in statistics.items():
            layer = {path[-1]: path for path in flat if path[: scope.count("/") + 1] == tuple(scope.split("/"))}
            kernel, bias = flat[layer["kernel"]], flat[layer["bias"]]
            flat[layer["kernel"]], flat[layer["bias"]] = change(kernel, bias, mean[:, None], deviation[:, None])
        return flax.traverse_util.unflatten_dict(flat)

    def weighted(kernel, channels, bias):
        return (kernel * channels).sum(-2).reshape(bias.shape)

    def parameters(kernel, bias, mean, deviation):
        return kernel * deviation, bias + weighted(kernel, mean, bias)

    def gradients(kernel, bias, mean, deviation):
        return (kernel - mean * bias) / deviation, bias

    def updates_back(kernel, bias, mean, deviation):
        return kernel / deviation, bias - weighted(kernel, mean / deviation, bias)

    def update(updates, state, params):
        updates, state = optimizer.update(at_classifiers(updates, gradients), state, at_classifiers(params, parameters))
        return at_classifiers(updates, updates_back), state

    return optax.GradientTransformation(optimizer.init, update)


@dataclasses.dataclass(frozen=True)
class Classifiers:
    """The classifiers of a network in the place of a model, for `training_step` to train on features.

    Attributes:
      network: whose they are. Its variables are taken and given whole; what lies before the classifiers is left alone.
    """

    network: Network

    def apply(
        self,
        variables: Mapping[str, Any],
        features: Mapping[str, Float32[AnyArray, "batch n channels"]],
        *,
        train: bool,
        mutable: Sequence[str],
        rngs: Mapping[str, PRNGKeyArray],
    ) -> tuple[tuple[Float32[Array, "batch classes"], dict[str, Float32[Array, "batch ..."]]], dict[str, Any]]:
        """Scores features, float32 [B, n, C] by classifier, as `Network.classifier_inputs` gives them.

        Args:
          variables: the network's, {"params", "batch_stats"}.
          features: what the classifiers see.
          train: whether there is dropout, with the rng "dropout".
          mutable: the collections to be returned; nothing changes in them.
          rngs: {"dropout": key}.

        Returns:
          ((logits float32 [B, num_classes], endpoints: those that the loss needs), the mutable collections).
        """
        if train:
            dropout = nn.Dropout(self.network.dropout_rate, deterministic=False)
            keys = jax.random.split(rngs["dropout"], len(features))
            kept: dict[str, Any] = {
                scope: dropout.apply({}, features[scope], rngs={"dropout": key})
                for scope, key in zip(sorted(features), keys, strict=True)
            }
            features = kept
        scored = classify(self.network, variables["params"], features)
        return scored, {collection: variables[collection] for collection in mutable}

    def clip_losses(
        self,
        logits: Float[AnyArray, "batch classes"],
        endpoints: Mapping[str, Float[AnyArray, "batch ..."]],
        labels: Integer[AnyArray, " batch"],
        label_smoothing: float = 0.0,
    ) -> Float[Array, " batch"]:
        """The network's own loss, float32 [B]."""
        return self.network.clip_losses(logits, endpoints, labels, label_smoothing)


@functools.lru_cache(maxsize=16)
def features_step(
    model: Network,
) -> Callable[
    [Mapping[str, Any], Mapping[str, Shaped[AnyArray, "batch ..."]]],
    dict[str, Float32[Array, "batch windows n channels"]],
]:
    """Makes the pure function (variables, batch) -> what the classifiers see, float32 [B, windows, n, C] by classifier.

    The batch is one of evaluation: uint8 "rgb" [B, windows, T, H, W, 3], "flow" [B, windows, T', H, W, 2] or both. As
    there, the network sees one window at a time, with its running statistics and without dropout.
    """

    def of_window(variables, window):
        inputs = {stream: scaled(pixels)[None] for stream, pixels in window.items()}
        applied: Any = model.apply(variables, inputs)
        _, endpoints = applied
        return {scope: features[0] for scope, features in model.classifier_inputs(endpoints).items()}

    def step(
        variables: Mapping[str, Any], batch: Mapping[str, Shaped[AnyArray, "batch ..."]]
    ) -> dict[str, Float32[Array, "batch windows n channels"]]:
        clips = {stream: batch[stream] for stream in STREAMS if stream in batch}
        videos, windows = next(iter(clips.values())).shape[:2]
        flat = {stream: pixels.reshape(-1, *pixels.shape[2:]) for stream, pixels in clips.items()}
        found = jax.lax.map(lambda window: of_window(variables, window), flat)
        return {scope: values.reshape(videos, windows, *values.shape[1:]) for scope, values in found.items()}

    return step


class FeatureBatches(Iterator[dict[str, np.ndarray]]):
    """Endless training batches of features: each row once an epoch, in an order that each epoch draws anew.

    Row n, counted over the run, is a function of the seed and n, so that a resumed run has the batches of the
    uninterrupted one. A batch holds, beside the features float32 [B, n, C] by classifier, int32 "label" [B] and bool
    "mask" [B], all True. Several hosts share each batch: each gets an equal run of its rows.
    """

    def __init__(
        self,
        features: Mapping[str, Float32[np.ndarray, "rows _n _channels"]],
        labels: Integer[np.ndarray, " rows"],
        *,
        batch_size: int,
        seed: int,
        first_row: int,
        damaged: Sequence[str] = (),
        host: int = 0,
        hosts: int = 1,
    ):
        """Makes batches.

        Args:
          features: float32 [N, n, C] by classifier.
          labels: int [N].
          batch_size: rows of a batch, all hosts together, which divide it.
          seed: 0 or more.
          first_row: the number of the first row to give; a run that had B * k rows goes on from there.
          damaged: what is wrong with each record that has no features.
          host: this host's number, from 0.
          hosts: how many there are."""
        # Of all rows, for `standardised`.
        self.statistics = statistics_of(features)
        self._features = features
        self._labels = labels.astype(np.int32)
        self._batch_size = batch_size
        share = batch_size // hosts
        self._own_rows = range(host * share, (host + 1) * share)
        self._seed = seed
        self._row = first_row
        self._order: tuple[int, np.ndarray] | None = None
        self.damaged = tuple(damaged)

    def norms(self) -> dict[str, float]:
        """The Euclidean norm of the features of one step of time (clip, snapshot), the mean over all, by classifier."""
        return {scope: float(np.linalg.norm(values, axis=-1).mean()) for scope, values in self._features.items()}

    def _place(self, number: int) -> int:
        epoch, position = divmod(number, len(self._labels))
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng([self._seed, _SHUFFLE, epoch]).permutation(len(self._labels))
            self._order = (epoch, order)
        return int(self._order[1][position])

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns this host's rows of the next batch."""
        places = np.array([self._place(self._row + row) for row in self._own_rows])
        self._row += self._batch_size
        batch = {scope: values[places] for scope, values in self._features.items()}
        return {**batch, "label": self._labels[places], "mask": np.ones(len(places), bool)}
