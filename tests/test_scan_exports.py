"""Scans in the formats of other programs, against what their specifications say."""

from __future__ import annotations

import gzip
import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from tests._scan import DF, GENES, GROUPS, Tables, scan_tables, write_folder

import donorwise as dw
from donorwise._anndata import write_scan
from donorwise.errors import DataError, DonorwiseError, DonorwiseWarning, OutputError
from donorwise.get._exported import chromosome_code

TABLES = scan_tables(n_variants=40)
ONE = {"gene": GENES[1], "group": GROUPS[0]}
SSF = [
    "chromosome", "base_pair_location", "effect_allele", "other_allele", "beta", "standard_error", "effect_allele_frequency",
    "p_value", "variant_id", "rsid", "n",
]  # fmt: skip
REGENIE = "CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ N TEST BETA SE CHISQ LOG10P EXTRA".split()
NOMINAL = "phenotype_id variant_id start_distance af ma_samples ma_count pval_nominal slope slope_se".split()
CIS = (
    "phenotype_id num_var beta_shape1 beta_shape2 true_df pval_true_df variant_id start_distance ma_samples ma_count af "
    "pval_nominal slope slope_se pval_perm pval_beta qval"
).split()
TRANS = "variant_id phenotype_id pval b b_se af".split()
INTERACTION = [*NOMINAL[:6], *"pval_g b_g b_g_se pval_i b_i b_i_se pval_gi b_gi b_gi_se".split()]


def _adata(tables: Tables = TABLES, **params: Any) -> ad.AnnData:
    var = pd.DataFrame({"chrom": "1", "tss": [20_000 + 1000 * i for i in range(6)]}, index=GENES)
    adata = ad.AnnData(np.zeros((2, 6), dtype="f4"), var=var, obs=pd.DataFrame(index=["a", "b"]))
    write_scan(
        adata, "scan", params=tables.params | params, results=tables.results, counts=tables.counts, tests=tables.tests
    )
    return adata


def _own(tables: Tables = TABLES, gene: str = ONE["gene"], group: str = ONE["group"]) -> pd.DataFrame:
    """Tests of one gene in one group in the order of the genome, by plain sorting."""
    tests = tables.tests
    own = tests[(tests["gene"] == gene) & (tests["group"] == group)]
    number = own["chrom"].map({"1": 1, "2": 2, "10": 10, "X": 23})
    return own.assign(number=number).sort_values(["number", "pos"], kind="stable")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(TABLES, tmp_path_factory.mktemp("scan") / "out")


def test_gwas_ssf_by_the_specification(folder: Path, tmp_path: Path) -> None:
    own = _own()
    for number, source in enumerate((_adata(), folder, TABLES)):
        path = tmp_path / f"trait{number}.tsv"
        with warnings.catch_warnings():
            warnings.simplefilter("error", DonorwiseWarning)
            assert dw.get.to_gwas_ssf(source, path, **ONE) is None
        table = pd.read_csv(path, sep="\t", na_values="#NA", keep_default_na=False, float_precision="round_trip")
        assert list(table.columns) == SSF
        assert table["chromosome"].tolist() == own["number"].tolist()
        assert table["base_pair_location"].tolist() == own["pos"].tolist()
        for name, ours in zip(SSF[2:8], ("a1", "a0", "beta", "se", "af", "p_value"), strict=True):
            assert table[name].tolist() == own[ours].tolist()  # every digit
        assert table["n"].tolist() == own["n"].tolist()
        assert table["rsid"].dropna().tolist() == [v for v in own["variant"] if v.startswith("rs")]
        assert all(re.fullmatch(r"([1-9]|1\d|2[0-5])_\d+_[ACGT]+_[ACGT]+", name) for name in table["variant_id"])
        assert table["variant_id"].iloc[0] == f"1_{own['pos'].iloc[0]}_{own['a0'].iloc[0]}_G"
        frame = dw.get.to_gwas_ssf(source, **ONE)
        pd.testing.assert_frame_equal(frame, table, check_dtype=False)
        assert frame.dtypes["chromosome"] == frame.dtypes["base_pair_location"] == np.int64


