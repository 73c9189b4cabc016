"""Competitive tests of sets of genes on the tests of a result, with the correlation between genes from the donors' residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from donorwise._core.engine.asking import ask
from donorwise._core.engine.tasks import test_features
from donorwise._core.inference.competitive import competitive_tests, mean_correlation
from donorwise._core.inference.donor_scores import replicated
from donorwise._core.inference.multiplicity import adjust
from donorwise._typing import is_number
from donorwise.errors import DataError, DesignError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.design.design import Design
    from donorwise._core.engine.analysis import Analysis, F, S
    from donorwise._core.engine.set_lists import Matched
    from donorwise._core.engine.tasks import Fit
    from donorwise._core.inference.donor_scores import DonorScores
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

SET_STATUSES = ("ok", "too_few", "too_many", "not_tested")
"""Of a set: tested, smaller or larger than asked for, or nothing was tested in its group with its contrast."""
_SMALLEST_P = 1e-300
_FEWEST_GENES = 3
_CHECKED = 20  # features whose estimates are compared with those of the result
_FAR = 0.5  # standard errors, in the median, between estimates that should be the same


@dataclass(frozen=True, slots=True)
class SetOptions:
    """Sizes of sets that are tested, a correlation between genes that is given (None: estimated), and whether ranks are compared."""

    min_size: int = 5
    max_size: int | None = None
    inter_gene_cor: float | None = None
    use_ranks: bool = False

    def check(self) -> None:
        """Raise a DonorwiseError unless sizes and correlation make sense."""
        rho = self.inter_gene_cor
        if rho is not None and not (is_number(rho) and -1 < rho < 1):
            raise DonorwiseError(
                f"inter_gene_cor={rho!r} must be a correlation between -1 and 1, such as 0.01; None estimates it."
            )
        for name, size in (("min_size", self.min_size), ("max_size", self.max_size)):
            if size is not None and not (is_number(size) and 1 <= size < np.inf and size == int(size)):
                raise DonorwiseError(f"{name}={size!r} must be a whole number of genes of at least 1.")
        if self.max_size is not None and self.max_size < self.min_size:
            raise DonorwiseError(
                f"max_size={self.max_size} is less than min_size={self.min_size}: no set has so many genes."
            )

    def to_params(self) -> dict[str, Any]:
        """What is stored of them."""
        rho = "estimated" if self.inter_gene_cor is None else float(self.inter_gene_cor)
        most = 0 if self.max_size is None else int(self.max_size)
        return {"inter_gene_cor": rho, "use_ranks": self.use_ranks, "min_size": int(self.min_size), "max_size": most}


def normal_scores(p_value: FloatArray, statistic: FloatArray) -> FloatArray:
    """Standard normal deviates with these two-sided p-values and the signs of the statistics; NaN where there is no test."""
    return np.asarray(np.sign(statistic) * stats.norm.isf(np.clip(p_value, _SMALLEST_P, 1.0) / 2))


def without_donors(analysis: Analysis[Any, Any]) -> list[str]:
    """Contrasts of covariates alone that differ from cell to cell, of which donors' residuals say nothing."""
    tasks = [(t.design, own) for t, own in zip(analysis.tasks, analysis.contrasts, strict=True) if own is not None]
    of_cells = [
        name
        for design, own in tasks
        if design is not None
        for name, row in zip(own.names, own.L, strict=True)
        if not row[_fixed_columns(design)].any()
    ]
    return list(dict.fromkeys(of_cells))


