"""Rows of a long table laid out as runs x precursors: which rows count, what repeats, and how much is missing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from donorwise._core.reports.columns import (
    Labels,
    as_labels,
    as_numbers,
    begins_with,
    constant_within,
    joined,
    kept_by,
    used,
)
from donorwise._core.reports.kinds import Plan
from donorwise._core.reports.tables import Report
from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.errors import DataError, DonorwiseWarning

AGGREGATES = ("error", "max", "sum", "median")
EXCLUDED = ("CON__", "Cont_", "contam_", "REV__", "rev_", "decoy_")
"""How names of contaminants and decoys begin in MaxQuant, DIA-NN's and FragPipe's databases."""

_MOST_OF_LOGARITHMS = 50.0
"""Intensities are larger than this, and their logarithms to base 2 smaller."""

logger = logging.getLogger("donorwise")


@dataclass(frozen=True, slots=True)
class Table:
    """Runs x precursors: values and layers (N, P) with NaN where nothing was measured, and what is known of both."""

    values: FloatArray
    layers: dict[str, FloatArray]
    obs: pd.DataFrame
    var: pd.DataFrame


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows that count: run and precursor, value and layers of each, all (n,), and their numbers in the table."""

    runs: Labels
    precursors: Labels
    values: FloatArray
    layers: dict[str, FloatArray]
    rows: IntArray

    @property
    def cells(self) -> IntArray:
        """Numbers of runs and precursors together."""
        return self.runs.codes * len(self.precursors.names) + self.precursors.codes

    def of(self, cells: IntArray, values: FloatArray, layers: dict[str, FloatArray]) -> Measured:
        """The same runs and precursors, one value for each of these cells."""
        run, precursor = np.divmod(cells, len(self.precursors.names))
        runs, precursors = self.runs._replace(codes=run), self.precursors._replace(codes=precursor)
        return Measured(runs, precursors, values, layers, self.rows)


def lay_out(
    report: Report,
    plan: Plan,
    *,
    log_base: float | None,
    exclude: Sequence[str],
    aggregate: str,
    decimal: str,
) -> Table:
    """Read what the plan names and lay it out; see :func:`donorwise.pp.pivot`.

    Raises
    ------
    DataError
        Numbers that are none, rows without a name, repeated measurements, contradictions, or nothing that remains.
    """
    source = report.source
    frame = report.take(plan)
    if plan.wide:
        frame, plan = _lengthened(frame, plan, source, decimal), replace(plan, wide=())
    if not len(frame):
        raise DataError(f"{source} has no rows.")
    found = _measured(frame, plan, source, is_log=log_base is not None, exclude=exclude, decimal=decimal)
    var = _described(frame, found.precursors, found.rows, plan.var_columns, source, "var_columns", "precursor")
    names = plan.var if len(plan.var) > 1 else ()
    var = var.assign(**_described(frame, found.precursors, found.rows, names, source, "var", "precursor"))
    obs = _described(frame, found.runs, found.rows, (*plan.obs, *plan.obs_columns), source, "obs_columns", "run")
    found = _single(found, aggregate, source, (" and ".join(plan.obs), " and ".join(plan.var)))
    values = found.values if log_base is None else np.log(found.values) / np.log(log_base)
    shape = len(found.runs.names), len(found.precursors.names)
    logger.info(
        "%s runs x %s precursors from %s rows of %s; %.1f%% of the measurements are missing.", f"{shape[0]:,}",
        f"{shape[1]:,}", f"{found.rows.size:,}", source, 100 * (1 - found.values.size / (shape[0] * shape[1])),
    )  # fmt: skip
    matrices = {name: _matrix(found.cells, layer, shape) for name, layer in found.layers.items()}
    return Table(_matrix(found.cells, values, shape), matrices, obs, var)


def _lengthened(frame: pd.DataFrame, plan: Plan, source: str, decimal: str) -> pd.DataFrame:
    """A wide table with a row for every run and precursor."""
    n, n_runs = len(frame), len(plan.wide)
    others = [name for name in frame.columns if name in plan.labels or name in plan.filters]
    long = frame[others].take(np.tile(np.arange(n), n_runs)).reset_index(drop=True)
    for name in (plan.values, *plan.layers.values()):
        long[name] = np.concatenate([as_numbers(frame[own], source, decimal) for own in plan.columns_of(name)])
    long[plan.obs[0]] = pd.Categorical.from_codes(np.repeat(np.arange(n_runs), n), list(plan.wide))
    return long


