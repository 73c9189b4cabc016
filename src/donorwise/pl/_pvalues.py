"""How p-values are distributed, and how they would be: from a calibration, or from a result alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from donorwise._anndata import check_is_anndata, holds_tables, keys, read_results, read_scan, read_tables
from donorwise._core.engine.calibration import BINS, ranks, shape_of
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._tests import choose, only_one
from donorwise.pl._scan_data import groups_of, is_scan
from donorwise.pl._scan_quantiles import scan_shape
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    choose_contrast,
    despine,
    finish,
    outer_labels,
    panel_title,
    panels,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._anndata import StoredScan
    from donorwise._typing import FloatArray, Groups, IntArray


_HEADROOM = 1.35


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
    n_permutations
        How many there are, 0 without; one has no band.
    name, unit
        What the points are, and what is counted.
    """

    contrast: str
    inflation: float
    permuted: tuple[float, float, float] | None
    curve: pd.DataFrame
    histogram: pd.DataFrame
    n_permutations: int
    name: str = "observed labels"
    unit: str = "features"

    @property
    def band(self) -> str:
        """What the band is; empty where there is none."""
        if not self.n_permutations:
            return "95% of independent tests"
        return f"5 to 95% of {self.n_permutations:,} permutations" if self.n_permutations > 1 else ""

    @property
    def middle(self) -> str:
        """What the line in the middle is."""
        return "median of permutations" if self.n_permutations > 1 else "the one permutation"


def draw_distributions(
    adata: ad.AnnData,
    draw: Callable[[Axes, Distribution], None],
    *,
    key: str | None,
    contrast: str | None,
    group: Groups,
    ax: Axes | None,
    size: tuple[float, float],
    alone: tuple[float, float],
    x: str,
    y: str | None,
    show: bool | None,
    return_fig: bool,
) -> Axes | np.ndarray | Figure | None:
    """Draw the p-values of each group in a panel; `y` is what the vertical axis shows, None for numbers."""
    found = _read_distributions(adata, key=key, contrast=contrast, group=group)
    figure, axes = panels(ax, len(found), size=size, alone=alone)
    for panel, (name, own) in zip(axes, found.items(), strict=True):
        draw(panel, own)
        write_title(panel, panel_title(name, *filter(None, [own.contrast])), pad=18)
    outer_labels(axes, x=x, y=y or next(iter(found.values())).unit)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _read_distributions(
    adata: ad.AnnData, *, key: str | None, contrast: str | None, group: Groups
) -> dict[str, Distribution]:
    """The distributions of the groups of a calibration, of a result of tests, or of a scan.

    Raises
    ------
    DataError
        This is no AnnData; there is no such entry, contrast or group; or nothing in it was tested.
    """
    if is_scan(adata, key):
        return _of_scan(read_scan(adata, key or keys.SCAN), contrast=contrast, group=group)
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
        n = int(row.n_permutations)
        found[str(row.group)] = Distribution(own, row.lambda_observed, permuted, curve, histogram, n)
    return found


def _of_result(adata: ad.AnnData, *, key: str, contrast: str | None, group: Groups) -> dict[str, Distribution]:
    results = read_results(adata, key).results
    contrast = choose_contrast(adata, results, contrast)
    table = choose(choose(results, "contrast", contrast), "group", group)
    tested = table[table["p_value"].notna()]
    if tested.empty:
        raise DataError(f"No feature was tested for {contrast!r}: look at the status column of dw.get.tests.")
    found = {}
    for name, part in tested.groupby("group", observed=True)["p_value"]:
        found[str(name)] = _independent(part.to_numpy(dtype=np.float64), contrast)
    return found


def _of_scan(scan: StoredScan, *, contrast: str | None, group: Groups) -> dict[str, Distribution]:
    if contrast is not None:
        raise DataError(f"contrast={contrast!r}: a scan has one test of a variant; leave it out.")
    found = {}
    for name in groups_of(scan, group):
        every = scan_shape(scan, name)
        if every is not None:
            curve, histogram = _curve(every.rank, every.neg_log10_p, every.n), _histogram(every.histogram, every.n)
            found[name] = Distribution("", every.inflation, None, curve, histogram, 0, f"{every.n:,} tests", "tests")
    if not found:
        raise DataError("No variant was tested: look at the status column of dw.get.scan.")
    return found


def _independent(p: FloatArray, contrast: str) -> Distribution:
    n, shape = p.size, shape_of(p)
    curve = _curve(ranks(n), -np.log10(np.maximum(shape.curve, 1e-300)), n)
    return Distribution(contrast, shape.inflation, None, curve, _histogram(shape.counts, n), 0)


def _curve(rank: IntArray, observed: FloatArray, n: int) -> pd.DataFrame:
    """With the band of independent tests: the rank-th smallest of n uniforms is beta."""
    low, high = (-np.log10(stats.beta.ppf(q, rank, n - rank + 1)) for q in (0.975, 0.025))
    return pd.DataFrame({"expected": -np.log10((rank - 0.5) / n), "observed": observed, "low": low, "high": high})


