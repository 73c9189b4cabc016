"""Largest restricted likelihoods of models that are known by their law on a grid of variances.

Every face of the variances (some of them at zero, the others above) is searched by itself: the best point of its grid, then
the polynomial through the likelihood at a few points about it, in the logarithms of variances and in correlations, whose
maximum is refined until it lies inside. So likelihoods are exact to some 1e-6, whatever the grid is.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.jobs import in_threads
from donorwise._core.models.law import BUDGET, chunks, tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._core.models.law import Model
    from donorwise._typing import BoolArray, FloatArray, IntArray

_LOWER = 1e-4  # how far below its grid a variance is looked for, relative to the lowest
_WINDOWS = (
    0.3,
    0.06,
)  # half-widths, in logarithms of variances and in correlations; the narrow one where there are both
_SNAP = 0.5  # half-widths between the places that features' first windows share
_HOPELESS = 1.0  # log-likelihood that the grid of a face can be off by
_MOVES = 60  # windows until the maximum is inside
_NODES = {1: 7, 2: 5, 3: 5}  # of a window, along each of so many axes
_FINE = 17  # places along an axis at which the polynomial is looked at first
_STEPS = 4


class Best(NamedTuple):
    """Of G features: the largest log-likelihood (G,), NaN where none was found, and the point (G, axes) that has it."""

    loglik: FloatArray
    point: FloatArray


def best_of(model: Model, gone: BoolArray, n_jobs: int = 1) -> Best:
    """The optimum of all usable features where the variances and correlations `gone` (axes,) are zero."""
    size = int(np.prod([axis.size for axis in model.fine_axes()]))
    faces = list(_faces(model, gone))
    made = in_threads(
        lambda at: _best_of_faces(model, faces, at), chunks(model.usable, size, BUDGET, model.most_together), n_jobs
    )
    found = Best(np.full(model.features.size, np.nan), np.full((model.features.size, gone.size), np.nan))
    parts = list(made)
    if parts:
        found.loglik[model.usable] = np.concatenate([own.loglik for own in parts])
        found.point[model.usable] = np.concatenate([own.point for own in parts])
    return found


def _faces(model: Model, gone: BoolArray) -> Iterator[IntArray]:
    """The axes that are free on each face: some of the variances, and the correlations between them."""
    parameters = model.parameters
    diagonal = parameters[:, 1] == parameters[:, 2]
    variances = np.flatnonzero(diagonal & ~gone)
    for n in range(variances.size + 1):
        for chosen in combinations(variances, n):
            columns = {(int(parameters[k, 0]), int(parameters[k, 1])) for k in chosen}
            own = [
                k
                for k, (t, i, j) in enumerate(parameters.tolist())
                if not gone[k] and (k in chosen if i == j else {(t, i), (t, j)} <= columns)
            ]
            yield np.array(own, dtype=np.int64)


def _best_of_faces(model: Model, faces: list[IntArray], at: IntArray) -> Best:
    """The best of all faces for some features."""
    rough = [_on_grid(model, free, at) for free in faces]
    most = np.nanmax([own.loglik for own in rough], axis=0)
    best = Best(np.full(at.size, np.nan), np.zeros_like(rough[0].point))
    for free, own in zip(faces, rough, strict=True):
        hopeful = np.flatnonzero(own.loglik >= most - _HOPELESS)
        found = _refined(model, free, at[hopeful], own.point[hopeful]) if free.size else own
        loglik = found.loglik if free.size else own.loglik[hopeful]
        point = found.point if free.size else own.point[hopeful]
        better = ~(loglik <= best.loglik[hopeful])
        best.loglik[hopeful[better]], best.point[hopeful[better]] = loglik[better], point[better]
    return best


def _on_grid(model: Model, free: IntArray, at: IntArray) -> Best:
    """The best point of a face's grid."""
    parameters, axes = model.parameters, []
    for k, axis in enumerate(model.fine_axes()):
        if k not in free:
            axes.append(np.zeros(1))
        elif parameters[k, 1] != parameters[k, 2]:
            axes.append(axis)
        else:
            low = axis[axis > 0]
            axes.append(np.concatenate([np.geomspace(_LOWER * low[0], low[0], 9)[:-1], low]))
    points = tensor(axes)
    loglik = _known(model.on(points).loglik(at))
    best = np.where(np.isfinite(loglik), loglik, -np.inf).argmax(axis=1)
    return Best(loglik[np.arange(at.size), best], points[best])


def _known(loglik: FloatArray) -> FloatArray:
    """Log-likelihoods (G, points); NaN for features that have none, which say nothing: the same everywhere."""
    return np.where((loglik == 0).all(axis=1, keepdims=True), np.nan, loglik)


