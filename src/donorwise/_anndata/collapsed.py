"""The statistics and cells behind the rows of a collapsed AnnData, read and laid out (its slots: `origin`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.collapsed_counts import counted_slots, read_counted_rows
from donorwise._anndata.obs import as_frame, check_obs_columns, obs_frame
from donorwise._anndata.origin import (
    ABUNDANCE,
    CELLS_MEAN,
    CELLS_SS,
    COLLAPSED,
    COUNT_DEPTH,
    COUNT_DEPTH_CUBES,
    COUNT_DEPTH_SS,
    COUNTS,
    COUNTS_DEPTH,
    COUNTS_SS,
    COVARIATE_Y,
    DEPTH,
    DETECTED,
    LOG_WEIGHT,
    MEAN,
    N_CELLS,
    N_DEPTH,
    SS,
    WEIGHT,
    WITHIN_SS,
    Origin,
    has_abundance,
    is_collapsed,
    origin_entry,
    read_origin,
)
from donorwise._anndata.slots import column_of, dense, some_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

    from donorwise._core.cells.collapsed_rows import CollapsedRows, RowCells
    from donorwise._core.cells.counted_rows import CountedRows
    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class MeanDepths:
    """Sequencing depth of the cells of K rows: mean over those that have one, and their number."""

    mean: FloatArray
    n: IntArray


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of the cells of K rows.

    Attributes
    ----------
    values
        Their statistics, unweighted, with the depth of the cells as the only covariate.
    cubes
        Shape (K,). Sum of the depths' cubes.
    """

    values: Collapsed
    cubes: FloatArray


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that an AnnData of K rows and G features holds.

    Attributes
    ----------
    obs, var
        Columns of `by`; the features.
    rows
        Statistics with weights, and the cells' unweighted moments of the covariates.
    detected
        Shape (K, G). Cells with a value above zero.
    counts, depths
        None where they are not known.
    counted
        What the counts leave for generalised models, by family.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    rows: CollapsedRows
    detected: FloatArray
    counts: Counts | None
    depths: MeanDepths | None
    counted: Mapping[str, CountedRows] = field(default_factory=dict)


def read_rows(adata: ad.AnnData, covariates: Sequence[str], *, abundance: bool) -> CollapsedRows:
    """The statistics with some of the covariates, and abundances if asked for; files are read when the rows are."""
    from donorwise._core.cells.collapsed_rows import CollapsedRows
    from donorwise._core.cells.measures import Collapsed

    origin = read_origin(adata)
    at = [origin.covariates.index(name) for name in covariates]
    mean, ss = _moments(adata, origin, MEAN, SS)
    known = Collapsed(
        n_obs=column_of(adata, N_CELLS).astype(np.int64),
        weight=column_of(adata, WEIGHT),
        log_weight=column_of(adata, LOG_WEIGHT),
        mean=np.zeros((adata.n_obs, 0)),
        within_ss=np.zeros((adata.n_obs, 0)),
        covariate_mean=mean[:, at],
        covariate_ss=ss[:, at][:, :, at],
        covariate_y=np.zeros((adata.n_obs, len(at), 0)),
        abundance=np.zeros((adata.n_obs, 0)),
    )

    def read(rows: IntArray | None, features: IntArray | None) -> Collapsed:
        own = known if rows is None else known.take(rows)
        crossed = [some_of(adata.layers[f"{COVARIATE_Y}{name}"], rows, features) for name in covariates]
        means = some_of(adata.X, rows, features)
        return replace(
            own,
            mean=means,
            within_ss=some_of(adata.layers[WITHIN_SS], rows, features),
            covariate_y=np.stack(crossed, axis=1) if crossed else np.zeros((len(means), 0, means.shape[1])),
            abundance=some_of(adata.layers[ABUNDANCE], rows, features) if abundance else means[:, :0],
        )

    return CollapsedRows(read_cells(adata).take_covariates(covariates), read)


