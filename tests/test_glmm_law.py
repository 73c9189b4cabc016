"""The law of generalised models against the dense twin of tests/_dense_counts.py, cell by cell."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from tests._dense import Term
from tests._dense_counts import DenseCounts, profile
from tests._patterns import numbers_inside_patterns

from donorwise._core.cells.counts import count_cells
from donorwise._core.cells.nodes import choose_nodes
from donorwise._core.cells.tails import choose_tails
from donorwise._core.design import build
from donorwise._core.design.build import build_design
from donorwise._core.models.glmm.counts import CellCounts, PatternCounts
from donorwise._core.models.glmm.effects import modes, random_effects
from donorwise._core.models.glmm.families import distribution
from donorwise._core.models.glmm.fit import dispersion_profiles, fit_counts
from donorwise._core.models.glmm.grid import GLMMGrid
from donorwise._core.models.glmm.size import DISPERSIONS
from donorwise._core.models.law import tensor
from donorwise._core.models.lmm.components import covariances, with_covariances

KINDS = {
    "nb": ("nb", "log"),
    "poisson": ("poisson", "log"),
    "logit": ("binomial", "logit"),
    "cloglog": ("binomial", "cloglog"),
}
# Formulas, the terms of the twin as (grouping factors, columns), and points of the variances and correlations.
MODELS = {
    "~ arm + (1 | donor)": ([("donor", "1")], [[0.0], [1e-3], [0.2], [3.0]]),
    "~ 1 + (1 | donor)": ([("donor", "1")], [[0.0], [0.5]]),
    "~ arm * cond + age + (1 | donor/sample)": ([("donor", "1"), ("donor:sample", "1")], [[0.0, 0.3], [0.4, 0.1]]),
    "~ arm + (1 | donor) + (1 | batch)": ([("donor", "1"), ("batch", "1")], [[0.2, 0.0], [0.1, 0.5]]),
    "~ cond + (1 + cond | donor)": ([("donor", "1 cond")], [[0.3, -0.8, 0.2], [0.3, 0.4, 0.1], [0.0, 0.0, 0.2]]),
    "~ time + arm + (time || donor)": ([("donor", "1"), ("donor", "time")], [[0.3, 0.2], [0.0, 0.4]]),
}  # fmt: skip


def cohort(seed, n=260, donors=6):
    """Cells with unequal exposures; donors have one arm, two samples of a condition each, and share batches."""
    rng = np.random.default_rng(seed)
    donor = np.sort(rng.integers(0, donors, n))
    cond = rng.integers(0, 2, n)
    obs = pd.DataFrame({
        "donor": pd.Categorical([f"d{i}" for i in donor]), "arm": np.where(donor % 2, "b", "a"),
        "cond": np.where(cond, "s", "c"), "age": 0.1 * donor**2, "time": cond + rng.integers(0, 2, n) * 2.0,
        "batch": [f"l{i}" for i in (donor + rng.integers(0, 2, n)) % 3], "sample": [f"s{i}" for i in cond],
        "x": rng.normal(size=n),
    })  # fmt: skip
    return obs, np.exp(rng.normal(0, 0.6, n)), rng


def responses(kind, obs, exposure, rng, G=3):
    """Counts or successes (n, G), and trials."""
    n, donor = len(obs), obs["donor"].cat.codes.to_numpy()
    eta = rng.normal(0, 0.5, (donor.max() + 1, G))[donor] + np.linspace(-2.5, 1.5, G)
    trials = np.ones(n)
    if kind == "logit":
        trials = rng.integers(1, 4, n).astype(float)
        return rng.binomial(trials.astype(int)[:, None], 1 / (1 + np.exp(-eta))).astype(float), trials
    y = rng.poisson(exposure[:, None] * np.exp(eta) * (rng.gamma(2, 0.5, (n, G)) if kind == "nb" else 1))
    return (np.minimum(y, 1.0) if kind == "cloglog" else y.astype(float)), trials


def collapsed(kind, design, y, exposure, trials):
    """The model of the sums over patterns."""
    family = distribution(*KINDS[kind])
    e = exposure if family.exposed else np.ones(len(y))
    nodes = choose_nodes(np.log(e.min()), np.log(e.max()), family.smooth) if family.smooth else None
    tails = choose_tails(y.max()) if family.dispersed else None
    counted = count_cells(
        y,
        design.codes,
        design.n_patterns,
        exposure=e,
        trials=None if family.counts else trials,
        nodes=nodes,
        tails=tails,
    )
    at, values = (
        np.empty(0) if own is None else getattr(own, name) for own, name in ((nodes, "exposures"), (tails, "values"))
    )
    return sized(fit_counts(design, PatternCounts(family, counted, at, values)))


def by_cell(kind, design, y, exposure, trials):
    """The model of single cells."""
    family = distribution(*KINDS[kind])
    e = exposure if family.exposed else np.ones(len(y))
    counts = CellCounts(family, y, e, trials, design.codes.astype(np.int64))
    return sized(fit_counts(design.by_row(), counts))


def sized(model):
    return replace(model, size=np.array([0.4, 2.0, 50.0])[: model.features.size])


def column(obs, name):
    if name == "1":
        return np.ones(len(obs))
    return obs[name].to_numpy() if obs[name].dtype.kind in "fi" else (obs[name] == obs[name].max()).to_numpy(float)


def twin(kind, model, design, obs, terms, y, exposure, trials, g):
    """Feature g, cell by cell."""
    X = np.linalg.solve(model.rows.equations.fixed.R.T, design.by_row().X.T).T
    made = []
    for factors, columns in terms:
        codes = obs.groupby(factors.split(":"), observed=True, sort=True).ngroup().to_numpy()
        made.append(Term(codes, np.stack([column(obs, name) for name in columns.split()], axis=1)))
    e = exposure if kind in ("nb", "cloglog") else (exposure if kind == "poisson" else np.ones(len(y)))
    return DenseCounts(kind, y[:, g], X, made, e, trials, float(model.size[g]))


def law_of(model, points, L):
    """Every point worked out, nothing interpolated."""
    grid = GLMMGrid(model, points, model.rows.equations.turned(L), ())
    return grid.law(model.usable)


def matrices(model, point):
    """Covariances of the terms at a point, on the columns as the formula has them."""
    equations = model.rows.equations
    return [T[0] for T in covariances(equations, with_covariances(equations, np.array([point])))]


# Newton's method stops where the next step gains about 1e-14, the determinants being those of the state before.
LOGLIK, CENTRE, SCALE, ROOT = 1e-3, 1e-6, 1e-4, 1e-7
CELL_ROOT = 1e-5  # where cells are gone through one by one, the fewer passes the better


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("formula", MODELS)
def test_the_law_is_that_of_the_dense_twin(kind, formula):
    obs, exposure, rng = cohort(1)
    y, trials = responses(kind, obs, exposure, rng)
    design = build_design(formula, obs)
    model = collapsed(kind, design, y, exposure, trials)
    terms, points = MODELS[formula]
    points = np.array(points)
    L = np.vstack([np.eye(design.X.shape[1]), rng.normal(size=(1, design.X.shape[1]))])
    law, turned = law_of(model, points, L), model.rows.equations.turned(L)
    for g in range(len(model.features)):
        dense = twin(kind, model, design, obs, terms, y, exposure, trials, g)
        right = np.array([dense.loglik(matrices(model, point)) for point in points])
        np.testing.assert_allclose(law.loglik[g] - law.loglik[g, 0], right - right[0], rtol=0, atol=LOGLIK)
        for t, point in enumerate(points):
            for i, c in enumerate(turned):
                own = dense.contrast(matrices(model, point), c)
                assert abs(law.centre[g, t, i] - own.centre) < CENTRE * own.scale
                assert abs(law.scale[g, t, i] / own.scale - 1) < SCALE
                assert abs(law.root[g, t, i] - own.root) < ROOT


@pytest.mark.parametrize("make", ["collapsed", "by_cell"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("formula", ["~ arm * cond + age + (1 | donor/sample)", "~ cond + x + (1 + cond | donor)"])
def test_roots_of_other_values_are_those_of_the_dense_twin(make, kind, formula):
    obs, exposure, rng = cohort(7)
    y, trials = responses(kind, obs, exposure, rng)
    design = build_design(formula.replace("x + ", "") if make == "collapsed" else formula, obs)
    model = {"collapsed": collapsed, "by_cell": by_cell}[make](kind, design, y, exposure, trials)
    terms, points = MODELS[formula.replace("x + ", "")]
    L = np.vstack([np.eye(design.X.shape[1]), rng.choice([-1, 1], (1, design.X.shape[1]))])
    turned = model.rows.equations.turned(L)
    grid = GLMMGrid(model, np.array(points), turned, ())
    law = grid.law(model.usable)
    np.testing.assert_array_equal(grid.root_at(model.usable, law, 0.0), law.root)
    for value in (-0.4, 2.0):
        roots = grid.root_at(model.usable, law, value)
        for g in range(len(model.features)):
            dense = twin(kind, model, design, obs, terms, y, exposure, trials, g)
            for (t, point), (i, c) in product(enumerate(points), enumerate(turned)):
                right = dense.contrast(matrices(model, point), c, value).root
                assert abs(roots[g, t, i] - right) < (ROOT if make == "collapsed" else CELL_ROOT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("formula", MODELS)
def test_effects_are_those_of_the_dense_twin(kind, formula):
    obs, exposure, rng = cohort(2)
    y, trials = responses(kind, obs, exposure, rng)
    design = build_design(formula, obs)
    model = collapsed(kind, design, y, exposure, trials)
    terms, points = MODELS[formula]
    points = np.resize(points, (model.features.size, len(points[0])))
    found = modes(model, model.usable, points)
    for g, point in enumerate(points):
        dense = twin(kind, model, design, obs, terms, y, exposure, trials, g)
        for t in range(len(terms)):
            effects, covariance = random_effects(model, found, points, t)
            right, variance = dense.effects(matrices(model, point), t)
            np.testing.assert_allclose(effects[g], right, atol=1e-5)
            np.testing.assert_allclose(np.einsum("lii->li", covariance[g]), variance, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("formula", MODELS)
def test_sums_over_patterns_are_as_good_as_cells(kind, formula):
    obs, exposure, rng = cohort(3)
    y, trials = responses(kind, obs, exposure, rng)
    design = build_design(formula, obs)
    points, L = np.array(MODELS[formula][1]), np.eye(design.X.shape[1])
    twice = np.repeat(points, 2, axis=0)  # from the mode once more, or what is left of Newton's steps is compared
    sums, cells = (law_of(make(kind, design, y, exposure, trials), twice, L) for make in (collapsed, by_cell))
    contrast = sums.loglik - sums.loglik[:, 1:2], cells.loglik - cells.loglik[:, 1:2]
    # the determinants have second derivatives of what is interpolated, which lose a digit where nearly all cells respond
    atol = 3e-8 if kind == "cloglog" else 1e-8
    np.testing.assert_allclose(contrast[0][:, 1::2], contrast[1][:, 1::2], rtol=0, atol=atol)
    np.testing.assert_allclose(*contrast, rtol=0, atol=LOGLIK)
    for name in ("centre", "scale", "root"):
        own = getattr(sums, name)[:, 1::2], getattr(cells, name)[:, 1::2]
        np.testing.assert_allclose(*own, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("formula", ["~ arm + x + (1 | donor)", "~ x + arm + (x || donor)"])
@pytest.mark.parametrize("kind", KINDS)
def test_covariates_of_single_cells(kind, formula):
    with numbers_inside(formula):
        check_covariates(kind, formula)


def check_covariates(kind, formula):
    obs, exposure, rng = cohort(4)
    y, trials = responses(kind, obs, exposure, rng)
    design = build_design(formula, obs)
    assert design.covariates.shape[1]
    model = by_cell(kind, design, y, exposure, trials)
    slopes = "||" in formula
    terms = [("donor", "1"), ("donor", "x")] if slopes else [("donor", "1")]
    points, L = np.array([[0.2, 0.1], [0.0, 0.3]] if slopes else [[0.0], [0.3]]), np.eye(design.X.shape[1])
    law, turned = law_of(model, points, L), model.rows.equations.turned(L)
    for g in range(model.features.size):
        dense = twin(kind, model, design, obs, terms, y, exposure, trials, g)
        right = np.array([dense.loglik(matrices(model, point)) for point in points])
        np.testing.assert_allclose(law.loglik[g] - law.loglik[g, 0], right - right[0], rtol=0, atol=LOGLIK)
        own = [[dense.contrast(matrices(model, point), c) for c in turned] for point in points]
        np.testing.assert_allclose(law.root[g], [[c.root for c in row] for row in own], rtol=0, atol=CELL_ROOT)
        np.testing.assert_allclose(law.centre[g], [[c.centre for c in row] for row in own], rtol=0, atol=1e-5)


def numbers_inside(formula):
    return patch.object(build, "find_patterns", numbers_inside_patterns)


def test_profiles_of_the_dispersion():
    obs, exposure, rng = cohort(5)
    y, trials = responses("nb", obs, exposure, rng)
    design = build_design("~ arm + cond + (1 | donor)", obs)
    points = [0, 10, 30, 12]  # the last one is interpolated
    right = np.array([[profile(own, exposure, design.codes, DISPERSIONS[i]) for i in points] for own in y.T])
    for make in (collapsed, by_cell):
        found = dispersion_profiles(make("nb", design, y, exposure, trials))[:, points]
        off = np.abs((found - found[:, :1]) - (right - right[:, :1]))
        assert off[:, :3].max() < LOGLIK
        assert off[:, 3].max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_features_do_not_know_of_each_other(kind):
    obs, exposure, rng = cohort(6)
    y, trials = responses(kind, obs, exposure, rng)
    design = build_design("~ arm + (1 | donor/sample)", obs)
    model = collapsed(kind, design, y, exposure, trials)
    points, L = tensor([np.array([0.0, 0.1, 1.0])] * 2), np.eye(2)
    together, order = law_of(model, points, L), np.array([2, 0, 1])
    turned, alone = law_of(model.take(order), points, L), [law_of(model.take(np.array([g])), points, L) for g in order]
    for name in ("loglik", "centre", "scale", "root"):
        np.testing.assert_allclose(getattr(turned, name), getattr(together, name)[order], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(
            np.concatenate([getattr(a, name) for a in alone]), getattr(together, name)[order], rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("kind", ["nb", "poisson", "cloglog"])
def test_a_constant_offset_moves_the_intercept_alone(kind):
    obs, exposure, rng = cohort(7)
    y, trials = responses(kind, obs, exposure, rng)
    design = build_design("~ arm + cond + (1 | donor)", obs)
    points, L = np.array([[0.0], [0.3]]), np.eye(3)
    one, other = (law_of(collapsed(kind, design, y, e, trials), points, L) for e in (exposure, 50 * exposure))
    np.testing.assert_allclose(other.centre[..., 0], one.centre[..., 0] - np.log(50), atol=1e-6)
    np.testing.assert_allclose(other.centre[..., 1:], one.centre[..., 1:], atol=1e-6)
    np.testing.assert_allclose(other.root[..., 1:], one.root[..., 1:], atol=1e-6)


def test_success_and_failure_change_places():
    obs, exposure, rng = cohort(8)
    y, trials = responses("logit", obs, exposure, rng)
    design = build_design("~ arm + cond + (1 | donor)", obs)
    points, L = np.array([[0.0], [0.3]]), np.eye(3)
    one, other = (
        law_of(collapsed("logit", design, own, exposure, trials), points, L) for own in (y, trials[:, None] - y)
    )
    np.testing.assert_allclose(other.centre, -one.centre, atol=1e-8)
    np.testing.assert_allclose(other.root, -one.root, atol=1e-8)
    np.testing.assert_allclose(other.loglik, one.loglik, rtol=1e-9)
    np.testing.assert_allclose(other.scale, one.scale, rtol=1e-7)


def test_a_huge_size_is_poisson():
    obs, exposure, rng = cohort(9)
    y, trials = responses("poisson", obs, exposure, rng)
    design = build_design("~ arm + (1 | donor)", obs)
    points, L = np.array([[0.0], [0.3]]), np.eye(2)
    counts = collapsed("nb", design, y, exposure, trials)
    found = law_of(replace(counts, size=np.full(3, 1e8)), points, L)
    right = law_of(collapsed("poisson", design, y, exposure, trials), points, L)
    for name in ("centre", "scale", "root"):
        np.testing.assert_allclose(getattr(found, name), getattr(right, name), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.diff(found.loglik), np.diff(right.loglik), atol=1e-4)


SEPARATED = {
    # rows with counts, by what the design cannot tell then
    "~ arm": (lambda o: o["arm"] == "b", ["Intercept", "arm[T.b]"]),
    "~ arm + cond": (lambda o: o["arm"] == "b", ["Intercept", "arm[T.b]"]),
    "~ arm * cond": (lambda o: (o["arm"] == "b") | (o["cond"] == "s"), ["Intercept", "arm[T.b]", "cond[T.s]", "arm[T.b]:cond[T.s]"]),
    "~ arm + age": (lambda o: o["donor"] != "d3", []),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("formula", SEPARATED)
def test_arms_without_a_response(kind, formula):
    obs, exposure, rng = cohort(10)
    y, trials = responses(kind, obs, exposure, rng)
    where, expected = SEPARATED[formula]
    y = y * where(obs).to_numpy()[:, None]
    with numbers_inside(formula):
        design = build_design(f"{formula} + (1 | donor)", obs)
        noisy = build_design(f"{formula} + x + (1 | donor)", obs)
    L = np.eye(design.X.shape[1])
    found = collapsed(kind, design, y, exposure, trials).separated(L)
    for own in found[y.any(axis=0)]:
        assert [name for name, bad in zip(design.fixed_names, own, strict=True) if bad] == expected
    model = by_cell(kind, noisy, y, exposure, trials)
    own = model.separated(np.eye(noisy.X.shape[1]))[-1]
    assert [name for name, bad in zip(noisy.fixed_names, own, strict=True) if bad] == expected
