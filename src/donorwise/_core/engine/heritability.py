"""The table of proportions of variance of models with kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.engine.tables import categorical
from donorwise._core.inference.intervals import Judge, is_covered
from donorwise._core.inference.multiplicity import adjust
from donorwise._core.inference.normal_intervals import judge_by_normal_law
from donorwise._core.inference.proportions import any_free, components_of, confounded, estimated
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._core.models.lmm.curvature import ratio_covariance
from donorwise._core.models.lmm.levels import LevelLMM
from donorwise._typing import SCALES, STATUSES
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.inference.judged import Judged
    from donorwise._core.inference.proportions import Component
    from donorwise._core.models.lmm.equations import Equations, Estimates
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import FloatArray, StrArray

NUMBERS = ("proportion", "se", "ci_low", "ci_high")
TESTS = ("statistic", "p_value", "adj_p_value")
TAIL = (*TESTS, "status")
CONFOUNDED = "confounded"
_TELLING = 0.05  # p-value up to which a component is known to be there


def on_scale(table: pd.DataFrame, scale: str) -> pd.DataFrame:
    """The table with the numbers of one scale, under their plain names."""
    plain = {f"{name}{suffix(scale)}": name for name in NUMBERS}
    others = [f"{name}{suffix(other)}" for other in SCALES if other != scale for name in NUMBERS]
    wanted = table.drop(columns=others).rename(columns=plain)
    return wanted[[*(c for c in table.columns if c in wanted and c not in NUMBERS and c not in TAIL), *NUMBERS, *TAIL]]


def suffix(scale: str) -> str:
    """What the columns of a scale end in."""
    return "" if scale == SCALES[0] else "_" + scale.replace("-", "_")


def heritability_table(variables: tuple[str, ...], design: Design, models: Sequence[LMM]) -> pd.DataFrame:
    """See :meth:`LMMFit.heritability`; numbers as-is beside, in columns that say so.

    Raises
    ------
    DesignError
        The design has no kernel.
    """
    if not any(term.bar.cov for term in design.random_terms):
        raise DesignError(
            f"{design.formula!r} has no kernel, and so no heritability: a random term with a known covariance is written "
            "`(1 | gr(donor_id, cov=grm))`, and kernels={'grm': K} gives it. Shares of other terms: variance_partition."
        )
    components = components_of(design)
    shape = (len(variables), len(components))
    columns = {f"{name}{suffix(scale)}": np.full(shape, np.nan) for scale in SCALES for name in NUMBERS}
    columns |= {name: np.full(shape, np.nan) for name in TESTS}
    status = np.full(shape, "not_estimable", dtype=STATUS_DTYPE)
    # without a residual there is nothing that a proportion could be out of
    own = [model.fitted_by(reml=True) for model in models if not isinstance(model, LevelLMM)]
    judge = _judge(own, components)
    for model in own:
        status[model.features] = model.estimates.status[:, None]
        _fill(model, components, judge, columns, status)
    columns["adj_p_value"] = np.stack([adjust(p) for p in columns["p_value"].T], axis=1)
    return _long(variables, components, columns, status)


def _judge(models: Sequence[LMM], components: Sequence[Component]) -> Callable[[Equations, Estimates], Judged]:
    """What finds intervals and tests; null distributions are those of the model with most rows, for all that lack some."""
    covered = [model for model in models if is_covered(model.equations)]
    if not covered:
        return lambda equations, estimates: judge_by_normal_law(equations, estimates, components, SCALES)
    judge = Judge(max(covered, key=lambda model: model.n_obs).equations, components)
    return lambda equations, estimates: judge.of(equations, estimates.responses, SCALES)


def _fill(
    model: LMM,
    components: Sequence[Component],
    judge: Callable[[Equations, Estimates], Judged],
    columns: dict[str, FloatArray],
    status: StrArray,
) -> None:
    """Fill in the rows of the features of a model."""
    usable = model.usable
    at, equations, estimates = model.features[usable], model.equations, model.estimates.take(usable)
    if not usable.size:
        return
    covariance, judged = ratio_covariance(equations, estimates), judge(equations, estimates)
    for scale in SCALES:
        value, se = estimated(equations, estimates, components, scale, covariance)
        ends = judged.intervals[scale]
        for name, own in zip(NUMBERS, (value, se, ends[..., 0], ends[..., 1]), strict=True):
            columns[name + suffix(scale)][at] = own
    columns["statistic"][at], columns["p_value"][at] = judged.statistic, judged.p_value
    zero = ~any_free(equations, estimates.gamma, components)
    status[at] = np.where(zero, "boundary", "ok")
    for pair in confounded(equations, components):
        untold = at[(judged.p_value[:, pair] > _TELLING).all(axis=1)]
        status[untold[:, None], pair] = CONFOUNDED


def _long(
    variables: tuple[str, ...], components: Sequence[Component], columns: dict[str, FloatArray], status: StrArray
) -> pd.DataFrame:
    """A row for each variable and component, from arrays (G, components)."""
    names = tuple(c.name for c in components)
    order = [*NUMBERS, *TAIL, *(f"{name}{suffix(SCALES[1])}" for name in NUMBERS)]
    long = {name: values.ravel() for name, values in columns.items()}
    long["status"] = pd.Categorical(status.ravel(), categories=[*STATUSES, CONFOUNDED])
    table = {
        "variable": categorical(np.repeat(np.arange(len(variables)), len(names)), variables),
        "component": categorical(np.tile(np.arange(len(names)), len(variables)), names),
    }
    return pd.DataFrame(table | {name: long[name] for name in order})
