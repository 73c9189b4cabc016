"""dw.tl.lmm as a user calls it: groups, warnings, bad input that changes nothing."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise.errors import DonorwiseError, DonorwiseWarning

FORMULA = "~ condition + log_depth + (1 | donor_id)"


def run(adata: ad.AnnData, formula: str = FORMULA, **options: object) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.lmm(adata, formula, progress=False, **options)
    return dw.get.tests(adata, sort_by=None)


def test_every_feature_group_and_contrast_has_a_row(cohort: ad.AnnData) -> None:
    X = cohort.X.tocsc()
    X.data[X.indptr[3] : X.indptr[4]] = 0
    cohort.X = X.tocsr()
    table = run(cohort, groupby="cell_type")
    groups = cohort.obs["cell_type"].cat.categories
    assert len(table) == cohort.n_vars * len(groups) * 2
    assert (table.loc[table["variable"] == cohort.var_names[3], "status"] == "constant").all()


def test_groups_are_what_subsets_give(cohort: ad.AnnData) -> None:
    table = run(cohort, groupby="cell_type")
    for group in cohort.obs["cell_type"].cat.categories:
        alone = run(cohort[cohort.obs["cell_type"] == group].copy())
        together = table[table["group"] == group]
        for column in ("estimate", "se", "df", "p_value"):
            np.testing.assert_allclose(together[column], alone[column], rtol=1e-9)


def test_equivalent_models_give_the_same_p(cohort: ad.AnnData) -> None:
    """One sample a donor: the sample's variance cannot be told from the donor's, and nothing else may change."""
    plain = run(cohort)
    twice = run(cohort, f"{FORMULA} + (1 | donor_id:sample_id)")
    np.testing.assert_allclose(twice["p_value"], plain["p_value"], rtol=1e-4)


@pytest.fixture
def three_arms(cohort: ad.AnnData) -> ad.AnnData:
    """Arms a, b and c, a being absent from the B cells."""
    arm = np.array(list("abc"))[cohort.obs["donor_id"].cat.codes.to_numpy() % 3]
    cohort.obs["arm"] = pd.Categorical(arm)
    return cohort[~((cohort.obs["cell_type"] == "B cell") & (arm == "a"))].copy()


@pytest.mark.parametrize("term", ["arm", "C(arm)"])
def test_a_group_without_the_reference_level_does_not_answer(three_arms: ad.AnnData, term: str) -> None:
    table = run(three_arms, f"~ {term} + log_depth + (1 | donor_id)", groupby="cell_type")
    lost = (table["group"] == "B cell") & table["contrast"].str.startswith(term)
    assert (table.loc[lost, "status"] == "not_estimable").all()
    assert table.loc[~lost, "p_value"].notna().mean() > 0.9
    assert "reference level" in str(three_arms.uns["lmm"]["params"]["reasons"])


def test_contrasts_of_levels_do_not_need_the_reference(three_arms: ad.AnnData) -> None:
    options = {"contrasts": ("arm", "c", "b"), "groupby": "cell_type"}
    table = run(three_arms, "~ arm + log_depth + (1 | donor_id)", **options)
    assert table.loc[table["group"] == "B cell", "p_value"].notna().mean() > 0.9


@pytest.mark.parametrize(
    ("formula", "donor"),
    [
        ("~ condition + (1 | site/donor_id)", "site:donor_id"),
        ("~ condition + (1 | site) + (1 | donor_id)", "donor_id"),
        ("~ condition + (1 | donor_id:site)", "donor_id:site"),
    ],
)
def test_sites_are_not_donors(cohort: ad.AnnData, formula: str, donor: str) -> None:
    cohort.obs["site"] = pd.Categorical((cohort.obs["donor_id"].cat.codes % 3).astype(str))
    table = run(cohort, formula)
    assert cohort.uns["lmm"]["params"]["donor"] == donor
    assert (table["n_donors"] == 8).all()


def test_counts_are_noticed_even_after_log1p_was_noted(cohort: ad.AnnData) -> None:
    cohort.X = cohort.layers["counts"].copy()
    with pytest.warns(DonorwiseWarning, match="raw counts"):
        dw.tl.lmm(cohort, FORMULA, progress=False)
    assert dw.get.tests(cohort)["log_fc"].isna().all()


def test_cells_left_out_are_reported(cohort: ad.AnnData) -> None:
    cohort.obs["age"] = cohort.obs["age"].astype(float)
    cohort.obs.iloc[:7, cohort.obs.columns.get_loc("age")] = np.nan
    with pytest.warns(DonorwiseWarning, match="7 of 800 cells are left out"):
        dw.tl.lmm(cohort, "~ condition + age + log_depth + (1 | donor_id)", progress=False)
    assert cohort.uns["lmm"]["params"]["n_dropped"] == 7


def test_a_group_with_one_donor_in_an_arm_is_named(cohort: ad.AnnData) -> None:
    arm, donors = cohort.obs["condition"], cohort.obs["donor_id"].astype(str)
    kept = donors[arm == arm.cat.categories[1]].iloc[0]
    drop = (cohort.obs["cell_type"] == "B cell") & (arm == arm.cat.categories[1]) & (donors != kept)
    with pytest.warns(DonorwiseWarning, match="B cell: .*1 donor"):
        dw.tl.lmm(cohort[~drop].copy(), FORMULA, groupby="cell_type", progress=False)


def test_what_is_true_of_many_groups_is_said_once(cohort: ad.AnnData) -> None:
    arms = cohort.obs.groupby("condition", observed=True)["donor_id"].unique()
    few = cohort[cohort.obs["donor_id"].isin([*arms.iloc[0][:2], arms.iloc[1][0]])].copy()
    with pytest.warns(DonorwiseWarning, match="1 donor") as issued:
        dw.tl.lmm(few, FORMULA, groupby="cell_type", progress=False)
    assert sum("one donor cannot show" in str(w.message) for w in issued) == 1


BAD = {
    "no random term": ({"formula": "~ condition"}, "random term"),
    "column": ({"formula": "~ conditon + (1 | donor_id)"}, "condition"),
    "donor": ({"formula": "~ condition + (1 | donors)"}, "donors"),
    "one level": ({"formula": "~ one + (1 | donor_id)"}, "one level"),
    "cells as levels": ({"formula": "~ condition + (1 | cell)"}, "cell"),
    "syntax": ({"formula": "~ condition + (1 | donor_id"}, r"\^"),
    "multiplied bar": ({"formula": "~ condition * (1 | donor_id)"}, r"\^"),
    "not a formula": ({"formula": None}, "string"),
    "layer": ({"layer": "lognorm"}, "counts"),
    "mask": ({"mask_var": np.zeros(60, dtype=bool)}, "mask_var"),
    "weights": ({"weights": "negative"}, "positive"),
    "groupby": ({"groupby": "celltype"}, "did you mean `cell_type`"),
    "two groupby": ({"groupby": ["cell_type", "sexx"]}, "did you mean `sex`"),
    "ddf": ({"ddf": "kenward"}, "kenward-roger"),
    "contrast": ({"contrasts": "condition[T.diseased]"}, "condition"),
    "jobs": ({"n_jobs": 0}, "n_jobs"),
    "key": ({"key_added": "a/b"}, "key_added"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error_and_changes_nothing(cohort: ad.AnnData, case: str) -> None:
    options, says = BAD[case]
    cohort.obs["one"] = "x"
    cohort.obs["cell"] = cohort.obs_names
    cohort.obs["negative"] = -1.0
    before = cohort.copy()
    with pytest.raises(DonorwiseError, match=says):
        dw.tl.lmm(cohort, **({"formula": FORMULA, "progress": False} | options))
    pd.testing.assert_frame_equal(cohort.obs, before.obs)
    assert set(cohort.uns) == set(before.uns)
    assert (cohort.X != before.X).nnz == 0


def test_not_an_anndata() -> None:
    with pytest.raises(DonorwiseError, match="AnnData"):
        dw.tl.lmm("cohort.h5ad", FORMULA)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(cohort: ad.AnnData, value: float) -> None:
    cohort.X.data[5] = value
    with pytest.raises(DonorwiseError, match="gene"):
        dw.tl.lmm(cohort, FORMULA, progress=False)
    assert "lmm" not in cohort.uns
