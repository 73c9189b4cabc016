"""Whether variances of random terms of the same levels, of which some have a kernel, can be told apart.

Per level, the covariance is a sum of matrices, one for each term: K for a kernel, I for an effect of each level's own, and I for
the residual where a level has one row. The data see them beside the fixed effects, as M = PKP. Of unit mean eigenvalue, the
information on a share of the variance is half the squared length of what the other matrices leave of M (all variance being
between levels, the best case), so that its standard error is at least sqrt(2) / length; for a kernel beside an effect of each
level's own, 1 / se^2 = n var(eigenvalues of M) / 2 (Visscher et al. 2014, PLoS Genet 10:e1004269).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.covariance import correlations
from donorwise._core.design.replicates import constant_within
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._typing import FloatArray, IntArray

_SAME = 1e-12  # of the squared length of a matrix, that the others leave of it by rounding
_ALIKE = 0.9  # correlation of two kernels from which on they are nearly the same
_HARDLY = 1.0  # standard error of a share from which on any share is as good as another
_UNRELATED = 0.05  # correlation of two levels, up to which they are none


@dataclass(frozen=True, slots=True)
class Rivals:
    """Random terms of one set of levels and one column.

    Attributes
    ----------
    kernels
        The terms with a kernel.
    matrices
        Shape (kernels, n, n). M of each, of unit mean eigenvalue.
    df
        Levels less fixed effects of levels: the trace of P.
    own
        What has independent levels beside them, in words; empty for nothing.
    largest
        The largest correlation of two levels in each kernel.
    """

    kernels: tuple[RandomTerm, ...]
    matrices: FloatArray
    df: int
    own: str
    largest: tuple[float, ...]

    def products(self) -> FloatArray:
        """Inner products of the matrices, with that of P as the last where something has independent levels."""
        flat = self.matrices.reshape(len(self.matrices), -1)
        products = flat @ flat.T
        return np.pad(products, (0, 1), constant_values=self.df) if self.own else products

    def left(self, k: int) -> float:
        """Squared length of what all others leave of M of kernel `k`."""
        products = self.products()
        others = np.delete(np.arange(len(products)), k)
        if not others.size:
            return float(products[k, k])
        weights = np.linalg.lstsq(products[np.ix_(others, others)], products[others, k], rcond=None)[0]
        return float(products[k, k] - products[others, k] @ weights)

    def spread(self, k: int) -> float:
        """Squared length of what P leaves of M of kernel `k`."""
        return float((self.matrices[k] ** 2).sum() - self.df)

    def correlation(self, i: int, j: int) -> float:
        """Of the entries of two kernels beside the fixed effects, what they have of the identity left out."""
        product = float((self.matrices[i] * self.matrices[j]).sum() - self.df)
        return product / np.sqrt(max(self.spread(i), _SAME * self.df) * max(self.spread(j), _SAME * self.df))


def find_rivals(design: Design) -> list[Rivals]:
    """The terms that share levels and a column, where some have a kernel."""
    sets: dict[tuple[bytes, str], list[tuple[RandomTerm, int]]] = {}
    for term in design.random_terms if design.parsed.covs else ():
        same_levels = pd.factorize(term.codes)[0].tobytes()
        for j, column in enumerate(term.columns):
            sets.setdefault((same_levels, column), []).append((term, j))
    found = [
        _rivals(design, *own[0], [term for term, _ in own])
        for own in sets.values()
        if any(term.bar.kernel is not None for term, _ in own)
    ]
    return [rivals for rivals in found if rivals is not None]


def _rivals(design: Design, term: RandomTerm, j: int, terms: list[RandomTerm]) -> Rivals | None:
    """The rivals among terms that have the levels and column `j` of one of them; None where fixed effects take all."""
    seen = np.flatnonzero((term.Z[:, j] != 0) | (term.varying[j] >= 0))
    n = np.bincount(design.codes[design.codes >= 0], minlength=design.n_patterns)
    codes = term.codes[seen]
    levels, first = np.unique(codes, return_index=True)
    single = bool(np.bincount(codes, weights=n[seen]).max(initial=0) <= 1)
    free = [t.label for t in terms if t.bar.kernel is None]
    basis = _of_levels(design, term.columns[j], seen, codes)
    kernels = [(t, kernel) for t in terms if (kernel := t.bar.kernel) is not None]
    raw = [kernel.on([t.levels[code] for code in t.codes[seen[first]]]) for t, kernel in kernels]
    matrices, df = np.stack([_beside(K, basis) for K in raw]), len(levels) - basis.shape[1]
    size = np.einsum("kii->k", matrices) / max(df, 1)
    if df < 1 or (size <= _SAME * np.array([np.trace(K) for K in raw])).any():
        return None
    own = listing(free) if free else "the residual, of which each level has one row" if single else ""
    return Rivals(tuple(t for t, _ in kernels), matrices / size[:, None, None], df, own, tuple(map(_largest, raw)))


def _of_levels(design: Design, column: str, seen: IntArray, codes: IntArray) -> FloatArray:
    """An orthonormal basis (levels, q) of the fixed effects on levels: for slopes, of a constant."""
    first = np.unique(codes, return_index=True)[1]
    if column == "(Intercept)":
        X = design.X[seen][:, np.array(design.varying) < 0]
        X = X[:, constant_within(X, codes)][first]
    else:
        X = np.ones((len(first), 1))
    U, size, _ = np.linalg.svd(
        X / np.where(X.any(axis=0), np.abs(X).max(axis=0, initial=0.0), 1.0), full_matrices=False
    )
    return np.asarray(U[:, size > 1e-10 * size.max(initial=0.0)])


def _beside(K: FloatArray, basis: FloatArray) -> FloatArray:
    """PKP with P = I - UU'."""
    half = K - basis @ (basis.T @ K)
    return half - (half @ basis) @ basis.T


