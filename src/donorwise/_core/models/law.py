"""What every family of models offers: the law of contrasts at points of the variances.

Given the variances theta, an estimate of c'beta has a known law. A model gives it on a grid of
points, with the restricted likelihood of each, and inference needs nothing else:

    F = sum_k q_k T_nu(root_k),   q_k ∝ prior(theta_k) exp(loglik_k),   p = 2 min(F, 1 - F).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from donorwise._core.design.design import Design
    from donorwise._core.models.lmm.evaluate import Pieces
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

STATUS_DTYPE = "<U16"
BUDGET = 2_000_000
"""Doubles of one array (features x points x contrasts) of a chunk of features (16 MB)."""
MOST_TOGETHER = 4096
"""Features of a chunk, where a family has no reason for fewer."""


class Law(NamedTuple):
    """G features at K points of the variances, for n contrasts.

    Attributes
    ----------
    loglik
        Shape (G, K). Restricted log-likelihood, up to a constant of the feature.
    centre, scale
        Shape (G, K, n). Estimate and standard error given the variances.
    root
        Shape (G, K, n). A statistic whose tail is that of t(nu) where the contrast is zero.
    nu
        Degrees of freedom; infinite for families with a known scale, and (G,) where features have rows of their own.
    """

    loglik: FloatArray
    centre: FloatArray
    scale: FloatArray
    root: FloatArray
    nu: float | FloatArray


class OnGrid(Protocol):
    """A model at K points, for n contrasts: what does not depend on the feature is made once.

    `at` are positions within the model's features; they must be usable.
    """

    def loglik(self, at: IntArray) -> FloatArray:
        """Restricted log-likelihood, (G, K)."""

    def law(self, at: IntArray, loglik: FloatArray | None = None) -> Law:
        """The law; `loglik` is what :meth:`loglik` gave for the same features, where that is at hand."""

    def parts(self, at: IntArray, loglik: FloatArray) -> FloatArray:
        """Variance over the rows of every random term, and of what is left, at the points, (G, K, T + 1).

        `loglik` is what :meth:`loglik` gives. Where nu is finite they are estimates, that vary as nu / chi-squared(nu).
        """

    def root_at(self, at: IntArray, law: Law, null: float) -> FloatArray:
        """What `root` is for contrasts of zero, for contrasts of `null`, (G, K, n), of features with this law."""

    def log_fc(self, at: IntArray, law: Law, weight: FloatArray) -> FloatArray:
        """Log2 fold changes (G, n) of features with this law, averaged over the points with weights (G, K).

        NaN where they are not known.
        """


class Model(Protocol):
    """A fitted model of G features that share their design and their rows."""

    @property
    def design(self) -> Design:
        """The design."""

    @property
    def features(self) -> IntArray:
        """Positions (G,) of the features in the fit."""

    @property
    def n_obs(self) -> int | IntArray:
        """Observations with a response; (G,) where features have rows of their own."""

    @property
    def mean(self) -> FloatArray:
        """What features are ranked by (G,): mean response, total counts."""

    @property
    def usable(self) -> IntArray:
        """Positions, within the model, of the features that have a law."""

    @property
    def named(self) -> tuple[str, str]:
        """What a feature and several of them are called."""

    @property
    def fallback(self) -> str:
        """The degrees of freedom that take the place of moderation where it does not apply."""

    @property
    def unmoderated(self) -> str:
        """Why the variances of such models cannot lie on a grid; empty where they can."""

    @property
    def most_learned_from(self) -> int:
        """Features, evenly spaced in the mean, that are enough to learn a prior from."""

    @property
    def most_together(self) -> int:
        """Features that are worked out together: fewer where each takes long, so that there are some for every worker."""

    def status(self, L: FloatArray) -> StrArray:
        """Status of every feature and contrast (n, p), (G, n)."""

    def components(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Name of each variance, and what takes a point of its axis to the units of the formula's column."""

    def largest(self) -> FloatArray:
        """Largest estimate of each variance among the features; zeros where the axes do not hang on it."""

    def axes(self, largest: FloatArray) -> list[FloatArray]:
        """Grid of each variance, zero first."""

    def on(self, points: FloatArray, L: FloatArray | None = None) -> OnGrid:
        """The model at points (K, variances), for contrasts (n, p) in the basis of the formula."""

    @property
    def of_terms(self) -> IntArray:
        """The random term whose variance each axis is, -1 for a correlation."""

    @property
    def column_spread(self) -> FloatArray:
        """Covariance over the rows of the columns of X, (p, p), or (G, p, p) where features have rows of their own."""

    def law(self, points: FloatArray, L: FloatArray) -> Law:
        """The law of all (usable) features at once."""

    def take(self, at: IntArray) -> Self:
        """The model of some of its features."""

    @property
    def estimated(self) -> Estimated | None:
        """The model with its estimates; None where it is known by its law alone."""

    def fine_axes(self) -> list[FloatArray]:
        """Grid of each variance whose best point is the estimate, where there is none and no prior is shared."""


