"""What keeps variances of random terms from being estimated: nothing is left of their levels, or others say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.independence import are_spanned
from donorwise._core.design.names import quote
from donorwise._core.design.terms import is_categorical, variables
from donorwise._core.wording import listing
from donorwise._typing import FloatArray
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm

_RANK = 1e-10  # of the largest eigenvalue of a kernel, below which there is none
_DEPENDENT = 1e-12  # products of indicators are exact but for rounding in the eigenvalues


def check_random_size(term: RandomTerm, n: int, *, related: bool = False) -> None:
    """Raise when a term has as many effects as there are rows; `related` says that another ties its levels by a kernel."""
    if len(term.levels) == n:
        advice = (
            "The residual is what each level has of its own, beside what the kernel says: leave the term out."
            if related
            else "A grouping factor has several rows per level: donors or samples, not cells."
        )
        raise DesignError(
            f"`{term.label}` has one level per row ({n:,} of each), so it cannot be told from the residual. {advice}"
        )
    n_effects = len(term.levels) * len(term.columns)
    if n_effects >= n:
        raise DesignError(
            f"`{term.label}` has {n_effects:,} random effects ({len(term.levels):,} levels x {len(term.columns)}) "
            f"for {n:,} rows: they cannot be told from the residual. Use fewer slopes or a coarser grouping factor."
        )


def check_replication(X: FloatArray, names: tuple[str, ...], term: RandomTerm) -> None:
    """Raise when the fixed effects fit every effect of a term of one column, so that its variance has no data left.

    Parameters
    ----------
    X
        Shape (n, p). The K patterns first, then rows that span what varies inside them.
    """
    if len(term.columns) > 1 or term.varying[0] >= 0:
        return
    effects = np.zeros((len(X), len(term.levels)))
    effects[np.arange(len(term.codes)), term.codes] = term.Z[:, 0]
    kernel = term.bar.kernel
    if kernel is None:
        effects = effects[:, effects.any(axis=0)]
    else:
        effects = _tied(effects, kernel.on(term.levels), len(names))
    n = effects.shape[1]
    if n > len(names) or not are_spanned(X, effects, names):
        return
    if term.bar.cov:
        raise DesignError(
            f"The fixed effects already give all that the kernel `{term.bar.cov}` says of the {len(term.levels):,} levels in use, "
            f"where its rank is {n}, so nothing is left to estimate `{term.label}` from. A kernel that is the same for all pairs is "
            "the intercept; one that divides the levels into sets is the factor of these."
        )
    which = f"the {n} level{'' if n == 1 else 's'} of `{term.group}`"
    which += "" if term.columns == ("(Intercept)",) else f" that have `{term.columns[0]}`"
    raise DesignError(
        f"The fixed effects already fit each of {which} exactly, so nothing is left to estimate `{term.label}` from, and "
        f"no comparison between levels of `{term.group}` has replicates. "
        f"Use more levels of `{term.group}`, or fewer fixed effects that are constant within them."
    )


def _tied(effects: FloatArray, K: FloatArray, most: int) -> FloatArray:
    """Columns (n, rank) for the effects of levels (n, levels) that K ties together; any, if they are more than `most`."""
    if np.trace(K) ** 2 > (most + 1) * (K**2).sum():  # the rank is no less than their ratio
        return effects
    values, vectors = np.linalg.eigh(K)
    kept = values > _RANK * values.max(initial=0.0)
    return np.asarray(effects @ (vectors[:, kept] * np.sqrt(values[kept])))


def check_told_apart(design: Design) -> None:
    """Raise when ``||`` makes terms of a grouping factor whose variances cannot be told apart.

    The covariance of the rows of a level is a sum of z z', a term's variance times its column's. Where these products
    are linearly dependent over the levels (1 1' is the sum of those of two arms, if each donor is in one of them),
    other variances give the same covariance.
    """
    groups: dict[str, list[RandomTerm]] = {}
    for term in design.random_terms:
        if len(term.columns) == 1 and term.varying[0] < 0 and not term.bar.cov:
            groups.setdefault(term.group, []).append(term)
    for group, terms in groups.items():
        factors = [t for t in terms if any(is_categorical(design.frame[v]) for v in variables(t.bar.terms))]
        if factors and _smallest_share(terms) < _DEPENDENT:
            raise DesignError(
                f"The variances of {listing(t.label for t in terms)} cannot be told apart: other values of them give the "
                f"same covariances, because levels of `{group}` do not have several levels of the factor. Keep the variance "
                f"of each level, `(0 + {factors[0].bar.columns.removeprefix('0 + ')} || {quote(group)})`, and leave the others out."
            )


def _smallest_share(terms: Sequence[RandomTerm]) -> float:
    """Smallest eigenvalue of the inner products of z z' of one-column terms of the same levels, each of length 1."""
    Z = np.hstack([t.Z for t in terms])
    products = np.zeros((len(terms[0].levels), len(terms), len(terms)))
    np.add.at(products, terms[0].codes, Z[:, :, None] * Z[:, None, :])
    gram = (products**2).sum(axis=0)
    scale = np.sqrt(np.diag(gram))
    return float(np.linalg.eigvalsh(gram / np.outer(scale, scale)).min())
