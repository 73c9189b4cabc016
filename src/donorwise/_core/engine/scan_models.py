"""Null models of a task: what variants of its donors are tested in."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.replicates import constant_within
from donorwise._core.design.terms import variables
from donorwise._core.models.lmm.crossproducts import Columns, column_means
from donorwise._core.models.lmm.levels import LevelLMM
from donorwise._core.models.lmm.variants import NullModels, null_models
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.engine.fitted import LMMFit
    from donorwise._core.engine.tasks import Statistics
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

logger = logging.getLogger("donorwise")

_PAIR = 2  # rows of a donor, whose difference is all that is within it


@dataclass(frozen=True, slots=True)
class TaskDonors:
    """Names of the D donors of a task and their column, and which of them each pattern of its design belongs to, (patterns,)."""

    column: str
    names: tuple[str, ...]
    codes: IntArray


@dataclass(frozen=True, slots=True)
class NullFit:
    """Null models of G features that share their rows.

    Attributes
    ----------
    models
        Ready for variants.
    features
        Shape (G,). Positions in the fit.
    df
        Degrees of freedom of the test of a variant.
    donors
        Shape (D,). Whether a donor has rows.
    """

    models: NullModels
    features: IntArray
    df: float
    donors: BoolArray


@dataclass(frozen=True, slots=True)
class TaskModels:
    """The null models of a task of G features, by the rows that they have, and their status, (G,)."""

    fits: tuple[NullFit, ...]
    status: StrArray

    def by_donors(self) -> list[tuple[BoolArray, TaskModels]]:
        """The fits apart by the donors (D,) that have rows; those of most features first."""
        found: dict[bytes, list[NullFit]] = {}
        for fit in self.fits:
            found.setdefault(fit.donors.tobytes(), []).append(fit)
        several = sorted(found.values(), key=lambda own: -sum(fit.features.size for fit in own))
        return [(own[0].donors, replace(self, fits=tuple(own))) for own in several]

    @property
    def fitted(self) -> IntArray:
        """Positions of the features that have models."""
        return np.concatenate([fit.features for fit in self.fits])

    @property
    def df(self) -> FloatArray:
        """Degrees of freedom of tests, (G,); NaN where there is no model."""
        out = np.full(self.status.size, np.nan)
        for fit in self.fits:
            out[fit.features] = fit.df
        return out

    def told(self) -> FloatArray:
        """Numbers that tell the data of the models from others, (fits,)."""
        return np.array([np.log(np.maximum(fit.models.R, np.finfo(float).tiny)).sum() for fit in self.fits])

    @property
    def n_donors(self) -> IntArray:
        """Donors that have rows, (G,); 0 where there is no model."""
        out = np.zeros(self.status.size, dtype=np.int64)
        for fit in self.fits:
            out[fit.features] = np.count_nonzero(fit.donors)
        return out


def interacting(design: Design, name: str) -> int:
    """Position of the column of the fixed part that variants interact with.

    Raises
    ------
    DesignError
        The formula does not have it by itself, or it is several columns.
    """
    terms = [term for term, read in design.reads.items() if term == name or read == (name,)]
    if not terms:
        there = listing(term for term in design.terms) or "none"
        raise DesignError(
            f"interaction={name!r}: variants interact with a term of the fixed part, and {design.formula!r} has {there}; add "
            f"{name!r} to the formula."
        )
    own = design.terms[terms[0]]
    if len(terms) > 1 or len(own) > 1:
        columns = listing(design.fixed_names[j] for term in terms for j in design.terms[term])
        advice = "Keep two of the levels, or make a column of numbers of what is asked."
        if "Intercept" not in design.fixed_names:
            advice = "A formula without an intercept gives every level a column: write it with one."
        raise DesignError(
            f"interaction={name!r} is several columns ({columns}): a scan takes a number, or labels of two levels. {advice}"
        )
    return own[0]


def lacks_slopes(design: Design, donors: TaskDonors, column: int, name: str) -> bool:
    """Whether what variants interact with differs within donors, and nothing lets the donors differ in it.

    A random slope does, and where a donor has two rows, or two levels of a random term that has one for each value, such as
    ``(1 | donor:condition)``, what these have of their own is their slope.
    """
    inside = design.varying[column] >= 0
    if not inside and constant_within(design.X[:, [column]], donors.codes)[0]:
        return False
    if _slopes(design, donors, name):
        return False
    rows = np.bincount(design.codes[design.codes >= 0], minlength=design.n_patterns)
    units = [np.bincount(donors.codes, rows)]
    for term in design.random_terms:
        x = np.column_stack([design.X[:, column], donors.codes])
        if not inside and "(Intercept)" in term.columns and constant_within(x, term.codes).all():
            pairs = np.unique(np.column_stack([donors.codes, term.codes]), axis=0)
            units.append(np.bincount(pairs[:, 0]))
    return all(n.max() > _PAIR for n in units)


def lacks_kernel_slopes(design: Design, donors: TaskDonors, name: str) -> bool:
    """Whether relatives' levels are alike by a kernel, and their slopes on what variants interact with by none."""
    slopes = _slopes(design, donors, name)
    levels = {t.bar.cov for t in design.random_terms if t.group == donors.column}
    return bool(slopes) and any(levels) and not any(t.bar.cov for t in slopes)


