"""Donors of generalised models: rates of counts and shares of yes, at their places on the scale of the estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from donorwise._anndata.recover import again
from donorwise._core.models.glmm.families import RATIO_OF_LINK

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes

    from donorwise._anndata import Results
    from donorwise._core.engine.mean_scale import MeanScale
    from donorwise._typing import FloatArray

_SHORT = 30  # letters of the name of an axis in one line
_HALF = 0.5  # counts, or answers on either side, that a donor is taken to have besides its own
_STEPS = ((1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0,))
_SHARES = np.array([0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999])
_FEWEST, _MOST = 3, 7  # ticks
_CLOSEST = 0.05  # of the axis, between two ticks
_WIDE = 4.0  # largest over smallest rate, from which ticks are 1, 2, 5


class Scale(Protocol):
    """What the donors' points are, and what is written beside them."""

    @property
    def height(self) -> str:
        """What the vertical axis shows."""

    @property
    def difference(self) -> str:
        """What an estimate is, of a level against the reference, whose name goes into the text."""

    @property
    def model(self) -> str:
        """What the model is called."""

    def name_ticks(self, ax: Axes) -> None:
        """Write values at places of the vertical axis, whose limits are known."""


@dataclass(frozen=True, slots=True)
class Plain:
    """Points that are their own values; `height` names the axis, with ``{}`` for the response's unit."""

    height: str
    difference: str = "difference from {}"
    model: str = "mixed model"

    def name_ticks(self, ax: Axes) -> None:
        """Nothing: the places are the values."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """Points at linear predictors, with ticks at rates or shares.

    Attributes
    ----------
    value, place
        From linear predictors to what is written, and back.
    ticks
        Values to write between two ends.
    """

    height: str
    difference: str
    value: Callable[[FloatArray], FloatArray]
    place: Callable[[FloatArray], FloatArray]
    ticks: Callable[[float, float], FloatArray]
    model: str = "mixed model"

    def name_ticks(self, ax: Axes) -> None:
        """Write values at places of the vertical axis, whose limits are known."""
        ends = np.array(ax.get_ylim())
        low, high = self.value(ends)
        places = self.place(self.ticks(float(low), float(high)))
        ax.yaxis.set_major_locator(FixedLocator(list(_apart(places, _CLOSEST * (ends[1] - ends[0])))))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{float(self.value(np.array(y))):.6g}"))


def rate_ticks(low: float, high: float) -> FloatArray:
    """Round rates between two ends: 1, 2, 5 and so on where these are far apart."""
    even = _inside(np.asarray(MaxNLocator(5).tick_values(low, high)), low, high)
    if high < _WIDE * low:
        return even
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    tried = (_inside(np.sort(np.outer(powers, steps).ravel()), low, high) for steps in _STEPS)
    return next((found for found in tried if _FEWEST <= found.size <= _MOST), even)


def share_ticks(low: float, high: float) -> FloatArray:
    """Round shares between two ends, dense where they are near none or all."""
    found = _inside(_SHARES, low, high)
    if found.size >= _FEWEST:
        return found
    even = _inside(np.asarray(MaxNLocator(5).tick_values(low, high)), low, high)
    return even[even < 1]


def _apart(places: FloatArray, gap: float) -> FloatArray:
    """Places, from below, without those that are closer than `gap` to the one before."""
    kept: list[float] = []
    for place in places:
        if not kept or place - kept[-1] >= gap:
            kept.append(float(place))
    return np.array(kept)


def _inside(values: FloatArray, low: float, high: float) -> FloatArray:
    return values[(values > 0) & (values >= low) & (values <= high)]


def log_rates(sums: pd.DataFrame, dispersion: float) -> tuple[FloatArray, FloatArray]:
    """Log rates of donors from sums over their cells, and their sampling variances."""
    total, exposure = sums["total"].to_numpy() + _HALF, sums["exposure"].to_numpy()
    return np.log(total / exposure), 1 / total + dispersion * sums["square"].to_numpy() / exposure**2


def log_odds(sums: pd.DataFrame, dispersion: float) -> tuple[FloatArray, FloatArray]:
    """Log odds of donors from sums over their cells, and their sampling variances."""
    yes = sums["total"].to_numpy() + _HALF
    no = sums["trials"].to_numpy() + 2 * _HALF - yes
    return np.log(yes / no), 1 / yes + 1 / no


def log_hazards(sums: pd.DataFrame, dispersion: float) -> tuple[FloatArray, FloatArray]:
    """Complementary log-log of donors' shares, for one unit of exposure, and their sampling variances."""
    n = sums["trials"].to_numpy() + 2 * _HALF
    share = (sums["total"].to_numpy() + _HALF) / n
    hazard = -np.log1p(-share)
    usual = (sums["exposure"] / sums["n_cells"]).to_numpy()
    return np.log(hazard / usual), share / (n * (1 - share) * hazard**2)


_POINTS = {"log": log_rates, "logit": log_odds, "cloglog": log_hazards}


def scale_of(scale: MeanScale) -> Predicted:
    """The vertical axis of means that are told like this, at places of linear predictors."""
    ratio = RATIO_OF_LINK[scale.link].replace("_", " ")
    where = scale.where or "(log-odds scale)" if scale.link == "logit" else scale.where
    height = scale.unit if scale.link == "log" and len(scale.unit) <= _SHORT else f"{scale.what}\n{where}".strip()
    ticks = rate_ticks if scale.link == "log" else share_ticks
    return Predicted(height, f"log {ratio} to {{}}", scale.value, scale.place, ticks)


def cells_again(adata: ad.AnnData, stored: Results, key: str, variable: str) -> tuple[dict[str, FloatArray], MeanScale]:
    """Exposure and trials of every cell, (N,), as the model had them, and how its means are told."""
    made = again(adata, stored, [variable], key)
    exposure, trials = made.source.per_cell(made.n_cells)
    return {"exposure": exposure, "trials": trials}, made.mean_scale


def donors_of(cells: pd.DataFrame, stored: Results, *, variable: str, group: str) -> tuple[pd.DataFrame, FloatArray]:
    """Donors by arm at their linear predictors, and what those count for.

    `sd` is such that a donor's cells give its sampling error, sd / sqrt(n_cells).
    """
    by = ["donor", "condition", "group"]
    squares = cells.assign(square=cells["exposure"] ** 2, total=cells["value"])
    grouped = squares.groupby(by, observed=True, sort=True)
    sums = grouped[["total", "exposure", "square", "trials"]].sum()
    sums = sums.assign(n_cells=grouped.size()).reset_index()
    own = stored.varcomp[(stored.varcomp["variable"] == variable) & (stored.varcomp["group"] == group)]
    random = own.loc[(own["column1"] != "") & (own["column2"] == ""), "variance"].sum()
    dispersion = own.loc[own["column1"] == "", "variance"].sum()
    eta, v = _POINTS[stored.params["link"]](sums, float(dispersion))
    donors = sums[[*by, "n_cells"]].assign(mean=eta, sd=np.sqrt(v * sums["n_cells"].to_numpy()))
    return donors, 1 / (v + float(random))


UNITS = Plain(height="rate of counts\n(natural log)", model="log-rate model")
"""Units of counts, whose points are log rates."""
MEANS = Plain("donor mean\n({})")
LEVELS = Plain("donor level\n({})")