def _measured(
    frame: pd.DataFrame, plan: Plan, source: str, *, is_log: bool, exclude: Sequence[str], decimal: str
) -> Measured:
    """The rows that are kept and have a value, with runs and precursors that have any."""
    reasons = {
        f"{name} ({_told(rule)})": kept_by(frame[name], rule, source, decimal) for name, rule in plan.filters.items()
    }
    if plan.var_columns and exclude and not pd.api.types.is_numeric_dtype(frame[plan.var_columns[0]].dtype):
        proteins = as_labels(frame[plan.var_columns[0]])
        reasons[f"contaminants and decoys in {plan.var_columns[0]}"] = ~begins_with(proteins, exclude)
    kept = np.logical_and.reduce([np.ones(len(frame), dtype=bool), *reasons.values()])
    values = as_numbers(frame[plan.values], source, decimal)
    _check_values(values[kept], plan.values, source, is_log)
    reasons[f"no value in {plan.values}"] = measured = _has_value(values, plan.floor, is_log, values[kept])
    rows = np.flatnonzero(kept & measured)
    _tell_left_out(reasons, rows.size, source)
    runs = _remaining(_names(frame, plan.obs, source), rows, source, plan.obs, "obs", "runs")
    precursors = _remaining(_names(frame, plan.var, source), rows, source, plan.var, "var", "precursors")
    layers = {name: as_numbers(frame[column], source, decimal)[rows] for name, column in plan.layers.items()}
    return Measured(runs, precursors, values[rows], layers, rows)


def _told(rule: object) -> str:
    if isinstance(rule, bool | str):
        return str(rule)
    if isinstance(rule, tuple):
        return " to ".join("any" if limit is None else f"{limit:g}" for limit in rule)
    return f"up to {rule:g}" if isinstance(rule, int | float) else " or ".join(map(str, rule))  # type: ignore[call-overload]


def _has_value(values: FloatArray, floor: float, is_log: bool, kept: FloatArray) -> BoolArray:
    """Which rows have a value: above the floor; of logarithms other than zero, unless some are below it."""
    if is_log:
        return values > floor
    return np.isfinite(values) & ((values != 0) | bool((kept < 0).any()))


def _check_values(values: FloatArray, name: str, source: str, is_log: bool) -> None:
    infinite, negative = int(np.isinf(values).sum()), int((values < 0).sum())
    if infinite:
        raise DataError(
            f"{source}: `{name}` is infinite in {infinite:,} rows; make these missing, or name another column."
        )
    if not is_log:
        return
    if negative:
        raise DataError(
            f"{source}: `{name}` is below zero in {negative:,} rows (down to {np.nanmin(values):.4g}), which intensities are "
            "not. Are these logarithms already? Then give log=None."
        )
    if (values > 0).any() and np.nanmax(values) < _MOST_OF_LOGARITHMS:
        warnings.warn(
            f"{source}: `{name}` has values up to {np.nanmax(values):.3g} only. If these are logarithms already, give log=None.",
            DonorwiseWarning,
            stacklevel=5,
        )


def _tell_left_out(reasons: dict[str, BoolArray], n_left: int, source: str) -> None:
    """Count rows that do not count by the first reason; an error if none is left."""
    n = len(next(iter(reasons.values())))
    alive, told = np.ones(n, dtype=bool), []
    for reason, kept in reasons.items():
        gone = int((alive & ~kept).sum())
        alive = alive & kept
        if gone:
            told.append(f"{gone:,} by {reason}" if not reason.startswith("no value") else f"{gone:,} with {reason}")
    if not n_left:
        raise DataError(f"Nothing remains of the {n:,} rows of {source}: left out are {', '.join(told)}. See filters=.")
    if told:
        logger.info("%s of %s rows of %s are left out: %s.", f"{n - n_left:,}", f"{n:,}", source, ", ".join(told))


def _names(frame: pd.DataFrame, columns: Sequence[str], source: str) -> Labels:
    return joined([as_labels(frame[name]) for name in columns], len(frame), source, columns)


