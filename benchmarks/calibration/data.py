"""What a method is given: a data set, with the truth beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise import fit_lmm
from donorwise._core.design.build import build_design
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.tasks import Pass, Statistics

if TYPE_CHECKING:
    import anndata as ad

    from donorwise import LMMFit
    from donorwise._core.cells.measures import Collapsed

CONTRAST = "condition[T.case]"


@dataclass(frozen=True, eq=False)
class CountData:
    """Cells x genes: counts in a layer, X log-normalised; obs has ``donor, condition, sample, log_depth``.

    Attributes
    ----------
    adata
        All genes: the library sizes are sums over them.
    tested
        Shape (n_vars,). Genes detected in enough cells; every method tests these and no others.
    effect
        Shape (n_vars,). True effect of the condition; 0 for a true null.
    formula
        Mixed model that the audit asks for.
    reduced
        The same without the term that the audit asks for; empty where it asks for none.
    paired
        Whether every donor has both conditions.
    """

    adata: ad.AnnData
    tested: np.ndarray
    effect: np.ndarray
    formula: str
    reduced: str = ""
    paired: bool = False
    _fits: dict[str, LMMFit] = field(default_factory=dict)

    @property
    def truth(self) -> np.ndarray:
        """True effects of the tested genes."""
        return self.effect[self.tested]

    @cached_property
    def counts(self) -> np.ndarray:
        """Mean counts of a sample, of the tested genes."""
        total = np.ravel(self.adata.layers["counts"].sum(axis=0, dtype=np.float64))
        return total[self.tested] / self.adata.obs["sample"].nunique()

    def fit(self, formula: str) -> LMMFit:
        """Mixed models of the tested genes; fitted once for all the tests that are made of them."""
        if formula not in self._fits:
            X = self.adata.X[:, np.flatnonzero(self.tested)]
            self._fits[formula] = fit_lmm(X, self.adata.obs, formula, n_jobs=1)
        return self._fits[formula]

    def sums(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Counts of samples x tested genes, and of every sample its donor, condition and library size."""
        obs = self.adata.obs
        sample = obs["sample"].cat.remove_unused_categories()
        codes = sample.cat.codes.to_numpy()
        counts = self.adata.layers["counts"]
        total = np.stack(
            [np.ravel(counts[codes == s].sum(axis=0, dtype=np.float64)) for s in range(len(sample.cat.categories))]
        )
        first = obs.iloc[np.unique(codes, return_index=True)[1]][["donor", "condition"]]
        samples = first.set_axis(sample.cat.categories, axis=0).assign(library=total.sum(axis=1))
        names = self.adata.var_names[self.tested]
        return pd.DataFrame(total[:, self.tested].astype(int), samples.index, names), samples


@dataclass(frozen=True, eq=False)
class GaussianData:
    """Sufficient statistics of normal responses, without any cells: for the mixed models only.

    Attributes
    ----------
    obs
        One row per cell.
    collapsed
        One pattern per donor, in the order of the rows.
    truth
        Shape (G,). True effects of the condition.
    formula
        The mixed model.
    """

    obs: pd.DataFrame
    collapsed: Collapsed
    truth: np.ndarray
    formula: str
    reduced: str = ""
    _fits: dict[str, LMMFit] = field(default_factory=dict)

    @property
    def counts(self) -> np.ndarray:
        """There are none."""
        return np.full(self.truth.size, np.nan)

    def fit(self, formula: str) -> LMMFit:
        """Mixed models of all features."""
        if formula not in self._fits:
            design = build_design(formula, self.obs)
            features = np.arange(self.truth.size)
            statistics = Statistics(design, (Pass(features, self.collapsed),))
            self._fits[formula] = fit_statistics(statistics, tuple(map(str, features)))
        return self._fits[formula]
