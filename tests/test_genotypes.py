"""Genotypes as users give them: what is known of variants, the counted allele, names, and the files of other programs."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests._genotypes import as_vcf, write_plink1

import donorwise as dw
from donorwise._anndata import open_genotypes
from donorwise._core.kinship.genotypes import Genotypes
from donorwise._core.kinship.labels import bare_chromosomes, chromosome_names, positions_of, texts
from donorwise._core.kinship.usable import usable_variants
from donorwise.errors import DataError, DonorwiseError

PLINK = shutil.which("plink2")
needs_plink = pytest.mark.skipif(PLINK is None, reason="needs plink2")
MICE = Path("/usr/share/doc/gemma/example")
GEMMA = shutil.which("gemma")


@pytest.fixture(scope="module")
def donors() -> ad.AnnData:
    """13 donors x 60 variants of 3 chromosomes, some genotypes missing."""
    return dw.datasets.simulate_relatives(2, n_unrelated=5, n_variants=60, n_chromosomes=3, missing=0.05, seed=4)


def whole(genotypes: Genotypes) -> Any:
    return genotypes.checked(0, genotypes.n_variants)


def described(found: Genotypes) -> pd.DataFrame:
    """All that is known of the variants."""
    columns = {
        "variant": found.variants,
        "chrom": found.chromosomes,
        "pos": found.positions,
        "a0": found.a0,
        "a1": found.a1,
    }
    return pd.DataFrame({name: own for name, own in columns.items() if own is not None})


def assert_same(found: Genotypes, donors: ad.AnnData) -> None:
    """Values and all that is known of the variants."""
    np.testing.assert_array_equal(whole(found), donors.X)
    assert found.donors == tuple(donors.obs_names)
    expected = donors.var.rename_axis("variant").reset_index()[["variant", "chrom", "pos", "a0", "a1"]]
    pd.testing.assert_frame_equal(described(found).astype(str), expected.astype(str), check_dtype=False)
    assert found.positions is not None and found.positions.dtype == np.int64


# ---------------------------------------------------------------- AnnData, arrays, tables


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"chrom": "CHR", "pos": "BP", "a0": "A2", "a1": "A1"},
        {"chrom": "Chromosome", "pos": "Position", "a0": "REF", "a1": "ALT"},
        {"chrom": "chr", "pos": "ps", "a0": "allele0", "a1": "allele1"},
        {"chrom": "contig", "pos": "base_pair_location", "a0": "other_allele", "a1": "effect_allele"},
    ],
)
def test_usual_names_of_columns(donors: ad.AnnData, names: dict[str, str]) -> None:
    given = donors.copy()
    given.var = given.var.rename(columns=names)
    assert_same(open_genotypes(given), donors)


def test_alleles_come_from_one_pair_of_columns(donors: ad.AnnData) -> None:
    """A reference allele is no other allele where the effect allele may be it."""
    both = donors.copy()
    both.var["REF"], both.var["ALT"] = "N", "N"
    assert_same(open_genotypes(both), donors)
    mixed = donors.copy()
    mixed.var = mixed.var.rename(columns={"a0": "ref", "a1": "effect_allele"})
    found = open_genotypes(mixed)
    assert found.a0 is None and found.a1 is not None and found.a1.tolist() == donors.var["a1"].tolist()
    alone = donors.copy()
    del alone.var["a1"]
    assert open_genotypes(alone).a0 is None and open_genotypes(alone).a1 is None


def test_positions_in_any_form(donors: ad.AnnData) -> None:
    given = donors.copy()
    for values in (given.var["pos"].astype(str), given.var["pos"].astype("Int64"), given.var["pos"].astype("category")):
        given.var["pos"] = values
        assert_same(open_genotypes(given), donors)
    given.var["pos"] = [np.nan, *donors.var["pos"][1:]]
    positions = open_genotypes(given).positions
    assert positions is not None and positions.tolist() == [-1, *donors.var["pos"][1:]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["12", "x1", "y"], r"here: 2 of 3 positions are no numbers \(`x1`, `y`\)"),
        ([5, -3, 2], r"1 of 3 positions are negative \(`-3`\)"),
        ([1.25, 2.0, np.nan], r"1 of 3 positions are no whole numbers; positions are base pairs.*`1.25`"),
        ([np.inf, 1, 2], "no whole numbers"),
    ],
)
def test_what_is_no_position(values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        positions_of(values, "here")


def test_missing_positions() -> None:
    assert positions_of(["7", "", None, "."], "x").tolist() == [7, -1, -1, -1]
    assert positions_of(pd.array([7, None], dtype="Int64"), "x").tolist() == [7, -1]
    assert positions_of(np.array([], dtype=np.int32), "x").size == 0


@pytest.mark.parametrize("kind", [np.asarray, sparse.csc_array, lambda X: X.tolist()])
def test_arrays_with_a_table_of_variants(donors: ad.AnnData, kind: Any) -> None:
    full = donors[:, ~np.isnan(donors.X).any(axis=0)].copy()
    found = open_genotypes(kind(full.X), donors=full.obs_names.to_list(), variants=full.var)
    assert_same(found, full)
    with pytest.raises(DataError, match=f"has {full.n_vars - 1} rows for {full.n_vars} variants"):
        open_genotypes(kind(full.X), variants=full.var[1:])


def test_a_table_finds_the_columns_of_a_frame_by_name(donors: ad.AnnData) -> None:
    frame = pd.DataFrame(donors.X, index=donors.obs_names, columns=donors.var_names)
    more = pd.concat([donors.var.iloc[::-1], donors.var[:1].set_axis(["rs_other"])])
    assert_same(open_genotypes(frame, variants=more), donors)
    with pytest.raises(DataError, match="no row for 2 of 60 variants: `rs59`, `rs60`; it has `rs1`, `rs2`, `rs3`, ..."):
        open_genotypes(frame, variants=donors.var[:-2])
    with pytest.raises(DataError, match="rows of one name: `rs1`"):
        open_genotypes(frame, variants=pd.concat([donors.var, donors.var[:1]]))
    with pytest.raises(DataError, match=r"variants= is a list; it needs a DataFrame"):
        open_genotypes(frame, variants=list(donors.var_names))  # type: ignore[arg-type]
    other = donors.var.rename(columns={"chrom": "where"})
    assert_same(open_genotypes(frame, variants=other, chrom="where"), donors)
    with pytest.raises(
        DataError, match=r"chrom='wher': The table in variants= has no such column. Did you mean 'where'"
    ):
        open_genotypes(frame, variants=other, chrom="wher")


def test_a_table_goes_with_arrays_only(donors: ad.AnnData) -> None:
    with pytest.raises(DataError, match="variants= goes with arrays and DataFrames; X has its variants' names with it"):
        open_genotypes(donors, variants=donors.var)


def test_arrays_without_a_table(donors: ad.AnnData) -> None:
    found = open_genotypes(donors.X[:, :3])
    assert found.n_variants == 3 and described(found).empty
    assert found.donors == tuple(map(str, range(donors.n_obs)))
    assert open_genotypes(found) is not None and open_genotypes(found).donors == found.donors


# ---------------------------------------------------------------- texts that stay small


def test_texts_are_short_arrays_or_shared_objects() -> None:
    assert texts(["A", b"C", None, "A"]).tolist() == ["A", "C", "", "A"]
    assert texts(["A", "C"] * 500).nbytes <= 4000
    long = texts(["A" * 5000, "C", *["G" * 17] * 1000])
    assert long.dtype == object and long.nbytes < 10_000
    assert len({id(own) for own in long[2:]}) == 1
    assert texts([]).tolist() == []


def test_names_of_chromosomes() -> None:
    assert chromosome_names([1, 2.0, "X", None, b"chr3", np.nan]).tolist() == ["1", "2", "X", "", "chr3", ""]
    assert bare_chromosomes(texts(["chr1", "1", "CHRX", "x", "MT", "chrM", ""])).tolist() == [
        "1", "1", "X", "X", "M", "M", "",
    ]  # fmt: skip


# ---------------------------------------------------------------- files


def test_bed_counts_the_first_allele(donors: ad.AnnData, tmp_path: Path) -> None:
    pytest.importorskip("bed_reader")
    write_plink1(tmp_path / "g", donors)
    assert_same(open_genotypes(tmp_path / "g.bed"), donors)
    nameless = donors.var.assign(pos=[-5, 7, *donors.var["pos"][2:]]).set_axis([".", ".", *donors.var_names[2:]])
    write_plink1(tmp_path / "g", donors, nameless)
    found = open_genotypes(tmp_path / "g.bed")
    a0, a1 = donors.var[["a0", "a1"]].iloc[1]
    assert found.variants is not None and found.variants[:3].tolist() == [".", f"1:7:{a0}:{a1}", "rs3"]
    assert found.positions is not None and found.positions[:2].tolist() == [-1, 7]
    (tmp_path / "g.bim").write_text((tmp_path / "g.bim").read_text().replace("\t7\t", "\tseven\t"))
    with pytest.raises(DataError, match=r"g.bim cannot be read as a table with 6 columns .*seven"):
        open_genotypes(tmp_path / "g.bed")


@pytest.fixture(scope="module")
def vcf(donors: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of files that PLINK 2 makes of a VCF, whose last variant has three alleles."""
    if PLINK is None:
        pytest.skip("needs plink2")
    prefix = tmp_path_factory.mktemp("plink") / "g"
    calls = {0: "0/0", 1: "0/1", 2: "1/1"}
    with prefix.with_suffix(".vcf").open("w") as out:
        out.write("##fileformat=VCFv4.2\n##contig=<ID=1>\n##contig=<ID=2>\n##contig=<ID=3>\n")
        out.write("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + "\t".join(donors.obs_names) + "\n")
        for j, (name, row) in enumerate(donors.var.iterrows()):
            own = [calls.get(x, "./.") for x in donors.X[:, j]]
            alt, own = (f"{row['a1']},TT", [c.replace("1/1", "1/2") for c in own]) if j == 59 else (row["a1"], own)
            out.write("\t".join(map(str, [row["chrom"], row["pos"], name, row["a0"], alt, ".\t.\t.\tGT", *own])) + "\n")
    plink(prefix, "--vcf", f"{prefix}.vcf", "--double-id", "--make-pgen")
    return prefix


def plink(prefix: Path, *options: object, out: Path | None = None) -> None:
    command = [str(part) for part in (PLINK, *options, "--threads", 1, "--out", out or prefix)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_plink
def test_pgen_counts_all_alleles_but_the_reference(donors: ad.AnnData, vcf: Path, tmp_path: Path) -> None:
    pytest.importorskip("pgenlib")
    expected = donors.copy()
    expected.var.loc[donors.var_names[59], "a1"] += ",TT"
    assert_same(open_genotypes(vcf.with_suffix(".pgen")), expected)
    plink(vcf, "--pfile", vcf, "--make-pgen", "vzs", out=tmp_path / "packed")
    assert_same(open_genotypes(tmp_path / "packed.pgen"), expected)


@needs_plink
def test_bed_of_plink(donors: ad.AnnData, vcf: Path) -> None:
    pytest.importorskip("bed_reader")
    plink(vcf, "--pfile", vcf, "--max-alleles", 2, "--make-bed")
    assert_same(open_genotypes(vcf.with_suffix(".bed")), donors[:, :59].copy())


@needs_plink
def test_frequencies_of_plink(vcf: Path) -> None:
    """Its columns say whose the frequency is: ALT, which is what is counted."""
    pytest.importorskip("pgenlib")
    plink(vcf, "--pfile", vcf, "--max-alleles", 2, "--nonfounders", "--freq")
    table = pd.read_csv(vcf.with_suffix(".afreq"), sep=r"\s+")
    found = open_genotypes(vcf.with_suffix(".pgen"))
    assert found.a1 is not None and found.a1[:59].tolist() == table["ALT"].tolist()
    np.testing.assert_allclose(np.nanmean(whole(found)[:, :59], axis=0) / 2, table["ALT_FREQS"], atol=1e-5)


def test_bed_counts_what_gemma_counts(tmp_path: Path) -> None:
    """Which mouse variants of its own example are tested, their alleles, positions, frequencies and missing genotypes."""
    pytest.importorskip("bed_reader")
    if GEMMA is None or not (MICE / "mouse_hs1940.bed.gz").exists():
        pytest.skip("needs gemma and its example")
    for ending in ("bed", "bim", "fam"):
        (tmp_path / f"m.{ending}").write_bytes(gzip.decompress((MICE / f"mouse_hs1940.{ending}.gz").read_bytes()))
    fam = [line.split()[:5] for line in (tmp_path / "m.fam").read_text().splitlines()]
    (tmp_path / "m.fam").write_text("".join("\t".join([*row, str(i)]) + "\n" for i, row in enumerate(fam)))
    done = subprocess.run([GEMMA, "-bfile", "m", "-lm", "1", "-o", "m"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    theirs = pd.read_csv(tmp_path / "output" / "m.assoc.txt", sep="\t").set_index("rs")
    found = open_genotypes(tmp_path / "m.bed")
    ours = described(found).assign(af=np.nanmean(whole(found), axis=0) / 2)
    ours = ours.set_index("variant").loc[theirs.index]
    assert len(theirs) > 10_000
    assert (ours["a1"] == theirs["allele1"]).all() and (ours["a0"] == theirs["allele0"]).all()
    assert (ours["pos"] == theirs["ps"].replace(-9, -1)).all() and (
        ours["chrom"].astype(str) == theirs["chr"].astype(str)
    ).all()
    np.testing.assert_allclose(ours["af"], theirs["af"], atol=5.01e-4)  # three digits
    used = usable_variants(whole(found), maf=0.01, missing=0.05)  # its defaults
    assert found.variants is not None and found.variants[used.at].tolist() == theirs.index.tolist()
    assert (len(found.donors) - used.n == theirs["n_mis"]).all()


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "g.pgen").touch()
    for name in ("g", "g.psam", "g.pvar"):
        with pytest.raises(DataError, match=r"read from .bed, .pgen, .vcz, .h5ad and .zarr; did you mean .*g.pgen\?"):
            open_genotypes(tmp_path / name)
    with pytest.raises(DataError, match=r"g.vcf.gz: genotypes are read .*; PLINK 2 makes a .pgen of VCF"):
        open_genotypes(tmp_path / "g.vcf.gz")


# ---------------------------------------------------------------- VCF Zarr


def with_three(donors: ad.AnnData) -> Any:
    """Of the first variant one genotype has a third allele, and the last donor has one copy of everything."""
    dataset, X = as_vcf(donors), donors.X
    alleles = dataset["call_genotype"].values
    alleles[0, np.flatnonzero(X[:-1, 0] == 1)[0]] = [0, 2]
    alleles[:, -1] = np.stack([np.where(np.isnan(X[-1]), -1, X[-1] > 0), np.full(donors.n_vars, -2)], axis=1)
    named = donors.var[["a0", "a1"]].assign(third=["TT", *[""] * (donors.n_vars - 1)]).to_numpy().astype(str)
    return dataset.assign(variant_allele=(("variants", "three"), named))


def expected_of_vcf(donors: ad.AnnData) -> ad.AnnData:
    expected = donors.copy()
    expected.var.loc["rs1", "a1"] += ",TT"
    expected.X[-1] = np.where(np.isnan(donors.X[-1]), np.nan, donors.X[-1] > 0)
    return expected


def test_vcf_zarr_in_memory(donors: ad.AnnData) -> None:
    pytest.importorskip("xarray")
    dataset = with_three(donors)
    assert_same(open_genotypes(dataset), expected_of_vcf(donors))
    masked = dataset.assign(call_genotype=dataset["call_genotype"].astype(float).where(dataset["call_genotype"] != -1))
    assert_same(open_genotypes(masked), expected_of_vcf(donors))
    nameless = open_genotypes(dataset.drop_vars("variant_id")).variants
    row = donors.var.iloc[0]
    assert nameless is not None and nameless[0] == f"1:{row['pos']}:{row['a0']}:{row['a1']},TT"
    bare = open_genotypes(dataset.drop_vars(["variant_id", "variant_allele", "variant_position"]))
    assert bare.variants is None and bare.a1 is None and bare.positions is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["g.vcz", "g.vcf.zarr", "g.zarr"])
@pytest.mark.parametrize("version", [2, 3])
def test_stores_of_vcf_zarr(donors: ad.AnnData, name: str, version: int, tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    with_three(donors).to_zarr(tmp_path / name, zarr_format=version, consolidated=version == 2)
    assert_same(open_genotypes(tmp_path / name), expected_of_vcf(donors))
    assert_same(open_genotypes(str(tmp_path / name)), expected_of_vcf(donors))


def test_stores_of_vcf_zarr_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.vcz").mkdir()
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    with pytest.raises(DataError, match=r"empty.vcz is read by the package xarray, .* 'donorwise\[genetics\]'"):
        open_genotypes(tmp_path / "empty.vcz")
    monkeypatch.undo()
    pytest.importorskip("xarray")
    with pytest.raises(DataError, match=r"There is no folder .*nowhere.vcz"):
        open_genotypes(tmp_path / "nowhere.vcz")
    with pytest.raises(DonorwiseError, match=r"empty.vcz cannot be read|needs `sample_id`"):
        open_genotypes(tmp_path / "empty.vcz")
