"""Findings of an audit about columns that the formula leaves out: the batch, and the period."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.design import constant, first_rows
from donorwise._core.design.names import quote
from donorwise._core.design.terms import is_categorical

if TYPE_CHECKING:
    from donorwise._core.design.arms import Arms
    from donorwise._core.design.design import Design
    from donorwise._core.design.replicates import Crossing, Donors
    from donorwise._typing import FloatArray, IntArray

_UNEVEN = 0.3  # adjusted share of a contrast that lies between batches
_TOGETHER = 0.8  # Goodman and Kruskal's gamma within donors
_FEWEST_DONORS = 5  # with two sides each, fewer go together by chance
_MOST_VISITS = 50  # of a donor; more values of a time are those of cells
_TIME = re.compile(r"(?<![a-z])(time(point)?|date|day|week|month|year|visit|period|step)s?(?![a-z])", re.IGNORECASE)
_CLOCK = re.compile(rf"{_TIME.pattern}|(?<![a-z])age(?![a-z])", re.IGNORECASE)


def batch_left_out(
    design: Design, obs: pd.DataFrame, arms: Iterable[Arms], donors: Donors, batch: str | None
) -> Iterator[str]:
    """A declared batch that is not in the formula and goes with what is tested."""
    if batch is None or batch in design.frame.columns or batch == donors.name:
        return
    own = donors.rows.cross(obs[batch], design)
    pattern, donor = donors.rows.pattern[own.entry], donors.rows.donor[own.entry]
    worst: dict[str, tuple[float, Arms]] = {}
    for arm in _single(arms):
        x = design.X[pattern, design.fixed_names.index(arm.contrast)]
        share = _share_between(x, own, donor, within=arm.kind != "between-donor")
        if share > worst.get(arm.term, (_UNEVEN, arm))[0]:
            worst[arm.term] = (share, arm)
    for share, arm in worst.values():
        if share > 1 - 1e-9:
            yield (
                f"{arm.contrast} goes with the batch (`{batch}`) completely: what it finds may be a difference between batches, "
                "and no formula can tell the two apart."
            )
        else:
            yield (
                f"{arm.contrast} is spread unevenly over the batches (`{batch}`, which the formula leaves out): {share:.0%} of its "
                f"variance {'among the donors' if arm.kind == 'between-donor' else 'within donors'} lies between them; add "
                f"`{quote(batch)}`, or `(1 | {quote(batch)})` where there are many."
            )


def period_left_out(
    design: Design,
    obs: pd.DataFrame,
    arms: Iterable[Arms],
    donors: Donors,
    samples: Crossing | None,
    batch: str | None,
) -> tuple[list[str], list[str]]:
    """Columns that are not in the formula and whose order is that of what is tested, in nearly all donors.

    First those that are called a time, which is what a treatment that comes late goes with; then others. Of columns
    that are another name of what is tested, or a finer one, nothing is said. Where the samples are not known, those of
    a time are taken to be what a donor has of it.
    """
    tested = [a for a in _single(arms) if a.kind in ("within-donor", "mixed") and not _CLOCK.search(a.variables[0])]
    found: tuple[list[str], list[str]] = [], []
    if not tested or (samples is not None and samples.some_missing):
        return found
    left_out = [str(c) for c in obs.columns if c not in (*design.frame.columns, donors.name, batch)]
    told: set[tuple[str, str]] = set()
    for name in left_out:
        called = _TIME.search(name) is not None
        own = samples if samples is not None else _visits(design, obs[name], donors) if called else None
        if own is None or name == own.name:
            continue
        for arm in tested:
            if (arm.term, name) not in told and _follows(design, arm, obs[name], own, donors):
                told.add((arm.term, name))
                found[not called].append(
                    f"Within donors {arm.contrast} goes with `{name}`, which is not in the formula: what changes with "
                    f"`{name}` anyway would count as its effect; add `{quote(name)}`."
                )
    return found


def _visits(design: Design, column: pd.Series, donors: Donors) -> Crossing | None:
    """What each donor has at each value of a time, as samples; None where that is every cell, or a value is missing."""
    used = np.flatnonzero(design.codes >= 0)
    codes, levels = pd.factorize(column.iloc[used])
    if len(levels) < 3 or (codes < 0).any():
        return None
    joint = np.zeros(len(column), dtype=np.int64)
    joint[used] = donors.rows.donor[donors.rows.entry] * len(levels) + codes
    found = donors.rows.cross(pd.Series(joint, name=""), design)
    return found if found.n_labels <= _MOST_VISITS * len(donors.levels) else None


def _follows(design: Design, arm: Arms, column: pd.Series, samples: Crossing, donors: Donors) -> bool:
    """Whether a column has the order of what is tested, in samples of which each has one value of that."""
    rows, used = donors.rows, np.flatnonzero(design.codes >= 0)
    first = first_rows(samples.codes, samples.n_labels)
    pattern, donor = rows.pattern[rows.entry[first]], rows.donor[rows.entry[first]]
    j = design.fixed_names.index(arm.contrast)
    x = design.X[pattern, j]
    if not np.array_equal(x[samples.label], design.X[rows.pattern[samples.entry], j]):
        return False  # several values in a sample: a cell type, not a treatment
    time = _times(column, used, samples, first, donor)
    return time is not None and _goes_with(x, time, donor)


def _single(arms: Iterable[Arms]) -> list[Arms]:
    """Coefficients of one variable with values that donors or samples have."""
    return [a for a in arms if len(a.variables) == 1 and not a.cell_level and a.kind != "unknown"]


def _share_between(x: FloatArray, batch: Crossing, donor: IntArray, *, within: bool) -> float:
    """Adjusted share of the variance of x, among donors or within them, that lies between batches; 0 if there is no telling.

    A donor counts in its batches by the share of its cells there. A batch of one donor differs as donors do, so that it
    takes up a degree of freedom and explains nothing.
    """
    if within:
        rows = pd.DataFrame({"donor": donor, "batch": batch.label, "x": x}).drop_duplicates()
        means = rows["x"].groupby(rows["donor"]).transform("mean")
        y, P = (rows["x"] - means).to_numpy(), pd.get_dummies(rows["batch"], dtype=np.float64).to_numpy()
        df = len(rows) - rows["donor"].nunique()
    else:
        kept, row = np.unique(donor, return_inverse=True)
        value, n_cells = np.zeros(len(kept)), np.zeros((len(kept), batch.n_labels))
        value[row] = x
        np.add.at(n_cells, (row, batch.label), batch.n)
        y, P = value - value.mean(), n_cells / n_cells.sum(axis=1, keepdims=True)
        df = len(y) - 1
    rank, total = int(np.linalg.matrix_rank(P)) - 1, float(y @ y)
    if rank == 0 or df - rank < 1 or total == 0:
        return 0.0
    explained = float(((P.T @ y) ** 2 / P.sum(axis=0)).sum())
    return 1.0 - (1.0 - explained / total) * df / (df - rank)


def _times(column: pd.Series, used: IntArray, samples: Crossing, first: IntArray, donor: IntArray) -> IntArray | None:
    """Ranks of a column that may be a time: one value a sample, several in a donor, three or more that donors share."""
    name, values = str(column.name), column.iloc[used[first]]
    named = _TIME.search(name) is not None
    try:
        codes = _ranks(values)
    except TypeError:  # values without an order
        return None
    n_levels = len(np.unique(codes))
    if codes.min() < 0 or n_levels < 3 or (2 * n_levels > len(codes) and not (named and _is_ordered(values))):
        return None
    pairs = pd.DataFrame({"donor": donor, "code": codes}).drop_duplicates()
    if not pairs["donor"].duplicated().any():
        return None
    return codes if constant(_ranks(column.iloc[used]), samples.codes, samples.n_labels) else None


def _ranks(values: pd.Series) -> IntArray:
    """Codes in the order of the categories, or of the values; -1 where missing."""
    if is_categorical(values):
        return values.cat.codes.to_numpy(dtype=np.int64)
    return pd.factorize(values, sort=True)[0].astype(np.int64)


def _is_ordered(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values)


def _goes_with(x: FloatArray, time: IntArray, donor: IntArray) -> bool:
    """Whether x has the order of a time in nearly all pairs of samples of a donor, and is more than a function of it."""
    pairs = pd.DataFrame({"x": x, "time": time})
    shared = 2 * len(np.unique(time)) <= len(time)
    if (shared and (pairs.groupby("time")["x"].nunique() <= 1).all()) or _separates(x, time):
        return False
    agree, differ, n_donors = 0, 0, 0
    for rows in _rows_of(donor):
        sign = np.sign(np.subtract.outer(x[rows], x[rows])) * np.sign(np.subtract.outer(time[rows], time[rows]))
        agree, differ = agree + int((sign > 0).sum()), differ + int((sign < 0).sum())
        n_donors += bool(sign.any())
    return n_donors >= _FEWEST_DONORS and abs(agree - differ) > _TOGETHER * (agree + differ)


def _separates(x: FloatArray, time: IntArray) -> bool:
    """Whether each value of x has a stretch of time of its own, the same in all donors."""
    bounds = pd.DataFrame({"x": x, "time": time}).groupby("x")["time"].agg(["min", "max"]).sort_values("min")
    return bool((bounds["max"].to_numpy()[:-1] < bounds["min"].to_numpy()[1:]).all())


def _rows_of(donor: IntArray) -> Sequence[IntArray]:
    """Rows of each donor."""
    order = np.argsort(donor, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(donor[order])) + 1)
