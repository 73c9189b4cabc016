"""``adata.donorwise``: what it says, and that it leaves no trace."""

from __future__ import annotations

import copy
import gc
import inspect
import logging
import pickle
import re
import subprocess
import sys
import weakref

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.design.audit import audit
from donorwise.errors import DesignError, DonorwiseWarning

# the audit's advice about these small simulations is tested elsewhere
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


def test_setup_is_kept(cohort: ad.AnnData, tmp_path) -> None:
    cohort.donorwise.setup(donor="donor_id", condition="condition")
    cohort.donorwise.setup(sample="sample_id")
    declared = {"donor": "donor_id", "sample": "sample_id", "condition": "condition"}
    assert cohort.uns["donorwise"] == {"format": 1} | declared
    cohort.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert again.donorwise.settings == cohort.donorwise.settings
    assert again.donorwise.settings["cell_type"] == "cell_type", "guessed beside what was declared"
    view = cohort[::2]
    view.donorwise.setup(donor="sex")
    assert cohort.donorwise.settings["donor"] == "donor_id"


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"donor": "donor"}, "no column 'donor'. Did you mean 'donor_id'"),
        ({"donor": "donor_id", "batch": "lane"}, "no column 'lane'"),
        ({"donor": "one"}, "'one' has 1 level"),
        ({"donor": "barcode"}, "another level for every cell"),
    ],
)
def test_refused_setup(cohort: ad.AnnData, roles: dict[str, str], message: str) -> None:
    cohort.obs["one"], cohort.obs["barcode"] = "a", cohort.obs_names.to_numpy()
    with pytest.raises(DesignError, match=message):
        cohort.donorwise.setup(**roles)
    assert "donorwise" not in cohort.uns


@pytest.mark.parametrize(
    "column", ["donor", "patient_id", "Subject", "individual", "orig.Donor ID".removeprefix("orig.")]
)
def test_donor_is_guessed(cohort: ad.AnnData, column: str, caplog: pytest.LogCaptureFixture) -> None:
    cohort.obs = cohort.obs.rename(columns={"donor_id": column})
    assert cohort.donorwise.settings["donor"] == column
    assert f"{column!r} (guessed), 8 levels" in repr(cohort.donorwise)
    with caplog.at_level(logging.INFO, logger="donorwise"):
        assert cohort.donorwise.donors.index.name == column
    assert f"using obs column {column!r}" in caplog.text
    cohort.donorwise.setup()
    assert cohort.uns["donorwise"]["donor"] == column


def test_ambiguous_and_absent(cohort: ad.AnnData) -> None:
    cohort.obs["patient"] = cohort.obs["donor_id"].cat.rename_categories(lambda name: f"p{name}")
    assert cohort.donorwise.settings["donor"] == "donor_id", "the same donors under two names"
    cohort.obs["patient"] = np.tile(["p1", "p2"], cohort.n_obs // 2)
    with pytest.raises(DesignError, match=r"'donor_id' and 'patient' could hold the donor.*setup\(donor="):
        _ = cohort.donorwise.donors
    assert "'donor_id' or 'patient'? Declare it" in repr(cohort.donorwise)
    del cohort.obs["cell_type"]
    cohort.donorwise.setup(donor="donor_id")
    with pytest.raises(DesignError, match=r"hold the cell type. Declare it with adata.donorwise.setup\(cell_type="):
        _ = cohort.donorwise.cell_types
    del cohort.obs["donor_id"]
    with pytest.raises(DesignError, match="no column 'donor_id'"):
        _ = cohort.donorwise.donors
    assert "no longer in obs" in repr(cohort.donorwise)
    assert "no column declared" in repr(ad.AnnData(np.zeros((2, 2))).donorwise)


@pytest.mark.parametrize("source", ["obs", "layer", "X", "none"])
def test_donors(cohort: ad.AnnData, source: str) -> None:
    totals = cohort.obs["total_counts"].to_numpy(dtype=float)
    if source != "obs":
        del cohort.obs["total_counts"]
        totals = np.asarray(cohort.layers["counts"].sum(axis=1)).ravel()
    if source == "X":
        cohort.X = cohort.layers["counts"]
    if source in ("X", "none"):
        del cohort.layers["counts"]
    cohort.obs.loc[cohort.obs_names[:3], "donor_id"] = np.nan
    cohort.obs["half"] = np.where(np.arange(cohort.n_obs) < 3, "x", cohort.obs["sex"].astype(str))
    cohort.obs["noise"] = np.arange(cohort.n_obs)
    table = cohort.donorwise.donors
    assert list(table.columns) == [
        *["n_cells", "n_samples", *(["mean_depth"] if source != "none" else [])],
        *["condition", "sex", "age", "half"],
    ]
    assert table["n_cells"].sum() == cohort.n_obs - 3
    first = (cohort.obs["donor_id"] == table.index[0]).to_numpy()
    assert table["n_cells"].iloc[0] == first.sum()
    assert table["sex"].iloc[0] == cohort.obs["sex"][first].iloc[0]
    if source != "none":
        assert table["mean_depth"].iloc[0] == pytest.approx(totals[first].mean())


def test_cell_types(cohort: ad.AnnData) -> None:
    cohort.obs["cell_type"] = cohort.obs["cell_type"].cat.add_categories("never seen")
    table = cohort.donorwise.cell_types
    pd.testing.assert_frame_equal(
        table, pd.crosstab(cohort.obs["donor_id"], cohort.obs["cell_type"]), check_dtype=False
    )
    assert table.to_numpy().sum() == cohort.n_obs


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("lmm", {"groupby": "cell_type"}),
        ("glmm", {"layer": "counts", "family": "poisson", "exposure": "total_counts", "ddf": "wald"}),
        ("glmm", {"layer": "counts", "family": "binomial", "link": "cloglog", "response": "detected"}),
    ],
)
def test_doors_are_those_of_the_package(cohort: ad.AnnData, tool: str, options: dict[str, str]) -> None:
    formula = "~ condition + (1 | donor_id)"
    functions = getattr(dw.tl, tool), getattr(type(cohort.donorwise), tool)
    theirs, ours = (inspect.signature(f).parameters for f in functions)
    assert [(p.name, p.kind, p.default, p.annotation) for p in list(theirs.values())[1:]] == [
        (p.name, p.kind, p.default, p.annotation) for p in list(ours.values())[1:]
    ]
    other = cohort.copy()
    getattr(cohort.donorwise, tool)(formula, progress=False, **options)
    getattr(dw.tl, tool)(other, formula, progress=False, **options)
    pd.testing.assert_frame_equal(dw.get.tests(cohort, key=tool), dw.get.tests(other, key=tool))
    assert f"'{tool}', {formula}" in repr(cohort.donorwise)


