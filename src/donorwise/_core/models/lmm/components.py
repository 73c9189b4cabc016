"""What the variances of Gaussian models are in words: covariances of the terms, shares of variance, random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.crossproducts import Responses
from donorwise._core.models.lmm.equations import Estimates
from donorwise._core.models.lmm.evaluate import evaluate_block

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.lmm.crossproducts import TermBasis
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._core.models.lmm.evaluate import Evaluation
    from donorwise._typing import FloatArray, IntArray

_DOUBLES = 4_000_000  # of the blocks of some features, that are dealt with at a time
_ROUNDING = 1e-24  # variance, relative to what it was summed from or to what a level says of it, below which it is zero


def relative_covariance(t: int, parameter: IntArray, gamma: FloatArray) -> FloatArray:
    """T of term `t` in its internal basis, (G, r, r)."""
    own = np.flatnonzero(parameter[:, 0] == t)
    r = int(parameter[own, 1].max()) + 1
    T = np.zeros((gamma.shape[0], r, r))
    for k in own:
        _, i, j = parameter[k]
        T[:, i, j] = T[:, j, i] = gamma[:, k]
    return T


def original_covariance(equations: Equations, t: int, gamma: FloatArray) -> FloatArray:
    """T of term `t` for the columns as the formula has them, (G, r, r)."""
    internal, back = relative_covariance(t, equations.blocks.parameter, gamma), equations.terms[t].back
    total = np.einsum("gii->g", internal)
    # or its correlations would be those of rounding errors
    internal[total * equations.information[t] < _ROUNDING] = 0.0
    T = back @ internal @ back.T
    rounding = np.einsum("gii->gi", T) < _ROUNDING * total[:, None] * (back**2).sum(axis=1)
    T[rounding[:, :, None] | rounding[:, None, :]] = 0.0
    return T


def smallest_variance(parameter: IntArray, gamma: FloatArray) -> FloatArray:
    """Smallest eigenvalue of any term's relative covariance in the internal basis, (G,)."""
    smallest = np.full(gamma.shape[0], np.inf)
    for t in np.unique(parameter[:, 0]):
        T = np.nan_to_num(relative_covariance(t, parameter, gamma))
        smallest = np.minimum(smallest, np.linalg.eigvalsh(T)[:, 0])
    return smallest


def cholesky_psd(T: FloatArray) -> FloatArray:
    """Lower Cholesky factors of (G, r, r) matrices that may be singular; zero columns where they are."""
    L = np.zeros_like(T)
    r = T.shape[1]
    for c in range(r):
        pivot = T[:, c, c] - (L[:, c, :c] ** 2).sum(axis=1)
        root = np.sqrt(np.where((pivot > 1e-14 * T[:, c, c]) | np.isnan(pivot), pivot, 0))
        L[:, c, c] = root
        for i in range(c + 1, r):
            rest = T[:, i, c] - (L[:, i, :c] * L[:, c, :c]).sum(axis=1)
            L[:, i, c] = np.divide(rest, root, out=np.zeros_like(rest), where=root != 0)
    return L


def covariances(equations: Equations, gamma: FloatArray) -> list[FloatArray]:
    """T of every term for the columns as the formula has them, (G, r, r) each."""
    return [original_covariance(equations, t, gamma) for t in range(len(equations.terms))]


def to_basis(equations: Equations, other: Equations, gamma: FloatArray) -> FloatArray:
    """Relative covariances (G, K) in the internal basis of other equations of the same terms.

    The bases differ by the cells' weights.
    """
    parameter, out = other.blocks.parameter, np.empty_like(gamma)
    for t, (T, basis) in enumerate(zip(covariances(equations, gamma), other.terms, strict=True)):
        internal = basis.factor.T @ T @ basis.factor
        for k in np.flatnonzero(parameter[:, 0] == t):
            out[:, k] = internal[:, parameter[k, 1], parameter[k, 2]]
    return out


def with_covariances(equations: Equations, points: FloatArray) -> FloatArray:
    """Relative covariances (K, parameters) from ratios and correlations."""
    return points * _spreads(equations, points)


