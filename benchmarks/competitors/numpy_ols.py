"""Least squares of all genes on all variants as MatrixEQTL does it, with nothing around it: a matrix product and a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scan import Scanned
from scipy import stats
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from scan import Array, Study

NAME = "numpy, matrix product and threshold"
_TOGETHER = 1_000  # variants


def run(study: Study, *, n_jobs: int, p_max: float | None = 1e-5) -> Scanned:
    """Correlations of residuals, some variants at a time; with `p_max` None the product is all that is done."""
    with threadpool_limits(n_jobs):
        Q = np.linalg.qr(study.X)[0]
        Y, df = _unit(study.expression, Q), len(Q) - Q.shape[1] - 1
        least = None if p_max is None else stats.t.isf(p_max / 2, df)
        kept = [_chunk(study, Q, Y, low, None if least is None else least / np.sqrt(df + least**2))
                for low in range(0, len(study.genotypes), _TOGETHER)]  # fmt: skip
    gene, variant, r = (np.concatenate(part) for part in zip(*kept, strict=True))
    return Scanned(gene, variant, r * np.sqrt(df / (1 - r**2)))


def _chunk(study: Study, Q: Array, Y: Array, low: int, least: float | None) -> tuple[Array, Array, Array]:
    r = Y @ _unit(study.genotypes[low : low + _TOGETHER].astype(np.float64), Q).T
    if least is None:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    gene, variant = np.nonzero(np.abs(r) > least)
    return gene, low + variant, r[gene, variant]


def _unit(rows: Array, Q: Array) -> Array:
    """Residuals of length one."""
    left = rows - (rows @ Q) @ Q.T
    return left / np.linalg.norm(left, axis=1, keepdims=True)
