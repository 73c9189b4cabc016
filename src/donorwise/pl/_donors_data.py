"""What the donor plot shows: cells, donors and the model's answer for one variable in one group."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from donorwise._anndata import Results, cell_values, read_settings, suggest, summarise
from donorwise._core.engine.groups import group_columns, in_group
from donorwise.errors import DataError
from donorwise.get._tests import choose
from donorwise.pl._contrasts import slopes
from donorwise.pl._donors_peptides import of_protein
from donorwise.pl._donors_rates import LEVELS, MEANS, UNITS, cells_again, donors_of, scale_of
from donorwise.pl._style import column_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

    from donorwise._typing import FloatArray, IntArray
    from donorwise.pl._donors_rates import Scale


@dataclass(frozen=True, slots=True)
class Effect:
    """One estimate with its 95% interval.

    Attributes
    ----------
    label
        What is compared with the reference.
    estimate, low, high, p, adj_p
        As in the results table; `adj_p` is NaN where there is none.
    """

    label: str
    estimate: float
    low: float
    high: float
    p: float
    adj_p: float = float("nan")


class Shown(NamedTuple):
    """Cells, or what else was measured, and donors; see :class:`Panel`."""

    cells: pd.DataFrame
    donors: pd.DataFrame
    weights: FloatArray
    scale: Scale
    observed: str = "cells"
    told: str = ""
    formula: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes
    ----------
    variable, group
        What it shows.
    condition
        Column of obs on the horizontal axis; ``""`` for none.
    cells
        One row per cell: donor, condition, group, value.
    donors
        One row per donor and arm: donor, condition, group, n_cells, mean, sd, detection.
    arms
        Levels of the condition, the reference first; empty for a numeric one.
    effects
        The model's estimates.
    weights
        Shape (len(donors),). What each donor's mean counts for in the model: with an intraclass correlation
        near one every donor counts the same, with one of zero every cell.
    naive
        What a t-test would say that takes every cell for a replicate; None where there are not two arms, or counts.
    observed
        What `cells` are.
    above
        What the axis of their values shows.
    told
        How many they are.
    formula
        That of the feature, where it is not that of the result.
    scale
        What the donors' points are.
    """

    variable: str
    group: str
    condition: str
    cells: pd.DataFrame
    donors: pd.DataFrame
    arms: tuple[str, ...]
    effects: tuple[Effect, ...]
    weights: FloatArray
    naive: Effect | None
    observed: str
    above: str
    told: str
    formula: str
    scale: Scale

    @property
    def model(self) -> str:
        """What the model is called."""
        return self.scale.model

    @property
    def n_donors(self) -> int:
        """Number of donors with cells."""
        return int(self.donors["donor"].nunique())

    @property
    def paired(self) -> bool:
        """Whether some donor has cells in several arms."""
        return bool(self.donors["donor"].duplicated().any())


def find_condition(
    adata: ad.AnnData, stored: Results, *, condition: str | None, contrast: str | None
) -> tuple[str, tuple[str, ...]]:
    """Return the column to draw along and the contrasts that compare its levels.

    Raises
    ------
    DataError
        `contrast` is not in the result, or no column can be told from it.
    """
    known = [str(c) for c in stored.results["contrast"].cat.categories]
    if contrast is not None:
        choose(stored.results, "contrast", contrast)
    if condition is None:
        declared = read_settings(adata).get("condition")
        wanted = known if contrast is None else [contrast]
        columns = [column_of(name, adata) for name in wanted]
        fitting = [c for c in columns if c]
        condition = declared if contrast is None and declared in fitting else next(iter(fitting), None)
    if condition is None and contrast is not None and (x := slopes(contrast, stored.params["formula"])):
        raise DataError(
            f"{contrast!r} is an interaction with a number, which is no difference of arms: draw the courses with "
            f"dw.pl.trajectories(adata, variable, x={x[0]!r}), or name the column to compare donors along with condition=."
        )
    if condition is None:
        raise DataError("Which column of obs are the donors to be compared along? Name it with condition=.")
    if contrast is not None:
        return condition, (contrast,)
    return condition, tuple(name for name in known if column_of(name, adata) == condition)