def gene_sets_table(
    results: pd.DataFrame,
    sets: Matched,
    options: SetOptions,
    analysis: Analysis[Any, Any] | None = None,
    varcomp: pd.DataFrame | None = None,
    *,
    max_memory: float | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Test sets in every group and with every contrast of some results.

    Parameters
    ----------
    results
        The tests that are asked about; categories of `variable` are the G features.
    sets, options
        Sets of the G features, and how they are tested.
    analysis, varcomp
        The model of the results, with the same features, and the variances that the result holds, where correlations are
        estimated from what the donors contribute to each estimate (see `donor_scores`).
    max_memory, progress
        As for :func:`ask`.

    Returns
    -------
    A row for each set, group and contrast, whatever happened.

    Raises
    ------
    DataError
        No group has donors whose contributions could be told, or the cells are not those of the result.
    """
    by_group = {str(name): own for name, own in results.groupby("group", observed=True, sort=False)}
    if analysis is None or varcomp is None:
        parts = [_of_contrast(own, sets, options) for table in by_group.values() for own in _by_contrast(table)]
        return pd.concat(parts, ignore_index=True)
    asked = analysis.take_tasks([i for i, task in enumerate(analysis.tasks) if task.name in by_group])

    def question(number: int, statistics: Any, fit: Any) -> list[pd.DataFrame]:
        name = asked.tasks[number].name
        found = _contributions(asked, number, statistics, fit, varcomp[varcomp["group"] == name])
        return [_of_contrast(own, sets, options, found) for own in _by_contrast(by_group[name])]

    answers = ask(asked, question, max_memory=max_memory, progress=progress)
    missing = [by_group[t.name] for t, parts in zip(asked.tasks, answers, strict=True) if parts is None]
    untested = [own.assign(p_value=np.nan) for table in missing for own in _by_contrast(table)]
    parts = [part for answer in answers if answer is not None for part in answer]
    return pd.concat([*parts, *(_of_contrast(own, sets, options) for own in untested)], ignore_index=True)


def _by_contrast(table: pd.DataFrame) -> list[pd.DataFrame]:
    return [own for _, own in table.groupby("contrast", observed=True, sort=False)]


def _fixed_columns(design: Design) -> BoolArray:
    """Columns of X that are the same for all cells of a pattern."""
    return np.array(design.varying) < 0


def _contributions(
    analysis: Analysis[S, F], number: int, statistics: S, fit: F, varcomp: pd.DataFrame
) -> Callable[[pd.DataFrame], DonorScores | None]:
    """What the donors contribute to the estimates of a contrast, given its results; None for one that is not estimated."""
    rows = analysis.row_residuals(number, statistics, fit, varcomp)
    design, contrasts, donors = fit.design, analysis.contrasts[number], analysis.donors(number)
    fixed = _fixed_columns(design)
    found = replicated(rows.values, rows.weights, design.X[:, fixed], donors.codes)

    def scores(own: pd.DataFrame) -> DonorScores | None:
        name = str(own["contrast"].iloc[0])
        if contrasts is None or name not in contrasts.names:
            return None
        c = contrasts.L[contrasts.names.index(name)]
        _check_near(own, fit, c, analysis.family.method)
        own_scores = found.scores(c[fixed])
        if not own_scores.df:
            raise DesignError(
                f"{name}: of {len(donors.names)} donors nothing is left to estimate correlations between genes from; give "
                "inter_gene_cor=, such as 0.01, to test with a correlation that is assumed."
            )
        return own_scores

    return scores


def _check_near(own: pd.DataFrame, fit: Fit[Any], c: FloatArray, tool: str) -> None:
    """Raise where models give estimates far from those of their results: other values, columns of obs, or weights.

    Some features will do, and tests that need no prior: those of the result may have learned from features that have left.
    """
    tested = own[own["p_value"].notna()]
    some = tested.iloc[np.unique(np.linspace(0, len(tested) - 1, _CHECKED).astype(np.int64))]
    at = some["variable"].cat.codes.to_numpy().astype(np.int64)
    again = test_features(fit, c[None], fit.models[0].fallback, 0.95, features=at).numbers["estimate"][0, at]
    if not np.nanmedian(np.abs(again - some["estimate"]) / some["se"]) < _FAR:
        raise DataError(
            "This AnnData is not the one that was fitted: the same model gives other estimates (the values, the columns of obs, or "
            f"weights= changed). Run dw.tl.{tool} again."
        )


def _of_contrast(
    own: pd.DataFrame,
    sets: Matched,
    options: SetOptions,
    contributions: Callable[[pd.DataFrame], DonorScores | None] = lambda own: None,
) -> pd.DataFrame:
    """The tests of all sets in one group with one contrast."""
    at = np.flatnonzero(own["p_value"].notna() & own["statistic"].notna())
    z = normal_scores(*(own[name].to_numpy(dtype=np.float64)[at] for name in ("p_value", "statistic")))
    features = own["variable"].cat.codes.to_numpy()[at]
    members = sets.members[:, features]
    n = abs(members).sum(axis=1).astype(np.int64)
    status = _statuses(n, at.size, options)
    scores = contributions(own) if at.size else None
    tested = np.flatnonzero(status == "ok")
    columns = {name: np.full(n.size, np.nan) for name in ("correlation", "df", "statistic", "p_value")}
    if tested.size:
        some = members[tested]
        if scores is None:
            rho, df = np.full(tested.size, options.inter_gene_cor, dtype=np.float64), np.inf
        else:
            rho, df = mean_correlation(scores.values[features], some), scores.df
        df = df if np.isinf(df) and options.use_ranks else min(df, at.size - 2)
        found = competitive_tests(z, some, rho, df, use_ranks=options.use_ranks)
        for name, values in zip(columns, (rho, df, *found), strict=True):
            columns[name][tested] = values
    return _table(own, sets, n, columns, status)


def _statuses(n: IntArray, n_tested: int, options: SetOptions) -> StrArray:
    """Status of sets by the number of their genes that were tested, and of all that were."""
    most = min(options.max_size or n_tested, n_tested - 1)
    status = np.where(n < options.min_size, "too_few", np.where(n > most, "too_many", "ok"))
    return status if n_tested >= _FEWEST_GENES else np.full(n.size, "not_tested")


def _table(
    own: pd.DataFrame, sets: Matched, n: IntArray, columns: dict[str, FloatArray], status: StrArray
) -> pd.DataFrame:
    direction = np.where(columns["statistic"] > 0, "up", np.where(columns["statistic"] <= 0, "down", ""))
    return pd.DataFrame({
        "set": list(sets.names),
        "group": str(own["group"].iloc[0]),
        "contrast": str(own["contrast"].iloc[0]),
        "n_genes": n,
        "direction": direction,
        **columns,
        "adj_p_value": adjust(columns["p_value"]),
        "status": status,
    })  # fmt: skip
