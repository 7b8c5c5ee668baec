"""The Fréchet distance, against other methods, closed forms and laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from i3d_jax.evaluation.frechet import Moments, bootstrap, distance_of_moments, extrapolated, frechet_distance
from i3d_jax.system.errors import UserError

# Logits of rgb_scratch on 16 videos 16x224x224x3 of `numpy.random.RandomState(seed).rand`, seeds 1 and 2, which the
# network is given as they are: the first of the 128 of which universome/fvd-comparison publishes 10.138085.
GOLDEN = Path(__file__).parent / "golden" / "fvd_logits_16.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return arrays["a"], arrays["b"]


def drawn(count, dimension, *, seed, scale=1.0, shift=0.0):
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(5).standard_normal((dimension, dimension)) * 0.9 ** np.arange(dimension)
    return random.standard_normal((count, dimension)) @ mixing * scale + shift


def by_square_root(a, b, root):
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * root(first, second)


def of_sqrtm(first, second):
    return np.trace(scipy.linalg.sqrtm(first @ second).real)


def of_eigenvectors(first, second):
    values, vectors = np.linalg.eigh(first)
    half = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    return np.sqrt(np.linalg.eigvalsh(half @ second @ half).clip(min=0)).sum()


def of_singular_values(first, second):
    (left, ours, _), (other, theirs, _) = np.linalg.svd(first), np.linalg.svd(second)
    return scipy.linalg.svdvals((left * np.sqrt(ours)).T @ (other * np.sqrt(theirs))).sum()


@pytest.mark.parametrize("root", [of_sqrtm, of_eigenvectors, of_singular_values])
def test_three_other_methods_give_the_same(golden, root):
    distance = frechet_distance(*golden)
    assert distance == pytest.approx(48.7, abs=0.05)
    assert by_square_root(*golden, root) == pytest.approx(distance, rel=1e-6)
    larger = drawn(80, 20, seed=1), drawn(50, 20, seed=2, scale=1.3, shift=0.2)
    assert by_square_root(*larger, root) == pytest.approx(frechet_distance(*larger), rel=1e-6)


@pytest.mark.parametrize("count", [5, 12, 40])
def test_normal_distributions_along_the_axes(count):
    """Of diagonal covariances the distance is |m1 - m2|^2 + |s1 - s2|^2."""
    dimension = 12
    # Cosines of whole periods are orthogonal, and have no mean: min(count // 2, dimension) of them.
    waves = [np.cos(2 * np.pi * (k + 1) * np.arange(count) / count) for k in range(min((count - 1) // 2, dimension))]
    unit = np.zeros((count, dimension))
    unit[:, : len(waves)] = np.transpose(waves) / np.sqrt(count / 2)
    ours, theirs = np.linspace(1, 3, dimension), np.linspace(4, 2, dimension)
    shift = np.arange(dimension) / 10
    both = unit * ours, unit * theirs + shift
    for ddof in (0, 1):
        expected = np.square(shift).sum() + np.square(ours - theirs)[: len(waves)].sum() / (count - ddof)
        assert frechet_distance(*both, ddof=ddof) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [2, 7, 29, 30, 31, 90])
def test_laws(count):
    a, b = drawn(count, 30, seed=3), drawn(count + 4, 30, seed=4, scale=1.5)
    distance = frechet_distance(a, b)
    assert distance > 0
    assert frechet_distance(a, a) < 1e-9
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a + 7, b + 7) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 30, rel=1e-9)
    turn = np.linalg.qr(np.random.default_rng(6).standard_normal((30, 30)))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-9)
    # Features, which are few, and covariances are two ways.
    assert distance_of_moments(Moments.of(a), Moments.of(b)) == pytest.approx(distance, rel=1e-6)


def test_a_set_is_at_no_distance_from_itself(golden):
    for features in golden:
        assert 0 <= frechet_distance(features, features.copy()) < 1e-9


def test_the_other_covariance_is_smaller(golden):
    """All but the means is 15 / 16 of it, with 16 videos."""
    apart = np.square(np.subtract(*(features.mean(0, np.float64) for features in golden))).sum()
    expected = apart + (frechet_distance(*golden) - apart) * 15 / 16
    assert frechet_distance(*golden, ddof=0) == pytest.approx(expected, rel=1e-9)


def test_moments_add_up():
    features = drawn(9000, 6, seed=7, shift=1000.0).astype(np.float32)
    whole = Moments.of(features)
    merged = Moments.of(features[:1]) + Moments.of(features[1:4000]) + Moments.of(features[4000:])
    for moments in (whole, merged):
        assert moments.count == 9000
        np.testing.assert_allclose(moments.mean, features.mean(0, np.float64), rtol=1e-12)
        expected = np.cov(features.astype(np.float64), rowvar=False)
        np.testing.assert_allclose(moments.covariance(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(whole.covariance(ddof=0) * 9000, whole.covariance() * 8999, rtol=1e-12)


def test_the_interval_is_as_wide_as_the_distances_of_other_draws():
    distances = [
        frechet_distance(drawn(60, 4, seed=2 * k), drawn(60, 4, seed=2 * k + 1, shift=1.0)) for k in range(200)
    ]
    interval = bootstrap(drawn(60, 4, seed=500), drawn(60, 4, seed=501, shift=1.0))
    value = frechet_distance(drawn(60, 4, seed=500), drawn(60, 4, seed=501, shift=1.0))
    assert interval.low < value < interval.high
    assert interval.deviation == pytest.approx(np.std(distances), rel=0.4)
    assert interval == bootstrap(drawn(60, 4, seed=500), drawn(60, 4, seed=501, shift=1.0))
    assert interval != bootstrap(drawn(60, 4, seed=500), drawn(60, 4, seed=501, shift=1.0), seed=1)


def test_more_videos_are_extrapolated_to():
    """Of two draws of one distribution the distance is 0, and that of a sample too large."""
    pairs = [(drawn(200, 12, seed=2 * k), drawn(200, 12, seed=2 * k + 1)) for k in range(60)]
    plain = np.mean([frechet_distance(*pair) for pair in pairs])
    assert abs(np.mean([extrapolated(*pair) for pair in pairs])) < 0.2 * plain


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "2 videos or more on each side, found 1"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "one dimension were expected on both sides, found 3 and 2"),
        (np.zeros(4), np.zeros((4, 2)), r"\[N, D\] were expected, found \[4\]"),
        (np.zeros((4, 2)), np.full((4, 2), np.nan), "finite features were expected"),
    ],
)
def test_what_is_no_two_sets(a, b, words):
    with pytest.raises(UserError, match=words):
        frechet_distance(a, b)


def test_what_does_not_serve_otherwise():
    features = drawn(7, 3, seed=1)
    with pytest.raises(UserError, match="ddof is 0 or 1, found 2"):
        frechet_distance(features, features, ddof=2)
    with pytest.raises(UserError, match="at least 8 videos on each side"):
        extrapolated(features, features)
    with pytest.raises(UserError, match="found 1"):
        distance_of_moments(Moments.of(features), Moments.of(features[:1]))
