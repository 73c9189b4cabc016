"""Kernels that a formula names: as they are given, from entries of an AnnData, or from a stored result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from donorwise._core.design.binding import bind, by_name
from donorwise._core.design.formula import parse
from donorwise._core.design.terms import read_column
from donorwise._core.engine.kernel_tables import kernels_from
from donorwise._core.wording import listing
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from donorwise._anndata.read import Results
    from donorwise._core.design.formula import ParsedFormula


def with_kernels(
    adata: ad.AnnData,
    formula: str | ParsedFormula,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
) -> ParsedFormula:
    """A formula with the covariances that it names: those that are given, or entries of this name in ``obsp`` or ``uns``.

    The value of a kernel may be the name of such an entry, or an AnnData of donors that has it in its ``obsp`` or ``uns``.
    Rows and columns of one in ``obsp`` are those of obs, so that their names are the levels of the grouping factor, of which
    every row then has one of its own.

    Raises
    ------
    DesignError, DataError
        See :func:`donorwise._core.design.binding.bind`.
    """
    parsed = parse(formula)
    given, related = by_name(kernels, "kernels", "grm"), by_name(relmat, "relmat", "donor_id")
    if not (parsed.covs or given or related):
        return parsed
    unknown = [bar.cov for bar in parsed.bars if bar.cov and bar.kernel is None]
    given |= {name: name for name in unknown if name not in given and _has(adata, name)}
    groups = {bar.cov: bar.group for bar in parsed.bars if bar.cov}
    found = {name: _matrix(adata, name, value, groups.get(name, ())) for name, value in given.items()}
    own = {name: _matrix(adata, name, value, tuple(name.split(":"))) for name, value in related.items()}
    return bind(parsed, found, relmat=own, levels=levels)


def _matrix(adata: ad.AnnData, name: str, value: Any, group: tuple[str, ...]) -> Any:
    """A kernel as it is given, or the entry that it is the name of."""
    if isinstance(value, ad.AnnData):
        return _entry(value, name, group, "the AnnData of this kernel")
    return _entry(adata, value, group, "adata") if isinstance(value, str) else value


def _has(adata: ad.AnnData, name: str) -> bool:
    return name in adata.obsp or isinstance(adata.uns.get(name), pd.DataFrame)


def _entry(adata: ad.AnnData, name: str, group: tuple[str, ...], where: str) -> Any:
    """The matrix of an entry of ``obsp`` or ``uns``, with names."""
    if name in adata.obsp:
        values = adata.obsp[name]
        labels = _labels(adata, name, group, where)
        return pd.DataFrame(np.asarray(values.toarray() if hasattr(values, "toarray") else values), labels, labels)
    if name not in adata.uns:
        there = [*adata.obsp, *(key for key, value in adata.uns.items() if isinstance(value, pd.DataFrame))]
        raise DataError(
            f"There is no kernel {name!r} in obsp or uns of {where} ({listing(there) or 'they hold no square tables'}); "
            "give the matrix itself, or the name of the entry that has it."
        )
    return adata.uns[name]


def _labels(adata: ad.AnnData, name: str, group: tuple[str, ...], where: str) -> list[str]:
    """Levels of the grouping factor of the rows of obs; their names where obs has no such column."""
    if len(group) == 1 and group[0] not in adata.obs.columns:
        return list(map(str, adata.obs_names))
    missing = [column for column in group if column not in adata.obs.columns]
    if missing:
        raise DataError(f"The grouping factor of the kernel {name!r} is no column of obs: {listing(missing)}.")
    columns = [read_column(adata.obs[column], column, categorical=True).astype(str) for column in group]
    labels = pd.Series([":".join(row) for row in zip(*columns, strict=True)], dtype=object)
    twice = labels[labels.duplicated()]
    if len(twice):
        raise DataError(
            f"obsp[{name!r}] of {where} has a row for each row of obs, and several of these are {twice.iloc[0]!r}: a kernel has one "
            f"row for each level. Keep it in an AnnData of donors and give that, kernels={{{name!r}: donors}}, or give a DataFrame "
            "whose names are the donors."
        )
    return list(labels)


def with_stored_kernels(formula: str, stored: Results) -> ParsedFormula:
    """The formula of a result, with its kernels."""
    parsed = parse(formula)
    return parsed if stored.kernels is None else parsed.with_kernels(kernels_from(stored.kernels))