def read_cells(adata: ad.AnnData) -> RowCells:
    """Read how many cells every row stands for, and the unweighted moments of their covariates."""
    from donorwise._core.cells.collapsed_rows import RowCells

    origin = read_origin(adata)
    names = (CELLS_MEAN, CELLS_SS) if CELLS_MEAN in adata.obsm else (MEAN, SS)
    return RowCells(column_of(adata, N_CELLS).astype(np.int64), origin.covariates, *_moments(adata, origin, *names))


def read_counts(adata: ad.AnnData) -> Counts | None:
    """Read the statistics of the counts, if there are any."""
    from donorwise._core.cells.measures import Collapsed

    if read_origin(adata).counts_layer is None:
        return None
    n = column_of(adata, N_CELLS)
    values = Collapsed(
        n_obs=n.astype(np.int64),
        weight=n,
        log_weight=np.zeros(n.size),
        mean=dense(adata.layers[COUNTS]) / n[:, None],
        within_ss=dense(adata.layers[COUNTS_SS]),
        covariate_mean=(column_of(adata, COUNT_DEPTH) / n)[:, None],
        covariate_ss=column_of(adata, COUNT_DEPTH_SS)[:, None, None],
        covariate_y=dense(adata.layers[COUNTS_DEPTH])[:, None],
        abundance=np.zeros((adata.n_obs, 0)),
    )
    return Counts(values, column_of(adata, COUNT_DEPTH_CUBES))


def read_parts(adata: ad.AnnData) -> Contents:
    """Read everything."""
    origin = read_origin(adata)
    depths = None
    if DEPTH in adata.obs.columns:
        depths = MeanDepths(column_of(adata, DEPTH), column_of(adata, N_DEPTH).astype(np.int64))
    return Contents(
        obs=obs_frame(adata, list(origin.by)),
        var=as_frame(adata.var),
        rows=read_rows(adata, origin.covariates, abundance=has_abundance(adata)),
        detected=dense(adata.layers[DETECTED]),
        counts=read_counts(adata),
        depths=depths,
        counted=read_counted_rows(adata),
    )


def make_collapsed(parts: Contents, origin: Origin, uns: dict[str, Any]) -> ad.AnnData:
    """Lay out statistics as an AnnData; `uns` is what the cells' AnnData said about them."""
    import anndata as ad

    values, cells = parts.rows.values, parts.rows.cells
    obs = parts.obs.assign(**{N_CELLS: cells.n_cells, WEIGHT: values.weight, LOG_WEIGHT: values.log_weight})
    layers = {WITHIN_SS: values.within_ss, DETECTED: parts.detected}
    layers |= {ABUNDANCE: values.abundance} if values.abundance.shape == values.mean.shape else {}
    layers |= {f"{COVARIATE_Y}{name}": values.covariate_y[:, q] for q, name in enumerate(origin.covariates)}
    obsm = {}
    if origin.covariates:
        obsm = {MEAN: values.covariate_mean, SS: _flat(values.covariate_ss)}
        if origin.weights != keys.NO_WEIGHTS:
            obsm |= {CELLS_MEAN: cells.mean, CELLS_SS: _flat(cells.ss)}
    if parts.depths is not None:
        obs = obs.assign(**{DEPTH: parts.depths.mean, N_DEPTH: parts.depths.n})
    if parts.counts is not None:
        own = parts.counts.values
        n = own.n_obs[:, None]
        layers |= {COUNTS: np.rint(own.mean * n), COUNTS_SS: own.within_ss, COUNTS_DEPTH: own.covariate_y[:, 0]}
        obs = obs.assign(
            **{
                COUNT_DEPTH: own.covariate_mean[:, 0] * own.n_obs,
                COUNT_DEPTH_SS: own.covariate_ss[:, 0, 0],
                COUNT_DEPTH_CUBES: parts.counts.cubes,
            }
        )
    obs.index = _row_names(parts.obs)
    more_layers, more_obsm, entry = counted_slots(parts.counted)
    made = ad.AnnData(
        X=values.mean, obs=obs, var=parts.var, layers=layers | more_layers, obsm=obsm | more_obsm, uns=dict(uns)
    )
    made.uns[COLLAPSED] = origin_entry(origin) | entry
    return made


