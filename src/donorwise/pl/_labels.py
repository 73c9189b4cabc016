"""Names beside points, placed so that they hide neither each other nor the points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

from donorwise.errors import DonorwiseError
from donorwise.pl._style import GREY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from donorwise._typing import FloatArray

DIRECTIONS = np.deg2rad([25, 155, 335, 205, 90, 270, 0, 180, 55, 125, 305, 235])
DISTANCES = (4.0, 12.0, 22.0, 34.0, 48.0)
"""Distance in points of a name from its point; beyond the first a line leads back."""
_MARGIN = 3.0  # points between two names
RING_COST = 1.5
"""How many points a name may cover before it moves one distance farther."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a name goes.

    Attributes
    ----------
    box
        Shape (4,). Left, bottom, right, top in pixels.
    offset
        From the point, in points.
    alignment
        Of the text.
    leader
        Shape (S, 2). Pixels along the line back to the point; S = 0 where the name is next to it.
    """

    box: FloatArray
    offset: tuple[float, float]
    alignment: str
    leader: FloatArray


def place_labels(
    ax: Axes,
    names: Sequence[str],
    xy: FloatArray,
    *,
    points: FloatArray,
    colors: Sequence[str],
    size: float = 8.0,
    most: float = np.inf,
) -> list[str]:
    """Write names beside their points, the most important first, and leave out those without room.

    Parameters
    ----------
    ax
        Axes whose limits and place in the figure are final.
    names, colors
        One each for the L points to name.
    xy
        Shape (L, 2). Where they are, in data coordinates.
    points
        Shape (P, 2). All points of the plot, which names should not cover.
    size
        Font size in points.
    most
        How much a name may cost, about how many points it may cover, before it is left out.

    Returns
    -------
    The names that found room.
    """
    pixels_per_point = ax.figure.dpi / 72
    anchors, others = ax.transData.transform(xy), ax.transData.transform(points)
    frame = np.array(ax.get_window_extent().extents)
    taken: list[_Place] = []
    placed = []
    for name, color, anchor, data in zip(names, colors, anchors, xy, strict=True):
        extent = np.array([_width(name, size), size * 1.15]) * pixels_per_point
        place = _best_place(anchor, extent, taken=taken, others=others, frame=frame, scale=pixels_per_point, most=most)
        if place is None:
            continue
        taken.append(place)
        placed.append(name)
        label = ax.annotate(
            name,
            xy=data,
            xytext=place.offset,
            textcoords="offset points",
            ha=place.alignment,
            va="center",
            fontsize=size,
            color=color,
            path_effects=[withStroke(linewidth=1.8, foreground="white")],
            annotation_clip=False,
            parse_math=False,
            arrowprops=_line(place, color) if len(place.leader) else None,
        )
        # it is inside the axes, and the layout that it was placed in must stay
        label.set_in_layout(False)
    return placed


def adjust_labels(
    ax: Axes, names: Sequence[str], xy: FloatArray, *, points: FloatArray, colors: Sequence[str], size: float = 8.0
) -> None:
    """As :func:`place_labels`, with places by adjustText, which writes every name even where it has to overlap.

    Raises
    ------
    DonorwiseError
        adjustText is not installed.
    """
    try:
        from adjustText import adjust_text
    except ImportError as error:
        raise DonorwiseError(
            "adjust_text=True needs the package adjustText, an optional one: pip install 'donorwise[labels]'. Leave it "
            "out for the placement that is built in."
        ) from error
    texts = [
        ax.text(
            x,
            y,
            name,
            fontsize=size,
            color=color,
            path_effects=[withStroke(linewidth=1.8, foreground="white")],
            parse_math=False,
        )
        for name, (x, y), color in zip(names, xy, colors, strict=True)
    ]
    adjust_text(texts, *points.T, ax=ax, arrowprops={"arrowstyle": "-", "lw": 0.5, "color": GREY})
    for text in texts:
        text.set_in_layout(False)


def _best_place(
    anchor: FloatArray,
    extent: FloatArray,
    *,
    taken: list[_Place],
    others: FloatArray,
    frame: FloatArray,
    scale: float,
    most: float,
) -> _Place | None:
    """Return the place that covers the least, near before far; None where all cost more than `most` or collide."""
    near = others[np.all(np.abs(others - anchor) < extent + (max(DISTANCES) + 10) * scale, axis=1)]
    lines = np.concatenate([np.empty((0, 2)), *(place.leader for place in taken)])
    best, least = None, np.nextafter(most, np.inf)
    for i, distance in enumerate(DISTANCES):
        for angle in DIRECTIONS:
            place = _place(anchor, extent, angle=angle, distance=distance, scale=scale, leader=i > 0)
            if _outside(place.box, frame) or any(_overlap(place.box, other.box) for other in taken):
                continue
            crossed = sum(_n_inside(place.leader, other.box) > 0 for other in taken)
            cost = _n_inside(near, place.box) + 2.0 * (_n_inside(lines, place.box) > 0) + 3.0 * crossed + RING_COST * i
            if cost < least:
                best, least = place, cost
        if least <= RING_COST * (i + 1):
            # no farther ring can do better than this
            return best
    return best


def _place(
    anchor: FloatArray, extent: FloatArray, *, angle: float, distance: float, scale: float, leader: bool
) -> _Place:
    """Work out the box of a name, with its margin, at an angle and distance (points) from its anchor (pixels)."""
    direction = np.array([np.cos(angle), np.sin(angle)])
    alignment = "left" if direction[0] > 0.3 else "right" if direction[0] < -0.3 else "center"
    # a name above or below its point must also clear half of its own height
    offset = direction * distance + np.array([0.0, np.sign(direction[1]) * abs(direction[1]) * extent[1] / scale / 2])
    x = anchor[0] + offset[0] * scale - {"left": 0.0, "right": extent[0], "center": extent[0] / 2}[alignment]
    y = anchor[1] + offset[1] * scale - extent[1] / 2
    margin = _MARGIN / 2 * scale
    box = np.array([x - margin, y - margin, x + extent[0] + margin, y + extent[1] + margin])
    end = anchor + offset * scale
    line = np.linspace(anchor, end, 12) if leader else np.empty((0, 2))
    return _Place(box=box, offset=(float(offset[0]), float(offset[1])), alignment=alignment, leader=line)


def _line(place: _Place, color: str) -> dict[str, Any]:
    """Style of the line from the near edge of a name to its point."""
    edge = {"left": (0, 0.5), "right": (1, 0.5), "center": (0.5, 0 if place.offset[1] > 0 else 1)}[place.alignment]
    return {"arrowstyle": "-", "lw": 0.5, "color": color, "shrinkA": 0, "shrinkB": 2, "relpos": edge}


def _width(name: str, size: float) -> float:
    """Width of a text in points, without drawing it."""
    return float(TextPath((0, 0), name.replace("$", r"\$"), size=size, prop=FontProperties()).get_extents().width) + 2.0


def _outside(box: FloatArray, frame: FloatArray) -> bool:
    return bool(np.any(box[:2] < frame[:2]) or np.any(box[2:] > frame[2:]))


def _overlap(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.all(a[:2] < b[2:]) and np.all(b[:2] < a[2:]))


def _n_inside(points: FloatArray, box: FloatArray) -> int:
    return int(np.sum(np.all((points > box[:2] - 2) & (points < box[2:] + 2), axis=1)))
