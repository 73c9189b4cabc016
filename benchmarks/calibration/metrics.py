"""From p-values and the truth to error rates and power."""

from __future__ import annotations

import numpy as np

from donorwise._core.engine.tables import adjust

LEVELS = (0.05, 0.01, 1e-3, 1e-4)
FDR = 0.05


def measure(p: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Error rates and power of one method on one data set.

    Parameters
    ----------
    p
        Shape (G,). NaN where the method did not test: no discovery, and not counted in the type I error.
    truth
        Shape (G,). True effects, 0 for a null.

    Returns
    -------
    ``type1@level`` among the true nulls; ``hits`` at a false discovery rate of 5% (Benjamini-Hochberg) and,
    where there are true effects, ``fdp`` (the false share of the hits), ``power`` (the share of the effects
    among them) and ``power_equal``: power at the largest number of hits of which no more than 5% are false, which
    gives no advantage to a method that finds more because it errs more. ``untested`` is a share of genes.
    """
    tested = np.isfinite(p)
    null = truth == 0
    nulls = p[tested & null]
    out = {f"type1@{level:g}": float((nulls <= level).mean()) if nulls.size else np.nan for level in LEVELS}
    hit = np.nan_to_num(adjust(p), nan=1.0) <= FDR
    out |= {"hits": float(hit.sum()), "untested": float(1 - tested.mean())}
    if not null.all():
        out["fdp"] = float((hit & null).sum() / max(1, hit.sum()))
        out["power"] = float(hit[~null].mean())
        out["power_equal"] = power_at_fdp(np.where(tested, p, 1.0), null)
    return out


def power_at_fdp(p: np.ndarray, null: np.ndarray, limit: float = FDR) -> float:
    """Share of the true effects in the longest list of smallest p-values with a false share within `limit`."""
    order = np.argsort(p, kind="stable")
    false = np.cumsum(null[order])
    n = np.arange(1, p.size + 1)
    distinct = np.append(np.diff(p[order]) > 0, True)  # equal p-values enter together
    allowed = np.flatnonzero((false <= limit * n) & distinct)
    last = allowed[-1] if allowed.size else -1
    return float((last + 1 - (false[last] if last >= 0 else 0)) / max(1, (~null).sum()))
