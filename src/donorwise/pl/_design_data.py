"""What the picture of a design shows: the cells of every donor, and what goes with the condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._anndata import cell_frame, check_obs_columns, find_roles, obs_frame
from donorwise._core.wording import listing
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._core.design.audit import Audit
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._typing import BoolArray, IntArray

MOST_LEVELS = 12
"""A column with more levels is no condition, and no covariate to draw."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Columns of obs by what they are in the picture; empty for none."""

    donor: str
    condition: str
    cell_type: str
    covariates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Covariate:
    """One further column.

    Attributes
    ----------
    name, levels
        The column and its levels.
    n_cells
        Shape (D, levels). Cells of each donor.
    confined
        Shape (levels,). Whether a level occurs in one level of the condition only.
    between
        Whether every donor has one level.
    """

    name: str
    levels: tuple[str, ...]
    n_cells: IntArray
    confined: BoolArray
    between: bool

    @property
    def inside(self) -> bool:
        """Whether its levels are parts of donors, such as samples."""
        return not self.between and bool(((self.n_cells > 0).sum(axis=0) <= 1).all())

    @property
    def confounded(self) -> bool:
        """Whether it tells the condition of every cell."""
        return bool(self.confined.all()) and len(self.levels) > 1


@dataclass(frozen=True, slots=True)
class Cohort:
    """D donors in the order of the rows.

    Attributes
    ----------
    roles
        Columns.
    donors
        Their names.
    blocks
        Shape (D,). Donors with cells of the same levels of the condition are one block; ascending.
    arms, cell_types
        Levels of the condition and the cell types; ``("",)`` without them.
    n_cells
        Shape (D, cell types, arms).
    covariates
        Further columns.
    """

    roles: Roles
    donors: tuple[str, ...]
    blocks: IntArray
    arms: tuple[str, ...]
    cell_types: tuple[str, ...]
    n_cells: IntArray
    covariates: tuple[Covariate, ...]

    @property
    def within(self) -> bool:
        """Whether some donor has cells of several levels of the condition."""
        return bool((self.has_arm.sum(axis=1) > 1).any())

    @property
    def has_arm(self) -> BoolArray:
        """Shape (D, arms). Whether a donor has cells of a level."""
        return np.asarray(self.n_cells.sum(axis=1) > 0)

    def empty(self) -> BoolArray:
        """Shape (cell types, arms). Combinations without any cell."""
        return np.asarray(self.n_cells.sum(axis=0) == 0)


def find_columns(
    adata: ad.AnnData, parsed: ParsedFormula | None, audit: Audit | None, *, condition: str | None, cell_type: str | None,
    covariates: str | Sequence[str] | None,
) -> Roles:  # fmt: skip
    """Name the columns: as given, else as declared, else as the formula (which `audit` is about) has them.

    Raises
    ------
    DesignError
        A column is not in obs, or no column is known to be the donor.
    """
    roles = {name: role.column for name, role in find_roles(adata).items() if role.column}
    covariates = [covariates] if isinstance(covariates, str) else covariates
    read, grouping = ([], []) if parsed is None else (parsed.variables, parsed.groups)
    check_obs_columns(adata, [*read, *grouping, *(covariates or ()), *(c for c in (condition, cell_type) if c)])
    # of a nested factor, the last column
    donor = (audit.donor.split(":")[-1] if audit else "") or roles.get("donor", "")
    if not donor:
        raise DesignError("Which column of obs is the donor? Declare it with adata.donorwise.setup(donor=...).")
    cell_type = roles.get("cell_type", "") if cell_type is None else cell_type
    labels = [v for v in read if v not in (donor, cell_type) and _is_labels(adata, v)]
    if condition is None:
        condition = roles.get("condition") or next(iter(labels), "")
    if covariates is None:
        covariates = [*labels, *grouping, *([roles["batch"]] if "batch" in roles else [])]
    others = dict.fromkeys(c for c in covariates if c not in (donor, condition, cell_type))
    return Roles(donor, condition, cell_type, tuple(others))