def _remaining(labels: Labels, rows: IntArray, source: str, columns: Sequence[str], option: str, what: str) -> Labels:
    """The labels of some rows, of which all must have one; it is said which labels have no row left."""
    own = used(Labels(labels.codes[rows], labels.names))
    if nameless := int((own.codes < 0).sum()):
        raise DataError(
            f"{source}: {nameless:,} rows with a value have no {' or '.join(f'`{name}`' for name in columns)} ({option}=); "
            "fill it in, or leave these rows out."
        )
    gone = sorted(set(labels.names).difference(own.names))
    if gone:
        some = ", ".join(map(repr, gone[:5])) + (", …" if len(gone) > 5 else "")
        text = f"{len(gone):,} of {len(labels.names):,} {what} have no value left and are dropped: {some}."
        if what == "runs":
            warnings.warn(f"{source}: {text}", DonorwiseWarning, stacklevel=5)
        else:
            logger.info("%s", text)
    return own


def _single(found: Measured, aggregate: str, source: str, columns: tuple[str, str]) -> Measured:
    """One value for every run and precursor."""
    cells = found.cells
    times = np.bincount(cells, minlength=1)
    if times.max() <= 1:
        return found
    if aggregate == "error":
        raise DataError(_repeats(found, times, source, columns))
    logger.info(
        "%s runs and precursors have several rows; of their values the %s is taken.", f"{int((times > 1).sum()):,}",
        {"max": "largest", "sum": "sum", "median": "median"}[aggregate],
    )  # fmt: skip
    order = np.lexsort((found.values, cells))
    first = np.flatnonzero(np.r_[True, np.diff(cells[order]) > 0])
    if aggregate == "max":
        last = order[np.r_[first[1:], order.size] - 1]
        return found.of(cells[last], found.values[last], {name: layer[last] for name, layer in found.layers.items()})
    values = np.add.reduceat(found.values[order], first) if aggregate == "sum" else medians(found.values, cells)
    layers = {name: medians(layer, cells) for name, layer in found.layers.items()}
    return found.of(cells[order][first], values, layers)


def medians(values: FloatArray, groups: IntArray) -> FloatArray:
    """Median of the values (n,) of every group that occurs, in order, of those that are there; NaN where none is."""
    order = np.lexsort((values, groups))  # NaN last
    ends = np.flatnonzero(np.r_[np.diff(groups[order]) > 0, True]) + 1
    starts = np.r_[0, ends[:-1]]
    there = np.add.reduceat(~np.isnan(values[order]), starts, dtype=np.int64)
    low, high = (values[order][starts + np.maximum(at, 0)] for at in ((there - 1) // 2, there // 2))
    return np.where(there > 0, (low + high) / 2, np.nan)


def _repeats(found: Measured, times: IntArray, source: str, columns: tuple[str, str]) -> str:
    cells = np.flatnonzero(times > 1)
    runs, precursors = np.divmod(cells[:3], len(found.precursors.names))
    some = "; ".join(
        f"{found.precursors.names[p]!r} in {found.runs.names[r]!r} ({times[cell]} rows)"
        for r, p, cell in zip(runs, precursors, cells, strict=False)
    )
    order = np.argsort(found.cells, kind="stable")
    same = np.diff(found.cells[order]) == 0
    alike = bool(np.all(np.diff(found.values[order])[same] == 0))
    remark = (
        "Their values are the same, as where rows are fragments or a table was appended to itself: aggregate='max' "
        "takes one of them."
        if alike
        else "Give aggregate='max' (the largest), 'sum' (of fragments, or of features of one precursor) or 'median', or name "
        "the columns that tell them apart in var= or obs=."
    )
    return f"{source}: {cells.size:,} pairs of {columns[0]} and {columns[1]} have several rows: {some}. {remark}"


def _described(
    frame: pd.DataFrame, group: Labels, rows: IntArray, columns: Sequence[str], source: str, option: str, what: str
) -> pd.DataFrame:
    """Columns that are the same in all rows of a run or a precursor, a row for each."""
    found = {name: constant_within(frame[name].iloc[rows], group, source, option, what) for name in columns}
    table = pd.DataFrame(found, index=pd.RangeIndex(len(group.names)))
    return table.set_index(pd.Index(np.array(group.names, dtype=object)))


def _matrix(cells: IntArray, values: FloatArray, shape: tuple[int, int]) -> FloatArray:
    matrix = np.full(shape, np.nan)
    matrix.ravel()[cells] = values
    return matrix
