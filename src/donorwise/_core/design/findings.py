"""The findings of an audit: each yields complete sentences that start with the contrast or the column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.arms import CHANGE, Arms
from donorwise._core.design.cover import remainder
from donorwise._core.design.design import combine
from donorwise._core.design.evaluate import check_design
from donorwise._core.design.names import quote
from donorwise._core.design.replicates import is_fixed, random_levels, spans_constant
from donorwise._core.design.rivals import gives_own, without_shared
from donorwise._core.design.slopes import slope_of
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.design.replicates import Crossing, Donors
    from donorwise._typing import FloatArray

_TECHNICAL = re.compile(
    r"(?<![a-z])(batch|lane|plate|chip|pool|flow_?cell|chemistry|assay|protocol|run)(e?s)?(?![a-z])", re.IGNORECASE
)
_COLLINEAR = 0.9  # share of a donor-level effect that the others explain
_PRIOR_ALONE = (
    ", and with one degree of freedom of its own nothing but the prior that features share carries a moderated test of it "
    "(a test without it finds next to nothing)"
)
_FEW = 3  # donors in an arm
_MANY_ROWS = 20  # rows of a donor from which on they are taken to be cells and not visits
_ONE_UNIT = (
    0.9  # share of a contrast that one unit of each donor makes up, above which it does not count donors repeatedly
)


def impossible(design: Design) -> Iterator[str]:
    """Why the model cannot be fitted at all."""
    try:
        check_design(design)
    except DesignError as error:
        yield str(error)


def unreplicated(design: Design, arms: Iterable[Arms], donors: Donors) -> Iterator[str]:
    """Cells, or units inside donors, that would count as replicates."""
    if not donors.name:
        yield f"`{design.formula}` has no random term, so every cell counts as a replicate; add one such as `(1 | donor)`."
        return
    if random_levels(design, donors) or is_fixed(design, donors):
        return  # of levels that only a kernel ties together see `kernel_checks.without_own`
    name, inside = quote(donors.name), _inside_donors(design, donors)
    if inside is None:
        yield f"`{donors.name}` has no random intercept, so its cells count as replicates; add `(1 | {name})`."
        return
    repeated = counted_repeatedly(design, arms, donors, inside)
    if repeated:
        yield (
            f"`{donors.name}` has no random intercept: {_few(repeated)} would take the {len(inside.levels):,} levels of "
            f"`{inside.group}` for replicates, in place of {len(donors.levels):,} donors; add `(1 | {name})`."
        )


def unpaired(design: Design, arms: Iterable[Arms], donors: Donors) -> Iterator[str]:
    """Contrasts within donors whose two sides are tested as if they came from different donors."""
    if random_levels(design, donors) or is_fixed(design, donors) or _inside_donors(design, donors) is None:
        return
    names = [a.contrast for a in arms if a.within and a.kind != "between-donor" and a.covered and not a.cell_level]
    if names:
        yield (
            f"`{donors.name}` has no random intercept: {_few(names)} {'is' if len(names) == 1 else 'are'} tested as if the two sides "
            f"came from different donors, which is cautious; `(1 | {quote(donors.name)})` makes use of the pairs."
        )


def few_donors(arms: Iterable[Arms]) -> Iterator[str]:
    """Arms that one or two donors make up."""
    worst: dict[str, Arms] = {}
    for arm in arms:
        if _smallest(arm) < _FEW and _smallest(arm) < _smallest(worst.get(arm.term, None)):
            worst[arm.term] = arm
    for arm in worst.values():
        n = _smallest(arm)
        if arm.kind in ("between-donor", CHANGE):
            text = f"compares {_count(arm.donors[0])} with {arm.donors[1]:,}"
        else:
            text = f"is seen within {_count(n)}"
        verdict = "one donor cannot show how much donors differ" if n == 1 else "the result can hang on a single donor"
        yield f"{arm.contrast} {text}: {verdict}{_PRIOR_ALONE if _own_df(arm) == 1 else ''}."


def _own_df(arm: Arms) -> float:
    """Degrees of freedom that the donors of an arm leave a comparison of donors, or one within each of them."""
    if arm.kind in ("between-donor", CHANGE):
        return sum(arm.donors) - 2
    return arm.n_both - 1 if arm.kind == "within-donor" else np.inf


def uncovered(design: Design, arms: Iterable[Arms], donors: Donors, samples: Crossing | None = None) -> Iterator[str]:
    """Contrasts within donors that are taken to be the same in every donor; `samples` are those of the rows in use."""
    group = ":".join(map(quote, donors.columns))
    for names, own in uncovered_within(arms).items():
        alone = len(names) == 1
        one, several = (
            "no random term lets its effect differ between donors",
            "no random term lets their effects differ",
        )
        units = next((a.units for a in own if a.units), "")
        advice = _advice(design, names, donors, samples)
        if units and not any(name in design.numeric_means for name in names):
            risk = (
                f"`{units}` takes the several levels that a donor has at one value of {listing(names)} for replicates of "
                "its response, and more donors do not help"
            )
            advice += f" besides `{units}`"
        elif units:
            risk = f"`{units}` takes the visits of a donor for replicates of a slope, and more donors do not help"
        else:
            risk = (
                f"in single-cell cohorts the type I error with (1 | {group}) alone is about .17 to .20 at a nominal .05, "
                "and more donors do not help"
            )
        shared = next((t for t in design.random_terms if t.bar.cov and t.group == donors.name), None)
        if shared is not None:
            slopes = " + ".join(map(quote, names))
            place = "" if all(v in design.numeric_means for v in names) else f", in place of `{shared.label}`,"
            advice += f", or `(0 + {slopes} | {shared.name})`{place} where donors respond as the kernel says"
        yield (
            f"{listing(names)} {'varies' if alone else 'vary'} within donors ({_few([a.contrast for a in own])}) and "
            f"{one if alone else several}: {risk}; add {advice}."
        )


def technical(design: Design, arms: Iterable[Arms], donors: Donors, samples: Crossing | None = None) -> Iterator[str]:
    """Batches that donors are spread over: only tests of the batch itself take it to act alike in every donor."""
    for names, own in uncovered_within(arms).items():
        yield (
            f"{listing(names)} varies within donors. That concerns tests of {listing(names)} itself "
            f"({_few([a.contrast for a in own])}), which would need {_advice(design, names, donors, samples)}; the other contrasts need "
            "nothing more."
        )


def is_technical(arm: Arms, batch: str | None) -> bool:
    """Whether a coefficient is that of a batch: of the declared one, or of a column with the name of one."""
    return len(arm.variables) == 1 and (arm.variables[0] == batch or looks_technical(arm.variables[0]))


def looks_technical(name: str) -> bool:
    """Whether a column has the name of a batch."""
    return _TECHNICAL.search(name) is not None


def uncovered_within(arms: Iterable[Arms]) -> dict[tuple[str, ...], list[Arms]]:
    """Coefficients that no random term lets differ between donors, by what varies within donors."""
    grouped: dict[tuple[str, ...], list[Arms]] = {}
    for arm in arms:
        if arm.kind in ("within-donor", "mixed", CHANGE) and not arm.covered and not arm.cell_level:
            grouped.setdefault(arm.within or arm.variables, []).append(arm)
    return grouped


def _advice(design: Design, names: Sequence[str], donors: Donors, samples: Crossing | None) -> str:
    """The random term that lets the effect of variables differ between donors."""
    group = ":".join(map(quote, donors.columns))
    numeric = [v for v in names if v in design.numeric_means]
    if numeric:
        own = random_levels(without_shared(design), donors)
        return _slopes([slope_of(design, donors, v) for v in numeric], group, own)
    inside = f"`(1 | {':'.join([group, *(quote(v) for v in names)])})`"
    if samples is None or not _same_units(design, names, donors, samples):
        return inside
    return f"{inside}, which is the same here as `(1 | {quote(samples.name)})`"


def _same_units(design: Design, names: Sequence[str], donors: Donors, samples: Crossing) -> bool:
    """Whether samples are the combinations of the donors with the levels of some factors."""
    if samples.some_missing:
        return False
    entries = donors.rows
    levels = [pd.factorize(design.frame[name])[0] for name in names]
    factors = [(entries.donor, len(donors.levels)), *((own[entries.pattern], int(own.max()) + 1) for own in levels)]
    units, n_units = combine(factors, len(entries.n))
    if samples.n_labels != n_units:
        return False
    return combine([(units[samples.entry], n_units), (samples.label, n_units)], len(samples.entry))[1] == n_units


def _slopes(names: list[str], group: str, has_intercept: bool) -> str:
    """Random slopes without correlations, which moderated tests can take, in words."""
    together = f"`({' + '.join(names)} || {group})`"
    if not has_intercept:
        return together
    alone = " + ".join(f"(0 + {name} | {group})" for name in names)
    return f"`{alone}`, which with `(1 | {group})` is {together}"


def collinear(design: Design, arms: Iterable[Arms], donors: Donors) -> Iterator[str]:
    """Donor-level effects that the other donor-level effects nearly give."""
    between = _donor_level(arms)
    example = donors.example()
    for arm in between:
        others = [a for a in between if set(a.variables).isdisjoint(arm.variables)]
        x = design.X[example, design.fixed_names.index(arm.contrast)]
        A = design.X[example][:, [design.fixed_names.index(a.contrast) for a in others]]
        share = _explained(x, A)
        if _COLLINEAR < share < 1 - 1e-9:
            names = listing(dict.fromkeys(v for a in others for v in a.variables))
            amount = "more than 99%" if share > 0.99 else f"{share:.0%}"
            yield (
                f"{arm.contrast} is {amount} explained by {names} among the donors, which makes its standard error "
                f"{1 / np.sqrt(1 - share):.1f} times as large as it would be without them."
            )


def confined(design: Design, arms: Iterable[Arms], donors: Donors) -> tuple[list[str], list[str]]:
    """Levels of one covariate that occur in one arm of another: notes, and the serious ones."""
    names = list(dict.fromkeys(a.variables[0] for a in _donor_level(arms) if len(a.variables) == 1))
    table = design.frame.iloc[donors.example()][[n for n in names if n not in design.numeric_means]]
    notes: list[str] = []
    serious: list[str] = []
    for arm in table.columns:
        for other in table.columns.drop(arm):
            pairs = table[[arm, other]].astype(str)
            only = pairs.groupby(other)[arm].nunique() == 1
            alone = pairs[other].isin(only.index[only])
            if not alone.any() or alone.all():
                continue
            left = pairs[arm][~alone].value_counts().reindex(sorted(set(pairs[arm])), fill_value=0)
            levels = sorted(set(pairs[other][alone]))
            text = (
                f"`{other}` {_few(levels)} {'occurs' if len(levels) == 1 else 'occur'} in one level of `{arm}` only, so "
                f"{_count(int(alone.sum()))} say{'s' if alone.sum() == 1 else ''} nothing about `{arm}`; the comparison "
                f"rests on {' and '.join(f'{n} of {level}' for level, n in left.items())}."
            )
            (serious if left.min() < 2 else notes).append(text)
    return notes, serious


def effective_replicates(arms: Iterable[Arms], n_donors: int, rows: str) -> Iterator[str]:
    """How many replicates a between-donor contrast really has; `rows` says what they are made of."""
    shown: dict[str, int] = {}
    for arm in arms:
        shown[arm.term] = shown.get(arm.term, 0) + 1
        if arm.kind not in ("between-donor", CHANGE) or arm.cell_level:
            continue
        if shown[arm.term] > (1 if arm.kind == CHANGE else 5):
            continue
        if arm.kind == CHANGE and arm.donors:
            n, m = arm.donors
            yield f"{arm.contrast}: compares donors in how {listing(arm.within)} acts within them, {n:,} against {m:,}."
        elif arm.donors:
            n, m = arm.donors
            yield f"{arm.contrast}: these {sum(arm.cells):,} {rows} are {n + m:,} replicates: {n:,} against {m:,}."
        else:
            yield f"{arm.contrast}: its replicates are the {n_donors:,} donors, with {arm.n_values:,} different values."


def cell_level(design: Design, arms: Iterable[Arms], donors: Donors) -> Iterator[str]:
    """Numbers that differ from cell to cell, without a random slope."""
    own = [a for a in arms if a.cell_level and not a.covered]
    if not own:
        return
    verb, group = "differs" if len(own) == 1 else "differ", quote(donors.name)
    text = f"{_few([a.contrast for a in own])} {verb} from cell to cell; a test of such a slope takes it to be the same in every donor"
    if donors.rows.n_rows < _MANY_ROWS * len(donors.levels):
        names = dict.fromkeys(v for a in own for v in a.within)
        slopes = " + ".join(f"(0 + {slope_of(design, donors, v)} | {group})" for v in names)
        text += f". If the rows are visits or samples and not cells, add `{slopes}`"
    yield f"{text}."


def _inside_donors(design: Design, donors: Donors) -> RandomTerm | None:
    """The random intercept with the fewest levels among those whose levels lie inside donors."""
    entries, donor = donors.rows, np.zeros(design.n_patterns, dtype=np.int64)
    donor[entries.pattern] = entries.donor
    if len(entries.n) > design.n_patterns:
        return None  # rows of one pattern are of several donors, so no term tells them apart
    inside = [
        t
        for t in design.random_terms
        if spans_constant(t)
        and gives_own(t)
        and combine([(t.codes, len(t.levels)), (donor, len(donors.levels))], len(donor))[1] == len(t.levels)
    ]
    return min(inside, key=lambda t: len(t.levels), default=None)


def counted_repeatedly(design: Design, arms: Iterable[Arms], donors: Donors, inside: RandomTerm) -> list[str]:
    """The comparisons of donors that rest on several levels of `inside` from each of them."""
    return [a.contrast for a in _donor_level(arms) if _counts_repeatedly(design, a.contrast, donors, inside)]


def _counts_repeatedly(design: Design, contrast: str, donors: Donors, inside: RandomTerm) -> bool:
    """Whether a comparison of donors rests on several levels of `inside` from each of them.

    What the other fixed effects leave of its column says where it looks: that of ``disease`` in ``disease * cell_type``
    is in the reference cell type only.
    """
    n_units = len(inside.levels)
    donor = np.zeros(n_units, dtype=np.int64)
    donor[inside.codes[donors.rows.pattern]] = donors.rows.donor
    kept = [j for j, k in enumerate(design.varying) if k < 0]
    sums = np.stack([np.bincount(inside.codes, weights=design.X[:, j], minlength=n_units) for j in kept], axis=1)
    X = sums / np.bincount(inside.codes, minlength=n_units)[:, None]
    rest = remainder(X, kept.index(design.fixed_names.index(contrast))) ** 2
    largest = pd.Series(rest).groupby(donor).max().sum()
    return bool(largest < _ONE_UNIT * rest.sum())


def _donor_level(arms: Iterable[Arms]) -> list[Arms]:
    """Contrasts of variables with one value per donor. Two batches without a common donor do not make batch one."""
    return [a for a in arms if a.kind == "between-donor" and not a.within]


def _smallest(arm: Arms | None) -> float:
    """Donors in the smaller arm; those on both sides where each donor is its own control."""
    if arm is None or not arm.donors:
        return np.inf
    return min(arm.donors) if arm.kind in ("between-donor", CHANGE) else arm.n_both


def _count(n: float) -> str:
    return f"{n:,.0f} donor{'' if n == 1 else 's'}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _explained(x: FloatArray, A: FloatArray) -> float:
    """Share of the variance of x among donors that A explains."""
    x, A = x - x.mean(), A - A.mean(axis=0)
    total = float(x @ x)
    if not A.shape[1] or total == 0:
        return 0.0
    scale = np.linalg.norm(A, axis=0)
    scaled = A / np.where(scale > 0, scale, 1.0)
    rest = x - scaled @ np.linalg.lstsq(scaled, x, rcond=None)[0]
    return 1.0 - float(rest @ rest) / total
