"""Mixed models, group by group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import looks_like_counts
from donorwise._anndata.prepare import prepare
from donorwise._batch.tables import GroupResult
from donorwise._core.engine.arrays import effective_jobs
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.results import resolve_by_group
from donorwise.errors import DonorwiseError
from donorwise.tl._tables import group_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import anndata as ad

    from donorwise._anndata import Response
    from donorwise._anndata.prepare import Prepared
    from donorwise._core.engine.results import Rows
    from donorwise._core.engine.tasks import Statistics, Task


@dataclass(frozen=True, slots=True)
class LmmAnalysis:
    """A model for every group; what :func:`donorwise.tl.lmm` does, a group at a time.

    Attributes
    ----------
    ready
        Responses, obs, weights and one task per group.
    contrasts
        Names of all contrasts.
    rows
        The contrasts that each group can answer; None for a group that can answer none.
    ddf, reml, n_jobs
        As in :func:`donorwise.tl.lmm`.
    """

    ready: Prepared
    contrasts: list[str]
    rows: list[Rows | None]
    ddf: str
    reml: bool
    n_jobs: int

    @property
    def response(self) -> Response:
        """The matrix and the names of its features."""
        return self.ready.response

    @property
    def tasks(self) -> list[Task]:
        """One per group."""
        return self.ready.tasks

    @property
    def n_cells(self) -> int:
        """Cells of the input."""
        return len(self.ready.obs)

    @property
    def warnings(self) -> list[str]:
        """What deserves a second look before the fit."""
        if not (np.isnan(self.response.log_base) and looks_like_counts(self.response.matrix)):
            return []
        return [
            f"{self.response.text} looks like raw counts. A linear mixed model needs log-normalised values: name the "
            "layer that holds them with --layer, or use donorwise pseudobulk."
        ]

    def params(self, parts: Sequence[GroupResult]) -> dict[str, Any]:
        """What the params of the result say about this kind of model."""
        return {"ddf": self.ddf, "reml": self.reml}

    def few(self, n_features: int) -> LmmAnalysis:
        """The same with some features only, spread over all, to see how long it takes."""
        return replace(self, ready=replace(self.ready, response=few_features(self.response, n_features)))

    def passes(self, max_memory: float) -> list[list[int]]:
        """As many groups in order as fit into `max_memory` GB, at least one."""
        return self.ready.passes(max_memory)

    def bytes_of(self, numbers: Sequence[int]) -> int:
        """Memory for the statistics of some groups."""
        return self.ready.bytes_of(numbers)

    def fit(
        self, numbers: Sequence[int], finished: set[int], update: Callable[[int], object]
    ) -> Iterator[tuple[int, GroupResult]]:
        """Fit some groups from one pass over the cells, without those that are finished."""
        tasks = [self.tasks[i] for i in numbers]
        statistics = replace(self.ready, tasks=tasks).collapse(self.n_jobs)
        for at, number in enumerate(numbers):
            if number not in finished:
                yield number, self._group(number, statistics[at], update)
            statistics[at] = None

    def _group(self, number: int, statistics: Statistics | None, update: Callable[[int], object]) -> GroupResult:
        task, rows = self.tasks[number], self.rows[number]
        if statistics is None:
            return self._failed(task, task.reason)
        try:
            fit = fit_statistics(
                statistics, self.response.variables, reml=self.reml, donor=self.ready.donor, n_jobs=self.n_jobs,
                update=update,
            )  # fmt: skip
            found = group_tables(task, fit, rows, self.contrasts, self.response, self.ddf)
        except (DonorwiseError, np.linalg.LinAlgError) as error:  # one bad group does not end the run
            return self._failed(task, str(error))
        return GroupResult(found.tables, _n_cells(task), found.method, found.reason, "", found.donor)

    def _failed(self, task: Task, why: str) -> GroupResult:
        found = group_tables(task, None, None, self.contrasts, self.response, self.ddf)
        return GroupResult(found.tables, _n_cells(task), failed=why)


def few_features(response: Response, n_features: int) -> Response:
    """At most `n_features` of the features, spread over all."""
    n = len(response.variables)
    chosen = np.unique(np.linspace(0, n - 1, min(n, n_features)).astype(np.int64))
    features = chosen if response.features is None else response.features[chosen]
    return replace(response, variables=tuple(response.variables[i] for i in chosen), features=features)


def _n_cells(task: Task) -> int:
    return 0 if task.design is None else int((task.design.codes >= 0).sum())


def plan_lmm(
    adata: ad.AnnData,
    formula: str,
    *,
    groupby: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    mask_var: str | None = None,
    weights: str | None = None,
    contrasts: Any = None,
    ddf: str = "moderated",
    reml: bool = True,
    n_jobs: int | None = None,
) -> LmmAnalysis:
    """Check everything that can be wrong with the input before any long work; options as in ``dw.tl.lmm``.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.lmm`.
    """
    ready = prepare(
        adata, formula, groupby=groupby, layer=layer, obsm=obsm, obs_keys=None, mask_var=mask_var, weights=weights
    )
    names, rows = resolve_by_group(ready.tasks, contrasts)
    return LmmAnalysis(ready, names, rows, ddf, reml, effective_jobs(n_jobs))
