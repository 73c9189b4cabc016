"""Cohorts that were collapsed in different places, as one."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import check_is_anndata, is_collapsed, read_origin
from donorwise._anndata.collapsed import Contents, Counts, MeanDepths, make_collapsed, read_parts, with_counts_dropped
from donorwise._anndata.collapsed_counts import kept_families
from donorwise._anndata.identity import check_rows
from donorwise._anndata.origin import DEPTH, Origin, kept_uns
from donorwise._anndata.roles import find_roles
from donorwise._core.cells.collapsed_rows import CollapsedRows, RowCells, concatenate, merge_rows, without_abundance
from donorwise._core.cells.counted_rows import merge_counted
from donorwise._core.design.design import combine, first_rows
from donorwise._core.design.terms import label_codes
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import anndata as ad

    from donorwise._typing import FloatArray, IntArray

logger = logging.getLogger("donorwise")


def merge_collapsed(adatas: Iterable[ad.AnnData]) -> ad.AnnData:
    """Merge collapsed cohorts exactly, as if their cells had been collapsed together.

    Parameters
    ----------
    adatas
        Results of :func:`donorwise.pp.collapse` by the same columns. Donors of different cohorts that are
        called the same are taken for one donor.

    Returns
    -------
    AnnData as :func:`donorwise.pp.collapse` makes it. Rows with the same values of the columns are one
    row (sums of squares by the rule of Chan, Golub and LeVeque 1983); the others are appended. Features
    are those that all cohorts have, in the order of the first: the log says how many were left out, and
    ``uns["donorwise_collapsed"]["dropped"]`` has their names. A row has one number of cells for all its
    features, so a feature that some cohorts lack needs a merge of the others, and ``mask_var=`` there.
    Levels of the columns are united: in alphabetical order where those of every cohort are, else those of
    the first and then what others add. Counts and depths are kept where all cohorts have them.

    Raises
    ------
    DataError
        The cohorts were collapsed by other columns or covariates, their values are on different scales,
        some have weights and others have none, they share no feature, or two of them are made of the same cells.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_cells=1200, n_genes=50, seed=1)
    >>> by = ["donor_id", "condition", "cell_type"]
    >>> halves = [dw.pp.collapse(adata[i::2], by) for i in range(2)]
    >>> dw.pp.merge_collapsed(halves).obs["n_cells"].equals(dw.pp.collapse(adata, by).obs["n_cells"])
    True
    """
    cohorts = list(adatas)
    merged = merge_cohorts(cohorts)
    say_shared_donors(cohorts)
    return merged


def merge_cohorts(cohorts: Sequence[ad.AnnData]) -> ad.AnnData:
    """Merge cohorts, or parts of one, without a word on donors that several of them have."""
    return merge_features(cohorts, *check_cohorts(cohorts))


def say_shared_donors(cohorts: Sequence[ad.AnnData]) -> None:
    """Log which donors several cohorts have: the same people, or names that start again."""
    role = find_roles(cohorts[0]).get("donor")
    if role is None or role.column not in read_origin(cohorts[0]).by:
        return
    n = pd.Series([str(name) for own in cohorts for name in own.obs[role.column].dropna().unique()]).value_counts()
    shared = sorted(n.index[n > 1])
    if shared:
        logger.warning(
            "%d of %d donors (`%s`) are in several cohorts (%s%s) and count as one donor each. If names start again in each "
            "cohort these are different people: make them unique before dw.pp.collapse, as in obs[%r] = \"cohort1_\" + "
            "obs[%r].astype(str).", len(shared), n.size, role.column, ", ".join(shared[:5]),
            ", ..." if len(shared) > 5 else "", role.column, role.column,
        )  # fmt: skip


def check_cohorts(
    cohorts: Sequence[ad.AnnData], names: Sequence[str] | None = None
) -> tuple[list[str], tuple[str, ...]]:
    """Return the features that all cohorts have, and those that some lack; log what a merge leaves out.

    `names` are those of the cohorts, for messages.

    Raises
    ------
    DataError
        See :func:`merge_collapsed`.
    """
    if not cohorts:
        raise DataError("There is nothing to merge: give a list of collapsed AnnData.")
    for adata in cohorts:
        check_is_anndata(adata)
        if not is_collapsed(adata):
            raise DataError("dw.pp.merge_collapsed takes results of dw.pp.collapse; collapse the cells first.")
        if not adata.var_names.is_unique:
            raise DataError("Names of features repeat; call var_names_make_unique() before collapsing.")
    origins = [read_origin(adata) for adata in cohorts]
    for other in origins[1:]:
        _check_alike(origins[0], other)
    counts, depths = ([own.counts_layer is not None for own in origins], [DEPTH in adata.obs for adata in cohorts])
    if any(counts) and not all(counts):
        logger.warning("Not all cohorts were collapsed with counts_layer=: the counts are left out.")
    columns = list(dict.fromkeys(own.depth for own in origins if own.depth))
    if len(columns) > 1:
        logger.warning(
            "The depth of cells, which is the exposure of their counts, is another column in some cohorts (%s): rates are "
            "compared as if these were one.", ", ".join(map(repr, columns)),
        )  # fmt: skip
    families = [kind for adata in cohorts for kind in kept_families(adata)]
    for kind in (kind for kind in dict.fromkeys(families) if families.count(kind) < len(cohorts)):
        logger.warning("Not all cohorts were collapsed with glmm=%r: what it keeps is left out.", kind)
    if any(depths) and not all(depths):
        logger.warning("The sequencing depth of some cohorts is not known: the audit will not look at it.")
    shared = _shared_features(cohorts)
    check_rows(cohorts, names or [f"cohort {k}" for k in range(1, len(cohorts) + 1)])
    return shared


def merge_features(cohorts: Sequence[ad.AnnData], names: Sequence[str], dropped: Sequence[str]) -> ad.AnnData:
    """Merge some features of cohorts that go together; `dropped` are those that the merge of all leaves out."""
    origins = [read_origin(adata) for adata in cohorts]
    parts, origin = _without_some([read_parts(adata[:, list(names)]) for adata in cohorts], origins)
    dropped = tuple(dict.fromkeys([*(name for own in origins for name in own.dropped), *dropped]))
    cells = tuple(dict.fromkeys(text for own in origins for text in own.cells))
    origin = replace(
        origin, dropped=dropped, cells=cells, looks_like_counts=all(own.looks_like_counts for own in origins)
    )
    uns = {k: v for adata in reversed(cohorts) for k, v in kept_uns(adata, origin.by).items()}
    return make_collapsed(_merged(parts, origin), origin, uns)


def _check_alike(one: Origin, other: Origin) -> None:
    """Raise unless rows of both mean the same."""
    for what in ("by", "covariates"):
        a, b = getattr(one, what), getattr(other, what)
        if set(a) != set(b):
            raise DataError(
                f"The cohorts were collapsed with {what}={list(a)} and {what}={list(b)}: use the same for all."
            )
    if not (one.scale or other.scale or np.isclose(one.log_base, other.log_base, equal_nan=True)):
        texts = [
            "no logarithm" if np.isnan(base) else f"logarithms to base {base:.6g}"
            for base in (one.log_base, other.log_base)
        ]
        raise DataError(
            f"The values of the cohorts are on different scales: {texts[0]} and {texts[1]}, as uns['log1p'] told. "
            "Normalise them alike before collapsing."
        )
    if bool(one.weights) != bool(other.weights):
        raise DataError("Some cohorts were collapsed with weights= and others without: their cells do not count alike.")
    if one.depth is not None and other.depth is not None and bool(one.depth) != bool(other.depth):
        raise DataError("The depth of cells is a column of obs in some cohorts and the sum of the counts in others.")


def _shared_features(cohorts: Sequence[ad.AnnData]) -> tuple[list[str], tuple[str, ...]]:
    """Features of all cohorts, and those that some of them lack."""
    every = list(dict.fromkeys(name for adata in cohorts for name in adata.var_names))
    shared = set(cohorts[0].var_names).intersection(*(adata.var_names for adata in cohorts[1:]))
    if not shared:
        raise DataError("The cohorts share no feature; are their var_names of the same kind?")
    dropped = tuple(name for name in every if name not in shared)
    if dropped:
        lacking = [(k, len(every) - adata.n_vars) for k, adata in enumerate(cohorts, start=1)]
        logger.warning(
            "%s features that not all cohorts have are left out (%s%s); %s remain. Lacking: %s.", f"{len(dropped):,}",
            ", ".join(dropped[:5]), ", ..." if len(dropped) > 5 else "", f"{len(shared):,}",
            ", ".join(f"{n:,} in cohort {k}" for k, n in lacking if n),
        )  # fmt: skip
    return [name for name in cohorts[0].var_names if name in shared], dropped


def _without_some(parts: list[Contents], origins: Sequence[Origin]) -> tuple[list[Contents], Origin]:
    """Drop counts, depths and abundances unless all cohorts have them; the first cohort's origin."""
    origin = origins[0]
    if scale := next((own.scale for own in origins if own.scale), ""):
        origin = replace(origin, scale=scale, log_base=float("nan"))
    if scale or any(own.rows.values.abundance.size == 0 for own in parts):
        parts = [replace(own, rows=without_abundance(own.rows)) for own in parts]
    if any(own.counts is None for own in parts) and any(own.counts is not None for own in parts):
        parts = [with_counts_dropped(own, origin)[0] for own in parts]
        _, origin = with_counts_dropped(parts[0], origin)
    kept = [kind for kind in parts[0].counted if all(kind in own.counted for own in parts)]
    parts = [replace(own, counted={kind: own.counted[kind] for kind in kept}) for own in parts]
    if any(own.depths is None for own in parts) and any(own.depths is not None for own in parts):
        parts = [replace(own, depths=None) for own in parts]
    return parts, origin


