"""ACAT in sums that merge, against its formula in many digits."""

from __future__ import annotations

from decimal import Decimal, getcontext

import numpy as np
import pytest

from donorwise._core.inference.cauchy import Cauchy


def acat(p: np.ndarray) -> float:
    """The formula as it stands in the paper."""
    return float(0.5 - np.arctan(np.tan((0.5 - p) * np.pi).mean()) / np.pi)


def of(log_p: np.ndarray, genes: np.ndarray | None = None) -> Cauchy:
    genes = np.zeros(log_p.size, dtype=int) if genes is None else genes
    sums = Cauchy.empty(int(genes.max()) + 1)
    sums.add(genes, log_p)
    return sums


def test_the_formula() -> None:
    rng = np.random.default_rng(0)
    genes, p = rng.integers(0, 40, size=3000), rng.uniform(1e-6, 1, size=3000)
    own = of(np.log(p), genes).p_value()
    np.testing.assert_allclose(own, [acat(p[genes == g]) for g in range(40)], rtol=1e-9)


@pytest.mark.parametrize("log_p", [-30.0, -200.0, -689.9, -690.1, -800.0, -1e6])
def test_small_p_values(log_p: float) -> None:
    """n times the smallest, as 1 / (pi p) is all that counts; log p has no end."""
    others = np.log([0.3, 0.9, 0.5, 0.02])
    np.testing.assert_allclose(of(np.append(others, log_p)).log_p(), log_p + np.log(5), rtol=1e-12, atol=1e-10)
    two = of(np.array([log_p, log_p - np.log(3)]))
    getcontext().prec = 30
    expected = float((Decimal(2) / 4).ln()) + log_p  # harmonic mean: 2 / (1/p + 3/p)
    np.testing.assert_allclose(two.log_p(), expected, rtol=1e-12, atol=1e-10)
    assert (of(np.array([log_p, -0.1])).p_value() > 0) == (log_p > -740)


def test_blocks_in_any_order_give_the_same() -> None:
    rng = np.random.default_rng(1)
    genes, log_p = rng.integers(0, 7, size=500), -(rng.exponential(size=500) ** 6)
    whole = of(log_p, genes)
    merged = Cauchy.empty(7)
    for at in np.array_split(rng.permutation(500), 9):
        part = Cauchy.empty(7)
        part.add(genes[at], log_p[at])
        merged = merged.merge(part)
    np.testing.assert_allclose(merged.log_p(), whole.log_p(), rtol=1e-12)
    np.testing.assert_array_equal(merged.n_tests, np.bincount(genes))


def test_rows_of_variants() -> None:
    rng = np.random.default_rng(2)
    log_p = np.log(rng.uniform(size=(3, 50)))
    log_p[1, 10:] = np.nan
    log_p[2] = np.nan
    sums = Cauchy.empty(4)
    sums.add(np.array([3, 0, 1]), log_p)
    np.testing.assert_array_equal(sums.n_tests, [10, 0, 0, 50])
    np.testing.assert_allclose(sums.p_value(), [acat(np.exp(log_p[1, :10])), np.nan, np.nan, acat(np.exp(log_p[0]))])


def test_ones_do_not_ruin_a_gene() -> None:
    small = np.log([1e-4, 0.4, 0.7])
    for one in (0.0, -1e-17, -1e-12):
        p = of(np.append(small, [one, one])).p_value()
        np.testing.assert_allclose(p, acat(np.append(np.exp(small), [0.8, 0.8])), rtol=1e-9)  # 1 - 1/5
    assert of(np.zeros(1)).p_value() == of(np.zeros(8)).p_value() == 1
    assert of(np.array([-np.inf, 0.0])).p_value() == 0
    np.testing.assert_allclose(of(np.array([0.0, np.log(0.3)])).p_value(), acat(np.array([0.3, 0.5])))


def test_one_test_keeps_its_p() -> None:
    p = np.array([1e-300, 1e-20, 1e-3, 0.3, 0.5, 0.77, 0.999, 1 - 1e-8])
    np.testing.assert_allclose(of(np.log(p), np.arange(p.size)).p_value(), p, rtol=1e-12)
