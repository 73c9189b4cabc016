"""What the tests say without each donor in turn, from statistics that were collapsed once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.matrices import split_columns
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.tables import ddf_used
from donorwise._core.engine.tasks import Statistics
from donorwise._core.inference.moderation import moderated_tests
from donorwise._core.inference.wald import contrast_tests
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._core.models.lmm.crossproducts import column_means
from donorwise._typing import STATUSES
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.engine.fitted import LMMFit
    from donorwise._core.engine.results import Rows
    from donorwise._core.inference.wald import ContrastTests
    from donorwise._typing import FloatArray, IntArray

LEVEL = 0.95
NUMBERS = ("estimate", "se", "ci_low", "ci_high", "p_value")
_NOT_IN_SPAN = 1e-7  # relative part of a contrast that the remaining rows cannot express


def donor_term(design: Design, donor: str) -> RandomTerm:
    """The random term whose levels are the donors.

    Raises
    ------
    DesignError
        No random term has the grouping factor `donor`.
    """
    term = next((t for t in design.random_terms if t.group == donor), None)
    if term is None:
        groups = [t.group for t in design.random_terms]
        raise DesignError(f"{donor!r} is not a grouping factor of {design.formula!r}; those are {groups}.")
    return term


def leave_one_out(
    statistics: Statistics,
    variables: tuple[str, ...],
    rows: Rows,
    *,
    donor: str,
    update: Callable[[int], object] = lambda n: None,
    **options: Any,
) -> pd.DataFrame:
    """Test the contrasts without each donor in turn.

    The columns of the design are those that all donors gave: a spline keeps its knots and a scaled
    covariate its scale, so that a contrast means the same without any of them.

    Parameters
    ----------
    statistics
        Of all donors; reduced, never recomputed.
    variables
        Names of the G features of `statistics`.
    rows
        The n contrasts, in the basis of the formula.
    donor
        Grouping factor whose levels are left out.
    update
        Told 1 after each donor.
    options
        As for :func:`retest`.

    Returns
    -------
    Donors x contrasts x features: ``donor, contrast, variable``, the numbers and the status.
    """
    term = donor_term(statistics.design, donor)
    tables = []
    for code in range(len(term.levels)):
        kept = np.flatnonzero(term.codes != code)
        table = retest(statistics.take_patterns(kept), variables, rows, donor=donor, **options)
        table.insert(0, "donor", pd.Categorical.from_codes(np.full(len(table), code), categories=list(term.levels)))
        tables.append(table)
        update(1)
    return pd.concat(tables, ignore_index=True)


def retest(
    statistics: Statistics,
    variables: tuple[str, ...],
    rows: Rows,
    *,
    donor: str,
    ddf: str,
    reml: bool,
    wanted: IntArray,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Fit all features and test some, `wanted` (positions); what cannot be answered is ``not_estimable``.

    A moderated test learns its prior from all the features, and is worked out for those that are wanted.
    """
    reduced, L, estimable = _estimable(statistics, rows.L)
    shape = (len(rows.names), wanted.size)
    numbers = {name: np.full(shape, np.nan) for name in NUMBERS}
    status = np.full(shape, "not_estimable", dtype=STATUS_DTYPE)
    if estimable.any() and len(donor_term(statistics.design, donor).levels) > 1:
        fit = fit_statistics(reduced, variables, reml=reml, n_jobs=n_jobs)
        for place, tests in _tests(fit, L[estimable], ddf, wanted):
            cells = np.ix_(np.flatnonzero(estimable), place)
            status[cells] = tests.status.T
            for name, values in numbers.items():
                values[cells] = getattr(tests, name).T
    names = [variables[i] for i in wanted]
    codes, n = np.repeat(np.arange(shape[0]), shape[1]), shape[0]
    table = pd.DataFrame({"contrast": pd.Categorical.from_codes(codes, categories=list(rows.names))})
    table["variable"] = pd.Categorical(names * n, categories=names)
    for name, values in numbers.items():
        table[name] = values.ravel()
    return table.assign(status=pd.Categorical(status.ravel(), categories=list(STATUSES)))


def _tests(fit: LMMFit, L: FloatArray, ddf: str, wanted: IntArray) -> Iterator[tuple[IntArray, ContrastTests]]:
    """Tests of the wanted features by the part of the fit they belong to, and their places in `wanted`."""
    used, _ = ddf_used(fit, ddf)
    order = np.argsort(wanted)
    for model in fit.models:
        own = model.take(np.flatnonzero(np.isin(model.features, wanted)))
        place = order[np.searchsorted(wanted, own.features, sorter=order)]
        if used == "moderated":
            yield place, moderated_tests(own, L, fit.learned, LEVEL).tests
        else:
            yield place, contrast_tests(own, L, used, LEVEL)


def _estimable(statistics: Statistics, L: FloatArray) -> tuple[Statistics, FloatArray, np.ndarray]:
    """Drop columns of X that the others give, rewrite the contrasts, and say which can be answered.

    With X = X₁T for independent columns X₁, a contrast c'β with c' = a'X is c₁'(Tβ), c₁ being the
    entries of c that belong to X₁; others have no answer (Searle 1971, Linear Models, section 5.4).
    """
    design = statistics.design
    X = _row_space(statistics)
    kept, aliased = split_columns(X, design.fixed_names)
    if not aliased:
        return statistics, L, np.ones(len(L), dtype=bool)
    norm = np.sqrt((X**2).sum(axis=0))
    scale = np.where(norm > 0, norm, 1.0)
    T = np.linalg.lstsq(X[:, kept] / scale[kept], X / scale, rcond=None)[0]
    c = L / scale
    estimable = np.abs(c - c[:, kept] @ T).max(axis=1) <= _NOT_IN_SPAN * np.abs(c).max(axis=1)
    smaller = replace(
        design, X=design.X[:, kept], fixed_names=tuple(design.fixed_names[j] for j in kept),
        varying=tuple(design.varying[j] for j in kept),
    )  # fmt: skip
    return Statistics(smaller, statistics.passes), L[:, kept], estimable


def _row_space(statistics: Statistics) -> FloatArray:
    """A matrix with the row space of X over the rows in use: the patterns, then what varies inside them."""
    design = statistics.design
    if all(k < 0 for k in design.varying) or not statistics.passes:
        return design.X
    collapsed = max((p.collapsed for p in statistics.passes), key=lambda c: int(c.n_obs.sum()))
    columns = column_means(design.X, design.varying, collapsed)
    values, vectors = np.linalg.eigh(collapsed.covariate_ss.sum(axis=0))
    inside = (np.sqrt(np.clip(values, 0, None)) * vectors).T @ columns.deviation
    return np.vstack([columns.mean, inside])
