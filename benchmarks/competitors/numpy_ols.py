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
_TOGETHER = 500  # variants


def run(study: Study, *, n_jobs: int, p_max: float | None = 1e-5) -> Scanned:
    """Correlations of residuals, some variants at a time; with `p_max` None the product is all that is done."""
    with threadpool_limits(n_jobs):
        Q = np.linalg.qr(study.X)[0]
        Y, df = _unit(study.expression, Q), len(Q) - Q.shape[1] - 1
        t = None if p_max is None else stats.t.isf(p_max / 2, df)
        least = None if t is None else t / np.sqrt(df + t**2)
        r, size = np.empty((2, _TOGETHER, len(Y)))
        kept = [
            _chunk(study.genotypes[low : low + _TOGETHER].astype(np.float64), Q, Y, least, r, size)
            for low in range(0, len(study.genotypes), _TOGETHER)
        ]
    gene, variant, r = (np.concatenate(part) for part in zip(*kept, strict=True))
    variant += _TOGETHER * np.repeat(np.arange(len(kept)), [len(own[0]) for own in kept])
    return Scanned(gene, variant, r * np.sqrt(df / (1 - r**2)))


def _chunk(x: Array, Q: Array, Y: Array, least: float | None, r: Array, size: Array) -> tuple[Array, Array, Array]:
    r, size = r[: len(x)], size[: len(x)]
    np.matmul(_unit(x, Q), Y.T, out=r)
    if least is None:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    variant, gene = np.nonzero(np.abs(r, out=size) > least)
    return gene, variant, r[variant, gene]


def _unit(rows: Array, Q: Array) -> Array:
    """Residuals of length one."""
    left = rows - (rows @ Q) @ Q.T
    return np.asarray(left / np.linalg.norm(left, axis=1, keepdims=True))
