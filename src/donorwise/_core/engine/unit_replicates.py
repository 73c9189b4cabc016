"""Units of a pseudobulk analysis that would count as replicates of the donors, and the formula that is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.arms import CHANGE, describe
from donorwise._core.design.cover import units_inside
from donorwise._core.design.design import combine
from donorwise._core.design.findings import counted_repeatedly, is_technical, uncovered_within
from donorwise._core.design.names import quote
from donorwise._core.design.replicates import find_donors, is_fixed, random_levels
from donorwise._core.design.terms import label_codes
from donorwise._core.engine.units import with_units
from donorwise._core.wording import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.arms import Arms
    from donorwise._core.design.design import Design
    from donorwise._core.design.replicates import Donors
    from donorwise._core.engine.units import Units


def replicates_of_units(design: Design, units: Units, batch: str | None) -> list[str]:
    """What the formula takes for replicates that are none, a sentence each; `batch` is a column of the units."""
    full = with_units(design, units)
    donors = find_donors(full, units.table, units.donor)
    if len(donors.levels) == full.n_patterns:
        return []
    arms = [arm for arm in describe(full, donors) if arm.variables != (donors.name,)]
    within = _within(full, [arm for arm in arms if not is_technical(arm, batch)], donors, units)
    if random_levels(full, donors) or is_fixed(full, donors) or (within and not _between(arms)):
        return within  # whose advice has the donor in it
    return [*_without_donor(full, arms, donors, units), *within]


def _between(arms: Sequence[Arms]) -> bool:
    return any(arm.kind in ("between-donor", CHANGE) for arm in arms)


def _without_donor(full: Design, arms: Sequence[Arms], donors: Donors, units: Units) -> list[str]:
    """Comparisons between donors that rest on several units of each; the donor is not in the formula."""
    coarsest = min(units_inside(full, donors), key=lambda term: len(term.levels))
    own = len(coarsest.levels) == full.n_patterns
    repeated = counted_repeatedly(full, arms, donors, coarsest)
    if not own and not repeated:
        return []  # the two sides of a donor are compared as if they were of two: cautious, and what was asked for
    n = int(np.sum(np.bincount(donors.rows.donor) > 1))
    counted = f"the {len(coarsest.levels):,} levels of `{coarsest.group}`" if not own else "them"
    place = "" if own else f" in place of `{coarsest.label}`"
    return [
        f"{n} donors have several units ({units.name}), and the formula takes {counted} for replicates: a comparison between "
        "donors is then too sure of itself, and one within donors not sure enough. Add "
        f"(1 | {quote(units.donor)}){place}."
    ]


def _within(full: Design, arms: Sequence[Arms], donors: Donors, units: Units) -> list[str]:
    """Contrasts within donors that take several units of a donor for replicates of its response."""
    missing = uncovered_within(arms)
    return [
        f"{listing(names)} {'varies' if len(names) == 1 else 'vary'} within donors "
        f"({', '.join(arm.contrast for arm in own[:3])}), and the variance between units ({units.name}) takes the several "
        f"units that a donor has {_where(full, names)} for replicates of its response; more donors do not help. "
        f"{_advice(full, names, arms, donors, units, alone=len(missing) == 1)}"
        for names, own in missing.items()
    ]


def _where(full: Design, names: Sequence[str]) -> str:
    numeric = any(name in full.numeric_means for name in names)
    return f"along {listing(names)}" if numeric else f"at one value of {listing(names)}"


def _advice(
    full: Design, names: Sequence[str], arms: Sequence[Arms], donors: Donors, units: Units, *, alone: bool
) -> str:
    """The formula that is right, for counts where there is one."""
    donor = quote(units.donor)
    numeric = [quote(name) for name in names if name in full.numeric_means]
    if numeric:
        return f"Models of counts have no slopes: fit `dw.tl.lmm` with `(0 + {' + '.join(numeric)} | {donor})`."
    term = f"(1 | {':'.join([donor, *map(quote, names)])})"
    extra = listing(_splitting(units, full, names))
    if _between(arms) or not alone:
        return f"Leave out {extra}, which splits the units, or fit `dw.tl.lmm` with `{term}`."
    fixed = full.parsed.fixed.strip()
    own = fixed if is_fixed(full, donors) else f"{fixed} + {donor}"
    return f"Fit `~ {own} + {term}`, or leave out {extra}, which splits the units."


def _splitting(units: Units, full: Design, names: Sequence[str]) -> list[str]:
    """The columns of the units that tell those of a donor at one value of `names` apart."""
    table = units.table[full.codes >= 0] if len(full.codes) == len(units.table) else units.table
    codes, size = combine([label_codes(table[name]) for name in (units.donor, *names)], len(table))
    found: list[str] = []
    for name in dict.fromkeys([*full.parsed.variables, *units.columns]):
        finer = combine([(codes, size), label_codes(table[name])], len(table))
        if finer[1] > size:
            (codes, size), found = finer, [*found, name]
    return found
