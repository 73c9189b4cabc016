"""From a stored result back to the designs, contrasts and responses that it came from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import cell_count, is_collapsed, keys, read_params, read_results, response_of
from donorwise._anndata.kernels import with_stored_kernels
from donorwise._anndata.obs import check_obs_columns, suggest
from donorwise._anndata.prepare import assemble_lmm
from donorwise._anndata.prepare_composition import assemble_composition
from donorwise._anndata.prepare_counts import assemble_glmm
from donorwise._anndata.prepare_peptides import prepare_peptides
from donorwise._anndata.prepare_units import assemble_pseudobulk, tasks_of_units, units_of
from donorwise._anndata.read import check_has_cells
from donorwise._anndata.response import layer_of
from donorwise._anndata.roles import find_roles
from donorwise._anndata.stored_contrasts import asking_again
from donorwise._anndata.unchanged import changed
from donorwise._anndata.write import read_every_test
from donorwise._core.design.formula import parse
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.exposures import is_total
from donorwise._core.engine.groups import group_columns, group_text
from donorwise._core.models.glmm.families import distribution
from donorwise.errors import DataError, DesignError, DonorwiseWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import anndata as ad

    from donorwise._anndata.read import Results
    from donorwise._core.engine.analysis import Analysis, F
    from donorwise._core.engine.composition import CompositionAnalysis
    from donorwise._core.engine.glmm import GlmmAnalysis
    from donorwise._core.engine.lmm import LmmAnalysis
    from donorwise._core.engine.peptides import PeptideAnalysis
    from donorwise._core.engine.pseudobulk import PseudobulkAnalysis
    from donorwise._typing import FloatArray


@dataclass(frozen=True, slots=True)
class Recovered:
    """A stored result's model, ready to be fitted again.

    Attributes
    ----------
    analysis
        Designs, contrasts, responses (the features of the result that are still there) and weights.
    params
        The result's params.
    """

    analysis: Analysis[Any, Any]
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Stored:
    """A stored result, and what is to be made of it again.

    Attributes
    ----------
    adata, key, params
        Where the result is, and its params.
    variables
        Features to take.
    weights
        As they were given, where the params cannot say.
    n_jobs
        Threads.
    fold_changes
        Whether the statistics are to hold what fold changes of logarithms are made of.
    """

    adata: ad.AnnData
    key: str
    params: dict[str, Any]
    variables: Sequence[str]
    weights: FloatArray | None = None
    n_jobs: int | None = None
    fold_changes: bool = False


def recover(
    adata: ad.AnnData,
    key: str,
    *,
    contrasts: Any = None,
    weights: FloatArray | None = None,
    variables: Sequence[str] | None = None,
    n_jobs: int | None = None,
    fold_changes: bool = False,
) -> Recovered:
    """Rebuild the analysis that gave a result from its params and the AnnData.

    Parameters
    ----------
    adata
        The AnnData that holds the result, with the cells that it had then.
    key
        Entry of ``uns``.
    contrasts, weights
        As they were given to ``tl.lmm``: weights from an array, and contrasts of results of 0.1 whose weights cannot be told
        from their names.
    variables
        Features to take; None for all of the result that are still there.
    n_jobs
        Threads.
    fold_changes
        Whether tests of the analysis are to have fold changes, which of values that are logarithms cost a longer pass.

    Raises
    ------
    DataError
        The AnnData is not the one that was fitted any more, or contrasts or weights have to be given.
    """
    params = read_params(adata, key)
    check_has_cells(adata)
    n_now, n_then = cell_count(adata), params["n_cells"] + params["n_dropped"]
    if n_now != n_then:
        raise changed(key, f"it has {n_now:,} cells and had {n_then:,}", params["method"])
    if variables is None:
        variables = list(read_results(adata, key).results["variable"].cat.categories)
    stored = _Stored(adata, key, params, variables, weights, n_jobs, fold_changes)
    made = _AGAIN[params["observations"]](stored)
    made = replace(made, options=replace(made.options, min_effect=params.get("min_effect", 0.0)))
    n_cells = sum(made.cells_of(number) for number in range(len(made.tasks)))
    if n_cells != params["n_cells"]:
        raise changed(key, f"{n_cells:,} cells can be used and {params['n_cells']:,} could", params["method"])
    return Recovered(asking_again(made, params, read_results(adata, key).contrasts, contrasts, key), params)


def recover_whole(adata: ad.AnnData, key: str, **given: Any) -> Recovered:
    """What :func:`recover` makes, of all features of the result where tests have learned from all of them.

    Raises
    ------
    DataError
        As there; or features are gone without which the others' tests would be other tests (see :func:`check_whole`).
    """
    found = recover(adata, key, **given)
    check_whole(adata, key, found)
    return found


def _of_cells(of: _Stored) -> LmmAnalysis:
    adata, params, key = of.adata, of.params, of.key
    response = replace(response_of(adata, params["response"], of.variables), log_base=params["log_base"])
    w = of.weights if is_collapsed(adata) else _weights(of)
    formula = with_stored_kernels(params["formula"], read_results(adata, key))
    made = assemble_lmm(
        adata, formula, response, groupby=group_columns(params["groupby"]), weights=w,
        options=Options(params["ddf"], bool(params["reml"])), n_jobs=of.n_jobs, fold_changes=of.fold_changes,
    )  # fmt: skip
    return replace(made, donor=params["donor"])


def _of_peptides(of: _Stored) -> PeptideAnalysis:
    adata, params, key = of.adata, of.params, of.key
    if params["mask_var"] == keys.ARRAY_WEIGHTS:
        raise DataError(
            f"{key!r} was fitted with mask_var= from an array, which is not stored, so that the peptides of its proteins are not "
            "known: put it into a column of var, and run dw.tl.lmm with mask_var= that column."
        )
    made = prepare_peptides(
        adata, params["formula"], features=params["features"], weights_layer=params["weights_layer"] or None,
        groupby=group_columns(params["groupby"]), layer=layer_of(params["response"]), mask_var=params["mask_var"] or None,
        weights=_weights(of), log_base=params["log_base"], n_jobs=of.n_jobs, told=False,
        options=Options(params["ddf"], bool(params["reml"]), params["robust"]),
    )  # fmt: skip
    number = {name: i for i, name in enumerate(made.variables)}
    for name in of.variables:
        if name not in number:
            raise DataError(f"var[{params['features']!r}] has no protein {name!r}. {suggest(name, number)}")
    made = made.take_features(np.array([number[name] for name in of.variables], dtype=np.int64))
    _check_peptides(made, read_results(adata, key).results, key)
    return replace(made, donor=params["donor"])


def _check_peptides(made: PeptideAnalysis, stored: pd.DataFrame, key: str) -> None:
    """Raise where a protein has fewer peptides than were measured when it was fitted."""
    now = np.bincount(made.source.protein[made.source.protein >= 0], minlength=len(made.variables))
    then = stored.groupby("variable", observed=True)["n_peptides"].max().reindex(list(made.variables)).to_numpy()
    lost = np.flatnonzero(now < then)
    if lost.size:
        name, n, before = made.variables[lost[0]], int(now[lost[0]]), int(then[lost[0]])
        raise changed(key, f"{name!r} has {n:,} of the {before:,} peptides that it had")


def _of_units(of: _Stored) -> PseudobulkAnalysis:
    adata, params, key = of.adata, of.params, of.key
    _weights(of)
    parsed, groupby = parse(params["formula"]), group_columns(params["groupby"])
    sample = params["sample"] if "sample" in params else _sample_of_old(adata, params["units"])
    units = units_of(adata, parsed, donor=params["donor"], sample=sample or None, groupby=groupby)
    if units.name != params["units"]:
        raise changed(key, f"its units are {units.name} and were {params['units']}", params["method"])
    tasks = tasks_of_units(units, groupby)
    depth = None if is_collapsed(adata) else params["depth"] or None
    made = assemble_pseudobulk(
        adata,
        parsed,
        response_of(adata, params["response"], of.variables),
        units,
        tasks,
        groupby=groupby,
        depth=depth,
        normalize=params["normalize"],
        n_jobs=of.n_jobs,
    )
    return replace(made, factors=_stored_factors(made, read_results(adata, key).size_factors, key))


def _of_shares(of: _Stored) -> CompositionAnalysis:
    adata, params = of.adata, of.params
    _weights(of)
    response = response_of(adata, params["response"], of.variables)
    made = assemble_composition(
        adata, params["formula"], response, cell_type=params["cell_type"], sample=params["sample"],
        groupby=group_columns(params["groupby"]), options=Options(params["ddf"]), n_jobs=of.n_jobs,
    )  # fmt: skip
    return replace(made, donor=params["donor"])


def _stored_factors(made: PseudobulkAnalysis, stored: pd.DataFrame | None, key: str) -> FloatArray:
    """What the depths of all units were multiplied by, so that fewer genes or donors do not change it."""
    out = np.ones(len(made.units.table))
    if stored is None:
        return out
    by_group = dict(iter(stored.groupby(stored["group"].astype(str), sort=False)))
    for task in made.tasks:
        if task.design is None or task.name not in by_group:
            continue
        own, used = by_group[task.name], np.flatnonzero(task.design.codes >= 0)
        if list(own["unit"].astype(str)) != made.units.labels(used):
            raise changed(key, f"it has other units ({made.units.name}) in {task.name!r}", keys.PSEUDOBULK)
        out[used] = own["factor"].to_numpy(dtype=np.float64)
    return out


def _sample_of_old(adata: ad.AnnData, units: str) -> str:
    """The column of the samples where it is among those of the units; 0.1 did not keep it."""
    role = find_roles(adata).get("sample")
    return role.column if role is not None and role.column in units.split(":") else ""


def _of_counts(of: _Stored) -> GlmmAnalysis:
    adata, params, key = of.adata, of.params, of.key
    _weights(of)
    rows = is_collapsed(adata)  # they have the exposures of their cells in them
    given: dict[str, Any] = {
        name: None if rows else _column(adata, params, name, key) for name in ("exposure", "offset", "trials")
    }
    response = response_of(adata, params["response"], of.variables)
    made = assemble_glmm(
        adata, params["formula"], response, distribution(params["family"], params["link"]),
        groupby=group_columns(params["groupby"]), detected=bool(params["detected"]), options=Options(params["ddf"]),
        n_jobs=of.n_jobs, **given,
    )  # fmt: skip
    if made.exposure != params["exposure"]:
        raise DataError(
            f"The exposure of {key!r} was each cell's {params['exposure'].strip('<>')}, and there are {adata.n_vars:,} now. "
            "Keep totals in a column of obs before features are dropped, fit with exposure= that column, or use the "
            "AnnData with all features."
        )
    return replace(made, donor=params["donor"])


def _column(adata: ad.AnnData, params: dict[str, Any], name: str, key: str) -> str | None:
    """The column of obs that was an exposure, an offset or trials; None for none, and for total counts."""
    text = params[name]
    if text == keys.ARRAY_WEIGHTS:
        raise DataError(
            f"{key!r} was fitted with {name}= from an array, which is not stored: put it into a column of obs, and run "
            f"dw.tl.{params['method']} with {name}= that column."
        )
    if text and text not in adata.obs.columns and is_total(text):
        return None
    check_obs_columns(adata, [text] if text else [])
    return text or None


_AGAIN: dict[str, Callable[[_Stored], Analysis[Any, Any]]] = {
    "cells": _of_cells, "peptides": _of_peptides, "units": _of_units, "counts": _of_counts, "shares": _of_shares,
}  # fmt: skip


def fit_group(made: Analysis[Any, F], group: str) -> F:
    """Fit one group of an analysis that was made again, and warn of rows of it that are left out."""
    at = [i for i, task in enumerate(made.tasks) if task.name == group and task.design is not None]
    statistics = made.statistics(at)[0] if at else None
    design = made.tasks[at[0]].design if at else None
    if statistics is None or design is None:
        raise DesignError(
            f"No cell has {group_text(made.groupby)} {group!r} any more, so its model cannot be fitted again."
        )
    if design.n_dropped:
        n = design.n_dropped + int((design.codes >= 0).sum())
        text = f"{design.n_dropped:,} of {n:,} rows are left out: a variable of the formula is missing."
        warnings.warn(text, DonorwiseWarning, stacklevel=3)
    return made.fit(at[0], statistics, lambda n: None)


def cells_again(adata: ad.AnnData, stored: Results, names: list[str], key: str) -> LmmAnalysis:
    """The mixed models of a stored result for a few features, on the cells or collapsed rows that there are now."""
    params = stored.params
    weights = None if is_collapsed(adata) else params.get("weights", keys.NO_WEIGHTS) or None
    if weights == keys.ARRAY_WEIGHTS:
        raise DataError("The weights of this fit were an array that is not in the AnnData; use a column of obs.")
    check_obs_columns(adata, [] if weights is None else [weights])
    formula = with_stored_kernels(params["formula"], stored)
    return assemble_lmm(
        adata, formula, response_of(adata, params["response"], names), groupby=group_columns(params["groupby"]),
        weights=weights, options=Options(reml=bool(params["reml"])), n_jobs=1,
    )  # fmt: skip


def peptides_again(adata: ad.AnnData, stored: Results, names: list[str], key: str) -> PeptideAnalysis:
    """The models of a stored result for a few proteins, on the runs that there are now."""
    return _of_peptides(_Stored(adata, key, stored.params, names, n_jobs=1))


def units_again(adata: ad.AnnData, stored: Results, names: list[str], key: str) -> PseudobulkAnalysis:
    """The models of counts of a stored result for a few genes, on the units that there are now."""
    made = _of_units(_Stored(adata, key, stored.params, names, n_jobs=1))
    return made.asking(None)


def counts_again(adata: ad.AnnData, stored: Results, names: list[str], key: str) -> GlmmAnalysis:
    """The generalised models of a stored result for a few features, on the cells that there are now."""
    return _of_counts(_Stored(adata, key, stored.params, names, n_jobs=1))


def shares_again(adata: ad.AnnData, stored: Results, names: list[str], key: str) -> CompositionAnalysis:
    """The models of a stored result for a few cell types, on the cells or collapsed rows that there are now."""
    return _of_shares(_Stored(adata, key, stored.params, names, n_jobs=1))


_FEW: dict[str, Callable[..., Analysis[Any, Any]]] = {
    "cells": cells_again, "peptides": peptides_again, "units": units_again, "counts": counts_again, "shares": shares_again,
}  # fmt: skip


def again(adata: ad.AnnData, stored: Results, names: list[str], key: str) -> Analysis[Any, Any]:
    """The analysis of a stored result for a few features, whatever its model, on what the AnnData has now."""
    return _FEW[stored.params["observations"]](adata, stored, names, key)


def _weights(of: _Stored) -> Any:
    """The weights of the fit: a column's name, the array that must be given again, or None."""
    stored, key = of.params["weights"], of.key
    if stored == keys.ARRAY_WEIGHTS and of.weights is None:
        raise DataError(f"{key!r} was fitted with weights from an array, which is not stored: give weights= again.")
    if stored != keys.ARRAY_WEIGHTS and of.weights is not None:
        how = f"the column {stored!r}" if stored else "none"
        raise DataError(f"weights= was given, and {key!r} was fitted with {how}; leave it out.")
    return of.weights if stored == keys.ARRAY_WEIGHTS else stored or None


def check_whole(adata: ad.AnnData, key: str, found: Recovered) -> None:
    """Raise where features are gone that the others' tests have learned from: without them they would be other tests.

    Raises
    ------
    DataError
        Says which of the two it is, and what to do.
    """
    stored = read_results(adata, key)
    missing = len(read_every_test(adata, key)) - len(stored.results)
    learned = "moderated tests" if stored.prior is not None else "dispersions" if found.analysis.pooled else ""
    if missing and learned:
        raise DataError(
            f"{key!r} holds {learned}, which learn from all features, and some of them are no longer in the "
            f"AnnData. Ask before features are dropped, or run dw.tl.{stored.params['method']} again."
        )
