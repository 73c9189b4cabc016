"""Every protein a small mixed model of its own: the measurements of its peptides, with the terms that these can tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from donorwise._core.design.replicates import find_donors, replicate
from donorwise._core.engine.analysis import Analysis, Family, Replicates, Tables
from donorwise._core.engine.fitted_peptides import PeptideFit, with_peptides
from donorwise._core.engine.lmm import donor_term, fitted_tables
from donorwise._core.engine.peptide_rows import PeptideSource, PeptideStatistics
from donorwise._core.engine.power import replication
from donorwise._core.models.lmm.ragged import RaggedEquations, fit_ragged_rows
from donorwise._core.models.lmm.ragged_model import RaggedLMM
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from donorwise._core.design.design import Design
    from donorwise._core.engine.peptide_rows import Grouping
    from donorwise._core.engine.power import Planner
    from donorwise._core.models.lmm.model import LMM
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
    equations = RaggedEquations.of(rows, design.X, np.ascontiguousarray(z), order)
    estimates = fit_ragged_rows(equations, reml=reml)
    model = RaggedLMM(design, np.arange(len(variables)), equations, estimates, of_peptides, fold)
    n_donors = equations.n_levels[:, first[0]] if first else np.zeros(len(variables), dtype=np.int64)
    update(len(variables))
    models = cast("tuple[LMM, ...]", (model,))  # which offers all that is asked of one here
    fit = PeptideFit.of(design, models, variables, donor=replicates, reml=reml, n_obs=rows.n, n_donors=n_donors)
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
class PeptideAnalysis(Analysis[PeptideStatistics, PeptideFit]):
    """A linear mixed model of every protein, on the measurements of its peptides.

    Attributes
    ----------
    features, weights_layer
        Column of var that says the protein, and layer of weights (empty for none).
    mask_var
        Column of var that says which peptides are used; empty for all.
    """

    family = Family(method="lmm", observations="peptides", link="identity", prior_on="ratio")

    features: str
    weights_layer: str
    mask_var: str = ""
    source: PeptideSource

    def fit(self, number: int, statistics: PeptideStatistics, update: Callable[[int], object]) -> PeptideFit:
        """See :class:`Analysis`."""
        return fit_peptides(
            statistics, self.variables, self.source.groupings, donor=self.donor, fold=float(np.log2(self.log_base)),
            reml=self.options.reml, update=update,
        )  # fmt: skip

    def tables(self, number: int, fit: PeptideFit | None) -> Tables:
        """See :class:`Analysis`."""
        own = self.contrasts[number]
        if fit is None:
            none, formulas = np.zeros(len(self.variables), dtype=np.int64), (self.formula.source,) * len(self.variables)
            return Tables(with_peptides(self.results(number, None), none, none, formulas))
        made = fitted_tables(self, number, fit, None if own is None else np.ones(len(own.L), dtype=bool))
        return replace(made, results=with_peptides(made.results, fit.n_peptides, fit.n_missing, fit.formulas))

    def random_effects(self, fit: PeptideFit, varcomp: pd.DataFrame) -> pd.DataFrame:
        """See :class:`Analysis`: at the estimates."""
        groups = dict.fromkeys(term.name for term in fit.design.random_terms)
        return pd.concat([fit.ranef(group).assign(term=group) for group in groups], ignore_index=True)

    def donors(self, number: int) -> Replicates:
        """See :class:`Analysis`."""
        term = donor_term(self._design(number), self.donor)
        return Replicates(term.levels, term.codes)

    def planner(self, number: int, statistics: PeptideStatistics, fit: PeptideFit) -> Planner[Any]:
        """See :class:`Analysis`."""
        raise DesignError("Power is not worked out for proteins that are measured by their peptides.")

    def replication(self, number: int, L: FloatArray) -> tuple[list[str], list[str]]:
        """See :class:`Analysis`."""
        design = self._design(number)
        return replication(design, find_donors(design, design.frame, self.donor), L)

    def own_params(self) -> dict[str, Any]:
        """See :class:`Analysis`."""
        names = ("features", "weights_layer", "mask_var")
        return {name: getattr(self, name) for name in names} | {"robust": self.options.robust}
