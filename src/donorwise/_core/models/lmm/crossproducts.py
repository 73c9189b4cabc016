"""From collapsed cells to the cross-products a mixed model needs.

The fixed part is orthonormalised (X = X̃R with X̃'WX̃ = I) and the responses are
replaced by their least-squares residuals, so that nothing downstream depends on
the scale of a covariate or on the level of a response.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._typing import BoolArray, FloatArray, IntArray

_CONSTANT = 1e-13  # relative spread below which a response is rounding noise about one value
_EXPLAINED = 1e-13  # residual sd relative to the sd of the response: fully explained by X
_RANK = 1e-10
_FIXED_RANK = 1e-13  # columns are not centred here: a number of mean 1e10 and spread 1 keeps 1e-10 of its length


@dataclass(frozen=True, slots=True)
class Columns:
    """r columns over the K patterns: their means (K, r) and their weights on the covariates (m, r)."""

    mean: FloatArray
    deviation: FloatArray

    def transformed(self, basis: FloatArray) -> Columns:
        """The columns times `basis` (r, s)."""
        return Columns(self.mean @ basis, self.deviation @ basis)


@dataclass(frozen=True, slots=True)
class TermBasis:
    """A random term in its internal basis.

    ``columns = original @ back``, ``back = inv(factor).T``, so that the internal columns are orthonormal on average
    and a relative covariance near 1 means a term as large as the residual. Effects of the original columns are
    ``back`` times the internal ones.

    The basis follows from a triangular one: each column is freed of those before it. Where the columns add up to a
    constant, as those of ``(0 + factor | donor)`` do, that constant takes the place of the first, so that the term is
    in the coordinates of ``(factor | donor)``, which it is by another name.

    Attributes
    ----------
    names, scale
        Of length r: what is freed of those before it, and its size in an internal column.
    kernel
        Shape (levels, levels). The known covariance of the levels, with a mean variance of one over the rows; None where
        they are independent.
    size
        What it was divided by; variances take that over (it is in `factor`, `back` and `scale`), effects do not.
    """

    term: RandomTerm
    columns: Columns
    factor: FloatArray
    back: FloatArray
    names: tuple[str, ...]
    scale: FloatArray
    kernel: FloatArray | None = None
    size: float = 1.0

    def shares_columns(self, other: TermBasis) -> bool:
        """Whether two terms have the same columns for the same levels, whatever the covariance of their effects."""
        own, others = self.term, other.term
        same = own.levels == others.levels and np.array_equal(own.codes, others.codes)
        return same and np.array_equal(own.Z, others.Z) and own.varying == others.varying


@dataclass(frozen=True, slots=True)
class FixedBasis:
    """Orthonormal fixed part: X̃ (as columns), the triangular R of X = X̃R, and its inverse."""

    columns: Columns
    R: FloatArray
    inverse: FloatArray

    @property
    def log_det(self) -> float:
        """log|R|, which takes log|X̃'V⁻¹X̃| to half of log|X'V⁻¹X|."""
        return float(np.log(np.abs(np.diag(self.R))).sum())


@dataclass(frozen=True, slots=True)
class Responses:
    """Residual responses of G features.

    Attributes
    ----------
    ols
        Shape (G, p). Least-squares coefficients in the orthonormal basis.
    zty
        Shape (G, q). Z'W(y - X̃ ols), in the column order that :func:`responses` was given.
    rss
        Shape (G,). Weighted residual sum of squares of least squares.
    mean
        Shape (G,). Weighted mean of the responses.
    constant, explained
        Shape (G,). No spread at all; no spread left after the fixed part.
    """

    ols: FloatArray
    zty: FloatArray
    rss: FloatArray
    mean: FloatArray
    constant: BoolArray
    explained: BoolArray

    def take(self, features: IntArray | BoolArray) -> Responses:
        """The responses of some features."""
        return Responses(**{f.name: getattr(self, f.name)[features] for f in fields(self)})

    @classmethod
    def concatenate(cls, several: Sequence[Responses]) -> Responses:
        """The responses of several blocks of features."""
        return cls(**{f.name: np.concatenate([getattr(r, f.name) for r in several]) for f in fields(cls)})


def column_means(values: FloatArray, varying: Sequence[int], collapsed: Collapsed) -> Columns:
    """Pattern means and covariate weights of design columns, `values` (K, r) being their first rows."""
    m = collapsed.covariate_mean.shape[1]
    mean = np.array(values, dtype=np.float64)
    deviation = np.zeros((m, mean.shape[1]))
    for column, covariate in enumerate(varying):
        if covariate >= 0:
            mean[:, column] = collapsed.covariate_mean[:, covariate]
            deviation[covariate, column] = 1.0
    return Columns(mean, deviation)


def fixed_basis(design: Design, collapsed: Collapsed) -> FixedBasis:
    """Orthonormalise the fixed part over the rows behind the patterns.

    Raises
    ------
    DesignError
        If the fixed part is rank deficient on these rows.
    """
    columns = column_means(design.X, design.varying, collapsed)
    stacked = _stacked(columns, collapsed)
    norms = np.sqrt((stacked**2).sum(axis=0))
    p = stacked.shape[1]
    if stacked.shape[0] < p or (p and norms.min() == 0):
        raise DesignError("The fixed part is rank deficient on the rows in use.")
    R = np.linalg.qr(stacked / norms, mode="r")
    if p and np.abs(np.diag(R)).min() < _FIXED_RANK:
        raise DesignError("The fixed part is rank deficient on the rows in use.")
    R = R * norms
    inverse = np.linalg.inv(R / norms) / norms[:, None]
    return FixedBasis(columns.transformed(inverse), R, inverse)


def _stacked(columns: Columns, collapsed: Collapsed) -> FloatArray:
    """A matrix whose cross-product is that of the columns over all rows."""
    between = np.sqrt(collapsed.weight)[:, None] * columns.mean
    if columns.deviation.shape[0] == 0:
        return between
    values, vectors = np.linalg.eigh(collapsed.covariate_ss.sum(axis=0))
    within = (np.sqrt(np.clip(values, 0, None)) * vectors).T @ columns.deviation
    return np.vstack([between, within])


def column_covariance(columns: Columns, collapsed: Collapsed) -> FloatArray:
    """Weighted covariance of columns over all rows, (r, r)."""
    share = collapsed.weight / collapsed.weight.sum()
    stacked = _stacked(Columns(columns.mean - share @ columns.mean, columns.deviation), collapsed)
    return stacked.T @ stacked / collapsed.weight.sum()


def term_basis(term: RandomTerm, collapsed: Collapsed) -> TermBasis:
    """Columns of a random term in the internal basis (see :class:`TermBasis`)."""
    turn, names = _constant_first(term)
    columns = column_means(term.Z, term.varying, collapsed).transformed(turn)
    stacked = _stacked(columns, collapsed) / np.sqrt(collapsed.weight.sum())
    norms = np.sqrt((stacked**2).sum(axis=0))  # columns differ in units
    factor: FloatArray = np.asarray(np.linalg.qr(stacked / np.where(norms > 0, norms, 1), mode="r")).T
    square = factor.shape[0] == factor.shape[1]  # not so with fewer rows than columns
    if not square or np.abs(np.diag(factor)).min() <= _RANK:
        raise DesignError(f"The columns of the random term {term.label} are constant or collinear; drop one of them.")
    factor = factor * np.sign(np.diag(factor))
    back: FloatArray = np.asarray(np.linalg.inv(factor).T / norms[:, None], dtype=np.float64)
    factor = np.linalg.inv(turn).T @ (factor * norms[:, None])
    internal, kernel = columns.transformed(back), term.kernel
    size = 1.0 if kernel is None else _mean_variance(kernel, internal, term, collapsed)
    return TermBasis(
        term, internal, factor * np.sqrt(size), turn @ back / np.sqrt(size), names, np.diag(back) / np.sqrt(size),
        None if kernel is None else kernel / size, size,
    )  # fmt: skip


def _mean_variance(kernel: FloatArray, internal: Columns, term: RandomTerm, collapsed: Collapsed) -> float:
    """Mean over the rows, and the internal columns, of the variance that effects with this covariance give."""
    n_levels, r = len(kernel), internal.mean.shape[1]
    squares = cross(internal, internal, term.codes, n_levels, collapsed)
    size = float(np.diag(kernel) @ np.einsum("lrr->l", squares)) / (r * collapsed.weight.sum())
    if not size > 0:
        raise DesignError(f"The kernel of {term.label} is zero for all levels in use.")
    return size


def _constant_first(term: RandomTerm) -> tuple[FloatArray, tuple[str, ...]]:
    """What takes the columns of a term to those with a constant first, (r, r), and their names; nothing without one."""
    r = len(term.columns)
    if r == 1 or max(term.varying) >= 0 or term.columns[0] == "(Intercept)":
        return np.eye(r), term.columns
    weights = np.linalg.lstsq(term.Z, np.ones(len(term.Z)), rcond=None)[0]
    if abs(weights[0]) < _RANK or np.abs(term.Z @ weights - 1).max() > _RANK:
        return np.eye(r), term.columns
    return np.column_stack([weights, np.eye(r)[:, 1:]]), ("(Intercept)", *term.columns[1:])


def cross(left: Columns, right: Columns, left_codes: IntArray, n_left: int, collapsed: Collapsed) -> FloatArray:
    """Per level of `left_codes`, the weighted cross-product of two sets of columns, (levels, r, s)."""
    product = np.einsum("k,kr,ks->krs", collapsed.weight, left.mean, right.mean, optimize=True)
    if left.deviation.shape[0]:
        product = product + np.einsum("ir,kij,js->krs", left.deviation, collapsed.covariate_ss, right.deviation)
    out = np.zeros((n_left, *product.shape[1:]))
    np.add.at(out, left_codes, product)
    return out


def responses(
    fixed: FixedBasis,
    terms: Sequence[TermBasis],
    collapsed: Collapsed,
    order: IntArray | slice,
    turn: FloatArray | None = None,
) -> Responses:
    """Residual cross-products of every feature with the random columns.

    `order` (q,) rearranges the columns from terms, levels, columns to blocks, `turn` (q, m) combines them then. The
    projection is done twice: the second pass removes what rounding leaves of a large mean.
    """
    X, w = fixed.columns, collapsed.weight[:, None]
    mean, cov_y = collapsed.mean, collapsed.covariate_y
    pulled = np.zeros((mean.shape[1], X.mean.shape[1]))
    residual, cov_residual = mean, cov_y
    for _ in range(2):
        step = (w * residual).T @ X.mean + np.einsum("kmg,mp->gp", cov_residual, X.deviation)
        pulled = pulled + step
        residual = residual - X.mean @ step.T
        cov_residual = cov_residual - np.einsum("kij,jg->kig", collapsed.covariate_ss, X.deviation @ step.T)
    slope = X.deviation @ pulled.T
    within = collapsed.within_ss.sum(axis=0) - np.einsum("mg,kmg->g", slope, cov_y + cov_residual)
    rss = (w * residual**2).sum(axis=0) + np.clip(within, 0, None)
    blocks = [_level_sums(basis, w * residual, cov_residual) for basis in terms]
    zty = np.concatenate(blocks, axis=1)[:, order] if blocks else np.zeros((rss.size, 0))
    zty = zty if turn is None else zty @ turn
    centre, constant, explained = _degenerate(collapsed, rss)
    return Responses(pulled, np.ascontiguousarray(zty), rss, centre, constant, explained)


def _level_sums(basis: TermBasis, weighted: FloatArray, cov_residual: FloatArray) -> FloatArray:
    """Z'Wr of one term, (G, levels * r) with the r columns of a level side by side."""
    r = basis.columns.mean.shape[1]
    n_levels, n_features = len(basis.term.levels), weighted.shape[1]
    out = np.zeros((n_levels, r, n_features))
    for column in range(r):
        values = basis.columns.mean[:, column, None] * weighted
        values = values + np.einsum("m,kmg->kg", basis.columns.deviation[:, column], cov_residual)
        np.add.at(out[:, column], basis.term.codes, values)
    return out.reshape(n_levels * r, n_features).T


def _degenerate(collapsed: Collapsed, rss: FloatArray) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Means of the features, which have no spread, and which have none left after the fixed part."""
    w = collapsed.weight[:, None]
    total = w.sum()
    centre = (w * collapsed.mean).sum(axis=0) / total
    spread = (w * (collapsed.mean - centre) ** 2).sum(axis=0) + collapsed.within_ss.sum(axis=0)
    constant = spread <= total * (_CONSTANT * centre) ** 2
    return centre, constant, ~constant & (rss <= _EXPLAINED**2 * spread + total * (_CONSTANT * centre) ** 2)


def is_rounding(squares: FloatArray, collapsed: Collapsed) -> BoolArray:
    """Which sums of squares (G,) about means of some rows are no more than rounding, and the features themselves more."""
    return _degenerate(collapsed, squares)[2]
