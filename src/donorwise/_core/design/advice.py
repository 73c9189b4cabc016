"""Findings of an audit that recommend another model: what a study asks may be answered better by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.arms import CHANGE
from donorwise._core.design.design import combine
from donorwise._core.design.names import quote
from donorwise._core.design.replicates import is_fixed, random_levels
from donorwise._core.design.rivals import without_shared
from donorwise._core.design.terms import term_variables, variables
from donorwise._core.wording import listing

if TYPE_CHECKING:
    from donorwise._core.design.arms import Arms
    from donorwise._core.design.design import Design
    from donorwise._core.design.replicates import Donors

_UNEQUAL = 2  # times as many donors in one arm as in the other
_SMALL = 4  # donors in the smaller arm below which unequal spread is a warning
_FEW_PAIRS = 8  # complete pairs up to which the donor is better fixed


def unequal_arms(design: Design, arms: Sequence[Arms], donors: Donors) -> tuple[list[str], list[str]]:
    """Comparisons of arms of very different size with one variance between donors: notes, and the serious ones."""
    notes: list[str] = []
    serious: list[str] = []
    own = own_variances(design)
    for arm in _unequal(arms) if random_levels(without_shared(design), donors) else ():
        name, group = arm.variables[0], ":".join(map(quote, donors.columns))
        if name in own:
            continue
        text = (
            f"{_one_variance(arm)} (3 against 9 donors, standard deviation doubled: type I error "
            f".15 at a nominal .05). `(0 + {quote(name)} || {group})` in place of `(1 | {group})` gives each arm its own (.04), "
            "and costs little where they are alike (6 against 6: .046 in place of .050)."
        )
        (serious if min(arm.donors) < _SMALL else notes).append(text)
    return notes, serious


def unequal_arms_of_units(arms: Sequence[Arms], donors: Donors) -> list[str]:
    """Comparisons of arms of very different size by a model of units, which has one variance for all of them."""
    group = ":".join(map(quote, donors.columns))
    return [
        f"{_one_variance(arm)} (3 against 9 donors, standard deviation doubled: type I error .14 at a nominal .05). Counts of "
        f"units have no other; `dw.tl.glmm` with `(0 + {quote(arm.variables[0])} || {group})` gives each arm its own (.03)."
        for arm in _unequal(arms)
        if min(arm.donors) < _SMALL
    ]


def _unequal(arms: Sequence[Arms]) -> list[Arms]:
    """Comparisons of donors of which one arm has several times as many as the other, the first of each variable."""
    found: dict[str, Arms] = {}
    for arm in arms:
        few = min(arm.donors, default=0)
        single = len(arm.variables) == 1 and arm.kind == "between-donor" and not arm.within
        if single and few > 1 and max(arm.donors) >= _UNEQUAL * few:
            found.setdefault(arm.variables[0], arm)
    return list(found.values())


def _one_variance(arm: Arms) -> str:
    return (
        f"{arm.contrast} compares {arm.donors[0]:,} donors with {arm.donors[1]:,}, with one variance for both: where the "
        "smaller arm spreads more, its tests are too sure"
    )


def own_variances(design: Design) -> set[str]:
    """Variables whose levels or slopes have variances of their own in a random term."""
    return {
        name for term in design.random_terms if not _is_intercept(term.columns) for name in variables(term.bar.terms)
    }


def complete_pairs(design: Design, arms: Sequence[Arms], donors: Donors, counts: str | None) -> Iterator[str]:
    """Few donors with both sides of what is tested: they are better fixed, where no donors are compared."""
    asked = [arm for arm in arms if not arm.cell_level]
    within = [arm for arm in asked if arm.kind == "within-donor" and len(arm.variables) == 1 and arm.donors]
    n = len(donors.levels)
    if not within or n > _FEW_PAIRS or is_fixed(design, donors) or ":" in donors.name or design.parsed.covs:
        return
    if any(arm.kind != "within-donor" for arm in asked) or any(arm.n_both < n or not arm.covered for arm in within):
        return
    name = within[0].variables[0]
    if len({arm.variables for arm in asked}) > 1 or _n_units(design, name, donors) != 2 * n:
        return
    donor, fixed = quote(donors.name), design.parsed.fixed.strip()
    other = f", or `dw.tl.pseudobulk` with `{_counted(design, arms)} + {donor}`," if counts is not None else ""
    yield (
        f"Each of the {n:,} donors has both sides of {arm_names(within)}: with so few pairs, `~ {fixed} + {donor} + "
        f"(1 | {donor}:{quote(name)})`{other} is safer far out: where donors differ in their response in one arm, tests with two "
        "random terms can reach 1.9 times the nominal .001."
    )


def interactions(design: Design, arms: Sequence[Arms], donors: Donors, layer: str) -> Iterator[str]:
    """Differences of effects between cell types or other levels, which mean something else on the scale of counts."""
    own = [
        arm
        for arm in arms
        if len(arm.variables) > 1 and arm.kind in (CHANGE, "within-donor", "mixed") and not _numeric(design, arm)
    ]
    if own:
        names = ", ".join(arm.contrast for arm in own[:2]) + (f" and {len(own) - 2} more" if len(own) > 2 else "")
        bars = " + ".join(dict.fromkeys(bar.text for bar in design.parsed.bars))
        yield (
            f"{names}: on a scale like log1p an interaction is not zero where fold changes are equal, if the levels differ "
            "in expression (1.5 times the nominal .05, 6.8 times .001). Raw counts are at hand: "
            f'`dw.tl.glmm(adata, "{_counted(design, arms)} + {bars}", {_where(layer)})` asks whether fold changes differ.'
        )


def count_scale(arms: Sequence[Arms], layer: str) -> Iterator[str]:
    """Models of counts, where all that is asked compares donors with each other, in arms that one variance may do for."""
    asked = [a for a in arms if not a.cell_level]
    if asked and not _unequal(arms) and all(a.kind == "between-donor" for a in asked):
        by_cell = dict.fromkeys(v for a in arms if a.cell_level for v in a.within)
        yield (
            "Every contrast compares donors with each other and raw counts are at hand: `dw.tl.glmm` "
            f"({_where(layer)}){f', without {listing(by_cell)},' if by_cell else ''} tests them on the scale of the counts, with "
            "depth accounted for; so does `dw.tl.pseudobulk`, which is faster, and cautious for genes of less than a count a donor."
        )


def arm_names(arms: Sequence[Arms]) -> str:
    """The contrasts of some arms, in words."""
    return ", ".join(arm.contrast for arm in arms)


def _is_intercept(columns: tuple[str, ...]) -> bool:
    return columns == ("(Intercept)",)


def _numeric(design: Design, arm: Arms) -> bool:
    return any(name in design.numeric_means for name in arm.variables)


def _n_units(design: Design, name: str, donors: Donors) -> int:
    """Number of combinations of donors and levels of a factor."""
    levels = design.frame[name].cat.codes.to_numpy(dtype=np.int64)[donors.rows.pattern]
    return combine([(donors.rows.donor, len(donors.levels)), (levels, int(levels.max()) + 1)], len(levels))[1]


def _counted(design: Design, arms: Sequence[Arms]) -> str:
    """The fixed part of the formula without covariates of cells, as a model of counts takes it."""
    by_cell = {name for arm in arms if arm.cell_level for name in arm.within}
    kept = [str(term) for term in design.spec.terms if str(term) != "1" and by_cell.isdisjoint(term_variables(term))]
    return f"~ {' + '.join(kept)}"


def _where(layer: str) -> str:
    return f'layer="{layer}"' if layer else "layer=None"
