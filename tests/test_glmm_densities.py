"""Log-densities of the rows of generalised models, their slopes, and the logarithm that they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from scipy import stats
from scipy.special import gammaln, loggamma
from tests._dense_counts import DENSITIES

from donorwise._core.models.glmm.families import CLOGLOG, LOGIT, NB, POISSON
from donorwise._core.models.glmm.lanes import add_heights, exponential, exponentials, logarithm, slopes

ETA = np.concatenate([np.linspace(-12, 4, 33), [-40.0, -300.0, 20.0]])
SIZES = (1e-2, 0.7, 30.0, 1e3)


@njit
def in_lanes(code, size, total, own, shared, t, eta):
    """Values and slopes at every eta, each of which is a lane."""
    n = eta.size
    at, m, value, first, weight = eta.copy(), np.empty(n), np.zeros(n), np.empty(n), np.empty(n)
    sizes, totals, nodes = np.full(n, size), np.full(n, total), np.empty((own.size, n))
    for j in range(own.size):
        nodes[j] = own[j]
    exponentials(at, m)
    slopes(code, sizes, totals, nodes, shared, t, m, first, weight)
    add_heights(code, sizes, np.log(sizes), totals, nodes, shared, t, at, m, value)
    return value, np.column_stack((first, -weight))


def values_at(code, size, total, own, shared, t, eta):
    return in_lanes(code, size, total, own, shared, t, eta)[0]


def slopes_at(code, size, total, own, shared, t, eta):
    return in_lanes(code, size, total, own, shared, t, eta)[1]


@njit
def logs(z):
    return np.array([logarithm(1.0 + x) for x in z])


@njit
def powers(x):
    return np.array([exponential(one) for one in x])


def cells(kind, rng, n=9):
    """Responses of n cells, their exposures and trials."""
    e = np.exp(rng.normal(0, 0.7, n))
    m = np.ones(n)
    if kind == "logit":
        m = rng.integers(1, 6, n).astype(float)
        return rng.binomial(m.astype(int), 0.4).astype(float), np.ones(n), m
    y = rng.poisson(2 * e).astype(float)
    return (np.minimum(y, 1) if kind == "cloglog" else y), e, m


def row(kind, y, e, m):
    """The numbers of one row of all these cells, a node for each."""
    if kind == "nb":
        return NB, y.sum(), y, np.ones(e.size), e
    if kind == "poisson":
        return POISSON, y.sum(), np.empty(0), np.array([e.sum()]), np.ones(1)
    if kind == "logit":
        return LOGIT, y.sum(), np.empty(0), np.array([m.sum()]), np.ones(1)
    return CLOGLOG, ((m - y) * e).sum(), y, np.ones(e.size), e


@pytest.mark.parametrize("kind", DENSITIES)
def test_a_row_is_the_sum_of_its_cells(kind):
    rng = np.random.default_rng(1)
    for size in SIZES if kind == "nb" else SIZES[:1]:
        y, e, m = cells(kind, rng)
        code, total, own, shared, t = row(kind, y, e, m)
        f, density = m - y, DENSITIES[kind]
        args = [(y, f, e, x, size) for x in ETA]
        np.testing.assert_allclose(
            values_at(code, size, total, own, shared, t, ETA),
            [density.value(*a).sum() for a in args],
            rtol=1e-12,
            atol=1e-9,
        )
        found = slopes_at(code, size, total, own, shared, t, ETA)
        scale = y.sum() + 1
        for i, part in enumerate((density.first, density.second)):
            right = np.array([part(*a).sum() for a in args])
            np.testing.assert_allclose(found[:, i], right, rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("kind", DENSITIES)
def test_slopes_are_those_of_the_value(kind):
    rng = np.random.default_rng(2)
    y, e, m = cells(kind, rng)
    args = row(kind, y, e, m)
    eta, h = np.linspace(-5, 2.5, 16), 1e-4
    ahead, at, behind = (values_at(args[0], 0.7, *args[1:], eta + d) for d in (h, 0, -h))
    found = slopes_at(args[0], 0.7, *args[1:], eta)
    np.testing.assert_allclose(found[:, 0], (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], (ahead - 2 * at + behind) / h**2, rtol=1e-4, atol=1e-4)


def test_densities_are_those_of_scipy_but_for_what_eta_does_not_change():
    rng = np.random.default_rng(3)
    eta = np.linspace(-6, 3, 19)
    y, e, _ = cells("nb", rng)
    mu, r = e * np.exp(eta)[:, None], 0.7
    constant = (gammaln(y + r) - gammaln(r) - gammaln(y + 1) + y * np.log(e)).sum()
    code, *rest = row("nb", y, e, np.ones(e.size))
    np.testing.assert_allclose(
        values_at(code, r, *rest, eta) + constant, stats.nbinom.logpmf(y, r, r / (r + mu)).sum(axis=1), rtol=1e-11
    )
    code, *rest = row("poisson", y, e, np.ones(e.size))
    constant = (y * np.log(e) - loggamma(y + 1)).sum()
    np.testing.assert_allclose(
        values_at(code, r, *rest, eta) + constant, stats.poisson.logpmf(y, mu).sum(axis=1), rtol=1e-11
    )
    y = np.minimum(y, 1)
    code, *rest = row("cloglog", y, e, np.ones(e.size))
    np.testing.assert_allclose(
        values_at(code, r, *rest, eta), stats.bernoulli.logpmf(y, -np.expm1(-mu)).sum(axis=1), rtol=1e-10
    )
    y, e, m = cells("logit", rng)
    code, *rest = row("logit", y, e, m)
    right = (
        stats.binom.logpmf(y, m, 1 / (1 + np.exp(-eta))[:, None]).sum(axis=1)
        - stats.binom.logpmf(y, m, np.full(y.size, 0.5)).sum()
    )
    np.testing.assert_allclose(values_at(code, r, *rest, eta) + m.sum() * np.log(2), right, rtol=1e-11)


def test_the_logarithm_is_right_everywhere():
    z = np.concatenate([[0.0], 10.0 ** np.linspace(-20, 300, 3001), np.linspace(0, 4, 1001)])
    np.testing.assert_allclose(logs(z), np.log1p(z), rtol=4e-16, atol=3e-16)


def test_the_exponential_is_right_everywhere():
    x = np.linspace(-700, 700, 20_001)
    np.testing.assert_allclose(powers(x), np.exp(x), rtol=4e-16)


def test_nothing_overflows():
    y, e, m = (np.array([3.0]), np.array([1.0]), np.array([5.0]))
    for kind in DENSITIES:
        args = row(kind, np.minimum(y, 1) if kind == "cloglog" else y, e, np.minimum(m, 1) if kind == "cloglog" else m)
        eta = np.array([-1e4, -700.0, 299.0, 700.0, 1e4])
        found = values_at(args[0], 2.0, *args[1:], eta), slopes_at(args[0], 2.0, *args[1:], eta)
        assert not any(np.isnan(part).any() for part in found), kind