def _merged(parts: Sequence[Contents], origin: Origin) -> Contents:
    """All rows, those with equal columns as one."""
    obs = pd.DataFrame({name: _united([own.obs[name] for own in parts], name) for name in origin.by})
    codes, n = combine([label_codes(obs[name]) for name in origin.by], len(obs))
    first = first_rows(codes, n)
    # Order of the covariates is that of the first cohort; see the same names in _check_alike.
    rows = [_ordered(own.rows, origin.covariates) for own in parts]
    values = merge_rows(concatenate([own.values for own in rows]), codes, n)
    return Contents(
        obs=obs.iloc[first].reset_index(drop=True),
        var=parts[0].var,
        rows=CollapsedRows.of(_merged_cells([own.cells for own in rows], codes, n), values),
        detected=_sums(np.concatenate([own.detected for own in parts]), codes, n),
        counts=_merged_counts([own.counts for own in parts], codes, n),
        depths=_merged_depths([own.depths for own in parts], codes, n),
        counted={
            kind: merge_counted([own.counted[kind] for own in parts], codes, n, kind) for kind in parts[0].counted
        },
    )


def _ordered(rows: CollapsedRows, names: tuple[str, ...]) -> CollapsedRows:
    at = [rows.cells.covariates.index(name) for name in names]
    values = replace(
        rows.values,
        covariate_mean=rows.values.covariate_mean[:, at],
        covariate_ss=rows.values.covariate_ss[:, at][:, :, at],
        covariate_y=rows.values.covariate_y[:, at],
    )
    return CollapsedRows.of(rows.cells.take_covariates(names), values)


