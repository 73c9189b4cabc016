"""Areas that stand for numbers of cells, and the size of axes on paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from donorwise.pl._style import GREY, root

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from donorwise._typing import FloatArray

SMALLEST = 1.0
"""Area in points squared of a marker that stands for a few cells and must still be seen."""


def areas(n_cells: npt.ArrayLike, *, most: float, largest: float) -> FloatArray:
    """Areas in points squared, proportional to numbers of cells; `most` of them get the `largest`."""
    return np.maximum(largest * np.asarray(n_cells, dtype=np.float64) / most, SMALLEST)


def area_key(most: float, largest: float, *, n: int = 3) -> list[Line2D]:
    """Markers for a legend: the largest round number of cells, and smaller ones of a quarter each."""
    steps = dict.fromkeys(max(1, int(float(f"{most / 4**i:.0e}"))) for i in range(n))
    return [
        Line2D(
            [], [], ls="", marker="o", mec="none", color=GREY, label=f"{number:,} cell{'' if number == 1 else 's'}",
            ms=float(np.sqrt(areas(number, most=most, largest=largest))),
        )
        for number in steps
    ]  # fmt: skip


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of axes."""
    box = ax.get_window_extent()
    return float(box.width / root(ax).dpi), float(box.height / root(ax).dpi)
