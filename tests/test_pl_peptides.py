"""Plots of proteins: what stands in them against the tables and plain sums."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from tests.test_peptide_tools import CONTRAST, FORMULA, fit, peptides

import donorwise as dw
from donorwise.errors import DataError

NAME = "P005"


@pytest.fixture(scope="module")
def fitted() -> ad.AnnData:
    adata = peptides()
    adata.var["gene"] = ["G" + name[1:] for name in adata.var["protein"]]
    own = np.flatnonzero(adata.var["protein"] == NAME)
    adata.X[4, own] = np.nan  # a run without any peptide of it
    fit(adata, ddf="kenward-roger")
    return adata


@pytest.fixture(autouse=True)
def _closed() -> object:
    yield
    plt.close("all")


def test_donors_of_a_protein_have_its_fitted_levels(fitted: ad.AnnData) -> None:
    ax = dw.pl.donors(fitted, "G005", gene_symbols="gene", show=False)
    made = dw.fit_lmm(
        fitted.X, fitted.obs, FORMULA, features=fitted.var["protein"].to_numpy(), weights=fitted.layers["quality"]
    )
    beta = made.beta[made.variables.index(NAME)]
    effects = made.ranef("donor_id").query("variable == @NAME").set_index("level")["value"]
    expected = sorted(beta[0] + beta[1] * (int(donor[1:]) % 2) + effects[donor] for donor in effects.index)
    drawn = next(c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets()) == 6)
    np.testing.assert_allclose(np.sort(drawn.get_offsets()[:, 1]), expected, rtol=1e-6)
    assert ax.get_ylabel() == "donor level\n(log2 intensity)"


def test_peptides_are_lines_with_gaps(fitted: ad.AnnData) -> None:
    ax = dw.pl.donors(fitted, NAME, show=False)
    (above,) = ax.child_axes[:1]
    own = np.flatnonzero(fitted.var["protein"] == NAME)
    lines = [c for c in above.collections if isinstance(c, LineCollection)]
    values = np.concatenate([path.vertices[:, 1] for c in lines for path in c.get_paths()])
    np.testing.assert_allclose(
        np.sort(values[np.isfinite(values)]), np.sort(fitted.X[:, own][np.isfinite(fitted.X[:, own])])
    )
    assert above.get_ylabel() == "peptides"
    title = "\n".join(text.get_text() for text in above.texts)
    row = dw.get.tests(fitted, variables=NAME).iloc[0]
    assert (
        f"{row['n_peptides']} peptides, {row['n_missing']} of {row['n_missing'] + row['n_obs']} values missing" in title
    )
    assert "12 runs = 6 donors: 3 against 3" in title and "measurements" in title and "cells" not in title


def test_a_reduced_protein_says_its_formula(fitted: ad.AnnData) -> None:
    (above,) = dw.pl.donors(fitted, "P000", show=False).child_axes[:1]
    assert any("model: ~ condition + (1 | donor_id)" in text.get_text().replace("\n", " ") for text in above.texts)


def test_shares_of_terms_that_a_protein_cannot_tell_are_missing_and_said(fitted: ad.AnnData) -> None:
    shares = dw.get.variance_partition(fitted).pivot(index="variable", columns="term", values="fraction")
    alone = dw.get.tests(fitted).set_index("variable")["n_peptides"].reindex(shares.index) == 1
    assert alone.any() and (shares["peptide"].isna() == alone).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    texts = [text.get_text() for text in dw.pl.variance_partition(fitted, show=False).texts]
    assert sum(f"{int((~alone).sum())} of {len(alone)}" in text for text in texts) == 1
    assert dw.pl.icc(fitted, show=False).get_xlabel() == "intraclass correlation of donor_id"


def test_other_plots_speak_of_proteins_and_runs(fitted: ad.AnnData) -> None:
    adata = fitted.copy()
    ax = dw.pl.ma(adata, show=False)
    assert ax.get_xlabel() == "mean log2 intensity"
    assert "log2 intensity" in dw.pl.forest(adata, NAME, show=False).get_xlabel()
    dw.tl.power(adata, n_donors=(6, 12), progress=False)
    assert "runs per donor: 2" in dw.pl.power(adata, show=False).get_legend().get_title().get_text() + str(
        [t.get_text() for t in dw.pl.power(adata, show=False).get_legend().get_texts()]
    )
    assert len(dw.pl.design(adata, FORMULA, show=False).get_yticklabels()) == 6
    with pytest.raises(DataError, match="dw.pl.donors"):
        dw.pl.trajectories(adata, NAME, x="condition", show=False)
    assert CONTRAST in dw.get.tests(adata)["contrast"].unique()