def _largest(K: FloatArray) -> float:
    """The largest correlation of two levels."""
    return float(np.abs(correlations(K)[~np.eye(len(K), dtype=bool)]).max(initial=0.0))


def check_rivals(design: Design) -> None:
    """Raise where a kernel says what other terms of its levels, or the residual, say already.

    Raises
    ------
    DesignError
        Names the terms.
    """
    for rivals in find_rivals(design):
        for k, term in reversed([*enumerate(rivals.kernels)]):
            length = float((rivals.matrices[k] ** 2).sum())
            others = [t.label for t in rivals.kernels if t is not term]
            if rivals.left(k) > _SAME * length or not (others or rivals.own):
                continue
            if rivals.own and rivals.spread(k) <= _SAME * length:
                raise DesignError(
                    f"`{term.label}` cannot be told from {rivals.own}: on the {len(term.levels):,} levels in use, beside the fixed "
                    f"effects, the kernel `{term.bar.cov}` is the identity, so that both say the same. Leave it out."
                )
            twin = next((j for j in range(k) if rivals.correlation(k, j) > 1 - _SAME**0.5), None)
            if twin is not None:
                raise DesignError(
                    f"The kernels `{rivals.kernels[twin].bar.cov}` and `{term.bar.cov}` are the same on the levels in use, but for a factor "
                    "or what each level has of its own (correlation 1 of their entries beside the fixed effects): how the variance "
                    "is shared between them cannot be told. Leave one of them out."
                )
            raise DesignError(
                f"`{term.label}` cannot be told from {listing(others)}{f' and {rivals.own}' if rivals.own else ''}: on the "
                f"{len(term.levels):,} levels in use its kernel is made up of theirs, and how the variance is shared between them "
                "cannot be told. Leave one of them out."
            )


def hardly_told(design: Design) -> list[str]:
    """Kernels that are nearly the same, or hardly told from independent levels, a sentence each."""
    return list(dict.fromkeys(text for rivals in find_rivals(design) for text in _said(rivals)))


def _said(rivals: Rivals) -> Iterator[str]:
    told: set[int] = set()
    for i in range(len(rivals.kernels)):
        for j in range(i):
            r = rivals.correlation(i, j)
            if r >= _ALIKE:
                told |= {i, j}
                first, second = rivals.kernels[j].bar.cov, rivals.kernels[i].bar.cov
                yield (
                    f"The kernels `{first}` and `{second}` are nearly the same on the levels in use (correlation {r:.2f} of their "
                    "entries beside the fixed effects): how the variance is shared between them can hardly be told. Keep one of "
                    "them, or read their sum only."
                )
    for k in range(len(rivals.kernels)):
        if k not in told and (rivals.own or len(rivals.kernels) > 1) and _error(rivals.left(k)) >= _HARDLY:
            yield _hardly(rivals, k)


def _error(squared_length: float) -> float:
    return float(np.sqrt(2.0 / max(squared_length, np.finfo(float).tiny)))


def _hardly(rivals: Rivals, k: int) -> str:
    """That a kernel is hardly told from what there is beside it, and why."""
    term, others = rivals.kernels[k], [t.label for t in rivals.kernels if t is not rivals.kernels[k]]
    beside = " and ".join(filter(None, (listing(others), rivals.own)))
    why = ""
    if _error(rivals.spread(k)) >= _HARDLY:
        related = (
            "" if rivals.largest[k] > _UNRELATED else f", no two levels are related (at most {rivals.largest[k]:.2g})"
        )
        why = f" The kernel is nearly the identity on the levels in use (its eigenvalues vary by {_variation(rivals, k):.1g} of their mean{related})."
    return (
        f"`{term.label}` can hardly be told from {beside}: the standard error of its share of the variance between levels is "
        f"{_error(rivals.left(k)):.1g} at best, so that none and all of it are alike.{why} Tests of fixed effects hold; do not read the share."
    )


def _variation(rivals: Rivals, k: int) -> float:
    """Coefficient of variation of the eigenvalues of M."""
    return float(np.sqrt(max(rivals.spread(k), 0.0) / rivals.df))


def gives_own(term: RandomTerm) -> bool:
    """Whether a term gives each level an effect of its own: without a kernel, or with one that is nearly the identity."""
    if not term.bar.cov:
        return True
    if term.bar.kernel is None or not term.bar.kernel.has(term.levels):
        return False
    K = term.bar.kernel.on(term.levels)
    n = len(K)
    M = _beside(K, np.full((n, 1), 1 / np.sqrt(n)))
    size = np.trace(M) / max(n - 1, 1)
    return bool(size > 0 and _error(float((M**2).sum() / size**2 - (n - 1))) >= _HARDLY)


def without_shared(design: Design) -> Design:
    """The design with those of its random terms that give each level an effect of its own."""
    return replace(design, random_terms=tuple(term for term in design.random_terms if gives_own(term)))
