"""Counts of cells to tests of log rates: units, one pass, then genes block by block."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from donorwise._core.cells.collapse import collapse
from donorwise._core.cells.matrices import stored_values
from donorwise._core.engine.lmm import blas
from donorwise._core.engine.results import log_fold_change
from donorwise._core.engine.tables import NUMBERS, tidy
from donorwise._core.inference.grid import tensor
from donorwise._core.inference.lograte import expression_rank, grid, learn_prior, log_rate_tests, prior_genes
from donorwise._core.models.lograte.model import build_model, grid_law
from donorwise._core.models.lograte.units import depths_of_units, log_rates
from donorwise._core.progress import tqdm
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.engine.results import Rows
    from donorwise._core.engine.tasks import Task
    from donorwise._core.engine.units import Units
    from donorwise._core.inference.prior import Prior
    from donorwise._core.models.lograte.model import LogRateModel
    from donorwise._core.models.lograte.units import Depths, LogRates
    from donorwise._typing import FloatArray, IntArray, StrArray

logger = logging.getLogger("donorwise")

# Doubles of temporary arrays that a block of genes may use (32 MB).
_BLOCK = 4_000_000


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


@dataclass(frozen=True, slots=True)
class _Work:
    """One group: its model, its units' statistics, and the genes that have counts there."""

    model: LogRateModel
    collapsed: Collapsed
    depths: Depths
    present: IntArray

    def counts(self) -> FloatArray:
        """Total counts (G,); whole numbers, so that equal ones are equal in every order of the cells."""
        return np.asarray(np.rint(self.depths.n_cells @ self.collapsed.mean))

    def rates(self, at: IntArray) -> LogRates:
        """Log rates of some of the genes with counts."""
        return log_rates(self.collapsed.take_features(self.present[at]), self.depths, self.model.Q)

    def blocks(self, genes: IntArray, points: int) -> list[IntArray]:
        """Genes in blocks within the memory budget, which do not depend on the workers."""
        size = int(np.clip(_BLOCK // (8 * self.model.order.size + 8 * points), 1, 1024))
        return [genes[i : i + size] for i in range(0, genes.size, size)]


def check_counts(matrix: Any, text: str) -> None:
    """Raise unless every value is a whole number, zero or more.

    Raises
    ------
    DataError
        Says what was found, and where counts usually are.
    """
    for chunk in stored_values(matrix):
        whole = (chunk >= 0) & np.isfinite(chunk) & (chunk == np.floor(chunk)) if chunk.dtype.kind in "fiu" else False
        bad = np.broadcast_to(~np.asarray(whole), chunk.shape)
        if bad.any():
            raise DataError(
                f"{text} does not hold raw counts: it has the value {chunk[bad].flat[0]:g}. A model of counts needs "
                "whole numbers, zero or more; name the layer that holds them with layer=, or fit these values with "
                "dw.tl.lmm."
            )


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
    with bar, blas().limit(limits=1), Parallel(n_jobs, prefer="threads", return_as="generator") as parallel:
        for task, own in zip(tasks, rows, strict=True):
            if task.design is None or own is None:
                fits.append(None)
                continue
            model = build_model(task.design)
            taken = collapsed.take(model.order)
            work = _Work(model, taken, depths.take(model.order), np.flatnonzero((taken.mean > 0).any(axis=0)))
            fits.append(_fit(task.name, work, own, units, n_genes, level, parallel, bar))
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
    name: str, work: _Work, rows: Rows, units: Units, n_genes: int, level: float, parallel: Parallel, bar: tqdm
) -> LogRateFit:
    axes = grid(work.model, work.present.size)
    rank = expression_rank(work.counts()[work.present])
    prior = _learn(work, axes, rank, parallel)
    if prior is None:
        logger.info(
            "%s: %d genes with counts are too few to learn a prior from; the variance between units is estimated "
            "gene by gene and tested with t.", name, work.present.size,
        )  # fmt: skip
    blocks = work.blocks(np.arange(work.present.size), len(tensor(axes)))
    priors = [None if prior is None else np.log(prior.at(rank[at])) for at in blocks]
    fit = _empty(work, rows, units, n_genes, prior)
    made = parallel(delayed(_test)(work, at, axes, own, rows.L, level) for at, own in zip(blocks, priors, strict=True))
    for at, numbers in zip(blocks, made, strict=True):
        _fill(fit, work.present[at], numbers)
        bar.update(at.size)
    bar.update(n_genes - work.present.size)
    return fit


def _learn(work: _Work, axes: list[FloatArray], rank: FloatArray, parallel: Parallel) -> Prior | None:
    """The prior shared by the genes with expression ranks (present,); None where they are too few."""
    chosen = prior_genes(rank)
    if not chosen.size:
        return None
    points = tensor(axes)
    loglik = np.concatenate(
        list(parallel(delayed(_loglik)(work, at, points) for at in work.blocks(chosen, len(points))))
    )
    return learn_prior(work.model, loglik, rank[chosen], rank.size)


def _loglik(work: _Work, at: IntArray, points: FloatArray) -> FloatArray:
    return grid_law(work.model, work.rates(at), points).loglik


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Results of a block of genes: (n, genes), then (genes, ...)."""

    numbers: dict[str, FloatArray]
    variances: FloatArray
    dispersion: FloatArray
    sampling: FloatArray
    fixed: FloatArray


def _test(
    work: _Work, at: IntArray, axes: list[FloatArray], log_prior: FloatArray | None, L: FloatArray, level: float
) -> _Numbers:
    rates = work.rates(at)
    tests = log_rate_tests(work.model, rates, axes, log_prior, L, level)
    names = ("estimate", "se", "df", "p_value", "ci_low", "ci_high")
    numbers = {key: np.stack([getattr(summary, key) for summary in tests.contrasts]) for key in names}
    numbers["statistic"] = numbers["estimate"] / numbers["se"]
    fitted = (rates.y @ work.model.Q) @ work.model.Q.T
    return _Numbers(numbers, tests.variances, rates.dispersion, rates.v.mean(axis=1), fitted.var(axis=1))


def _empty(work: _Work, rows: Rows, units: Units, G: int, prior: Prior | None) -> LogRateFit:
    n, model = len(rows.names), work.model
    status = np.full((n, G), "constant", dtype="<U16")
    status[:, work.present] = "ok"
    terms = (units.name, model.group)[: 1 + bool(model.group)]
    return LogRateFit(
        names=rows.names,
        numbers={key: np.full((n, G), np.nan) for key in NUMBERS},
        status=status,
        terms=terms,
        variances=np.full((G, len(terms)), np.nan),
        dispersion=np.full(G, np.nan),
        sampling=np.full(G, np.nan),
        fixed=np.full(G, np.nan),
        n_donors=units.n_donors(model.order),
        n_obs=int(work.depths.n_cells.sum()),
        prior=prior,
    )


def _fill(fit: LogRateFit, genes: IntArray, block: _Numbers) -> None:
    for key, values in block.numbers.items():
        fit.numbers[key][:, genes] = values
    for field in fields(_Numbers)[1:]:
        getattr(fit, field.name)[genes] = getattr(block, field.name)


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
