"""What every tool needs before the pass over the cells: responses, obs, weights, one design per group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from donorwise._anndata import check_is_anndata, check_obs_columns, find_roles, obs_frame, resolve_response
from donorwise.design.columns import check_obs
from donorwise.design.formula import parse
from donorwise.design.replication import leaves_out
from donorwise.engine.arrays import check_weights
from donorwise.engine.groups import tasks_by_group
from donorwise.engine.statistics import collapse_tasks
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._anndata import Response
    from donorwise._typing import BoolArray, FloatArray
    from donorwise.engine.statistics import Statistics, Task


@dataclass(frozen=True, slots=True)
class Prepared:
    """Checked input of a tool; nothing of the matrix has been read yet.

    Attributes
    ----------
    formula
        The formula.
    response
        The matrix and the names of its features.
    obs
        The cells' columns.
    weights
        Shape (N,), or None.
    tasks
        One per group.
    donor
        The column that is declared (or known by its name) to be the donor; empty for neither. See :func:`known_donor`.
    """

    formula: str
    response: Response
    obs: pd.DataFrame
    weights: FloatArray | None
    tasks: list[Task]
    donor: str

    def collapse(self, n_jobs: int) -> list[Statistics | None]:
        """The statistics of every task, from one pass over the matrix."""
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
) -> Prepared:
    """Check the input and build the designs.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.lmm`.
    """
    check_is_anndata(adata)
    response = resolve_response(adata, layer=layer, obsm=obsm, obs_keys=obs_keys, mask_var=mask_var)
    obs = obs_frame(adata)
    w = check_weights(weights, obs)
    tasks = tasks_by_group(formula, obs, groupby)
    _check_random(tasks)
    return Prepared(formula, response, obs, w, tasks, known_donor(adata, formula))


def known_donor(adata: ad.AnnData, formula: str) -> str:
    """The column that is the donor: as declared, or guessed where the formula uses it or misses it; empty for neither.

    A guess does not count where the formula has the same donors, or units inside them, under another name.

    Raises
    ------
    FormulaError, DesignError
        The formula does not parse, or its grouping factors or the declared donor are not in obs.
    """
    role = find_roles(adata).get("donor")
    if role is None or not role.column:
        return ""
    if not role.guessed:
        check_obs_columns(adata, [role.column])
        return role.column
    parsed = parse(formula)
    groups = [bar.group for bar in parsed.bars]
    columns = list(dict.fromkeys(column for group in groups for column in group))
    obs = obs_frame(adata)
    check_obs(obs, columns, parsed.source)
    used = role.column in columns
    return role.column if used or leaves_out(groups, obs, role.column) else ""


def _check_random(tasks: Sequence[Task]) -> None:
    design = next(t.design for t in tasks if t.design is not None)
    if not design.random_terms:
        raise DesignError(
            f"The formula {design.formula!r} has no random term, so it would take every cell for a replicate; "
            "add one for the donor, for instance (1 | donor_id)."
        )
