"""The fast fits against the dense twin of tests/_dense.py, over random designs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats
from tests._dense import Dense, Term
from tests._patterns import numbers_as_patterns, numbers_inside_patterns

import donorwise as dw
from donorwise._core.design import build
from donorwise._core.models.lmm import fit as lmm_fit
from donorwise._core.models.lmm.evaluate import evaluate_block
from donorwise._core.models.lmm.fit import _starts, optimise_blocked
from donorwise.errors import DesignError

# Random parts as (formula, grouping factor and columns of every term).
RANDOM = {
    "(1 | donor)": [("donor", "1")],
    "(0 + time | donor)": [("donor", "time")],
    "(1 | donor/sample)": [("donor", "1"), ("donor:sample", "1")],
    "(1 | donor) + (1 | batch)": [("donor", "1"), ("batch", "1")],
    "(time | donor)": [("donor", "1 time")],
    "(time || donor)": [("donor", "1"), ("donor", "time")],
    "(1 + cond | donor)": [("donor", "1 cond")],
    "(0 + arm || donor)": [("donor", "arm0"), ("donor", "arm")],
    "(cond || donor)": [("donor", "1"), ("donor", "cond0"), ("donor", "cond")],
    "(1 | donor) + (0 + x | donor)": [("donor", "1"), ("donor", "x")],
    "(time | donor) + (1 | batch)": [("donor", "1 time"), ("batch", "1")],
    "(1 | donor) + (1 | donor:sample) + (1 | batch)": [("donor", "1"), ("donor:sample", "1"), ("batch", "1")],
    "(x | donor) + (1 | donor:sample)": [("donor", "1 x"), ("donor:sample", "1")],
    "(time + x | donor)": [("donor", "1 time x")],
}
# Fixed parts as (formula, columns of X after the intercept).
FIXED = {
    "1": "",
    "arm": "arm",
    "arm + cond": "arm cond",
    "arm + x": "arm x",
    "phase + arm": "phase2 phase3 arm",
    "cond + time + x": "cond time x",
    "arm * time": "arm time arm:time",
}
CORRELATED = tuple(text for text, terms in RANDOM.items() if any(" " in columns for _, columns in terms))
SCALAR = tuple(text for text in RANDOM if text not in CORRELATED)
ONE_RATIO = ("(1 | donor)", "(0 + time | donor)")

G = 3  # features of an example
# The two sides add in different orders; what is left of a logarithm or an inverse is far below these.
LOGLIK = 1e-8
RELATIVE = 1e-7
# Slope of the deviance per standard error of a variance: its square is what the likelihood is off by.
SLOPE = 1e-6


@dataclass(frozen=True)
class Example:
    """Data for one model, with its matrices made by hand."""

    formula: str
    obs: pd.DataFrame
    X: np.ndarray
    terms: list[Term]
    Y: np.ndarray
    weights: np.ndarray | None

    def contrasts(self) -> np.ndarray:
        """Every coefficient, and all at once."""
        p = self.X.shape[1]
        return np.vstack([np.eye(p), np.arange(2, p + 2)])

    def twin(self, g: int) -> Dense:
        seen = np.isfinite(self.Y[:, g])
        weights = None if self.weights is None else self.weights[seen]
        terms = [Term(np.unique(t.codes[seen], return_inverse=True)[1].ravel(), t.columns[seen]) for t in self.terms]
        return Dense(self.Y[seen, g], self.X[seen], terms, weights)


@dataclass(frozen=True)
class Recipe:
    """What an example is made from: short enough to read in a failure."""

    seed: int
    random: str
    fixed: str
    ratios: tuple[float, float, float]  # variance of the random effects of each feature, the residual's being 1
    weighted: bool = False
    missing: bool = False
    inside: bool = False  # numbers vary inside patterns, as they do where there are many rows

    def example(self) -> Example:
        """Unbalanced donors, samples in donors, batches across them."""
        rng = np.random.default_rng(self.seed)
        values = _rows(rng)
        n = len(values["donor"])
        X = np.column_stack([np.ones(n), *(values[name] for name in FIXED[self.fixed].split())])
        terms = [
            Term(values[g], np.column_stack([values[c] for c in columns.split()])) for g, columns in RANDOM[self.random]
        ]
        weights = rng.gamma(3, size=n) if self.weighted else None
        noise = rng.normal(size=(n, G)) / (1 if weights is None else np.sqrt(weights)[:, None])
        Y = X @ rng.normal(size=(X.shape[1], G)) + noise
        for term in terms:
            u = rng.normal(size=(term.codes.max() + 1, term.columns.shape[1], G)) * np.sqrt(self.ratios)
            Y += (term.columns[:, :, None] * u[term.codes]).sum(axis=1)
        if self.missing:
            Y[rng.random(Y.shape) < 0.1] = np.nan
        return Example(f"~ {self.fixed} + {self.random}", _obs(values), X, terms, Y, weights)


def recipes(random: tuple[str, ...] = tuple(RANDOM)) -> st.SearchStrategy[Recipe]:
    return st.builds(
        Recipe,
        seed=st.integers(0, 2**32 - 1),
        random=st.sampled_from(random),
        fixed=st.sampled_from(list(FIXED)),
        ratios=st.tuples(*[st.sampled_from([0.0, 0.1, 1.0, 10.0])] * G),
        weighted=st.booleans(),
        missing=st.booleans(),
        inside=st.booleans(),
    )


def _rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    n_donors = rng.integers(5, 9)
    samples = np.repeat(np.arange(n_donors), rng.integers(1, 4, n_donors))
    sample = np.repeat(np.arange(samples.size), rng.integers(2, 6, samples.size))
    donor, n = samples[sample], sample.size
    shuffled = rng.permutation(n)
    out = {"donor": donor, "donor:sample": sample, "batch": rng.integers(0, 3, n), "1": np.ones(n)}
    out |= {"arm": donor % 2, "cond": rng.integers(0, 2, samples.size)[sample]}
    out |= {"arm0": 1 - out["arm"], "cond0": 1 - out["cond"]}
    out |= {"time": rng.integers(0, 4, n).astype(float), "x": rng.normal(size=n).round(3)}
    out |= {"phase": (phase := rng.integers(1, 4, n)), "phase2": phase == 2, "phase3": phase == 3}
    out |= {"arm:time": out["arm"] * out["time"]}
    return {name: column[shuffled] for name, column in out.items()}


def _obs(values: dict[str, np.ndarray]) -> pd.DataFrame:
    obs = pd.DataFrame({k: [f"{k[0]}{v}" for v in values[k]] for k in ("donor", "batch", "arm", "cond", "phase")})
    return obs.assign(sample=values["donor:sample"], time=values["time"], x=values["x"])


def fit(recipe: Recipe, *, reml: bool) -> tuple[Example, dw.LMMFit]:
    """An example and its fit; skipped when the data cannot answer the formula."""
    data = recipe.example()
    with patch.object(build, "find_patterns", numbers_inside_patterns) if recipe.inside else nullcontext():
        try:
            return data, dw.fit_lmm(data.Y, data.obs, data.formula, reml=reml, weights=data.weights)
        except DesignError:
            assume(False)
            raise


def check(what: str, own: ArrayLike, twin: ArrayLike, scale: ArrayLike) -> None:
    """Equal up to RELATIVE times a scale."""
    deviation = np.max(np.abs(np.asarray(own) - np.asarray(twin)) / np.abs(np.asarray(scale)), initial=0.0)
    assert deviation <= RELATIVE, f"{what}: {own} instead of {twin}, {deviation:.2g} of {scale}"


@settings(max_examples=30)
@given(recipe=recipes(), reml=st.booleans())
def test_estimates(recipe: Recipe, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    rng = np.random.default_rng(recipe.seed)
    for g in range(G):
        assert own.status[g] in ("ok", "boundary")
        twin, theta = data.twin(g), own.theta[g]
        point = twin.at(twin.gamma(theta), reml=reml)
        se = np.sqrt(np.diag(point.vcov))
        assert abs(own.loglik[g] - point.loglik) < LOGLIK
        check("beta", own.beta[g], point.beta, se)
        check("vcov", own.vcov_beta[g], point.vcov, np.outer(se, se))
        check("sigma2", own.sigma2[g], point.sigma2, point.sigma2)
        if twin.derivatives(twin.gamma(theta), reml=True).identified:
            assert max(twin.optimality(twin.gamma(theta), reml=reml)) < SLOPE
        for _ in range(10):
            near = theta * (1 + 0.1 * rng.normal(size=theta.size)) + 0.01 * rng.normal(size=theta.size)
            assert twin.at(twin.gamma(near), reml=reml).loglik <= own.loglik[g] + LOGLIK


@settings(max_examples=10)
@given(recipe=recipes(SCALAR), reml=st.booleans())
def test_no_start_leads_higher(recipe: Recipe, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    rng = np.random.default_rng(recipe.seed)
    for g in range(G):
        for scale in (0.1, 1.0):
            start = scale * rng.normal(size=own.theta.shape[1])
            assert data.twin(g).minimise(start, reml=reml) <= own.loglik[g] + LOGLIK


@settings(max_examples=20)
@given(recipe=recipes())
def test_kenward_roger(recipe: Recipe) -> None:
    data, own = fit(recipe, reml=True)
    L = data.contrasts()
    table = own.test(L, "kenward-roger")
    joints = {term: own.joint_test(term, "kenward-roger") for term in own.design.terms}
    for g in range(G):
        twin = data.twin(g)
        exact = twin.derivatives(twin.gamma(own.theta[g]), reml=True)
        if not exact.identified:
            continue
        se = np.sqrt(np.diag(L @ exact.adjusted() @ L.T))
        df = np.array([exact.kenward_roger(row[None])[1] for row in L])
        _check_t(table[table["variable"] == own.variables[g]], L @ exact.beta, se, df)
        for term, columns in own.design.terms.items():
            _check_f(joints[term].iloc[g], len(columns), *exact.kenward_roger(np.eye(L.shape[1])[list(columns)]))


@settings(max_examples=20)
@given(recipe=recipes(), reml=st.booleans())
def test_satterthwaite(recipe: Recipe, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    L = data.contrasts()
    table = own.test(L, "satterthwaite")
    joints = {term: own.joint_test(term, "satterthwaite") for term in own.design.terms}
    for g in range(G):
        twin, edge = data.twin(g), own.status[g] == "boundary"
        gamma = twin.gamma(own.theta[g])
        exact = twin.derivatives(gamma, reml=reml)
        if not exact.identified or (edge and recipe.random in CORRELATED):
            continue  # with a perfect correlation the df depend on the parametrisation
        kept = np.append((gamma > 0) | (recipe.random in CORRELATED), True)
        se = np.sqrt(np.diag(L @ exact.Phi @ L.T))
        df = np.array([exact.satterthwaite(row, kept) for row in L])
        _check_t(table[table["variable"] == own.variables[g]], L @ exact.beta, se, df)
        for term, columns in own.design.terms.items():
            F, df = exact.satterthwaite_f(np.eye(L.shape[1])[list(columns)], kept)
            _check_f(joints[term].iloc[g], len(columns), F, df, 1.0)


def _check_t(rows: pd.DataFrame, estimate: np.ndarray, se: np.ndarray, df: np.ndarray) -> None:
    check("estimate", rows["estimate"], estimate, se)
    tested = (rows["status"] != "too_few_donors").to_numpy()
    rows, estimate, se, df = rows[tested], estimate[tested], se[tested], df[tested]
    p, half = 2 * stats.t.sf(np.abs(estimate / se), df), stats.t.ppf(0.975, df) * se
    check("se", rows["se"], se, se)
    check("df", rows["df"], df, df)
    check("p", rows["p_value"], p, 0.01 + p)
    check("ci_low", rows["ci_low"], estimate - half, half)
    check("ci_high", rows["ci_high"], estimate + half, half)


def _check_f(row: pd.Series, rank: int, F: float, df: float, scaling: float) -> None:
    assert row["num_df"] == rank
    check("F", row["statistic"], F, F)
    check("df", row["den_df"], df, df)
    check("scaling", row["scaling"], scaling, scaling)
    check("p", row["p_value"], stats.f.sf(F, rank, df), 0.01 + stats.f.sf(F, rank, df))


@settings(max_examples=20)
@given(recipe=recipes(), reml=st.booleans())
def test_random_effects(recipe: Recipe, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    tables = {term.group: own.ranef(term.group) for term in own.design.random_terms}
    for g in range(G):
        twin = data.twin(g)
        gamma = twin.gamma(own.theta[g])
        for t, term in enumerate(own.design.random_terms):
            modes, covariances = twin.modes(t, gamma, reml=reml)
            table = tables[term.group]
            rows = table[(table["variable"] == own.variables[g]) & table["column"].isin(term.columns)]
            spread = np.sqrt(own.sigma2[g] * (1 + np.diag(twin.symmetric(gamma)[t])))
            check("modes", rows["value"].to_numpy().reshape(modes.shape), modes, spread)
            variances = rows["cond_sd"].to_numpy().reshape(modes.shape) ** 2
            check("variances", variances, np.einsum("lii->li", covariances), spread**2)


@settings(max_examples=15)
@given(recipe=recipes(ONE_RATIO), reml=st.booleans())
def test_spectral_and_blocked_paths_meet(recipe: Recipe, reml: bool) -> None:
    _, own = fit(recipe, reml=reml)
    for model in own.models:
        assert model.equations.spectrum is not None
        gamma, _, converged = optimise_blocked(model.equations, model.estimates.responses, reml=reml)
        assert converged.all()
        check("gamma", gamma, model.estimates.gamma, 1e-3 + model.estimates.gamma)
        assert ((gamma == 0) == (model.estimates.gamma == 0)).all()


@pytest.mark.parametrize(
    "formula", ["~ x + (1 | donor)", "~ x * arm + (x | donor)", "~ arm + (1 | donor) + (0 + x | donor)"]
)
def test_numbers_with_many_values_are_accumulated(formula: str) -> None:
    rng = np.random.default_rng(0)
    n, donor = 2200, rng.integers(0, 8, 2200)
    obs = pd.DataFrame({"donor": donor.astype(str), "arm": np.where(donor % 2, "a", "b"), "x": 5 + rng.normal(size=n)})
    Y = rng.normal(size=(n, 2)) + (obs["x"].to_numpy() - 5)[:, None] * rng.normal(size=(8, 2))[donor]
    fast = dw.fit_lmm(Y, obs, formula)
    with patch.object(build, "find_patterns", numbers_as_patterns):
        plain = dw.fit_lmm(Y, obs, formula)
    assert fast.design.covariates.shape[1] > 0 and fast.design.n_patterns == 8
    assert plain.design.covariates.shape[1] == 0 and plain.design.n_patterns == n
    se = np.sqrt(np.einsum("gii->gi", plain.vcov_beta))
    check("beta", fast.beta, plain.beta, se)
    check("vcov", fast.vcov_beta, plain.vcov_beta, se[:, :, None] * se[:, None, :])
    check("theta", fast.theta, plain.theta, 1.0)
    check("loglik", fast.loglik, plain.loglik, 1.0)
    for ddf in ("kenward-roger", "satterthwaite", "between-within"):
        check(ddf, fast.test(None, ddf)["df"], plain.test(None, ddf)["df"], plain.test(None, ddf)["df"])


# A factor with several columns left at zero, once among many others.
VANISHING = [
    Recipe(0, "(time + x | donor)", "arm * time", (0.0, 0.0, 0.0), weighted=True),
    Recipe(65, "(time + x | donor)", "arm + cond", (0.0, 0.0, 0.1), weighted=True),
    Recipe(5, "(time | donor) + (1 | batch)", "cond + time + x", (1.0, 1.0, 0.0), weighted=True),
]


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("recipe", VANISHING, ids=str)
def test_singular_fits_converge(recipe: Recipe, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    assert set(own.status) <= {"ok", "boundary"}
    for g in range(G):
        twin = data.twin(g)
        assert max(twin.optimality(twin.gamma(own.theta[g]), reml=reml)) < SLOPE


def test_flat_likelihood() -> None:
    """One donor of five has both conditions: a ridge of equal likelihood, on which the fit must stay."""
    rng = np.random.default_rng(0)
    donor, cond = np.repeat([0, 1, 2, 3, 4, 4], [2, 3, 10, 4, 8, 5]), np.repeat([0, 1, 0, 1, 0, 1], [2, 3, 10, 4, 8, 5])
    columns = np.column_stack([np.ones(32), cond])
    X = np.column_stack([np.ones(32), donor % 2, cond])
    Y = rng.normal(size=(32, 20)) + 1.5 * rng.normal(size=(5, 20))[donor]
    obs = pd.DataFrame({"donor": donor.astype(str), "cond": cond.astype(str), "arm": (donor % 2).astype(str)})
    own = dw.fit_lmm(Y, obs, "~ arm + cond + (1 + cond | donor)")
    for g in range(20):
        twin = Dense(Y[:, g], X, [Term(donor, columns)])
        assert abs(own.loglik[g] - twin.at(twin.gamma(own.theta[g]), reml=True).loglik) < LOGLIK
        assert twin.minimise(own.theta[g], reml=True) < own.loglik[g] + 1e-6


def test_no_start_is_left_for_another_peak() -> None:
    """Starts are left early where an optimum is known: all together they find what the best of them finds alone."""
    rng = np.random.default_rng(2)
    donor, time = np.repeat(np.arange(6), 3), rng.normal(size=18) * 10 ** rng.uniform(-1, 1) + rng.choice([0, 5])
    _, sd = rng.normal(size=18), np.exp(2 * rng.normal(size=(2, 500)))
    Y = rng.normal(size=(18, 500)) + (sd[0] * rng.normal(size=(6, 500)))[donor]
    Y += time[:, None] * (sd[1] * rng.normal(size=(6, 500)))[donor]
    Y = Y[:, 100:140]
    own = dw.fit_lmm(Y, pd.DataFrame({"donor": donor.astype(str), "time": time}), "~ time + (time | donor)")
    model, response = own.models[0].equations, own.models[0].estimates.responses

    def deviance(starts: slice) -> np.ndarray:
        def chosen(*args: np.ndarray) -> np.ndarray:
            return _starts(*args)[starts]

        with patch.object(lmm_fit, "_starts", chosen):
            gamma, _, converged = optimise_blocked(model, response, reml=True)
        found = evaluate_block(model.blocks, gamma, response, model.nu(reml=True)).deviance
        return np.where(converged, found, np.inf)

    alone = np.min([deviance(slice(i, i + 1)) for i in range(6)], axis=0)
    np.testing.assert_allclose(deviance(slice(None)), alone, rtol=1e-9, atol=1e-6)


def test_pairs_of_columns_in_closed_form() -> None:
    """The deviance in closed form and that of the general elimination, which tests use, are one."""
    _, own = fit(Recipe(3, "(time | donor)", "arm", (1.0, 1.0, 1.0)), reml=True)
    model, response = own.models[0].equations, own.models[0].estimates.responses
    gamma = np.array([[0.0, 0.0, 0.0], [2.0, -0.5, 0.3], [4.0, 2.0, 1.0]])[np.arange(G) % 3]
    nu = model.nu(reml=True)
    closed, general = (evaluate_block(model.blocks, gamma, response, nu, pieces=p) for p in (False, True))
    for name in ("deviance", "R", "logdet_V", "logdet_X", "Phi", "delta"):
        np.testing.assert_allclose(getattr(closed, name), getattr(general, name), rtol=1e-10, atol=1e-12)


# Small samples whose likelihood has two peaks: one in the interior, the higher one at the edge.
TWO_PEAKS = [
    (Recipe(1, "(1 + cond | donor)", "arm + x", (1.0, 10.0, 10.0)), True),
    (Recipe(76, "(1 + cond | donor)", "arm + x", (10.0, 0.1, 10.0)), True),
    (Recipe(191, "(1 + cond | donor)", "1", (10.0, 0.0, 10.0)), False),
    (Recipe(566, "(1 + cond | donor)", "phase + arm", (10.0, 1.0, 10.0)), False),
]


@pytest.mark.parametrize(("recipe", "reml"), TWO_PEAKS)
def test_the_higher_of_two_peaks(recipe: Recipe, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    rng = np.random.default_rng(0)
    for g in range(G):
        starts = rng.normal(size=(10, own.theta.shape[1]))
        assert max(data.twin(g).minimise(start, reml=reml) for start in starts) < own.loglik[g] + 1e-6
