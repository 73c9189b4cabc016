"""A protein that was never measured in an arm has no test of it, whatever the degrees of freedom."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._typing import DDF

INFERENCE = ["estimate", "se", "ci_low", "ci_high", "statistic", "df", "p_value", "log_fc"]


def _three_arms(lost: str) -> ad.AnnData:
    """Proteins in nine runs of three arms, of which the first protein lacks one."""
    rng = np.random.default_rng(0)
    arm = pd.Categorical(np.repeat(["a", "b", "c"], 3))
    obs = pd.DataFrame({"arm": arm, "donor_id": [f"D{i}" for i in range(9)]}, index=[f"run{i}" for i in range(9)])
    protein = np.repeat([f"P{i:03d}" for i in range(120)], 3)
    adata = ad.AnnData(
        20 + rng.normal(size=(9, protein.size)),
        obs=obs,
        var=pd.DataFrame({"protein": protein}, index=[f"pep{i}" for i in range(protein.size)]),
    )
    adata.X[np.ix_(arm == lost, protein == "P000")] = np.nan
    return adata


@pytest.mark.parametrize("ddf", DDF)
@pytest.mark.parametrize("lost", ["a", "b"])
def test_an_arm_is_missing(ddf: str, lost: str) -> None:
    adata = _three_arms(lost)
    dw.tl.lmm(adata, "~ arm + (1 | peptide) + (1 | donor_id)", features="protein", ddf=ddf, progress=False)
    found = adata.uns["lmm"]["results"].set_index("variable")
    own, others = found.loc["P000"].set_index("contrast"), found.drop(index="P000")
    absent = ["arm[T.b]", "arm[T.c]"] if lost == "a" else ["arm[T.b]"]  # without the reference neither is told
    assert (own.loc[absent, "status"] == "not_estimable").all()
    assert own.loc[absent, INFERENCE].isna().all(axis=None)
    if lost == "b":
        assert own.loc["arm[T.c]", INFERENCE].notna().all() and own.loc["arm[T.c]", "status"] in {"ok", "boundary"}
    assert others[INFERENCE].notna().all(axis=None)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_nothing_but_rows_without_numbers_is_said_of_a_fit_that_fails() -> None:
    """Each donor has one peptide, but for one that has both, so that nothing tells the residual variance by itself."""
    adata, rng = _three_arms(""), np.random.default_rng(0)
    adata.X[:, ::3] = np.where(np.eye(9, dtype=bool)[:, np.arange(120) % 9], 16 + rng.normal(size=(9, 120)), np.nan)
    adata = adata[:, np.arange(360) % 3 < 2].copy()
    dw.tl.lmm(adata, "~ arm + (1 | peptide) + (1 | donor_id)", features="protein", progress=False)
    shares = dw.get.variance_partition(adata).pivot(index="variable", columns="term", values="fraction")
    whole = shares.sum(axis=1, skipna=False)
    np.testing.assert_allclose(whole[whole.notna()], 1)
    assert set(dw.get.tests(adata)["variable"]) == set(adata.var["protein"])


@pytest.mark.parametrize("random", ["(1 | peptide) + (1 | donor_id)", "(1 | donor_id) + (1 | peptide)"])
def test_what_the_fixed_effects_explain_is_left_out_and_still_no_replicate(random: str) -> None:
    """Two peptides of a length each: the slope of length takes their difference, of which no variance can be told."""
    adata, formula = _three_arms(""), "~ arm + length + {} + (1 | run)"
    adata.X[:, 2::3] = np.nan
    adata.X[0, 0] = adata.X[4, 1] = np.nan
    adata.obs["run"] = np.arange(9) // 2
    adata.var["length"] = np.tile([7.0, 9.0, 9.0], 120)
    found = {}
    for terms in (random, "(1 | donor_id)"):
        dw.tl.lmm(adata, formula.format(terms), features="protein", ddf="kenward-roger", progress=False)
        found[terms] = dw.get.tests(adata, sort_by=None).set_index("contrast")
    own, alone = found[random], found["(1 | donor_id)"]
    fitted = ["estimate", "se", "df", "p_value"]
    pd.testing.assert_frame_equal(
        own.loc[["arm[T.b]", "arm[T.c]"], fitted], alone.loc[["arm[T.b]", "arm[T.c]"], fitted]
    )
    assert (own.loc["arm[T.b]", "status"] == "reduced").all()
    assert set(own["formula"]) == {formula.format("(1 | donor_id)")}
    assert (own.loc["length", "status"] == "too_few_donors").all() and own.loc["length", "p_value"].isna().all()
