"""The Fréchet distance of two sets of features, in float64: what Fréchet Video Distance is of the logits of an I3D.

|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the means m and covariances C (Dowson and Landau 1982). No square root
of a product is taken: where C = F^T F, tr (C1 C2)^(1/2) is the nuclear norm of F1 F2^T, the sum of its singular values.
F is the centred features themselves where they are fewer than their dimension, else comes from the eigenvectors of C.
So the distance of a set from itself is 0 up to the rounding of its trace, and nothing depends on what is singular.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from i3d_jax.system.errors import UserError

# Sizes at which the distance is taken to extrapolate it, from this share of the features up to all of them.
_SIZES, _LEAST_SHARE = 15, 0.25
# Rows whose float64 copy is made at a time.
_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over features, which add up: those of hosts, shards and batches are merged by `+`.

    Attributes:
      count: of features.
      mean: float64 [D].
      scatter: float64 [D, D], the sum of (x - mean) (x - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Sums over features, float [N, D], N at least 1; a float64 copy is made of a part of them at a time."""
        total = None
        for begin in range(0, len(features), _ROWS):
            part = np.asarray(features[begin : begin + _ROWS], np.float64)
            mean = part.mean(0)
            own = cls(len(part), mean, (part - mean).T @ (part - mean))
            total = own if total is None else total + own
        if total is None:
            raise ValueError("moments are of one feature at least")
        return total

    def __add__(self, other: Moments) -> Moments:
        """Those of both (Chan, Golub and LeVeque 1979): without the cancellation of sums of squares."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.scatter + other.scatter + np.outer(apart, apart) * (self.count * other.count / count),
        )

    def covariance(self, *, ddof: int = 1) -> np.ndarray:
        """Returns the covariance, float64 [D, D]: the scatter over count - ddof."""
        _refuse_too_few(self.count)
        return self.scatter / (self.count - ddof)


class Interval(NamedTuple):
    """How far a distance moves when the videos are drawn anew.

    Attributes:
      low, high: the value plus the 2.5th and the 97.5th percentile of what bootstrap resamples deviate from their mean,
        `low` not below 0. The bias that small samples have is in the value, and stays in it.
      deviation: the standard deviation of the resamples' distances.
      resamples: how many.
    """

    low: float
    high: float
    deviation: float
    resamples: int


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray, *, ddof: int = 1) -> float:
    """Returns the Fréchet distance of two sets of features, as if each were normally distributed; never below 0.

    Args:
      features_a: float [N, D], N at least 2.
      features_b: float [M, D], M at least 2.
      ddof: what is subtracted from N and M in the covariances: 1 as the reference has it, 0 as many ports.

    Raises:
      UserError: a set is too small, not of two axes or not finite, or the two differ in D.
    """
    _check(features_a, features_b, ddof)
    return _distance(_Side.of(features_a, ddof), _Side.of(features_b, ddof))


def distance_of_moments(a: Moments, b: Moments, *, ddof: int = 1) -> float:
    """Returns the same of two sets whose features are not at hand, by the eigenvectors of their covariances.

    Raises:
      UserError: a set is of fewer than 2 features, or the two differ in D.
    """
    for one in (a, b):
        _refuse_too_few(one.count)
    _refuse_other_dimension(len(a.mean), len(b.mean))
    return _distance(_Side.of_moments(a, ddof), _Side.of_moments(b, ddof))


def bootstrap(
    features_a: np.ndarray, features_b: np.ndarray, *, ddof: int = 1, resamples: int = 100, seed: int = 0
) -> Interval:
    """Draws both sets anew with replacement and tells how far the distance moves.

    A set drawn with replacement holds fewer different videos, which makes distances larger throughout: their mean is no
    estimate, and only what they deviate from it is used.

    Args:
      features_a, features_b, ddof: as of `frechet_distance`.
      resamples: at least 2.
      seed: of the draws.

    Raises:
      UserError: as `frechet_distance`.
    """
    value = frechet_distance(features_a, features_b, ddof=ddof)
    random = np.random.default_rng([seed, 1])

    def drawn(features):
        return features[random.integers(0, len(features), len(features))]

    distances = np.array(
        [
            _distance(_Side.of(drawn(features_a), ddof), _Side.of(drawn(features_b), ddof), rough=True)
            for _ in range(resamples)
        ]
    )
    low, high = np.percentile(distances - distances.mean(), [2.5, 97.5])
    return Interval(max(value + float(low), 0.0), value + float(high), float(distances.std(ddof=1)), resamples)


def extrapolated(features_a: np.ndarray, features_b: np.ndarray, *, ddof: int = 1, seed: int = 0) -> float:
    """Estimates the distance of infinitely many features (Chong and Forsyth 2020): of small samples it is too large.

    The distance of random parts of both sets, of a quarter of them up to all, is fitted as a straight line in 1 / N;
    the estimate is where it meets 1 / N = 0, which may be below 0. The line is straight only where N is well above D.

    Args:
      features_a, features_b, ddof: as of `frechet_distance`; at least 8 of each.
      seed: of the draws.

    Raises:
      UserError: as `frechet_distance`, and for fewer than 8 features.
    """
    _check(features_a, features_b, ddof)
    if (fewest := min(len(features_a), len(features_b))) < 8:
        raise UserError(f"at least 8 videos on each side were expected to extrapolate from, found {fewest}")
    random = np.random.default_rng([seed, 2])
    shares = np.linspace(_LEAST_SHARE, 1, _SIZES)

    def part(features, share):
        return features[random.choice(len(features), round(share * len(features)), replace=False)]

    distances = [
        _distance(_Side.of(part(features_a, share), ddof), _Side.of(part(features_b, share), ddof), rough=True)
        for share in shares
    ]
    _, intercept = np.polyfit(1 / shares, distances, 1)
    return float(intercept)


@dataclasses.dataclass(frozen=True)
class _Side:
    """A set's mean, float64 [D], and its covariance C [D, D], or else a factor F [n, D] with F^T F = C."""

    mean: np.ndarray
    factor: np.ndarray | None
    covariance: np.ndarray | None

    @classmethod
    def of(cls, features: np.ndarray, ddof: int) -> _Side:
        if len(features) >= features.shape[1]:
            return cls.of_moments(Moments.of(features), ddof)
        features = np.asarray(features, np.float64)
        mean = features.mean(0)
        return cls(mean, (features - mean) / np.sqrt(len(features) - ddof), None)

    @classmethod
    def of_moments(cls, moments: Moments, ddof: int) -> _Side:
        return cls(moments.mean, None, moments.covariance(ddof=ddof))

    @property
    def trace(self) -> float:
        if self.covariance is not None:
            return float(np.trace(self.covariance))
        assert self.factor is not None
        return float(np.square(self.factor).sum())

    def factored(self, *, rough: bool) -> np.ndarray:
        """Returns a factor; a rough one is of a covariance with a billionth more on its diagonal, and quick to have."""
        if self.covariance is None:
            assert self.factor is not None
            return self.factor
        if rough:
            more = np.trace(self.covariance) / len(self.covariance) * 1e-9
            try:
                return np.linalg.cholesky(self.covariance + np.diag(np.full(len(self.covariance), more))).T
            except np.linalg.LinAlgError:
                pass
        values, vectors = np.linalg.eigh(self.covariance)
        return np.sqrt(values.clip(min=0))[:, None] * vectors.T


