"""Adjusted p-values, q-values and genomic control against R's smoothing spline and plain twins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from donorwise._core.inference import multiplicity
from donorwise._core.inference.genomic_control import LAST, WIDTH, genomic_lambda, genomic_lambda_of_p
from donorwise._core.inference.multiplicity import adjust, q_values, true_nulls

SPLINES = json.loads((Path(__file__).parent / "reference" / "gene_level" / "pi0.json").read_text())


@pytest.mark.parametrize("name", SPLINES)
def test_the_spline_is_that_of_smooth_spline(name: str) -> None:
    """R searches for 3 degrees of freedom to a tolerance of its own; with a tight one it comes closer."""
    own = multiplicity._smoother_at_end() @ np.array(SPLINES[name]["shares"])
    np.testing.assert_allclose(own, SPLINES[name]["tight"], rtol=3e-6)
    np.testing.assert_allclose(own, SPLINES[name]["as_it_is"], rtol=3e-5)


def plain_q(p: np.ndarray, pi0: float) -> np.ndarray:
    """As the R package qvalue: pi0 m p / rank, and nothing above what is larger."""
    order = np.argsort(p)
    q = pi0 * p.size * p / stats.rankdata(p, method="max")
    q[order[-1]] = min(q[order[-1]], 1)
    for i in range(p.size - 2, -1, -1):
        q[order[i]] = min(q[order[i]], q[order[i + 1]])
    return q


def mixed(n: int, nulls: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    k = int(n * nulls)
    return np.concatenate([rng.uniform(size=k), rng.beta(0.2, 20, size=n - k)])


@pytest.mark.parametrize("nulls", [1.0, 0.7, 0.2])
def test_q_values(nulls: float) -> None:
    p = np.round(mixed(4000, nulls), 4)  # with ties
    found = true_nulls(p)
    assert found.reason == ""
    assert abs(found.pi0 - nulls) < 0.07
    np.testing.assert_allclose(q_values(p), plain_q(p, found.pi0), rtol=1e-12)
    with_nan = np.full((2, p.size), np.nan)
    with_nan[1] = p
    np.testing.assert_array_equal(q_values(with_nan)[1], q_values(p))
    assert np.isnan(q_values(with_nan)[0]).all()


def test_shares_are_counted_from_lambda_on() -> None:
    """p = .5 is above lambda = .5 as in qvalue, and so is every grid value, whatever its rounding."""
    p = np.repeat(np.arange(1, 21) / 20, 50)
    smoother = multiplicity._smoother_at_end()
    shares = [(p >= k / 20).mean() / (1 - k / 20) for k in range(1, 20)]
    np.testing.assert_allclose(true_nulls(p).pi0, min(1.0, float(smoother @ shares)), rtol=1e-12)


def test_one_where_it_cannot_be_learned() -> None:
    few, small = mixed(99, 0.5), mixed(5000, 0.0) / 10
    assert true_nulls(few) == (1.0, "fewer than 100 p-values")
    assert true_nulls(small) == (1.0, "no p-value above 0.95")
    for p in (few, small):
        np.testing.assert_array_equal(q_values(p), adjust(p))
    assert q_values(np.empty(0)).size == 0
    assert np.isnan(q_values(np.full(200, np.nan))).all()
    assert true_nulls(np.ones(300)).pi0 == 1


def test_the_bootstrap_takes_over_below_zero() -> None:
    """A spline through shares that fall to nothing can end below zero."""
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.beta(0.5, 2.5, size=3000), [0.99]])
    shares = np.array([(p >= k / 20).mean() / (1 - k / 20) for k in range(1, 20)])
    assert multiplicity._smoother_at_end() @ shares < 0
    above = shares * (1 - np.arange(1, 20) / 20)
    error = above * (1 - above) / (p.size * (1 - np.arange(1, 20) / 20) ** 2) + (shares - np.quantile(shares, 0.1)) ** 2
    assert true_nulls(p) == (pytest.approx(shares[np.argmin(error)]), "")


def test_false_discoveries_are_as_many_as_said() -> None:
    """Storey's q-values find more than Benjamini-Hochberg at the same rate."""
    shares, more = [], []
    for seed in range(20):
        p = mixed(3000, 0.5, seed)
        found = q_values(p) <= 0.1
        shares.append(found[:1500].sum() / found.sum())
        more.append(found.sum() / (adjust(p) <= 0.1).sum())
    assert 0.085 < np.mean(shares) < 0.115
    assert np.mean(more) > 1.03


@pytest.mark.parametrize("df", [4.0, 30.0, np.inf])
@pytest.mark.parametrize("inflation", [0.8, 1.0, 1.7])
def test_lambda_from_counts_and_from_p(df: float, inflation: float) -> None:
    rng = np.random.default_rng(5)
    z = np.sqrt(inflation) * rng.normal(size=200_000)
    p = 2 * stats.norm.sf(np.abs(z))
    t = stats.t.isf(p / 2, df)
    bins, counts = np.unique(np.minimum(np.floor(t / WIDTH), LAST / WIDTH), return_counts=True)
    own = genomic_lambda(bins * WIDTH, counts, df)
    np.testing.assert_allclose(own, inflation, rtol=0.02)
    np.testing.assert_allclose(own, genomic_lambda_of_p(p), rtol=3e-4)
    np.testing.assert_allclose(genomic_lambda_of_p(p), np.median(z**2) / stats.chi2.median(1), rtol=1e-4)


def test_lambda_at_the_ends() -> None:
    assert np.isnan(genomic_lambda(np.empty(0), np.empty(0), 5.0))
    assert np.isnan(genomic_lambda(np.array([0.0]), np.array([0]), 5.0))
    assert np.isnan(genomic_lambda_of_p(np.array([np.nan])))
    assert genomic_lambda_of_p(np.array([np.nan, 0.5])) == pytest.approx(1.0, rel=1e-12)
    beyond = genomic_lambda(np.array([0.5, LAST]), np.array([1, 9]), np.inf)
    assert beyond == pytest.approx(LAST**2 / stats.chi2.median(1))
    assert genomic_lambda_of_p(np.array([0.0])) == np.inf