def cell_count(adata: ad.AnnData) -> int:
    """Number of cells: the rows, or those that the rows stand for."""
    return int(column_of(adata, N_CELLS).sum()) if is_collapsed(adata) else int(adata.n_obs)


def cell_frame(adata: ad.AnnData, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Columns of obs (all for None) with one row per cell.

    Cells behind collapsed rows have the columns of their row, and of a covariate numbers with its mean and
    cross-products within the row: enough for whatever is linear in it.
    """
    if not is_collapsed(adata):
        return obs_frame(adata, columns)
    origin, cells = read_origin(adata), read_cells(adata)
    names = list(origin.by if columns is None else columns)
    covariates = [name for name in origin.covariates if name in names]
    check_obs_columns(adata, [name for name in names if name not in covariates])
    frame = obs_frame(adata, [name for name in names if name not in covariates])
    frame = frame.iloc[cells.rows()].reset_index(drop=True)
    if covariates:
        frame[covariates] = cells.take_covariates(covariates).values()
    return frame[names]


def columns_read(
    adata: ad.AnnData, parsed: ParsedFormula, labels: Sequence[str], *, moments: bool = True
) -> list[str] | None:
    """Columns that a formula and `labels` read, checked against a collapse; None (all) for an AnnData of cells.

    `moments` says whether the model needs no more of a covariate than these.

    Raises
    ------
    DesignError
        A column was collapsed away, or more is asked of a covariate than moments can tell.
    """
    from donorwise._core.design.coarsen import check_formula

    if not is_collapsed(adata):
        return None
    origin = read_origin(adata)
    return check_formula(parsed, labels, origin.by, origin.covariates, moments=moments)


def collapsed_depth(adata: ad.AnnData) -> FloatArray | None:
    """Depth of the cells behind the rows, (N,): the row's mean; 0 for as many cells as had none."""
    if DEPTH not in adata.obs.columns:
        return None
    cells = read_cells(adata)
    place = np.arange(int(cells.n_cells.sum())) - cells.starts[cells.rows()]
    mean, n = column_of(adata, DEPTH), column_of(adata, N_DEPTH)
    return np.where(place < n[cells.rows()], mean[cells.rows()], 0.0)


def with_counts_dropped(parts: Contents, origin: Origin) -> tuple[Contents, Origin]:
    """The same without statistics of counts."""
    return replace(parts, counts=None, counted={}), replace(origin, counts_layer=None, depth=None)


def _moments(adata: ad.AnnData, origin: Origin, mean: str, ss: str) -> tuple[FloatArray, FloatArray]:
    n, m = adata.n_obs, len(origin.covariates)
    if m == 0:
        return np.zeros((n, 0)), np.zeros((n, 0, 0))
    return np.array(adata.obsm[mean], dtype=np.float64), np.array(adata.obsm[ss], dtype=np.float64).reshape(n, m, m)


def _flat(ss: FloatArray) -> FloatArray:
    return np.ascontiguousarray(ss).reshape(ss.shape[0], -1)


def _row_names(obs: pd.DataFrame) -> pd.Index:
    """Values of the columns, joined; numbered where texts are the same (1 and '1')."""
    texts = pd.Series([""] * len(obs), dtype=object)
    for i, name in enumerate(obs.columns):
        texts = texts + ("|" if i else "") + pd.Series(obs[name].astype(object).map(str).to_numpy(), dtype=object)
    repeat = texts.groupby(texts).cumcount()
    return pd.Index(np.where(repeat > 0, texts + "|" + repeat.astype(str), texts).astype(str))