def collect(
    adata: ad.AnnData, stored: Results, *, key: str, variable: str, group: str, condition: str, contrasts: Sequence[str]
) -> Panel:
    """Gather one panel.

    Raises
    ------
    DataError, DesignError
        The variable, the donor column or the condition is no longer there, or the group has no cells.
    """
    shown = observed(adata, stored, key, variable=variable, group=group, condition=condition)
    cells = shown.cells
    results = stored.results
    rows = results[(results["variable"] == variable) & (results["group"] == group)].set_index("contrast")
    numeric = _is_numeric(cells["condition"], contrasts)
    known = [str(name) for name in results["contrast"].cat.categories]
    arms = () if numeric else _arms(cells["condition"], contrasts, known)
    # an estimate against another level has no place on an axis of differences from the first arm
    drawn = [name for name in contrasts if name in rows.index and _sides(name, arms)[1] in ("", *arms[:1])]
    return Panel(
        variable=variable,
        group=group,
        condition=condition,
        cells=cells,
        donors=shown.donors,
        arms=arms,
        effects=tuple(_effect(rows.loc[name], name, arms) for name in drawn),
        weights=shown.weights,
        naive=_cell_level_test(cells, arms) if len(arms) == 2 and shown.scale is MEANS else None,
        observed=shown.observed,
        above="counts of cells" if stored.params["link"] == "log" else "peptides" if stored.features else "cells",
        told=shown.told or f"{len(cells):,} cells",
        formula=shown.formula,
        scale=shown.scale,
    )


def observed(adata: ad.AnnData, stored: Results, key: str, *, variable: str, group: str, condition: str) -> Shown:
    """What was measured of a feature in one group, and what it makes of the donors, by the levels of a column of obs."""
    collected = (
        _of_protein if stored.features else _units if stored.of_counts else _predicted if stored.ratio else _means
    )
    return collected(adata, stored, key, variable=variable, group=group, condition=condition)


def _means(adata: ad.AnnData, stored: Results, key: str, *, variable: str, group: str, condition: str) -> Shown:
    """Cells with their values, the donors' means of them, and what the means count for."""
    cells = _cells(adata, stored.params, variable=variable, group=group, condition=condition)
    donors = summarise(cells)
    return Shown(cells, donors, _weights(donors, stored, variable=variable, group=group), MEANS)


def _units(adata: ad.AnnData, stored: Results, key: str, *, variable: str, group: str, condition: str) -> Shown:
    """Cells with their counts, the log rates of the units, and what those count for.

    `sd` is such that a unit's cells give its sampling error, sd / sqrt(n_cells). Where a donor has several units
    in an arm they stand beside each other under names of their own.
    """
    from donorwise._anndata.recover import fit_group, units_again
    from donorwise._core.engine.pseudobulk import stored_variances

    made = units_again(adata, stored, [variable], key)
    fit, units = fit_group(made, group), made.units
    table, model = units.table, fit.models[0]
    if condition not in table.columns:
        raise DataError(f"condition={condition!r} is not a variable of the formula, which the units are known by.")
    if not model.features.size:
        raise DataError(f"{variable!r} has no counts in {group!r}; there is nothing to draw.")
    used = np.flatnonzero(fit.design.codes >= 0)
    labels = pd.DataFrame(
        {"donor": table[units.donor].astype(str).iloc[used], "condition": table[condition].iloc[used]}
    )
    if labels.duplicated().any():
        labels["donor"] = units.labels(used)
    place = np.argsort(model.units.order)
    n_cells = model.depths.n_cells[place]
    y, v = model.rates.y[0, place], model.rates.v[0, place]
    donors = labels.assign(group=group, n_cells=n_cells, mean=y, sd=np.sqrt(v * n_cells)).reset_index(drop=True)
    cells = _counts(adata, stored.params, variable, labels, units.codes).assign(group=group)
    variances = stored_variances(fit, stored.varcomp[stored.varcomp["group"] == group])
    return Shown(cells, donors, 1 / (v + np.nansum(variances[0])), UNITS)


def _predicted(adata: ad.AnnData, stored: Results, key: str, *, variable: str, group: str, condition: str) -> Shown:
    """Cells with their counts, or yes and no, the donors' rates or shares, and what those count for."""
    numbers, told = cells_again(adata, stored, key, variable)
    cells = _cells(adata, stored.params, variable=variable, group=group, condition=condition, numbers=numbers)
    if stored.params.get("detected"):
        cells = cells.assign(value=(cells["value"] > 0).astype(np.float64))
    donors, weights = donors_of(cells, stored, variable=variable, group=group)
    return Shown(cells, donors, weights, scale_of(told))


def _of_protein(adata: ad.AnnData, stored: Results, key: str, *, variable: str, group: str, condition: str) -> Shown:
    """What was measured of a protein's peptides, and its level in every donor, of which an arm's mean is that of the model."""
    made = of_protein(adata, stored, key, variable=variable, group=group, condition=condition)
    return Shown(made.values, made.donors, np.ones(len(made.donors)), LEVELS, "measurements", made.told, made.formula)


def _counts(
    adata: ad.AnnData, params: dict[str, Any], variable: str, labels: pd.DataFrame, codes: IntArray
) -> pd.DataFrame:
    """The counts of the cells of some units, whose labels are indexed by their codes (-1 for none)."""
    values = cell_values(adata, variable, columns=[params["donor"]], response=params["response"])["value"].to_numpy()
    own = np.isin(codes, labels.index)
    return labels.loc[codes[own]].assign(value=values[own]).reset_index(drop=True)


