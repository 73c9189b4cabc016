"""Permutations, rotations and the beta law of a gene's smallest p-value, against regressions one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import betaln
from threadpoolctl import threadpool_limits

from donorwise._core.inference.beta import beta_approximation
from donorwise._core.inference.cauchy import Cauchy
from donorwise._core.inference.resampled import maxima, permuted_responses, rotations
from donorwise._core.inference.student import log_two_sided


def variants(rng: np.random.Generator, V: int, m: int, ld: float) -> np.ndarray:
    """Genotypes (V, m) in linkage disequilibrium: two haplotypes, each a thresholded autoregression along the variants."""
    steps = rng.normal(size=(V, 2 * m))
    for v in range(1, V):
        steps[v] = ld * steps[v - 1] + np.sqrt(1 - ld**2) * steps[v]
    frequency = rng.uniform(0.08, 0.5, size=V)
    return (steps < stats.norm.ppf(frequency)[:, None]).reshape(V, 2, m).sum(axis=1).astype(float)


def basis(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    return np.linalg.qr(np.column_stack([np.ones(m), rng.normal(size=(m, p - 1))]))[0]


def residuals(Q: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return rows - (rows @ Q) @ Q.T


def test_permutations_are_regressions_one_at_a_time() -> None:
    """Permute the residual, regress it on covariates and each variant, take the largest partial r²."""
    rng = np.random.default_rng(0)
    m, X = 25, variants(rng, 8, 25, 0.5)
    Q, y = basis(rng, m, 3), rng.normal(size=m)
    yhat = residuals(Q, y)
    own = maxima(residuals(Q, X), permuted_responses(yhat, 6, 3, Q))
    orders = permuted_responses(np.arange(1.0, m + 1), 6, 3)
    for k in range(6):
        permuted = yhat[np.argsort(np.argsort(orders[:, k]))]
        without = permuted - Q @ np.linalg.lstsq(Q, permuted, rcond=None)[0]
        rss = [
            ((permuted - D @ np.linalg.lstsq(D, permuted, rcond=None)[0]) ** 2).sum()
            for D in (np.column_stack([Q, x]) for x in X)
        ]
        np.testing.assert_allclose(own[k], 1 - min(rss) / (without**2).sum(), rtol=1e-10)


def test_blocks_and_scales_change_nothing() -> None:
    rng = np.random.default_rng(1)
    m, X = 40, variants(rng, 2500, 40, 0.8)
    X = residuals(basis(rng, m, 2), X)
    X[7] = 0  # nothing left of a variant
    responses = rotations(m, 30, 0)
    whole = maxima(X, responses)
    parts = [maxima(part, responses) for part in np.array_split(X[rng.permutation(2500)], 7)]
    np.testing.assert_allclose(np.maximum.reduce(parts), whole, rtol=1e-12)
    np.testing.assert_allclose(maxima(1e3 * X, responses), whole, rtol=1e-12)
    np.testing.assert_array_equal(maxima(X[:0], responses), np.zeros(30))
    np.testing.assert_allclose(maxima(responses[:, :1].T, responses)[0], 1)


def test_responses_are_of_length_one_and_off_the_fixed_effects() -> None:
    rng = np.random.default_rng(2)
    Q = basis(rng, 12, 4)
    for columns in (permuted_responses(rng.normal(size=12), 50, 1, Q), rotations(12, 50, 1, Q)):
        np.testing.assert_allclose((columns**2).sum(axis=0), 1)
        np.testing.assert_allclose(Q.T @ columns, 0, atol=1e-12)
    np.testing.assert_array_equal(permuted_responses(Q[:, 0], 5, 0, Q[:, :1]), np.zeros((12, 5)))  # constant
    assert not rotations(4, 5, 0, basis(rng, 4, 4)).any()


def test_more_of_them_begin_with_the_same_ones() -> None:
    y = np.random.default_rng(3).normal(size=20)
    np.testing.assert_array_equal(permuted_responses(y, 40, 7)[:, :9], permuted_responses(y, 9, 7))
    np.testing.assert_array_equal(rotations(20, 40, 7)[:, :9], rotations(20, 9, 7))
    assert not np.array_equal(rotations(20, 9, 7), rotations(20, 9, 8))
    orders = permuted_responses(np.arange(20.0), 500, 0)
    assert (np.sort(orders, axis=0) == np.sort(orders[:, :1], axis=0)).all()
    assert np.abs(orders.mean(axis=1) / orders.mean() - 1).max() < 0.15  # every donor is everywhere


def tensorqtl(r2: float, largest: np.ndarray, df: float) -> tuple[float, ...]:
    """What tensorQTL computes, written down plainly: secant for the df, simplex for the shapes."""

    def p_of(r2: np.ndarray | float, df: float) -> np.ndarray:
        return 2 * stats.t.sf(np.sqrt(df * r2 / (1 - r2)), df)

    def shape1(log_df: float) -> float:
        p = p_of(largest, np.exp(log_df))
        return float(np.log(p.mean() * (p.mean() * (1 - p.mean()) / p.var() - 1)))

    true_df = float(np.exp(optimize.newton(shape1, np.log(df), tol=1e-8, maxiter=50)))
    p = p_of(largest, true_df)

    def loss(s: np.ndarray) -> float:
        return float(p.size * betaln(*s) - (s[0] - 1) * np.log(p).sum() - (s[1] - 1) * np.log1p(-p).sum())

    start = [1.0, 1 / p.mean() - 1]
    s = optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000}).x
    return float(stats.beta.cdf(p_of(r2, true_df), *s)), s[0], s[1], true_df


@pytest.mark.parametrize(("m", "V", "ld"), [(40, 5, 0.0), (40, 300, 0.9), (300, 300, 0.97), (12, 50, 0.5)])
def test_beta_law_is_that_of_tensorqtl(m: int, V: int, ld: float) -> None:
    rng = np.random.default_rng(m + V)
    Q = basis(rng, m, 3)
    largest = maxima(residuals(Q, variants(rng, V, m, ld)), permuted_responses(rng.normal(size=m), 500, 0, Q))
    for r2 in (np.median(largest), 0.9 * largest.max(), 0.5 * (1 + largest.max())):
        own = beta_approximation(float(r2), largest, m - 4)
        expected = tensorqtl(float(r2), largest, m - 4)
        np.testing.assert_allclose(own[1:], expected, rtol=1e-4)
        assert own.p_perm == ((largest >= r2).sum() + 1) / 501


def test_far_tail_from_few_permutations() -> None:
    """A thousand permutations tell p-values that the empirical share needs a hundred times as many for."""
    rng = np.random.default_rng(9)
    m = 60
    Q = basis(rng, m, 2)
    X, y = residuals(Q, variants(rng, 200, m, 0.9)), rng.normal(size=m)
    many = maxima(X, permuted_responses(y, 60_000, 1, Q))
    r2 = float(np.quantile(many, 1 - 1e-3))
    p = [beta_approximation(r2, maxima(X, permuted_responses(y, 1000, s, Q)), m - 3).p_beta for s in range(2, 8)]
    assert 0.5e-3 < np.median(p) < 2e-3


def test_without_a_law_the_share_stands() -> None:
    rng = np.random.default_rng(4)
    few = rng.uniform(0.1, 0.3, size=20)
    for largest in (few, np.full(100, 0.2)):
        own = beta_approximation(0.25, largest, 30.0)
        assert own.p_perm == own.p_beta == ((largest >= 0.25).sum() + 1) / (largest.size + 1)
        assert np.isnan([own.shape1, own.shape2, own.df]).all()
    assert beta_approximation(0.2, np.full(100, 0.2), 30.0).p_perm == 1
    assert beta_approximation(0.2 * (1 - 1e-13), np.full(100, 0.2), 30.0).p_perm == 1  # rounding is no difference
    assert np.isnan(beta_approximation(np.nan, few, 30.0)).all()
    spread = rng.beta(1, 20, size=500)
    assert beta_approximation(1.0, spread, 30.0).p_beta == 0
    assert beta_approximation(0.0, spread, 30.0).p_beta == 1
    two = np.repeat([0.1, 0.2], 200)  # a binary trait of a few donors
    assert 0 < beta_approximation(0.2, two, 8.0).p_beta <= 1


def test_one_variant_has_its_own_p() -> None:
    """With nothing to correct for the gene's p-value is that of the variant."""
    rng = np.random.default_rng(6)
    m = 50
    Q = basis(rng, m, 2)
    X, y = residuals(Q, variants(rng, 1, m, 0.0)), residuals(Q, rng.normal(size=m))
    r2 = float((X[0] @ y) ** 2 / ((X**2).sum() * (y**2).sum()))
    for responses in (permuted_responses(y, 2000, 0, Q), rotations(m, 2000, 0, Q)):
        own = beta_approximation(r2, maxima(X, responses), m - 3)
        np.testing.assert_allclose(own.p_beta, np.exp(log_two_sided(np.sqrt(47 * r2 / (1 - r2)), 47)), rtol=0.1)
        np.testing.assert_allclose([own.shape1, own.shape2], 1, atol=0.1)


