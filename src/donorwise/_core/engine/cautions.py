"""What deserves a second look before a fit and after it, a sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.audit import audit, audit_design, confounded, few_donors, left_out, unequal_arms
from donorwise._core.design.disguise import batch_as_number, kept_as_text
from donorwise._core.design.people import Named, about_names
from donorwise._core.design.shares import coarser
from donorwise._core.engine.unit_replicates import replicates_of_units
from donorwise._typing import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.engine.composition import CompositionAnalysis
    from donorwise._core.engine.glmm import GlmmAnalysis
    from donorwise._core.engine.lmm import LmmAnalysis
    from donorwise._core.engine.pseudobulk import PseudobulkAnalysis
    from donorwise._core.engine.tasks import Task
    from donorwise._core.engine.units import Units
    from donorwise._typing import FloatArray

_RAW_COUNTS = (
    "{} looks like raw counts. A linear mixed model needs log-normalised values: run sc.pp.normalize_total and sc.pp.log1p "
    "first, or name the layer that holds them."
)
_SHIFTED = "{}: the middle of the genes' log_fc is {:.2f}, far from 0 for a spread of {:.2f}. {}"
_COMPOSITION = (
    "Where some genes respond strongly, their counts take depth from all others, which then look down: "
    "dw.tl.pseudobulk(normalize='tmm') corrects that, and dw.pp.size_factors the values of dw.tl.lmm."
)
_CORRECTED = "That is left after normalize={!r}: most genes may differ, or too few have the counts to be compared."
_ENOUGH_GENES, _FAR, _SEEN = 200, 0.3, 0.05  # tests; spreads; log2 units that are worth a word
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
    found = [_RAW_COUNTS.format(analysis.response)] if raw_counts else [scale] if scale else []
    if len(tasks) == 1 and tasks[0].design is not None:
        found += audit_design(tasks[0].design, obs, depth=depth, donor=donor, **roles).warnings
    else:
        whole = audit(analysis.formula, obs, depth=depth, donor=donor, **roles)
        # without donors all cells together have no design
        overall = whole.warnings if whole.n_donors else ()
        found += [*overall, *_by_group(tasks, lambda design: few_donors(design, obs, donor), overall)]
    designs = [task.design for task in tasks if task.design is not None]
    n_used = sum(int((d.codes >= 0).sum()) for d in designs)
    n_unfitted = analysis.n_cells - n_used - sum(d.n_dropped for d in designs)
    n_dropped = analysis.n_cells - n_used - (n_unfitted if len(designs) < len(tasks) else 0)
    return (*found, *_cells_left_out(n_dropped, analysis.n_cells, missing))


def of_counts(analysis: GlmmAnalysis, *, roles: Mapping[str, str]) -> tuple[str, ...]:
    """The serious findings of the audit, groups with few donors, and cells left out."""
    return of_cells(analysis, raw_counts=False, scale="", depth=None, roles=roles)


def of_shares(analysis: CompositionAnalysis, *, roles: Mapping[str, str]) -> tuple[str, ...]:
    """As :func:`of_counts`, and random terms that are coarser than the samples."""
    missing = "the cell type, the group or a variable of the formula is missing"
    found = of_cells(analysis, raw_counts=False, scale="", depth=None, roles=roles, missing=missing)

    def look(design: Design) -> list[str]:
        text = coarser(analysis.samples, design)
        return [text] if text else []

    return (*found, *_by_group(analysis.tasks, look))


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


def shifted(results: pd.DataFrame, apart: Collection[str] = (), normalize: str = "depth") -> dict[str, str]:
    """What to say of groups and contrasts in which the genes' log fold changes are far from zero as a whole, by their names.

    Of the genes whose fold changes are known best (the half with the smaller standard errors: with few counts they depend
    on the depth) the median is compared with 1.48 times the median distance from it. With depths as they are, halves of
    unaffected donors reach the limit once in eight comparisons, with ``"tmm"`` once in twenty.

    Parameters
    ----------
    results
        The tests of all groups and contrasts.
    apart
        Contrasts that are not looked at, such as those of the depth.
    normalize
        How the depths were made comparable; ``"depth"`` for not at all.
    """
    advice = _COMPOSITION if normalize == "depth" else _CORRECTED.format(normalize)
    known = results[results["p_value"].notna() & results["log_fc"].notna() & ~results["contrast"].isin(apart)]
    found = {}
    for (contrast, group), own in known.groupby(["contrast", "group"], observed=True, sort=False):
        if len(own) >= _ENOUGH_GENES:
            middle, spread = _middle(own)
            if abs(middle) > max(_FAR * spread, _SEEN):
                name = str(contrast) if group == ALL else f"{contrast}, {group}"
                found[name] = _SHIFTED.format(name, middle, spread, advice)
    return found


def of_fits(found: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What the fits of groups say of themselves, each text by what it is about, with the name of its group."""
    return {
        about if group == ALL else f"{about}, {group}": text if group == ALL else f"{group}: {text}"
        for group, own in found.items()
        for about, text in own.items()
    }


def _middle(tests: pd.DataFrame) -> tuple[float, float]:
    """Median log fold change of the genes in which it is known best, and their spread about it."""
    log_fc = tests["log_fc"].to_numpy(dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        se = tests["se"].to_numpy(dtype=np.float64) * np.abs(log_fc / tests["estimate"].to_numpy(dtype=np.float64))
    best = log_fc[se <= np.nanmedian(se)]
    middle = np.median(best)
    return float(middle), float(1.4826 * np.median(np.abs(best - middle)))


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
