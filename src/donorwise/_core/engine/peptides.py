"""Every protein a small mixed model of its own: the measurements of its peptides, with the terms that these can tell."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from donorwise._core.design.exchange import donor_codes
from donorwise._core.design.replicates import find_donors, replicate
from donorwise._core.engine.analysis import Analysis, Family, Replicates, Tables
from donorwise._core.engine.fitted_peptides import PeptideFit, with_peptides
from donorwise._core.engine.lmm import donor_term, fitted_tables
from donorwise._core.engine.peptide_planner import PeptidePlanner, count_runs
from donorwise._core.engine.peptide_rows import PeptideSource, PeptideStatistics
from donorwise._core.engine.power import replication
from donorwise._core.engine.predictions import PeptidePredictor
from donorwise._core.engine.row_residuals import RowResiduals, of_measurements
from donorwise._core.engine.scales import Values
from donorwise._core.models.lmm.general_model import GeneralLMM
from donorwise._core.models.lmm.ragged import RaggedEquations, fit_ragged_rows
from donorwise._core.models.lmm.ragged_model import RaggedLMM
from donorwise._core.models.lmm.robust import winsorised
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.engine.peptide_rows import Grouping
    from donorwise._core.models.lmm.model import LMM
    from donorwise._core.models.lmm.ragged import RaggedRows
    from donorwise._typing import BoolArray, FloatArray, IntArray

logger = logging.getLogger("donorwise")


def fit_peptides(
    statistics: PeptideStatistics,
    variables: tuple[str, ...],
    groupings: Mapping[tuple[str, ...], Grouping],
    *,
    donor: str,
    fold: float,
    reml: bool,
    update: Callable[[int], object],
    robust: str = "",
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
    robust
        ``"huber"`` bounds what a single measurement can do; empty for least squares.
    """
    design, rows = statistics.design, statistics.rows
    of_peptides = tuple(groupings[t.bar.group].peptides_alone for t in design.random_terms)
    replicates = replicates_of(design, donor, of_peptides)
    first = [t for t, term in enumerate(design.random_terms) if term.group == replicates]
    equations = _equations(design, rows, first)
    if all(is_scalar(term) for term in design.random_terms):
        if robust:
            equations = winsorised(equations, reml=reml)
        estimates = fit_ragged_rows(equations, reml=reml)
        model = RaggedLMM(design, np.arange(len(variables)), equations, estimates, of_peptides, fold)
        intercepts = np.zeros_like(equations.kept)
        update(len(variables))
    else:
        logger.info("Random terms of several columns: proteins are fitted one at a time, which is slower.")
        names = [groupings[t.bar.group].level for t in design.random_terms]
        model = GeneralLMM.fitted(design, equations, names, of_peptides, fold, reml=reml, update=update)
        intercepts = model.intercepts
    n_donors = equations.n_levels[:, first[0]] if first else np.zeros(len(variables), dtype=np.int64)
    models = cast("tuple[LMM, ...]", (model,))  # which offers all that is asked of one here
    fit = PeptideFit.of(design, models, variables, donor=replicates, reml=reml, n_obs=rows.n, n_donors=n_donors)
    return replace(
        fit, n_peptides=statistics.n_peptides, n_missing=statistics.n_missing, groupings=groupings,
        formulas=formulas_used(design, model.equations.kept, intercepts),
    )  # fmt: skip


def is_scalar(term: RandomTerm) -> bool:
    """Whether a term has one effect of each level, as the loops over all proteins take it."""
    return len(term.columns) == 1


def _equations(design: Design, rows: RaggedRows, first: Sequence[int]) -> RaggedEquations:
    """Equations of all proteins; of terms that cannot be told from one another those that are `first` are kept."""
    terms = design.random_terms
    z = np.stack([term.Z[:, 0] for term in terms], axis=1) if terms else np.empty((design.n_patterns, 0))
    labels = [term.label for term in terms]  # not the order of the formula
    order = sorted(range(len(terms)), key=lambda t: (t not in first, terms[t].columns != ("(Intercept)",), labels[t]))
    return RaggedEquations.of(rows, design.X, np.ascontiguousarray(z), order)


def replicates_of(design: Design, donor: str, of_peptides: tuple[bool, ...]) -> str:
    """The grouping factor that counts as the replicate: never one of peptides."""
    groups = [t.bar.group for t, own in zip(design.random_terms, of_peptides, strict=True) if not own]
    return ":".join(replicate(groups, donor))


