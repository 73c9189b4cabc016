"""Pairs with two variances of their own, between nodes, against Newton's method without nodes; on boundaries as well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.cells.collapse import collapse
from donorwise._core.models.lmm.crossproducts import Columns
from donorwise._core.models.lmm.denominators import FeatureByFeature
from donorwise._core.models.lmm.variants import NullModels, null_models

D, G, V = 36, 12, 8


@pytest.fixture(scope="module")
def models() -> tuple[NullModels, np.ndarray]:
    """Genes whose variances are zero, small and large, and genotypes of which some explain much."""
    rng = np.random.default_rng(4)
    names = [f"d{i:02d}" for i in range(D)]
    K = pd.DataFrame(np.kron(np.eye(D // 4), np.full((4, 4), 0.5) + np.eye(4) / 2), names, names)
    x = rng.binomial(2, 0.3, (V, D)).astype(float)
    rows = np.repeat(np.arange(D), rng.integers(2, 9, D))
    of_kernel, of_donor = np.tile([0.0, 0.4, 1.0], 4), np.repeat([0.0, 0.4, 1.0, 3.0], 3)
    levels = np.linalg.cholesky(K) @ rng.normal(size=(D, G)) * of_kernel + rng.normal(size=(D, G)) * of_donor
    levels += x[rng.integers(0, V, G)].T * rng.choice([0.0, 1.0], G)
    Y = levels[rows] + rng.normal(size=(rows.size, G))
    obs = pd.DataFrame({"donor": np.array(names)[rows], "sex": np.where(rng.random(D) < 0.5, "f", "m")[rows]})
    fit = dw.fit_lmm(Y, obs, "~ sex + (1 | gr(donor, cov=K)) + (1 | donor)", kernels={"K": K})
    (model,) = fit.models
    term = model.design.random_terms[0]
    ones = Columns(np.ones((model.design.n_patterns, 1)), np.zeros((0, 1)))
    collapsed = collapse(Y, fit.design.codes, fit.design.n_patterns)
    order = [names.index(level) for level in term.levels]
    return null_models(model, collapsed, term.codes, D, [ones]), x[:, order]


def test_optima_are_those_of_newton_s_method(models: tuple[NullModels, np.ndarray]) -> None:
    own, x = models
    block, v, g = own.block(x), np.repeat(np.arange(V), G), np.tile(np.arange(G), V)
    found = own.refitted(block, v, g)
    assert isinstance(own.variances, FeatureByFeature) and own.variances.nodes is not None
    expected = replace(own, variances=replace(own.variances, nodes=None)).refitted(block, v, g)
    zero = expected.gamma == 0
    assert zero.any(axis=0).all() and (~zero).all(axis=1).any()  # both boundaries, and between them
    np.testing.assert_array_equal(found.gamma == 0, zero)
    np.testing.assert_allclose(found.gamma, expected.gamma, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.estimate / found.se, expected.estimate / expected.se, atol=1e-6)
    np.testing.assert_allclose(found.se, expected.se, rtol=1e-6)


def test_pairs_do_not_depend_on_each_other(models: tuple[NullModels, np.ndarray]) -> None:
    own, x = models
    block, v, g = own.block(x), np.repeat(np.arange(V), G), np.tile(np.arange(G), V)
    found, at = own.refitted(block, v, g), np.array([3, 17, 40, 90])
    some = own.refitted(block, v[at], g[at])
    np.testing.assert_allclose(some.estimate, found.estimate[at], rtol=1e-9)
    np.testing.assert_allclose(some.gamma, found.gamma[at], rtol=1e-6, atol=1e-12)
