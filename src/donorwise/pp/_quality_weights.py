"""Precision weights of measurements from scores of their quality."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from donorwise._anndata import check_is_anndata, column_values, copied, resolve_response, suggest
from donorwise._core.inference.quality_trend import variance_trend
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._typing import BoolArray, FloatArray, IntArray

KINDS = ("diann", "sd", "variance", "score")

logger = logging.getLogger("donorwise")


@documented
def quality_weights(
    adata: ad.AnnData,
    layer: str,
    kind: Literal["diann", "sd", "variance", "score"] = "diann",
    *,
    features: str | None = None,
    values: str | None = None,
    floor: float | None = None,
    key_added: str = "weights",
    copy: bool = False,
) -> ad.AnnData | None:
    """Turn a layer that says how good every measurement is into a layer of precision weights.

    A measurement of variance v weighs 1/v; weights have a geometric mean of one over all measurements. They are what
    ``weights_layer=`` of :func:`donorwise.tl.lmm` takes.

    Parameters
    ----------
    adata
        Runs x peptides (:func:`donorwise.pp.pivot`), with logarithms of intensities and NaN where nothing was measured.
    layer
        Layer with the quality, aligned with the values.
    kind
        What the layer holds: ``"diann"`` DIA-NN's ``Quantity.Quality``, which is 1/(1 + SD) of the error of measurement;
        ``"sd"`` standard deviations, ``"variance"`` variances; ``"score"`` any other score, whichever end of it is the better
        one: how the variance depends on it is learned from the data.
    features
        Column of var with the protein of every peptide; for ``"score"`` alone.
    values
        Layer of the values; None for X.
    floor
        Standard deviation that every measurement has besides the one that its quality tells, by which no weight grows without
        bounds. None takes the median of those standard deviations for ``"diann"``, and 0 for ``"sd"`` and ``"variance"``.
    key_added
        Name of the new layer.
    {copy}

    Returns
    -------
    None, or the copy. ``adata.layers[key_added]``: weights, NaN where nothing was measured, and 1 (the geometric mean) where
    a measurement has no quality, which the log counts.

    Raises
    ------
    DataError
        A layer or column is not there, qualities are not of the kind that was named, or there is nothing to learn a trend from.

    Notes
    -----
    DIA-NN's SD is the error of measurement alone: what goes wrong before is in the residual too, and is the same for good and
    for bad measurements. With a floor at the median SD, v = SD² + floor², a perfect measurement weighs twice what the median
    one does, and one with SD three times the median a fifth of it.

    For ``"score"`` every protein is taken for the sum of its runs and peptides, with a variance of its own times f(score),
    and f is estimated by restricted likelihood in up to 50 intervals of the score's rank with about equal numbers of
    measurements, smoothed as a random walk whose steps have the variance that makes the intervals most likely. Of a score that
    says nothing f is constant and weights are one. As nothing but ranks is used, the scale of the score does not matter.
    Weights tell nothing between proteins, whose variances are their own: a score that is the same in all of a protein's
    measurements has no trend.

    Examples
    --------
    >>> import anndata as ad
    >>> import donorwise as dw
    >>> import numpy as np
    >>> adata = ad.AnnData(np.array([[20.0, 21.0], [22.0, np.nan]]))
    >>> adata.layers["quality"] = np.array([[0.9, 0.8], [0.6, np.nan]])
    >>> dw.pp.quality_weights(adata, "quality")
    >>> adata.layers["weights"].round(2)
    array([[2.24, 1.34],
           [0.33,  nan]])
    """
    check_is_anndata(adata)
    check_option("kind", kind, KINDS)
    if floor is not None and (kind == "score" or not 0 <= floor < np.inf):
        raise DataError(
            f"floor={floor!r} must be a standard deviation, 0 or more, and has no meaning with kind='score'."
        )
    _check_names(adata, layer, values, key_added)
    measured = _measured(adata, values)
    quality = np.where(measured, column_values(resolve_response(adata, layer=layer)), np.nan)
    if infinite := int(np.isinf(quality).sum()):
        raise DataError(f"layers/{layer} is infinite at {infinite:,} measurements; make these missing (NaN).")
    if not np.isfinite(quality).any():
        raise DataError(f"layers/{layer} has no number where {values or 'X'} has a value: there are no qualities.")
    variance = _trend(adata, quality, features, values) if kind == "score" else _variance(quality, kind, floor, layer)
    weights = _of_mean_one(-np.log(variance), measured, layer)
    if copy:
        adata = copied(adata)
    adata.layers[key_added] = weights
    return adata if copy else None


def _check_names(adata: ad.AnnData, layer: str, values: str | None, key_added: str) -> None:
    if not key_added or "/" in str(key_added):
        raise DataError(f"key_added={key_added!r} must be the name of a layer, without '/'.")
    if key_added in (layer, values):
        raise DataError(f"key_added={key_added!r} is a layer that is read, which would be lost; choose another name.")
    names = [name for name in adata.layers if name is not None]
    for name in (layer, *(() if values is None else (values,))):
        if name not in names:
            raise DataError(f"There is no layer {name!r}. {suggest(name, names)}")


def _measured(adata: ad.AnnData, values: str | None) -> BoolArray:
    """Where there is a value, (N, M)."""
    found = column_values(resolve_response(adata, layer=values))
    if infinite := int(np.isinf(found).sum()):
        raise DataError(
            f"{values or 'X'} is infinite at {infinite:,} measurements, as the logarithm of zero is; make these missing (NaN)."
        )
    return ~np.isnan(found)


def _variance(quality: FloatArray, kind: str, floor: float | None, layer: str) -> FloatArray:
    """Variances of the measurements, NaN where the quality is missing."""
    what = {
        "diann": "Quantity.Quality, which is above 0 and not above 1",
        "sd": "standard deviations",
        "variance": "variances",
    }
    wrong = (quality <= 0) | (quality > 1) if kind == "diann" else quality < 0
    if n_wrong := int(wrong.sum()):
        raise DataError(
            f"layers/{layer} does not hold {what[kind]}: {n_wrong:,} measurements have values such as "
            f"{quality[wrong][0]:.4g}. Make these missing (NaN), or name another kind=."
        )
    sd = 1 / quality - 1 if kind == "diann" else quality if kind == "sd" else np.sqrt(quality)
    own = sd[np.isfinite(sd)]
    if floor is None:
        # the median is 0 where most are perfect
        floor = float(np.median(own) or np.sqrt(np.mean(own**2)) or 1.0) if kind == "diann" else 0.0
    if floor == 0 and (n_zero := int((own == 0).sum())):
        raise DataError(
            f"layers/{layer} says of {n_zero:,} measurements that they have no error, and these would weigh without bounds: "
            "give floor=, the standard deviation that every measurement has anyway."
        )
    return np.asarray(sd**2 + floor**2)


def _trend(adata: ad.AnnData, score: FloatArray, features: str | None, values: str | None) -> FloatArray:
    """Variances by the trend of the residual variance on the score, NaN where that is missing."""
    known = np.isfinite(score)
    ranks = np.full(score.shape, np.nan)
    ranks[known] = (rankdata(score[known]) - 0.5) / known.sum()
    trend = variance_trend(column_values(resolve_response(adata, layer=values)), ranks, _proteins(adata, features))
    if not trend.df:
        raise DataError(
            f"No protein (var[{features!r}]) has two peptides with values and scores in the same two runs, so that the residual "
            "variance is not known and no trend on the score can be learned."
        )
    variance = trend.at(ranks)
    logger.info(
        "The residual variance changes %.2f-fold over the score (%s degrees of freedom).",
        float(np.nanmax(variance) / np.nanmin(variance)), f"{trend.df:,.0f}",
    )  # fmt: skip
    return variance


def _proteins(adata: ad.AnnData, features: str | None) -> list[IntArray]:
    """The columns of every protein, in the order of names; peptides without one are in none."""
    if features is None:
        raise DataError(
            "kind='score' learns from residuals within proteins: features= names the column of var with these."
        )
    if features not in adata.var.columns:
        raise DataError(f"adata.var has no column {features!r}. {suggest(features, adata.var.columns)}")
    codes, names = pd.factorize(adata.var[features], sort=True)
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(names) + 1))
    return [order[start:end].astype(np.int64) for start, end in zip(ends[:-1], ends[1:], strict=True)]


def _of_mean_one(log_weights: FloatArray, measured: BoolArray, layer: str) -> FloatArray:
    """Weights (N, M) of geometric mean one, which measurements without a quality have; NaN where nothing was measured."""
    known = np.isfinite(log_weights)
    weights = np.full(measured.shape, np.nan)
    weights[measured] = 1.0
    weights[known] = np.exp(log_weights[known] - log_weights[known].mean())
    if n_unknown := int((measured & ~known).sum()):
        logger.info(
            "%s of %s measurements have no quality in layers/%s, and weigh what is typical.", f"{n_unknown:,}",
            f"{int(measured.sum()):,}", layer,
        )  # fmt: skip
    return weights
