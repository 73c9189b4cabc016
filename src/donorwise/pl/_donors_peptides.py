"""Donors behind the test of a protein: what was measured of its peptides, and the level that the model gives each donor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from donorwise._anndata import obs_frame
from donorwise._anndata.recover import fit_group, peptides_again
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._anndata import Results
    from donorwise._core.engine.fitted_peptides import PeptideFit
    from donorwise._core.engine.peptides import PeptideAnalysis
    from donorwise._typing import FloatArray, IntArray

_BY = ["donor", "condition", "group"]


class Protein(NamedTuple):
    """What is drawn of a protein.

    Attributes
    ----------
    values
        A row for every peptide and run: donor, condition, group, run, peptide, value (NaN where it is missing).
    donors
        A row for every donor and condition, as :func:`donorwise._anndata.summarise` makes them: `mean` is the level that the
        model gives it, and ``sd / sqrt(n_cells)`` the error that its `n_cells` measurements leave.
    told
        How much was measured.
    formula
        Of the protein, where that has lost a term; else empty.
    """

    values: pd.DataFrame
    donors: pd.DataFrame
    told: str
    formula: str


def of_protein(adata: ad.AnnData, stored: Results, key: str, *, variable: str, group: str, condition: str) -> Protein:
    """The measurements and the donors' levels of one protein.

    Raises
    ------
    DataError, DesignError
        Nothing was measured, or the runs are no longer those of the result.
    """
    made = peptides_again(adata, stored, [variable], key)
    number = next((i for i, task in enumerate(made.tasks) if task.name == group), 0)
    fit = fit_group(made, group)
    (statistics,) = made.statistics([number])  # what was measured, which a robust fit changes
    if statistics is None or not statistics.rows.y.size:
        raise DataError(f"Nothing was measured of {variable!r} in {group!r}; there is nothing to draw.")
    rows = statistics.rows
    values = _grid(made, fit, number, list(map(str, adata.var_names)))
    values["condition"] = obs_frame(adata, [condition])[condition].iloc[values["run"].to_numpy()].array
    values = values.assign(group=group, level=_levels(made, fit, values["pattern"].to_numpy()))
    peptide, pattern = made.source.measured(fit.design)
    at = pd.MultiIndex.from_frame(values[["column", "pattern"]]).get_indexer(
        pd.MultiIndex.from_arrays([peptide, pattern])
    )
    values[["value", "weight"]] = np.nan
    values.loc[at, ["value", "weight"]] = np.column_stack([rows.y, rows.w])
    donors = _donors(values, float(fit.sigma2[0]))
    drawn = pd.MultiIndex.from_frame(values[_BY]).isin(pd.MultiIndex.from_frame(donors[_BY]))
    values = values[drawn & values["column"].isin(peptide)].reset_index(drop=True)
    formula = fit.formulas[0] if fit.status[0] == "reduced" else ""
    return Protein(values, donors, _told(fit, int(values["run"].nunique())), formula)


def _grid(made: PeptideAnalysis, fit: PeptideFit, number: int, names: list[str]) -> pd.DataFrame:
    """A row for every peptide of the protein and run in use, with the pattern and the donor that it has."""
    design, source, donors = fit.design, made.source, made.donors(number)
    columns = np.flatnonzero(source.protein == 0)
    pattern = design.codes.reshape(-1, made.n_cells)[source.kind[columns]]
    at, run = np.nonzero(pattern >= 0)
    used = pattern[at, run]
    peptide = np.array(names, dtype=object)[columns[at]]
    donor = np.array(donors.names, dtype=object)[donors.codes[used]]
    return pd.DataFrame({"column": columns[at], "peptide": peptide, "run": run, "pattern": used, "donor": donor})


def _levels(made: PeptideAnalysis, fit: PeptideFit, pattern: IntArray) -> FloatArray:
    """Fixed effects and those of runs and donors, whatever is missing: of some patterns (n,), (n,)."""
    level = fit.design.X @ fit.beta[0]
    effects = made.random_effects(fit, pd.DataFrame()) if fit.design.random_terms else pd.DataFrame()
    for term in fit.design.random_terms:
        if made.source.groupings[term.bar.group].peptide_levels != ("",):
            continue
        for name, z in zip(term.columns, term.Z.T, strict=True):
            own = effects[(effects["term"] == term.name) & (effects["column"] == name)]
            value = own.set_index("level")["value"].reindex(list(term.levels)).fillna(0.0).to_numpy()
            level = level + value[term.codes] * z
    return np.asarray(level[pattern])


def _donors(values: pd.DataFrame, sigma2: float) -> pd.DataFrame:
    """Levels of the donors that have measurements; their means where the model has none for them."""
    parts = values.groupby(_BY, observed=True, sort=True)
    sums = parts.agg(
        n_cells=("value", "count"), level=("level", "mean"), plain=("value", "mean"), weight=("weight", "sum")
    ).reset_index()
    sums = sums[sums["n_cells"] > 0].reset_index(drop=True)
    error = np.sqrt(sigma2 / sums["weight"].to_numpy())
    return sums[[*_BY, "n_cells"]].assign(
        mean=sums["level"].fillna(sums["plain"]), sd=error * np.sqrt(sums["n_cells"].to_numpy())
    )


def _told(fit: PeptideFit, n_runs: int) -> str:
    """Peptides and what is missing of them, and runs."""
    n, missing = int(fit.n_peptides[0]), int(fit.n_missing[0])
    possible = missing + int(fit.n_obs[0])
    return f"{n:,} peptide{'' if n == 1 else 's'}, {missing:,} of {possible:,} values missing\n{n_runs:,} runs"
