"""What every tool needs before the pass over the cells: responses, obs, weights, one design per group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from donorwise._anndata import check_is_anndata, find_roles, obs_frame, resolve_response
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
        The column that is declared (or known by its name) to be the donor; empty for neither.
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
    return Prepared(formula, response, obs, w, tasks, _donor(adata, tasks))


def _donor(adata: ad.AnnData, tasks: Sequence[Task]) -> str:
    """The column declared as the donor, or the one guessed where the formula uses it; empty for neither."""
    role = find_roles(adata).get("donor")
    terms = [term for t in tasks if t.design is not None for term in t.design.random_terms]
    if role is None or (role.guessed and not any(role.column in term.group.split(":") for term in terms)):
        return ""
    return role.column


def _check_random(tasks: Sequence[Task]) -> None:
    design = next(t.design for t in tasks if t.design is not None)
    if not design.random_terms:
        raise DesignError(
            f"The formula {design.formula!r} has no random term, so it would take every cell for a replicate; "
            "add one for the donor, for instance (1 | donor_id)."
        )
