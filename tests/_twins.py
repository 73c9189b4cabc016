"""Random designs with their matrices made by hand, and fits of them held to the dense twin of tests/_dense.py."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pandas as pd
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats
from tests._dense import Dense, Term
from tests._patterns import numbers_inside_patterns

import donorwise as dw
from donorwise._core.design import build
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
# Those with known covariances, as (grouping factor, columns and kernel of every term).
COUPLED = {
    "(1 | gr(donor, cov=K))": [("donor", "1", "K")],
    "(0 + x | gr(donor, cov=K))": [("donor", "x", "K")],
    "(1 | gr(donor:sample, cov=S))": [("donor:sample", "1", "S")],
    "(1 | gr(donor, cov=K)) + (1 | donor)": [("donor", "1", "K"), ("donor", "1", "")],
    "(1 | donor:sample) + (1 | gr(donor, cov=K))": [("donor:sample", "1", ""), ("donor", "1", "K")],
    "(1 | gr(donor, cov=K)) + (1 | gr(donor, cov=M))": [("donor", "1", "K"), ("donor", "1", "M")],
    "(1 | gr(donor, cov=K)) + (1 | gr(batch, cov=B))": [("donor", "1", "K"), ("batch", "1", "B")],
    "(1 | gr(donor, cov=K)) + (0 + x | gr(donor, cov=K))": [("donor", "1", "K"), ("donor", "x", "K")],
    "(1 | gr(donor, cov=K)) + (0 + time | donor)": [("donor", "1", "K"), ("donor", "time", "")],
    "(1 | gr(donor, cov=K)) + (1 | donor/sample)": [("donor", "1", "K"), ("donor", "1", ""), ("donor:sample", "1", "")],
    "(1 | gr(donor, cov=K)) + (1 | gr(donor, cov=M)) + (1 | donor)": [
        ("donor", "1", "K"),
        ("donor", "1", "M"),
        ("donor", "1", ""),
    ],
    "(1 + x | gr(donor, cov=K))": [("donor", "1 x", "K")],
    "(1 + time | gr(donor, cov=K)) + (1 | donor)": [("donor", "1 time", "K"), ("donor", "1", "")],
}
COVARIANCES = ("full", "deficient", "families", "centred", "nearly singular")
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
CORRELATED = tuple(text for text, terms in (RANDOM | COUPLED).items() if any(" " in term[1] for term in terms))
SCALAR = tuple(text for text in RANDOM if text not in CORRELATED)
COUPLED_SCALAR = tuple(text for text in COUPLED if text not in CORRELATED)
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
    kernels: dict[str, pd.DataFrame] | None = None

    def contrasts(self) -> np.ndarray:
        """Every coefficient, and all at once."""
        p = self.X.shape[1]
        return np.vstack([np.eye(p), np.arange(2, p + 2)])

    def twin(self, g: int) -> Dense:
        seen = np.isfinite(self.Y[:, g])
        weights = None if self.weights is None else self.weights[seen]
        return Dense(self.Y[seen, g], self.X[seen], [_seen(term, seen) for term in self.terms], weights)


def _seen(term: Term, seen: np.ndarray) -> Term:
    """A term on some rows."""
    levels, codes = np.unique(term.codes[seen], return_inverse=True)
    kernel = None if term.kernel is None else term.kernel[np.ix_(levels, levels)]
    return Term(codes.ravel(), term.columns[seen], kernel)


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
    covariance: str = ""  # what the kernels are like; none in RANDOM

    def example(self) -> Example:
        """Unbalanced donors, samples in donors, batches across them."""
        rng = np.random.default_rng(self.seed)
        values = _rows(rng, 17 if self.covariance else 9)
        n = len(values["donor"])
        X = np.column_stack([np.ones(n), *(values[name] for name in FIXED[self.fixed].split())])
        known = {name: self.kernel(name, values, rng) for _, _, name in self.terms if name}
        terms = [
            Term(values[g], np.column_stack([values[c] for c in columns.split()]), known[k].to_numpy() if k else None)
            for g, columns, k in self.terms
        ]
        weights = rng.gamma(3, size=n) if self.weighted else None
        noise = rng.normal(size=(n, G)) / (1 if weights is None else np.sqrt(weights)[:, None])
        Y = X @ rng.normal(size=(X.shape[1], G)) + noise
        for term in terms:
            u = rng.normal(size=(term.codes.max() + 1, term.columns.shape[1], G)) * np.sqrt(self.ratios)
            u = u if term.kernel is None else np.einsum("kl,lrg->krg", _root(term.kernel), u)
            Y += (term.columns[:, :, None] * u[term.codes]).sum(axis=1)
        if self.missing:
            Y[rng.random(Y.shape) < 0.1] = np.nan
        kernels = {name: _disguised(K, rng) for name, K in known.items()}
        return Example(f"~ {self.fixed} + {self.random}", _obs(values), X, terms, Y, weights, kernels)

    @property
    def terms(self) -> list[tuple[str, str, str]]:
        """Grouping factor, columns and kernel of every term."""
        if self.random in COUPLED:
            return COUPLED[self.random]
        return [(group, columns, "") for group, columns in RANDOM[self.random]]

    def kernel(self, name: str, values: dict[str, np.ndarray], rng: np.random.Generator) -> pd.DataFrame:
        """A covariance of the levels of the factor that has this kernel, their names in order."""
        group = next(g for g, _, k in self.terms if k == name)
        levels = [_level_name(group, *pair) for pair in sorted(set(zip(values[group], values["donor"], strict=True)))]
        levels = list(dict.fromkeys(levels))
        return pd.DataFrame(_covariance(self.covariance, len(levels), rng), index=levels, columns=levels)


def _level_name(group: str, level: int, donor: int) -> str:
    return f"d{donor:02}:{level}" if group == "donor:sample" else f"{group[0]}{level:02}"


def _covariance(kind: str, q: int, rng: np.random.Generator) -> np.ndarray:
    """A covariance of q levels, of any size."""
    columns = rng.normal(size=(q, max(1, q // 2) if kind == "deficient" else 2 * q))
    if kind == "families":
        own = rng.integers(0, max(2, q // 2), q)
        return 10 ** rng.uniform(-2, 2) * (0.5 * np.eye(q) + 0.5 * (own[:, None] == own))
    if kind == "centred":
        columns -= columns.mean(axis=0)
    if kind == "nearly singular":
        columns *= 10.0 ** -np.linspace(0, 6, columns.shape[1])
    return 10 ** rng.uniform(-2, 2) * columns @ columns.T / q


def _root(K: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(K)
    return vectors * np.sqrt(np.clip(values, 0, None))


def _disguised(K: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A kernel in another order of its rows than of its columns, with a level that no row has."""
    more = K.reindex(index=[*K.index, "unknown"], columns=[*K.columns, "unknown"], fill_value=0.0)
    more.loc["unknown", "unknown"] = 1.0
    return more.iloc[rng.permutation(len(more)), rng.permutation(len(more))]


