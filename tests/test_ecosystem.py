"""Results in the hands of other packages: the snippets of docs/ecosystem.md run, and say what is true."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from tests._models import model

import donorwise as dw
from donorwise.errors import DataError, DonorwiseError

# other packages warn of what is to change in matplotlib, numba or pandas; the audit's advice is tested elsewhere
pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = Path(__file__).parents[1] / "docs" / "ecosystem.md"
CONTRAST = "condition[T.disease]"
SCANPY_PLOTS = [name for name in dir(sc.pl) if name.startswith("rank_genes_groups")]


@pytest.fixture(scope="module")
def _sections() -> dict[str, str]:
    """The code under each heading of the page."""
    if not PAGE.exists():
        pytest.skip("docs are not part of this installation")
    parts = re.split(r"^#+ (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        title: "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


@pytest.fixture(scope="module")
def _page(_sections: dict[str, str]) -> dict[str, Any]:
    """What the first snippet defines."""
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(_sections["Working with other packages"], names)
    return names


@pytest.fixture
def run(_sections: dict[str, str], _page: dict[str, Any]) -> Any:
    """Run the snippets under headings that begin so, one after the other, where their packages are installed."""
    names = _page | {"adata": _page["adata"].copy()}

    def _run(*headings: str) -> dict[str, Any]:
        for heading in headings:
            code = next(code for title, code in _sections.items() if title.startswith(heading))
            for package in re.findall(r"^import (\w+)", code, re.MULTILINE):
                pytest.importorskip(package, exc_type=ImportError)
            exec(code, names)
        return names

    yield _run
    plt.close("all")


def test_decoupler_finds_the_response(run: Any) -> None:
    names = run("decoupler: regulators", "decoupler: scores")
    assert list(names["activity"].index) == list(names["adata"].obs["cell_type"].cat.categories)
    assert (names["adj_p_value"]["response"] < 1e-3).all()
    assert (names["activity"]["response"] > 0).all()
    scores = names["scores"].set_index("variable")
    assert set(scores.index) == {"response", "other"}
    assert (scores.loc["response", "p_value"] < 0.05).all()
    cells = names["adata"]
    Y = cells.obsm["score_ulm"][(cells.obs["cell_type"] == "B cell").to_numpy()]
    fit = dw.fit_lmm(Y, cells.obs[cells.obs["cell_type"] == "B cell"], names["formula"])
    theirs = fit.test(CONTRAST, ddf="kenward-roger").set_index("variable")["estimate"]
    ours = scores[scores["group"] == "B cell"]["estimate"]
    np.testing.assert_allclose(ours[theirs.index], theirs, rtol=1e-8)


def test_scanpy_snippet(run: Any) -> None:
    run("scanpy")


def test_pertpy_draws_every_test(run: Any) -> None:
    names = run("pertpy")
    points = plt.gca().collections[0].get_offsets()
    assert len(points) == names["table"]["p_value"].notna().sum()
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(names["table"]["log_fc"].dropna()))


def test_seaborn_reads_the_table(run: Any) -> None:
    names = run("seaborn")
    assert set(names["grid"].axes_dict) == set(names["table"]["group"].cat.categories)
    assert names["clusters"].data2d.shape == (3, 20)


def test_mudata_by_modality(run: Any, tmp_path: Path) -> None:
    names = run("MuData")
    mdata, mudata = names["mdata"], names["md"]
    assert len(names["proteins"]) == 20
    for refused in (dw.get.tests, dw.get.matrix, dw.pp.log_depth, lambda m: dw.tl.lmm(m, names["formula"])):
        with pytest.raises(DataError, match=r"give mdata\['rna'\] or mdata\['prot'\] in place of the MuData"):
            refused(mdata)
    mdata.write(tmp_path / "m.h5mu")
    again = mudata.read(tmp_path / "m.h5mu")
    pd.testing.assert_frame_equal(dw.get.tests(again["prot"], contrast=CONTRAST), names["proteins"])
    with pytest.raises(DataError, match="is a MuData with .*'prot'"):
        dw.pp.collapse(tmp_path / "m.h5mu", by="donor_id")


def test_mudata_is_refused_without_mudata() -> None:
    with pytest.raises(DataError, match=r"give mdata\['atac'\] in place"):
        dw.tl.lmm(SimpleNamespace(mod={"atac": None}), "~ 1 + (1 | donor_id)")


@pytest.fixture
def gaps() -> ad.AnnData:
    return model("gaps")


@pytest.mark.parametrize("values", ["statistic", "log_fc", "adj_p_value"])
def test_matrix_holds_the_table(gaps: ad.AnnData, values: Any) -> None:
    wide = dw.get.matrix(gaps, values, contrast="age")
    assert list(wide.index) == ["T cell", "B cell", "Monocyte"]
    assert list(wide.columns) == [name for name in gaps.var_names if name != "gene_0004"]
    table = dw.get.tests(gaps, contrast="age").set_index(["group", "variable"])[values]
    for group, row in dw.get.matrix(gaps, values, contrast="age", fill=False).iterrows():
        np.testing.assert_array_equal(row, table[group][row.index])
        np.testing.assert_array_equal(wide.loc[group], row.fillna(1.0 if values == "adj_p_value" else 0.0))
    assert wide.loc["B cell", "gene_0006"] == (1.0 if values == "adj_p_value" else 0.0)


@pytest.mark.parametrize(
    ("options", "rows", "name"),
    [
        ({"group": "B cell"}, [CONTRAST, "age"], "contrast"),
        ({"group": "B cell", "contrast": "age"}, ["B cell"], "group"),
        ({"key": "one"}, [CONTRAST, "age"], "contrast"),
        ({"key": "one", "contrast": "age"}, ["age"], "contrast"),
        (
            {"group": ["T cell", "B cell"]},
            [f"T cell | {CONTRAST}", "T cell | age", f"B cell | {CONTRAST}", "B cell | age"],
            "group | contrast",
        ),
    ],
)
def test_matrix_names_its_rows(gaps: ad.AnnData, options: dict[str, Any], rows: list[str], name: str) -> None:
    wide = dw.get.matrix(gaps, **options)
    assert (list(wide.index), wide.index.name) == (rows, name)
    pd.testing.assert_frame_equal(dw.get.matrix(gaps[:, ::-1], **options), wide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "Rare"}, "None of the chosen tests of 'lmm' has a statistic"),
        ({"values": "status"}, "values='status' is not an option"),
        ({"variables": "gene_99"}, "no variable 'gene_99'"),
    ],
)
def test_matrix_refusals(gaps: ad.AnnData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.get.matrix(gaps, **options)


@pytest.mark.parametrize(
    ("plot", "choice"),
    [
        *((plot, {"contrast": "age"}) for plot in SCANPY_PLOTS),
        ("rank_genes_groups_violin", {"contrast": "age", "group": "B cell"}),
        *((plot, {"group": "B cell"}) for plot in ("rank_genes_groups", "rank_genes_groups_dotplot")),
        *((plot, {"key": "one", "contrast": "age"}) for plot in ("rank_genes_groups", "rank_genes_groups_heatmap")),
    ],
)
def test_every_scanpy_plot(gaps: ad.AnnData, plot: str, choice: dict[str, Any]) -> None:
    adata = gaps.copy()
    adata.raw = adata.copy()
    dw.get.to_rank_genes_groups(adata, **choice)
    bare = plot in ("rank_genes_groups", "rank_genes_groups_violin")
    getattr(sc.pl, plot)(adata, n_genes=2, show=False, **({} if bare else {"dendrogram": False}))
    assert plt.get_fignums()
    plt.close("all")


def test_untested_is_drawn_as_no_change(gaps: ad.AnnData) -> None:
    """scanpy fills missing fold changes with 1."""
    adata = gaps.copy()
    dw.get.to_rank_genes_groups(adata, contrast=CONTRAST)
    table = sc.get.rank_genes_groups_df(adata, group="Rare")
    assert (table[["scores", "logfoldchanges"]] == 0).all(axis=None)
    names = list(adata.var_names[:8])
    figure = sc.pl.rank_genes_groups_matrixplot(
        adata, var_names=names, values_to_plot="logfoldchanges", dendrogram=False, return_fig=True, show=False
    )
    expected = dw.get.matrix(adata, "log_fc", contrast=CONTRAST).reindex(columns=names).fillna(0.0)
    drawn = figure.values_df
    np.testing.assert_allclose(drawn.loc[expected.index, names], expected)
    assert (drawn.loc["Rare"] == 0).all()


def test_scans_go_elsewhere(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("Scans of variants")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gene_0001.regenie.gz", "gene_0001.tsv.gz", "gene_0001.tsv.gz-meta.yaml", "pairs.parquet",
    ]  # fmt: skip
    of_gene = pd.read_csv("gene_0001.tsv.gz", sep="\t")
    pairs = pd.read_parquet("pairs.parquet")
    assert len(of_gene) == (pairs["phenotype_id"] == "gene_0001").sum() > 0
    assert len(names["genes"]) == 10
