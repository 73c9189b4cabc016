"""Responses of single cells without some terms of a model, or what is left of them, in blocks from one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._core.cells.blocks import dense_blocks
from donorwise._core.design.named import terms_named
from donorwise._core.engine.asking import ask
from donorwise._core.engine.predictions import Terms, overall_means, whole
from donorwise._core.jobs import Progress
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from donorwise._core.cells.blocks import Block
    from donorwise._core.design.named import Named
    from donorwise._core.engine.analysis import Analysis
    from donorwise._core.engine.predictions import Predictor
    from donorwise._typing import BoolArray, FloatArray, IntArray


class ResidualBlock(NamedTuple):
    """Residuals and fitted values (n, c) of rows of the matrix (n,), and of columns by their place among those read, (c,).

    NaN for rows that are not in use, and for features without a fit. A value is in one block.
    """

    rows: IntArray
    columns: IntArray
    residuals: FloatArray
    fitted: FloatArray


@dataclass(frozen=True, slots=True)
class Removal:
    """Fitted models, and what of them is taken out of responses.

    Attributes
    ----------
    analysis
        What was fitted.
    predictors
        Of every task; None where nothing was fitted.
    removed
        Terms to take out; None for everything, which leaves residuals.
    """

    analysis: Analysis[Any, Any]
    predictors: tuple[Predictor | None, ...]
    removed: Named | None

    @property
    def used(self) -> BoolArray:
        """Rows of the matrix that some fitted model is of, (N,)."""
        every = np.arange(self.analysis.n_cells)
        return np.asarray(np.logical_or.reduce([p.uses(every) for p in self.predictors if p is not None]))

    def blocks(self, *, progress: bool = False) -> Iterator[ResidualBlock]:
        """All values of rows in use, a few at a time."""
        source, used = self.analysis.source, self.used
        taken = [None if p is None else self._terms(p) for p in self.predictors]
        total = int(used.sum()) * source.columns.size
        with Progress(total=total, unit="value", unit_scale=True, desc="residuals", disable=not progress) as bar:
            for block in dense_blocks(source.matrix, source.columns, used):
                yield self._of_block(block, taken)
                bar.update(block.values.size)

    def _terms(self, predictor: Predictor) -> Terms | None:
        """What is taken out of the linear predictors of a task: fixed terms about their means, so that the level stays."""
        if self.removed is None:
            return None
        return Terms(self.removed.columns(predictor.design), self.removed.random, overall_means(predictor.design))

    def _of_block(self, block: Block, taken: Sequence[Terms | None]) -> ResidualBlock:
        out = ResidualBlock(
            block.rows, block.columns, np.full(block.values.shape, np.nan), np.full(block.values.shape, np.nan)
        )
        for predictor, terms in zip(self.predictors, taken, strict=True):
            if predictor is None:
                continue
            at = np.flatnonzero(predictor.uses(block.rows))
            if at.size:
                own = block._replace(rows=block.rows[at], values=block.values[at])
                out.residuals[at], out.fitted[at] = _residuals(predictor, own, terms)
        return out


def _residuals(predictor: Predictor, block: Block, terms: Terms | None) -> tuple[FloatArray, FloatArray]:
    """Residuals, or responses without some terms, and fitted values of rows of one task."""
    scale, features = predictor.scale, predictor.features(block.columns)
    y = scale.observed(block.values)
    eta = predictor.linear(block.rows, block.columns, whole(predictor.design))
    fitted = scale.fitted(eta, block.rows, features)
    if terms is None:
        return scale.residual(y, eta, block.rows, features), fitted
    removed = predictor.linear(block.rows, block.columns, terms)
    return scale.without(y, eta, removed, block.rows, features), fitted


def fit_removal(
    analysis: Analysis[Any, Any],
    varcomp: pd.DataFrame,
    remove: Sequence[str] | None,
    *,
    max_memory: float | None = None,
    progress: bool = False,
) -> Removal:
    """Fit an analysis again, to take terms out of the responses of its cells.

    Parameters
    ----------
    analysis
        What gave a result.
    varcomp
        The variances that this holds, of all groups.
    remove
        Names of terms (see :func:`terms_named`); None for all of them, the intercept too.
    max_memory
        GB for the statistics of tasks that share a pass; None for one pass.
    progress
        Show a progress bar.

    Raises
    ------
    DataError
        Cells have no responses of their own, or no task could be fitted.
    DesignError
        There is no such term.
    """
    if analysis.without_cells:
        raise DataError(analysis.without_cells)
    number = next(i for i, task in enumerate(analysis.tasks) if task.design is not None)
    removed = None if remove is None else terms_named(analysis.full_design(number), remove)
    groups = varcomp["group"].astype(str)

    def predictor(number: int, statistics: Any, fit: Any) -> Predictor:
        return analysis.predictor(number, fit, varcomp[groups == analysis.tasks[number].name])

    found = ask(analysis, predictor, max_memory=max_memory, progress=progress)
    return Removal(analysis, tuple(found), removed)
