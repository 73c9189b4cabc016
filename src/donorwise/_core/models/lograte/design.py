"""The design of units of a model of log rates, in the order that its kernels take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class UnitDesign:
    """The design of S units, shared by all genes; units in the order of the random term's levels.

    Attributes
    ----------
    design
        The design, a row per unit or pattern of units.
    order
        Shape (S,). Rows of the design's table of units.
    Q
        Shape (S, p). Orthonormal basis of X.
    inverse
        Shape (p, p). beta = inverse @ (coefficients on Q).
    starts
        Shape (levels + 1,). First unit of each level; one level where there is no random term.
    group
        Grouping factor of the random term; empty for none.
    """

    design: Design
    order: IntArray
    Q: FloatArray
    inverse: FloatArray
    starts: IntArray
    group: str

    def rows(self, L: FloatArray) -> FloatArray:
        """Contrasts (n, p) of beta as contrasts of the coefficients on Q."""
        return np.ascontiguousarray(L @ self.inverse)


def unit_design(design: Design) -> UnitDesign:
    """What genes share in a design whose rows are units, with one random intercept or none."""
    used = np.flatnonzero(design.codes >= 0)
    pattern = design.codes[used]
    X = design.X[pattern]
    for j, k in enumerate(design.varying):
        if k >= 0:
            X[:, j] = design.covariates[used, k]
    levels = design.random_terms[0].codes[pattern] if design.random_terms else np.zeros(used.size, dtype=np.int64)
    order = np.argsort(levels, kind="stable")
    starts = np.searchsorted(levels[order], np.arange(levels.max() + 2))
    Q, R = np.linalg.qr(X[order])
    group = design.random_terms[0].group if design.random_terms else ""
    return UnitDesign(design, used[order], np.ascontiguousarray(Q), np.linalg.inv(R), starts, group)
