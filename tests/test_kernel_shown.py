"""What users see of models with kernels: names of terms in tables, plots and reports."""

from __future__ import annotations

import pickle
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from tests._batch import run
from tests.test_kernel_tools import ONE, OWN, TWO, kernels, study

import donorwise as dw
from donorwise._anndata import read_results
from donorwise._anndata.summary import summarise
from donorwise.errors import DataError, DesignError
from donorwise.pl._donors_data import collect

mpl.use("Agg")
pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

GRM, MRM = "gr(donor_id, cov=grm)", "gr(donor_id, cov=mrm)"


@pytest.fixture(scope="module")
def fitted() -> ad.AnnData:
    """Three results of the same cells."""
    adata = study()
    for key, formula in {"one": ONE, "own": OWN, "two": TWO}.items():
        given = {name: K for name, K in kernels(12).items() if name in formula}
        dw.tl.lmm(adata, formula, kernels=given, key_added=key, progress=False)
    return adata


def test_terms_go_by_name_in_every_table(fitted: ad.AnnData) -> None:
    terms = [GRM, MRM, "donor_id"]
    assert list(dict.fromkeys(dw.get.varcomp(fitted, key="two")["term"])) == [*terms, "Residual"]
    assert list(dict.fromkeys(dw.get.icc(fitted, key="two")["term"])) == terms
    assert list(dict.fromkeys(dw.get.variance_partition(fitted, key="two")["term"])) == ["arm", *terms, "Residual"]
    assert dw.get.varcomp(fitted, key="two", term=MRM)["term"].unique().tolist() == [MRM]
    effects = dw.get.ranef(fitted, "0", key="two", term=MRM)
    assert effects["term"].unique().tolist() == [MRM] and len(effects) == 12
    with pytest.raises(DataError, match=r"no term 'donor_id'.*gr\(donor_id, cov=grm\)"):
        dw.get.ranef(fitted, "0", key="one", term="donor_id")


@pytest.mark.parametrize("key", ["one", "own", "two"])
def test_plots_take_the_names(fitted: ad.AnnData, key: str) -> None:
    terms = list(dict.fromkeys(dw.get.icc(fitted, key=key)["term"]))
    for term in terms:
        assert term in dw.pl.icc(fitted, key=key, term=term, show=False).get_xlabel()
        assert term in dw.pl.ranef(fitted, "0", key=key, term=term, show=False).get_xlabel()
        for name in (term, f"(1 | {term})"):
            assert f"(1 | {term})" in dw.pl.prior(fitted, key=key, term=name, show=False).get_xlabel()
    mpl.pyplot.close("all")


def test_names_below_shares_do_not_overlap(fitted: ad.AnnData) -> None:
    figure = dw.pl.variance_partition(fitted, key="two", show=False, return_fig=True)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in zip(boxes, boxes[1:], strict=False))
    mpl.pyplot.close(figure)


@pytest.mark.parametrize("key", ["one", "two"])
def test_means_of_donors_count_for_all_that_their_cells_share(fitted: ad.AnnData, key: str) -> None:
    stored = read_results(fitted, key)
    panel = collect(fitted, stored, key=key, variable="3", group="all", condition="arm", contrasts=["arm[T.b]"])
    rho = dw.get.icc(fitted, key=key, variables="3")["icc"].sum()
    n = panel.donors["n_cells"].to_numpy()
    np.testing.assert_allclose(panel.weights, n / (1 + (n - 1) * rho))
    assert len(summarise(panel.cells)) == 12


def test_fits_travel_and_are_compared() -> None:
    adata, given = study(), kernels(12)
    own = dw.fit_lmm(adata.X, adata.obs, OWN, kernels={"grm": given["grm"]})
    again = pickle.loads(pickle.dumps(own))
    pd.testing.assert_frame_equal(again.test(), own.test())
    assert own.theta_names == (f"{GRM}.(Intercept)", "donor_id.(Intercept)")
    without = dw.fit_lmm(adata.X, adata.obs, "~ arm + (1 | donor_id)")
    assert (own.lrt(without)["statistic"] >= -1e-8).all()
    other = dw.fit_lmm(adata.X, adata.obs, ONE, kernels={"grm": given["mrm"]})
    with pytest.raises(DesignError, match="nested"):
        own.lrt(other)


def test_effects_of_many_donors_are_dealt_with_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from donorwise._core.models.lmm import components

    adata = study()
    fit = dw.fit_lmm(adata.X, adata.obs, OWN, kernels={"grm": kernels(12)["grm"]})
    whole = fit.ranef(GRM)
    monkeypatch.setattr(components, "_DOUBLES", 12**2 * 7)
    pd.testing.assert_frame_equal(fit.ranef(GRM), whole, check_exact=True)


def test_reports_say_shares_of_variance(fitted: ad.AnnData, tmp_path: Path) -> None:
    fitted.write_h5ad(tmp_path / "a.h5ad")
    said = run("report", tmp_path / "a.h5ad", "--key", "two")
    assert said.exit_code == 0
    section = said.output.partition("## Shares of variance")[2]
    shown = [line.split("|")[2].strip() for line in section.splitlines() if line.startswith("| all")]
    assert shown[:3] == ["grm", "mrm", "donor_id"]
