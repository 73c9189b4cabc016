"""Adjustment for many features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from donorwise._core.engine.tasks import test_features
from donorwise._core.inference.wald import joint_tests
from donorwise._core.models.lmm.blocks import cholesky_psd, original_covariance, relative_covariance
from donorwise._core.models.lmm.evaluate import random_effects
from donorwise._typing import STATUSES
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.engine.fitted import LMMFit
    from donorwise._core.inference.prior import Prior
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import FloatArray, IntArray, StrArray

UNIVERSE = "Benjamini-Hochberg within each contrast and group, over the features that were tested"


def adjust(p_values: FloatArray) -> FloatArray:
    """Benjamini-Hochberg adjusted p-values (Benjamini and Hochberg 1995); NaN stays NaN and does not count."""
    out = np.full(p_values.shape, np.nan)
    tested = np.isfinite(p_values)
    if tested.any():
        out[tested] = stats.false_discovery_control(p_values[tested], method="bh")
    return out


_NOT_NESTED = (
    "A likelihood-ratio test needs nested models: one must have all the terms of the other and more. Got {!r} and {!r}."
)
_NO_DIFFERENCE = 1e-6  # accuracy of a difference of log-likelihoods
_ORDER = np.argsort(STATUSES)
_SORTED = np.array(STATUSES)[_ORDER]


def contrast_table(fit: LMMFit, names: tuple[str, ...], L: FloatArray, ddf: str, level: float) -> pd.DataFrame:
    """See :meth:`LMMFit.test`."""
    used = fit.models[0].fallback if ddf == "moderated" and fit.not_moderated and fit.models else ddf
    tested = test_features(fit, L, used, level)
    return tidy(fit.variables, names, tested.numbers, tested.status, fit.n_donors, fit.n_obs)


def tidy(
    variables: tuple[str, ...],
    names: tuple[str, ...],
    numbers: dict[str, FloatArray],
    status: StrArray,
    n_donors: IntArray,
    n_obs: IntArray,
) -> pd.DataFrame:
    """The long table of n contrasts x G features from arrays (n, G) and counts (G,)."""
    n, G = status.shape
    table = pd.DataFrame({key: values.ravel() for key, values in numbers.items()})
    table.insert(0, "variable", _categorical(np.tile(np.arange(G), n), variables))
    table.insert(1, "contrast", _categorical(np.repeat(np.arange(n), G), names))
    table["adj_p_value"] = np.concatenate([adjust(p) for p in numbers["p_value"]] or [np.empty(0)])
    codes = np.searchsorted(_SORTED, status.ravel())
    table["status"] = pd.Categorical.from_codes(_ORDER[codes], dtype=dtype_of(STATUSES))
    table["n_donors"], table["n_obs"] = np.tile(n_donors, n), np.tile(n_obs, n)
    return table


def _categorical(codes: np.ndarray, names: tuple[str, ...]) -> pd.Categorical:
    """Names by code; names that occur twice (nothing forbids that in an array) share a category."""
    dtype = dtype_of(names)
    if len(dtype.categories) < len(names):
        codes = dtype.categories.get_indexer(list(names))[codes]
    return pd.Categorical.from_codes(codes, dtype=dtype)


@lru_cache(maxsize=16)
def dtype_of(names: tuple[str, ...]) -> pd.CategoricalDtype:
    """The categories of names, in their order, made once for all tables of a call."""
    unique = list(dict.fromkeys(names))
    return pd.CategoricalDtype(list(names) if len(unique) == len(names) else sorted(unique))


def prior_table(prior: Prior) -> pd.DataFrame:
    """A shared prior as a long table, every term's margin: term, knot, ratio, weight."""
    frames = []
    for t, (axis, scale) in enumerate(zip(prior.axes, prior.scale, strict=True)):
        weight = prior.marginal(t)
        knot, ratio = np.repeat(prior.knots, axis.size), np.tile(axis * scale, prior.knots.size)
        frames.append(pd.DataFrame({"term": prior.terms[t], "knot": knot, "ratio": ratio, "weight": weight.ravel()}))
    return pd.concat(frames, ignore_index=True)


