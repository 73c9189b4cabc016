"""Fits of proteins against the dense twin of tests/_dense.py, over random designs that differ protein by protein."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests import _ragged
from tests._dense import Derivatives, Term
from tests._ragged import Protein, Recipe
from tests._twins import LOGLIK, SLOPE, check

from donorwise._core.design.design import Design
from donorwise._core.design.replicates import column_df
from donorwise._core.inference.wald import contrast_tests
from donorwise._core.models.lmm.ragged_design_kernels import kept_terms, local_levels
from donorwise._core.models.lmm.ragged_model import RaggedLMM

EXAMPLES = [_ragged.recipe(seed) for seed in range(24)]


def contrasts(p: int) -> np.ndarray:
    """Every coefficient, and all at once."""
    return np.vstack([np.eye(p), np.arange(2, p + 2)])


def identified(exact: Derivatives) -> bool:
    """Whether the data tell the variances apart, and none from nothing at all."""
    return bool((np.diag(exact.information()) > 1e-12 * np.diag(exact.trace)).all()) and exact.identified


def order_of(model: RaggedLMM) -> list[int]:
    """Terms of the replicate first, as the engine has it."""
    groups = [t.group for t in model.design.random_terms]
    first = [t for t, g in enumerate(groups) if g == "donor"] or [
        t for t, g in enumerate(groups) if g == "peptide:donor"
    ]
    terms = model.design.random_terms
    return sorted(
        range(len(groups)), key=lambda t: (t not in first, terms[t].columns != ("(Intercept)",), terms[t].label)
    )


@pytest.mark.parametrize("recipe", EXAMPLES, ids=str)
def test_designs(recipe: Recipe) -> None:
    """Rows, terms that a protein can tell, ranks, contrasts that it can answer."""
    _, model = recipe.fit()
    L = contrasts(model.equations.p)
    estimable = model.estimable(L)
    for g, protein in enumerate(recipe.proteins):
        assert model.n_obs[g] == len(protein.y)
        assert model.equations.rank[g] == protein.rows.shape[1]
        np.testing.assert_array_equal(model.equations.grouped[g], protein.grouped(order_of(model))[0], err_msg=f"{g}")
        np.testing.assert_array_equal(model.equations.kept[g], protein.kept(order_of(model)), err_msg=f"{g}")
        np.testing.assert_array_equal(estimable[g], protein.estimable(L), err_msg=f"{g}")
        rows = slice(model.equations.rows.start[g], model.equations.rows.start[g + 1])
        np.testing.assert_allclose(model.design.X[model.equations.rows.pattern[rows]], protein.X, rtol=0, atol=1e-12)


def own_design(design: Design, protein: Protein, kept: np.ndarray) -> Design:
    """The design of one protein, with the terms that it can tell."""
    terms = tuple(
        replace(term, codes=own.codes, levels=tuple(map(str, np.unique(own.codes))), Z=own.columns)
        for term, own, known in zip(design.random_terms, protein.terms, kept, strict=True)
        if known
    )
    return replace(design, X=protein.X, random_terms=terms)


@pytest.mark.parametrize("recipe", EXAMPLES, ids=str)
def test_between_within(recipe: Recipe) -> None:
    """The inner-outer rule of each protein by itself."""
    _, model = recipe.fit()
    p = model.equations.p
    own = model.between_within(np.eye(p))
    for g, protein in enumerate(recipe.proteins):
        if len(protein.y):
            twin = column_df(own_design(model.design, protein, model.equations.grouped[g]), len(protein.y))
            np.testing.assert_array_equal(own[g], twin, err_msg=f"{g}")


def test_terms_that_a_feature_can_tell() -> None:
    """Columns that are zero, constant, equal up to sign; levels that are those of others, or a row's own."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n, T = rng.integers(1, 7), rng.integers(1, 4)
        codes = np.stack([rng.integers(0, rng.integers(1, 4), n) for _ in range(T)], axis=1)
        codes[:, -1] = rng.permutation(6)[codes[:, 0]] if rng.random() < 0.3 else codes[:, -1]
        codes[:, 0] = np.arange(n) if rng.random() < 0.2 else codes[:, 0]
        z = np.ones((n, T))
        for t in range(T):
            kinds = [rng.choice([0, 1, 2, -1], n), rng.choice([0, 0.5]), z[:, 0], rng.choice([1, -1], 6)[codes[:, t]]]
            z[:, t] = kinds[rng.integers(4)] if rng.random() < 0.8 else 1
        order, start = rng.permutation(T), np.array([0, n])
        local, n_levels, kept = np.zeros((n, T), np.int64), np.zeros((1, T), np.int64), np.zeros((1, T), np.bool_)
        local_levels(start, codes, int(codes.max()) + 1, local, n_levels)
        merged, X = np.zeros(1, np.bool_), np.ones((n, 1))
        kept_terms(start, np.arange(n), local, n_levels, z, X, order, kept, merged)
        terms = tuple(Term(local[:, t], z[:, [t]]) for t in range(T))
        twin, of_residual = Protein(np.zeros(n), np.ones(n), X, terms).grouped(list(order))
        np.testing.assert_array_equal(kept[0], twin, err_msg=str(seed))
        assert merged[0] == of_residual, seed


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("recipe", EXAMPLES, ids=str)
def test_estimates(recipe: Recipe, reml: bool) -> None:
    fit, model = recipe.fit(reml=reml)
    L = contrasts(model.equations.p)
    for g, protein in enumerate(recipe.proteins):
        if g not in model.usable:
            assert not np.isfinite(fit.loglik[g])
            assert len(protein.y) <= protein.rows.shape[1] or protein.leaves_nothing(model.equations.kept[g])
            continue
        twin, gamma = protein.twin(model.equations.kept[g]), model.estimates.gamma[g, model.equations.kept[g]]
        point, own = twin.at(gamma, reml=reml), L[protein.estimable(L)]
        turned = own @ protein.rows
        se = np.sqrt(np.diag(turned @ point.vcov @ turned.T))
        check("beta", own @ fit.beta[g], turned @ point.beta, se)
        check("vcov", own @ fit.vcov_beta[g] @ own.T, turned @ point.vcov @ turned.T, np.outer(se, se))
        check("sigma2", fit.sigma2[g], point.sigma2, point.sigma2)
        if not reml or protein.rows.shape[1] == protein.X.shape[1]:
            full = np.linalg.slogdet(protein.rows)[1] if reml else 0.0
            assert abs(fit.loglik[g] - (point.loglik + full)) < LOGLIK * (1 + abs(point.loglik))
        if identified(twin.derivatives(gamma, reml=True)):
            assert max(twin.optimality(gamma, reml=reml)) < SLOPE