def _sides(contrast: str, levels: Sequence[str]) -> tuple[str, str]:
    """Levels that ``disease[T.MS]`` or ``disease: MS vs HC`` compares; ``""`` for what it does not name."""
    coefficient = re.search(r"\[(?:T\.)?(.+)\]$", contrast)
    if coefficient and coefficient.group(1) in levels:
        return coefficient.group(1), ""
    for text in (contrast, re.sub(r" \| [^|]+=.+$", "", contrast)):  # where, as `| cell_type=T` says, is no level
        difference = re.fullmatch(r"[^:]+: (.+) vs (.+)", text)
        if difference and set(difference.groups()) <= set(levels):
            return difference.group(1), difference.group(2)
    return "", ""


def _is_numeric(values: pd.Series, contrasts: Sequence[str]) -> bool:
    """Whether the condition is a number to the model: 0 and 1 are arms, and so are the levels of ``C(stage)[T.2]``."""
    if not pd.api.types.is_numeric_dtype(values) or any(re.search(r"\]$| vs ", name) for name in contrasts):
        return False
    return not values.isin([0, 1]).all()


def _cells(
    adata: ad.AnnData,
    params: dict[str, Any],
    *,
    variable: str,
    group: str,
    condition: str,
    numbers: Mapping[str, FloatArray] | None = None,
) -> pd.DataFrame:
    """Cells of a group that have a donor, a condition and a value, with further `numbers` (N,) of them."""
    donor, groupby = params["donor"], group_columns(params["groupby"])
    if donor not in adata.obs.columns:
        raise DataError(f"The donor column {donor!r} of this result is no longer in obs. {suggest(donor, adata.obs)}")
    columns = list(dict.fromkeys(c for c in (donor, condition, *groupby) if c))
    table = cell_values(adata, variable, columns=columns, response=params["response"])
    rows = in_group(table, groupby, group)
    cells = pd.DataFrame(
        {"donor": table[donor].astype(str), "condition": table[condition], "group": group, "value": table["value"]}
        | dict(numbers or {})
    )[rows & table[[donor, condition]].notna().all(axis=1).to_numpy()]
    if cells.empty:
        raise DataError(f"No cell of {group!r} is left to draw.")
    known = cells.dropna(subset=["value"])
    if known.empty:
        raise DataError(f"Every cell of {group!r} misses a value of {variable!r}; there is nothing to draw.")
    return known


def _arms(condition: pd.Series, contrasts: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Levels that have cells, the reference first: what the contrasts name as such, or no known one compares."""
    if isinstance(condition.dtype, pd.CategoricalDtype):
        levels = [str(level) for level in condition.cat.remove_unused_categories().cat.categories]
    else:
        levels = [str(level) for level in sorted(condition.unique())]
    named = [_sides(name, levels)[1] for name in contrasts]
    compared = {_sides(name, levels)[0] for name in known}
    left = [level for level in levels if level not in compared]
    first = [name for name in named if name][:1] or (left if len(left) == 1 else [])
    return tuple(first + [level for level in levels if level not in first])


def _weights(donors: pd.DataFrame, stored: Results, *, variable: str, group: str) -> FloatArray:
    """Weight the means by n / (1 + (n - 1) icc), the precision that the model gives them."""
    icc = stored.icc
    rows = (icc["variable"] == variable) & (icc["group"] == group) & icc["term"].isin(stored.donor_terms)
    rho = float(icc.loc[rows, "icc"].sum(min_count=1))
    n = donors["n_cells"].to_numpy(dtype=np.float64)
    return np.ones(len(n)) if np.isnan(rho) else n / (1 + (n - 1) * rho)


def _effect(row: pd.Series, contrast: str, arms: Sequence[str]) -> Effect:
    return Effect(
        label=_sides(contrast, arms)[0] or contrast,
        estimate=float(row["estimate"]),
        low=float(row["ci_low"]),
        high=float(row["ci_high"]),
        p=float(row["p_value"]),
        adj_p=float(row["adj_p_value"]),
    )


def _cell_level_test(cells: pd.DataFrame, arms: Sequence[str]) -> Effect | None:
    """Welch's t-test that takes cells for replicates: the error that this package is there to avoid."""
    from scipy import stats

    values: list[FloatArray] = [cells["value"][cells["condition"].astype(str) == arm].to_numpy() for arm in arms]
    if min(len(v) for v in values) < 2 or max(v.var() for v in values) == 0:
        return None
    test = stats.ttest_ind(values[1], values[0], equal_var=False)
    interval = test.confidence_interval(0.95)
    return Effect(
        label="cells",
        estimate=float(values[1].mean() - values[0].mean()),
        low=float(interval.low),
        high=float(interval.high),
        p=float(test.pvalue),
    )
