"""From the statistics of units to the model of their log rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.jobs import in_threads
from donorwise._core.models.lograte.design import unit_design
from donorwise._core.models.lograte.model import LogRateModel
from donorwise._core.models.lograte.units import LogRates, log_rates

if TYPE_CHECKING:
    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design
    from donorwise._core.models.lograte.units import Depths
    from donorwise._typing import IntArray

# Doubles of temporary arrays that a block of genes may use (32 MB).
_BLOCK = 4_000_000


def fit_log_rates(design: Design, collapsed: Collapsed, depths: Depths, n_jobs: int = 1) -> LogRateModel:
    """The model of the genes that have counts.

    Parameters
    ----------
    design
        Of the units, which are its rows.
    collapsed, depths
        Statistics of the units that the design uses, in its order; the depth is the only covariate.
    n_jobs
        Threads.
    """
    units = unit_design(design)
    order = np.searchsorted(np.flatnonzero(design.codes >= 0), units.order)
    collapsed, depths = collapsed.take(order), depths.take(order)
    present = np.flatnonzero((collapsed.mean > 0).any(axis=0))

    def rates(genes: IntArray) -> LogRates:
        return log_rates(collapsed.take_features(genes), depths, units.Q)

    size = int(np.clip(_BLOCK // (8 * units.order.size), 1, 1024))
    blocks = [present[i : i + size] for i in range(0, max(present.size, 1), size)]
    counts = np.asarray(np.rint(depths.n_cells @ collapsed.mean[:, present]))
    return LogRateModel(present, units, depths, LogRates.concatenate(list(in_threads(rates, blocks, n_jobs))), counts)