@pytest.mark.parametrize("recipe", EXAMPLES, ids=str)
def test_kenward_roger(recipe: Recipe) -> None:
    _, model = recipe.fit()
    L = contrasts(model.equations.p)
    table = contrast_tests(model, L, "kenward-roger")
    for g, protein in enumerate(recipe.proteins):
        kept = model.equations.kept[g]
        if g not in model.usable:
            continue
        exact = protein.twin(kept).derivatives(model.estimates.gamma[g, kept], reml=True)
        if not identified(exact):
            continue
        for n in np.flatnonzero(protein.estimable(L) & (table.status[g] != "too_few_donors")):
            row = L[n] @ protein.rows
            se = np.sqrt(row @ exact.adjusted() @ row)
            df = exact.kenward_roger(row[None])[1]
            check("se", table.se[g, n], se, se)
            check("df", table.df[g, n], df, df)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("recipe", EXAMPLES, ids=str)
def test_satterthwaite(recipe: Recipe, reml: bool) -> None:
    _, model = recipe.fit(reml=reml)
    L = contrasts(model.equations.p)
    table = contrast_tests(model, L, "satterthwaite")
    for g, protein in enumerate(recipe.proteins):
        kept = model.equations.kept[g]
        if g not in model.usable:
            continue
        gamma = model.estimates.gamma[g, kept]
        exact = protein.twin(kept).derivatives(gamma, reml=reml)
        if not identified(exact):
            continue
        for n in np.flatnonzero(protein.estimable(L) & (table.status[g] != "too_few_donors")):
            row = L[n] @ protein.rows
            se, df = np.sqrt(row @ exact.Phi @ row), exact.satterthwaite(row, np.append(gamma > 0, True))
            check("se", table.se[g, n], se, se)
            check("df", table.df[g, n], df, df)


@pytest.mark.parametrize("recipe", EXAMPLES, ids=str)
def test_law(recipe: Recipe) -> None:
    """All terms, also those that a protein cannot tell, on a grid with zeros and large ratios."""
    _, model = recipe.fit()
    rng = np.random.default_rng(recipe.seed)
    T, L = len(model.nuisance), contrasts(model.equations.p)
    points = 10 ** rng.uniform(-3, 3, (12, T)) * (rng.random((12, T)) < 0.8)
    points = np.vstack([np.zeros(T), points, *(points[:4] * (np.arange(T) != t) for t in range(T))])
    law, proteins = model.law(points, L), recipe.proteins
    for i, g in enumerate(model.usable):
        protein, twin = proteins[g], proteins[g].twin()
        at = [twin.at(gamma, reml=True) for gamma in points]
        turned = L @ protein.rows
        loglik = np.array([point.loglik for point in at])
        np.testing.assert_allclose(law.loglik[i] - law.loglik[i, 0], loglik - loglik[0], rtol=1e-7, atol=1e-7)
        se = np.sqrt([np.diag(turned @ point.vcov @ turned.T) for point in at])
        estimate = np.array([turned @ point.beta for point in at])
        known = protein.estimable(L)
        check("scale", law.scale[i][:, known], se[:, known], se[:, known])
        check("centre", law.centre[i][:, known], estimate[:, known], se[:, known])
        assert np.isnan(law.scale[i][:, ~known]).all()
        assert law.nu[i] == len(protein.y) - protein.rows.shape[1]
