"""Arrays of runs x peptides with the protein of every peptide: checked, and fitted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.design.build import build_design
from donorwise._core.design.peptide_names import split_names
from donorwise._core.design.peptide_terms import formula_warnings
from donorwise._core.engine.arrays import check_aligned, check_weights, read_arrays
from donorwise._core.engine.peptide_design import lay_out
from donorwise._core.engine.peptide_pass import Measurements, look_at
from donorwise._core.engine.peptide_rows import PeptideSource
from donorwise._core.engine.peptides import fit_peptides
from donorwise._core.engine.tasks import Task
from donorwise._core.jobs import Progress
from donorwise._core.wording import listing, suggestion
from donorwise._typing import ALL
from donorwise.errors import DataError, DesignError, DonorwiseWarning

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.engine.fitted_peptides import PeptideFit
    from donorwise._core.engine.peptide_design import Layout
    from donorwise._typing import FloatArray, IntArray


def fit_peptide_arrays(
    Y: Any,
    obs: pd.DataFrame,
    parsed: ParsedFormula,
    features: Any,
    var: pd.DataFrame | None,
    weights: Any,
    *,
    reml: bool,
    progress: bool,
) -> PeptideFit:
    """See :func:`donorwise.fit_lmm`; warnings are in the name of its caller."""
    matrix, names = read_arrays(Y, obs)
    matrix = sparse.csc_array(matrix) if sparse.issparse(matrix) else matrix
    named = isinstance(Y, pd.DataFrame)
    table = _peptides(var, names, named=named)
    variables, protein = _proteins(features, table, named=named)
    of_runs, of_measurements = _weights(weights, obs, matrix.shape, names, named=named)
    columns = np.flatnonzero(protein >= 0)
    measured = Measurements(matrix, of_measurements, of_runs, np.arange(len(obs)), columns)
    look_at(measured, list(obs.index), [names[i] for i in columns], "Y")  # or infinite values would be missing
    split = split_names(parsed, obs, table)
    layout = lay_out(parsed, obs, table, split)
    design, left_out = _design(parsed, layout, len(obs))
    several = np.unique(protein[columns]).size < columns.size
    for text in (*left_out, *formula_warnings(parsed, obs, split.of_peptides, several=several)):
        warnings.warn(text, DonorwiseWarning, stacklevel=3)
    source = PeptideSource(
        matrix=matrix,
        protein=protein,
        kind=layout.kind,
        groupings=layout.groupings,
        run_weights=of_runs,
        weights=of_measurements,
    )
    (statistics,) = source.statistics([Task(ALL, design, "")], variables, None)
    assert statistics is not None  # the task has a design
    with Progress(total=len(variables), unit="fit", desc="mixed models", disable=not progress) as bar:
        return fit_peptides(
            statistics, variables, layout.groupings, donor="", fold=float("nan"), reml=reml, update=bar.update
        )


def _peptides(var: pd.DataFrame | None, names: tuple[str, ...], *, named: bool) -> pd.DataFrame:
    """The columns of the peptides, by name, in the order of the columns of Y."""
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"Y has several columns of one name, {listing(twice)}; a peptide is a column.")
    if var is None:
        return pd.DataFrame(index=list(names))
    if len(var) != len(names):
        raise DataError(f"var has {len(var):,} rows for {len(names):,} columns of Y; it needs a row for each.")
    own = list(map(str, var.index))
    if named and own != list(names) and sorted(own) == sorted(names):
        raise DataError("The index of var holds the columns of Y in another order; use var.loc[Y.columns].")
    return var.set_axis(list(names), axis=0)


def _proteins(features: Any, table: pd.DataFrame, *, named: bool) -> tuple[tuple[str, ...], IntArray]:
    """Names of the proteins, in the order in which they come, and the protein of every peptide, -1 for none."""
    labels = pd.Series(_labels(features, table, named=named), dtype=object)
    codes, found = pd.factorize(labels.where(labels.notna(), None).map(str, na_action="ignore"))
    if not len(found):
        raise DataError("features= has no label: no peptide has a protein.")
    return tuple(map(str, found)), codes.astype(np.int64)


def _labels(features: Any, table: pd.DataFrame, *, named: bool) -> list[Any]:
    """The label of every peptide."""
    names = list(table.index)
    if isinstance(features, str):
        if features not in table.columns:
            there = suggestion(features, map(str, table.columns), "it has")
            raise DesignError(
                f"features={features!r} is not a column of var, which has the columns of the peptides; {there}"
            )
        return table[features].tolist()
    by_name = isinstance(features, pd.Series) and named and not set(map(str, features.index)).isdisjoint(names)
    if isinstance(features, Mapping) or by_name:
        return _by_name({str(name): label for name, label in features.items()}, names)
    array = np.asarray(features, dtype=object)
    if array.shape != (len(names),):
        raise DataError(
            f"features has shape {array.shape} and Y {len(names):,} columns; it needs one label, the protein, for each column."
        )
    return array.tolist()


def _by_name(labels: Mapping[str, Any], names: list[str]) -> list[Any]:
    missing = [name for name in names if name not in labels]
    if missing:
        raise DataError(
            f"features has no label for {len(missing):,} of {len(names):,} columns of Y, {listing(missing, 4)}; give those that "
            "have no protein the label None, or give the labels as a list in the order of the columns."
        )
    return [labels[name] for name in names]


def _weights(
    weights: Any, obs: pd.DataFrame, shape: tuple[int, int], names: tuple[str, ...], *, named: bool
) -> tuple[FloatArray | None, Any]:
    """Weights of the runs (N,), or of the measurements (N, P)."""
    if weights is None or isinstance(weights, str | pd.Series) or np.ndim(weights) == 1:
        return check_weights(weights, obs), None
    check_aligned(weights, obs, "weights")
    if isinstance(weights, pd.DataFrame) and named:
        own = list(map(str, weights.columns))
        if own != list(names) and sorted(own) == sorted(names):
            raise DataError("The columns of weights are those of Y in another order; use weights[Y.columns].")
    try:
        W = (
            sparse.csc_array(weights, dtype=np.float64)
            if sparse.issparse(weights)
            else np.asarray(weights, dtype=float)
        )
    except (TypeError, ValueError):
        raise DataError("weights must be numbers.") from None
    if W.shape != shape:
        raise DataError(
            f"weights has shape {W.shape}; it needs one value for each of {shape[0]:,} rows, or for each measurement, {shape}."
        )
    return None, W


def _design(parsed: ParsedFormula, layout: Layout, n_runs: int) -> tuple[Design, list[str]]:
    """The design, and what it leaves out."""
    design = build_design(parsed, layout.table).by_row()
    used = design.codes.reshape(-1, n_runs) >= 0
    nobody = np.asarray(~used.any(axis=1))
    runs, peptides = int((~used.any(axis=0)).sum()), int(nobody[layout.kind].sum())
    texts = [
        f"{n:,} of {of:,} {what} are left out: a variable of the formula is missing."
        for n, of, what in ((runs, n_runs, "rows"), (peptides, layout.kind.size, "peptides"))
        if n
    ]
    return design, [*texts, *filter(None, [design.lost.reason])]