def test_gwas_ssf_metadata(tmp_path: Path) -> None:
    path = tmp_path / "trait.tsv.gz"
    given = {"genome_assembly": "GRCh38", "samples": [{"sample_ancestry_category": ["European"]}]}
    dw.get.to_gwas_ssf(_adata(), path, **ONE, metadata=given)
    meta = yaml.safe_load((tmp_path / "trait.tsv.gz-meta.yaml").read_text())
    assert meta["data_file_md5sum"] == hashlib.md5(path.read_bytes()).hexdigest()
    assert meta["data_file_name"] == "trait.tsv.gz" and meta["file_type"] == "GWAS-SSF v1.0"
    assert meta["genome_assembly"] == "GRCh38" and meta["coordinate_system"] == "1-based"
    assert meta["samples"] == [{"sample_size": 40, "sample_ancestry_category": ["European"]}]
    assert meta["trait_description"] == [f"{GENES[1]} in {GROUPS[0]}"] and meta["adjusted_covariates"] == ["sex", "PC1"]
    assert meta["is_sorted"] is True and meta["is_harmonised"] is False and "donorwise" in meta["analysis_software"]
    first = path.read_bytes()
    assert gzip.decompress(first).startswith(b"chromosome\tbase_pair_location\t")
    dw.get.to_gwas_ssf(_adata(), path, **ONE)
    assert path.read_bytes() == first  # and is replaced
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trait.tsv.gz", "trait.tsv.gz-meta.yaml"]


def test_gwas_ssf_where_p_underflows() -> None:
    results = TABLES.results.copy()
    results.loc[(results["gene"] == GENES[1]) & (results["group"] == GROUPS[0]), "neg_log10_p"] = 350.0
    table = dw.get.to_gwas_ssf(_adata(TABLES._replace(results=results)), **ONE)
    assert list(table.columns) == [name if name != "p_value" else "neg_log_10_p_value" for name in SSF]
    np.testing.assert_array_equal(table["neg_log_10_p_value"], _own()["neg_log10_p"])