def gene_p_values(n_genes: int, m: int, V: int, ld: float, kind: str, seed: int) -> np.ndarray:
    """p-values (4, n_genes) of null genes: Cauchy, smallest p times V, permutations and rotations."""
    rng = np.random.default_rng(seed)
    out = np.empty((4, n_genes))
    df = m - 4
    for g in range(n_genes):
        Q = basis(rng, m, 3)
        X = variants(rng, V, m, ld)
        X = residuals(Q, X[np.ptp(X, axis=1) > 0])
        y = residuals(Q, rng.normal(size=m) if kind == "normal" else rng.gamma(1.0, size=m))
        r2 = (X @ y) ** 2 / ((X**2).sum(axis=1) * (y**2).sum())
        log_p = log_two_sided(np.sqrt(df * r2 / (1 - r2)), df)
        sums = Cauchy.empty(1)
        sums.add(np.zeros(1, dtype=int), log_p)
        out[:2, g] = sums.p_value()[0], min(V * np.exp(log_p.min()), 1)
        for k, responses in enumerate((permuted_responses(y, 200, g, Q), rotations(m, 200, g, Q)), 2):
            out[k, g] = beta_approximation(float(r2.max()), maxima(X, responses), df).p_beta
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_gene_level_p_is_uniform_under_the_null(kind: str) -> None:
    """Permutations whatever the residuals, rotations for Gaussian ones; Bonferroni is not above its level.

    The Cauchy combination is exact for small p-values: with this much disequilibrium .06 of genes are below .05.
    """
    n = 1500
    with threadpool_limits(1):  # products this small are slower in threads
        cauchy, smallest, permuted, rotated = gene_p_values(n, 60, 100, 0.95, kind, 0)
    for p in (permuted, rotated)[: 2 if kind == "normal" else 1]:
        assert stats.kstest(p, "uniform").pvalue > 1e-3
    for level in (0.05, 0.01):
        error = 3 * np.sqrt(level * (1 - level) / n)
        assert abs((permuted < level).mean() - level) < error
        assert (cauchy < level).mean() < 1.2 * level + error
        assert (smallest < level).mean() < level + error
