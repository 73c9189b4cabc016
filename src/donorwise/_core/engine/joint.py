"""F tests of several contrasts together, for all features of a fit, whatever the family of its models."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import qr

from donorwise._core.engine.tasks import with_numbers
from donorwise._core.inference.joint import joint_tests_by_law, moderated_joint_tests
from donorwise._core.inference.wald import JointTests, joint_tests

if TYPE_CHECKING:
    from donorwise._core.engine.tasks import Fit
    from donorwise._core.models.law import Model
    from donorwise._typing import FloatArray

_DEPENDENT = 1e-9  # of the largest contrast, what is left of one beside the others


def joint_features(fit: Fit[Model], L: FloatArray, ddf: str, n_jobs: int = 1) -> JointTests:
    """Test that all contrasts L (r, p) are zero; what is not in a model keeps its status.

    Parameters
    ----------
    fit
        The models.
    L
        Independent contrasts in the basis of the formula (see :func:`independent`).
    ddf
        As :func:`donorwise._core.engine.tasks.ddf_used` gives it.
    n_jobs
        Threads.
    """
    statistic, den_df, scaling, p_value = np.full((4, len(fit.variables)), np.nan)
    out = JointTests(statistic, den_df, scaling, p_value, fit.status.copy())
    for model in fit.models:
        tested = _test(fit, model, L, ddf, n_jobs)
        for field in fields(JointTests):
            getattr(out, field.name)[model.features] = getattr(tested, field.name)
    status = with_numbers(out.status, out.p_value)
    lost = np.where(status == "not_converged", np.nan, 0.0)  # a test without a p-value has no other half of it
    return replace(out, statistic=out.statistic + lost, den_df=out.den_df + lost, status=status)


def _test(fit: Fit[Model], model: Model, L: FloatArray, ddf: str, n_jobs: int) -> JointTests:
    if ddf == "moderated" and not model.unmoderated:
        return moderated_joint_tests(model, L, fit.learned, n_jobs)
    ddf = model.fallback if ddf == "moderated" else ddf
    if (estimated := model.estimated) is None:
        return joint_tests_by_law(model, L, ddf, n_jobs)
    return joint_tests(estimated, L, ddf)


def independent(L: FloatArray) -> FloatArray:
    """As many of the contrasts (n, p) as say something of their own, (r, p), in their order."""
    R, order = qr((L / np.abs(L).max(axis=1, keepdims=True)).T, mode="r", pivoting=True)
    size = np.abs(np.diag(R))
    return L[np.sort(order[: int((size > _DEPENDENT * size.max(initial=0.0)).sum())])]