def _histogram(counts: IntArray | FloatArray, n: int) -> pd.DataFrame:
    """With the band of independent tests, a binomial count in each bin."""
    low, high = stats.binom.ppf([0.025, 0.975], n, 1 / counts.size)
    return pd.DataFrame({"left": BINS[:-1], "right": BINS[1:], "observed": counts, "low": low, "high": high})


@documented
def pvalues(
    adata: ad.AnnData,
    *,
    key: str | None = None,
    contrast: str | None = None,
    group: Groups = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the histogram of the p-values, with what permuted labels give.

    Parameters
    ----------
    {adata_tests}
    {key_tests}
    {contrast_drawn}
    {group_panels}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        There is no such entry, contrast or group, or nothing in it was tested.

    Notes
    -----
    Flat where nothing is to be found, flat with a peak at zero where something is. Without permutations
    the band is that of independent tests, a binomial count in each bin.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.pvalues(adata)
    """
    return draw_distributions(
        adata, _draw_histogram, key=key, contrast=contrast, group=group, ax=ax, size=(3.8, 3.1), alone=(4.8, 3.6),
        x="p-value", y=None, show=show, return_fig=return_fig,
    )  # fmt: skip


def _draw_histogram(ax: Axes, own: Distribution) -> None:
    table = own.histogram
    edges = np.append(table["left"], table["right"].iloc[-1])
    ax.stairs(table["observed"], edges, fill=True, color=BLUE, alpha=0.55, lw=0, label=own.name)
    low, high = (np.append(table[side], table[side].iloc[-1]) for side in ("low", "high"))
    if own.band:
        ax.fill_between(edges, low, high, step="post", color=GREY, alpha=0.45, lw=0, label=own.band)
    if own.permuted is not None:
        ax.stairs(table["median"], edges, baseline=None, color=INK, lw=1, label=own.middle)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.45 * max(table["observed"].max(), table["high"].max()))
    ax.legend(loc="upper right", frameon=False, fontsize="small", handlelength=1.4)
    despine(ax)


@documented
def qq(
    adata: ad.AnnData,
    *,
    key: str | None = None,
    contrast: str | None = None,
    group: Groups = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the sorted p-values against their expectation, with what permuted labels give.

    Parameters
    ----------
    {adata_tests}
    {key_tests}
    {contrast_drawn}
    {group_panels}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        There is no such entry, contrast or group, or nothing in it was tested.

    Notes
    -----
    Points above the band are more small p-values than chance gives in this very data set. Without
    permutations the band is that of independent tests, each rank a beta quantile; tests of genes are not
    independent, so it is too narrow. Genomic lambda is the median chi-squared value over its expectation
    (Devlin and Roeder 1999). Of a scan all tests count, also those that were not kept: they are known in bins of their
    statistic, and the smallest p-values, where they were kept, one by one.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.qq(adata)
    """
    return draw_distributions(
        adata, _draw_quantiles, key=key, contrast=contrast, group=group, ax=ax, size=(3.6, 3.5), alone=(4.4, 4.2),
        x="expected $-\\log_{10}$ p", y="observed $-\\log_{10}$ p", show=show, return_fig=return_fig,
    )  # fmt: skip


def _draw_quantiles(ax: Axes, own: Distribution) -> None:
    curve = own.curve
    x = curve["expected"]
    if own.band:
        ax.fill_between(x, curve["low"], curve["high"], color=LIGHT_GREY, lw=0, label=own.band)
    if own.permuted is not None:
        ax.plot(x, curve["median"], color=GREY, lw=1.2, label=own.middle)
    ax.axline((0, 0), slope=1, color=INK, lw=0.7, ls=(0, (4, 3)))
    ax.scatter(x, curve["observed"], s=9, color=BLUE, lw=0, zorder=3, label=own.name, clip_on=False)
    ax.set_xlim(0, 1.03 * x.max())
    # the legend has the upper part of the axes for itself
    ax.set_ylim(0, _HEADROOM * max(curve["observed"].max(), curve["high"].max(), x.max()))
    ax.text(1.0, 1.0, inflation_text(own), transform=ax.transAxes, ha="right", va="bottom", fontsize="small", color=INK)
    ax.legend(loc="upper left", frameon=False, fontsize="small", handlelength=1.4)
    despine(ax)


def inflation_text(own: Distribution) -> str:
    """Genomic lambda, and where permutations put it."""
    text = f"$\\lambda$ = {own.inflation:.2f}"
    if own.permuted is None:
        return text
    middle, low, high = own.permuted
    between = f" ({low:.2f} to {high:.2f})" if own.n_permutations > 1 else ""
    return f"{text}, permuted {middle:.2f}{between}"