def _slopes(design: Design, donors: TaskDonors, name: str) -> list[RandomTerm]:
    return [t for t in design.random_terms if t.group == donors.column and name in variables(t.bar.terms)]


def task_models(
    fit: LMMFit, statistics: Statistics, donors: TaskDonors, interaction: int | None, *, normal: bool = False
) -> TaskModels:
    """The fitted models of a task, ready for variants; of `normal` statistics the degrees of freedom are infinite.

    Features without a model, those whose donors leave nothing to judge a variant by, and those that say the same in all cells of
    a level, are in none; their status says so.
    """
    found, status = [], fit.status.copy()
    for model in fit.models:
        if isinstance(model, LevelLMM):
            status[model.features] = "not_estimable"
            logger.warning(
                "%d of %d features have one value in all cells of every %s and are not scanned: scan them with one row for each "
                "donor.", model.features.size, len(fit.variables), model.level,
            )  # fmt: skip
        elif model.usable.size:
            own = _null_fit(model.take(model.usable), statistics, donors, interaction, normal=normal)
            if own.df >= 1 and own.models.nu >= 1:
                found.append(own)
            else:
                status[own.features] = "too_few_donors"
    return TaskModels(tuple(found), status)


def _null_fit(
    model: LMM, statistics: Statistics, donors: TaskDonors, interaction: int | None, *, normal: bool
) -> NullFit:
    collapsed, present = _statistics_of(model, statistics)
    codes, design = donors.codes[present], model.design
    columns = [Columns(np.ones((codes.size, 1)), np.zeros((collapsed.covariate_mean.shape[1], 1)))]
    if interaction is not None:
        columns.append(column_means(design.X[:, [interaction]], [design.varying[interaction]], collapsed))
    within = interaction is not None and not _between(design, codes)[interaction]
    df = _df(design, codes, interaction if within else None, len(columns), model.equations.nu(reml=True))
    models = null_models(model, collapsed, codes, len(donors.names), columns, df=df, together=not within)
    there = np.isin(np.arange(len(donors.names)), codes)
    return NullFit(models, model.features, np.inf if normal else df, there)


def _statistics_of(model: LMM, statistics: Statistics) -> tuple[Collapsed, IntArray]:
    """Statistics of a model's features on its patterns, and which of the task's those are."""
    own = next(p for p in statistics.passes if np.isin(model.features, p.features).all())
    collapsed = own.collapsed.take_features(np.searchsorted(own.features, model.features))
    present = np.flatnonzero(collapsed.n_obs > 0)
    return (collapsed if present.size == collapsed.n_obs.size else collapsed.take(present)), present


def _df(design: Design, codes: IntArray, within: int | None, n_columns: int, nu: int) -> float:
    """Donors less fixed effects on their level, those of the variant among them; at most rows less fixed effects.

    Of an interaction with a column that differs `within` donors the replicates are their slopes, on which are the fixed effects
    that have the same variable in them.
    """
    n = np.unique(codes).size
    if within is None:
        used = int(_between(design, codes).sum()) + n_columns
    else:
        used = len(_same_variable(design, within)) + 1
    return float(min(n - used, nu - n_columns))


def _between(design: Design, codes: IntArray) -> BoolArray:
    """Which columns of the fixed part are constant in every donor, (p,)."""
    return constant_within(design.X, codes) & (np.array(design.varying) < 0)


def _same_variable(design: Design, column: int) -> list[int]:
    """Columns of the fixed part whose terms have the variables of that of `column`."""
    own = next(set(design.reads[term]) for term, at in design.terms.items() if column in at)
    return [j for term, at in design.terms.items() if own <= set(design.reads[term]) for j in at]


def by_donor(design: Design, column: str, names: StrArray) -> tuple[Design, TaskDonors]:
    """The design with patterns that each belong to one donor, and its donors; `names` (N,) are those of all rows.

    Raises
    ------
    DesignError
        Several rows of one donor would count as replicates.
    """
    used = np.flatnonzero(design.codes >= 0)
    if np.unique(names[used]).size == used.size:
        return design.by_row(), TaskDonors(column, tuple(map(str, names[used])), np.arange(used.size))
    term = next((t for t in design.random_terms if t.group == column), None)
    if term is None:
        raise DesignError(
            f"No random term of {design.formula!r} has the donors ({column!r}) for levels, so that several rows of one would "
            f"count as replicates: add (1 | {column}), and for relatives (1 | gr({column}, cov=grm)) beside it."
        )
    return design, TaskDonors(column, term.levels, term.codes)
