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
