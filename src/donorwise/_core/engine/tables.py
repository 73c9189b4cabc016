"""Long tables of one task's models: tests, adjusted for many features, variances, random effects."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from donorwise._core.engine.partition import RESIDUAL
from donorwise._core.inference.likelihood_ratio import Extra, p_value
from donorwise._core.inference.multiplicity import adjust
from donorwise._typing import FITTED, STATUSES
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.inference.prior import Prior
    from donorwise._core.inference.wald import JointTests
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import FloatArray, IntArray, StrArray

UNIVERSE = "Benjamini-Hochberg within each contrast and group, over the features that were tested"
DISPERSION = "dispersion"
"""What stands beside the variances of counts."""
_NO_DIFFERENCE = 1e-6  # accuracy of a difference of log-likelihoods
_ORDER = np.argsort(STATUSES)
_SORTED = np.array(STATUSES)[_ORDER]


def tests_table(
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
    table.insert(0, "variable", categorical(np.tile(np.arange(G), n), variables))
    table.insert(1, "contrast", categorical(np.repeat(np.arange(n), G), names))
    table["adj_p_value"] = np.concatenate([adjust(p) for p in numbers["p_value"]] or [np.empty(0)])
    codes = np.searchsorted(_SORTED, status.ravel())
    table["status"] = pd.Categorical.from_codes(_ORDER[codes], dtype=dtype_of(STATUSES))
    table["n_donors"], table["n_obs"] = np.tile(n_donors, n), np.tile(n_obs, n)
    return table


def categorical(codes: np.ndarray, names: tuple[str, ...]) -> pd.Categorical:
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


class Features(Protocol):
    """Some of the features of a fit."""

    @property
    def features(self) -> IntArray:
        """Their positions in the fit, (G,)."""


class WithEffects(Features, Protocol):
    """Features whose random effects are known."""

    def random_effects(self, term: int) -> tuple[FloatArray, FloatArray]:
        """Conditional modes (G, levels, r) of a term, and covariances (G, levels, r, r)."""


def joint_table(variables: tuple[str, ...], term: str, rank: int, tests: JointTests) -> pd.DataFrame:
    """See :meth:`LMMFit.joint_test`: tests that `rank` contrasts are zero."""
    table = pd.DataFrame({"variable": list(variables), "term": term, "statistic": tests.statistic})
    table["num_df"] = rank
    for key in ("den_df", "scaling", "p_value"):
        table[key] = getattr(tests, key)
    table["adj_p_value"] = adjust(tests.p_value)
    table["status"] = pd.Categorical(tests.status, categories=list(STATUSES))
    return table


def lrt_table(
    variables: tuple[str, ...], full: tuple[FloatArray, StrArray], reduced: tuple[FloatArray, StrArray], extra: IntArray
) -> pd.DataFrame:
    """See :meth:`LMMFit.lrt`; log-likelihoods and status (G,) of both models, by maximum likelihood.

    `extra` (G, 3), or (1, 3) for all, are the parameters that the larger model has more, as in :class:`Extra`.
    """
    (loglik, status), (loglik_reduced, status_reduced) = full, reduced
    extra = np.broadcast_to(extra, (len(variables), 3))
    statistic = 2 * (loglik - loglik_reduced)
    statistic[statistic < _NO_DIFFERENCE] = 0.0  # NaN stays NaN
    p = np.full(len(variables), np.nan)
    for own in np.unique(extra, axis=0):
        at = (extra == own).all(axis=1)
        p[at] = p_value(statistic[at], Extra(*own.tolist()))
    table = pd.DataFrame({"variable": list(variables), "statistic": statistic, "df": extra.sum(axis=1), "p_value": p})
    table["adj_p_value"] = adjust(p)
    table["loglik"], table["loglik_reduced"] = loglik, loglik_reduced
    worst = np.where(np.isin(status, FITTED), status_reduced, status)
    unanswered = (extra.min(axis=1) < 0) | (extra.sum(axis=1) == 0)  # features for which the two models are one
    worst = np.where(np.isin(worst, FITTED) & unanswered, "not_estimable", worst)
    table["status"] = pd.Categorical(np.where(np.isin(worst, FITTED), status, worst), categories=list(STATUSES))
    return table


def prior_table(prior: Prior) -> pd.DataFrame:
    """A shared prior as a long table, every variance's margin: term, knot, ratio, weight."""
    frames = []
    for t in prior.variances:
        axis, scale, weight = prior.axes[t], prior.scale[t], prior.marginal(t)
        knot, ratio = np.repeat(prior.knots, axis.size), np.tile(axis * scale, prior.knots.size)
        frames.append(pd.DataFrame({"term": prior.terms[t], "knot": knot, "ratio": ratio, "weight": weight.ravel()}))
    return pd.concat(frames, ignore_index=True)


