"""What deserves a second look before a fit, a sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.cells.nodes import PATTERN_CELLS, RIGHT
from donorwise._core.design.audit import audit, audit_design, confounded, few_donors, left_out, of_group, unequal_arms
from donorwise._core.design.build import assemble_design
from donorwise._core.design.disguise import batch_as_number, kept_as_text
from donorwise._core.design.people import Named, about_names
from donorwise._core.design.peptide_labels import unlabelled
from donorwise._core.design.peptide_terms import formula_warnings
from donorwise._core.engine.peptide_findings import peptide_warnings
from donorwise._core.engine.unit_replicates import replicates_of_units
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.design.peptide_names import Names
    from donorwise._core.engine.glmm import GlmmAnalysis
    from donorwise._core.engine.lmm import LmmAnalysis
    from donorwise._core.engine.peptides import PeptideAnalysis
    from donorwise._core.engine.pseudobulk import PseudobulkAnalysis
    from donorwise._core.engine.tasks import Task
    from donorwise._core.engine.units import Units
    from donorwise._typing import BoolArray, FloatArray, IntArray

_RAW_COUNTS = (
    "{} looks like raw counts. A linear mixed model needs log-normalised values: run sc.pp.normalize_total and sc.pp.log1p "
    "first, or name the layer that holds them."
)
_INTERPOLATED = (
    "Exposures reach from {:.3g} to {:.3g}, and between so far apart ends the log-likelihood of a pattern of {:,} cells is right "
    "to {:.0e} only ({:.0e} is meant): leave cells of extreme depth out."
)
_FEW_TRIALS = 5
_HANDFUL = (
    "Half of the levels of `{}` have {:.0f} cells or fewer, each of them yes or no: what levels differ by can hardly be told "
    "from chance, and tests lean on the prior that features share."
)
_SINGLE_CELLS = (
    "Most units are a single cell, so the noise between cells cannot be told from the differences between units."
)


def of_cells(
    analysis: LmmAnalysis | GlmmAnalysis,
    *,
    raw_counts: bool,
    scale: str,
    depth: FloatArray | None,
    roles: Mapping[str, str],
    missing: str = "a variable of the formula or the group is missing",
) -> tuple[str, ...]:
    """Values that are no logarithms, the serious findings of the audit, groups with few donors, and cells left out.

    Parameters
    ----------
    analysis
        What will be fitted.
    raw_counts
        Whether the responses look like raw counts.
    scale
        What else is to be told of their scale; empty for nothing.
    depth
        Shape (N,). Sequencing depth of each cell, if known.
    roles
        Columns of the sample and of the batch, where known.
    missing
        Why cells are left out.
    """
    tasks, obs, donor = analysis.tasks, analysis.obs, analysis.donor
    about: dict[str, Any] = {"depth": depth, "donor": donor, **roles, "depth_in": analysis.depth_in}
    found = [_RAW_COUNTS.format(analysis.response)] if raw_counts else [scale] if scale else []
    if len(tasks) == 1 and tasks[0].design is not None:
        found += audit_design(tasks[0].design, obs, **about).warnings
    else:
        whole = audit(analysis.formula, obs, **about, is_fit=False)
        # without donors all cells together have no design
        overall = whole.warnings if whole.n_donors else ()
        found += [*overall, *_by_group(tasks, lambda design: of_group(design, obs, donor), overall)]
    designs = [task.design for task in tasks if task.design is not None]
    n_used = sum(int((d.codes >= 0).sum()) for d in designs)
    n_unfitted = analysis.n_cells - n_used - sum(d.n_dropped for d in designs)
    n_dropped = analysis.n_cells - n_used - (n_unfitted if len(designs) < len(tasks) else 0)
    return (*found, *_cells_left_out(n_dropped, analysis.n_cells, missing))


def of_counts(analysis: GlmmAnalysis, *, depth: FloatArray | None, roles: Mapping[str, str]) -> tuple[str, ...]:
    """The serious findings of the audit, groups with few donors, cells left out, and what is too little to go on.

    `depth` (N,) is that of the cells, if known.
    """
    found = of_cells(analysis, raw_counts=False, scale="", depth=depth, roles=roles)
    return (
        *found,
        *_interpolated(analysis),
        *([] if analysis.distribution.counts or analysis.trials else _by_group(analysis.tasks, _few_trials)),
    )


def of_peptides(
    analysis: PeptideAnalysis,
    runs: pd.DataFrame,
    peptides: pd.DataFrame,
    *,
    columns: IntArray,
    names: Names,
    roles: Mapping[str, str],
) -> tuple[str, ...]:
    """What the formula takes for replicates, what is confounded among runs, and what is odd about the values.

    Parameters
    ----------
    analysis
        What will be fitted.
    runs, peptides
        Obs, and the rows of var of the `columns` of the matrix that are in use.
    names
        Which columns of the formula are in which of the two.
    roles
        Columns of the sample and of the batch, where known.

    Raises
    ------
    DataError
        See :func:`donorwise._core.engine.peptide_findings.peptide_warnings`.
    """
    labels, source, donor = peptides[analysis.features], analysis.source, analysis.donor
    formula = analysis.formula.keep(
        [bar for bar in analysis.formula.bars if not set(bar.group) & set(names.of_peptides)]
    )
    used = {task.name: used_runs(task.design, len(runs)) for task in analysis.tasks if task.design is not None}
    in_use = np.any(list(used.values()), axis=0)

    def few(design: Design) -> list[str]:
        own = _design_of_runs(formula, runs, used_runs(design, len(runs)))
        return [] if own is None else few_donors(own, runs, donor or None)

    whole = _design_of_runs(formula, runs, in_use)
    n_dropped = int((~in_use).sum()) if len(used) == len(analysis.tasks) else 0
    return (
        *formula_warnings(
            analysis.formula, runs[in_use], names.of_peptides, donor=donor,
            several=bool(labels[~unlabelled(labels)].duplicated().any()),
        ),
        *([] if whole is None or not formula.bars else confounded(formula, runs, donor, whole)),
        *_by_group(analysis.tasks, few),
        *([] if whole is None or not donor else left_out(formula, runs, donor, **roles)),
        *peptide_warnings(
            source.matrix, proteins=labels, peptides=list(peptides.index), runs=list(runs.index), weights=source.weights,
            run_weights=source.run_weights, rows=np.flatnonzero(in_use), columns=columns, text=analysis.response,
            features=f"var[{analysis.features!r}]",
        ),
        *([f"{n_dropped:,} of {len(runs):,} runs are left out: a variable of the formula or the group is missing."] if n_dropped else []),
    )  # fmt: skip


def used_runs(design: Design, n_runs: int) -> BoolArray:
    """Which of the runs a design of runs and kinds of peptides has rows of, (N,)."""
    return np.asarray((design.codes.reshape(-1, n_runs) >= 0).any(axis=0))


def _design_of_runs(formula: ParsedFormula, runs: pd.DataFrame, rows: BoolArray) -> Design | None:
    """The design without its peptides, where it has one."""
    try:
        return assemble_design(formula, runs, rows=rows)
    except DesignError:  # such as one with the charge of the peptide
        return None


def _interpolated(analysis: GlmmAnalysis) -> list[str]:
    """Exposures that lie too far apart for what is kept of them."""
    nodes, error = analysis.nodes, analysis.interpolation_error
    if nodes is None or error <= 1.01 * RIGHT:  # rounding
        return []
    return [_INTERPOLATED.format(*np.exp([nodes.low, nodes.high]), PATTERN_CELLS, error, RIGHT)]


def _few_trials(design: Design) -> list[str]:
    """Levels of a random term of which most have a handful of cells, each of them yes or no."""
    cells, worst = design.codes[design.codes >= 0], max(design.random_terms, key=lambda term: len(term.levels))
    n = float(np.median(np.bincount(worst.codes[cells], minlength=len(worst.levels))))
    return [_HANDFUL.format(worst.group, n)] if n < _FEW_TRIALS else []


def of_units(analysis: PseudobulkAnalysis, cells: pd.DataFrame, roles: Mapping[str, str]) -> tuple[str, ...]:
    """Confounding, few donors, units that count as replicates, what is left out, and odd names of donors.

    `cells` is obs with a row for each cell; `roles` are its columns of the sample and of the batch, where known.
    """
    units, sizes = analysis.units, np.asarray(analysis.sizes)

    def thin(design: Design) -> list[str]:
        single = np.median(sizes[design.codes >= 0]) < 2
        lost = [design.lost.reason] if design.lost.reason else []
        few = few_donors(design, units.table, units.donor)
        return [
            *lost,
            *kept_as_text(design, (units.donor, *roles.values())),
            *batch_as_number(design, roles.get("batch")),
            *few,
            *unequal_arms(design, units.table, units.donor),
            *replicates_of_units(design, units, roles.get("batch")),
            *([_SINGLE_CELLS] if single else []),
        ]

    whole = None if analysis.groupby else analysis.tasks[0].design
    found = [*confounded(units.formula, units.table, units.donor, whole), *_by_group(analysis.tasks, thin)]
    found += left_out(analysis.formula, cells, units.donor, **roles)
    found += about_names(cells, _named(units))
    missing = "the donor, the sample, the group or a variable of the formula is missing"
    return (*found, *_cells_left_out(int((units.codes < 0).sum()), analysis.n_cells, missing))


def _named(units: Units) -> Named:
    """The cells of units by donor."""
    used, column = np.flatnonzero(units.codes >= 0), units.table[units.donor]
    donor, levels = pd.factorize(column.array, sort=True)
    labels = [name for name in units.table.columns if isinstance(units.table[name].dtype, pd.CategoricalDtype)]
    return Named((units.donor,), list(levels), used, donor.astype(np.int64)[units.codes[used]], labels)


def _by_group(tasks: Sequence[Task], look: Callable[[Design], list[str]], said: Sequence[str] = ()) -> list[str]:
    """What is found in the groups, once per sentence with the groups that it is true of; not what is `said` already."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        for text in look(task.design) if task.design is not None else ():
            groups.setdefault(text, []).append(task.name)
    several = len(tasks) > 1
    return [f"{', '.join(names)}: {text}" if several else text for text, names in groups.items() if text not in said]


def _cells_left_out(n: int, n_cells: int, why: str) -> list[str]:
    return [f"{n:,} of {n_cells:,} cells are left out: {why}."] if n else []
