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
    than one count in a sample (``type1@0.05 <1``, ``found@0.05 <1``: the share of the effects with p below .05,
    ``found_equal <1``: the share below the cut that 5% of the nulls are below).
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
    """Of a part of the genes: shares of p-values up to .05 and .001 among the true nulls and the effects."""
    nulls, effects = (p[own & group & np.isfinite(p)] for group in (null, ~null))
    out = {}
    for name, found in (("type1", nulls), ("found", effects)):
        for level in (LEVELS[0], LEVELS[2]):
            out[f"{name}@{level:g}"] = float((found <= level).mean()) if found.size >= _FEWEST else np.nan
    enough = min(nulls.size, effects.size) >= _FEWEST
    return out | {"found_equal": found_at(nulls, effects, LEVELS[0]) if enough else np.nan}


def found_at(nulls: np.ndarray, effects: np.ndarray, level: float) -> float:
    """Share of the effects found where a share of `level` of the nulls is, whatever the p-values there."""
    cuts = np.unique(np.concatenate([nulls, effects]))
    false, true = (np.searchsorted(np.sort(p), cuts, side="right") / p.size for p in (nulls, effects))
    return float(np.interp(level, np.append(0.0, false), np.append(0.0, true)))


def power_at_fdp(p: np.ndarray, null: np.ndarray, limit: float = FDR) -> float:
    """Share of the true effects in the longest list of smallest p-values with a false share within `limit`."""
    order = np.argsort(p, kind="stable")
    false = np.cumsum(null[order])
    n = np.arange(1, p.size + 1)
    distinct = np.append(np.diff(p[order]) > 0, True)  # equal p-values enter together
    allowed = np.flatnonzero((false <= limit * n) & distinct)
    last = allowed[-1] if allowed.size else -1
    return float((last + 1 - (false[last] if last >= 0 else 0)) / max(1, (~null).sum()))