def test_audit(cohort: ad.AnnData) -> None:
    report = str(cohort.donorwise.audit("~ condition + (1 | donor_id)"))
    assert "these 800 cells are 8 replicates: 4 against 4" in report
    depth = cohort.obs["total_counts"].to_numpy(dtype=float)
    assert report == str(audit("~ condition + (1 | donor_id)", cohort.obs, depth=depth, counts="counts"))
    cohort.obs["person"] = cohort.obs["donor_id"].to_numpy()
    cohort.donorwise.setup(donor="person")
    assert "(`person`)" in str(cohort.donorwise.audit("~ condition + (1 | person) + (1 | donor_id:cell_type)"))


def test_a_guessed_donor_that_the_formula_misses(cohort: ad.AnnData) -> None:
    """The audit and tl.lmm say the same: cells of a donor would be replicates. The same donors elsewhere named are fine."""
    cohort.obs["batch"] = pd.Categorical((cohort.obs["donor_id"].cat.codes % 3).astype(str))
    cohort.obs["who"] = cohort.obs["donor_id"].cat.rename_categories(lambda name: f"p{name}")
    missed = "`donor_id` has no random intercept.*add `\\(1 | donor_id\\)`"
    (warning,) = (w for w in cohort.donorwise.audit("~ condition + (1 | batch)").warnings if "intercept" in w)
    assert re.match(missed, warning)
    with pytest.warns(DonorwiseWarning, match=missed):
        dw.tl.lmm(cohort, "~ condition + (1 | batch)", progress=False)
    report = cohort.donorwise.audit("~ condition + (1 | who)")
    assert report.donor == "who" and not any("intercept" in w for w in report.warnings)
    cohort.donorwise.setup(donor="donor_id")
    del cohort.obs["donor_id"]
    with pytest.raises(DesignError, match="no column 'donor_id'"):
        dw.tl.lmm(cohort, "~ condition + (1 | who)", progress=False)
    with pytest.raises(DesignError, match="no column 'donor_id'"):
        cohort.donorwise.audit("~ condition + (1 | who)")


def test_no_trace(cohort: ad.AnnData, tmp_path) -> None:
    """No reference cycle, no class in pickles, no cached accessor that speaks for another AnnData."""
    cohort.donorwise.setup(donor="donor_id")
    pickled = pickle.dumps(cohort)
    (tmp_path / "a.pickle").write_bytes(pickled)
    assert b"_accessor" not in pickled
    code = "import pickle, sys; a = pickle.load(open(sys.argv[1], 'rb')); print(a.n_obs, 'donorwise' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.pickle"], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(cohort.n_obs), "False"]

    twin = copy.copy(cohort)
    twin.obs = twin.obs[["donor_id"]]
    assert "cell_type" not in twin.donorwise.settings
    with pytest.raises(AttributeError, match="cannot be replaced"):
        cohort.donorwise = 3
    assert ad.AnnData.donorwise is type(cohort.donorwise)

    gone = cohort.copy()
    _ = gone.donorwise.donors
    watch = weakref.ref(gone)
    gc.disable()
    try:
        del gone
        assert watch() is None
    finally:
        gc.enable()


def test_audit_uses_the_declared_batch_and_the_sample() -> None:
    """From cells and from collapsed rows; the fit warns of the batch, too."""
    wedge = dw.datasets.simulate_cohort(design="stepped-wedge", n_donors=9, n_cells=900, n_genes=20, seed=1)
    wedge.obs["chip"] = wedge.obs["condition"].astype(str) + "_" + wedge.obs["sex"].astype(str)
    formula = "~ condition + (1 | donor_id) + (1 | sample_id)"
    wedge.donorwise.setup(donor="donor_id", sample="sample_id", batch="chip")
    columns = ["donor_id", "sample_id", "condition", "period", "chip"]
    rows = dw.pp.collapse(wedge, by=columns)
    rows.donorwise.setup(donor="donor_id", sample="sample_id", batch="chip")
    for data in (wedge, rows):
        report = data.donorwise.audit(formula)
        assert any("goes with `period`" in text for text in report.warnings)
        assert any("goes with the batch (`chip`) completely" in text for text in report.warnings)
        with pytest.warns(DonorwiseWarning, match=r"goes with the batch \(`chip`\) completely"):
            dw.tl.lmm(data, formula, progress=False)
    with_period = wedge.donorwise.audit("~ condition + period + (1 | donor_id) + (1 | sample_id)")
    assert not any("period" in text for text in with_period.warnings)