def with_correlations(equations: Equations, gamma: FloatArray) -> FloatArray:
    """Ratios and correlations (K, parameters) from relative covariances; 0 where a variance is."""
    spreads = _spreads(equations, gamma)
    return np.divide(gamma, spreads, out=np.zeros_like(gamma), where=spreads > 0)


def _spreads(equations: Equations, points: FloatArray) -> FloatArray:
    """What takes correlations to covariances, (K, parameters); 1 for variances."""
    out, parameter = np.ones_like(points), [tuple(own) for own in equations.blocks.parameter]
    for k, (t, i, j) in enumerate(parameter):
        if i != j:
            out[:, k] = np.sqrt(points[:, parameter.index((t, i, i))] * points[:, parameter.index((t, j, j))])
    return out


def parameter_name(basis: TermBasis, i: int, j: int) -> str:
    """A variance (i = j) or correlation of a random term, in the internal basis."""
    label, names = basis.term.label, basis.names
    if len(names) == 1:
        return label
    first, second = (("1" if name == "(Intercept)" else name) for name in (names[i], names[j]))
    if i != j:
        return f"correlation of {first} and {second} in {label}"
    return f"{first} in {label}" + (" (at the mean of the others)" if i < len(names) - 1 else "")


def theta_names(design: Design) -> tuple[str, ...]:
    """Names of the relative covariance factors, lower triangles column by column, as lme4 has them."""
    names = []
    for term in design.random_terms:
        for j, second in enumerate(term.columns):
            for i in range(j, len(term.columns)):
                first = term.columns[i]
                names.append(f"{term.name}.{first}" if i == j else f"{term.name}.{first}.{second}")
    return tuple(names)


def theta_of(equations: Equations, gamma: FloatArray) -> FloatArray:
    """Relative covariance factors of the original columns, (G, K)."""
    parameter, out = equations.blocks.parameter, np.empty_like(gamma)
    for t, T in enumerate(covariances(equations, gamma)):
        factor = cholesky_psd(T)
        for k in np.flatnonzero(parameter[:, 0] == t):
            out[:, k] = factor[:, parameter[k, 1], parameter[k, 2]]
    return out


def mean_variances(equations: Equations, gamma: FloatArray) -> FloatArray:
    """Average of z'Var(u)z over the rows for every term, relative to the residual variance, (G, terms).

    The internal columns are orthonormal on average, so the average is the trace.
    """
    parameter, out = equations.blocks.parameter, np.empty((len(gamma), len(equations.terms)))
    for t in range(len(equations.terms)):
        out[:, t] = np.einsum("gii->g", relative_covariance(t, parameter, gamma))
    return out


def of_terms(equations: Equations) -> IntArray:
    """The term whose variance each parameter is, -1 for a covariance."""
    parameter = equations.blocks.parameter
    return np.where(parameter[:, 1] == parameter[:, 2], parameter[:, 0], -1)


def term_variances(equations: Equations, estimates: Estimates) -> FloatArray:
    """Mean variance over the rows of every term, then the residual variance, (G, terms + 1)."""
    own = mean_variances(equations, estimates.gamma)
    return np.asarray(estimates.sigma2[:, None] * np.column_stack([own, np.ones(len(own))]))


def fixed_variance(equations: Equations, estimates: Estimates) -> FloatArray:
    """Variance over the rows of the fitted fixed part, (G,)."""
    delta = estimates.beta @ equations.fixed.R.T
    return np.einsum("ga,ab,gb->g", delta, equations.spread, delta)


def without_responses(equations: Equations, gamma: FloatArray) -> Estimates:
    """What does not depend on responses, at relative covariances (points, K) and a residual variance of one."""
    n, q = len(gamma), equations.blocks.order.size
    zero = np.zeros(n, dtype=bool)
    nothing = Responses(np.zeros((n, equations.p)), np.zeros((n, q)), np.ones(n), np.zeros(n), zero, zero)
    gamma = np.ascontiguousarray(gamma)
    Phi = evaluate_block(equations.blocks, gamma, nothing, equations.nu(reml=True)).Phi
    one, unknown = np.ones(n), np.full(n, np.nan)
    return Estimates(
        nothing, True, np.zeros((n, equations.p)), Phi, gamma, one, unknown, np.full(n, "ok"), zero.astype(int)
    )


