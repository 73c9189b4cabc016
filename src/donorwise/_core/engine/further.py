"""Further contrasts of an analysis, and other null hypotheses about them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from donorwise._core.engine.results import Contrasts
from donorwise._typing import check_option, is_number
from donorwise.errors import DonorwiseError

if TYPE_CHECKING:
    from donorwise._core.engine.analysis import Analysis, Options

A = TypeVar("A", bound="Analysis[Any, Any]")


def with_further(analysis: A, asked: A) -> A:
    """The analysis with the contrasts of another one of the same models behind its own; those of one name are the other's."""
    kept = [name for name in analysis.names if name not in asked.names]
    pairs = zip(analysis.contrasts, asked.contrasts, strict=True)
    return replace(
        analysis, names=(*kept, *asked.names), contrasts=tuple(_together(own, new, kept) for own, new in pairs)
    )


def _together(own: Contrasts | None, new: Contrasts | None, kept: list[str]) -> Contrasts | None:
    """Those of `own` that are `kept`, then the new ones; None for none."""
    at = [] if own is None else [i for i, name in enumerate(own.names) if name in kept]
    parts = [] if own is None or not at else [Contrasts(tuple(own.names[i] for i in at), own.L[at])]
    parts += [] if new is None else [new]
    if not parts:
        return None
    return Contrasts(tuple(name for part in parts for name in part.names), np.concatenate([part.L for part in parts]))


def check_options(options: Options, ddfs: tuple[str, ...], ddf: str | None, min_effect: float) -> Options:
    """Options of the tests that are asked for: `ddf` (None for that of the fit), which must be one of `ddfs`.

    Raises
    ------
    DonorwiseError
        The models have no tests with these degrees of freedom.
    """
    if ddf is not None:
        check_option("ddf", ddf, ddfs)
    return replace(options, ddf=ddf or options.ddf, min_effect=min_effect)


def log2_as_estimate(
    analysis: Analysis[Any, Any], key: str, min_log_fc: float | None, min_effect: float | None
) -> float:
    """The smallest effect that matters, in units of the estimates; that of the result where none is given.

    Raises
    ------
    DonorwiseError
        It is no size, or given twice, or the estimates are no logarithms.
    """
    if min_log_fc is not None and min_effect is not None:
        raise DonorwiseError("min_log_fc= and min_effect= are one size in different units; give one of them.")
    for name, value in {"min_log_fc": min_log_fc, "min_effect": min_effect}.items():
        if value is not None and not (is_number(value) and 0 <= value < np.inf):
            raise DonorwiseError(f"{name}={value!r} must be a number of at least 0, such as 0.5.")
    if min_log_fc is None:
        return analysis.options.min_effect if min_effect is None else float(min_effect)
    if not np.isfinite(analysis.log2_unit):
        raise DonorwiseError(
            f"min_log_fc= is a log2 fold change, and the estimates of {key!r} are no logarithms of ratios: give min_effect= in "
            "units of the column estimate."
        )
    return float(min_log_fc) * analysis.log2_unit
