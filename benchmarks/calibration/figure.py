"""One figure: every method's errors and power in every scenario, beside what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from benchmarks.calibration.aims import AIMS
from benchmarks.calibration.scenarios import TITLES
from matplotlib.lines import Line2D

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS = (
    ("type1@0.05", "type I error at 0.05", 0.05),
    ("type1@0.001", "type I error at 0.001", 0.001),
    ("fdp", "false share of hits (FDR 5%)", 0.05),
    ("power_equal", "power at a true FDP of 5%", None),
)
_INK, _BAND = "#333333", "#CFE8DC"


def draw(summary: pd.DataFrame, methods: list[str], out: Path) -> None:
    """Write the figure: columns are scenarios, rows are measures, points are sizes (and variants)."""
    scenarios = sorted(summary["scenario"].unique())
    rows = [r for r in _ROWS if (summary["measure"] == r[0]).any()]
    with mpl.rc_context({"font.size": 8, "axes.titlesize": 9}):
        figure, axes = plt.subplots(
            len(rows), len(scenarios), figsize=(2.2 + 2.1 * len(scenarios), 0.6 + 0.19 * len(methods) * len(rows) + 0.7),
            layout="constrained", squeeze=False, sharey=True,
        )  # fmt: skip
        for i, (measure, label, nominal) in enumerate(rows):
            for ax, scenario in zip(axes[i], scenarios, strict=True):
                own = summary[(summary["measure"] == measure) & (summary["scenario"] == scenario)]
                _panel(ax, own, methods, nominal, _interval(scenario, measure))
            axes[i, 0].set_ylabel(label, fontweight="bold")
            axes[i, 0].set_yticks(range(len(methods)), methods)
        for ax, scenario in zip(axes[0], scenarios, strict=True):
            ax.set_title(f"{scenario}. {TITLES[scenario]}")
        _legend(figure, summary)
        figure.savefig(out, dpi=150)
        plt.close(figure)


def _panel(
    ax: Axes, own: pd.DataFrame, methods: list[str], nominal: float | None, aim: tuple[float, float] | None
) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_ylim(len(methods) - 0.4, -0.6)
    if own.empty:
        ax.spines["bottom"].set_visible(False)
        ax.set_xticks([])
        ax.text(0.5, 0.5, "no true effects", transform=ax.transAxes, ha="center", color="#8C8C8C")
        return
    ax.grid(axis="y", color="#EEEEEE", lw=0.6)
    floor = 0.1 * nominal if nominal else 0.0
    if aim is not None:
        ax.axvspan(max(aim[0], floor), aim[1], color=_BAND, lw=0)
    if nominal is not None:
        ax.axvline(nominal, color=_INK, lw=0.8)
        ax.set_xscale("log")
        ax.set_xlim(floor * 0.9, 1.0)
    colors = _colors(own["size"])
    sizes = sorted(own["size"].unique())
    for row in own[own["method"].isin(methods)].itertuples():
        y = methods.index(row.method) + 0.5 * (sizes.index(row.size) / max(1, len(sizes) - 1) - 0.5)
        ax.plot(np.clip(row.mean, floor, None), y, "o", ms=3.2, mew=0, color=colors[row.size], alpha=0.9)


def _interval(scenario: str, measure: str) -> tuple[float, float] | None:
    return next(((a.low, a.high) for a in AIMS if (a.scenario, a.measure) == (scenario, measure)), None)


def _colors(sizes: pd.Series) -> dict[int, tuple[float, float, float, float]]:
    every = (2, 3, 5, 10, 15, 20)
    return {n: mpl.colormaps["viridis"](0.92 * every.index(n) / (len(every) - 1)) for n in sizes.unique()}


def _legend(figure: Figure, summary: pd.DataFrame) -> None:
    colors = _colors(summary["size"])
    handles = [Line2D([], [], marker="o", ls="", ms=4, color=colors[n], label=str(n)) for n in sorted(colors)]
    figure.legend(
        handles=handles, title="donors per arm (pairs in E)", loc="outside lower center", ncols=8, frameon=False
    )