def formulas_used(design: Design, kept: BoolArray, intercepts: BoolArray) -> tuple[str, ...]:
    """The formula of every protein, with the terms (G, T) that it has, of some of which an intercept is left."""
    found, which = np.unique(np.hstack([kept, intercepts]), axis=0, return_inverse=True)
    texts = [_formula(design, *np.split(own, 2)) for own in found]
    return tuple(texts[i] for i in which.ravel())


def _formula(design: Design, kept: BoolArray, intercepts: BoolArray) -> str:
    if kept.all() and not intercepts.any():
        return design.formula
    own = [
        replace(term.bar, columns="1", uncorrelated=False) if alone else term.bar
        for term, has, alone in zip(design.random_terms, kept, intercepts, strict=True)
        if has
    ]
    return design.parsed.keep(list(dict.fromkeys(own))).source  # `||` makes several terms of one


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
            reml=self.options.reml, update=update, robust=self.options.robust,
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

    def predictor(self, number: int, fit: PeptideFit, varcomp: pd.DataFrame) -> PeptidePredictor:
        """See :class:`Analysis`: at the estimates."""
        model = cast("RaggedLMM", fit.models[0])
        effects = tuple(model.effects(t) for t in range(len(fit.design.random_terms)))
        return PeptidePredictor(fit.design, self.source, fit.beta, effects, Values())

    def row_residuals(
        self, number: int, statistics: PeptideStatistics, fit: PeptideFit, varcomp: pd.DataFrame
    ) -> RowResiduals:
        """See :class:`Analysis`: of runs, averaged over what was measured, without the effects of peptides."""
        model = cast("RaggedLMM", fit.models[0])
        alone = [t for t, own in enumerate(self._of_peptides(fit.design)) if own]
        return of_measurements(statistics, fit.beta, [(t, model.effects(t)) for t in alone])

    def donors(self, number: int) -> Replicates:
        """See :class:`Analysis`: levels of what the formula has as the replicate."""
        design = self._design(number)
        term = donor_term(design, self._replicates(design))
        return Replicates(term.levels, term.codes)

    def permuted_donors(self, number: int) -> IntArray:
        """See :class:`Analysis`: never peptides."""
        design = self._design(number)
        self._replicates(design)
        of_runs = [bar for bar in design.parsed.bars if self.source.groupings[bar.group].peptide_levels == ("",)]
        return donor_codes(replace(design, parsed=design.parsed.keep(of_runs)), self.donor)

    def usual_cells(self, number: int) -> tuple[int, ...]:
        """See :class:`Analysis`: runs of a donor, as they are."""
        runs = count_runs(self.donors(number).codes, self._runs(number))
        return (max(1, round(float(runs.mean()))),)

    def planner(self, number: int, statistics: PeptideStatistics, fit: PeptideFit) -> PeptidePlanner:
        """See :class:`Analysis`.

        Raises
        ------
        DesignError
            A random term has several columns.
        """
        several = next((t for t in fit.design.random_terms if not is_scalar(t)), None)
        if several is not None:
            raise DesignError(
                f"Power of proteins is worked out for random terms of one column, and {several.bar.text!r} has "
                f"{len(several.columns)}: plan with a fit that has (1 | {several.group})."
            )
        donors = self.donors(number).codes
        return PeptidePlanner.of(fit.design, self._replicates(fit.design), donors, self._runs(number), fit.n_obs)

    def replication(self, number: int, L: FloatArray) -> tuple[list[str], list[str]]:
        """See :class:`Analysis`."""
        design = self._design(number)
        return replication(design, find_donors(design, design.frame, self._replicates(design)), L)

    def _runs(self, number: int) -> IntArray:
        """Run of each pattern, (K,): rows of the design are runs, kind under kind of peptides, and each in use has its own."""
        return np.flatnonzero(self._design(number).codes >= 0) % self.n_cells

    def _of_peptides(self, design: Design) -> tuple[bool, ...]:
        """Which random terms are those of peptides alone."""
        return tuple(self.source.groupings[t.bar.group].peptides_alone for t in design.random_terms)

    def _replicates(self, design: Design) -> str:
        """The grouping factor that is the replicate.

        Raises
        ------
        DesignError
            All random terms are those of peptides.
        """
        found = replicates_of(design, self.donor, self._of_peptides(design))
        if not found:
            raise DesignError(
                f"{design.formula!r} has no random term for donors, samples or runs: peptides are no replicates, so there are "
                "no donors to leave out, to exchange or to plan more of. Add (1 | donor)."
            )
        return found

    def own_params(self) -> dict[str, Any]:
        """See :class:`Analysis`."""
        names = ("features", "weights_layer", "mask_var")
        return {name: getattr(self, name) for name in names} | {"robust": self.options.robust}
