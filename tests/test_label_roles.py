"""Donors, samples, batches and cell types are labels, whatever they are numbered with."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise.errors import DonorwiseWarning

CONTRAST = "condition[T.case]"


def cohort() -> ad.AnnData:
    """24 donors in four batches, over which the arms are spread unevenly."""
    rng = np.random.default_rng(0)
    own = np.repeat([1, 2, 3, 4], 6)
    case = np.array([0, 0, 0, 0, 0, 1] + [1, 1, 1, 1, 1, 0] * 2 + [0, 0, 0, 0, 0, 1])
    d = np.repeat(np.arange(24), 10)
    obs = pd.DataFrame(
        {"donor": [f"P{i}" for i in d], "condition": np.where(case[d], "case", "control"), "batch": own[d], "ct": "T"},
        index=[f"c{i}" for i in range(d.size)],
    )
    obs["condition"] = pd.Categorical(obs["condition"], categories=["control", "case"])
    Y = rng.normal(0, 0.5, (4, 8))[own[d] - 1] + rng.normal(0, 0.3, (24, 8))[d] + rng.normal(size=(d.size, 8))
    counts = rng.poisson(3, size=Y.shape)
    adata = ad.AnnData(Y, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(8)]), layers={"counts": counts})
    adata.donorwise.setup(donor="donor", batch="batch")
    return adata


def _lmm(adata: ad.AnnData, batch: str) -> pd.DataFrame:
    dw.tl.lmm(adata, f"~ condition + {batch} + (1 | donor)", progress=False)
    return dw.get.tests(adata, contrast=CONTRAST)


def _pseudobulk(adata: ad.AnnData, batch: str) -> pd.DataFrame:
    dw.tl.pseudobulk(adata, f"~ condition + {batch}", progress=False)
    return dw.get.tests(adata, key="pseudobulk", contrast=CONTRAST)


def _collapsed(adata: ad.AnnData, batch: str) -> pd.DataFrame:
    return _lmm(dw.pp.collapse(adata, by=["donor", "condition", "batch"], progress=False), batch)


@pytest.mark.parametrize("door", [_lmm, _pseudobulk, _collapsed])
@pytest.mark.parametrize("kind", ["ints", "floats", "Int64", "text"])
def test_a_declared_batch_is_labels(door, kind: str) -> None:
    adata = cohort()
    adata.obs["batch"] = {
        "ints": adata.obs["batch"], "floats": adata.obs["batch"] * 1.5, "Int64": adata.obs["batch"].astype("Int64"),
        "text": adata.obs["batch"].astype(str),
    }[kind]  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bare = door(adata, "batch").select_dtypes("number")
    said = [str(w.message) for w in caught if "`batch`" in str(w.message) and "taken for labels" in str(w.message)]
    assert len(said) == (0 if kind == "text" else 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coded = door(adata, "C(batch)").select_dtypes("number")
    pd.testing.assert_frame_equal(bare, coded)


def test_the_audit_reads_it_so_too() -> None:
    adata = cohort()
    found = adata.donorwise.audit("~ condition + batch + (1 | donor)")
    assert [arm.contrast for arm in found.arms] == [CONTRAST, "batch[T.2]", "batch[T.3]", "batch[T.4]"]
    assert any("`batch`, the batch, are taken for labels" in note for note in found.notes)
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    assert not any("taken for labels" in note for note in adata.donorwise.audit(found.formula).notes)


def test_inside_a_function_a_number_stays_one() -> None:
    adata = cohort()
    dw.tl.lmm(adata, "~ condition + np.log(batch) + (1 | donor)", progress=False)
    assert "np.log(batch)" in set(dw.get.tests(adata)["contrast"])
    dw.tl.lmm(adata, "~ condition + (1 | batch) + (1 | donor)", progress=False)


def test_later_tools_read_it_so_too() -> None:
    adata = cohort()
    with pytest.warns(DonorwiseWarning, match="taken for labels"):
        dw.tl.lmm(adata, "~ condition + batch + (1 | donor)", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dw.tl.influence(adata, contrast=CONTRAST, alpha=0.9, progress=False)
        dw.tl.calibrate(adata, "~ condition + batch + (1 | donor)", CONTRAST, n_permutations=10, progress=False)
    assert len(dw.get.ranef(adata, "g0")) == 24


def test_cell_types_that_are_cluster_numbers() -> None:
    adata = cohort()
    adata.obs["cluster"] = np.arange(adata.n_obs) % 3
    adata.donorwise.setup(cell_type="cluster")
    with pytest.warns(DonorwiseWarning, match="`cluster`, the cell type, are taken for labels"):
        dw.tl.lmm(adata, "~ cluster + (1 | donor) + (1 | donor:cluster)", progress=False)
    assert set(dw.get.tests(adata)["contrast"]) == {"cluster[T.1]", "cluster[T.2]"}


def test_counts_in_obs_want_a_logarithm() -> None:
    adata = cohort()
    adata.obs["total_counts"] = adata.layers["counts"].sum(axis=1)
    with pytest.warns(DonorwiseWarning) as caught:
        dw.tl.lmm(adata, "~ condition + (1 | donor)", obs_keys="total_counts", progress=False)
    (text,) = (str(w.message) for w in caught if "looks like" in str(w.message))
    assert "np.log1p" in text
    assert "normalize_total" not in text


WORDS = ["variable", "group", "contrast", "Residual", "fixed", "icc"]


@pytest.mark.parametrize("word", WORDS)
def test_our_own_words_are_names_like_any_other(word: str) -> None:
    plain = cohort()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dw.tl.lmm(plain, "~ condition + C(batch) + (1 | donor)", groupby="ct", progress=False)
        expected = dw.get.tests(plain).select_dtypes("number")
        for old in ("donor", "condition", "batch", "ct"):
            own = cohort()
            own.uns.clear()
            own.obs = own.obs.rename(columns={old: word})
            name = {n: word if n == old else n for n in ("donor", "condition", "batch", "ct")}
            formula = f"~ {name['condition']} + C({name['batch']}) + (1 | {name['donor']})"
            own.donorwise.setup(donor=name["donor"])
            dw.tl.lmm(own, formula, groupby=name["ct"], progress=False)
            pd.testing.assert_frame_equal(dw.get.tests(own).select_dtypes("number"), expected)
            for table in (dw.get.varcomp, dw.get.icc, dw.get.variance_partition):
                assert len(table(own)) == len(table(plain))
            assert len(dw.get.ranef(own, "g0")) == len(dw.get.ranef(plain, "g0"))
            contrast = f"{name['condition']}[T.case]"
            dw.tl.influence(own, contrast=contrast, alpha=0.9, progress=False)
            dw.tl.calibrate(own, formula, contrast, n_permutations=5, progress=False)
            own.donorwise.audit(formula).to_frame()
            dw.tl.pseudobulk(own, f"~ {name['condition']} + C({name['batch']})", groupby=name["ct"], progress=False)
            rows = dw.pp.collapse(own, by=list(name.values()), counts_layer="counts", progress=False)
            dw.tl.lmm(rows, formula, groupby=name["ct"], progress=False)
            np.testing.assert_allclose(dw.get.tests(rows)["p_value"], expected["p_value"], rtol=1e-6)
