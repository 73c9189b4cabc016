"""What the terms of the fixed part contribute to the variance of a response.

A term's own part is X_j beta_j, all of its columns together, and its variance over the rows is beta_j' S_jj beta_j, with S
the covariance of the columns of X over the rows. An intercept has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from donorwise._typing import FloatArray


def own_variances(beta: FloatArray, spread: FloatArray, terms: Mapping[str, tuple[int, ...]]) -> FloatArray:
    """Variance over the rows of every term's own part, (G, terms).

    Parameters
    ----------
    beta
        Shape (G, p). Fixed effects in the basis of the formula.
    spread
        Shape (p, p), or (G, p, p) for features with rows of their own. S.
    terms
        Columns of every term.
    """
    out = np.empty((len(beta), len(terms)))
    for j, columns in enumerate(terms.values()):
        own, S = beta[:, columns], spread[..., columns, :][..., columns]
        out[:, j] = np.einsum("...a,...ab,...b->...", own, S, own)
    return np.maximum(out, 0.0, out=out)


def divided(whole: FloatArray, own: FloatArray) -> FloatArray:
    """What each term has of the `whole` (G,) of the fixed part, in proportion to its `own` variance, (G, terms).

    The variances of correlated terms do not add up to that of their sum, so they are scaled to it (Hoffman and Schadt 2016,
    BMC Bioinformatics 17:483, as ``calcVarPart`` of variancePartition does it for the columns of a mixed model).
    """
    total = own.sum(axis=1, keepdims=True)
    return np.asarray(whole[:, None] * own / np.where(total == 0, 1.0, total))  # NaN stays NaN