def recipes(random: tuple[str, ...] = tuple(RANDOM)) -> st.SearchStrategy[Recipe]:
    known = random[0] in COUPLED
    return st.builds(
        Recipe,
        seed=st.integers(0, 2**32 - 1),
        random=st.sampled_from(random),
        fixed=st.sampled_from(list(FIXED)),
        ratios=st.tuples(*[st.sampled_from([0.0, 0.1, 1.0, 10.0])] * G),
        weighted=st.booleans(),
        missing=st.booleans(),
        inside=st.booleans(),
        covariance=st.sampled_from(COVARIANCES) if known else st.just(""),
    )


def _rows(rng: np.random.Generator, most: int) -> dict[str, np.ndarray]:
    n_donors = rng.integers(5, most)
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
    obs = pd.DataFrame({k: [f"{k[0]}{v:02}" for v in values[k]] for k in ("donor", "batch", "arm", "cond", "phase")})
    return obs.assign(sample=values["donor:sample"], time=values["time"], x=values["x"])


def fit(recipe: Recipe, *, reml: bool) -> tuple[Example, dw.LMMFit]:
    """An example and its fit; skipped when the data cannot answer the formula."""
    data = recipe.example()
    with patch.object(build, "find_patterns", numbers_inside_patterns) if recipe.inside else nullcontext():
        try:
            return data, dw.fit_lmm(
                data.Y, data.obs, data.formula, kernels=data.kernels, reml=reml, weights=data.weights
            )
        except DesignError:
            assume(False)
            raise


def check(what: str, own: ArrayLike, twin: ArrayLike, scale: ArrayLike) -> None:
    """Equal up to RELATIVE times a scale."""
    deviation = np.max(np.abs(np.asarray(own) - np.asarray(twin)) / np.abs(np.asarray(scale)), initial=0.0)
    assert deviation <= RELATIVE, f"{what}: {own} instead of {twin}, {deviation:.2g} of {scale}"


def check_estimates(recipe: Recipe, *, reml: bool) -> None:
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


def check_that_no_start_leads_higher(recipe: Recipe, *, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    rng = np.random.default_rng(recipe.seed)
    for g in range(G):
        for scale in (0.1, 1.0):
            start = scale * rng.normal(size=own.theta.shape[1])
            assert data.twin(g).minimise(start, reml=reml) <= own.loglik[g] + LOGLIK


def check_kenward_roger(recipe: Recipe) -> None:
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


def check_satterthwaite(recipe: Recipe, *, reml: bool) -> None:
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


def check_random_effects(recipe: Recipe, *, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    tables = {term.name: own.ranef(term.name) for term in own.design.random_terms}
    for g in range(G):
        twin = data.twin(g)
        gamma = twin.gamma(own.theta[g])
        for t, term in enumerate(own.design.random_terms):
            modes, covariances = twin.modes(t, gamma, reml=reml)
            table = tables[term.name]
            rows = table[(table["variable"] == own.variables[g]) & table["column"].isin(term.columns)]
            spread = np.sqrt(own.sigma2[g] * (1 + np.diag(twin.symmetric(gamma)[t])))
            check("modes", rows["value"].to_numpy().reshape(modes.shape), modes, spread)
            variances = rows["cond_sd"].to_numpy().reshape(modes.shape) ** 2
            check("variances", variances, np.einsum("lii->li", covariances), spread**2)