class Estimated(Model, Protocol):
    """A model whose variances are estimated, feature by feature: what t and F tests at the estimates need.

    Coefficients, their covariance and pieces are those of an orthonormal basis of X.
    """

    @property
    def n_variances(self) -> int:
        """Parameters of the variance, that of the residuals among them."""

    @property
    def residual_df(self) -> int | IntArray:
        """Observations less fixed effects; (G,) where features have rows of their own."""

    def between_within(self, L: FloatArray) -> FloatArray:
        """Degrees of freedom of contrasts (n, p) by the inner-outer rule, (n,) or (G, n)."""

    @property
    def fitted_status(self) -> StrArray:
        """Status of every feature, (G,), whatever is asked of it."""

    @property
    def beta(self) -> FloatArray:
        """Fixed effects in the basis of the formula, (G, p)."""

    @property
    def coefficients(self) -> FloatArray:
        """Fixed effects, (G, p)."""

    @property
    def vcov(self) -> FloatArray:
        """Their covariance, (G, p, p)."""

    def informed(self, L: FloatArray) -> BoolArray:
        """Which contrasts (n, p) have a variance, (n,)."""

    def turned(self, L: FloatArray) -> FloatArray:
        """Contrasts (n, p) of beta as contrasts of the coefficients."""

    def log_fc(self, L: FloatArray) -> FloatArray:
        """Log2 fold changes of contrasts (n, p) at the estimates, (G, n); NaN where they are not known."""

    def pieces(self) -> Pieces:
        """What the variances say about the fixed effects: what Kenward-Roger and Satterthwaite need."""

    def fitted_by(self, *, reml: bool) -> Self:
        """The same features by REML, or by maximum likelihood."""


class LocationScale:
    """A grid of a family whose root is centre / scale, whatever the contrast is said to be."""

    __slots__ = ()

    def root_at(self, at: IntArray, law: Law, null: float) -> FloatArray:
        """See :class:`OnGrid`."""
        return (law.centre - null) / law.scale


def tensor(axes: list[FloatArray]) -> FloatArray:
    """All combinations of the axes, (points, axes), the last axis fastest."""
    return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)


def chunks(at: IntArray, points: int, budget: int = BUDGET, most: int = MOST_TOGETHER) -> Iterator[IntArray]:
    """Features in chunks whose arrays fit into memory, `most` at once; their number does not depend on the workers."""
    size = int(np.clip(budget // points, 1, most))
    for start in range(0, at.size, size):
        yield at[start : start + size]


def law_of(loglik: FloatArray, centre: FloatArray, scale: FloatArray, nu: float | FloatArray) -> Law:
    """The law of families whose root is centre / scale, from arrays (n, G, K), which stay as they lie in memory."""

    def last(values: FloatArray) -> FloatArray:
        return np.moveaxis(values, 0, -1)

    return Law(loglik, last(centre), last(scale), last(centre / scale), nu)
