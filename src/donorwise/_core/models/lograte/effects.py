"""Coefficients and effects of models of log rates at given variances.

With V = D + group2 ZZ', D = diag(v + tau2), r = y - X b at the generalised least-squares estimate b, and s, g of each level
as in the kernels, the effects of units u and of levels b are

    u = tau2 V⁻¹r,   Var(u | beta) = tau2 - tau2² V⁻¹,   b = group2 Z'V⁻¹r,   Var(b | beta) = group2 - group2² Z'V⁻¹Z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from donorwise._core.models.lograte.model import LogRateModel
    from donorwise._typing import FloatArray, IntArray


class Effects(NamedTuple):
    """Conditional modes and standard deviations, (G, units) in the order of the design, or (G, levels)."""

    mode: FloatArray
    sd: FloatArray


@dataclass(frozen=True, slots=True)
class _Weights:
    """V⁻¹ of G genes: 1 / (v + tau2) of each unit (G, S), s and g of each level (G, levels), and the level of each unit, (S,)."""

    w: FloatArray
    s: FloatArray
    g: FloatArray
    level: IntArray
    starts: IntArray

    @classmethod
    def of(cls, model: LogRateModel, tau2: FloatArray, group2: FloatArray) -> _Weights:
        starts = model.units.starts
        w = 1 / (model.rates.v + tau2)
        s = np.add.reduceat(w, starts[:-1], axis=1)
        level = np.repeat(np.arange(starts.size - 1), np.diff(starts))
        return cls(w, s, group2 / (1 + group2 * s), level, starts)

    def whiten(self, values: FloatArray) -> FloatArray:
        """V⁻¹ times values (G, S, p)."""
        own = self.w[:, :, None] * values
        sums = np.add.reduceat(own, self.starts[:-1], axis=1)
        return own - (self.w * self.g[:, self.level])[:, :, None] * sums[:, self.level]


def _both(variances: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Variances between units and of the random term (zero where there is none), (G, 1) each."""
    return variances[:, :1], variances[:, 1:] if variances.shape[1] > 1 else np.zeros((len(variances), 1))


def _solved(model: LogRateModel, V: _Weights) -> FloatArray:
    """Coefficients (G, p) on Q."""
    Q = model.units.Q
    WQ = V.whiten(np.broadcast_to(Q, (len(V.w), *Q.shape)))
    return np.asarray(np.linalg.solve(Q.T @ WQ, WQ.transpose(0, 2, 1) @ model.rates.y[:, :, None])[:, :, 0])


def coefficients(model: LogRateModel, variances: FloatArray) -> FloatArray:
    """Fixed effects (G, p), in the basis of the formula, at `variances` (G, 1 or 2)."""
    return _solved(model, _Weights.of(model, *_both(variances))) @ model.units.inverse.T


def random_effects(model: LogRateModel, variances: FloatArray) -> tuple[Effects, ...]:
    """Effects of the units and, with a random term, of its levels, at `variances` (G, 1 or 2)."""
    tau2, group2 = _both(variances)
    V = _Weights.of(model, tau2, group2)
    beta = _solved(model, V)
    residual = V.whiten((model.rates.y - beta @ model.units.Q.T)[:, :, None])[:, :, 0]
    order = np.argsort(model.units.order)
    unit_sd = np.sqrt(np.clip(tau2 - tau2**2 * (V.w - V.w**2 * V.g[:, V.level]), 0, None))
    units = Effects((tau2 * residual)[:, order], unit_sd[:, order])
    if variances.shape[1] == 1:
        return (units,)
    sums = np.add.reduceat(residual, V.starts[:-1], axis=1)
    return units, Effects(group2 * sums, np.sqrt(np.clip(group2 - group2**2 * V.s / (1 + group2 * V.s), 0, None)))
