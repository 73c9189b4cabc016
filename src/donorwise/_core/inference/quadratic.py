"""Confidence distributions of what terms contribute to a variance: quadratic forms q = beta'S beta of normal estimates.

The squared length of an estimate is too large by what it varies, and so is that of a draw about it, which adds its own:
posterior draws of beta under a flat prior give intervals of q that hardly ever reach down to it (Stein 1959, Ann Math Stat
30:877). What is known of q is said by the law of its estimate, which with the weights w of S and the covariance C is that of

    q_hat ~ w chi2_d(q / w),   w d = tr(SC),   w = (tr(SCSC) + 2 beta'SCS beta) / (tr(SC) + 2 q_hat),

a scaled non-central chi-squared with its mean and variance. With the normal approximation of its root (Sankaran 1959,
Biometrika 46:235), sqrt(x - (d - 1)/2) ~ N(sqrt(lambda + (d - 1)/2), 1), a draw of q is

    w max((sqrt(max(q_hat / w - (d - 1)/2, 0)) + z)_+^2 - (d - 1)/2, 0),   z ~ N(0, 1),

which is exact for one column, but where the estimate is as far from zero as it is off. The z of several forms are the
deviations of beta along their gradients, so that they go together as the estimates do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._typing import FloatArray, IntArray


class Forms(NamedTuple):
    """Estimates of F quadratic forms of m coefficients at U points.

    Attributes
    ----------
    estimate, trace, square, slope
        Shape (U, F). q_hat, tr(SC), tr(SCSC), beta'SCS beta.
    direction
        Shape (U, F, m). What takes m independent normal deviates to z.
    beta, root
        Shapes (U, m), (U, m, m). Estimates, and a root of their covariance.
    """

    estimate: FloatArray
    trace: FloatArray
    square: FloatArray
    slope: FloatArray
    direction: FloatArray
    beta: FloatArray
    root: FloatArray


def forms(beta: FloatArray, C: FloatArray, S: FloatArray, terms: Sequence[Sequence[int]]) -> Forms:
    """Forms of some terms, from estimates (U, m), their covariances (U, m, m), and S (m, m) or (U, m, m).

    A term is the columns that it has.
    """
    values, vectors = np.linalg.eigh(C)
    root = vectors * np.sqrt(np.clip(values, 0, None))[:, None, :]
    made = [_form(beta, C, S, root, list(columns)) for columns in terms]
    estimate, trace, square, slope, direction = (np.stack(own, axis=1) for own in zip(*made, strict=True))
    return Forms(estimate, trace, square, slope, direction, beta, root)


def _form(beta: FloatArray, C: FloatArray, S: FloatArray, root: FloatArray, at: list[int]) -> tuple[FloatArray, ...]:
    """Estimate, trace, square, slope and direction of one term."""
    own = S[..., at, :][..., at]
    h = (own @ beta[:, at, None])[..., 0]
    SC = own @ C[:, at, :][:, :, at]
    direction = np.einsum("ua,uam->um", h, root[:, at])
    slope = (direction**2).sum(axis=1)
    length = np.sqrt(slope)[:, None]
    any_way = np.zeros_like(direction)  # there is no gradient at an estimate of zero
    any_way[:, at[0]] = 1.0
    direction = np.divide(direction, length, out=any_way, where=length > 0)
    return (h * beta[:, at]).sum(axis=1), np.einsum("uaa->u", SC), np.einsum("uab,uba->u", SC, SC), slope, direction


def draws(of: Forms, at: IntArray, normal: FloatArray, factor: FloatArray) -> FloatArray:
    """Draws (G, D, F) of the forms.

    Parameters
    ----------
    of
        Forms at U points.
    at
        Shape (G, D). The point of every draw.
    normal
        Shape (D, m). Independent normal deviates, which the features share.
    factor
        Shape (G, D). What the covariances are multiplied by.
    """
    out = np.empty((*at.shape, of.estimate.shape[1]))
    for f in range(out.shape[2]):
        z = np.einsum("gdm,dm->gd", of.direction[at, f], normal)
        q, trace = of.estimate[at, f], factor * of.trace[at, f]
        scale = (factor**2 * of.square[at, f] + 2 * factor * of.slope[at, f]) / np.maximum(trace + 2 * q, _TINY)
        scale = np.maximum(scale, _TINY)
        half = 0.5 * (trace / scale - 1)
        root = np.sqrt(np.maximum(q / scale - half, 0)) + z
        out[..., f] = scale * np.maximum(np.maximum(root, 0) ** 2 - half, 0)
    return out


def drawn_coefficients(of: Forms, at: IntArray, normal: FloatArray, factor: FloatArray) -> FloatArray:
    """Coefficients (G, D, m) about their estimates, with the same deviates."""
    return of.beta[at] + np.sqrt(factor)[:, :, None] * np.einsum("gdab,db->gda", of.root[at], normal)


_TINY = np.finfo(float).tiny
