"""A safeguarded Newton method for few parameters, whose gradient is exact and whose Hessian is its differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.glmm.marginal import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._typing import FloatArray

_ROUNDS, _STEPS = 12, 15
_CONVERGED = 1e-13  # twice the log-likelihood that a step is to gain: parameters are within 3e-7 standard errors
_NEAR = 1e-5  # the same, from which on the Hessian must be that of the place
_HALVINGS = 25
_FLATTEST = 1e-8  # eigenvalue of a Hessian, relative to the largest


class Point(NamedTuple):
    """A log-likelihood at parameters x, (d,), its gradient, and the fixed effects that belong to them."""

    value: float
    gradient: FloatArray
    beta: FloatArray


class Maximum(NamedTuple):
    """A maximum: the parameters, the point, minus its Hessian, and the derivatives (p, d) of the fixed effects.

    Not `converged` is the best point that was found.
    """

    x: FloatArray
    point: Point
    hessian: FloatArray
    slope: FloatArray
    n_iter: int
    converged: bool


def maximise(
    evaluate: Callable[[FloatArray], Point],
    start: FloatArray,
    steps: Callable[[FloatArray], FloatArray],
    share: Callable[[FloatArray], float],
) -> Maximum:
    """Newton steps with a Hessian that BFGS keeps, taken anew where they end.

    Parameters
    ----------
    evaluate
        The function; raises :class:`NotFoundError` where it has no value.
    start
        Where to begin, (d,).
    steps
        How far to go for the differences at x, (d,).
    share
        How much of a step may be taken.

    Raises
    ------
    NotFoundError
        The function has no value where it begins.
    """
    x, point = start, evaluate(start)
    n_iter = 0
    for _ in range(_ROUNDS):
        H, slope = differences(evaluate, x, steps(x), point.beta.size)
        values = np.linalg.eigvalsh(H)
        if values.size == 0 or (values[0] > 0 and point.gradient @ np.linalg.solve(H, point.gradient) < _CONVERGED):
            return Maximum(x, point, H, slope, n_iter, converged=True)
        x, point = _leave(evaluate, x, point, H, share)
        x, point, used = _approach(evaluate, x, point, H, share)
        n_iter += used
    return Maximum(x, point, H, slope, n_iter, converged=False)


def differences(
    evaluate: Callable[[FloatArray], Point], x: FloatArray, h: FloatArray, p: int
) -> tuple[FloatArray, FloatArray]:
    """Minus the Hessian (d, d), and the derivatives of the fixed effects (p, d), by central differences."""
    H, slope = np.zeros((x.size, x.size)), np.zeros((p, x.size))
    for i, step in enumerate(h):
        move = np.zeros(x.size)
        move[i] = step
        up, down = evaluate(x + move), evaluate(x - move)
        H[i] = (down.gradient - up.gradient) / (2 * step)
        slope[:, i] = (up.beta - down.beta) / (2 * step)
    return (H + H.T) / 2, slope


def _leave(
    evaluate: Callable[[FloatArray], Point],
    x: FloatArray,
    point: Point,
    H: FloatArray,
    share: Callable[[FloatArray], float],
) -> tuple[FloatArray, Point]:
    """A step off a place that is level but no maximum, the way that rises most; elsewhere x itself.

    A likelihood is the same at a standard deviation and at minus it, and so level at zero: a step from s to -s leads there.
    """
    values, vectors = np.linalg.eigh(H)
    level = point.gradient @ (vectors / np.abs(values)) @ (vectors.T @ point.gradient) < _CONVERGED
    if not level or values[0] > -_FLATTEST * np.abs(values).max():
        return x, point
    step = vectors[:, 0] / np.sqrt(-values[0])
    return _descend(evaluate, x, point, step * share(step)) or (x, point)


def _approach(
    evaluate: Callable[[FloatArray], Point],
    x: FloatArray,
    point: Point,
    H: FloatArray,
    share: Callable[[FloatArray], float],
) -> tuple[FloatArray, Point, int]:
    """Quasi-Newton steps from x, until one is short or does not gain."""
    values, vectors = np.linalg.eigh(H)
    values = np.maximum(np.abs(values), _FLATTEST * np.abs(values).max())
    H = (vectors * values) @ vectors.T
    for used in range(1, _STEPS + 1):
        step = np.asarray(np.linalg.solve(H, point.gradient), dtype=np.float64)
        expected = float(point.gradient @ step)
        step *= share(step)
        moved = _descend(evaluate, x, point, step)
        if moved is None:
            return x, point, used
        new, found = moved
        y, s = point.gradient - found.gradient, new - x
        x, point = new, found
        if expected < _NEAR:
            return x, point, used
        if (curved := float(y @ s)) > 1e-10 * np.linalg.norm(y) * np.linalg.norm(s):
            Hs = H @ s
            H = H + np.outer(y, y) / curved - np.outer(Hs, Hs) / float(s @ Hs)
    return x, point, _STEPS


def _descend(
    evaluate: Callable[[FloatArray], Point], x: FloatArray, point: Point, step: FloatArray
) -> tuple[FloatArray, Point] | None:
    """The first halved step that does not lose; None where all do."""
    for _ in range(_HALVINGS):
        try:
            found = evaluate(x + step)
            if found.value >= point.value - 1e-11 * (1 + abs(point.value)) and np.isfinite(found.gradient).all():
                return x + step, found
        except NotFoundError:
            pass
        step = step / 2
    return None