def _damaged(**values: Any) -> Tables:
    """The first five tests of the gene have other values."""
    tests = TABLES.tests.copy()
    at = tests.index[(tests["gene"] == GENES[1]) & (tests["group"] == GROUPS[0])][:5]
    for name, value in values.items():
        tests[name] = tests[name].astype(object)
        tests.loc[at, name] = value
        tests[name] = tests[name].infer_objects()
    return TABLES._replace(tests=tests)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"chrom": "GL000192.1"}, "5 on other chromosomes than 1 to 22, X, Y and MT"),
        ({"a0": "<DEL>"}, "5 without alleles of A, C, G and T"),
        ({"a1": ""}, "5 without alleles of A, C, G and T"),
        ({"beta": np.nan}, "5 without a result"),
        ({"pos": -1}, "5 without a position"),
    ],
)
def test_gwas_ssf_has_no_place_for(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    adata = _adata(_damaged(**values))
    with pytest.warns(DonorwiseWarning, match=f"no rows for tests {re.escape(reason)}.$"):
        assert len(dw.get.to_gwas_ssf(adata, **ONE)) == 35
    with pytest.warns(DonorwiseWarning, match=f"^trait.tsv has no rows for tests {re.escape(reason)}.$"):
        dw.get.to_gwas_ssf(adata, tmp_path / "trait.tsv", **ONE)


def test_gwas_ssf_of_lower_case_and_indels() -> None:
    table = dw.get.to_gwas_ssf(_adata(TABLES._replace(tests=TABLES.tests.assign(a1="acg"))), **ONE)
    assert set(table["effect_allele"]) == {"ACG"} and set(table["other_allele"]) == {"A", "AT"}


def test_chromosomes_by_number() -> None:
    names = {
        "chr1": 1,
        "22": 22,
        "x": 23,
        "chrX": 23,
        "XY": 23,
        "PAR1": 23,
        "chrY": 24,
        "chrM": 25,
        "MT": 25,
        "0": 0,
        "26": 0,
    }
    assert {name: chromosome_code(name) for name in names} == names
    assert [chromosome_code(name) for name in ("", "1_random", "\u0661", "HLA-A*01:01")] == [0, 0, 0, 0]


def test_regenie(folder: Path, tmp_path: Path) -> None:
    own = _own()
    path = tmp_path / "trait.regenie.gz"
    for source in (_adata(), folder):
        dw.get.to_regenie(source, path, **ONE)
        table = pd.read_csv(path, sep=" ", float_precision="round_trip")
        assert list(table.columns) == REGENIE
        for name, ours in {"CHROM": "number", "GENPOS": "pos", "ID": "variant", "ALLELE0": "a0", "ALLELE1": "a1",
                           "A1FREQ": "af", "N": "n", "BETA": "beta", "SE": "se", "LOG10P": "neg_log10_p"}.items():  # fmt: skip
            assert table[name].tolist() == own[ours].tolist()
        assert set(table["TEST"]) == {"ADD"} and table["EXTRA"].isna().all()
        np.testing.assert_allclose(table["CHISQ"], own["statistic"] ** 2, rtol=1e-13)
    assert gzip.decompress(path.read_bytes()).decode().splitlines()[1].endswith(" NA")


def test_regenie_names_and_failures(tmp_path: Path) -> None:
    adata = _adata(_damaged(variant="a  name with\tspaces"))
    dw.get.to_regenie(adata, tmp_path / "a.regenie", **ONE)
    lines = (tmp_path / "a.regenie").read_text().splitlines()
    assert {len(line.split()) for line in lines} == {13} == {len(line.split(" ")) for line in lines}
    assert sum("a_name_with_spaces" in line for line in lines) == 5
    failed = dw.get.to_regenie(_adata(), gene=GENES[4], group=GROUPS[0])
    assert set(failed["EXTRA"]) == {"TEST_FAIL"} and failed[["BETA", "SE", "CHISQ", "LOG10P"]].isna().all(axis=None)


def test_regenie_interaction() -> None:
    from scipy import stats

    tables = scan_tables(["all"], n_variants=40, interaction="age in years")
    table = dw.get.to_regenie(_adata(tables), gene=GENES[0])
    own = _own(tables, GENES[0], "all")
    assert table["TEST"].tolist() == ["ADD-INT_SNP", "ADD-INT_SNPxage_in_years"] * 40
    assert table["ID"].tolist() == own["variant"].repeat(2).tolist()
    assert table["BETA"].tolist() == own[["beta_main", "beta"]].to_numpy().ravel().tolist()
    expected = -np.log10(2 * stats.t.sf(np.abs(own["beta_main"] / own["se_main"]), DF))
    np.testing.assert_allclose(table["LOG10P"][::2], expected, rtol=1e-10)


@pytest.mark.parametrize("end", [".txt.gz", ".tsv", ".parquet"])
def test_tensorqtl_of_variants(end: str, folder: Path, tmp_path: Path) -> None:
    adata = _adata()
    own = TABLES.tests[(TABLES.tests["group"] == GROUPS[1])]
    frame = dw.get.to_tensorqtl(adata, group=GROUPS[1])
    assert list(frame.columns) == NOMINAL
    for source, more in ((adata, {}), (folder, {"genes": adata.var})):
        path = tmp_path / f"pairs{end}"
        assert dw.get.to_tensorqtl(source, path, group=GROUPS[1], **more) is None
        table = pd.read_parquet(path) if end == ".parquet" else pd.read_csv(path, sep="\t")
        pd.testing.assert_frame_equal(table, frame, check_dtype=False)
    for name, ours in {"phenotype_id": "gene", "variant_id": "variant", "af": "af", "pval_nominal": "p_value",
                       "slope": "beta", "slope_se": "se"}.items():  # fmt: skip
        assert frame[name].tolist() == own[ours].tolist()
    start = own["gene"].map(adata.var["tss"].to_dict())
    assert (
        frame["start_distance"].tolist() == (own["pos"] - start).tolist() and frame["start_distance"].dtype == np.int64
    )
    minor = np.minimum(own["af"], 1 - own["af"])
    assert frame["ma_count"].tolist() == np.round(80 * minor).astype(int).tolist()
    assert frame["ma_samples"].isna().all()


def test_tensorqtl_chosen() -> None:
    found = dw.get.to_tensorqtl(_adata(), group=GROUPS[0], gene=GENES[:2], p_max=0.1)
    assert set(found["phenotype_id"]) == set(GENES[:2]) and (found["pval_nominal"] <= 0.1).all()
    without = dw.get.to_tensorqtl(_adata(), group=GROUPS[0])
    assert GENES[4] not in set(without["phenotype_id"])  # no result


def test_tensorqtl_of_genes() -> None:
    table = dw.get.to_tensorqtl(_adata(), level="gene", group=GROUPS[0])
    assert list(table.columns) == CIS
    lead = TABLES.results[(TABLES.results["group"] == GROUPS[0]) & TABLES.results["p_value"].notna()]
    assert table["phenotype_id"].tolist() == GENES[:4] and set(table["num_var"]) == {40}
    assert table["qval"].tolist() == lead["q_value"].tolist() and table["pval_beta"].isna().all()
    results = TABLES.results.assign(p_perm=0.25, beta_shape1=1.0, beta_shape2=9.0, true_df=28.5)
    permuted = _adata(TABLES._replace(results=results), gene_test="permutations")
    table = dw.get.to_tensorqtl(permuted, level="gene", group=GROUPS[0])
    assert list(table.columns) == CIS
    assert table["pval_beta"].tolist() == lead["p_gene"].tolist()
    given = table[["pval_perm", "beta_shape1", "beta_shape2", "true_df"]].drop_duplicates()
    assert given.to_numpy().tolist() == [[0.25, 1.0, 9.0, 28.5]]
    np.testing.assert_allclose(1 - (1 - table["pval_true_df"]) ** 9, lead["p_gene"])  # the beta law of 1 and 9
    few = dw.get.to_tensorqtl(_adata(), level="gene", group=GROUPS[0], p_max=float(lead["p_value"].median()))
    assert len(few) == 2


def test_tensorqtl_trans_and_interaction(folder: Path) -> None:
    trans = dw.get.to_tensorqtl(_adata(mode="trans"), group=GROUPS[0])
    assert list(trans.columns) == TRANS
    assert "start_distance" not in dw.get.to_tensorqtl(_adata(mode="gwas"), level="gene", group=GROUPS[0])
    tables = scan_tables(["all"], interaction="age")
    table = dw.get.to_tensorqtl(_adata(tables))
    assert list(table.columns) == INTERACTION
    assert table["b_gi"].tolist() == tables.tests["beta"].dropna().tolist() and table["pval_i"].isna().all()
    with pytest.raises(DataError, match="tensorQTL's table of genes .* level='variant' has them"):
        dw.get.to_tensorqtl(_adata(tables), level="gene")
    with pytest.raises(DataError, match="Distances need the positions of the genes, .* genes=adata.var"):
        dw.get.to_tensorqtl(folder, group="B")
    with pytest.raises(DataError, match="genes has no row for the gene 'ENSG1' .nor for 3 others"):
        dw.get.to_tensorqtl(folder, group="B", genes=_adata().var.iloc[:1])
    with pytest.raises(DataError, match="^genes has no position of genes; it has `chrom`"):
        dw.get.to_tensorqtl(folder, group="B", genes=_adata().var[["chrom"]])


EXPORTERS = (dw.get.to_gwas_ssf, dw.get.to_regenie)


@pytest.mark.parametrize("export", EXPORTERS)
def test_one_trait(export: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 6 genes; choose one with gene=. There are: 'ENSG0'"):
        export(_adata())
    with pytest.raises(DataError, match="has 3 groups; choose one with group="):
        export(_adata(), gene=GENES[0])
    with pytest.raises(DataError, match="There is no gene 'ENSG77'"):
        export(_adata(), gene="ENSG77", group="B")
    with pytest.raises(DataError, match="There are no tests for a table of .* of 'ENSG5'"):
        export(_adata(), tmp_path / "a.txt", gene=GENES[5], group="B")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="The folder .*nowhere does not exist; make it first"):
        export(_adata(), tmp_path / "nowhere" / "a.txt", **ONE)
    with pytest.raises(OutputError, match="is a folder; give the name of a file"):
        export(_adata(), tmp_path, **ONE)
    with pytest.warns(
        DonorwiseWarning, match=r"kept tests with p_value <= 0.001 \(p_max\), and the table of .* has no others"
    ):
        export(_adata(p_max=0.001), **ONE)


def test_tensorqtl_refuses(tmp_path: Path) -> None:
    with pytest.raises(DonorwiseError, match="level='genes' is not an option"):
        dw.get.to_tensorqtl(_adata(), level="genes")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has 3 groups; choose one with group="):
        dw.get.to_tensorqtl(_adata())
    for end in ("parquet", "tsv"):
        with pytest.raises(DataError, match="There are no tests for a table of tensorQTL"):
            dw.get.to_tensorqtl(_adata(), tmp_path / f"a.{end}", group="B", gene=GENES[5])
    assert not list(tmp_path.iterdir())
    with pytest.warns(DonorwiseWarning, match="kept tests with p_value <= 0.001"):
        dw.get.to_tensorqtl(_adata(p_max=0.001), group="B")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DonorwiseWarning)
        dw.get.to_tensorqtl(_adata(p_max=0.001), group="B", p_max=1e-3)
        dw.get.to_tensorqtl(_adata(p_max=0.001), group="B", level="gene")


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_of_a_real_scan(tmp_path: Path) -> None:
    """In memory and in a folder, read and exported alike."""
    adata, genotypes = dw.datasets.simulate_eqtls(n_donors=30, n_cells=900, n_genes=6, n_variants=300, seed=1)
    formula, options = "~ sex + (1 | donor_id)", {"groupby": "cell_type", "progress": False}
    out = tmp_path / "scan"
    dw.tl.scan(adata, genotypes, formula, key_added="there", out=out, **options)
    dw.tl.scan(adata, genotypes, formula, **options)
    for level in ("gene", "variant"):
        pd.testing.assert_frame_equal(dw.get.scan(adata, level=level), dw.get.scan(out, level=level), check_dtype=False)
        found = dw.get.scan(adata, key="there", level=level, q_max=0.9)
        pd.testing.assert_frame_equal(dw.get.scan(adata, level=level, q_max=0.9), found, check_dtype=False)
    group = str(adata.obs["cell_type"].iloc[0])
    for export in EXPORTERS:
        one = {"gene": "gene_0001", "group": group}
        pd.testing.assert_frame_equal(export(adata, **one), export(out, **one), check_dtype=False)
        assert len(export(adata, **one)) > 10
    pairs = dw.get.to_tensorqtl(adata, group=group)
    pd.testing.assert_frame_equal(dw.get.to_tensorqtl(out, group=group, genes=adata.var), pairs, check_dtype=False)
    assert pairs["start_distance"].abs().max() <= 1_000_000
    plain = dw.scan_variants(np.arange(30.0), _people(genotypes), genotypes, "~ age", donor="donor_id")
    assert len(dw.get.to_gwas_ssf(plain)) == plain.params["n_tests"]
    (out / "_lead.parquet").unlink()
    with pytest.raises(DataError, match="not come to its end"):
        dw.get.scan(out)


def _people(genotypes: ad.AnnData) -> pd.DataFrame:
    return pd.DataFrame({"donor_id": list(genotypes.obs_names), "age": np.arange(30.0) % 7})