def _distance(a: _Side, b: _Side, *, rough: bool = False) -> float:
    product = a.factored(rough=rough) @ b.factored(rough=rough).T
    if rough:
        small = product @ product.T if len(product) < product.shape[1] else product.T @ product
        common = np.sqrt(np.linalg.eigvalsh(small).clip(min=0)).sum()
    else:
        common = np.linalg.svd(product, compute_uv=False).sum()
    apart = np.square(a.mean - b.mean).sum()
    return max(float(apart + a.trace + b.trace - 2 * common), 0.0)


def _check(features_a: np.ndarray, features_b: np.ndarray, ddof: int) -> None:
    if ddof not in (0, 1):
        raise UserError(f"ddof is 0 or 1, found {ddof!r}")
    for features in (features_a, features_b):
        if features.ndim != 2:
            raise UserError(f"features [N, D] were expected, found {list(features.shape)}")
        _refuse_too_few(len(features))
        if not np.isfinite(features).all():
            raise UserError("finite features were expected, found NaN or infinity")
    _refuse_other_dimension(features_a.shape[1], features_b.shape[1])


def _refuse_too_few(count: int) -> None:
    if count < 2:
        raise UserError(f"a Fréchet distance is of 2 videos or more on each side, found {count}")


def _refuse_other_dimension(ours: int, theirs: int) -> None:
    if ours != theirs:
        raise UserError(f"features of one dimension were expected on both sides, found {ours} and {theirs}")
