"""Largest correlations of a gene's variants with its response, and with permuted ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.inference.resampled import maxima, permuted_responses, rotations
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.engine.scan_models import NullFit
    from donorwise._core.engine.scan_summary import Summary
    from donorwise._core.engine.scan_windows import Ranges
    from donorwise._core.models.lmm.variants import VariantBlock


def check_resampled(design: Design, *, interaction: bool) -> None:
    """Raise where there is no response that could be permuted.

    Raises
    ------
    DesignError
        The model has several variances beside the residual's, or variants interact.
    """
    if interaction:
        raise DesignError(
            "gene_test='permutations' is for the effects of variants, not for their interactions: take gene_test='acat'."
        )
    n = sum(len(term.columns) for term in design.random_terms)
    if n > 1:
        raise DesignError(
            f"gene_test='permutations' needs responses that one variance at most, beside that of the residuals, makes depend on each "
            f"other, and {design.formula!r} has {n}: take gene_test='acat', which asks for nothing."
        )


def resample(fit: NullFit, block: VariantBlock, ranges: Ranges, n: int, seed: int, summary: Summary) -> None:
    """Add the variants of a block to the largest squared correlations of every feature, (1 + n,).

    Where a kernel ties the donors together, directions are drawn in place of permutations.
    """
    kernel = any(term.bar.cov for term in fit.models.equations.design.random_terms)
    for g, feature in enumerate(fit.features):
        if not ranges.high[g] > ranges.low[g]:
            continue
        x, y, Q = fit.models.whitened(block, slice(int(ranges.low[g]), int(ranges.high[g])), g)
        made = rotations(y.size, n, seed, Q) if kernel else permuted_responses(y, n, seed, Q)
        own = (y / np.linalg.norm(y))[:, None]
        summary.larger(int(feature), np.concatenate([maxima(x, own), maxima(x, made)]))