def varcomp_table(variables: tuple[str, ...], design: Design, models: Sequence[LMM]) -> pd.DataFrame:
    """See :meth:`LMMFit.varcomp`."""
    rows = [*component_rows(design), (RESIDUAL, "", "")]
    values, sds = (np.full((len(variables), len(rows)), np.nan) for _ in range(2))
    for model in models:
        sigma2 = model.estimates.sigma2[:, None]
        own, own_sds = components(model.covariances(), model.features.size)
        values[model.features], sds[model.features] = np.hstack([own, sigma2]), np.hstack([own_sds, np.sqrt(sigma2)])
    return components_table(variables, rows, values, sds)


def components_table(
    variables: tuple[str, ...], rows: list[tuple[str, str, str]], values: FloatArray, sds: FloatArray
) -> pd.DataFrame:
    """The long table of components (see :func:`component_rows`) from values and sds, (G, rows) each."""
    term, first, second = (np.tile(c, len(variables)) for c in zip(*rows, strict=True)) if rows else ([], [], [])
    variable = np.repeat(np.array(variables, dtype=object), len(rows))
    columns = {"variable": variable, "term": term, "column1": first, "column2": second}
    return pd.DataFrame(columns | {"variance": values.ravel(), "sd": sds.ravel()})


def component_rows(design: Design) -> list[tuple[str, str, str]]:
    """Term and columns of every variance and covariance of the random effects."""
    rows = []
    for term in design.random_terms:
        rows += [(term.name, c, "") for c in term.columns]
        rows += [(term.name, b, a) for i, a in enumerate(term.columns) for b in term.columns[i + 1 :]]
    return rows


def components(covariances: Sequence[FloatArray], n_features: int) -> tuple[FloatArray, FloatArray]:
    """Values and sds (correlations), (G, rows) each, in the order of the rows, from the (G, r, r) of every term."""
    values, sds = [np.zeros((0, n_features))], [np.zeros((0, n_features))]
    for T in covariances:
        sd = np.sqrt(np.clip(np.einsum("gii->gi", T), 0, None))
        columns = range(T.shape[1])
        pairs = [(i, j) for i in columns for j in columns[i + 1 :]]
        values += [np.stack([*(T[:, i, i] for i in columns), *(T[:, j, i] for i, j in pairs)])]
        with np.errstate(divide="ignore", invalid="ignore"):
            sds += [np.stack([*(sd[:, i] for i in columns), *(T[:, j, i] / (sd[:, i] * sd[:, j]) for i, j in pairs)])]
    return np.vstack(values).T, np.vstack(sds).T


def which_group(design: Design, group: str | None) -> str:
    """A grouping factor of the model; the only one where None is asked for.

    Raises
    ------
    DesignError
        It is none, or there are several to choose from.
    """
    groups = list(dict.fromkeys(t.name for t in design.random_terms))
    if group is None and len(groups) == 1:
        group = groups[0]
    if group not in groups:
        raise DesignError(f"group={group!r} is not a grouping factor of this model; choose one of {groups}.")
    return group


def ranef_table(variables: tuple[str, ...], design: Design, models: Sequence[WithEffects], group: str) -> pd.DataFrame:
    """See :meth:`LMMFit.ranef`."""
    labels, frames = np.array(variables, dtype=object), []
    for model in models:
        for t, term in enumerate(design.random_terms):
            if term.name == group:
                modes, covariance = model.random_effects(t)
                sd = np.sqrt(np.clip(np.einsum("glii->gli", covariance), 0, None))
                index = pd.MultiIndex.from_product(
                    [labels[model.features], term.levels, term.columns],
                    names=["variable", "level", "column"],
                )
                frames.append(pd.DataFrame({"value": modes.ravel(), "cond_sd": sd.ravel()}, index=index).reset_index())
    if not frames:
        return pd.DataFrame(columns=["variable", "level", "column", "value", "cond_sd"])
    return pd.concat(frames, ignore_index=True)
