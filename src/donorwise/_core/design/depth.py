"""Findings of an audit about sequencing depth, which every kind of model takes in another way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from donorwise._core.design.terms import term_variables
from donorwise._core.wording import listing

if TYPE_CHECKING:
    from donorwise._core.design.arms import Arms
    from donorwise._core.design.design import Design
    from donorwise._core.design.replicates import Donors

Depth: TypeAlias = Literal["values", "exposure", "chance", "missing", "none"]
"""How a model takes depth: its ``"values"`` are log-normalised, it is the ``"exposure"``, the ``"chance"`` of a yes hangs on
it, counts ``"missing"`` an exposure, or ``"none"``: nothing is known of it."""

_DEPTH = re.compile(r"depth|lib|total_counts|n_?counts?|umi", re.IGNORECASE)
_SPREAD = 0.1  # standard deviation among donors of log mean depth above which means are seen to drift
_DRIFTS: dict[Depth, str] = {
    "values": (
        "log-normalised means depend on depth; add a cell-level covariate such as `log_depth` (made by `dw.pp.log_depth`) to "
        "the formula."
    ),
    "chance": (
        "the chance that a gene is detected depends on depth (4 against 4 donors: type I error .17 at a nominal .05 where "
        "arms differ 1.5-fold, .43 where 2-fold); use link='cloglog' with an exposure, whose coefficients are logarithms of "
        "rates, or add `log_depth` (made by `dw.pp.log_depth`) to the formula."
    ),
}
_MISSING = (
    "Counts without an exposure: a rate is then one per cell, whatever its size or depth, and a difference of these counts as "
    "one of rates. Give exposure=, such as the total counts of each cell, unless all cells were looked at alike."
)


def depth_differs(design: Design, arms: Iterable[Arms], donors: Donors, depth: Depth) -> Iterator[str]:
    """Depth that differs between donors and that the model leaves out."""
    rows = donors.rows
    if depth not in _DRIFTS or rows.depths is None or _read(design):
        return
    n = np.bincount(rows.donor, weights=rows.n_depth)
    means = np.bincount(rows.donor, weights=rows.depth)[n > 0] / n[n > 0]
    spread = float(np.log(means).std(ddof=1)) if len(means) > 1 else 0.0
    if spread <= _SPREAD:
        return
    ratios = {
        a.contrast: max(a.depth[0] / a.depth[1], a.depth[1] / a.depth[0])
        for a in arms
        if a.kind == "between-donor" and a.depth
    }
    worst = max(ratios, key=lambda name: ratios[name], default=None)
    between = f"; {ratios[worst]:.2f}-fold between the arms of {worst}" if worst and ratios[worst] > 1.05 else ""
    yield (
        f"Depth differs between donors (standard deviation of log mean depth {spread:.2f}{between}), and {_DRIFTS[depth]}"
    )


def missing_exposure(depth: Depth) -> Iterator[str]:
    """Counts of cells whose size or depth is not known to the model."""
    if depth == "missing":
        yield _MISSING


def depth_twice(design: Design, depth: Depth) -> Iterator[str]:
    """Depth that is in the formula as well as in the exposure."""
    if depth == "exposure" and (names := _read(design)):
        yield (
            f"{listing(names)} is in the formula, and the exposure has the depth already: rates are per count. Leave it out, unless "
            "rates themselves are thought to change with depth; a covariate of cells makes every cell a row, which takes longer."
        )


def _read(design: Design) -> list[str]:
    """Columns of the formula that are depths by their names."""
    names = dict.fromkeys(v for term in design.spec.terms for v in term_variables(term))
    return [name for name in names if _DEPTH.search(name)]
