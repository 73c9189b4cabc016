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
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._core.models.lmm.evaluate import Pieces
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

STATUS_DTYPE = "<U16"
BUDGET = 2_000_000
"""Doubles of one array (features x points x contrasts) of a chunk of features (16 MB)."""
MOST_TOGETHER = 4096
"""Features of a chunk, where a family has no reason for fewer."""
_ROUNDING = 1e-14  # of a variance, what is left of it once the others are known


class Part(NamedTuple):
    """Variances of a random term, and their covariances: of all its columns, or of those from `first` on.

    Of a term with a constant, that is its first column, of which the others are freed.
    """

    term: int
    first: int = 0

    def of(self, parameters: IntArray) -> BoolArray:
        """Which of the parameters (K, 3), by their terms, rows and columns, belong to it, (K,)."""
        return np.asarray((parameters[:, 0] == self.term) & (parameters[:, 1] >= self.first))


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


class JointLaw(NamedTuple):
    """G features at K points, for r contrasts together, every array (G, K).

    Attributes
    ----------
    loglik
        As in :class:`Law`.
    F
        Has the distribution F(r, nu) where the contrasts are zero; of one contrast it is the square of its root.
    wald
        The same from the estimates and their covariance alone.
    size
        Mean variance of the contrasts: the r-th root of the determinant of their covariance.
    nu
        Degrees of freedom of the denominator; infinite for families with a known scale, and (G,) where features have rows
        of their own.
    """

    loglik: FloatArray
    F: FloatArray
    wald: FloatArray
    size: FloatArray
    nu: float | FloatArray


class OnGrid(Protocol):
    """A model at K points, for n contrasts: what does not depend on the feature is made once.

    `at` are positions within the model's features; they must be usable.
    """

    def loglik(self, at: IntArray) -> FloatArray:
        """Restricted log-likelihood, (G, K)."""

    def law(self, at: IntArray, loglik: FloatArray | None = None) -> Law:
        """The law; `loglik` is what :meth:`loglik` gave for the same features, where that is at hand."""

    def joint(self, at: IntArray, loglik: FloatArray | None = None) -> JointLaw:
        """The law of all contrasts together, which must be independent."""

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

    @property
    def parameters(self) -> IntArray:
        """Term, row and column of each variance or correlation that a grid has an axis for, (axes, 3)."""

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

    @property
    def loglik(self) -> FloatArray:
        """Log-likelihoods at the estimates, (G,)."""

    def tells(self, part: Part) -> BoolArray:
        """Which features can tell of part of a random term, (G,)."""

    def loglik_without(self, part: Part) -> FloatArray:
        """Restricted log-likelihoods without part of a random term, (G,), of features that can tell of it."""

    def variance(self, part: Part) -> FloatArray:
        """The variance that a part of one column stands for, (G,)."""

    @property
    def simulated(self) -> tuple[Equations, Responses] | None:
        """Equations that null distributions of likelihood ratios can be simulated for, and responses; None where they cannot."""


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


def with_sums(L: FloatArray) -> FloatArray:
    """Contrasts (r, p), and below them the sums of every two: variances of these are all that :func:`covariances` needs."""
    first, second = np.triu_indices(len(L), 1)
    return np.vstack([L, L[first] + L[second]])


def covariances(square: FloatArray) -> FloatArray:
    """Covariances (r, r, ...) of r estimates, from the variances (r + r (r - 1) / 2, ...) of the contrasts of :func:`with_sums`."""
    r = int(np.sqrt(2 * len(square) + 0.25) - 0.5)
    first, second = np.triu_indices(r, 1)
    C = np.empty((r, r, *square.shape[1:]))
    C[np.arange(r), np.arange(r)] = square[:r]
    C[first, second] = C[second, first] = 0.5 * (square[r:] - square[first] - square[second])
    return C


def joint_contrasts(L: FloatArray) -> FloatArray:
    """What :func:`joint_square` needs of contrasts (r, p): an orthonormal basis of what they ask, and sums of every two of it.

    No two rows of a basis are near one another, so that their covariances are exact.
    """
    return np.ascontiguousarray(with_sums(np.linalg.qr(L.T)[0].T))


def joint_square(centre: FloatArray, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """c'C⁻¹c of r estimates c with the covariance C, and the r-th root of its determinant.

    `centre` and `scale` (r + r (r - 1) / 2, ...) are those of :func:`joint_contrasts`.
    """
    C = covariances(scale**2)
    r, own = len(C), scale[: len(C)] ** 2
    z, square, logdet = np.empty_like(own), np.zeros(centre.shape[1:]), np.zeros(centre.shape[1:])
    for i in range(r):  # by Cholesky's factor, in place: a matrix for every feature and point is small
        for j in range(i):
            C[i, j] = (C[i, j] - (C[i, :j] * C[j, :j]).sum(axis=0)) / C[j, j]
        pivot = np.maximum(own[i] - (C[i, :i] ** 2).sum(axis=0), _ROUNDING * own[i])
        C[i, i], logdet = np.sqrt(pivot), logdet + np.log(pivot)
        z[i] = (centre[i] - (C[i, :i] * z[:i]).sum(axis=0)) / C[i, i]
        square += z[i] ** 2
    return square, np.exp(logdet / r)
