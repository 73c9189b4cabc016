"""An atlas in one small AnnData: exact sufficient statistics per combination of columns."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import (
    cell_depth,
    check_is_anndata,
    count_depth,
    examined,
    is_collapsed,
    keys,
    looks_like_counts,
    obs_frame,
    resolve_response,
)
from donorwise._anndata.block_files import check_block_file, write_blocks
from donorwise._anndata.collapsed import Contents, Counts, MeanDepths, make_collapsed
from donorwise._anndata.collapsed_counts import check_glmm
from donorwise._anndata.exposure import check_not_logged
from donorwise._anndata.identity import check_cells, check_files, digest, hash_cells
from donorwise._anndata.obs import as_frame
from donorwise._anndata.origin import Origin, check_names, kept_uns
from donorwise._core.design.design import combine, first_rows
from donorwise._core.design.terms import label_codes, read_column
from donorwise._core.engine.arrays import check_max_memory, check_weights, pass_jobs
from donorwise._docs import documented
from donorwise.errors import DataError, DesignError, DonorwiseWarning
from donorwise.pp._cells import CellPasses
from donorwise.pp._merge_collapsed import merge_collapsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    from numpy.typing import NDArray

    from donorwise._anndata import Response
    from donorwise._core.cells.counted_rows import CountedRows
    from donorwise._typing import BoolArray, FloatArray, IntArray

_NUMBERS = {"nb": 80, "cloglog": 45}  # of doubles by row and feature, where depths differ a hundredfold


@documented
def collapse(
    source: ad.AnnData | str | os.PathLike[str] | Sequence[Any],
    by: str | Sequence[str],
    *,
    layer: str | None = None,
    covariates: str | Sequence[str] = (),
    counts_layer: str | None = None,
    depth: str | None = None,
    glmm: str | Sequence[str] | None = None,
    weights: str | FloatArray | None = None,
    log_base: str | float | None = None,
    mask_var: str | BoolArray | None = None,
    chunk_size: int | None = None,
    max_memory: float | None = None,
    out: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    client: Any = None,
    progress: bool = True,
) -> ad.AnnData:
    """Collapse cells to one row per combination of columns, from which models are fitted exactly.

    A mixed model needs of the cells no more than their number, mean and sum of squares wherever the
    variables of the formula are the same (and cross-products with covariates that differ from cell to
    cell). The result, an ordinary AnnData of a few thousand rows, takes the place of the cells in
    :func:`donorwise.tl.lmm`, :func:`donorwise.tl.glmm`, :func:`donorwise.tl.pseudobulk`, :func:`donorwise.tl.composition`,
    :func:`donorwise.tl.calibrate`, :func:`donorwise.tl.influence` and :func:`donorwise.tl.power`, which give the same numbers.

    Parameters
    ----------
    source
        Cells x features: an AnnData, the path of an ``.h5ad`` or ``.zarr``, or several of them, which are
        collapsed one after another and merged.
    by
        Columns of obs: all that formulas will read, grouping factors and ``groupby`` included. A missing
        value is a value of its own here; the tools leave its cells out where they read the column.
    layer
        Layer to model; None for X.
    covariates
        Numeric columns of obs that differ from cell to cell, such as ``log_depth``. Formulas can use
        them linearly, alone or in interaction with columns of `by`.
    counts_layer
        Layer of raw counts, for :func:`donorwise.tl.pseudobulk` and :func:`donorwise.tl.glmm`; None for none.
    depth
        Column of obs with the depth of every cell, such as ``"effective_depth"`` of :func:`donorwise.pp.size_factors`; the sum
        of its counts over all genes if None. It is the exposure of :func:`donorwise.tl.glmm` on the rows, which keep no
        other.
    glmm
        What :func:`donorwise.tl.glmm` will be asked for that needs more than sums of the counts: ``"nb"``, models with
        ``family="nb"``, ``"cloglog"``, models of detection with ``link="cloglog"``, or both (a list); None for neither. Rows
        then keep counts at some twenty to forty depths and, for ``"nb"``, numbers of cells at as many counts: each is as large as ``X``.
    {weights}
    {log_base}
    {mask_var}
    chunk_size
        Rows read at a time from a file; chosen by size if None.
    max_memory
        GB for the statistics. If they need more they are made in blocks of features, each from a pass of its own,
        and written to `out`.
    out
        Path of an ``.h5ad`` or ``.zarr`` to write to. The AnnData that is returned then leaves its matrices in that
        file, and the tools read of them what they need.
    {n_jobs}
    client
        A ``dask.distributed.Client``, whose workers read the source; the one in use, if there is one, if None. They
        need the file under the same path. A source in memory, or one that is stored by columns (CSC), is read here.
    {progress}

    Returns
    -------
    AnnData of K rows x features. ``X``: mean; ``layers``: ``within_ss`` (sum of squares about the mean),
    ``n_detected`` (cells above zero), ``cov_y:<covariate>`` (cross-products about the means), of logarithms
    ``abundance`` (mean of what they are logarithms of, for fold changes), and with
    counts ``counts`` (sums), ``counts_ss`` and ``counts_depth`` (about the means), with `glmm`
    ``<family>_own:<number>`` and ``nb_tail:<number>``. ``obs``: the columns of
    `by`, ``n_cells``, sums of weights, of their logarithms and of depth. ``obsm``: means and cross-products
    of the covariates. ``uns["donorwise_collapsed"]`` says what it was made from. Rows and features can be
    selected as always.

    Raises
    ------
    DesignError
        A column is not there, is named twice, or has a name that a file cannot hold.
    DataError
        Values are missing or not finite, a covariate or weight is not a number, counts are none, two sources are the
        same cells, or the statistics do not fit into `max_memory` and there is no `out`.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_cells=1200, n_genes=50, seed=1)
    >>> rows = dw.pp.collapse(adata, by=["donor_id", "condition", "cell_type"])
    >>> rows.shape, int(rows.obs["n_cells"].sum())
    ((36, 50), 1200)
    >>> dw.tl.lmm(rows, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> dw.get.tests(rows).shape[0]
    150
    """
    by, covariates = (_listed(names) for names in (by, covariates))
    check_names(by, covariates)
    check_max_memory(max_memory)
    glmm = check_glmm(glmm, counts_layer)
    options: dict[str, Any] = {
        "layer": layer, "covariates": covariates, "counts_layer": counts_layer, "depth": depth, "glmm": glmm,
        "weights": weights, "log_base": log_base, "chunk_size": chunk_size, "n_jobs": n_jobs, "client": client, "progress": progress,
    }  # fmt: skip
    if isinstance(source, list | tuple):
        if weights is not None and not isinstance(weights, str):
            raise DataError("With several sources weights= names a column of obs: an array cannot be shared out.")
        if out is not None or max_memory is not None:
            raise DataError("With several sources there is no out= and no max_memory=: collapse one after another.")
        _check_distinct(source, by)
        return merge_collapsed([collapse(part, by, mask_var=mask_var, **options) for part in source])
    path = None if out is None else check_block_file(out)
    adata: Any = _open(source) if isinstance(source, str | os.PathLike) else source
    check_is_anndata(adata)
    if is_collapsed(adata):
        raise DataError("This AnnData is collapsed already; merge several with dw.pp.merge_collapsed.")
    response, scale = examined(adata, resolve_response(adata, layer=layer, mask_var=mask_var, log_base=log_base))
    obs, codes, n_rows = _rows(adata, by)
    blocks = _feature_blocks(response, n_rows, len(covariates), counts_layer is not None, glmm, max_memory)
    if path is not None:
        _check_not_source(path, source, adata)
        parts = (_collapse_features(adata, by, block, (obs.copy(), codes, n_rows), options) for block in blocks)
        write_blocks(path, parts, _var(adata, response.features))
        return _open(path)
    if len(blocks) > 1:
        raise DataError(
            f"The statistics of {n_rows:,} rows x {len(response.variables):,} features do not fit into "
            f"max_memory={max_memory:g} GB. Name a file for them with out='....zarr' (or .h5ad): they are then made in "
            f"{len(blocks)} blocks of features."
        )
    return _collapse(adata, by, (response, scale), (obs, codes, n_rows), options)


def _collapse(
    adata: ad.AnnData,
    by: list[str],
    examined_response: tuple[Response, str],
    known: tuple[pd.DataFrame, NDArray[np.int32], int],
    options: dict[str, Any],
) -> ad.AnnData:
    """The collapse of one source in memory, of what :func:`examined` and :func:`_rows` give."""
    (response, scale), (obs, codes, n_rows) = examined_response, known
    covariates, weights, counts_layer, depth = (options[k] for k in ("covariates", "weights", "counts_layer", "depth"))
    cells = CellPasses(
        codes, n_rows, response, chunk_size=options["chunk_size"], progress=options["progress"],
        n_jobs=pass_jobs(options["n_jobs"]), client=options["client"],
    )  # fmt: skip
    w = None if weights is None else check_weights(weights, obs_frame(adata))
    rows, detected = cells.rows(response.matrix, covariates, _covariates(adata, covariates), w)
    counts, depths, counted = _counts(adata, counts_layer, depth, options["glmm"], cells)
    origin = Origin(
        by=tuple(by),
        covariates=tuple(covariates),
        source=response.text,
        log_base=response.log_base,
        looks_like_counts=looks_like_counts(response.matrix),
        scale=scale,
        weights=weights if isinstance(weights, str) else keys.NO_WEIGHTS if weights is None else keys.ARRAY_WEIGHTS,
        counts_layer=counts_layer,
        depth=None if counts_layer is None else depth or "",
        cells=(digest(hash_cells(adata, by)),),
    )
    return make_collapsed(
        Contents(obs, _var(adata, response.features), rows, detected, counts, depths, counted),
        origin,
        kept_uns(adata, by),
    )


def _collapse_features(
    adata: ad.AnnData,
    by: list[str],
    features: IntArray,
    known: tuple[pd.DataFrame, NDArray[np.int32], int],
    options: dict[str, Any],
) -> ad.AnnData:
    """The collapse of some features, by their positions in var."""
    kept = np.zeros(adata.n_vars, dtype=bool)
    kept[features] = True
    response = resolve_response(adata, layer=options["layer"], mask_var=kept, log_base=options["log_base"])
    return _collapse(adata, by, examined(adata, response), known, options)


def _feature_blocks(
    response: Response,
    n_rows: int,
    n_covariates: int,
    counts: bool,
    glmm: Sequence[str],
    max_memory: float | None,
) -> list[IntArray]:
    """Positions in var of the features that are collapsed together.

    For each row and feature there are at most 11 doubles (running sums, results and a copy of them), 3 more for every
    covariate, 2 for abundances, 6 for counts, and for families about as many as `_NUMBERS` says.
    """
    n = len(response.variables)
    features = np.arange(n) if response.features is None else response.features
    if max_memory is None:
        return [features]
    numbers = 11 + 3 * n_covariates + 2 * bool(np.isfinite(response.log_base)) + 6 * counts
    per_feature = 8 * n_rows * (numbers + sum(_NUMBERS[kind] for kind in glmm))
    size = int(max_memory * 1e9 // per_feature)
    if size == 0:
        raise DataError(
            f"max_memory={max_memory:g} GB does not hold the statistics of one feature in {n_rows:,} rows "
            f"({per_feature / 1e9:.2g} GB)."
        )
    return [features[low : low + size] for low in range(0, n, size)]


def _check_distinct(sources: Sequence[Any], columns: Sequence[str]) -> None:
    """Raise where two sources are the same cells."""
    check_files([source for source in sources if isinstance(source, str | os.PathLike)])
    hashes = []
    for source in sources:
        adata = _open(source) if isinstance(source, str | os.PathLike) else source
        check_is_anndata(adata)
        hashes.append(hash_cells(adata, columns))
    names = [str(s) if isinstance(s, str | os.PathLike) else f"source {k}" for k, s in enumerate(sources, start=1)]
    check_cells(names, hashes)


def _check_not_source(path: Path, source: object, adata: ad.AnnData) -> None:
    """Raise where writing would replace the file that the cells are read from."""
    if not path.exists():
        return
    from donorwise._anndata.sources import files_behind

    given = [source] if isinstance(source, str | os.PathLike) else []
    files = [*given, *files_behind(adata)]
    if any(file is not None and os.path.samefile(path, file) for file in files):
        raise DataError(f"out={str(path)!r} is the source itself; choose another name.")
    if None in files:
        raise DataError(
            f"out={str(path)!r} is there already, and may be what the dask arrays are read from: choose another name, or "
            "remove it first."
        )


def _open(path: str | os.PathLike[str]) -> ad.AnnData:
    from donorwise._anndata.sources import open_source

    return open_source(path)


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _var(adata: ad.AnnData, features: IntArray | None) -> pd.DataFrame:
    var = as_frame(adata.var)
    return var if features is None else var.iloc[features]


def _rows(adata: ad.AnnData, by: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.int32], int]:
    """Columns of the rows, the row of every cell, and the number of rows."""
    obs = obs_frame(adata, by)
    columns = {name: _storable(obs[name], name) for name in by}
    codes, n_rows = combine([label_codes(column) for column in columns.values()], len(obs))
    if 2 * n_rows > len(obs):
        warnings.warn(
            f"by={list(by)} leaves {n_rows:,} rows of {len(obs):,} cells: a column that differs from cell to cell "
            "belongs in covariates=.", DonorwiseWarning, stacklevel=3,
        )  # fmt: skip
    first = first_rows(codes, n_rows)
    frame = pd.DataFrame({name: column.array[first] for name, column in columns.items()})
    return frame, codes.astype(np.int32), n_rows


def _storable(column: pd.Series, name: str) -> pd.Series:
    """A column in a form that files keep and that formulas read as they would read it here."""
    dtype = column.dtype
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_integer_dtype(dtype):
        return column
    if pd.api.types.is_numeric_dtype(dtype):
        return pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index)
    if not isinstance(dtype, pd.CategoricalDtype):
        try:
            column = read_column(column, name, categorical=False)
        except DesignError:  # dates and mixed values: formulas can take them for labels only
            column = read_column(column, name, categorical=True)
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return column
    levels = column.cat.categories
    plain = pd.api.types.is_numeric_dtype(levels) or pd.api.types.infer_dtype(levels) in ("string", "empty")
    return column if plain else column.cat.rename_categories([str(level) for level in levels])


def _covariates(adata: ad.AnnData, names: Sequence[str]) -> FloatArray | None:
    """Covariates (N, m), or None."""
    if not names:
        return None
    obs = obs_frame(adata, names)
    out = np.empty((len(obs), len(names)))
    for q, name in enumerate(names):
        column = read_column(obs[name], name, categorical=False)
        if isinstance(column.dtype, pd.CategoricalDtype):
            raise DataError(f"The covariate {name!r} is not numeric; name it in by=.")
        out[:, q] = column.to_numpy()
        n_bad = int((~np.isfinite(out[:, q])).sum())
        if n_bad:
            raise DataError(
                f"The covariate {name!r} is missing or infinite in {n_bad:,} cells: leave these out "
                f"(adata[adata.obs[{name!r}].notna()]), or give them a value."
            )
    return out


def _counts(
    adata: ad.AnnData, layer: str | None, column: str | None, glmm: Sequence[str], cells: CellPasses
) -> tuple[Counts | None, MeanDepths | None, dict[str, CountedRows]]:
    """Statistics of the counts, the depths as far as they are known, and what generalised models need."""
    known = cell_depth(adata)
    if layer is None:
        return None, None if known is None else cells.depths(known), {}
    response = resolve_response(adata, layer=layer)
    depth = None if column is None else count_depth(adata, response, column)
    if depth is not None and known is not None:
        seen = np.isfinite(known)
        check_not_logged(depth[seen], known[seen], "depth", "name the column that was not logged")
    found = cells.counts(response, depth, glmm)
    # of counts in a file a sample of the depths is read, and here are all
    depths = found.depths if known is None or not np.isfinite(known).all() else cells.depths(known)
    return found.counts, depths, found.counted
