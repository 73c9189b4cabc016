"""What Gaussian models with estimates have in common, whether features share their rows or each has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from donorwise._core.models.law import Law, Part
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray


class FromEstimates:
    """A model whose estimates are arrays over its features (see :class:`donorwise._core.models.law.Estimated`)."""

    __slots__ = ()

    if TYPE_CHECKING:
        estimates: Any

        @property
        def usable(self) -> IntArray: ...
        def largest(self) -> FloatArray: ...
        def axes(self, largest: FloatArray) -> list[FloatArray]: ...
        def on(self, points: FloatArray, L: FloatArray | None = None) -> Any: ...
        def covariances(self) -> list[FloatArray]: ...

    def law(self, points: FloatArray, L: FloatArray) -> Law:
        """The law of the usable features at points (K, parameters) of the random part."""
        law: Law = self.on(points, L).law(self.usable)
        return law

    @property
    def estimated(self) -> Self:
        """Itself."""
        return self

    def fine_axes(self) -> list[FloatArray]:
        """Those of :meth:`axes`: the estimates do not come from a grid."""
        return self.axes(self.largest())

    @property
    def fitted_status(self) -> StrArray:
        """Status of every feature, (G,), whatever is asked of it."""
        return np.asarray(self.estimates.status)

    @property
    def loglik(self) -> FloatArray:
        """Log-likelihoods at the estimates, (G,)."""
        return np.asarray(self.estimates.loglik)

    def variance(self, part: Part) -> FloatArray:
        """The variance that a part of one column stands for, (G,): that of the last column of its term."""
        return self.covariances()[part.term][:, -1, -1]

    def tells(self, part: Part) -> BoolArray:
        """Which features can tell of part of a random term, (G,)."""
        return np.ones(self.estimates.status.size, dtype=np.bool_)

    @property
    def simulated(self) -> tuple[Equations, Responses] | None:
        """None: what null distributions can be simulated from says so itself."""
        return None

    @property
    def beta(self) -> FloatArray:
        """Fixed effects in the basis of the formula, (G, p)."""
        return np.asarray(self.estimates.beta)

    @property
    def vcov(self) -> FloatArray:
        """Covariance of the fixed effects in the orthonormal basis, (G, p, p)."""
        return np.asarray(self.estimates.sigma2[:, None, None] * self.estimates.Phi)

    def informed(self, L: FloatArray) -> BoolArray:
        """Which contrasts (n, p) have a variance, (n,)."""
        return np.ones(len(L), dtype=bool)
