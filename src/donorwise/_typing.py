"""Array aliases and the options that public functions accept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from donorwise.errors import DonorwiseError

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
StrArray: TypeAlias = NDArray[np.str_]

Ddf: TypeAlias = Literal["moderated", "kenward-roger", "satterthwaite", "between-within", "residual"]
Robust: TypeAlias = Literal["huber"]
Status: TypeAlias = Literal[
    "ok", "boundary", "reduced", "separated", "not_estimable", "constant", "too_few_donors", "not_converged"
]

Scale: TypeAlias = Literal["trace", "as-is"]
SCALES: tuple[str, ...] = get_args(Scale)
"""How variances with a kernel are stated."""
FixedShares: TypeAlias = Literal["each", "together"]
FIXED_SHARES: tuple[str, ...] = get_args(FixedShares)
"""Whether terms of the fixed part have shares of the variance of their own."""
GlmmDdf: TypeAlias = Literal["moderated", "between-within", "wald"]
Adjust: TypeAlias = Literal["within", "global", "stagewise"]
"""Which tests p-values are adjusted over."""
DDF: tuple[str, ...] = get_args(Ddf)
ADJUSTMENTS: tuple[str, ...] = get_args(Adjust)
ROBUST: tuple[str, ...] = get_args(Robust)
GLMM_DDF: tuple[str, ...] = get_args(GlmmDdf)
STATUSES: tuple[str, ...] = get_args(Status)
FITTED: tuple[Status, ...] = ("ok", "boundary", "reduced", "separated")
"""Statuses of features that were fitted."""
ALL = "all"
"""The one group of an analysis without ``groupby``."""


GroupBy: TypeAlias = str | Sequence[str] | None
"""Columns of obs as a caller names them: none, one, or several that make the groups together."""
Label: TypeAlias = str | int | tuple[str | int, ...]
"""A group as a caller names it: its name, a number, or a level of each column (``("T cell", "lung")``)."""
Groups: TypeAlias = Label | Sequence[Label] | None
"""Groups as a caller names them; None for all."""


def check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `allowed`; the message lists them."""
    if value not in allowed:
        options = ", ".join(repr(a) for a in allowed)
        raise DonorwiseError(f"{name}={value!r} is not an option; choose one of {options}.")


def is_number(value: object) -> bool:
    """Whether an option is a number; yes and no are none, though Python counts with them."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def check_level(level: object) -> None:
    """Raise unless this is the coverage of an interval."""
    if not (is_number(level) and 0 < level < 1):  # type: ignore[operator]
        raise DonorwiseError(f"level={level!r} is not a coverage; it must lie between 0 and 1, as 0.95 does.")
