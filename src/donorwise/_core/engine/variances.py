"""Variances in words: components, factors, intraclass correlation, partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.models.lmm.relative import cholesky_psd, original_covariance, relative_covariance

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.engine.fitted import LMMFit
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import FloatArray


def theta_names(design: Design) -> tuple[str, ...]:
    """Names of the relative covariance factors, lower triangles column by column, as lme4 has them."""
    names = []
    for term in design.random_terms:
        for j, second in enumerate(term.columns):
            for i in range(j, len(term.columns)):
                first = term.columns[i]
                names.append(f"{term.group}.{first}" if i == j else f"{term.group}.{first}.{second}")
    return tuple(names)


def theta(model: LMM) -> FloatArray:
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
