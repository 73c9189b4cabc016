"""Counts of cells to tests of log rates: units, one pass, then genes block by block."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from donorwise._core.cells.matrices import stored_values
from donorwise._core.engine.analysis import Analysis, Family, Tables
from donorwise._core.engine.arrays import blas
from donorwise._core.engine.results import with_group
from donorwise._core.engine.sources import UnitStatistics
from donorwise._core.engine.tables import NUMBERS, prior_table, tidy
from donorwise._core.inference.grid import tensor
from donorwise._core.inference.lograte import expression_rank, grid, learn_prior, log_rate_tests, prior_genes
from donorwise._core.inference.moderation import MIN_FEATURES
from donorwise._core.models.lograte.model import build_model, grid_law
from donorwise._core.models.lograte.units import log_rates
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.engine.results import Contrasts
    from donorwise._core.engine.units import Units
    from donorwise._core.inference.prior import Prior
    from donorwise._core.models.lograte.model import LogRateModel
    from donorwise._core.models.lograte.units import Depths, LogRates
    from donorwise._typing import FloatArray, IntArray, StrArray


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


def fit_units(
    statistics: UnitStatistics,
    contrasts: Contrasts,
    units: Units,
    n_genes: int,
    *,
    level: float = 0.95,
    n_jobs: int = 1,
    update: Callable[[int], object] = lambda n: None,
) -> LogRateFit:
    """Fit and test the genes of one task; `update` is told how many are done."""
    model = build_model(statistics.design)
    order = np.searchsorted(statistics.units, model.order)
    collapsed, depths = statistics.collapsed.take(order), statistics.depths.take(order)
    work = _Work(model, collapsed, depths, np.flatnonzero((collapsed.mean > 0).any(axis=0)))
    with blas().limit(limits=1), Parallel(n_jobs, prefer="threads", return_as="generator") as parallel:
        return _fit(work, contrasts, units, n_genes, level, parallel, update)


def check_depths(depths: Depths, units: Units) -> None:
    """Raise where a unit has no counts."""
    empty = np.flatnonzero(depths.total <= 0)
    if empty.size:
        name = ", ".join(f"{k}={v}" for k, v in units.table.iloc[empty[0]].items())
        raise DataError(
            f"{empty.size} units have no counts at all (the first is {name}); filter their cells out first."
        )


def _fit(
    work: _Work,
    contrasts: Contrasts,
    units: Units,
    n_genes: int,
    level: float,
    parallel: Parallel,
    update: Callable[[int], object],
) -> LogRateFit:
    axes = grid(work.model, work.present.size)
    rank = expression_rank(work.counts()[work.present])
    prior = _learn(work, axes, rank, parallel)
    blocks = work.blocks(np.arange(work.present.size), len(tensor(axes)))
    priors = [None if prior is None else np.log(prior.at(rank[at])) for at in blocks]
    fit = _empty(work, contrasts, units, n_genes, prior)
    made = parallel(
        delayed(_test)(work, at, axes, own, contrasts.L, level) for at, own in zip(blocks, priors, strict=True)
    )
    for at, numbers in zip(blocks, made, strict=True):
        _fill(fit, work.present[at], numbers)
        update(at.size)
    update(n_genes - work.present.size)
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


def _empty(work: _Work, contrasts: Contrasts, units: Units, G: int, prior: Prior | None) -> LogRateFit:
    n, model = len(contrasts.names), work.model
    status = np.full((n, G), "constant", dtype="<U16")
    status[:, work.present] = "ok"
    terms = (units.name, model.group)[: 1 + bool(model.group)]
    return LogRateFit(
        names=contrasts.names,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudobulkAnalysis(Analysis[UnitStatistics, LogRateFit]):
    """Counts summed over the cells of a unit.

    Attributes
    ----------
    units
        The units, which are the rows of the designs.
    sample, depth
        Columns of obs that tell units of a donor apart and that depths are from; empty for none, and for the sum of
        the counts.
    """

    family = Family(method="pseudobulk", observations="units", link="log", prior_on="variance")

    units: Units
    sample: str
    depth: str

    def fit(self, number: int, statistics: UnitStatistics, update: Callable[[int], object]) -> LogRateFit:
        """See :class:`Analysis`."""
        contrasts = self.contrasts[number]
        if contrasts is None:
            raise DesignError(self.tasks[number].reason or "None of the contrasts can be answered here.")
        return fit_units(statistics, contrasts, self.units, len(self.variables), n_jobs=self.n_jobs, update=update)

    def tables(self, number: int, fit: LogRateFit | None) -> Tables:
        """See :class:`Analysis`."""
        if fit is None:
            return Tables(self.results(number, None))
        G, name, few = len(self.variables), self.tasks[number].name, fit.prior is None
        donors, cells = np.full(G, fit.n_donors), np.full(G, fit.n_obs)
        tested = tidy(self.variables, fit.names, fit.numbers, fit.status, donors, cells)
        n_present = int((fit.status[0] == "ok").sum())
        note = f"{n_present} genes with counts are too few to learn a prior from ({MIN_FEATURES} are needed)"
        return Tables(
            results=self.results(number, tested, n_donors=fit.n_donors, n_obs=fit.n_obs),
            varcomp=with_group(varcomp_table(fit, self.variables), name),
            icc=with_group(icc_table(fit, self.variables), name),
            variance_partition=with_group(partition_table(fit, self.variables), name),
            prior=None if fit.prior is None else with_group(prior_table(fit.prior), name),
            ddf="between-within" if few else self.options.ddf,
            note=note if few else "",
            donor=self.donor,
        )

    def own_params(self) -> dict[str, Any]:
        """See :class:`Analysis`."""
        return {"units": self.units.name, "sample": self.sample, "depth": self.depth}