def joint_table(fit: LMMFit, term: str, L: FloatArray, ddf: str) -> pd.DataFrame:
    """See :meth:`LMMFit.joint_test`."""
    G = len(fit.variables)
    columns = {key: np.full(G, np.nan) for key in ("statistic", "den_df", "scaling", "p_value")}
    status = np.full(G, "not_estimable", dtype="<U16")
    for model in fit.models:
        tests = joint_tests(model, L, "kenward-roger" if ddf == "moderated" else ddf)
        for key, values in columns.items():
            values[model.features] = getattr(tests, key)
        status[model.features] = tests.status
    table = pd.DataFrame({"variable": list(fit.variables), "term": term, "statistic": columns["statistic"]})
    table["num_df"] = L.shape[0]
    for key in ("den_df", "scaling", "p_value"):
        table[key] = columns[key]
    table["adj_p_value"] = adjust(columns["p_value"])
    table["status"] = pd.Categorical(status, categories=list(STATUSES))
    return table


def lrt_table(fit: LMMFit, other: LMMFit) -> pd.DataFrame:
    """See :meth:`LMMFit.lrt`."""
    larger, smaller = (fit, other) if _size(fit) >= _size(other) else (other, fit)
    _check_comparable(larger, smaller)
    difference = _difference(larger, smaller)
    full, reduced = larger.at_ml(), smaller.at_ml()
    statistic = 2 * (full.loglik - reduced.loglik)
    statistic[statistic < _NO_DIFFERENCE] = 0.0  # NaN stays NaN
    p = p_value(statistic, difference)
    df = difference.fixed + difference.variances + difference.covariances
    table = pd.DataFrame({"variable": list(fit.variables), "statistic": statistic, "df": df, "p_value": p})
    table["adj_p_value"] = adjust(p)
    table["loglik"], table["loglik_reduced"] = full.loglik, reduced.loglik
    worst = np.where(np.isin(full.status, ("ok", "boundary")), reduced.status, full.status)
    bad = ~np.isin(worst, ("ok", "boundary"))
    status = np.where(bad, worst, full.status)
    table["status"] = pd.Categorical(status, categories=list(STATUSES))
    return table


def _size(fit: LMMFit) -> int:
    return fit.beta.shape[1] + fit.theta.shape[1]


