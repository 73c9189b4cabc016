"""From p-values and the truth to error rates and power."""

from __future__ import annotations

import numpy as np

from donorwise._core.engine.tables import adjust

LEVELS = (0.05, 0.01, 1e-3, 1e-4)
FDR = 0.05
_FEWEST = 10  # genes that a share is of


def measure(p: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Error rates and power of one method on one data set.

    Parameters
    ----------
    p
        Shape (G,). NaN where the method did not test: no discovery, and not counted in the type I error.
    truth
        Shape (G,). True effects, 0 for a null.
    counts
        Shape (G,). Mean counts of a sample; NaN where there are none.

    Returns
    -------
    ``type1@level`` among the true nulls; ``hits`` at a false discovery rate of 5% (Benjamini-Hochberg) and,
    where there are true effects, ``fdp`` (the false share of the hits), ``power`` (the share of the effects
    among them) and ``power_equal``: power at the largest number of hits of which no more than 5% are false, which
    gives no advantage to a method that finds more because it errs more. ``untested`` is a share of genes. What is said
    of a part of the genes has its name behind it: quarters of their counts (``type1@0.05 q1``), and genes with less
    than one count in a sample (``type1@0.05 <1``, ``found@0.05 <1``: the share of the effects with p below .05).
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
    for part, own in parts(counts).items():
        out |= {f"{name} {part}": share for name, share in _shares(p, null, own).items()}
    return out


def parts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Genes (G,) in each quarter of their counts, and those with less than one count in a sample."""
    known = counts[np.isfinite(counts)]
    if not known.size:
        return {}
    quarter = np.searchsorted(np.quantile(known, (0.25, 0.5, 0.75)), counts)
    return {f"q{i + 1}": quarter == i for i in range(4)} | {"<1": counts < 1}


def _shares(p: np.ndarray, null: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Shares of p-values up to .05 and .001 among the true nulls and effects of a part of the genes; NaN of few."""
    out = {}
    for name, group in (("type1", own & null), ("found", own & ~null)):
        tested = p[group][np.isfinite(p[group])]
        for level in (LEVELS[0], LEVELS[2]):
            out[f"{name}@{level:g}"] = float((tested <= level).mean()) if tested.size >= _FEWEST else np.nan
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
