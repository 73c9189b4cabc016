"""How p-values are distributed, and how they would be: from a calibration, or from a result alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from donorwise._anndata import check_is_anndata, holds_tables, keys, read_results, read_tables
from donorwise.engine.calibration import BINS, ranks, shape_of
from donorwise.errors import DataError
from donorwise.get._select import choose, only_one
from donorwise.pl._names import choose_contrast, panel_title, write_title
from donorwise.pl._style import finish, outer_labels, panels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import FloatArray


@dataclass(frozen=True, slots=True)
class Distribution:
    """The p-values of one group.

    Attributes
    ----------
    contrast
        Its name.
    inflation
        Genomic lambda of the observed labels.
    permuted
        Median, 5% and 95% of lambda over permutations; None without permutations.
    curve
        ``expected, observed, low, high`` (and ``median`` over permutations), -log10 p.
    histogram
        ``left, right, observed, low, high`` (and ``median``), counts.
    band
        What the band is.
    """

    contrast: str
    inflation: float
    permuted: tuple[float, float, float] | None
    curve: pd.DataFrame
    histogram: pd.DataFrame
    band: str


def draw_distributions(
    adata: ad.AnnData,
    draw: Callable[[Axes, Distribution], None],
    *,
    key: str | None,
    contrast: str | None,
    group: str | Sequence[str] | None,
    ax: Axes | None,
    sizes: tuple[tuple[float, float], tuple[float, float]],
    x: str,
    y: str,
    show: bool | None,
    return_fig: bool,
) -> Axes | np.ndarray | Figure | None:
    """Draw the p-values of each group in a panel; `sizes` of a panel alone and of one among several."""
    found = _read_distributions(adata, key=key, contrast=contrast, group=group)
    figure, axes = panels(ax, len(found), size=sizes[len(found) > 1])
    for panel, (name, own) in zip(axes, found.items(), strict=True):
        draw(panel, own)
        write_title(panel, panel_title(name, own.contrast))
    outer_labels(axes, x=x, y=y)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _read_distributions(
    adata: ad.AnnData, *, key: str | None, contrast: str | None, group: str | Sequence[str] | None
) -> dict[str, Distribution]:
    """The distributions of the groups of a calibration, or of a result of tests.

    Raises
    ------
    DataError
        This is no AnnData; there is no such entry, contrast or group; or nothing in it was tested.
    """
    check_is_anndata(adata)
    if key is None:
        if not holds_tables(adata, keys.CALIBRATION, keys.CALIBRATION_TABLES):
            return _of_result(adata, key=keys.LMM, contrast=contrast, group=group)
        key = keys.CALIBRATION
    if not holds_tables(adata, key, keys.CALIBRATION_TABLES) and holds_tables(adata, key, keys.TABLES):
        return _of_result(adata, key=key, contrast=contrast, group=group)
    tables = read_tables(adata, key, keys.CALIBRATION_TABLES, made_by="dw.tl.calibrate")
    own = only_one(tables["groups"], "contrast", contrast)
    groups = choose(tables["groups"], "group", group)
    found = {}
    for row in groups.itertuples():
        curve, histogram = (tables[n][tables[n]["group"] == row.group] for n in ("curves", "histogram"))
        permuted = (row.lambda_median, row.lambda_low, row.lambda_high)
        band = f"5 to 95% of {row.n_permutations:,} permutations"
        found[str(row.group)] = Distribution(own, row.lambda_observed, permuted, curve, histogram, band)
    return found


def _of_result(
    adata: ad.AnnData, *, key: str, contrast: str | None, group: str | Sequence[str] | None
) -> dict[str, Distribution]:
    results = read_results(adata, key).results
    contrast = choose_contrast(adata, results, contrast)
    table = choose(choose(results, "contrast", contrast), "group", group)
    tested = table[table["p_value"].notna()]
    if tested.empty:
        raise DataError(f"No feature was tested for {contrast!r}: look at the status column of dw.get.lmm.")
    found = {}
    for name, part in tested.groupby("group", observed=True)["p_value"]:
        found[str(name)] = _independent(part.to_numpy(dtype=np.float64), contrast)
    return found


def _independent(p: FloatArray, contrast: str) -> Distribution:
    """Bands of independent tests: the rank-th smallest of n uniforms is beta, a bin's count binomial."""
    n, shape = p.size, shape_of(p)
    rank = ranks(n)
    low, high = (-np.log10(stats.beta.ppf(q, rank, n - rank + 1)) for q in (0.975, 0.025))
    expected = -np.log10((rank - 0.5) / n)
    observed = -np.log10(np.maximum(shape.curve, 1e-300))
    curve = pd.DataFrame({"expected": expected, "observed": observed, "low": low, "high": high})
    low, high = stats.binom.ppf([0.025, 0.975], n, 1 / shape.counts.size)
    histogram = pd.DataFrame({"left": BINS[:-1], "right": BINS[1:], "observed": shape.counts, "low": low, "high": high})
    return Distribution(contrast, shape.inflation, None, curve, histogram, "95% of independent tests")
