"""What a tile of statistics says, against plain loops; and that no order changes a test where a kernel says everything."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.engine.scan_kernels import BINS_PER_UNIT, N_BINS, count_pairs, sift, sift_scores
from donorwise._core.models.lmm.variant_tests import Scores

V, G = 40, 7


def scores(rng: np.random.Generator) -> tuple[Scores, np.ndarray]:
    """Scores with two alike variants, one that is aliased and a large one, and their t statistics by definition."""
    nu, df, rss = 50.0, np.where(np.arange(G) == 4, 50.0, 12.0), rng.uniform(10, 12, V)
    rss[3] = rss[9]
    n, s = rng.normal(size=(V, G)) * 3, rng.uniform(5, 9, (V, G))
    n[3], s[3] = n[9], s[9]
    n[20, 2] = 12.0
    R, aliased = rng.uniform(30, 60, G), np.arange(V) == 5
    estimate = n / s
    between = ((df + 1) / (nu + 1) * R - n**2 / s) / (df * s)
    t = estimate / np.sqrt(np.maximum(between, (R - estimate * n) / (nu * rss[:, None])))
    t[5] = np.nan
    return Scores(n, s, R, R * (df + 1) / (nu + 1) / df, 1 / df, 1 / (nu * rss), aliased), t


ORDER = np.random.default_rng(8).permutation(V)
"""Of the variants in the genotypes; of two that are alike the first is the lead."""


def plain(t: np.ndarray, low: np.ndarray, high: np.ndarray, least: float) -> SimpleNamespace:
    """The same with loops over all pairs."""
    listed, best, tested, counts = [], np.full(G, -1), np.zeros(G, dtype=int), np.zeros(N_BINS, dtype=int)
    for v in range(V):
        for g in range(G):
            if low[g] <= v < high[g]:
                size = abs(t[v, g])
                if size >= least or least == 0:
                    listed.append((v, g))
                elif not np.isnan(size):
                    tested[g] += 1
                    counts[min(int(size * BINS_PER_UNIT), N_BINS - 1)] += 1
                    before = abs(t[best[g], g]) if best[g] >= 0 else -1.0
                    alike = abs(size - before) <= 1e-9 * size
                    if (alike and ORDER[v] < ORDER[best[g]]) or (size > before and not alike):
                        best[g] = v
    return SimpleNamespace(listed=listed, best=best, tested=tested, counts=counts)


@pytest.mark.parametrize("least", [0.0, 1.0, np.inf])
@pytest.mark.parametrize("windows", [False, True])
def test_a_tile(least: float, windows: bool) -> None:
    rng = np.random.default_rng(3)
    own, t = scores(rng)
    low, high = np.zeros(G, dtype=np.int64), np.full(G, V)
    if windows:
        low, high = np.sort(rng.integers(0, V + 1, (2, G)), axis=0)
    expected = plain(t, low, high, least)
    for kernel, given in ((sift_scores, tuple(own)), (sift, (t,))):
        best, tested, counts = np.full(G, -1), np.zeros(G, dtype=np.int64), np.zeros(N_BINS, dtype=np.int64)
        rows, columns = np.empty((2, V * G), dtype=np.int64)
        n = kernel(*given, ORDER, low, high, least, best, tested, counts, rows, columns)
        assert list(zip(rows[:n].tolist(), columns[:n].tolist(), strict=True)) == expected.listed
        for found, name in ((best, "best"), (tested, "tested"), (counts, "counts")):
            np.testing.assert_array_equal(found, getattr(expected, name), name)


def test_scores_at_positions() -> None:
    own, t = scores(np.random.default_rng(4))
    v, g = np.array([0, 5, 20, 39]), np.array([1, 0, 2, 6])
    estimate, statistic = own.at(v, g)
    np.testing.assert_allclose(statistic, t[v, g], rtol=1e-12)
    np.testing.assert_allclose(estimate, np.where(v == 5, np.nan, own.n[v, g] / own.s[v, g]), rtol=1e-15)


def test_pairs_that_are_listed_count_as_the_others() -> None:
    t = scores(np.random.default_rng(5))[1]
    listed = np.nonzero(np.abs(t) >= 0)
    best, tested, counts = np.full(G, -1), np.zeros(G, dtype=np.int64), np.zeros(N_BINS, dtype=np.int64)
    order = np.append(ORDER[listed[0]], 0)
    count_pairs(np.append(t[listed], np.nan), order, np.append(listed[1], 0), best, tested, counts)
    expected = plain(t, np.zeros(G), np.full(G, V), np.inf)
    np.testing.assert_array_equal(listed[0][best], expected.best)
    np.testing.assert_array_equal(tested, expected.tested)
    np.testing.assert_array_equal(counts, expected.counts)


def test_order_where_all_variance_is_the_kernel_s() -> None:
    """A ratio of 1e11 leaves no digits to what lies outside of the kernel, of which there is nothing."""
    rng = np.random.default_rng(0)
    donors = np.array([f"d{i:02d}" for i in range(50)])
    X = pd.DataFrame(rng.binomial(2, 0.3, (50, 200)).astype(float), donors, [f"v{i}" for i in range(200)])
    K = pd.DataFrame(np.corrcoef(rng.normal(size=(50, 60))), donors, donors)
    y = np.linalg.cholesky(K) @ rng.normal(size=(50, 6))
    obs = pd.DataFrame({"donor": donors, "age": rng.normal(size=50)})

    def scan(columns: np.ndarray) -> pd.DataFrame:
        found = dw.scan_variants(
            y, obs, X.iloc[:, columns], "~ age + (1 | gr(donor, cov=K))", kernels={"K": K}, refit="none", donor="donor"
        )
        tests = found.tests.astype({"gene": str, "variant": str})
        return tests.set_index(["gene", "variant"])[["beta", "se", "statistic"]].sort_index()

    usual, mixed = scan(np.arange(200)), scan(rng.permutation(200))
    np.testing.assert_allclose(mixed.to_numpy(), usual.to_numpy(), rtol=1e-10)
