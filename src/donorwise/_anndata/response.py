"""Which matrix of an AnnData is modelled, and what its columns are called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from donorwise._anndata import keys
from donorwise._anndata.labels import read_labels
from donorwise._anndata.obs import obs_frame, suggest
from donorwise._anndata.read import check_has_cells
from donorwise._anndata.scale import are_counts, check_log_base, find_log_base, remark_on
from donorwise._anndata.sources import as_stored, matrix_of
from donorwise._core.cells.stored import Stored
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._typing import BoolArray, FloatArray, IntArray

SAMPLE_SIZE = 100_000

COUNT_LAYERS = ("counts", "raw_counts", "raw", "umi")
"""Usual names of a layer of raw counts."""


@dataclass(frozen=True, slots=True)
class Response:
    """The responses of a model: a matrix of cells x columns and the columns to use.

    Attributes
    ----------
    matrix
        Shape (N, M). Dense array or scipy sparse, as the AnnData holds it; a `Stored` if it is not in memory.
    variables
        Names of the G selected columns.
    features
        Shape (G,). Selected columns of `matrix`; None for all of them (then G = M).
    text
        ``"X"``, ``"layers/counts"``, ``"obsm/scores"`` or ``"obs"``.
    aligned_to_var
        Whether `variables` are names of ``adata.var``.
    log_base
        Base of the logarithm of 1 + x that the values are; NaN where they are none, or it is not known.
    """

    matrix: Any
    variables: tuple[str, ...]
    features: IntArray | None
    text: str
    aligned_to_var: bool
    log_base: float


def resolve_response(
    adata: ad.AnnData,
    *,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | Sequence[bool] | None = None,
    log_base: str | float | None = None,
) -> Response:
    """Find the responses in `adata`: X unless one of `layer`, `obsm` and `obs_keys` is given.

    Parameters
    ----------
    adata
        Cells x features, in memory, backed or lazy. Nothing in it is changed, copied or read.
    layer
        A layer instead of X.
    obsm
        A table of scores per cell, DataFrame or array.
    obs_keys
        Numeric columns of obs.
    mask_var
        Which features to use: a boolean column of var, or an array of length ``n_vars``.
    log_base
        Base of the logarithm that the values are, where that is not what ``uns["log1p"]`` says of X.

    Returns
    -------
    The handle of the matrix, unread, and the names of its columns.

    Raises
    ------
    DataError
        More than one source, a source that is not there or cannot be read, duplicate names,
        nothing selected, or values that are not the logarithms that `log_base` says.
    """
    asked = check_log_base(log_base)
    check_has_cells(adata)
    given = [name for name, value in (("layer", layer), ("obsm", obsm), ("obs_keys", obs_keys)) if value is not None]
    if len(given) > 1:
        raise DataError(f"Give at most one of layer=, obsm= and obs_keys=, not {' and '.join(given)}.")
    if obsm is None and obs_keys is None:
        return _from_var(adata, layer=layer, mask_var=mask_var, asked=asked)
    if mask_var is not None:
        raise DataError(f"mask_var= selects features of X or of a layer; it has no meaning with {given[0]}=.")
    found = _from_obs(adata, obs_keys) if obsm is None else _from_obsm(adata, obsm)
    return found if asked is None else replace(found, log_base=_base(adata, found.matrix, found.text, asked))


def examined(adata: ad.AnnData, response: Response) -> tuple[Response, str]:
    """The response, without a base where its values belie that, and what to be told of their scale."""
    if not response.aligned_to_var:
        return response, ""
    matrix, text = response.matrix, response.text
    remark = remark_on(adata, _sample(matrix), matrix, text, response.log_base)
    return (replace(response, log_base=float("nan")) if remark else response), remark


def layer_of(text: str) -> str | None:
    """The layer that ``params["response"]`` names; None for X."""
    return text.removeprefix(keys.LAYER_PREFIX) if text.startswith(keys.LAYER_PREFIX) else None


def response_of(adata: ad.AnnData, text: str, variables: Sequence[str]) -> Response:
    """Resolve the response that ``params["response"]`` names again, for some of its variables."""
    if text == keys.RESPONSE_OBS:
        return resolve_response(adata, obs_keys=list(variables))
    if text.startswith(keys.OBSM_PREFIX):
        response = resolve_response(adata, obsm=text.removeprefix(keys.OBSM_PREFIX))
    elif text.startswith(keys.LABELS_PREFIX):
        response = labels_response(adata, text.removeprefix(keys.LABELS_PREFIX))
    else:
        response = resolve_response(adata, layer=layer_of(text))
    columns = {name: i for i, name in enumerate(response.variables)}
    for variable in variables:
        if variable not in columns:
            raise DataError(f"{text} has no variable {variable!r}. {suggest(variable, columns)}")
    features = np.array([columns[v] for v in variables], dtype=np.int64)
    return Response(response.matrix, tuple(variables), features, text, response.aligned_to_var, response.log_base)


def labels_response(adata: ad.AnnData, column: str) -> Response:
    """The labels of a column of obs as variables, 1 in the rows that have them, and missing where the label is.

    Raises
    ------
    DesignError, DataError
        See :func:`read_labels`.
    """
    names, codes = read_labels(adata, column)
    known, missing = np.flatnonzero(codes >= 0), np.flatnonzero(codes < 0)
    rows = np.concatenate([known, np.repeat(missing, len(names))])
    columns = np.concatenate([codes[known], np.tile(np.arange(len(names)), missing.size)])
    values = np.where(np.arange(rows.size) < known.size, 1.0, np.nan)
    matrix = sp.csr_matrix((values, (rows, columns)), shape=(codes.size, len(names)))
    return Response(matrix, names, None, f"{keys.LABELS_PREFIX}{column}", False, float("nan"))


def column_values(response: Response) -> FloatArray:
    """Return the selected columns as a dense array, shape (N, G), float64."""
    from donorwise._core.cells.matrices import read_columns

    return read_columns(response.matrix, response.features)


def looks_like_counts(matrix: Any) -> bool:
    """Whether a sample of the stored values are all non-negative integers, some above 1 (0/1 is detection)."""
    return are_counts(_sample(matrix))


def _sample(matrix: Any) -> np.ndarray:
    from donorwise._core.cells.matrices import sample_values

    return sample_values(matrix, SAMPLE_SIZE)


def _from_var(
    adata: ad.AnnData, *, layer: str | None, mask_var: str | Sequence[bool] | BoolArray | None, asked: float | None
) -> Response:
    matrix, text = matrix_and_text(adata, layer)
    _check_unique(adata.var_names, "adata.var_names", "Call adata.var_names_make_unique() first.")
    mask = _var_mask(adata, mask_var)
    features = None if mask is None else np.flatnonzero(mask).astype(np.int64)
    names = adata.var_names if mask is None else adata.var_names[mask]
    _check_some(adata, len(names))
    return Response(matrix, tuple(map(str, names)), features, text, True, _base(adata, matrix, text, asked))


def matrix_and_text(adata: ad.AnnData, layer: str | None) -> tuple[Any, str]:
    """X or a layer, unread, and what messages call it.

    Raises
    ------
    DataError
        It is not there, or is no matrix of numbers that can be read.
    """
    text = keys.RESPONSE_X if layer is None else f"{keys.LAYER_PREFIX}{layer}"
    if layer is None:
        matrix = matrix_of(adata)
        if matrix is None:
            raise DataError(f"adata.X is empty; name a layer. {_layers(adata)}")
    else:
        # anndata 0.13 lists X among the layers under None
        names = [name for name in adata.layers if name is not None]
        if layer not in names:
            there = suggest(layer, names) if names else "The AnnData has no layers."
            raise DataError(f"There is no layer {layer!r}. {there} {_instead(adata, layer)}")
        matrix = matrix_of(adata, layer)
    _check_matrix(matrix, text)
    return matrix, text


def _base(adata: ad.AnnData, matrix: Any, text: str, asked: float | None) -> float:
    return find_log_base(adata, lambda: _sample(matrix), text, asked)


def _from_obsm(adata: ad.AnnData, obsm: str) -> Response:
    if obsm not in adata.obsm:
        raise DataError(f"adata.obsm has no {obsm!r}. {suggest(obsm, adata.obsm.keys())}")
    table = adata.obsm[obsm]
    if isinstance(table, pd.DataFrame):
        names = tuple(map(str, table.columns))
        _check_unique(pd.Index(names), f"the columns of obsm[{obsm!r}]", "Give them different names.")
        _check_numeric(table, f"obsm[{obsm!r}]")
        matrix = table.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        matrix = as_stored(table)
        _check_matrix(matrix, f"obsm[{obsm!r}]")
        names = tuple(f"{obsm}_{i + 1}" for i in range(matrix.shape[1]))
    _check_some(adata, len(names))
    return Response(matrix, names, None, f"{keys.OBSM_PREFIX}{obsm}", False, float("nan"))


def _from_obs(adata: ad.AnnData, obs_keys: str | Sequence[str] | None) -> Response:
    names = [obs_keys] if isinstance(obs_keys, str) else list(obs_keys or ())
    _check_unique(pd.Index(names), "obs_keys", "Name every column once.")
    table = obs_frame(adata, names).infer_objects()
    _check_numeric(table, "obs")
    _check_some(adata, len(names))
    matrix = table.to_numpy(dtype=np.float64, na_value=np.nan)
    return Response(matrix, tuple(names), None, keys.RESPONSE_OBS, False, float("nan"))


def _is_readable(matrix: Any) -> bool:
    return isinstance(matrix, np.ndarray | Stored) or sp.issparse(matrix)


def _check_matrix(matrix: Any, text: str) -> None:
    from donorwise._core.cells.structure import check_structure

    if not _is_readable(matrix):
        kind = f"{type(matrix).__module__}.{type(matrix).__qualname__}"
        raise DataError(f"{text} is a {kind}, which cannot be read in chunks: use adata.to_memory() first.")
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise DataError(f"{text} must be a matrix of numbers; it has dtype {matrix.dtype} and shape {matrix.shape}.")
    check_structure(matrix, text)


def _check_numeric(table: pd.DataFrame, where: str) -> None:
    wrong = [str(c) for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    if not wrong:
        return
    text = f"Responses must be numbers; these columns of {where} are not: {', '.join(map(repr, wrong))}."
    levels = sorted(table[wrong[0]].dropna().unique().tolist(), key=str)
    if len(levels) == 2:
        text += f" For yes or no, make it boolean: {where}[{wrong[0]!r}] == {levels[1]!r}."
    raise DataError(text)


def _check_unique(names: pd.Index, what: str, remedy: str) -> None:
    if not names.is_unique:
        some = ", ".join(repr(n) for n in names[names.duplicated()].unique()[:5])
        raise DataError(f"Names repeat in {what}: {some}. {remedy}")


def _check_some(adata: ad.AnnData, n_features: int) -> None:
    if n_features == 0:
        raise DataError("No features are selected: the table is empty, or mask_var is False everywhere.")
    if adata.n_obs == 0:
        raise DataError("The AnnData has no cells.")


def _var_mask(adata: ad.AnnData, mask_var: str | Sequence[bool] | BoolArray | None) -> BoolArray | None:
    if mask_var is None:
        return None
    if isinstance(mask_var, str) and mask_var not in adata.var.columns:
        raise DataError(f"mask_var: adata.var has no column {mask_var!r}. {suggest(mask_var, adata.var.columns)}")
    if isinstance(mask_var, pd.Series) and not mask_var.index.equals(adata.var_names):
        raise DataError("The index of mask_var is not that of adata.var; use mask_var.loc[adata.var_names].")
    mask = pd.array(_var_column(adata, mask_var) if isinstance(mask_var, str) else mask_var)
    if not pd.api.types.is_bool_dtype(mask.dtype) or pd.isna(mask).any():
        raise DataError(f"mask_var must be boolean without missing values, not {mask.dtype}.")
    if len(mask) != adata.n_vars:
        raise DataError(f"mask_var has {len(mask)} entries for {adata.n_vars} features.")
    return np.asarray(mask, dtype=bool)


def _var_column(adata: ad.AnnData, column: str) -> pd.Series:
    """Return a column of var, which a lazy AnnData keeps outside pandas."""
    table = adata.var[[column]]
    return (table if isinstance(table, pd.DataFrame) else table.to_memory())[column]


def counts_layer(adata: ad.AnnData) -> str | None:
    """Return the layer that holds raw counts, ``""`` where X does, or None."""
    for name in (*(name for name in COUNT_LAYERS if name in adata.layers), ""):
        matrix = matrix_of(adata, name or None)
        if _is_readable(matrix) and looks_like_counts(matrix):
            return name
    return None


def where_counts_are(adata: ad.AnnData, response: Response) -> str:
    """What to name in place of a response that is no counts, as part of a sentence."""
    if not response.aligned_to_var:
        return "give these, and not shares or logarithms of them"
    found = None if looks_like_counts(response.matrix) else counts_layer(adata)
    if found is None:
        return "name the layer that holds them with layer="
    return f"layer={found!r} has them" if found else "X has them, which layer=None takes"


def _instead(adata: ad.AnnData, layer: str) -> str:
    """What to do about a layer that is not there; for one of counts, where the counts are."""
    if layer not in COUNT_LAYERS:
        return "layer=None takes X."
    matrices = {str(name): matrix_of(adata, name) for name in adata.layers if name is not None}
    found = [name for name, matrix in matrices.items() if _is_readable(matrix) and looks_like_counts(matrix)]
    if found:
        return f"Raw counts are in layer={found[0]!r}; layer=None takes X."
    own = matrix_of(adata, None)
    if _is_readable(own) and looks_like_counts(own):
        return "X holds raw counts: layer=None takes it."
    raw = "layer=None takes X, which does not hold raw counts"
    if adata.raw is None or not looks_like_counts(adata.raw.X):
        return f"{raw}."
    return f"{raw}; adata.raw does: adata.layers[{layer!r}] = adata.raw[:, adata.var_names].X makes them a layer."


def _layers(adata: ad.AnnData) -> str:
    names = [repr(name) for name in adata.layers if name is not None]
    return f"Layers: {', '.join(names)}." if names else "There are no layers."