def _united(columns: Sequence[pd.Series], name: str) -> Any:
    """Values of all cohorts, with the levels of the first and then what others add."""
    labelled = [isinstance(column.dtype, pd.CategoricalDtype) for column in columns]
    if not any(labelled):
        kinds = {pd.api.types.is_bool_dtype(column.dtype) for column in columns}
        if len(kinds) > 1:
            raise DataError(f"{name!r} is boolean in some cohorts and numeric in others; make it the same in all.")
        return pd.concat(columns, ignore_index=True)
    if not all(labelled):
        raise DataError(f"{name!r} is categorical in some cohorts and numeric in others; make it the same in all.")
    levels = list(dict.fromkeys(level for column in columns for level in column.cat.categories))
    if len(set(map(str, levels))) < len(levels):
        raise DataError(f"Levels of {name!r} are text in some cohorts and numbers in others; make them the same.")
    if all(column.cat.categories.is_monotonic_increasing for column in columns):
        levels.sort()  # or the reference of a formula would hang on which cohort comes first
    ordered = all(column.cat.ordered and list(column.cat.categories) == levels for column in columns)
    values = [value for column in columns for value in column.astype(object)]
    return pd.Categorical(values, categories=levels, ordered=ordered)


def _sums(values: FloatArray, codes: IntArray, n: int) -> FloatArray:
    out = np.zeros((n, *values.shape[1:]))
    np.add.at(out, codes, values)
    return out


def _merged_cells(cells: Sequence[RowCells], codes: IntArray, n: int) -> RowCells:
    merged = merge_rows(concatenate([own.unweighted() for own in cells]), codes, n)
    return RowCells(merged.n_obs, cells[0].covariates, merged.covariate_mean, merged.covariate_ss)


def _merged_counts(counts: Sequence[Counts | None], codes: IntArray, n: int) -> Counts | None:
    known = [own for own in counts if own is not None]
    if len(known) < len(counts):
        return None
    values = merge_rows(concatenate([own.values for own in known]), codes, n)
    return Counts(values, _sums(np.concatenate([own.cubes for own in known]), codes, n))


def _merged_depths(depths: Sequence[MeanDepths | None], codes: IntArray, n: int) -> MeanDepths | None:
    known = [own for own in depths if own is not None]
    if len(known) < len(depths):
        return None
    usable = np.concatenate([own.n for own in known])
    total = _sums(usable * np.concatenate([own.mean for own in known]), codes, n)
    number = np.rint(_sums(usable.astype(np.float64), codes, n)).astype(np.int64)
    return MeanDepths(total / np.maximum(number, 1), number)