def contrast_variance(equations: Equations, L: FloatArray, gamma: FloatArray) -> FloatArray:
    """c'(X'V⁻¹X)⁻¹c of one contrast L (1, p) at relative covariances (points, K), relative to sigma2."""
    c, Phi = equations.turned(L)[0], without_responses(equations, gamma).Phi
    return np.einsum("p,gpr,r->g", c, Phi, c)


def random_effects(equations: Equations, estimates: Estimates, t: int) -> tuple[FloatArray, FloatArray]:
    """Conditional modes of term `t` and their conditional covariances given beta, original basis.

    The mode is GZ'Py and its covariance sigma2 (G - G D G), D = Z'V⁻¹Z (lme4's condVar).

    Returns
    -------
    (modes (G, levels, r), covariances (G, levels, r, r))
    """
    n, size = estimates.sigma2.size, max(1, _DOUBLES // equations.blocks.S.size)
    some = [estimates.take(np.arange(i, min(i + size, n))) for i in range(0, n, size)] or [estimates]
    parts = [_effects(equations, own, t) for own in some]
    return np.concatenate([modes for modes, _ in parts]), np.concatenate([covariance for _, covariance in parts])


def _effects(equations: Equations, estimates: Estimates, t: int) -> tuple[FloatArray, FloatArray]:
    """The same of some features, at once."""
    at = evaluate_block(equations.blocks, estimates.gamma, estimates.responses, equations.nu(reml=True), posterior=True)
    basis = equations.terms[t]
    T = relative_covariance(t, equations.blocks.parameter, estimates.gamma)
    if equations.coupling is not None:
        modes, covariance = _coupled_effects(equations.coupling.effects[t], basis.kernel, T, at)
    else:
        columns = _columns(equations, t)
        modes, D = at.u[:, columns], at.D[:, _diagonal_blocks(equations, columns)]
        modes = np.einsum("gij,glj->gli", T, modes)
        covariance = T[:, None] - T[:, None] @ D @ T[:, None]
    covariance = estimates.sigma2[:, None, None, None] * covariance
    back = basis.back * np.sqrt(basis.size)
    return modes @ back.T, back @ covariance @ back.T


def _coupled_effects(
    effects: FloatArray, kernel: FloatArray | None, T: FloatArray, at: Evaluation
) -> tuple[FloatArray, FloatArray]:
    """Modes (G, levels, r) and conditional covariances (G, levels, r, r), relative to sigma2, of a term in a dense block.

    With M_i = sum_j T_ij effects_j the modes are M_i Z̃'Py, and the covariance of columns i and j in a level is that of
    T_ij K - M_i D M_j'.
    """
    m, own = at.u.shape[1], np.ones(effects.shape[1]) if kernel is None else np.diag(kernel)
    M = np.einsum("gij,jlm->gilm", T, effects)
    modes = np.einsum("gilm,gm->gli", M, at.u)
    if at.D.shape[1] == m:  # one variance: columns are independent
        shrunk = np.einsum("gilm,gm,gjlm->glij", M, at.D, M, optimize=True)
    else:
        shrunk = np.einsum("gilm,gjlm->glij", M @ at.D.reshape(-1, 1, m, m), M)
    return modes, T[:, None] * own[:, None, None] - shrunk


def _columns(equations: Equations, t: int) -> IntArray:
    """Block-order positions of the columns of term `t`, (levels, r)."""
    order = equations.blocks.order
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    sizes = [len(m.term.levels) * m.factor.shape[0] for m in equations.terms]
    first = sum(sizes[:t])
    return place[first : first + sizes[t]].reshape(-1, equations.terms[t].factor.shape[0])


def _diagonal_blocks(equations: Equations, columns: IntArray) -> IntArray:
    """Positions in the concatenated blocks of the r x r diagonal block of every level."""
    b = equations.blocks
    block = np.searchsorted(b.start, columns[:, 0], side="right") - 1
    size = np.diff(b.start)[block][:, None, None]
    local = columns - b.start[block][:, None]
    return b.S_start[block][:, None, None] + local[:, :, None] * size + local[:, None, :]
