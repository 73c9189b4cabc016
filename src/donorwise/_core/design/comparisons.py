"""Many contrasts from one line: pairs of levels, slopes, and differences of these, at levels of other variables."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._core.design.cond import Cond
from donorwise._core.design.conditions import levels_in_use, match_level, slope_row, variables_of
from donorwise._core.design.places import (
    At,
    check_names,
    check_variables,
    equal,
    names_of,
    read_values,
    shown_value,
    values_of,
    within_groups,
)
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray


class Piece(NamedTuple):
    """A weighted sum of values of one variable, and what it is called."""

    label: str
    condition: Cond


@dataclass(frozen=True, slots=True)
class SlopeOf:
    """The slope over a number at a value of it (its mean if None), in a weighted sum of conditions of the others."""

    variable: str
    value: Hashable
    where: Cond

    def row(self, design: Design) -> FloatArray:
        """Weights (p,) of the coefficients of a design."""
        rows = [
            weight * slope_row(design, self.variable, self.value, dict(levels)) for weight, levels in self.where.parts
        ]
        return np.sum(rows, axis=0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several contrasts of one kind, which meet the data when they are tested.

    Attributes
    ----------
    variable
        What is compared, or what the slope is over.
    by
        Variables at each of whose levels it is.
    at
        Values of variables.
    differences
        Whether the levels of `by` are compared with each other.
    """

    variable: str
    by: tuple[str, ...] = ()
    at: dict[str, tuple[Hashable, ...]] = field(default_factory=dict)
    differences: bool = False

    def named(self, designs: Sequence[Design], groupby: Sequence[str]) -> dict[str, Cond | SlopeOf]:
        """The contrasts by name, of the levels that one of the designs of all groups has at least."""
        own = replace(self, by=within_groups(groupby, self.by, fixed=(self.variable, *self.at), among=self.differences))
        check_variables((own.variable, *own.by, *own.at), variables_of(designs))
        others = [name for name in dict.fromkeys([*own.by, *own.at]) if name != own.variable]
        places = [
            _pairs(name, values_of(designs, name, own.at))
            if own.differences and name in own.by
            else _each(name, values_of(designs, name, own.at))
            for name in others
        ]
        return {
            " | ".join(filter(None, [label, ", ".join(filter(None, [place, *(p.label for p in where)]))])): contrast
            for where in product(*places)
            for label, place, contrast in own._of(designs, _joint(p.condition for p in where))
        }

    def _of(self, designs: Sequence[Design], where: Cond) -> Iterable[tuple[str, str, Cond | SlopeOf]]:
        """What it is called, at which own value, and the contrast, in a weighted sum of conditions of the others."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Pairwise(Comparison):
    """Differences between the levels of a variable, made by :func:`pairwise`."""

    reference: Hashable = None

    def _of(self, designs: Sequence[Design], where: Cond) -> Iterable[tuple[str, str, Cond | SlopeOf]]:
        values = values_of(designs, self.variable, self.at)
        for piece in _pairs(self.variable, values, self.reference):
            yield piece.label, "", _joint([piece.condition, where])


@dataclass(frozen=True, slots=True)
class Slope(Comparison):
    """Slopes over a number, made by :func:`slope`."""

    def _of(self, designs: Sequence[Design], where: Cond) -> Iterable[tuple[str, str, Cond | SlopeOf]]:
        name = self.variable
        if levels_in_use(designs, name) is not None:
            raise DesignError(f"`{name}` is a category, which has no slope; dw.pairwise({name!r}) compares its levels.")
        for value in self.at.get(name, (None,)):
            yield f"slope of {name}", "" if value is None else equal(name, value), SlopeOf(name, value, where)


def pairwise(
    variable: str,
    by: str | Sequence[str] | None = None,
    at: At = None,
    *,
    differences: bool = False,
    reference: Hashable = None,
) -> Pairwise:
    """All pairs of levels of a variable, at each level of others: ``dw.pairwise("disease", by="cell_type")``.

    Each pair is a level less an earlier one (``"disease: MS vs control"``, the sign of ``disease[T.MS]``), averaged with
    equal weights over the levels of the variables that are not named, with numbers at their mean, as :func:`cond` has
    it; the pairs are those of ``emmeans(fit, revpairwise ~ disease | cell_type)`` in R.

    Parameters
    ----------
    variable
        A category of the formula's fixed part (or a number, with its values in `at`).
    by
        Variables of the fixed part: a contrast for each of their levels, or combinations of levels. Columns that
        are `groupby` of the fit may be named: every group has its own model, and so its own answer, anyway.
    at
        Values of variables, one or a list each: ``{"age": 50}`` holds a number there, ``{"age": [40, 60]}`` gives the
        pairs at both, ``{"cell_type": ["B", "T"]}`` is `by` for these levels; for `variable` those that are compared.
    differences
        Compare the pairs between the levels of `by` instead: ``"disease: MS vs control | cell_type: T vs B"`` is what
        disease does in T more than in B. With several variables in `by` these are differences of such differences.
    reference
        Compare with this level only.

    Returns
    -------
    Contrasts, to be passed wherever contrasts are: alone, in a list, or in a dict that names them (``"name[pair]"``
    where there are several). Names and levels meet the data there: a ``DesignError`` says which it does not have. A
    group of cells without one of two levels has no answer for their pair, as for every contrast.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=5)
    >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition * cell_type + (1 | donor_id)")
    >>> fit.test(dw.pairwise("condition", by="cell_type"), ddf="kenward-roger")["contrast"].unique().tolist()[:2]
    ['condition: disease vs control | cell_type=T cell', 'condition: disease vs control | cell_type=Monocyte']
    """
    if differences and by is None:
        raise DesignError("differences=True compares between the levels of by=: name a variable there.")
    return Pairwise(*_checked(variable, by, at), differences, reference)


def slope(variable: str, by: str | Sequence[str] | None = None, at: At = None, *, differences: bool = False) -> Slope:
    """The slope over a number, at values of it and at levels of others: ``dw.slope("age", by="disease")``.

    The derivative of what the model expects (on the scale of its coefficients: the logarithm for counts, the log odds
    for yes and no), averaged with equal weights over the levels of the variables that are not named, with numbers at
    their mean: what ``emtrends`` gives in R. For splines and polynomials it depends on where one is.

    Parameters
    ----------
    variable
        A number of the formula's fixed part.
    by
        Variables of the fixed part: a slope for each of their levels, or combinations of levels; columns that are
        `groupby` of the fit as in :func:`pairwise`.
    at
        Values of variables, one or a list each, of `variable` itself as well: ``{"age": [40, 60]}`` gives the slope at both.
    differences
        Compare the slopes between the levels of `by` instead: ``"slope of age | disease: MS vs control"``.

    Returns
    -------
    Contrasts, to be passed wherever contrasts are; see :func:`pairwise`.

    Notes
    -----
    A difference quotient on five points that are a thousandth of the range of the data apart and stay inside it, which
    is exact for polynomials up to the fourth degree.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=5)
    >>> adata.obs["age"] = adata.obs["donor_id"].cat.codes * 5.0 + 30
    >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ age * cell_type + (1 | donor_id)")
    >>> fit.test(dw.slope("age", by="cell_type"), ddf="kenward-roger")["contrast"].unique().tolist()[:2]
    ['slope of age | cell_type=T cell', 'slope of age | cell_type=Monocyte']
    """
    if differences and by is None:
        raise DesignError("differences=True compares between the levels of by=: name a variable there.")
    return Slope(*_checked(variable, by, at), differences)


def spread(contrasts: Any, designs: Sequence[Design], groupby: Sequence[str] = ()) -> Any:
    """Contrasts in which what :func:`pairwise` and :func:`slope` make has become single contrasts with names.

    Parameters
    ----------
    contrasts
        As they were given.
    designs
        The designs of all groups, whose levels are gone through: each group answers for those that it has.
    groupby
        Columns that make the groups.
    """
    if isinstance(contrasts, Comparison):
        return contrasts.named(designs, groupby)
    if isinstance(contrasts, Mapping) and any(isinstance(own, Comparison) for own in contrasts.values()):
        return {
            called: own
            for name, contrast in contrasts.items()
            for called, own in _called(name, spread(contrast, designs, groupby), isinstance(contrast, Comparison))
        }
    if isinstance(contrasts, list):
        return [one for contrast in contrasts for one in _one_by_one(contrast, spread(contrast, designs, groupby))]
    return contrasts


def _called(name: str, made: Any, several: bool) -> list[tuple[str, Any]]:
    """A contrast under the name that a dict has for it; of several, each with its own behind."""
    if not several:
        return [(name, made)]
    return [(name if len(made) == 1 else f"{name}[{own}]", contrast) for own, contrast in made.items()]


def _one_by_one(given: Any, made: Any) -> list[Any]:
    """What an item of a list has become, a dict each."""
    return [made] if made is given else [{name: contrast} for name, contrast in made.items()]


def _checked(variable: str, by: Any, at: At) -> tuple[str, tuple[str, ...], dict[str, tuple[Hashable, ...]]]:
    """What is asked about, the variables of `by`, and values by variable."""
    names, values = names_of(by), read_values(at)
    check_names((variable, *names, *values))
    if variable in names or len(set(names)) < len(names):
        raise DesignError(f"by={list(names)} names a variable twice, or the one that is asked about ({variable!r}).")
    return variable, names, values


def _each(name: str, values: Sequence[Hashable]) -> list[Piece]:
    return [Piece(equal(name, value), Cond(((1.0, ((name, value),)),))) for value in values]


def _pairs(name: str, values: Sequence[Hashable], reference: Hashable = None) -> list[Piece]:
    """Every value less each before it, or each less the reference."""
    if reference is None:
        pairs = [(high, low) for i, high in enumerate(values) for low in values[:i]]
    else:
        base = match_level(values, reference)
        if base is None:
            raise DesignError(f"reference={reference!r} is not a level of `{name}`; they are {listing(values)}.")
        pairs = [(value, base) for value in values if value != base]
    if not pairs:
        raise DesignError(f"`{name}` has one level here, {values[0]!r}, and there is nothing to compare it with.")
    each = {value: piece.condition for value, piece in zip(values, _each(name, values), strict=True)}
    return [Piece(f"{name}: {shown_value(high)} vs {shown_value(low)}", each[high] - each[low]) for high, low in pairs]


def _joint(conditions: Iterable[Cond]) -> Cond:
    """The product of weighted sums of conditions of different variables."""
    parts = product(*(condition.parts for condition in conditions))
    return Cond(
        tuple((math.prod(w for w, _ in own), tuple(level for _, levels in own for level in levels)) for own in parts)
    )
