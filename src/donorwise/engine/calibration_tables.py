"""Long tables of calibrations: every group one under another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._typing import STATUSES
from donorwise.engine.calibration import ALPHAS, BINS, ranks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from donorwise._typing import FloatArray
    from donorwise.engine.calibration import Calibration

SMALLEST_P = 1e-300
_BAND = (5, 50, 95)


def calibration_tables(
    by_group: Mapping[str, Calibration | None], variables: tuple[str, ...], contrast: str
) -> dict[str, pd.DataFrame]:
    """The tables of all groups; a group without a calibration has rows in ``variables`` only."""
    made = {name: own for name, own in by_group.items() if own is not None}
    tables = {
        "groups": pd.DataFrame([{"group": name, "contrast": contrast} | _facts(own) for name, own in made.items()]),
        "levels": _stacked({name: _levels(own) for name, own in made.items()}),
        "permutations": _stacked({name: _permutations(own) for name, own in made.items()}),
        "curves": _stacked({name: _curves(own, len(variables)) for name, own in made.items()}),
        "histogram": _stacked({name: _histogram(own) for name, own in made.items()}),
        "variables": _stacked({name: _variables(own, variables) for name, own in by_group.items()}, at=1),
    }
    for table in tables.values():
        table["group"] = pd.Categorical(table["group"], categories=list(by_group))
    return tables


def _stacked(tables: Mapping[str, pd.DataFrame], at: int = 0) -> pd.DataFrame:
    for name, table in tables.items():
        table.insert(at, "group", name)
    return pd.concat(list(tables.values()), ignore_index=True)


def _facts(own: Calibration) -> dict[str, object]:
    inflation = np.array([shape.inflation for shape in own.shapes])
    low, middle, high = _band(inflation[1:, None])
    n_distinct = own.plan.arrangements.n_distinct
    return {
        "permuted": own.plan.exchange.variable,
        "ddf": own.ddf,
        "kind": own.plan.exchange.kind,
        "n_units": own.plan.exchange.labels.size,
        "n_blocks": int(own.plan.exchange.block.max()) + 1,
        "n_distinct": float(n_distinct) if n_distinct < sys.float_info.max else np.inf,
        "n_permutations": len(own.plan.arrangements.labels),
        "n_unusable": own.plan.arrangements.n_unusable,
        "exhaustive": own.plan.arrangements.exhaustive,
        "smallest_p": 1 / n_distinct,
        "lambda_observed": inflation[0],
        "lambda_median": middle[0],
        "lambda_low": low[0],
        "lambda_high": high[0],
    }


def _levels(own: Calibration) -> pd.DataFrame:
    ratio = np.array([shape.share_below for shape in own.shapes]) / ALPHAS
    permuted = ratio[1:][np.isfinite(ratio[1:, 0])]
    return pd.DataFrame(
        {
            "alpha": ALPHAS,
            "ratio": permuted.mean(axis=0),
            "ratio_sd": permuted.std(axis=0, ddof=1) if len(permuted) > 1 else np.nan,
            "ratio_min": permuted.min(axis=0),
            "ratio_max": permuted.max(axis=0),
            "ratio_observed": ratio[0],
        }
    )


def _permutations(own: Calibration) -> pd.DataFrame:
    n = np.arange(len(own.shapes))
    table = pd.DataFrame({"permutation": n, "observed": n == 0})
    table["n_tested"] = [shape.n_tested for shape in own.shapes]
    table["hits"] = [shape.hits for shape in own.shapes]
    table["lambda"] = [shape.inflation for shape in own.shapes]
    for i, alpha in enumerate(ALPHAS):
        table[f"below_{alpha:g}"] = [shape.share_below[i] for shape in own.shapes]
    return table


def _curves(own: Calibration, n_variables: int) -> pd.DataFrame:
    curves = -np.log10(np.maximum([shape.curve for shape in own.shapes], SMALLEST_P))
    low, middle, high = _band(curves[1:])
    expected = -np.log10((ranks(n_variables) - 0.5) / n_variables)
    return pd.DataFrame({"expected": expected, "observed": curves[0], "median": middle, "low": low, "high": high})


def _histogram(own: Calibration) -> pd.DataFrame:
    counts = np.array([shape.counts for shape in own.shapes], dtype=np.float64)
    low, middle, high = _band(counts[1:])
    return pd.DataFrame(
        {"left": BINS[:-1], "right": BINS[1:], "observed": counts[0], "median": middle, "low": low, "high": high}
    )


def _band(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Percentiles 5, 50 and 95 over the permutations (rows)."""
    kept = values[np.isfinite(values).all(axis=1)]  # a permutation without tests has none at all
    low, middle, high = np.percentile(kept, _BAND, axis=0) if len(kept) else np.full((3, values.shape[1]), np.nan)
    return low, middle, high


def _variables(own: Calibration | None, variables: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame({"variable": pd.Categorical(variables, categories=list(dict.fromkeys(variables)))})
    none = np.full(len(variables), np.nan)
    table["estimate"] = none if own is None else own.observed.estimate
    table["p_value"] = none if own is None else own.observed.p_value
    table["permutation_p"] = none if own is None else own.permutation_p
    table["n_compared"] = 0 if own is None else own.n_compared
    status = np.full(len(variables), "not_estimable") if own is None else own.observed.status
    table["status"] = pd.Categorical(status, categories=list(STATUSES))
    return table
