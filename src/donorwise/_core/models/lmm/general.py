"""Features with rows of their own, and any random terms: each an ordinary mixed model (:class:`LMM`) of its own rows.

The general path beside ``ragged``, which takes terms of one column without a kernel; slower, since Python meets every feature.
The fixed part of a feature is X̃ N, N a basis of the directions that it has rows for, so that nothing is rank deficient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.cells.measures import Collapsed
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._core.models.lmm.equations import build_equations
from donorwise._core.models.lmm.fit import fit_collapsed
from donorwise._core.models.lmm.model import LMM
from donorwise._core.models.lmm.ragged import RaggedEstimates
from donorwise._typing import FITTED
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.models.lmm.ragged import RaggedEquations
    from donorwise._typing import BoolArray, FloatArray, IntArray

_INTERCEPT = "(Intercept)"


class Used(NamedTuple):
    """A random term as a feature has it: which term, and its columns there; -1 for an intercept that the formula has not."""

    term: int
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Own:
    """The model of one feature.

    Attributes
    ----------
    model
        Of the terms that the feature can tell.
    used
        What its terms are of the formula's.
    basis
        Shape (p, r). N: what takes its coefficients to those of the common basis.
    to_own
        Shape (r, p). What takes the common basis to the model's orthonormal one, X̃ = X̃_own `to_own`.
    """

    model: LMM
    used: tuple[Used, ...]
    basis: FloatArray
    to_own: FloatArray


def used_terms(design: Design, equations: RaggedEquations) -> list[tuple[Used, ...]]:
    """The terms of every feature, of those that it can tell (``equations.kept``).

    A term of several columns needs more rows than effects, as in lme4, and columns that are not combinations of one another.
    Of one that has not, an intercept is left, since its levels are replicates, unless the feature has another for them.
    """
    start, pattern = equations.rows.start, equations.rows.pattern
    return [
        _used(design.random_terms, equations.kept[g], equations.n_levels[g], pattern[start[g] : start[g + 1]])
        for g in range(equations.rows.n_features)
    ]


def _used(terms: Sequence[RandomTerm], kept: BoolArray, n_levels: IntArray, rows: IntArray) -> tuple[Used, ...]:
    """The terms of a feature with these rows (patterns)."""
    own, n = [t for t in range(len(terms)) if kept[t]], rows.size
    intercepts = {terms[t].group for t in own if terms[t].columns == (_INTERCEPT,)}
    found = []
    for t in own:
        columns, r = terms[t].columns, len(terms[t].columns)
        if (r == 1 or r * n_levels[t] < n) and np.linalg.matrix_rank(terms[t].Z[rows]) == r:
            found.append(Used(t, tuple(range(len(columns)))))
        elif r > 1 and n_levels[t] < n and terms[t].group not in intercepts:
            found.append(Used(t, (columns.index(_INTERCEPT) if _INTERCEPT in columns else -1,)))
    return tuple(found)


def fit_one(
    design: Design,
    equations: RaggedEquations,
    g: int,
    used: tuple[Used, ...],
    names: Sequence[Callable[[int], str]],
    *,
    reml: bool,
) -> Own | None:
    """Fit feature `g`; None where it has no estimates. `names` give the levels of every term by code."""
    rows = equations.rows.take_features(np.array([g]))
    basis = equations.basis[g, :, : equations.rank[g]]
    local = equations.local[equations.rows.start[g] : equations.rows.start[g + 1]]
    terms = tuple(_term(design.random_terms[u.term], u, rows.pattern, local, rows.codes, names[u.term]) for u in used)
    own = replace(
        design, codes=np.arange(rows.y.size, dtype=np.int32), X=equations.X[rows.pattern] @ basis,
        fixed_names=tuple(f"x{i}" for i in range(basis.shape[1])), varying=(-1,) * basis.shape[1], random_terms=terms,
        covariates=np.empty((rows.y.size, 0)),
    )  # fmt: skip
    collapsed = _collapsed(rows.y, rows.w)
    try:
        shared = build_equations(own, collapsed)
    except DesignError:
        return None
    model = LMM(np.zeros(1, dtype=np.int64), shared, fit_collapsed(shared, collapsed, reml=reml), None)
    return Own(model, used, basis, shared.fixed.R @ np.linalg.pinv(basis))


def _term(
    term: RandomTerm, used: Used, pattern: IntArray, local: IntArray, codes: IntArray, name: Callable[[int], str]
) -> RandomTerm:
    """A term on the rows of one feature."""
    Z = np.column_stack([np.ones(pattern.size) if c < 0 else term.Z[pattern, c] for c in used.columns])
    columns = tuple(_INTERCEPT if c < 0 else term.columns[c] for c in used.columns)
    first = np.unique(local[:, used.term], return_index=True)[1]
    levels = tuple(name(int(code)) for code in codes[first, used.term])
    return replace(
        term, levels=levels, codes=local[:, used.term], columns=columns, Z=Z, varying=(-1,) * len(columns),
        at=tuple(range(len(columns))),
    )  # fmt: skip


def _collapsed(y: FloatArray, w: FloatArray) -> Collapsed:
    """Rows as patterns of one row each."""
    n, ones = y.size, np.ones(y.size, dtype=np.int64)
    return Collapsed(
        ones, w, np.log(w), y[:, None], np.zeros((n, 1)), np.empty((n, 0)), np.empty((n, 0, 0)), np.empty((n, 0, 1)),
        np.empty((n, 0)),
    )  # fmt: skip


def estimates_of(
    equations: RaggedEquations, owns: Sequence[Own | None], reduced: BoolArray, *, reml: bool
) -> RaggedEstimates:
    """The estimates of all features in the common basis; `gamma` is that of the first column of every term."""
    G, T, p = *equations.n_levels.shape, equations.p
    beta, Phi = np.full((G, p), np.nan), np.full((G, p, p), np.nan)
    sigma2, loglik, gamma = np.full(G, np.nan), np.full(G, np.nan), np.zeros((G, T))
    usable = ~(equations.constant | equations.explained)
    status = np.where(usable, "not_converged", np.where(equations.constant, "constant", "not_estimable"))
    status, n_iter = status.astype(STATUS_DTYPE), np.zeros(G, dtype=np.int64)
    for g, own in enumerate(owns):
        if own is None:
            continue
        found, B = own.model.estimates, own.basis @ own.model.equations.fixed.inverse
        beta[g], Phi[g] = own.basis @ found.beta[0], B @ found.Phi[0] @ B.T
        sigma2[g], loglik[g], n_iter[g] = found.sigma2[0], found.loglik[0], found.n_iter[0]
        status[g] = "reduced" if reduced[g] and found.status[0] in FITTED else found.status[0]
        for u, covariance in zip(own.used, own.model.covariances(), strict=True):
            gamma[g, u.term] = covariance[0, 0, 0] / sigma2[g]
    if reml:
        loglik -= 0.5 * equations.log_det_basis
    return RaggedEstimates(
        reml, beta @ equations.inverse.T, Phi, beta - equations.ols, gamma, sigma2, loglik, status, n_iter
    )
