"""``(0 + factor || donor)``: a variance for every level, uncorrelated."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.design.audit import audit
from donorwise._core.design.build import build_design
from donorwise.errors import DesignError

CASES, CONTROLS, CELLS, GENES = 4, 8, 15, 120


def arms(n_genes: int = GENES) -> ad.AnnData:
    """Cases spread twice as much as controls; `visit` varies within donors."""
    rng = np.random.default_rng(1)
    donor = np.repeat(np.arange(CASES + CONTROLS), CELLS)
    case = donor < CASES
    obs = pd.DataFrame(
        {
            "donor": [f"P{i}" for i in donor],
            "arm": np.where(case, "case", "control"),
            "flag": case,
            "day": np.tile(np.arange(float(CELLS)) // 3, CASES + CONTROLS),
            "is_case": case.astype(float),
            "is_control": (~case).astype(float),
        },
        index=[f"c{i}" for i in range(donor.size)],
    ).assign(visit=lambda o: np.where(o["day"] < 2, "first", "second"))
    own = (
        rng.normal(size=(CASES + CONTROLS, n_genes)) * np.where(np.arange(CASES + CONTROLS) < CASES, 0.8, 0.4)[:, None]
    )
    return ad.AnnData(
        rng.normal(size=(donor.size, n_genes)) + own[donor], obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    )  # fmt: skip


@pytest.mark.parametrize(
    ("formula", "labels"),
    [
        ("~ arm + (0 + arm || donor)", ["(0 + arm[case] | donor)", "(0 + arm[control] | donor)"]),
        ("~ flag + (0 + flag || donor)", ["(0 + flag[False] | donor)", "(0 + flag[True] | donor)"]),
        ("~ arm + (0 + C(arm) || donor)", ["(0 + C(arm)[case] | donor)", "(0 + C(arm)[control] | donor)"]),
        (
            "~ visit + (visit || donor)",
            ["(1 | donor)", "(0 + visit[first] | donor)", "(0 + visit[second] | donor)"],
        ),
        (
            "~ arm * day + (1 | donor) + (0 + arm:day || donor)",
            ["(1 | donor)", "(0 + arm[case]:day | donor)", "(0 + arm[control]:day | donor)"],
        ),
        ("~ day + (day || donor)", ["(1 | donor)", "(0 + day | donor)"]),
        ("~ day + (0 + poly(day, 2) || donor)", ["(0 + poly(day, 2)[1] + poly(day, 2)[2] | donor)"]),
        ("~ arm + (0 + arm | donor)", ["(0 + arm[case] + arm[control] | donor)"]),
    ],
)
def test_each_level_has_a_term(formula: str, labels: list[str]) -> None:
    assert [term.label for term in build_design(formula, arms(1).obs).random_terms] == labels


@pytest.mark.parametrize("ddf", ["moderated", "kenward-roger"])
def test_numbers_are_those_of_indicators(ddf: str) -> None:
    adata = arms()
    tables = {}
    for name, random in {
        "own": "(0 + arm || donor)",
        "hand": "(0 + is_case | donor) + (0 + is_control | donor)",
    }.items():
        dw.tl.lmm(adata, f"~ arm + {random}", ddf=ddf, key_added=name, progress=False)
        assert adata.uns[name]["params"]["ddf_used"]["values"] == [ddf]
        tables[name] = dw.get.tests(adata, key=name).select_dtypes("number")
    pd.testing.assert_frame_equal(tables["own"], tables["hand"], rtol=1e-9)


def test_names_of_the_parts() -> None:
    adata = arms()
    dw.tl.lmm(adata, "~ arm + (0 + arm || donor)", progress=False)
    parts = dw.get.varcomp(adata, variables="g0")
    assert list(zip(parts["term"], parts["column1"], strict=True)) == [
        ("donor", "arm[case]"), ("donor", "arm[control]"), ("Residual", ""),
    ]  # fmt: skip
    assert set(dw.get.variance_partition(adata)["term"]) >= {"(0 + arm[case] | donor)", "(0 + arm[control] | donor)"}
    mean = dw.get.varcomp(adata).groupby("column1", observed=True)["variance"].mean()
    assert mean["arm[case]"] == pytest.approx(0.64, rel=0.2)
    assert mean["arm[control]"] == pytest.approx(0.16, rel=0.2)
    dw.pl.prior(adata, show=False)


def test_donors_have_levels_of_their_own() -> None:
    adata = arms(1)
    for formula in ("~ arm + (0 + arm || donor)", "~ arm + (0 + arm | donor)"):
        assert not [text for text in audit(formula, adata.obs).warnings if "random intercept" in text]
    assert [t for t in audit("~ arm + (0 + is_case || donor)", adata.obs).warnings if "random intercept" in t]


def test_calibration_moves_the_variances_with_the_labels() -> None:
    adata = arms()
    dw.tl.calibrate(adata, "~ arm + (0 + arm || donor)", "arm[T.control]", n_permutations=20, progress=False)
    groups = adata.uns["calibration"]["groups"]
    assert groups["lambda_median"].between(0.7, 1.4).all()


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("~ arm + (arm || donor)", "Keep the variance of each level, `(0 + arm || donor)`"),
        ("~ arm + (1 | donor) + (0 + arm || donor)", "cannot be told apart"),
        ("~ arm * day + (0 + day | donor) + (0 + arm:day || donor)", "cannot be told apart"),
    ],
)
def test_variances_that_cannot_be_told_apart(formula: str, message: str) -> None:
    with pytest.raises(DesignError) as caught:
        build_design(formula, arms(1).obs)
    assert message in str(caught.value)


def test_an_arm_of_one_donor_has_no_variance() -> None:
    obs = arms(1).obs
    obs = obs[(obs["arm"] == "control") | (obs["donor"] == "P0")]
    with pytest.raises(DesignError, match=r"the 1 level of `donor` that have `arm\[case\]` exactly"):
        build_design("~ arm + (0 + arm || donor)", obs)


def test_collapsed_rows_agree() -> None:
    adata = arms()
    rows = dw.pp.collapse(adata, by=["donor", "arm"])
    tables = []
    for data in (adata, rows):
        dw.tl.lmm(data, "~ arm + (0 + arm || donor)", progress=False)
        tables.append(dw.get.tests(data).select_dtypes("number"))
    pd.testing.assert_frame_equal(*tables, rtol=1e-8)
