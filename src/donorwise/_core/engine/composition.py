"""Shares of cell types in samples as an analysis: cells of each type out of all of a sample, a binomial mixed model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.design.replicates import find_donors
from donorwise._core.design.shares import coarser
from donorwise._core.engine.analysis import Family, Replicates
from donorwise._core.engine.glmm import GlmmAnalysis
from donorwise._core.engine.results import told_reasons

if TYPE_CHECKING:
    import pandas as pd

    from donorwise._core.design.shares import Samples
    from donorwise._core.engine.analysis import Tables
    from donorwise._core.engine.count_fits import CountFit
    from donorwise._typing import IntArray

RELATIVE = (
    "Shares are relative: where one type has more cells, all others have smaller shares, whether or not there are fewer of "
    "them. Numbers of cells per volume or per weight of tissue are not in the data."
)
ABOUT_SAMPLES = (
    "Shares of cell types are of samples: a cell has one type, of which nothing could be taken out. What a sample or a donor has "
    "beside the fixed effects, as log odds, is in dw.get.ranef(adata, cell_types, key=...)."
)
_PUSHED = (
    "Without {type}, all other {n} types shift the other way, as they must where one type of many cells alone changes. To "
    "see whether they differ among themselves, compare the shares without it: "
    "dw.tl.composition(adata[adata.obs[{column!r}] != {type!r}], ...)."
)
_ALPHA, _ENOUGH = 0.05, 3  # adjusted p-value of the type that shifts; other types that one can speak of


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionAnalysis(GlmmAnalysis):
    """A generalised mixed model of the shares of cell types.

    Attributes
    ----------
    cell_type, sample
        Columns of obs; no sample where it is not known.
    samples
        The samples.
    """

    cell_type: str
    sample: str
    samples: Samples

    @property
    def family(self) -> Family:  # type: ignore[override]
        """See :class:`Analysis`."""
        return Family(method="composition", observations="shares", link=self.distribution.link, prior_on="variance")

    def tables(self, number: int, fit: CountFit | None) -> Tables:
        """See :class:`Analysis`."""
        made = GlmmAnalysis.tables(self, number, fit)
        return replace(made, cautions=made.cautions | pushed(made.results, self.cell_type))

    @property
    def without_cells(self) -> str:
        """See :class:`Analysis`."""
        return ABOUT_SAMPLES

    def donors(self, number: int) -> Replicates:
        """See :class:`Analysis`; donors need no term of their own where each has one sample."""
        design = self._design(number)
        if any(term.group == self.donor for term in design.random_terms):
            return GlmmAnalysis.donors(self, number)
        found = find_donors(design, self.obs, self.donor or None)
        codes = np.zeros(design.n_patterns, dtype=np.int64)
        codes[found.rows.pattern] = found.rows.donor
        return Replicates(found.levels, codes)

    def permuted_donors(self, number: int) -> IntArray:
        """See :class:`Analysis`."""
        return self.donors(number).codes

    def own_params(self) -> dict[str, Any]:
        """See :class:`Analysis`."""
        return {
            "family": self.distribution.name,
            "cell_type": self.cell_type,
            "sample": self.sample,
            "samples": ":".join(self.samples.columns),
            "note": RELATIVE,
        }


def coarse_terms(analysis: CompositionAnalysis) -> list[str]:
    """What to be told of random terms that are coarser than the samples, with the groups that it is true of."""
    found = {t.name: coarser(analysis.samples, t.design) for t in analysis.tasks if t.design is not None}
    return told_reasons(found) if analysis.groupby else [text for text in found.values() if text]


def pushed(results: pd.DataFrame, column: str) -> dict[str, str]:
    """What to say, by contrast, where one type differs and all others shift the other way."""
    found = {}
    tested = results[results["p_value"].notna()]
    for contrast, own in tested.groupby("contrast", observed=True, sort=False):
        first = own.loc[own["p_value"].idxmin()]
        others = own[own["variable"] != first["variable"]]
        against = np.sign(others["estimate"]) == -np.sign(first["estimate"])
        if first["adj_p_value"] <= _ALPHA and len(others) >= _ENOUGH and against.all():
            found[str(contrast)] = f"{contrast}: " + _PUSHED.format(
                type=str(first["variable"]), n=len(others), column=column
            )
    return found
