"""What is kept of the fit of one group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._anndata import keys
from donorwise._core.engine.fitted import LMMFit
from donorwise._core.engine.results import partition_rows, results_table, side_table
from donorwise._core.engine.tables import ddf_used, prior_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from donorwise._anndata import Response
    from donorwise._core.engine.results import Rows
    from donorwise._core.engine.tasks import Task


@dataclass(frozen=True, slots=True)
class GroupTables:
    """Tables of one group, under the names that results have for them.

    Attributes
    ----------
    tables
        The results, and those that there are of variance components, ICC, variance partition and prior.
    method, reason
        How its tests allow for unknown variances, and why not as asked for; empty where nothing was fitted.
    donor
        The column that counted as the replicate; empty where nothing was fitted.
    """

    tables: dict[str, pd.DataFrame]
    method: str = ""
    reason: str = ""
    donor: str = ""


def group_tables(
    task: Task, fit: LMMFit | None, rows: Rows | None, contrasts: Sequence[str], response: Response, ddf: str
) -> GroupTables:
    """The tables of a group; without a fit every feature has its row all the same."""
    scale = np.log(response.log_base) / np.log(2)
    results = results_table([task], [fit], [rows], contrasts, response.variables, ddf=ddf, log2_scale=scale)
    if fit is None:
        return GroupTables({keys.RESULTS: results})
    method, reason = ddf_used(fit, ddf)
    tables = {
        keys.RESULTS: results,
        keys.VARCOMP: side_table([task], [fit], LMMFit.varcomp),
        keys.ICC: side_table([task], [fit], LMMFit.icc),
        keys.VARIANCE_PARTITION: side_table([task], [fit], partition_rows),
    }
    if method == "moderated":
        tables[keys.PRIOR] = side_table([task], [fit], lambda f: prior_table(f.prior))
    return GroupTables(tables, method, reason, fit.donor)
