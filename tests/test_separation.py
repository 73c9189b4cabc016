"""Which contrasts have no finite estimate, against one linear program for every feature, direction and sign."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

import donorwise as dw
from donorwise._core.models.glmm.separation import open_contrasts


def unbounded(X, low, high, c):
    """Whether a direction along which no row becomes less likely changes c'beta."""
    sign, fixed = high.astype(float) - low, ~(low | high)
    for way in (c, -c):
        found = linprog(
            -way, A_ub=-(sign[:, None] * X), b_ub=np.zeros(len(X)), A_eq=np.where(fixed[:, None], X, 0.0),
            b_eq=np.zeros(len(X)), bounds=(-1, 1),
        )  # fmt: skip
        if -found.fun > 1e-6:
            return True
    return False


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("yes", [False, True])
def test_open_contrasts_are_those_of_linear_programs(p, yes):
    rng = np.random.default_rng(p)
    K, G = 9, 60
    X = np.column_stack([np.ones(K), rng.integers(0, 2, K), np.linspace(-1, 1, K), rng.normal(size=K)])[:, :p]
    none = rng.random((G, K)) < rng.choice([0.5, 0.8, 0.95], G)[:, None]
    high = ~none & (rng.random((G, K)) < 0.6) if yes else np.zeros_like(none)
    L = np.vstack([np.eye(p), np.ones((1, p))])
    found = open_contrasts(X, np.empty((0, p)), none, high, L)
    right = [[unbounded(X, low, all_, c) for c in L] for low, all_ in zip(none, high, strict=True)]
    assert found.tolist() == right
    assert 0 < found.sum() < found.size


def study(counts_of, ages=(20, 30, 40, 50, 60, 70, 80, 90)):
    """Eight donors of 20 cells; gene j has a count in every third cell of the donors `counts_of[j]`."""
    donor = np.repeat(np.arange(8), 20)
    obs = pd.DataFrame({"donor_id": [f"d{d}" for d in donor], "arm": np.where(donor < 4, "a", "b")})
    obs["age"], obs["x"] = np.array(ages, float)[donor], np.tile(np.linspace(-1, 1, 20), 8)
    Y = np.zeros((160, len(counts_of) + 2))
    for j, donors in enumerate(counts_of):
        Y[:, j] = np.isin(donor, donors) & (np.arange(160) % 3 == 0)
    Y[:, -2:] = 1 + (np.arange(160)[:, None] % 2)
    obs.index = obs.index.astype(str)
    return ad.AnnData(Y, obs)


@pytest.mark.filterwarnings("ignore:.*no random term lets its effect differ")
@pytest.mark.parametrize("family", ["nb", "binomial"])
@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        # counts in donors 3 and 4; in 0 and 7; in 7; in 0 to 3; in 4 to 7
        ("~ age + (1 | donor_id)", {"age": [False, False, True, False, False]}),
        ("~ arm + age + (1 | donor_id)", {"arm[T.b]": [False, False, True, True, True], "age": [False, False, True, False, False]}),
        ("~ arm + x + (1 | donor_id)", {"arm[T.b]": [False, False, True, True, True], "x": [False] * 5}),
    ],
)  # fmt: skip
def test_a_slope_with_zeros_on_both_sides_is_finite(family, formula, expected, caplog):
    adata = study([(3, 4), (0, 7), (7,), (0, 1, 2, 3), (4, 5, 6, 7)])
    detected = {"response": "detected"} if family == "binomial" else {}
    with caplog.at_level(logging.WARNING):
        dw.tl.glmm(adata, formula, family=family, exposure=None, progress=False, **detected)
    for contrast, own in expected.items():
        tests = dw.get.tests(adata, key="glmm", contrast=contrast, sort_by=None).iloc[:5]
        assert (tests["status"] == "separated").tolist() == own
        assert np.isinf(tests[["ci_low", "ci_high"]]).any(axis=1).tolist() == own
