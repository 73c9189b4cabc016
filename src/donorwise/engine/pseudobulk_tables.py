"""The long tables of a pseudobulk analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise.engine.groups import log_fold_change
from donorwise.inference.tables import NUMBERS, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._typing import FloatArray
    from donorwise.engine.groups import Rows
    from donorwise.engine.pseudobulk import LogRateFit
    from donorwise.engine.statistics import Task


def results_table(
    tasks: Sequence[Task],
    fits: Sequence[LogRateFit | None],
    rows: Sequence[Rows | None],
    names: Sequence[str],
    variables: tuple[str, ...],
) -> pd.DataFrame:
    """The long table of all groups: one row per gene x group x contrast, whatever happened."""
    tables = []
    for code, fit in enumerate(fits):
        own = () if fit is None else fit.names
        missing = tuple(n for n in names if n not in own)
        for part in (own, missing):
            if part:
                table = _table(fit, part, variables)
                codes = np.full(len(table), code)
                table.insert(1, "group", pd.Categorical.from_codes(codes, categories=[t.name for t in tasks]))
                table["contrast"] = table["contrast"].cat.set_categories(list(names))
                tables.append(table)
    out = pd.concat(tables, ignore_index=True)
    out.insert(out.columns.get_loc("adj_p_value") + 1, "log_fc", log_fold_change(out, tasks, rows, 1 / np.log(2)))
    return out


def _table(fit: LogRateFit | None, names: tuple[str, ...], variables: tuple[str, ...]) -> pd.DataFrame:
    """Rows of the contrasts that a group answers, or of those that it cannot."""
    G, n = len(variables), len(names)
    donors, cells = (0, 0) if fit is None else (fit.n_donors, fit.n_obs)
    if fit is not None and names == fit.names:
        numbers, status = fit.numbers, fit.status
    else:
        numbers, status = {key: np.full((n, G), np.nan) for key in NUMBERS}, np.full((n, G), "not_estimable")
    return tidy(variables, names, numbers, status, np.full(G, donors), np.full(G, cells))


def varcomp_table(fit: LogRateFit, variables: tuple[str, ...]) -> pd.DataFrame:
    """Variances of log rates between units (and of the random term), of sampling, and the dispersion of cells."""
    terms = [*fit.terms, "Residual", "dispersion"]
    values = np.column_stack([fit.variances, fit.sampling, fit.dispersion])
    table = _long(variables, terms, values, "variance")
    table.insert(2, "column1", np.tile(["(Intercept)"] * len(fit.terms) + ["", ""], len(variables)))
    table.insert(3, "column2", "")
    return table.assign(sd=np.sqrt(table["variance"]))


def icc_table(fit: LogRateFit, variables: tuple[str, ...]) -> pd.DataFrame:
    """Share of every variance in those of the log rates about the fixed effects."""
    total = fit.variances.sum(axis=1) + fit.sampling
    return _long(variables, list(fit.terms), fit.variances / total[:, None], "icc")


def partition_table(fit: LogRateFit, variables: tuple[str, ...]) -> pd.DataFrame:
    """Shares of the variance of log rates: fixed effects, between units (and the random term), sampling."""
    values = np.column_stack([fit.fixed, fit.variances, fit.sampling])
    return _long(variables, ["fixed", *fit.terms, "Residual"], values / values.sum(axis=1, keepdims=True), "fraction")


def _long(variables: tuple[str, ...], terms: list[str], values: FloatArray, name: str) -> pd.DataFrame:
    """One row per gene and term."""
    return pd.DataFrame(
        {
            "variable": np.repeat(np.array(variables, dtype=object), len(terms)),
            "term": np.tile(terms, len(variables)),
            name: values.ravel(),
        }
    )