def _refined(model: Model, free: IntArray, at: IntArray, point: FloatArray) -> Best:
    """The maximum inside a face, from a point (G, axes) of its grid."""
    parameters = model.parameters[free]
    logs = parameters[:, 1] == parameters[:, 2]
    x = np.where(logs, np.log(np.where(logs, point[:, free], 1.0)), point[:, free])
    lowest = np.where(logs, x.min(axis=0, initial=0.0) - 2 * _WINDOWS[0], -1.0)
    highest = np.where(logs, np.inf, 1.0)
    loglik = np.full(at.size, np.nan)
    for half in _WINDOWS[: 1 + (not logs.all())]:
        centre = np.round(x / (_SNAP * half)) * _SNAP * half if half == _WINDOWS[0] else x
        todo = np.arange(at.size)
        for _ in range(_MOVES):
            centre = np.clip(centre, np.where(logs, lowest, -1 + half), np.where(logs, np.inf, 1 - half))
            u, loglik[todo] = _in_windows(model, free, logs, at[todo], centre[todo], half)
            x[todo] = centre[todo] + half * u
            edge = (np.abs(u) >= 1) & (x[todo] > lowest + 1e-9) & (x[todo] < highest - 1e-9)
            centre[todo] += half * np.where(edge, np.sign(u), 0.0)
            todo = todo[edge.any(axis=1)]
            if not todo.size:
                break
    out = np.zeros_like(point)
    out[:, free] = np.where(logs, np.exp(x), x)
    return Best(loglik, out)


def _in_windows(
    model: Model, free: IntArray, logs: BoolArray, at: IntArray, centre: FloatArray, half: float
) -> tuple[FloatArray, FloatArray]:
    """Place (G, free) in windows of this half-width about centres, -1 to 1, and value of the largest likelihood."""
    nodes = np.linspace(-1, 1, _NODES[free.size])
    u, value = np.zeros(centre.shape), np.full(at.size, np.nan)
    places, which = np.unique(centre.round(12), axis=0, return_inverse=True)
    which = which.ravel()
    for k, place in enumerate(places):
        own = np.flatnonzero(which == k)
        axes = [np.zeros(1)] * len(model.parameters)
        for i, a in enumerate(free):
            ticks = place[i] + half * nodes
            axes[a] = np.exp(ticks) if logs[i] else np.clip(ticks, -1, 1)
        loglik = _known(model.on(tensor(axes)).loglik(at[own]))
        u[own], value[own] = _maximum(loglik, free.size, nodes.size)
    return u, value


@cache
def _powers(n: int) -> FloatArray:
    """What takes values at n even nodes of [-1, 1] to the coefficients of their polynomial, (n, n)."""
    return np.asarray(np.linalg.inv(np.vander(np.linspace(-1, 1, n), increasing=True)))


def _maximum(values: FloatArray, d: int, n: int) -> tuple[FloatArray, FloatArray]:
    """Place (G, d) and value (G,) of the maximum over [-1, 1]^d of polynomials through values (G, n^d) at even nodes."""
    coefficients = values.reshape(-1, *(n,) * d)
    for i in range(d):
        coefficients = np.moveaxis(np.tensordot(coefficients, _powers(n), axes=(i + 1, 1)), -1, i + 1)
    fine = np.linspace(-1, 1, _FINE)
    seen, V = coefficients, np.vander(fine, n, increasing=True)
    for i in range(d):
        seen = np.moveaxis(np.tensordot(seen, V, axes=(i + 1, 1)), -1, i + 1)
    seen = np.where(np.isfinite(seen), seen, -np.inf).reshape(len(values), -1)
    u = tensor([fine] * d)[seen.argmax(axis=1)]
    value, slope, curve = _derivatives(coefficients, u)
    for _ in range(_STEPS):
        moved = np.clip(u + _newton(u, slope, curve), -1, 1)
        new, new_slope, new_curve = _derivatives(coefficients, moved)
        better = new > value
        u, value = np.where(better[:, None], moved, u), np.where(better, new, value)
        slope, curve = np.where(better[:, None], new_slope, slope), np.where(better[:, None, None], new_curve, curve)
    return u, value


def _newton(u: FloatArray, slope: FloatArray, curve: FloatArray) -> FloatArray:
    """Newton steps (G, d) towards maxima; nothing of an axis at its end, or where the polynomial is not concave."""
    held = (np.abs(u) >= 1) & (slope * u >= 0)
    H = np.where(held[:, :, None] | held[:, None, :], 0.0, -np.nan_to_num(curve)) + np.einsum(
        "gi,ij->gij", held, np.eye(u.shape[1])
    )
    concave = np.linalg.eigvalsh(H)[:, 0] > 0
    H[~concave] = np.eye(u.shape[1])
    step = np.linalg.solve(H, np.where(held, 0.0, np.nan_to_num(slope))[..., None])[..., 0]
    return np.where(concave[:, None], step, 0.0)


def _derivatives(coefficients: FloatArray, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Values (G,), gradients (G, d) and Hessians (G, d, d) of polynomials at places u (G, d)."""
    G, d = u.shape
    n, k = coefficients.shape[1], np.arange(coefficients.shape[1])
    bases = np.zeros((3, d, G, n))
    bases[0] = u.T[:, :, None] ** k
    bases[1, :, :, 1:] = bases[0, :, :, :-1] * k[1:]
    bases[2, :, :, 2:] = bases[0, :, :, :-2] * (k[2:] * (k[2:] - 1))

    def at(orders: IntArray) -> FloatArray:
        out = coefficients
        for i in range(d):  # the first axis that is left, one after another
            out = np.einsum("gn...,gn->g...", out, bases[orders[i], i])
        return out

    unit = np.eye(d, dtype=np.int64)
    slope = np.stack([at(unit[i]) for i in range(d)], axis=1)
    curve = np.stack([np.stack([at(unit[i] + unit[j]) for j in range(d)], axis=1) for i in range(d)], axis=1)
    return at(0 * unit[0]), slope, curve
