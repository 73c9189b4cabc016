"""Every protein a small mixed model of its own: the measurements of its peptides, with the terms that these can tell."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.replicates import find_donors, replicate
from donorwise._core.engine.analysis import Family, Replicates, Tables
from donorwise._core.engine.fitted import LMMFit
from donorwise._core.engine.lmm import LmmAnalysis
from donorwise._core.engine.power import replication
from donorwise._core.models.lmm.ragged import RaggedEquations, fit_ragged_rows
from donorwise._core.models.lmm.ragged_model import RaggedLMM
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.design.design import Design
    from donorwise._core.engine.peptide_rows import PeptideSource, PeptideStatistics
    from donorwise._typing import BoolArray, FloatArray, IntArray

N_PEPTIDES, N_MISSING, FORMULA = PEPTIDE_COLUMNS = ("n_peptides", "n_missing", "formula")


@dataclass(frozen=True, repr=False)
class PeptideFit(LMMFit):
    """Linear mixed models of G proteins that each have rows of their own.

    Attributes
    ----------
    n_peptides, n_missing
        Shape (G,). Peptides that were measured, and measurements that are missing.
    formulas
        The formula that was used for each protein.
    """

    n_peptides: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    n_missing: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    formulas: tuple[str, ...] = ()


def fit_peptides(
    statistics: PeptideStatistics, variables: tuple[str, ...], *, donor: str, of_peptides: tuple[bool, ...], fold: float, reml: bool
) -> PeptideFit:
    """Fit all proteins of a task.

    Parameters
    ----------
    statistics
        Their measurements.
    variables
        Names of the G proteins.
    donor
        Column that is the replicate; empty where it is the formula that says it.
    of_peptides
        Which random terms are those of peptides.
    fold
        What takes an estimate to a log2 fold change.
    reml
        Restricted or full maximum likelihood.
    """
    design, rows = statistics.design, statistics.rows
    z = np.stack([term.Z[:, 0] for term in design.random_terms], axis=1) if design.random_terms else np.empty((design.n_patterns, 0))
    replicates = replicates_of(design, donor, of_peptides)
    first = [t for t, term in enumerate(design.random_terms) if term.group == replicates]
    order = [*first, *(t for t in range(z.shape[1]) if t not in first)]
    weight = float(np.exp(np.log(rows.w).mean())) if rows.w.size else 1.0  # or nothing would be free of units
    equations = RaggedEquations.of(replace(rows, w=rows.w / weight), design.X, np.ascontiguousarray(z), order)
    estimates = fit_ragged_rows(equations, reml=reml)
    model = RaggedLMM(design, np.arange(len(variables)), equations, estimates, of_peptides, fold)
    n_donors = equations.n_levels[:, first[0]] if first else np.zeros(len(variables), dtype=np.int64)
    fit = PeptideFit.of(design, (model,), variables, donor=replicates, reml=reml, n_obs=rows.n, n_donors=n_donors)
    return replace(
        fit, n_peptides=statistics.n_peptides, n_missing=statistics.n_missing, formulas=formulas_used(design, equations.kept)
    )


def replicates_of(design: Design, donor: str, of_peptides: tuple[bool, ...]) -> str:
    """The grouping factor that counts as the replicate: never one of peptides."""
    groups = [t.bar.group for t, own in zip(design.random_terms, of_peptides, strict=True) if not own]
    return ":".join(replicate(groups, donor))


def formulas_used(design: Design, kept: BoolArray) -> tuple[str, ...]:
    """The formula of every protein, with the terms (G, T) that it has."""
    found, which = np.unique(kept, axis=0, return_inverse=True)
    texts = [
        design.formula
        if own.all()
        else design.parsed.keep([t.bar for t, has in zip(design.random_terms, own, strict=True) if has]).source
        for own in found
    ]
    return tuple(texts[i] for i in which.ravel())


@dataclass(frozen=True, slots=True, kw_only=True)
class PeptideAnalysis(LmmAnalysis):
    """A linear mixed model of every protein, on the measurements of its peptides.

    Attributes
    ----------
    features, weights_layer
        Column of var that says the protein, and layer of weights (empty for none).
    """

    family = Family(method="lmm", observations="peptides", link="identity", prior_on="ratio")

    features: str
    weights_layer: str
    source: PeptideSource

    def fit(self, number: int, statistics: PeptideStatistics, update: Callable[[int], object]) -> PeptideFit:
        """See :class:`Analysis`."""
        groupings = self.source.groupings
        of_peptides = tuple(groupings[t.bar.group].peptides_alone for t in statistics.design.random_terms)
        fit = fit_peptides(
            statistics, self.variables, donor=self.donor, of_peptides=of_peptides, fold=float(np.log2(self.log_base)),
            reml=self.options.reml,
        )
        update(len(self.variables))
        return fit

    def tables(self, number: int, fit: PeptideFit | None) -> Tables:
        """See :class:`Analysis`."""
        made = LmmAnalysis.tables(self, number, fit)  # slots: super() has lost its class
        at = made.results["variable"].cat.codes.to_numpy()
        G = len(self.variables)
        peptides = np.zeros(G, dtype=np.int64) if fit is None else fit.n_peptides
        missing = np.zeros(G, dtype=np.int64) if fit is None else fit.n_missing
        formulas = (self.formula.source,) * G if fit is None else fit.formulas
        names, codes = np.unique(formulas, return_inverse=True)
        results = made.results.assign(
            **{N_PEPTIDES: peptides[at], N_MISSING: missing[at], FORMULA: pd.Categorical.from_codes(codes.ravel()[at], names)}
        )
        return replace(made, results=results)

    def fold_changes(self, fit: LMMFit, L: FloatArray, log_fc: FloatArray) -> FloatArray:
        """Log2 fold changes (n, G): every difference of logarithms is one."""
        return log_fc

    def cautions_of(self, fit: LMMFit, L: FloatArray) -> dict[str, str]:
        """See :class:`LmmAnalysis`."""
        return {}

    def own_params(self) -> dict[str, Any]:
        """See :class:`Analysis`."""
        return {"features": self.features, "weights_layer": self.weights_layer}
