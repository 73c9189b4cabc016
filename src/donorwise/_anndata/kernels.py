"""Kernels that a formula names: as they are given, from entries of an AnnData, or from a stored result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.binding import bind
from donorwise._core.design.formula import parse
from donorwise._core.engine.kernel_tables import kernels_from
from donorwise._core.wording import listing
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad

    from donorwise._anndata.read import Results
    from donorwise._core.design.formula import ParsedFormula


def with_kernels(
    adata: ad.AnnData,
    formula: str | ParsedFormula,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
) -> ParsedFormula:
    """A formula with the covariances that it names: those that are given, or entries of this name in ``obsp`` or ``uns``.

    The value of a kernel may be the name of such an entry. Rows and columns of one in ``obsp`` are those of obs, so that
    their names are the levels of the grouping factor, of which every row then has one of its own.

    Raises
    ------
    DesignError, DataError
        See :func:`donorwise._core.design.binding.bind`.
    """
    parsed = parse(formula)
    if not (parsed.covs or kernels or relmat):
        return parsed
    given = dict(kernels or {})
    given |= {name: name for name in parsed.covs if name not in given and _has(adata, name)}
    groups = {bar.cov: bar.group for bar in parsed.bars if bar.cov}
    found = {
        name: _entry(adata, value, groups.get(name, ())) if isinstance(value, str) else value
        for name, value in given.items()
    }
    related = {group: _entry(adata, v, (group,)) if isinstance(v, str) else v for group, v in (relmat or {}).items()}
    return bind(parsed, found, relmat=related)


def _has(adata: ad.AnnData, name: str) -> bool:
    return name in adata.obsp or isinstance(adata.uns.get(name), pd.DataFrame)


def _entry(adata: ad.AnnData, name: str, group: tuple[str, ...]) -> Any:
    """The matrix of an entry of ``obsp`` or ``uns``, with names."""
    if name in adata.obsp:
        values = adata.obsp[name]
        labels = _labels(adata, name, group)
        return pd.DataFrame(np.asarray(values.toarray() if hasattr(values, "toarray") else values), labels, labels)
    if name not in adata.uns:
        there = [*adata.obsp, *(key for key, value in adata.uns.items() if isinstance(value, pd.DataFrame))]
        raise DataError(
            f"There is no kernel {name!r} in adata.obsp or adata.uns ({listing(there) or 'they hold no square tables'}); "
            "give the matrix itself, or the name of the entry that has it."
        )
    return adata.uns[name]


def _labels(adata: ad.AnnData, name: str, group: tuple[str, ...]) -> list[str]:
    """Levels of the grouping factor of the rows of obs."""
    missing = [column for column in group if column not in adata.obs.columns]
    if missing:
        raise DataError(f"The grouping factor of the kernel {name!r} is no column of obs: {listing(missing)}.")
    labels = adata.obs[list(group)].astype(str).agg(":".join, axis=1)
    if labels.duplicated().any():
        raise DataError(
            f"adata.obsp[{name!r}] has a row for each row of obs, and several of these are {labels[labels.duplicated()].iloc[0]!r}: "
            "a kernel has one row for each level. Keep it in an AnnData of donors, or give a DataFrame whose names are the donors."
        )
    return list(labels)


def with_stored_kernels(formula: str, stored: Results) -> ParsedFormula:
    """The formula of a result, with its kernels."""
    parsed = parse(formula)
    return parsed if stored.kernels is None else parsed.with_kernels(kernels_from(stored.kernels))