def _difference(larger: LMMFit, smaller: LMMFit) -> Difference:
    big = [len(t.columns) for t in larger.design.random_terms]
    small = [len(t.columns) for t in smaller.design.random_terms]
    variances = sum(big) - sum(small)
    covariances = sum(r * (r - 1) // 2 for r in big) - sum(r * (r - 1) // 2 for r in small)
    fixed = larger.beta.shape[1] - smaller.beta.shape[1]
    if min(fixed, variances, covariances) < 0 or fixed + variances + covariances == 0:
        raise DesignError(_NOT_NESTED.format(larger.formula, smaller.formula))
    return Difference(fixed, variances, covariances)


def _check_nested(larger: LMMFit, smaller: LMMFit) -> None:
    big, small = larger.design, smaller.design
    random = all(
        any(own.group == other.group and set(own.columns) <= set(other.columns) for other in big.random_terms)
        for own in small.random_terms
    )
    if not random or not _spanned(big, small):
        raise DesignError(_NOT_NESTED.format(larger.formula, smaller.formula))


def _spanned(big: Design, small: Design) -> bool:
    """Whether the fixed columns of one design are combinations of those of another, on the same rows."""
    extra = [i for i, name in enumerate(small.fixed_names) if name not in big.fixed_names]
    if not extra:
        return True
    if any(small.varying[i] >= 0 for i in extra):
        return False
    used = (big.codes >= 0) & (small.codes >= 0)
    pairs = np.unique(np.stack([big.codes[used], small.codes[used]]), axis=1)
    X, x = big.X[pairs[0]], small.X[pairs[1]][:, extra]
    rest = x - X @ np.linalg.lstsq(X, x, rcond=None)[0]
    return bool((np.abs(rest).max(axis=0) <= 1e-8 * np.abs(x).max(axis=0)).all())


def _same_data(larger: LMMFit, smaller: LMMFit) -> bool:
    """Whether two fits have the same features, rows, responses and weights."""
    if larger.variables != smaller.variables or not np.array_equal(larger.n_obs, smaller.n_obs):
        return False
    return np.allclose(_fingerprint(larger), _fingerprint(smaller), rtol=1e-9, atol=0, equal_nan=True)


def _fingerprint(fit: LMMFit) -> FloatArray:
    """Mean response of every feature and the weights of its rows, (2, G)."""
    out = np.full((2, len(fit.variables)), np.nan)
    for model in fit.models:
        out[:, model.features] = model.mean, np.full(model.features.size, model.equations.log_weight)
    return out


def _check_comparable(larger: LMMFit, smaller: LMMFit) -> None:
    if not _same_data(larger, smaller):
        raise DesignError(
            "The two fits do not have the same features, rows, responses and weights (rows are dropped where a "
            "variable of the formula is missing); fit both to the same data."
        )
    _check_nested(larger, smaller)


@dataclass(frozen=True, slots=True)
class Difference:
    """Parameters that the larger model has more: fixed effects, variances and covariances."""

    fixed: int
    variances: int
    covariances: int


def p_value(statistic: FloatArray, difference: Difference) -> FloatArray:
    """p-value of twice the difference of log-likelihoods, (G,).

    One variance more, with c covariances and f fixed effects, is the mixture of chi-squared with
    f + c and f + c + 1 degrees of freedom in equal parts (Self and Liang 1987; Stram and Lee 1994).
    Several variances more have no such simple law: the chi-squared with all the parameters is
    an upper bound.
    """
    smooth = difference.fixed + difference.covariances
    if difference.variances == 0:
        return np.asarray(stats.chi2.sf(statistic, smooth))
    if difference.variances == 1:
        lower = stats.chi2.sf(statistic, smooth) if smooth else np.where(statistic > 0, 0.0, 1.0)
        return np.asarray(0.5 * lower + 0.5 * stats.chi2.sf(statistic, smooth + 1))
    return np.asarray(stats.chi2.sf(statistic, smooth + difference.variances))


def theta_names(design: Design) -> tuple[str, ...]:
    """Names of the relative covariance factors, lower triangles column by column, as lme4 has them."""
    names = []
    for term in design.random_terms:
        for j, second in enumerate(term.columns):
            for i in range(j, len(term.columns)):
                first = term.columns[i]
                names.append(f"{term.group}.{first}" if i == j else f"{term.group}.{first}.{second}")
    return tuple(names)


def theta_of(model: LMM) -> FloatArray:
    """Relative covariance factors of the original columns, (G, n_theta)."""
    parameter = model.equations.blocks.parameter
    out = np.empty((model.estimates.gamma.shape[0], parameter.shape[0]))
    for t, basis in enumerate(model.equations.terms):
        L = cholesky_psd(original_covariance(basis, t, parameter, model.estimates.gamma))
        for k in np.flatnonzero(parameter[:, 0] == t):
            out[:, k] = L[:, parameter[k, 1], parameter[k, 2]]
    return out


def varcomp_table(fit: LMMFit) -> pd.DataFrame:
    """See :meth:`LMMFit.varcomp`."""
    rows = _component_rows(fit.design)
    values, sds = (np.full((len(fit.variables), len(rows)), np.nan) for _ in range(2))
    for model in fit.models:
        values[model.features], sds[model.features] = _components(model)
    term, first, second = (np.tile(c, len(fit.variables)) for c in zip(*rows, strict=True))
    variable = np.repeat(np.array(fit.variables, dtype=object), len(rows))
    columns = {"variable": variable, "term": term, "column1": first, "column2": second}
    return pd.DataFrame(columns | {"variance": values.ravel(), "sd": sds.ravel()})


def _component_rows(design: Design) -> list[tuple[str, str, str]]:
    rows = []
    for term in design.random_terms:
        rows += [(term.group, c, "") for c in term.columns]
        rows += [(term.group, b, a) for i, a in enumerate(term.columns) for b in term.columns[i + 1 :]]
    return [*rows, ("Residual", "", "")]


def _components(model: LMM) -> tuple[FloatArray, FloatArray]:
    values, sds = [], []
    for t, basis in enumerate(model.equations.terms):
        T = (
            original_covariance(basis, t, model.equations.blocks.parameter, model.estimates.gamma)
            * model.estimates.sigma2[:, None, None]
        )
        sd = np.sqrt(np.clip(np.einsum("gii->gi", T), 0, None))
        r = T.shape[1]
        values += [T[:, i, i] for i in range(r)]
        sds += [sd[:, i] for i in range(r)]
        for i in range(r):
            for j in range(i + 1, r):
                values.append(T[:, j, i])
                with np.errstate(divide="ignore", invalid="ignore"):
                    sds.append(T[:, j, i] / (sd[:, i] * sd[:, j]))
    return np.stack([*values, model.estimates.sigma2], axis=1), np.stack(
        [*sds, np.sqrt(model.estimates.sigma2)], axis=1
    )


def partition_table(fit: LMMFit) -> pd.DataFrame:
    """See :meth:`LMMFit.variance_partition`."""
    terms = term_labels(fit.design)
    out = np.full((len(fit.variables), len(terms) + 2), np.nan)
    for model in fit.models:
        values = np.column_stack([_fixed_variance(model), _term_variances(model)])
        out[model.features] = values / values.sum(axis=1, keepdims=True)
    index = pd.Index(fit.variables, name="variable")
    return pd.DataFrame(out, index=index, columns=["fixed", *terms, "Residual"])


def icc_table(fit: LMMFit) -> pd.DataFrame:
    """See :meth:`LMMFit.icc`."""
    return icc_rows(partition_table(fit))


def icc_rows(partition: pd.DataFrame) -> pd.DataFrame:
    """Intraclass correlations from a variance partition: variable, term, icc."""
    random = partition.to_numpy()[:, 1:]
    shares = random[:, :-1] / random.sum(axis=1, keepdims=True)
    return long_partition(pd.DataFrame(shares, partition.index, partition.columns[1:-1]), "icc")


def long_partition(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """A column a term as a long table, term under term: variable, term, value."""
    n, terms = table.shape[0], list(table.columns)
    variable = np.tile(table.index.to_numpy(dtype=object), len(terms))
    return pd.DataFrame(
        {"variable": variable, "term": np.repeat(np.array(terms, dtype=object), n), value: table.to_numpy().T.ravel()}
    )


def term_labels(design: Design) -> list[str]:
    """The grouping factor of each term; with its columns where a factor has several terms."""
    groups = [t.group for t in design.random_terms]
    return [t.group if groups.count(t.group) == 1 else t.label for t in design.random_terms]


def _term_variances(model: LMM) -> FloatArray:
    """Average of z'Var(u)z over the rows for every term, then the residual variance, (G, terms + 1).

    The internal columns are orthonormal on average, so the average is the trace.
    """
    terms = [
        np.einsum("gii->g", relative_covariance(b, t, model.equations.blocks.parameter, model.estimates.gamma))
        for t, b in enumerate(model.equations.terms)
    ]
    return model.estimates.sigma2[:, None] * np.stack([*terms, np.ones(model.estimates.sigma2.size)], axis=1)


def _fixed_variance(model: LMM) -> FloatArray:
    """Variance over the rows of the fitted fixed part, (G,)."""
    delta = model.estimates.beta @ model.equations.fixed.R.T
    return np.einsum("ga,ab,gb->g", delta, model.equations.spread, delta)


def ranef_table(fit: LMMFit, group: str) -> pd.DataFrame:
    """See :meth:`LMMFit.ranef`."""
    variables = np.array(fit.variables, dtype=object)
    frames = []
    for model in fit.models:
        for t, basis in enumerate(model.equations.terms):
            if basis.term.group == group:
                modes, covariance = random_effects(model.equations, model.estimates, t)
                sd = np.sqrt(np.clip(np.einsum("glii->gli", covariance), 0, None))
                index = pd.MultiIndex.from_product(
                    [variables[model.features], basis.term.levels, basis.term.columns],
                    names=["variable", "level", "column"],
                )
                frames.append(pd.DataFrame({"value": modes.ravel(), "cond_sd": sd.ravel()}, index=index).reset_index())
    if not frames:
        return pd.DataFrame(columns=["variable", "level", "column", "value", "cond_sd"])
    return pd.concat(frames, ignore_index=True)
