"""What deserves a second look before a fit, a sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.audit import audit, audit_design, confounded, few_donors
from donorwise._core.design.disguise import kept_as_text
from donorwise._core.engine.unit_replicates import replicates_of_units

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.engine.lmm import LmmAnalysis
    from donorwise._core.engine.pseudobulk import PseudobulkAnalysis
    from donorwise._core.engine.tasks import Task
    from donorwise._typing import FloatArray

_RAW_COUNTS = (
    "{} looks like raw counts. A linear mixed model needs log-normalised values: run sc.pp.normalize_total and sc.pp.log1p "
    "first, or name the layer that holds them."
)
_RAW_VALUES = (
    "{} looks like counts, and a linear mixed model takes differences of them for effects, with the same spread at every "
    "level: take their logarithm first, such as obs[...] = np.log1p(obs[...])."
)
_SINGLE_CELLS = (
    "Most units are a single cell, so the noise between cells cannot be told from the differences between units."
)


def of_cells(
    analysis: LmmAnalysis, *, raw_counts: bool, features: bool, depth: FloatArray | None, roles: Mapping[str, str]
) -> tuple[str, ...]:
    """Counts taken for logarithms, the serious findings of the audit, groups with few donors, and cells left out.

    Parameters
    ----------
    analysis
        What will be fitted.
    raw_counts
        Whether the responses look like raw counts.
    features
        Whether they are features of the data (else columns of obs or obsm).
    depth
        Shape (N,). Sequencing depth of each cell, if known.
    roles
        Columns of the sample and of the batch, where known.
    """
    tasks, obs, donor = analysis.tasks, analysis.obs, analysis.donor
    raw = _RAW_COUNTS if features else _RAW_VALUES
    found = [raw.format(analysis.response)] if raw_counts else []
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
    missing = "a variable of the formula or the group is missing"
    return (*found, *_left_out(n_dropped, analysis.n_cells, missing))


def of_units(analysis: PseudobulkAnalysis, batch: str | None = None) -> tuple[str, ...]:
    """Confounding, few donors, units that count as replicates, and cells left out; `batch` is a column of obs."""
    units, sizes = analysis.units, np.asarray(analysis.sizes)

    def thin(design: Design) -> list[str]:
        single = np.median(sizes[design.codes >= 0]) < 2
        lost = [design.lost.reason] if design.lost.reason else []
        few = few_donors(design, units.table, units.donor)
        return [
            *lost,
            *kept_as_text(design),
            *few,
            *replicates_of_units(design, units, batch),
            *([_SINGLE_CELLS] if single else []),
        ]

    whole = None if analysis.groupby else analysis.tasks[0].design
    found = [*confounded(units.formula, units.table, units.donor, whole), *_by_group(analysis.tasks, thin)]
    missing = "the donor, the sample, the group or a variable of the formula is missing"
    return (*found, *_left_out(int((units.codes < 0).sum()), analysis.n_cells, missing))


def _by_group(tasks: Sequence[Task], look: Callable[[Design], list[str]], said: Sequence[str] = ()) -> list[str]:
    """What is found in the groups, once per sentence with the groups that it is true of; not what is `said` already."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        for text in look(task.design) if task.design is not None else ():
            groups.setdefault(text, []).append(task.name)
    several = len(tasks) > 1
    return [f"{', '.join(names)}: {text}" if several else text for text, names in groups.items() if text not in said]


def _left_out(n: int, n_cells: int, why: str) -> list[str]:
    return [f"{n:,} of {n_cells:,} cells are left out: {why}."] if n else []
