"""A run from its plan to its files, which can be stopped and resumed after every group."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys, read_results, write_results
from donorwise._anndata.write import result_columns
from donorwise._batch.files import write_anndata, write_table
from donorwise._batch.partial import Partial
from donorwise._core.design.comparisons import Comparison, pairwise, slope
from donorwise._core.engine import run as engine
from donorwise._core.engine.analysis import FACTS, TABLES, Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import anndata as ad

    from donorwise._anndata import Symbols
    from donorwise._core.engine.analysis import Analysis

logger = logging.getLogger("donorwise")

_COMPARE: dict[str, Callable[..., Comparison]] = {"pairwise": pairwise, "slope": slope}
_COMPARISON = re.compile(r"(?P<what>pairwise|slope)\((?P<variable>[^|]+)(\|(?P<by>.+))?\)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run says when it is finished."""

    n_rows: int
    failed: dict[str, str]
    status_counts: dict[str, int]
    seconds: float


class Parts:
    """The sink that keeps every group in a file, and says when one is finished."""

    def __init__(self, analysis: Analysis[Any, Any], partial: Partial) -> None:
        self._analysis, self._partial = analysis, partial
        self._start = time.monotonic()

    def finished(self) -> set[int]:
        """Numbers of the groups that are there."""
        return self._partial.finished()

    def reads(self, names: Sequence[str]) -> None:
        """Say so, and start the clock."""
        logger.info("Reading the cells of %s.", names[0] if len(names) == 1 else f"{len(names)} groups")
        self._start = time.monotonic()

    def save(self, number: int, tables: Tables) -> None:
        """Keep the tables of a group."""
        named = {name: getattr(tables, name) for name in TABLES if getattr(tables, name) is not None}
        params = {name: getattr(tables, name) for name in FACTS} | {"response": keys.RESPONSE_X}
        self._partial.save(number, results_anndata(named, params, self._analysis.variables))
        self._log(number, failed=bool(tables.failed), seconds=time.monotonic() - self._start)
        self._start = time.monotonic()

    def load(self, number: int) -> Tables:
        """The tables of a group."""
        read = read_results(self._partial.load(number))
        named = {name: table for name in TABLES if (table := getattr(read, name)) is not None and len(table)}
        return Tables(**named, **{name: read.params[name] for name in FACTS})

    def _log(self, number: int, *, failed: bool, seconds: float) -> None:
        name, n = self._analysis.tasks[number].name, len(self._analysis.tasks)
        data = {"event": "group", "group": name, "number": number + 1, "groups": n, "seconds": round(seconds, 3)}
        what = (
            "not fitted"
            if failed
            else f"{len(self._analysis.variables):,} features, {self._analysis.cells_of(number):,} cells, {seconds:.1f} s"
        )
        extra = {"data": data | {"failed": failed}}
        logger.info("Group %d of %d, %s: %s.", number + 1, n, name, what, extra=extra)


def run(
    analysis: Analysis[Any, Any],
    out: Path,
    manifest: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool = False,
    max_memory: float,
    progress: bool,
    symbols: Symbols,
) -> Outcome:
    """Fit every group that is not finished yet, then write the table of all.

    Parameters
    ----------
    analysis
        What to fit.
    out
        ``.parquet`` and ``.csv`` hold the results table, ``.h5ad`` all tables as ``dw.tl.lmm`` stores them.
    manifest
        What must be the same for a stopped run to be resumed.
    resume, overwrite
        Whether to go on with a stopped run, and to remove it where that is not so or cannot be.
    progress
        Whether to show a progress bar.
    max_memory
        GB for the statistics of groups that share a pass.
    symbols
        What the features are called, which is written beside them.

    Raises
    ------
    DataError
        The input cannot be used, or is not that of the stopped run.
    OutputError
        Something cannot be written; groups that are finished are kept.
    """
    start = time.monotonic()
    partial = Partial.of(out)
    with partial.kept(manifest, resume=resume, overwrite=overwrite) as finished:
        if finished:
            logger.info("Resumed: %d of %d groups are finished.", len(finished), len(analysis.tasks))
        try:
            result = engine.run(analysis, Parts(analysis, partial), max_memory=max_memory, progress=progress)
        except engine.NothingFittedError:
            partial.remove()
            raise
    results = result.tables[keys.RESULTS]
    if out.suffix == ".h5ad":
        key = analysis.family.method
        write_anndata(results_anndata(result.tables, result.params, analysis.variables, symbols, key=key), out)
    else:
        write_table(symbols.beside(results[result_columns(results)]), out)
    return Outcome(len(results), result.failed, result.params["status_counts"], time.monotonic() - start)


