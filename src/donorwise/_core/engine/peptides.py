"""Every protein a small mixed model of its own: the measurements of its peptides, with the terms that these can tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.design.replicates import replicate
from donorwise._core.engine.analysis import Family, Tables
from donorwise._core.engine.fitted_peptides import PeptideFit, with_peptides
from donorwise._core.engine.lmm import LmmAnalysis
from donorwise._core.models.lmm.ragged import RaggedEquations, fit_ragged_rows
from donorwise._core.models.lmm.ragged_model import RaggedLMM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from donorwise._core.design.design import Design
    from donorwise._core.engine.fitted import LMMFit
    from donorwise._core.engine.peptide_rows import Grouping, PeptideSource, PeptideStatistics
    from donorwise._typing import BoolArray, FloatArray


def fit_peptides(
    statistics: PeptideStatistics,
    variables: tuple[str, ...],
    groupings: Mapping[tuple[str, ...], Grouping],
    *,
    donor: str,
    fold: float,
    reml: bool,
    update: Callable[[int], object],
) -> PeptideFit:
    """Fit all proteins of a task.

    Parameters
    ----------
    statistics
        Their measurements.
    variables
        Names of the G proteins.
    groupings
        Of every grouping factor.
    donor
        Column that is the replicate; empty where it is the formula that says it.
    fold
        What takes an estimate to a log2 fold change.
    reml
        Restricted or full maximum likelihood.
    update
        Is told how many are done.
    """
    design, rows = statistics.design, statistics.rows
    of_peptides = tuple(groupings[t.bar.group].peptides_alone for t in design.random_terms)
    z = (
        np.stack([term.Z[:, 0] for term in design.random_terms], axis=1)
        if design.random_terms
        else np.empty((design.n_patterns, 0))
    )
    replicates = replicates_of(design, donor, of_peptides)
    first = [t for t, term in enumerate(design.random_terms) if term.group == replicates]
    order = [*first, *(t for t in range(z.shape[1]) if t not in first)]
    weight = float(np.exp(np.log(rows.w).mean())) if rows.w.size else 1.0  # or nothing would be free of units
    equations = RaggedEquations.of(replace(rows, w=rows.w / weight), design.X, np.ascontiguousarray(z), order)
    estimates = fit_ragged_rows(equations, reml=reml)
    model = RaggedLMM(design, np.arange(len(variables)), equations, estimates, of_peptides, fold, weight)
    n_donors = equations.n_levels[:, first[0]] if first else np.zeros(len(variables), dtype=np.int64)
    update(len(variables))
    fit = PeptideFit.of(design, (model,), variables, donor=replicates, reml=reml, n_obs=rows.n, n_donors=n_donors)
    return replace(
        fit, n_peptides=statistics.n_peptides, n_missing=statistics.n_missing, groupings=groupings,
        formulas=formulas_used(design, equations.kept),
    )  # fmt: skip


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
        return fit_peptides(
            statistics, self.variables, self.source.groupings, donor=self.donor, fold=float(np.log2(self.log_base)),
            reml=self.options.reml, update=update,
        )  # fmt: skip

    def tables(self, number: int, fit: PeptideFit | None) -> Tables:
        """See :class:`Analysis`."""
        made = LmmAnalysis.tables(self, number, fit)  # slots: super() has lost its class
        if fit is None:
            none, formulas = np.zeros(len(self.variables), dtype=np.int64), (self.formula.source,) * len(self.variables)
            return replace(made, results=with_peptides(made.results, none, none, formulas))
        return replace(made, results=with_peptides(made.results, fit.n_peptides, fit.n_missing, fit.formulas))

    def fold_changes(self, fit: LMMFit, L: FloatArray, log_fc: FloatArray) -> FloatArray:
        """Log2 fold changes (n, G): every difference of logarithms is one."""
        return log_fc

    def cautions_of(self, fit: LMMFit, L: FloatArray) -> dict[str, str]:
        """See :class:`LmmAnalysis`."""
        return {}

    def own_params(self) -> dict[str, Any]:
        """See :class:`Analysis`."""
        return {"features": self.features, "weights_layer": self.weights_layer}
