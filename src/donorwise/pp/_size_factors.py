"""Depths that are comparable whatever the counts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from donorwise._anndata import (
    check_free,
    check_is_anndata,
    copied,
    count_depth,
    find_roles,
    is_collapsed,
    keys,
    obs_frame,
    resolve_response,
    write_tables,
)
from donorwise._core.cells.collapse import accumulate
from donorwise._core.cells.moments import ADDED
from donorwise._core.cells.size_factors import METHODS, MIN_EXPECTED
from donorwise._core.cells.size_factors import size_factors as compare
from donorwise._core.design.design import combine, first_rows
from donorwise._core.design.terms import label_codes, read_column
from donorwise._core.engine.groups import group_columns, group_labels, stored_columns
from donorwise._core.engine.pseudobulk import check_counts, tell_uncorrected
from donorwise._docs import documented
from donorwise._typing import ALL, check_option
from donorwise.errors import DataError, DesignError, DonorwiseError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._anndata import Response
    from donorwise._typing import FloatArray, GroupBy, IntArray

UNIT_ROLES = ("donor", "sample", "condition")
"""Roles whose columns tell units apart where `by` is not given."""


@documented
def size_factors(
    adata: ad.AnnData,
    method: Literal["tmm", "median_ratio", "depth"] = "tmm",
    *,
    by: str | Sequence[str] | None = None,
    groupby: GroupBy = None,
    layer: str | None = "counts",
    depth: str | None = None,
    min_expected: float = MIN_EXPECTED,
    key_added: str = "effective_depth",
    copy: bool = False,
) -> ad.AnnData | None:
    """Make depths comparable between donors (or their samples), whatever their counts are made of.

    Counts are shares of a cell's depth. Where some genes respond strongly, all others have a smaller share, and look
    "down" although nothing happened to them. So counts are summed over the cells of every unit, units of a group are
    compared gene by gene, and what most genes have in common becomes a factor of the unit's depth.

    :func:`donorwise.tl.pseudobulk` does this itself (``normalize=``). For :func:`donorwise.tl.lmm` normalise the values by
    the effective depth, and take :func:`donorwise.pp.log_depth` of it::

        dw.pp.size_factors(adata)
        adata.X = adata.layers["counts"].multiply(1e4 / adata.obs["effective_depth"].to_numpy()[:, None]).tocsr()
        sc.pp.log1p(adata)
        dw.pp.log_depth(adata, obs_key="effective_depth")

    Parameters
    ----------
    adata
        Cells x genes, all genes that were counted.
    method
        ``"tmm"``: trimmed mean of M-values (Robinson and Oshlack 2010, Genome Biology 11:R25), as edgeR's
        ``calcNormFactors``. ``"median_ratio"``: median of ratios (Anders and Huber 2010, Genome Biology 11:R106), as
        DESeq2. ``"depth"``: factors of one.
    by
        Columns of obs whose combinations are the units. None: those that are declared or known to hold the donor, the
        sample and the condition, and `groupby`. Name all that may differ in composition: a donor's control and stimulated
        cells in one unit have one factor.
    groupby
        Column of obs, such as the cell type, or several: units are compared within its groups. None takes the column that
        is declared or known to hold the cell type, unless `by` is given without it.
    {layer_counts}
    {depth}
    min_expected
        Counts that a gene is expected to have in a unit, from its mean share, to be used for its factor. Genes that are
        counted by chance would make the factors of shallow units too large. With 0, ``"tmm"`` is what edgeR gives for
        genes that were not filtered.
    key_added
        Column of obs for the effective depths, and entry of ``uns`` for the table of units.
    {copy}

    Returns
    -------
    None, or the copy.

    - ``adata.obs[key_added]``: depth of the cell times the factor of its unit; the depth where a column of `by` is missing.
    - ``adata.uns[key_added]["size_factors"]``: one row per unit, with the columns of `by` and `groupby`, `n_cells`,
      `depth` (summed over its cells), `factor` (what its depth is multiplied by, as edgeR's ``norm.factors``; they multiply
      to one within a group) and `size_factor` (its effective depth over the geometric mean of the group's, as DESeq2's
      ``sizeFactors``).

    Raises
    ------
    DesignError
        A column is not there, or which one is the donor is not known.
    DataError
        The layer does not hold raw counts, depths cannot be used, or the rows are collapsed.

    Notes
    -----
    Units keep their depth (a factor of one) where they have counts in fewer than 100 genes that they can be compared in,
    which the log says; so do all units of a group where most have, and of a panel of fewer than 100 genes, where those that
    respond may be the most.

    The median of ratios is over genes with counts in every unit. Where there are fewer than 100 of these, it is over
    those expected in the unit, relative to their mean share.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=1200, n_genes=400, seed=1)
    >>> dw.pp.size_factors(adata)
    >>> adata.uns["effective_depth"]["size_factors"].columns.tolist()
    ['donor_id', 'sample_id', 'cell_type', 'n_cells', 'depth', 'factor', 'size_factor']
    >>> dw.pp.log_depth(adata, obs_key="effective_depth")
    """
    check_is_anndata(adata)
    check_option("method", method, METHODS)
    check_free(adata, key_added)
    if not min_expected >= 0:
        raise DonorwiseError(f"min_expected={min_expected!r} must be a number of counts, 0 or more.")
    if copy:
        adata = copied(adata)
    response = counts_of_cells(adata, layer)
    found = find_factors(
        adata, response, count_depth(adata, response, depth), method, by=by, groupby=groupby, min_expected=min_expected
    )
    write_tables(
        adata, key_added, tables={keys.SIZE_FACTORS: found.table},
        params={
            "method": method,
            "by": list(found.by),
            "groupby": stored_columns(found.groupby),
            "response": response.text,
            "depth": depth or "",
            "min_expected": float(min_expected),
        },
    )  # fmt: skip
    adata.obs[key_added] = pd.Series(found.effective_depth, index=adata.obs_names)
    return adata if copy else None


@dataclass(frozen=True, slots=True)
class CellFactors:
    """Effective depths (N,) of cells, the table of their units, and the columns of the units and of the groups."""

    effective_depth: FloatArray
    table: pd.DataFrame
    by: tuple[str, ...]
    groupby: tuple[str, ...]


def check_cells(adata: ad.AnnData) -> None:
    """Raise where rows are not cells."""
    if is_collapsed(adata):
        raise DataError(
            "These are collapsed rows, and depths belong to cells: call this before dw.pp.collapse, and name the new column "
            "in covariates= there (`donorwise collapse --log-depth` does both). dw.tl.pseudobulk normalises collapsed counts itself."
        )


def counts_of_cells(adata: ad.AnnData, layer: str | None) -> Response:
    """The matrix of counts of cells, checked.

    Raises
    ------
    DataError
        It does not hold raw counts, or its rows are not cells.
    """
    check_cells(adata)
    response = resolve_response(adata, layer=layer)
    check_counts(response.matrix, response.text)
    return response


def find_factors(
    adata: ad.AnnData,
    response: Response,
    depth: FloatArray,
    method: str,
    *,
    by: str | Sequence[str] | None,
    groupby: GroupBy,
    min_expected: float = MIN_EXPECTED,
) -> CellFactors:
    """Compare the units of every group, from one pass over the counts; see :func:`size_factors`."""
    units, group = _columns(adata, by, groupby)
    names = list(dict.fromkeys([*units, *group]))
    codes, table = _units(obs_frame(adata, names), names)
    used, n = codes >= 0, len(table)
    (sums,) = accumulate(response.matrix, codes, n, (ADDED,), n_jobs=None)
    total = np.bincount(codes[used], weights=depth[used], minlength=n).astype(np.float64)
    groups = group_labels(table, group) if group else pd.Categorical(np.full(n, ALL))
    factor, size, notes = np.ones(n), np.ones(n), {}
    for code, name in enumerate(groups.categories):
        own = np.flatnonzero((groups.codes == code) & (total > 0))
        found = compare(sums.total[own, 0], total[own], method, min_expected=min_expected)
        factor[own], notes[name] = found.values, found.note
        effective = total[own] * found.values
        size[own] = effective / np.exp(np.log(effective).mean())
    tell_uncorrected(method, notes, by_group=bool(group))
    table = table.assign(
        n_cells=np.bincount(codes[used], minlength=n),
        depth=total,
        factor=factor,
        size_factor=np.where(total > 0, size, 0.0),
    )
    return CellFactors(np.where(used, depth * factor[codes], depth), table, tuple(units), group)


def _columns(adata: ad.AnnData, by: str | Sequence[str] | None, groupby: GroupBy) -> tuple[list[str], tuple[str, ...]]:
    """Columns of the units, and of the groups."""
    roles = {name: role.column for name, role in find_roles(adata).items()}
    given, cell_type = group_columns(groupby), roles.get("cell_type", "")
    if by is not None:
        units = [by] if isinstance(by, str) else list(by)
        if not units:
            raise DesignError("by= names no column: name the donor, and what splits it.")
        return units, given or ((cell_type,) if cell_type in units else ())
    if not roles.get("donor"):
        raise DesignError(
            "Which column of obs is the donor is not known: give by=, or declare it once with "
            "adata.donorwise.setup(donor=...)."
        )
    return [roles[name] for name in UNIT_ROLES if roles.get(name)], given or ((cell_type,) if cell_type else ())


def _units(obs: pd.DataFrame, names: Sequence[str]) -> tuple[IntArray, pd.DataFrame]:
    """The unit of every cell, -1 where a column is missing, and a row per unit."""
    columns = {name: read_column(obs[name], name, categorical=True) for name in names}
    whole = ~obs[list(names)].isna().any(axis=1).to_numpy()
    if not whole.any():
        raise DataError(f"Every cell misses a value in at least one of {', '.join(map(repr, names))}.")
    labels = [label_codes(column[whole]) for column in columns.values()]
    own, size = combine(labels, int(whole.sum()))
    codes = np.full(len(obs), -1, dtype=np.int64)
    codes[whole] = own
    rows = np.flatnonzero(whole)[first_rows(own, size)]
    return codes, pd.DataFrame({name: column.astype(str).to_numpy()[rows] for name, column in columns.items()})