def results_anndata(
    tables: Mapping[str, pd.DataFrame],
    params: Mapping[str, Any],
    variables: Sequence[str],
    symbols: Symbols | None = None,
    *,
    key: str = keys.LMM,
) -> ad.AnnData:
    """An AnnData without cells, with tables (those missing are empty) and params under `key` as the tools store them.

    `variables` are in var, with what they are called; those that are proteins in the column that the params name, too.
    """
    import anndata as ad

    var = pd.DataFrame(index=pd.Index(list(variables), dtype=object).astype(str))
    if params.get(keys.FEATURES):
        var[params[keys.FEATURES]] = np.array(var.index, dtype=object)
    if symbols is not None and symbols.column:
        var[symbols.column] = np.array([symbols.label(name) for name in var.index], dtype=object)
    adata = ad.AnnData(var=var)
    empty = pd.DataFrame({"variable": pd.Categorical([]), "group": pd.Categorical([])})
    write_results(adata, key, params=params, **{**dict.fromkeys(keys.TABLES, empty), **tables})
    return adata


def parse_contrast(text: str, obs: pd.DataFrame) -> Any:
    """A coefficient's name, or the levels of a column of `obs` that are compared: ``"disease:MS:control"``.

    Names and levels may hold colons themselves: what there is in `obs` decides. ``"pairwise(disease | cell_type)"`` and
    ``"slope(age | disease)"`` are :func:`donorwise.pairwise` and :func:`donorwise.slope` with `by` behind the bar.

    Examples
    --------
    >>> obs = pd.DataFrame({"disease": ["MS", "control"], "sex": ["f", "m"]})
    >>> parse_contrast("disease:MS:control", obs)
    ('disease', 'MS', 'control')
    >>> parse_contrast("disease[T.MS]:sex[T.male]", obs)
    'disease[T.MS]:sex[T.male]'
    >>> parse_contrast("pairwise(disease | sex)", obs)
    Pairwise(variable='disease', by=('sex',), at={}, differences=False, reference=None)
    """
    columns = [str(column) for column in obs.columns]
    if made := _COMPARISON.fullmatch(text.strip()):
        by = parse_groupby(made["by"], columns)
        return _COMPARE[made["what"]](made["variable"].strip(), by=[name.strip() for name in by])
    for column in (name for name in columns if text.startswith(f"{name}:")):
        rest, levels = text[len(column) + 1 :], set(obs[column].dropna().astype(str).unique())
        pairs = [(rest[:i].strip(), rest[i + 1 :].strip()) for i, char in enumerate(rest) if char == ":"]
        found = next((pair for pair in pairs if levels.issuperset(pair)), None)
        if found is not None:
            return (column, *found)
    parts = [part.strip() for part in text.split(":")]  # of levels that are not there, it is to be said so
    of_levels = len(parts) == 3 and parts[0] in columns and not {parts[1], parts[2]} & set(columns)
    return tuple(parts) if of_levels and "[" not in text else text


def parse_values(text: str, name: str, obs: pd.DataFrame) -> list[Any]:
    """Values of a variable with commas between them: levels where `obs` has levels of it, else numbers.

    Examples
    --------
    >>> obs = pd.DataFrame({"age": [40.0, 60.0], "cluster": ["1", "2,3"]})
    >>> parse_values("40, 60", "age", obs), parse_values("1", "cluster", obs), parse_values("2,3", "cluster", obs)
    ([40.0, 60.0], ['1'], ['2,3'])
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if name in obs and not pd.api.types.is_numeric_dtype(obs[name]):
        return [text] if text in set(obs[name].astype(str)) else parts
    try:
        return [float(part) for part in parts]
    except ValueError:
        return list(parts)


def parse_groupby(given: str | Sequence[str] | None, columns: Sequence[str]) -> list[str]:
    """The columns that make the groups, given one by one or with commas between them.

    Examples
    --------
    >>> parse_groupby("cell_type, tissue", ["cell_type", "tissue"]), parse_groupby(["a,b"], ["a,b"])
    (['cell_type', 'tissue'], ['a,b'])
    """
    names = [given] if isinstance(given, str) else given or ()
    parts = [[name] if name in columns else [part.strip() for part in name.split(",")] for name in names]
    return [part for own in parts for part in own if part]
