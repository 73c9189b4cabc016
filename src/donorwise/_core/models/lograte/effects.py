"""Effects of the units, and of the levels of the random term, given the variances.

With V = D + group2 ZZ', D = diag(v + tau2), r = y - X beta, and s, g of each level as in the kernels,

    u = tau2 V⁻¹r,   Var(u | beta) = tau2 - tau2² V⁻¹,   b = group2 Z'V⁻¹r,   Var(b | beta) = group2 - group2² Z'V⁻¹Z.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from donorwise._core.models.lograte.model import LogRateModel
    from donorwise._typing import FloatArray


class Effects(NamedTuple):
    """Conditional modes and standard deviations, (G, units) in the order of the design, or (G, levels)."""

    mode: FloatArray
    sd: FloatArray


def random_effects(model: LogRateModel, variances: FloatArray) -> tuple[Effects, ...]:
    """Effects of the units and, with a random term, of its levels, at `variances` (G, 1 or 2)."""
    tau2, group2 = variances[:, :1], variances[:, 1:] if variances.shape[1] > 1 else np.zeros((len(variances), 1))
    Q, level = model.units.Q, np.repeat(np.arange(model.units.starts.size - 1), np.diff(model.units.starts))
    w = 1 / (model.rates.v + tau2)
    s = np.add.reduceat(w, model.units.starts[:-1], axis=1)
    g = group2 / (1 + group2 * s)

    def whitened(values: FloatArray) -> FloatArray:
        """V⁻¹ times values (G, S, p)."""
        own = w[:, :, None] * values
        sums = np.add.reduceat(own, model.units.starts[:-1], axis=1)
        return own - (w * g[:, level])[:, :, None] * sums[:, level]

    WQ = whitened(np.broadcast_to(Q, (len(w), *Q.shape)))
    y = model.rates.y[:, :, None]
    beta = np.linalg.solve(Q.T @ WQ, WQ.transpose(0, 2, 1) @ y)
    residual = whitened(y - Q @ beta)[:, :, 0]
    order = np.argsort(model.units.order)
    unit_sd = np.sqrt(np.clip(tau2 - tau2**2 * (w - w**2 * g[:, level]), 0, None))
    units = Effects((tau2 * residual)[:, order], unit_sd[:, order])
    if variances.shape[1] == 1:
        return (units,)
    sums = np.add.reduceat(residual, model.units.starts[:-1], axis=1)
    return units, Effects(group2 * sums, np.sqrt(np.clip(group2 - group2**2 * s / (1 + group2 * s), 0, None)))