def tabulate(adata: ad.AnnData, roles: Roles) -> Cohort:
    """Count the cells.

    Raises
    ------
    DesignError, DataError
        A column is not there, is no column of labels, or no cell has all of them.
    """
    named = [roles.donor, roles.condition, roles.cell_type]
    obs = cell_frame(adata, list(dict.fromkeys(c for c in (*named, *roles.covariates) if c)))
    obs = obs.dropna(subset=[c for c in named if c])
    if obs.empty:
        raise DataError(f"Every cell misses a value in one of {listing(c for c in named if c)}.")
    donor, donors = _codes(obs, roles.donor)
    arm, arms = _codes(obs, roles.condition)
    kind, cell_types = _codes(obs, roles.cell_type)
    if len(arms) > MOST_LEVELS:
        raise DesignError(f"condition={roles.condition!r} has {len(arms):,} values: name a column with a few levels.")
    n_cells = np.zeros((len(donors), len(cell_types), len(arms)), dtype=np.int64)
    np.add.at(n_cells, (donor, kind, arm), 1)
    found = [_covariate(obs, name, donor, arm, len(donors)) for name in roles.covariates]
    extra = tuple(c for c in found if 1 < len(c.levels) <= MOST_LEVELS and not c.inside)
    order, blocks = _order(n_cells, extra)
    return Cohort(
        roles, tuple(donors[i] for i in order), blocks, arms, cell_types, n_cells[order],
        tuple(Covariate(c.name, c.levels, c.n_cells[order], c.confined, c.between) for c in extra),
    )  # fmt: skip


def flags(cohort: Cohort) -> list[str]:
    """What the table itself shows to be confounded or empty, a sentence each."""
    condition, found = cohort.roles.condition, []
    for covariate in cohort.covariates:
        if covariate.confounded:
            found.append(
                f"`{covariate.name}`: every level with one level of `{condition}` only; as fixed effects the two cannot be "
                "told apart."
            )
        elif covariate.confined.any():
            alone = [level for level, only in zip(covariate.levels, covariate.confined, strict=True) if only]
            found.append(f"`{covariate.name}` {', '.join(alone)}: with one level of `{condition}` only.")
    for i, j in zip(*np.nonzero(cohort.empty()), strict=True):
        where = f" of {cohort.cell_types[i]!r}" if cohort.roles.cell_type else ""
        found.append(f"No cell{where} has `{condition}` {cohort.arms[j]}.")
    return found


def _is_labels(adata: ad.AnnData, column: str) -> bool:
    """Whether a variable of a formula is an arm or the like, and no number."""
    values = obs_frame(adata, [column])[column]
    return values.nunique() <= 2 or not pd.api.types.is_numeric_dtype(values)


def _codes(obs: pd.DataFrame, column: str) -> tuple[IntArray, tuple[str, ...]]:
    """Codes and names of the levels that occur; one level without a name where there is no column."""
    if not column:
        return np.zeros(len(obs), dtype=np.int64), ("",)
    values = obs[column].astype("category").cat.remove_unused_categories()
    return values.cat.codes.to_numpy(dtype=np.int64), tuple(map(str, values.cat.categories))


def _covariate(obs: pd.DataFrame, name: str, donor: IntArray, arm: IntArray, n_donors: int) -> Covariate:
    code, levels = _codes(obs, name)
    known = code >= 0
    n_cells = np.zeros((n_donors, len(levels)), dtype=np.int64)
    np.add.at(n_cells, (donor[known], code[known]), 1)
    pairs = pd.DataFrame({"level": code[known], "arm": arm[known]}).drop_duplicates()
    n_arms = np.bincount(pairs["level"], minlength=len(levels))
    confined = (n_arms == 1) & (len(np.unique(arm)) > 1)
    return Covariate(name, levels, n_cells, confined, bool(((n_cells > 0).sum(axis=1) <= 1).all()))


def _order(n_cells: IntArray, covariates: Sequence[Covariate]) -> tuple[IntArray, IntArray]:
    """Rows by the arms of the donors, then by the levels of covariates between donors; and the block of each."""
    has = n_cells.sum(axis=1) > 0
    first = np.argmax(has, axis=1)
    keys = [has.sum(axis=1) > 1, first, *(~has[:, j] for j in range(has.shape[1]))]
    keys += [np.argmax(c.n_cells, axis=1) for c in covariates if c.between]
    order = np.lexsort(keys[::-1])
    change = np.any(np.diff(has[order].astype(np.int64), axis=0) != 0, axis=1)
    return order, np.concatenate([[0], np.cumsum(change)])
