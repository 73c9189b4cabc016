"""Counts of cells to tests of log rates: units, one pass, then genes block by block."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.cells.accumulate import collapse
from donorwise._core.cells.passes import stored_values
from donorwise._core.cells.stored import Stored
from donorwise._core.engine.arrays import blas
from donorwise._core.engine.results import log_fold_change
from donorwise._core.engine.tables import NUMBERS, tidy
from donorwise._core.inference.moderation import learn, moderated_tests, refusal, tests_by_law
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._core.models.lograte.fit import fit_log_rates
from donorwise._core.models.lograte.units import depths_of_units
from donorwise._core.progress import tqdm
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.engine.results import Rows
    from donorwise._core.engine.tasks import Task
    from donorwise._core.engine.units import Units
    from donorwise._core.inference.moderation import Tested
    from donorwise._core.inference.prior import Prior
    from donorwise._core.models.lograte.model import LogRateModel
    from donorwise._core.models.lograte.units import Depths
    from donorwise._typing import FloatArray, IntArray, StrArray

logger = logging.getLogger("donorwise")

_CHUNK = 10_000_000  # values checked at a time


@dataclass(frozen=True, slots=True)
class LogRateFit:
    """What the model of log rates says about G genes in one group of cells.

    Attributes
    ----------
    names
        Names of the n contrasts.
    numbers
        Columns of the results, each (n, G).
    status
        Shape (n, G).
    terms
        Names of the variances: the units, and the random term where there is one.
    variances
        Shape (G, terms). Posterior means.
    dispersion, sampling, fixed
        Shape (G,). phi; mean sampling variance of the log rates; variance of their fitted values.
    n_donors, n_obs
        Donors and cells.
    prior
        What was learned about the variances; None where there are too few genes.
    """

    names: tuple[str, ...]
    numbers: dict[str, FloatArray]
    status: StrArray
    terms: tuple[str, ...]
    variances: FloatArray
    dispersion: FloatArray
    sampling: FloatArray
    fixed: FloatArray
    n_donors: int
    n_obs: int
    prior: Prior | None


def check_counts(matrix: Any, text: str) -> None:
    """Raise unless every value is a whole number, zero or more.

    Raises
    ------
    DataError
        Says what was found, and where counts usually are.
    """
    for chunk in _chunks(matrix):
        whole = (chunk >= 0) & np.isfinite(chunk) & (chunk == np.floor(chunk)) if chunk.dtype.kind in "fiu" else False
        bad = np.broadcast_to(~np.asarray(whole), chunk.shape)
        if bad.any():
            raise DataError(
                f"{text} does not hold raw counts: it has the value {chunk[bad].flat[0]:g}. A model of counts needs "
                "whole numbers, zero or more; name the layer that holds them with layer=, or fit these values with "
                "dw.tl.lmm."
            )


def _chunks(matrix: Any) -> Iterator[NDArray[Any]]:
    """The stored values, some at a time."""
    if isinstance(matrix, Stored):
        yield from stored_values(matrix)
        return
    values = matrix.data if sparse.issparse(matrix) else matrix
    step = max(1, _CHUNK // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), step):
        yield values[start : start + step]


def fit_pseudobulk(
    matrix: Any,
    variables: tuple[str, ...],
    depth: FloatArray,
    units: Units,
    tasks: Sequence[Task],
    rows: Sequence[Rows | None],
    *,
    features: IntArray | None = None,
    level: float = 0.95,
    n_jobs: int = 1,
    progress: bool = False,
) -> list[LogRateFit | None]:
    """Fit every group from one pass over the counts; None for a group without a design or contrasts.

    Parameters
    ----------
    matrix
        Counts, (N, columns).
    variables
        Names of the G genes.
    depth
        Shape (N,). Depth of every cell.
    units
        The units, which are the rows of the tasks' designs.
    tasks, rows
        Designs and contrasts by group.
    features
        Columns of the G genes; all if None.
    level
        Coverage of the confidence intervals.
    n_jobs
        Threads.
    progress
        Show a progress bar.

    Raises
    ------
    DataError
        If a unit has no counts, or a value is not finite.
    """
    depths = depths_of_units(depth, units.codes, len(units.table))
    check_depths(depths, units)
    collapsed = collapse(
        matrix, units.codes, len(units.table), covariates=depth[:, None], features=features, n_jobs=n_jobs,
        names=variables,
    )  # fmt: skip
    return fit_units(
        collapsed, depths, units, tasks, rows, n_genes=len(variables), level=level, n_jobs=n_jobs, progress=progress
    )


def fit_units(
    collapsed: Collapsed,
    depths: Depths,
    units: Units,
    tasks: Sequence[Task],
    rows: Sequence[Rows | None],
    *,
    n_genes: int,
    level: float = 0.95,
    n_jobs: int = 1,
    progress: bool = False,
) -> list[LogRateFit | None]:
    """Fit every group from the statistics of the units, which have the depth as their only covariate."""
    answerable = [task.design is not None and own is not None for task, own in zip(tasks, rows, strict=True)]
    bar = tqdm(total=sum(answerable) * n_genes, unit="fit", desc="log-rate models", disable=not progress)
    fits: list[LogRateFit | None] = []
    with bar, blas().limit(limits=1):
        for task, own in zip(tasks, rows, strict=True):
            if task.design is None or own is None:
                fits.append(None)
                continue
            used = np.flatnonzero(task.design.codes >= 0)
            model = fit_log_rates(task.design, collapsed.take(used), depths.take(used), n_jobs)
            fits.append(_fit(task.name, model, own, units, n_genes, level, n_jobs))
            bar.update(n_genes)
    return fits


def check_depths(depths: Depths, units: Units) -> None:
    """Raise where a unit has no counts."""
    empty = np.flatnonzero(depths.total <= 0)
    if empty.size:
        name = ", ".join(f"{k}={v}" for k, v in units.table.iloc[empty[0]].items())
        raise DataError(
            f"{empty.size} units have no counts at all (the first is {name}); filter their cells out first."
        )


def _fit(
    name: str, model: LogRateModel, rows: Rows, units: Units, n_genes: int, level: float, n_jobs: int
) -> LogRateFit:
    if refusal([model]):
        logger.info(
            "%s: %d genes with counts are too few to learn a prior from; the variance between units is estimated "
            "gene by gene and tested with t.", name, model.features.size,
        )  # fmt: skip
        return _assemble(model, tests_by_law(model, rows.L, level, n_jobs), None, rows, units, n_genes)
    learned = learn([model], n_jobs=n_jobs)
    tested = moderated_tests(model, rows.L, learned, level, n_jobs)
    return _assemble(model, tested, learned.prior, rows, units, n_genes)


def _assemble(
    model: LogRateModel, tested: Tested, prior: Prior | None, rows: Rows, units: Units, n_genes: int
) -> LogRateFit:
    """Every gene its row: NaN for those without counts."""

    def spread(values: FloatArray) -> FloatArray:
        out = np.full((n_genes, *values.shape[1:]), np.nan)
        out[model.features] = values
        return out

    status = np.full((len(rows.names), n_genes), "constant", dtype=STATUS_DTYPE)
    status[:, model.features] = tested.tests.status.T
    Q, rates = model.units.Q, model.rates
    return LogRateFit(
        names=rows.names,
        numbers={key: spread(getattr(tested.tests, key)).T for key in NUMBERS},
        status=status,
        terms=(units.name, model.units.group)[: 1 + bool(model.units.group)],
        variances=spread(tested.variances),
        dispersion=spread(rates.dispersion),
        sampling=spread(rates.v.mean(axis=1)),
        fixed=spread(((rates.y @ Q) @ Q.T).var(axis=1)),
        n_donors=units.n_donors(model.units.order),
        n_obs=int(model.depths.n_cells.sum()),
        prior=prior,
    )


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
