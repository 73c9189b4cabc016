"""Further contrasts of a stored model are those of a fit that asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise.errors import DataError, DesignError, DonorwiseError

FORMULA = "~ condition * sex + (1 | donor_id)"
FURTHER = {"women": dw.cond(condition="disease", sex="female") - dw.cond(condition="control", sex="female")}


def cohort() -> ad.AnnData:
    return dw.datasets.simulate_cohort(n_donors=8, n_cells=700, n_genes=120, seed=3)


def lmm(adata: ad.AnnData, **how: Any) -> None:
    dw.tl.lmm(adata, FORMULA, groupby="cell_type", progress=False, **how)


def pseudobulk(adata: ad.AnnData, **how: Any) -> None:
    dw.tl.pseudobulk(
        adata,
        "~ condition * sex",
        donor="donor_id",
        layer="counts",
        groupby="cell_type",
        key_added="lmm",
        progress=False,
        **how,
    )


def counts(adata: ad.AnnData, **how: Any) -> None:
    dw.tl.glmm(adata, FORMULA, family="poisson", layer="counts", key_added="lmm", progress=False, **how)


def shares(adata: ad.AnnData, **how: Any) -> None:
    dw.tl.composition(adata, FORMULA, cell_type="cell_type", key_added="lmm", progress=False, **how)


def proteins(adata: ad.AnnData, **how: Any) -> None:
    adata.var["protein"] = np.repeat(np.arange(30), 4).astype(str)
    adata.X = adata.layers["logs"]
    dw.tl.lmm(
        adata,
        "~ condition * sex + (1 | peptide) + (1 | donor_id)",
        features="protein",
        ddf="kenward-roger",
        progress=False,
        **how,
    )


def runs() -> ad.AnnData:
    """Log intensities of 24 runs of 8 donors x 120 peptides."""
    adata = cohort()
    first = adata.obs.groupby("donor_id", observed=True).head(3).index
    own = adata[first].copy()
    own.layers["logs"] = np.random.default_rng(0).normal(size=own.shape) + 20
    return own


FITS = {"lmm": lmm, "pseudobulk": pseudobulk, "glmm": counts, "composition": shares, "peptides": proteins}


@pytest.mark.parametrize("name", FITS)
def test_as_if_asked_for_in_the_fit(name: str) -> None:
    adata = runs() if name == "peptides" else cohort()
    FITS[name](adata, contrasts=["condition[T.disease]", FURTHER])
    at_once = dw.get.tests(adata, sort_by=None)
    del adata.uns["lmm"]
    FITS[name](adata, contrasts=["condition[T.disease]"])
    dw.tl.test(adata, FURTHER, progress=False)
    pd.testing.assert_frame_equal(dw.get.tests(adata, sort_by=None), at_once, rtol=1e-10)
    dw.tl.test(adata, FURTHER, key_added="beside", progress=False)
    beside = dw.get.tests(adata, key="beside", sort_by=None)
    expected = at_once[at_once["contrast"] == "women"].reset_index(drop=True)
    np.testing.assert_allclose(beside["p_value"], expected["p_value"], rtol=1e-10)


def test_one_that_is_there_is_replaced_and_the_others_keep_what_is_known_of_them() -> None:
    adata = cohort()
    lmm(adata, contrasts=["condition[T.disease]"])
    dw.tl.influence(adata, variables="gene_0001", progress=False)
    dw.tl.test(adata, {"other": "sex[T.male]"}, progress=False)
    table = dw.get.tests(adata)
    assert table["max_p_loo"].notna().sum() == 3
    assert len(dw.get.influence(adata)) == 3
    dw.tl.test(adata, {"condition[T.disease]": FURTHER["women"]}, progress=False)
    assert dw.get.tests(adata)["max_p_loo"].isna().all()  # what is known of it was of another contrast
    with pytest.raises(DataError, match="run dw.tl.influence first"):
        dw.get.influence(adata)
    dw.tl.test(adata, FURTHER, progress=False)
    wide = dw.get.tests(adata, sort_by=None).set_index(["variable", "group", "contrast"])["p_value"].unstack()
    assert list(wide.columns) == ["other", "condition[T.disease]", "women"]
    np.testing.assert_allclose(wide["condition[T.disease]"], wide["women"])


def test_again_from_a_file(tmp_path: Path) -> None:
    adata = cohort()
    lmm(adata, contrasts=FURTHER)
    before = dw.get.tests(adata, sort_by=None)
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    dw.tl.test(read, "sex[T.male]", progress=False)
    dw.tl.test(read, ("condition", "disease", "control"), progress=False)
    again = dw.get.tests(read, contrast="women", sort_by=None)
    pd.testing.assert_frame_equal(again, before, rtol=1e-10)


def test_other_degrees_of_freedom() -> None:
    adata = cohort()
    lmm(adata)
    dw.tl.test(adata, None, ddf="satterthwaite", key_added="other", progress=False)
    lmm(adata, ddf="satterthwaite", key_added="own")
    expected = dw.get.tests(adata, key="own", sort_by=None)
    pd.testing.assert_frame_equal(dw.get.tests(adata, key="other", sort_by=None), expected, rtol=1e-10)


def test_what_is_refused_changes_nothing() -> None:
    adata = cohort()
    lmm(adata, contrasts=["condition[T.disease]"])
    before = dw.get.tests(adata)
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (DesignError, "not a coefficient", {"contrasts": "condition[T.other]"}),
        (DonorwiseError, "key_added=", {"contrasts": None, "ddf": "kenward-roger"}),
        (DonorwiseError, "not an option", {"contrasts": None, "ddf": "wald", "key_added": "other"}),
        (DonorwiseError, "in different units", {"contrasts": None, "min_log_fc": 1, "min_effect": 1, "key_added": "o"}),
        (DonorwiseError, "at least 0", {"contrasts": None, "min_log_fc": -1, "key_added": "other"}),
        (DataError, "no donorwise result", {"contrasts": None, "key": "other"}),
    ]
    for error, match, how in refused:
        with pytest.raises(error, match=match):
            dw.tl.test(adata, progress=False, **how)
    few = adata[:, :110].copy()
    with pytest.raises(DataError, match="before features are dropped"):
        dw.tl.test(few, FURTHER, progress=False)
    adata.X = adata.X * 2
    with pytest.raises(DataError, match="is not the one"):
        dw.tl.test(adata, FURTHER, progress=False)
    pd.testing.assert_frame_equal(dw.get.tests(adata), before)


def test_a_minimal_effect_is_a_result_of_its_own() -> None:
    adata = cohort()
    lmm(adata, contrasts=["condition[T.disease]"])
    dw.tl.test(adata, None, min_log_fc=1, key_added="twofold", progress=False)
    dw.tl.test(adata, None, min_effect=np.log(2), key_added="same", progress=False)
    twofold, same, plain = (dw.get.tests(adata, key=key, sort_by=None) for key in ("twofold", "same", "lmm"))
    np.testing.assert_allclose(twofold["p_value"], same["p_value"])
    assert twofold.attrs["min_effect"] == pytest.approx(np.log(2)) and "min_effect" not in plain.attrs
    labels = [dw.pl.volcano(adata, key=key, group="T cell").get_ylabel() for key in ("twofold", "lmm")]
    assert labels == ["$-\\log_{10}$ p of |estimate| > 0.693", "$-\\log_{10}$ p-value"]
    tested = plain["p_value"] < 0.95  # beyond, the mixture may lie to the other side of zero than its mean
    assert (twofold["p_value"] >= plain["p_value"])[tested].all()
    np.testing.assert_allclose(twofold["estimate"], plain["estimate"])
    dw.tl.test(adata, {"women": FURTHER["women"]}, key="twofold", progress=False)  # further ones have the same null
    assert dw.get.tests(adata, key="twofold", contrast="women")["statistic"].eq(0).mean() > 0.5
    with pytest.raises(DataError, match="of a minimal effect"):
        dw.tl.gene_sets(adata, {"few": list(adata.var_names[:9])}, key="twofold", progress=False)


def test_shrinkage_of_a_contrast_that_is_replaced_is_gone() -> None:
    adata = cohort()
    lmm(adata, contrasts=["condition[T.disease]", "sex[T.male]"])
    dw.tl.shrink(adata)
    dw.tl.test(adata, {"sex[T.male]": FURTHER["women"]}, progress=False)
    table = dw.get.tests(adata)
    assert table.groupby("contrast", observed=True)["lfsr"].count().to_dict() == {
        "condition[T.disease]": 360,
        "sex[T.male]": 0,
    }
    assert set(adata.uns["lmm"]["shrinkage"]["contrast"]) == {"condition[T.disease]"}


def test_what_was_told_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=220, seed=3)
    adata.X = adata.X.toarray() + 0.4 * (adata.obs["condition"] == "disease").to_numpy()[:, None]
    dw.tl.lmm(adata, "~ condition + sex + (1 | donor_id)", contrasts="condition[T.disease]", progress=False)
    assert _told(caplog) == ["condition[T.disease]"]
    dw.tl.test(adata, {"again": ("condition", "disease", "control"), "sex": "sex[T.male]"}, progress=False)
    assert _told(caplog) == ["again", "sex"]
    dw.tl.test(adata, None, min_log_fc=1, key_added="beside", progress=False)
    assert _told(caplog) == []
    assert list(adata.uns["beside"]["params"]["cautions"]["names"]) == ["condition[T.disease]", "again", "sex"]


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The contrasts whose genes are said to be shifted since the last call."""
    said = [r.getMessage() for r in caplog.records]
    caplog.clear()
    return [text.partition(": the middle of the genes")[0] for text in said if ": the middle of the genes" in text]
