"""Relatedness and genotypes of other programs, each where it is installed: GEMMA, PLINK 2, bed-reader, pgenlib, xarray."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._typing import FloatArray
from donorwise.errors import DataError, DonorwiseWarning

EXAMPLE = Path("/usr/share/doc/gemma/example")
MICE = "mouse_hs1940"
GEMMA, PLINK = shutil.which("gemma"), shutil.which("plink2")

needs_gemma = pytest.mark.skipif(
    GEMMA is None or not (EXAMPLE / f"{MICE}.geno.txt.gz").exists(), reason="needs gemma and its example"
)
needs_plink = pytest.mark.skipif(PLINK is None, reason="needs plink2")

WRITTEN_TO = 1e-9
"""Relative precision of GEMMA's text files, which have ten digits."""


def relate(genotypes: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        return dw.pp.relatedness(genotypes, **{"progress": False, **options})


def run(*command: object, folder: Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- GEMMA


@pytest.fixture(scope="module")
def bimbam(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FloatArray]:
    """A folder with 250 mice x 1,500 variants in GEMMA's own form, some genotypes taken away, and these genotypes."""
    folder, values = tmp_path_factory.mktemp("gemma"), []
    rng = np.random.default_rng(0)
    with gzip.open(EXAMPLE / f"{MICE}.geno.txt.gz", "rt") as lines, (folder / "geno.txt").open("w") as out:
        for _, line in zip(range(1500), lines, strict=False):
            name, *fields = (field.strip() for field in line.split(","))
            calls = [call if rng.random() > 0.02 else "NA" for call in fields[2:252]]
            out.write(", ".join([name, *fields[:2], *calls]) + "\n")
            values.append([np.nan if call == "NA" else float(call) for call in calls])
    (folder / "pheno.txt").write_text("\n".join(str(i) for i in range(250)) + "\n")
    return folder, np.array(values).T


@needs_gemma
@pytest.mark.parametrize(("number", "method", "ending"), [(1, "centered", "cXX"), (2, "standardized", "sXX")])
def test_is_what_gemma_gives(bimbam: tuple[Path, FloatArray], number: int, method: str, ending: str) -> None:
    folder, genotypes = bimbam
    run(GEMMA, "-g", "geno.txt", "-p", "pheno.txt", "-gk", number, "-o", "out", folder=folder)
    names = [f"M{i}" for i in range(250)]
    theirs = dw.pp.read_relatedness(folder / "output" / f"out.{ending}.txt", levels=names)
    K = relate(genotypes, donors=names, method=method)
    assert K.attrs["missing"] > 0.01
    np.testing.assert_allclose(K, theirs, rtol=0, atol=WRITTEN_TO * np.abs(theirs).max(axis=None))
    assert theirs.attrs["method"] == method and theirs.index.tolist() == names


@pytest.fixture(scope="module")
def mice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of all mice in PLINK's form; all have a phenotype, or GEMMA would look at some for its filters."""
    folder = tmp_path_factory.mktemp("mice")
    for ending in ("bed", "bim", "fam"):
        with gzip.open(EXAMPLE / f"{MICE}.{ending}.gz") as lines:
            (folder / f"{MICE}.{ending}").write_bytes(lines.read())
    fam = folder / f"{MICE}.fam"
    rows = [line.split()[:5] for line in fam.read_text().splitlines()]
    fam.write_text("".join("\t".join([*row, str(i)]) + "\n" for i, row in enumerate(rows)))
    return folder / MICE


@pytest.mark.slow
@needs_gemma
@pytest.mark.parametrize(("number", "method", "ending"), [(1, "centered", "cXX"), (2, "standardized", "sXX")])
def test_bed_is_read_as_gemma_reads_it(mice: Path, number: int, method: str, ending: str) -> None:
    pytest.importorskip("bed_reader")
    run(GEMMA, "-bfile", mice, "-gk", number, "-o", MICE, folder=mice.parent)
    written = mice.parent / "output" / f"{MICE}.{ending}.txt"
    written.rename(mice.parent / written.name)
    theirs = dw.pp.read_relatedness(mice.parent / written.name)
    K = relate(mice.with_suffix(".bed"), method=method, block=1000)
    assert K.index.tolist() == theirs.index.tolist() == [r.split()[1] for r in mice.with_suffix(".fam").open()]
    np.testing.assert_allclose(K, theirs, rtol=0, atol=WRITTEN_TO * np.abs(theirs).max(axis=None))
    assert K.attrs["n_variants"] > 10_000


# ---------------------------------------------------------------- PLINK


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FloatArray]:
    """A prefix of .bed and .pgen of 23 people x 700 variants with missing genotypes, and these."""
    people = dw.datasets.simulate_relatives(4, n_unrelated=7, n_variants=700, n_chromosomes=24, missing=0.02, seed=2)
    prefix = tmp_path_factory.mktemp("plink") / "study"
    chromosomes = people.var["chrom"].astype(str).replace({"23": "X", "24": "Y"})
    with prefix.with_suffix(".vcf").open("w") as out:
        out.write("##fileformat=VCFv4.2\n")
        out.writelines(f"##contig=<ID={c}>\n" for c in dict.fromkeys(chromosomes))
        out.write(
            "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *people.obs_names])
            + "\n"
        )
        for j, (name, row) in enumerate(people.var.iterrows()):
            calls = ["./." if np.isnan(x) else ("0/0", "0/1", "1/1")[int(x)] for x in people.X[:, j]]
            first = [chromosomes.iloc[j], row["pos"], name, row["a0"], row["a1"], ".", ".", ".", "GT"]
            out.write("\t".join(map(str, [*first, *calls])) + "\n")
    people.obs["sex"].to_csv(prefix.with_suffix(".sex"), sep="\t", index_label="#IID")
    plink(prefix, "--vcf", f"{prefix}.vcf", "--double-id", "--update-sex", f"{prefix}.sex", "--make-pgen")
    plink(prefix, "--pfile", prefix, "--make-bed")
    autosomes = ~chromosomes.isin(["X", "Y"]).to_numpy()
    return prefix, people.X[:, autosomes].astype(float)


def plink(prefix: Path, *options: object) -> None:
    run(PLINK, *options, "--threads", 1, "--bad-freqs", "--out", prefix, folder=prefix.parent)


def plinks(prefix: Path, *options: object) -> None:
    plink(prefix, "--pfile", prefix, "--nonfounders", "--maf", 0.01, "--geno", 0.05, *options)


@needs_plink
@pytest.mark.parametrize(("package", "ending"), [("bed_reader", ".bed"), ("pgenlib", ".pgen")])
@pytest.mark.parametrize("block", [None, 33])
def test_files_of_plink(study: tuple[Path, FloatArray], package: str, ending: str, block: int | None) -> None:
    pytest.importorskip(package)
    prefix, genotypes = study
    K = relate(prefix.with_suffix(ending), block=block)
    np.testing.assert_allclose(K, relate(genotypes), rtol=0, atol=1e-12)
    assert K.index.tolist()[:2] == ["F1_father", "F1_mother"]
    assert K.attrs["left_out"]["not on an autosome"] == 700 - genotypes.shape[1]
    assert list(relate(str(prefix.with_suffix(ending)), loco=True)) == [str(c + 1) for c in range(22)]


@needs_plink
def test_is_what_plink_gives(study: tuple[Path, FloatArray]) -> None:
    """Text files have six digits."""
    prefix, genotypes = study
    plinks(prefix, "--make-rel", "square", "meanimpute")
    theirs = dw.pp.read_relatedness(f"{prefix}.rel")
    np.testing.assert_allclose(relate(genotypes, method="gcta"), theirs, rtol=0, atol=1e-5)
    plinks(prefix, "--make-rel", "square", "cov", "meanimpute")
    np.testing.assert_allclose(relate(genotypes), dw.pp.read_relatedness(f"{prefix}.rel"), rtol=0, atol=1e-5)


@needs_plink
@pytest.mark.parametrize(
    "options", ["", "triangle", "square", "square0", "bin", "bin4", "bin triangle", "bin4 triangle"]
)
@pytest.mark.parametrize("kind", ["rel", "king"])
def test_layouts_of_plink(study: tuple[Path, FloatArray], kind: str, options: str) -> None:
    prefix, _ = study
    plinks(prefix, f"--make-{kind}", "bin", "square")
    exact = np.fromfile(f"{prefix}.{kind}.bin").reshape(23, 23) * (2 if kind == "king" else 1)
    plinks(prefix, f"--make-{kind}", *options.split())
    K = dw.pp.read_relatedness(f"{prefix}.{kind}{'.bin' if 'bin' in options else ''}")
    np.testing.assert_allclose(K, exact, rtol=0, atol=0 if options in ("bin", "bin triangle") else 1e-5)
    assert K.index.tolist()[-1] == "U7"
    if kind == "king":
        assert K.loc["F1_mother", "F1_child1"] == pytest.approx(0.5, abs=0.15)
        assert (np.diag(K) == 1).all()


@needs_plink
@pytest.mark.parametrize("ending", [".grm.bin", "", ".grm"])
def test_layouts_of_gcta(study: tuple[Path, FloatArray], ending: str) -> None:
    prefix, genotypes = study
    plinks(prefix, "--make-grm-bin", "meanimpute")
    K = dw.pp.read_relatedness(f"{prefix}{ending}")
    own = relate(genotypes, method="gcta")
    np.testing.assert_allclose(K, own, rtol=0, atol=1e-6)
    assert K.attrs["n_variants"] == own.attrs["n_variants"]


@needs_plink
def test_list_of_pairs_of_gcta(study: tuple[Path, FloatArray], tmp_path: Path) -> None:
    prefix, genotypes = study
    plinks(prefix, "--make-grm-list", "meanimpute")
    for ending in (".grm", ".grm.id"):
        shutil.move(f"{prefix}{ending}", tmp_path / f"pairs{ending}")
    with gzip.open(tmp_path / "packed.grm.gz", "wb") as out:
        out.write((tmp_path / "pairs.grm").read_bytes())
    shutil.copy(tmp_path / "pairs.grm.id", tmp_path / "packed.grm.id")
    for name in ("pairs.grm", "packed.grm.gz"):
        K = dw.pp.read_relatedness(tmp_path / name)
        np.testing.assert_allclose(K, relate(genotypes, method="gcta"), rtol=0, atol=1e-5)


@needs_plink
def test_files_that_are_missing_or_cut_off(study: tuple[Path, FloatArray], tmp_path: Path) -> None:
    pytest.importorskip("bed_reader")
    prefix, _ = study
    for ending in (".bed", ".bim"):
        shutil.copy(prefix.with_suffix(ending), tmp_path / f"cut{ending}")
    bed = tmp_path / "cut.bed"
    with pytest.raises(DataError, match="comes with cut.fam in the same folder"):
        relate(bed)
    shutil.copy(prefix.with_suffix(".fam"), tmp_path / "cut.fam")
    bed.write_bytes(bed.read_bytes()[:-50])
    with pytest.raises(DataError, match="cut.bed cannot be read"):
        relate(bed)


def test_pgen_with_dosages(tmp_path: Path) -> None:
    pgenlib = pytest.importorskip("pgenlib")
    rng = np.random.default_rng(0)
    dosages = np.round(rng.uniform(0, 2, (60, 12)) * 2**14) / 2**14
    dosages[5, 3] = np.nan
    with pgenlib.PgenWriter(
        str(tmp_path / "d.pgen").encode(), 12, variant_ct=60, nonref_flags=False, dosage_present=True
    ) as out:
        for row in dosages:
            out.append_dosages(np.where(np.isnan(row), -9, row))
    (tmp_path / "d.pvar").write_text(
        "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n" + "".join(f"1\t{j + 1}\tv{j}\tA\tG\n" for j in range(60))
    )
    (tmp_path / "d.psam").write_text("#IID\tSEX\n" + "".join(f"D{i}\tNA\n" for i in range(12)))
    K = relate(tmp_path / "d.pgen", missing=0.2)
    np.testing.assert_allclose(K, relate(dosages.T, missing=0.2), rtol=0, atol=1e-12)
    assert K.index.tolist() == [f"D{i}" for i in range(12)]
    (tmp_path / "d.psam").write_text("#IID\tSEX\n" + "".join(f"D{i}\tNA\n" for i in range(11)))
    with pytest.raises(DataError, match="d.pgen cannot be read"):
        relate(tmp_path / "d.pgen")


@pytest.mark.parametrize(
    ("module", "package", "name"), [("bed_reader", "bed-reader", "x.bed"), ("pgenlib", "pgenlib", "x.pgen")]
)
def test_extras_are_named(
    module: str, package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=rf"package {package}, which is not installed: pip install 'donorwise\[genetics\]'"
    ):
        relate(tmp_path / name)


# ---------------------------------------------------------------- xarray


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_vcf_zarr(lazy: bool, turned: bool) -> None:
    xr = pytest.importorskip("xarray")
    if lazy:
        pytest.importorskip("dask")
    people = dw.datasets.simulate_relatives(3, n_unrelated=6, n_variants=300, n_chromosomes=3, missing=0.02)
    X, n = people.X.astype(float), people.n_obs
    alleles = np.stack([X >= 1, X >= 2], axis=2).astype(np.int8)
    alleles[np.isnan(X)] = -1
    alleles[0, 0] = [0, 2]  # a third allele
    X[0, 0] = 1
    dims = ("samples", "variants") if turned else ("variants", "samples")
    calls, dosages = (alleles, X) if turned else (alleles.transpose(1, 0, 2), X.T)
    dataset = xr.Dataset(
        {
            "call_genotype": ((*dims, "ploidy"), calls),
            "sample_id": ("samples", people.obs_names.to_numpy().astype(str)),
            "variant_contig": ("variants", people.var["chrom"].cat.codes.to_numpy()),
            "contig_id": ("contigs", np.array(["1", "2", "chrX"])),
        }
    )
    dataset = dataset.chunk({"variants": 37}) if lazy else dataset
    autosomes = (people.var["chrom"] != "3").to_numpy()
    expected = relate(X[:, autosomes], donors=people.obs_names)
    K = relate(dataset, block=50)
    pd.testing.assert_frame_equal(K, expected, rtol=0, atol=1e-12)
    assert list(relate(dataset, loco=True)) == ["1", "2"]
    dosage = dataset.assign(call_dosage=(dims, dosages))
    dosage["call_genotype"][:] = 0
    pd.testing.assert_frame_equal(relate(dosage), expected, rtol=0, atol=1e-12)
    assert len(relate(dosage.drop_vars(["variant_contig", "contig_id"]))) == n
    with pytest.raises(DataError, match="needs `sample_id`, and `call_dosage` or `call_genotype`"):
        relate(dataset.drop_vars("sample_id"))
    with pytest.raises(DataError, match="`call_genotype` has the dimensions"):
        relate(dataset.rename(ploidy="alleles"))


def test_sparse_matrix_with_missing_values() -> None:
    X = np.random.default_rng(0).integers(0, 3, (9, 200)).astype(float)
    X[2, 5] = np.nan
    np.testing.assert_allclose(relate(sparse.coo_array(X), missing=0.2), relate(X, missing=0.2), rtol=0, atol=1e-12)
