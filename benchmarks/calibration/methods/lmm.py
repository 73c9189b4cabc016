"""Mixed models of the cells by donorwise: one fit, and the tests that can be made of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.calibration.data import CONTRAST
from benchmarks.calibration.methods import Method
from scipy.special import ndtr

from donorwise._typing import DDF, Ddf

if TYPE_CHECKING:
    from benchmarks.calibration.data import CountData, GaussianData

    Data = CountData | GaussianData


def _test(data: Data, ddf: Ddf) -> np.ndarray:
    return data.fit(data.formula).test(CONTRAST, ddf=ddf)["p_value"].to_numpy()


def _reduced(data: Data, ddf: Ddf) -> np.ndarray:
    return data.fit(data.reduced).test(CONTRAST, ddf=ddf)["p_value"].to_numpy()


def _z(data: Data) -> np.ndarray:
    """The Wald test of a mixed model: as if the variances were known."""
    table = data.fit(data.formula).test(CONTRAST, ddf="satterthwaite")
    return np.asarray(2 * ndtr(-np.abs(table["estimate"] / table["se"])))


def _always(data: Any) -> bool:
    return True


def _missing(ddf: str) -> str:
    return "" if ddf in DDF else f"a donorwise with ddf={ddf!r}"


_DDF: tuple[Ddf, ...] = ("satterthwaite", "kenward-roger", "between-within", "moderated")
METHODS = (
    Method("LMM z", _z, _always),
    *(Method(f"LMM {ddf}", partial(_test, ddf=ddf), _always, _missing(ddf)) for ddf in _DDF),
    Method(
        "LMM moderated, term left out", partial(_reduced, ddf="moderated"), lambda data: bool(data.reduced),
        _missing("moderated"),
    ),
)  # fmt: skip
