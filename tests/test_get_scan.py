"""``dw.get.scan``: what it keeps, in which order, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._scan import GENES, GROUPS, Tables, scan_tables, write_folder

import donorwise as dw
from donorwise._anndata import keys, write_scan
from donorwise.errors import DataError, DonorwiseError

TABLES = scan_tables(n_variants=40)


def _adata(tables: Tables = TABLES, **params: Any) -> ad.AnnData:
    var = pd.DataFrame({"symbol": ["A", "A", "C", np.nan, "E", "F"]}, index=GENES)
    adata = ad.AnnData(np.zeros((2, 6), dtype="f4"), var=var, obs=pd.DataFrame(index=["a", "b"]))
    tests = tables.tests if "out" not in params else None
    write_scan(adata, "scan", params=tables.params | params, results=tables.results, counts=tables.counts, tests=tests)
    return adata


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(TABLES, tmp_path_factory.mktemp("scan") / "out")


QUERIES: dict[str, dict[str, Any]] = {
    "all": {},
    "genes": {"gene": GENES[:2]},
    "group": {"group": GROUPS[0], "gene": GENES[1]},
    "chrom": {"chrom": ["chrX", 10]},
    "region": {"region": "CHR2:10,000-60000"},
    "variants": {"variant": ["rs1", "rs2"]},
    "p": {"p_max": 0.1},
    "q": {"q_max": 0.3, "chrom": 1},
    "stored order": {"sort_by": None, "p_max": 0.5},
    "by a column": {"sort_by": "af", "ascending": False, "region": "x:1-99999"},
}


@pytest.mark.parametrize("level", ["gene", "variant"])
@pytest.mark.parametrize("query", QUERIES)
def test_sources_agree(query: str, level: Any, folder: Path) -> None:
    first = dw.get.scan(_adata(), level=level, **QUERIES[query])
    assert len(first) > 0
    for source in (folder, _adata(out=str(folder)), TABLES):
        found = dw.get.scan(source, level=level, **QUERIES[query])
        pd.testing.assert_frame_equal(found, first, check_dtype=False)
        assert found.attrs == first.attrs


def test_lead_variants() -> None:
    table = dw.get.scan(_adata())
    assert list(table.columns) == list(keys.SCAN_COLUMNS)
    assert len(table) == len(GENES) * len(GROUPS)
    p = table["p_gene"].to_numpy()
    assert (np.diff(p[~np.isnan(p)]) >= 0).all() and np.isnan(p[-4:]).all()
    assert table["status"].tolist()[-4:] == ["not_estimable", *["no_variants"] * 3]
    assert table["variant"].tolist()[-1] == "" and np.isnan(table["pos"].iloc[-1])
    hits = dw.get.scan(_adata(), p_max=0.2, q_max=0.2)
    assert 0 < len(hits) < len(table) and (hits["p_gene"] <= 0.2).all() and (hits["q_value"] <= 0.2).all()


def test_tests_of_pairs() -> None:
    table = dw.get.scan(_adata(), level="variant", p_max=0.3)
    assert list(table.columns) == list(keys.TEST_COLUMNS)
    assert len(table) == (TABLES.tests["p_value"] <= 0.3).sum()
    assert table["p_value"].is_monotonic_increasing
    lead = dw.get.scan(_adata(), q_max=0.3)[["gene", "group"]].astype(str)
    found = dw.get.scan(_adata(), level="variant", q_max=0.3)
    assert set(zip(found["gene"], found["group"], strict=True)) == set(lead.itertuples(index=False, name=None))
    assert len(found) == 40 * len(lead)


def test_order_where_p_underflows() -> None:
    tests = TABLES.tests.assign(p_value=0.0, neg_log10_p=np.arange(len(TABLES.tests)) % 97 + 400.0)
    table = dw.get.scan(_adata(TABLES._replace(tests=tests)), level="variant")
    assert table["neg_log10_p"].is_monotonic_decreasing
    again = dw.get.scan(_adata(TABLES._replace(tests=tests)), level="variant", ascending=False)
    assert again["neg_log10_p"].is_monotonic_increasing


def test_what_the_table_does_not_say() -> None:
    attrs = dw.get.scan(_adata(p_max=0.001)).attrs
    assert attrs["formula"] == TABLES.params["formula"] and attrs["effect_allele"] == "a1"
    assert "ACAT" in attrs["correction"] and "Storey" in attrs["correction"]
    assert attrs["kept"] == "tests with p_value <= 0.001"
    assert dw.get.scan(_adata(), level="variant").attrs["correction"].startswith("none")


def test_symbols(folder: Path) -> None:
    adata = _adata()
    table = dw.get.scan(adata, gene="A", gene_symbols="symbol", level="variant")
    assert list(table.columns[:3]) == ["gene", "symbol", "group"]
    assert set(table["gene"]) == set(GENES[:2]) and set(table["symbol"]) == {f"A ({g})" for g in GENES[:2]}
    assert dw.get.scan(adata, gene=GENES[3], gene_symbols="symbol")["symbol"].unique().tolist() == [GENES[3]]
    with pytest.raises(DataError, match="gene_symbols='symbol' is a column of adata.var: give the AnnData"):
        dw.get.scan(folder, gene_symbols="symbol")


def test_interactions() -> None:
    tables = scan_tables(["all"], interaction="age")
    found = dw.get.scan(_adata(tables), level="variant")
    assert list(found.columns) == [*keys.TEST_COLUMNS, "beta_main", "se_main", "p_main"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gene": ({"gene": "ENSG55"}, "There is no gene 'ENSG55' in this result. Did you mean"),
    "group": ({"group": "CD4"}, "There is no group 'CD4' in this result. There are: 'CD4 T/naive & co', 'B', '100%'"),
    "level": ({"level": "pair"}, "level='pair' is not an option; choose one of 'gene', 'variant'"),
    "p": ({"p_max": 5}, "p_max=5 must be a number between 0 and 1"),
    "q": ({"q_max": "0.1"}, "q_max='0.1' must be a number"),
    "region": ({"region": "1-2000"}, "region='1-2000' must be a chromosome with the first and last position"),
    "backwards": ({"region": "1:2000-10"}, "region='1:2000-10' must be"),
    "commas": ({"region": "1:,-,"}, "region='1:,-,' must be"),
    "both": ({"region": "1:1-2", "chrom": 1}, "names its chromosome: leave chrom= out"),
    "sort": ({"sort_by": "p_gen"}, "sort_by: there is no column 'p_gen'. Did you mean 'p_gene'"),
    "key": ({"key": "scans"}, "has no scan 'scans'. Did you mean 'scan'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    options, words = REFUSED[name]
    with pytest.raises(DonorwiseError, match=words.replace("?", r"\?")):
        dw.get.scan(_adata(), **options)


def test_nothing_left() -> None:
    for level in ("gene", "variant"):
        assert len(dw.get.scan(_adata(), level=level, chrom="22")) == 0
