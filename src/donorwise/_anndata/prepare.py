"""What every tool needs before the pass over the cells: responses, obs, weights, one design per group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._anndata import (
    cell_frame,
    check_is_anndata,
    columns_read,
    find_roles,
    is_collapsed,
    keys,
    looks_like_counts,
    read_origin,
    read_rows,
    resolve_response,
)
from donorwise._anndata.response import Response
from donorwise._anndata.roles import AUDITED, known_donor
from donorwise._core.cells.stored import Stored
from donorwise._core.design.coarsen import coarsen
from donorwise._core.design.formula import parse
from donorwise._core.engine.arrays import check_weights
from donorwise._core.engine.collapsed import regroup
from donorwise._core.engine.results import tasks_by_group
from donorwise._core.engine.tasks import collapse_tasks
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._anndata.roles import Role
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.engine.collapsed import CollapsedRows
    from donorwise._core.engine.tasks import Statistics, Task
    from donorwise._typing import BoolArray, FloatArray


GB = 1e9


@dataclass(frozen=True, slots=True)
class Prepared:
    """Checked input of a tool; nothing of a matrix of cells has been read yet.

    Attributes
    ----------
    formula
        The formula.
    roles
        The roles that columns of obs play.
    response
        The matrix and the names of its features.
    obs
        The cells' columns (of a collapsed AnnData those that are read).
    weights
        Shape (N,), or None.
    weights_text
        What results say of the weights: a column, ``"<array>"``, or empty for none.
    tasks
        One per group.
    donor
        The column that is declared (or known by its name) to be the donor; empty for neither. See :func:`known_donor`.
    rows
        Statistics of the rows of a collapsed AnnData; None for cells.
    raw_counts
        Whether the response looks like raw counts.
    """

    formula: ParsedFormula
    roles: Mapping[str, Role]
    response: Response
    obs: pd.DataFrame
    weights: FloatArray | None
    weights_text: str
    tasks: list[Task]
    donor: str
    rows: CollapsedRows | None
    raw_counts: bool

    @property
    def n_cells(self) -> int:
        """Number of cells, N."""
        return len(self.obs)

    def passes(self, max_memory: float | None = None) -> list[list[int]]:
        """Numbers of the tasks that share a pass over the cells: as many in order as fit into `max_memory` GB.

        Collapsed rows are read task by task, which costs nothing.
        """
        if self.rows is not None:
            return [[number] for number in range(len(self.tasks))]
        out: list[list[int]] = [[]]
        for number in range(len(self.tasks)):
            if max_memory is not None and out[-1] and self.bytes_of([*out[-1], number]) > max_memory * GB:
                out.append([])
            out[-1].append(number)
        return out

    def bytes_of(self, numbers: Sequence[int]) -> int:
        """Memory for the statistics of some tasks; for those of a file there are running sums while it is read."""
        designs = [d for i in numbers if (d := self.tasks[i].design) is not None]
        m = max((d.covariates.shape[1] for d in designs), default=0)
        per_value = 4 + 2 * m if isinstance(self.response.matrix, Stored) else 2 + m
        return 8 * sum(d.n_patterns for d in designs) * (len(self.response.variables) * per_value + 1 + m + m * m)

    def collapse(self, n_jobs: int) -> list[Statistics | None]:
        """The statistics of every task, from one pass over the matrix or from the collapsed rows."""
        if self.rows is not None:
            designs = (task.design for task in self.tasks)
            return [None if d is None else regroup(d, self.rows, self.response.features) for d in designs]
        return collapse_tasks(
            self.response.matrix, self.response.variables, self.tasks, weights=self.weights,
            features=self.response.features, n_jobs=n_jobs,
        )  # fmt: skip


def prepare(
    adata: ad.AnnData,
    formula: str,
    *,
    groupby: str | None,
    layer: str | None,
    obsm: str | None,
    obs_keys: str | Sequence[str] | None,
    mask_var: str | BoolArray | None,
    weights: str | FloatArray | None,
    columns: Sequence[str] = (),
) -> Prepared:
    """Check the input and build the designs; `columns` are further columns of obs that will be read.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.lmm`.
    """
    check_is_anndata(adata)
    if is_collapsed(adata):
        response = collapsed_response(adata, layer=layer, obsm=obsm, obs_keys=obs_keys, mask_var=mask_var)
    else:
        response = resolve_response(adata, layer=layer, obsm=obsm, obs_keys=obs_keys, mask_var=mask_var)
    ready = assemble(adata, formula, response, groupby=groupby, weights=weights, columns=columns)
    _check_random(ready.tasks)
    return ready


def assemble(
    adata: ad.AnnData,
    formula: str,
    response: Response,
    *,
    groupby: str | None,
    weights: str | FloatArray | None,
    columns: Sequence[str] = (),
) -> Prepared:
    """Build the designs for a response, on cells or on collapsed rows."""
    parsed, roles = parse(formula), find_roles(adata)
    if not is_collapsed(adata):
        obs = cell_frame(adata)
        w = check_weights(weights, obs)
        text = weights if isinstance(weights, str) else keys.NO_WEIGHTS if weights is None else keys.ARRAY_WEIGHTS
        tasks, rows = tasks_by_group(parsed, obs, groupby), None
        raw = np.isnan(response.log_base) and looks_like_counts(response.matrix)
    else:
        origin = read_origin(adata)
        _check_no_weights(weights, origin.weights)
        w, text, raw = None, origin.weights, origin.looks_like_counts
        obs = cell_frame(adata, read_columns(adata, parsed, roles, groupby, columns))
        used = [name for name in origin.covariates if name in obs.columns]
        rows = read_rows(adata, used)
        tasks = [
            t if t.design is None else replace(t, design=coarsen(t.design, used))
            for t in tasks_by_group(parsed, obs, groupby)
        ]
    donor = known_donor(adata, roles, parsed)
    return Prepared(parsed, roles, response, obs, w, text, tasks, donor, rows, bool(raw))


def read_columns(
    adata: ad.AnnData,
    parsed: ParsedFormula,
    roles: Mapping[str, Role],
    groupby: str | None,
    columns: Sequence[str] = (),
) -> list[str]:
    """Columns of a collapsed AnnData that a tool reads: the formula's, the group, the donor, and others."""
    labels = [*([] if groupby is None else [groupby]), *columns]
    names = columns_read(adata, parsed, labels) or []
    donor = [roles["donor"].column] if "donor" in roles and roles["donor"].column else []
    known = [roles[role].column for role in AUDITED if role in roles]
    return list(dict.fromkeys([*names, *donor, *(c for c in known if c in read_origin(adata).by)]))


def collapsed_response(
    adata: ad.AnnData,
    *,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | None = None,
) -> Response:
    """The means of a collapsed AnnData as responses, on the scale of the cells' values.

    Raises
    ------
    DataError
        Another matrix is asked for than the one that was collapsed.
    """
    origin = read_origin(adata)
    asked = keys.RESPONSE_X if layer is None else f"{keys.LAYER_PREFIX}{layer}"
    if obsm is not None or obs_keys is not None or (layer is not None and asked != origin.source):
        wanted = asked if layer is not None else "obsm=" if obsm is not None else "obs_keys="
        raise DataError(
            f"{wanted} is not what was collapsed: these rows have the means of {origin.source}. Leave layer= out, or "
            "collapse the cells again."
        )
    return replace(resolve_response(adata, mask_var=mask_var), log_base=origin.log_base)


def _check_no_weights(weights: object, stored: str) -> None:
    if weights is not None and not (isinstance(weights, str) and weights == stored):
        raise DataError("Weights belong to cells: give weights= to dw.pp.collapse, from where the tools take them.")


def _check_random(tasks: Sequence[Task]) -> None:
    design = next(t.design for t in tasks if t.design is not None)
    if not design.random_terms:
        raise DesignError(
            f"The formula {design.formula!r} has no random term, so it would take every cell for a replicate; "
            "add one for the donor, for instance (1 | donor_id)."
        )
