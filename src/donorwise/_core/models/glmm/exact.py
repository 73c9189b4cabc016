"""One feature's generalised mixed model by maximum or restricted likelihood: starts, the boundary, limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from donorwise._core.models.glmm.families import LOGIT
from donorwise._core.models.glmm.marginal import NotFoundError, find_mode
from donorwise._core.models.glmm.maximise import maximise
from donorwise._core.models.glmm.restricted import Objective, UnboundedError, UndispersedError
from donorwise._core.models.glmm.separation import find_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.models.glmm.marginal import Observations
    from donorwise._core.models.glmm.maximise import Maximum
    from donorwise._core.models.glmm.separation import Limit
    from donorwise._typing import BoolArray, FloatArray, IntArray

    Climb = Callable[[BoolArray, FloatArray, FloatArray, float], tuple[Objective, Maximum]]

_STARTS = (0.5, 0.1, 1.5)  # standard deviations, on the scale of the linear predictor
_NEAR_ZERO = 1e-2  # the same: below, zero is tried
_RIDGE = (
    0.1  # the same where nothing was found: variances go to zero on ridges, along which steps get shorter and shorter
)
_SAME = 1e-9  # log-likelihoods that differ by less are equal
_LARGE = float(np.log(1e3))  # log r from which on Poisson's distribution is tried
_SIZES = (0.05, 100.0)  # sizes to start from


@dataclass(frozen=True)
class ExactFit:
    """A feature's model; NaN where there is none.

    Attributes
    ----------
    status
        See the results.
    beta, vcov
        Shapes (p,) and (p, p). Fixed effects; infinite, without variance, where they are separated.
    finite
        Shape (p,). The same, but that contrasts which a separated feature knows have their values.
    known
        Shape (p, r). Basis of these contrasts.
    theta
        Shape (n_theta,). Entries of T of every term.
    size
        Of the negative binomial; infinite where Poisson's distribution fits as well, NaN for other families.
    loglik
        (Restricted) log-likelihood.
    modes, conditional
        By term, (levels, r) and (levels, r, r). Conditional modes u and covariances given the parameters.
    spreads
        Shape (terms,). Average of z'Var(u)z over the rows.
    mean
        Average of exp(x'beta + offset + z'Var(u)z / 2) over the rows.
    n_iter, n_obs
        Iterations, and rows.
    """

    status: str
    beta: FloatArray
    vcov: FloatArray
    finite: FloatArray
    known: FloatArray
    theta: FloatArray
    size: float
    loglik: float
    modes: tuple[FloatArray, ...]
    conditional: tuple[FloatArray, ...]
    spreads: FloatArray
    mean: float
    n_iter: int
    n_obs: int


def fit_exactly(obs: Observations, n_quad: int, *, reml: bool) -> ExactFit:
    """Fit one feature; whatever goes wrong is its status. Rows stand by the levels of the first term."""
    if _is_constant(obs):
        return _nothing(obs, "constant")
    if obs.y.size <= obs.X.shape[1] or _aliased(obs.X):
        return _nothing(obs, "not_estimable")
    with np.errstate(all="ignore"):  # a step may go too far, and is taken back
        return _fit_or_limit(obs, n_quad, reml=reml)


def _fit_or_limit(obs: Observations, n_quad: int, *, reml: bool) -> ExactFit:
    limit = find_limit(obs.X, obs.y == 0, (obs.y == obs.trials) & (not obs.distribution.counts))
    if limit.rows.all():
        return _fit_or_nothing(obs, "not_converged", n_quad, reml=reml)
    if not limit.basis.shape[1]:
        return _in_limit(replace(_nothing(obs, "separated"), loglik=0.0), limit)
    rest = obs.take(limit.rows)
    return _in_limit(_fit_or_nothing(rest.on(rest.X @ limit.basis), "separated", n_quad, reml=reml), limit)


def _fit_or_nothing(obs: Observations, otherwise: str, n_quad: int, *, reml: bool) -> ExactFit:
    try:
        return _fit(obs, n_quad, reml=reml)
    except UnboundedError:
        return _nothing(obs, "separated")
    except (NotFoundError, np.linalg.LinAlgError):
        return _nothing(obs, otherwise)


def _is_constant(obs: Observations) -> bool:
    response = obs.y if obs.distribution.counts else obs.y / obs.trials
    return bool(response.size == 0 or np.ptp(response) == 0)


def _aliased(X: FloatArray) -> bool:
    """Whether columns of X are combinations of others, on the rows that a feature has."""
    largest = np.abs(X).max(axis=0)
    return bool((largest == 0).any() or np.linalg.matrix_rank(X / largest) < X.shape[1])


def _nothing(obs: Observations, status: str) -> ExactFit:
    p, effects, nan = obs.X.shape[1], obs.effects, float("nan")
    levels = [(b - a) // r for a, b, r in zip(effects.starts[:-1], effects.starts[1:], effects.widths, strict=True)]
    modes = tuple(np.full((n, r), nan) for n, r in zip(levels, effects.widths, strict=True))
    conditional = tuple(np.full((n, r, r), nan) for n, r in zip(levels, effects.widths, strict=True))
    return ExactFit(
        status, np.full(p, nan), np.full((p, p), nan), np.full(p, nan), np.zeros((p, 0)), np.full(effects.row.size, nan),
        nan, nan, modes, conditional, np.full(len(levels), nan), nan, 0, obs.y.size,
    )  # fmt: skip


def _in_limit(fit: ExactFit, limit: Limit) -> ExactFit:
    """A fit of the rows that decide, in the coefficients of the formula; the others are infinite, or not known."""
    fitted = fit.status in ("ok", "boundary")
    finite = limit.basis @ fit.beta if fitted else np.full(limit.direction.size, np.nan)
    lost = np.abs(limit.basis @ limit.basis.T - np.eye(finite.size)).max(axis=1) > 1e-8
    with np.errstate(invalid="ignore"):
        beta = np.where(lost, limit.direction * np.inf, finite)
    vcov = limit.basis @ fit.vcov @ limit.basis.T if fitted else np.full((finite.size,) * 2, np.nan)
    return replace(
        fit, status="separated", beta=beta, vcov=vcov, finite=finite, known=limit.basis if fitted else np.zeros((finite.size, 0)),
        n_obs=limit.rows.size,
    )  # fmt: skip


class _Start(NamedTuple):
    """The model without effects: coefficients in a basis X M^-1 in which they have unit information; a size."""

    beta: FloatArray
    M: FloatArray
    log_size: float


def _fit(obs: Observations, n_quad: int, *, reml: bool) -> ExactFit:
    start = _without_effects(obs)
    inner = obs.on(np.asarray(np.linalg.solve(start.M.T, obs.X.T)).T)
    objective, best = _with_size(inner, start, n_quad, reml=reml)
    _, theta, log_size = objective.unpack(best.x)
    inverse, size = np.linalg.inv(start.M), float(np.exp(log_size))
    beta, vcov = inverse @ best.point.beta, inverse @ _covariance(objective, best) @ inverse.T
    modes, conditional = _random_effects(obs, beta, theta, size)
    A = obs.effects.columns(theta)
    spreads = np.array([(own**2).sum(axis=1).mean() for own in _by_term(A, obs.effects.widths)])
    eta = obs.offset + obs.X @ beta + 0.5 * (A**2).sum(axis=1)
    return ExactFit(
        "ok" if objective.free[_seen(obs)].all() else "boundary", beta, vcov, beta, np.eye(beta.size), _signed(obs, theta),
        size if obs.distribution.dispersed else float("nan"),
        best.point.value - (float(np.linalg.slogdet(start.M)[1]) if reml else 0.0),
        modes, conditional, spreads, float(np.exp(np.minimum(eta, 300)).mean()), best.n_iter, obs.y.size,
    )  # fmt: skip


def _without_effects(obs: Observations) -> _Start:
    """The generalised linear model, whose information makes the basis; a size by moments."""
    Q, R = np.linalg.qr(obs.X)
    none = np.zeros(obs.effects.row.size)
    first = np.concatenate([np.zeros(obs.effects.q), Q.T @ np.full(obs.y.size, _pooled(obs))])
    mode = find_mode(obs.on(Q), obs.offset, none, np.inf, first, joint=True)
    L = np.linalg.cholesky((Q * -mode.at.second[:, None]).T @ Q)
    mu = np.exp(np.minimum(mode.eta, 300))
    excess = ((obs.y - mu) ** 2 - mu).sum()
    size = np.clip((mu**2).sum() / excess if excess > 0 else np.inf, *_SIZES)
    return _Start(L.T @ mode.v[obs.effects.q :], L.T @ R, float(np.log(size)))


def _pooled(obs: Observations) -> float:
    """Linear predictor, without offset, at the mean of all rows."""
    share = obs.y.sum() / obs.trials.sum()
    if obs.distribution.code == LOGIT:
        return float(special.logit(share) - obs.offset.mean())
    top = obs.offset.max()
    exposure = np.log((obs.trials * np.exp(obs.offset - top)).sum() / obs.trials.sum()) + top
    return float(np.log(share if obs.distribution.counts else -np.log1p(-share)) - exposure)


def _with_size(obs: Observations, start: _Start, n_quad: int, *, reml: bool) -> tuple[Objective, Maximum]:
    """The best fit; with an infinite size where that is as good as any."""
    if not obs.distribution.dispersed:
        return _with_variances(obs, start, n_quad, reml=reml, sized=False)
    try:
        sized = _with_variances(obs, start, n_quad, reml=reml, sized=True)
        if sized[1].x[-1] < _LARGE:
            return sized
    except UndispersedError:
        return _with_variances(obs, start, n_quad, reml=reml, sized=False)
    plain = _with_variances(obs, start, n_quad, reml=reml, sized=False)
    return plain if plain[1].point.value > sized[1].point.value - _SAME else sized


def _with_variances(
    obs: Observations, start: _Start, n_quad: int, *, reml: bool, sized: bool
) -> tuple[Objective, Maximum]:
    """The best fit; variances that are as good as zero are zero."""

    def climb(free: BoolArray, beta: FloatArray, theta: FloatArray, log_size: float) -> tuple[Objective, Maximum]:
        objective = Objective(obs, n_quad, reml=reml, free=free, sized=sized)
        objective.begin(beta)
        return objective, maximise(objective, objective.pack(beta, theta, log_size), objective.steps, objective.share)

    best = _first(climb, obs, start)
    while (tried := _with_a_zero(climb, obs, *best)) is not None:
        best = tried
    if not best[1].converged:
        raise NotFoundError("The likelihood has no maximum within reach.")
    return best


def _with_a_zero(
    climb: Climb, obs: Observations, objective: Objective, found: Maximum
) -> tuple[Objective, Maximum] | None:
    """The best fit with a column of some T that is zero, if it is as good."""
    effects, (_, theta, log_size) = obs.effects, objective.unpack(found.x)
    near = _near_zero(obs, objective, found)
    best, bar = None, found.point.value - _SAME
    for column in effects.column[effects.diagonal & objective.free]:
        if not (near & np.isin(effects.column, _correlated(effects.row, effects.column, int(column)))).any():
            continue
        free, at = _without_column(effects.row, effects.column, objective.free, theta, int(column))
        try:
            own, tried = climb(free, found.point.beta, at, log_size)
        except (NotFoundError, np.linalg.LinAlgError):
            continue
        if tried.point.value > bar:
            best, bar = (own, tried._replace(n_iter=found.n_iter + tried.n_iter)), tried.point.value
    return best


def _correlated(row: IntArray, column: IntArray, j: int) -> IntArray:
    """Columns of the term of column j."""
    return np.concatenate([row[column == j], column[row == j]])


def _near_zero(obs: Observations, objective: Objective, found: Maximum) -> BoolArray:
    """Diagonal entries of theta that may as well be zero."""
    sd = np.abs(objective.unpack(found.x)[1]) * obs.effects.spread
    return np.asarray(obs.effects.diagonal & objective.free & (sd < (_NEAR_ZERO if found.converged else _RIDGE)))


def _first(climb: Climb, obs: Observations, start: _Start) -> tuple[Objective, Maximum]:
    """The best of the first start that leads anywhere and, where effects are correlated, one more."""
    effects, n_usable = obs.effects, 0
    found: list[tuple[Objective, Maximum]] = []
    enough = 1 if effects.diagonal.all() else 2
    for sd in _STARTS if effects.row.size else _STARTS[:1]:
        theta = np.divide(sd, effects.spread, out=np.zeros(effects.row.size), where=effects.diagonal & _seen(obs))
        try:
            found.append(climb(_seen(obs), start.beta, theta, start.log_size))
        except (NotFoundError, np.linalg.LinAlgError):
            continue
        n_usable += found[-1][1].converged or bool(_near_zero(obs, *found[-1]).any())
        if n_usable == enough:
            break
    if not found:
        raise NotFoundError("No start led to a maximum.")
    return max(found, key=lambda own: own[1].point.value)


def _seen(obs: Observations) -> BoolArray:
    """Which of theta have rows that say something about them."""
    return np.asarray(obs.effects.spread > 0)


def _without_column(
    row: IntArray, column: IntArray, free: BoolArray, theta: FloatArray, j: int
) -> tuple[BoolArray, FloatArray]:
    """T without column j, whose variance goes to the diagonal of the rows below and, in row j, to an earlier column.

    T is known up to a rotation: where its rank is not full, any column that the others make up for can be zero.
    """
    at = theta.copy()
    for k in np.flatnonzero((column == j) & (row != j)):
        own = np.flatnonzero((row == row[k]) & (column == row[k]))
        at[own] = np.hypot(at[own], at[k])
    earlier = np.flatnonzero((row == j) & (column != j) & free)[-1:]
    at[earlier] = np.copysign(np.hypot(at[earlier], theta[(row == j) & (column == j)]), at[earlier])
    return free & (column != j), np.where(column == j, 0.0, at)


def _covariance(objective: Objective, best: Maximum) -> FloatArray:
    """Covariance of the coefficients: of all parameters jointly (ML), or given the others, and what these add."""
    inverse = np.linalg.inv(best.hessian)
    if not objective.reml:
        return np.asarray(inverse[: objective.p, : objective.p])
    return np.asarray(np.linalg.inv(objective.precision(best.x)) + best.slope @ inverse @ best.slope.T)


def _signed(obs: Observations, theta: FloatArray) -> FloatArray:
    """Theta with no negative diagonal, NaN where nothing is known of it."""
    effects = obs.effects
    negative = effects.column[effects.diagonal & (theta < 0)]
    return np.where(_seen(obs), np.where(np.isin(effects.column, negative), -theta, theta) + 0.0, np.nan)


def _by_term(A: FloatArray, widths: tuple[int, ...]) -> list[FloatArray]:
    """Columns of every term."""
    return np.split(A, np.cumsum(widths)[:-1], axis=1) if widths else []


def _random_effects(
    obs: Observations, beta: FloatArray, theta: FloatArray, size: float
) -> tuple[tuple[FloatArray, ...], tuple[FloatArray, ...]]:
    """Conditional modes and covariances given the parameters, by term."""
    effects = obs.effects
    mode = find_mode(obs, obs.offset + obs.X @ beta, theta, size, None, joint=False)
    inverse = np.linalg.inv(mode.H)
    modes, covariances = [], []
    for t, (T, r) in enumerate(zip(effects.triangles(theta), effects.widths, strict=True)):
        at = np.arange(effects.starts[t], effects.starts[t + 1]).reshape(-1, r)
        modes.append(mode.v[at] @ T.T)
        covariances.append(T @ inverse[at[:, :, None], at[:, None, :]] @ T.T)
    return tuple(modes), tuple(covariances)
