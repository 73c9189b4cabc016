"""Degrees of freedom where slopes differ between donors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.design.build import build_design
from donorwise._core.design.replicates import known_df, slope_df


def obs(n_donors: int = 8, per_arm: int = 5) -> pd.DataFrame:
    donor = np.repeat([f"D{i}" for i in range(n_donors)], 2 * per_arm)
    arm = np.tile(np.repeat(["ctrl", "stim"], per_arm), n_donors)
    sex = np.repeat(np.tile(["f", "m"], n_donors // 2), 2 * per_arm)
    dose = np.random.default_rng(0).normal(size=donor.size)
    return pd.DataFrame({"donor": donor, "arm": arm, "sex": sex, "dose": dose})


@pytest.mark.parametrize(
    ("formula", "contrast", "expected"),
    [
        ("~ arm + (arm | donor)", "arm[T.stim]", 7),
        ("~ arm + (0 + arm | donor)", "arm[T.stim]", 7),
        ("~ arm * sex + (arm | donor)", "arm[T.stim]:sex[T.m]", 6),
        ("~ arm + sex + (arm || donor)", "sex[T.m]", np.inf),
        ("~ arm + (1 | donor)", "arm[T.stim]", np.inf),
        ("~ dose + (dose | donor)", "dose", 7),
    ],
)
def test_donors_are_the_replicates_of_slopes(formula: str, contrast: str, expected: float) -> None:
    design = build_design(formula, obs())
    L = np.array([[float(name == contrast) for name in design.fixed_names]])
    assert slope_df(design, L)[0] == expected


def test_the_fewer_count() -> None:
    design = build_design("~ arm + sex + (arm | donor)", obs())
    found = dict(zip(design.fixed_names, known_df(design, 80, np.eye(3)), strict=True))
    assert found["sex[T.m]"] == 6  # of donors
    assert found["arm[T.stim]"] == 7  # of slopes, and not of 80 cells


def test_counts_one_by_one_count_them() -> None:
    """Of one contrast and of several, as the models of many features do."""
    rows, rng = obs(), np.random.default_rng(2)
    donor, stim = rows["donor"].astype("category").cat.codes, (rows["arm"] == "stim").to_numpy()
    effects = 0.6 * rng.normal(size=(8, 2, 3))
    eta = effects[donor, 0] + effects[donor, 1] * stim[:, None]
    counts = rng.poisson(np.exp(1 + eta)).astype(float)
    fit = dw.fit_glmm(counts, rows, "~ arm * sex + (arm | donor)", family="poisson")
    df = fit.test().groupby("contrast")["df"].unique().map(list).to_dict()
    assert df == {"arm[T.stim]": [6], "sex[T.m]": [6], "arm[T.stim]:sex[T.m]": [6]}
    assert (fit.joint_test("arm:sex")["den_df"] == 6).all()
