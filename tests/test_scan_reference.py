"""Scans against stored tests of 200 variants (tests/reference, a13) and against GEMMA on its own example."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._scan_data import null_of

import donorwise as dw
from donorwise._core.models.lmm.fit import fit_responses
from donorwise.errors import DonorwiseError

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")  # of the kernel: tested elsewhere

ROOT = Path(__file__).parent / "reference" / "a13_one_kernel_scan"
FORMULA = "~ age + sex + (1 | gr(donor, cov=K))"


class Case(NamedTuple):
    """The case, and what is expected of each response (variants,) by name."""

    tolerance: dict[str, float]
    expected: dict[str, dict[str, np.ndarray]]
    null: dict[str, dict[str, Any]]
    obs: pd.DataFrame
    Y: pd.DataFrame
    K: pd.DataFrame
    genotypes: pd.DataFrame

    def scan(self, **options: Any) -> pd.DataFrame:
        """All tests through the public function."""
        found = dw.scan_variants(
            self.Y, self.obs, self.genotypes, FORMULA, kernels={"K": self.K}, maf=0, missing=1, **options
        )
        assert found.tests is not None
        return found.tests


@cache
def case() -> Case:
    spec = json.loads((ROOT / "spec.json").read_text())
    responses = json.loads((ROOT / "expected.json").read_text())["responses"]
    obs, Y, variants = (pd.read_csv(ROOT / f"{name}.csv") for name in ("obs", "Y", "variants"))
    for column, levels in spec["categories"].items():
        obs[column] = pd.Categorical(obs[column], categories=levels)
    K = pd.read_csv(ROOT / "K.csv")
    expected = {
        name: {key: np.array(values, dtype=float) for key, values in own["tests"].items()}
        for name, own in responses.items()
    }
    null = {name: own["null"] for name, own in responses.items()}
    genotypes = variants.set_axis(obs["donor"].astype(str), axis=0)
    return Case(spec["tolerance"], expected, null, obs, Y, K.set_axis(K.columns, axis=0), genotypes)


def by_response(tests: pd.DataFrame) -> Iterator[tuple[dict[str, np.ndarray], pd.DataFrame]]:
    """Expected and found tests of each response, variants in the order of the file."""
    own = case()
    for name, expected in own.expected.items():
        found = tests[tests["gene"] == name].set_index("variant").loc[list(own.genotypes.columns)]
        assert (found["status"] == "ok").all()
        yield expected, found


def agree(found: pd.DataFrame, beta: np.ndarray, se: np.ndarray, p: np.ndarray) -> None:
    tol = case().tolerance
    np.testing.assert_array_less(np.abs(found["beta"] - beta) / se, tol["beta_in_se_units"])
    np.testing.assert_allclose(found["se"], se, rtol=tol["se_rel"])
    np.testing.assert_allclose(found["p_value"], p, rtol=tol["p_rel"])
    np.testing.assert_allclose(found["neg_log10_p"], -np.log10(p), rtol=tol["p_rel"])


def test_at_the_variances_of_the_null_model() -> None:
    for expected, found in by_response(case().scan(refit="none")):
        agree(found, expected["beta_p3d"], expected["se_emmax"], expected["p_emmax"])
        np.testing.assert_allclose(found["statistic"] ** 2, expected["F_emmax"], rtol=2e-6)


def test_with_variances_estimated_again() -> None:
    for expected, found in by_response(case().scan(refit="all")):
        agree(found, expected["beta"], expected["se"], expected["p_wald"])
        np.testing.assert_allclose(found["statistic"] ** 2, expected["F_wald"], rtol=2e-6)
        assert (found["df"] == 146).all()


def test_those_under_the_screen_are_exact() -> None:
    for expected, found in by_response(case().scan(refit="screen", screen=0.2)):
        again = expected["p_emmax"] <= 0.2
        agree(found[again], *(expected[name][again] for name in ("beta", "se", "p_wald")))
        agree(found[~again], *(expected[name][~again] for name in ("beta_p3d", "se_emmax", "p_emmax")))


def test_likelihood_ratio() -> None:
    """Chi-squared on one degree of freedom, as its signed root; standard errors are those of fits by maximum likelihood."""
    own = case()
    some = own.genotypes.columns[0]
    x = own.genotypes[some].to_numpy()
    direct = dw.fit_lmm(own.Y, own.obs.assign(x=x), FORMULA.replace("age", "age + x"), kernels={"K": own.K}, reml=False)
    at = list(direct.fixed_names).index("x")
    for g, (expected, found) in enumerate(by_response(own.scan(refit="all", test="lrt"))):
        np.testing.assert_allclose(
            found["statistic"] ** 2, expected["lrt"], rtol=1e-6, atol=2 * own.tolerance["logLik_abs"]
        )
        np.testing.assert_allclose(found["p_value"], expected["p_lrt"], rtol=1e-6, atol=1e-8)
        assert (np.sign(found["statistic"]) == np.sign(found["beta"])).all() and np.isinf(found["df"]).all()
        np.testing.assert_allclose(found.loc[some, "beta"], direct.beta[g, at], rtol=1e-7)
        np.testing.assert_allclose(found.loc[some, "se"], np.sqrt(direct.models[0].vcov_beta[g, at, at]), rtol=1e-7)


def test_the_lead_has_the_standard_error_of_its_test() -> None:
    own = case()
    found = dw.scan_variants(own.Y, own.obs, own.genotypes, FORMULA, kernels={"K": own.K}, refit="all", test="lrt")
    assert found.tests is not None and found.params["test"] == "lrt"
    pairs = found.tests.astype({"gene": str, "variant": str}).set_index(["gene", "variant"])
    for row in found.results.itertuples():
        lead = pairs.loc[(row.gene, row.variant)]
        assert lead["p_value"] == pairs.loc[row.gene, "p_value"].min()
        for name in ("beta", "se", "statistic", "p_value", "df"):
            assert getattr(row, name) == lead[name], name


def test_what_the_likelihood_ratio_cannot_do() -> None:
    with pytest.raises(DonorwiseError, match=r"refit='screen' does not fit all .* give refit='all'"):
        case().scan(test="lrt")
    with pytest.raises(DonorwiseError, match=r"that of the variant itself: for interaction= take test='wald'"):
        case().scan(test="lrt", refit="all", interaction="age")
    with pytest.raises(DonorwiseError, match="test='score'"):
        case().scan(test="score")


@pytest.mark.parametrize("pointwise", [False, True])
def test_models(pointwise: bool) -> None:
    """The same without tables: null model, ratios of both kinds of fit, and log-likelihoods; by either way to weigh variants."""
    own = case()
    null, x = null_of(own.Y, own.obs, FORMULA, own.genotypes, kernels={"K": own.K}, donor="donor", pointwise=pointwise)
    block, (V, G) = null.block(x), (len(x), null.R.size)
    scale = float(null.equations.terms[0].scale[0]) ** 2
    v, g = np.repeat(np.arange(V), G), np.tile(np.arange(G), V)
    tests, reml, ml = (
        null.score(block, np.arange(G)),
        null.refitted(block, v, g),
        null.refitted(block, v, g, reml=False),
    )
    likelihood = fit_responses(null.equations, null.response, reml=False).loglik
    for at, (name, expected) in enumerate(own.expected.items()):
        tol = own.tolerance
        np.testing.assert_allclose(null.gamma[at, 0] * scale, own.null[name]["lambda"], rtol=tol["lambda_rel"])
        np.testing.assert_allclose(tests.statistic[:, at] ** 2, expected["F_emmax"], rtol=2e-6)
        np.testing.assert_allclose(
            reml.gamma[g == at, 0] * scale, expected["lambda_reml"], rtol=tol["lambda_rel"], atol=1e-12
        )
        np.testing.assert_allclose(
            ml.gamma[g == at, 0] * scale, expected["lambda_ml"], rtol=tol["lambda_rel"], atol=1e-12
        )
        np.testing.assert_allclose(reml.se[g == at, 0], expected["se"], rtol=tol["se_rel"])
        np.testing.assert_allclose(ml.loglik[g == at], expected["logLik_ML"], rtol=0, atol=tol["logLik_abs"])
        np.testing.assert_allclose(
            2 * (ml.loglik[g == at] - likelihood[at]), expected["lrt"], atol=2 * tol["logLik_abs"]
        )
        if pointwise:
            np.testing.assert_allclose(reml.loglik[g == at], expected["logLik_REML"], rtol=0, atol=tol["logLik_abs"])
        p = 2 * stats.t.sf(np.abs(reml.estimate[g == at, 0] / reml.se[g == at, 0]), null.nu)
        np.testing.assert_allclose(p, expected["p_wald"], rtol=tol["p_rel"])


# ---------------------------------------------------------------- GEMMA

MICE = next(iter(Path("/usr/share/doc").glob("gemma*/example*/mouse_hs1940.bed.gz")), None)
EVERY = 8  # variant is tested by GEMMA


class Mice(NamedTuple):
    """GEMMA's example: what it says of every eighth variant, and what this package says of all, and of those by both tests."""

    theirs: pd.DataFrame
    n_analysed: int
    found: dw.ScanResult
    wald: dw.ScanResult
    lrt: dw.ScanResult


@pytest.fixture(scope="module")
def mice(tmp_path_factory: pytest.TempPathFactory) -> Mice:
    """A quarter of the mice have no phenotype; of the variants that GEMMA tests some genotypes are taken away."""
    bed_reader = pytest.importorskip("bed_reader")
    if MICE is None or shutil.which("gemma") is None:
        pytest.skip("needs gemma and its example")
    folder = tmp_path_factory.mktemp("mice")
    for ending in ("bed", "bim", "fam"):
        packed = MICE.with_suffix("").with_suffix(f".{ending}.gz")
        (folder / f"all.{ending}").write_bytes(gzip.decompress(packed.read_bytes()))
    with bed_reader.open_bed(folder / "all.bed") as whole:
        values = whole.read(np.s_[:, ::EVERY])
    values[np.random.default_rng(0).random(values.shape) < 0.02] = np.nan
    bed_reader.to_bed(folder / "some.bed", values)
    bim = pd.read_csv(folder / "all.bim", sep=r"\s+", header=None)
    bim.iloc[::EVERY].to_csv(folder / "some.bim", sep="\t", header=False, index=False)
    shutil.copy(folder / "all.fam", folder / "some.fam")
    for arguments in ("-bfile all -gk 1 -o k", "-bfile some -k output/k.cXX.txt -lmm 4 -o lmm"):
        subprocess.run(["gemma", *arguments.split()], cwd=folder, check=True, capture_output=True)
    log = (folder / "output" / "k.log.txt").read_text()
    analysed = int(next(line for line in log.splitlines() if "number of analyzed SNPs" in line).split("=")[1])
    theirs = pd.read_csv(folder / "output" / "lmm.assoc.txt", sep="\t", dtype={"chr": str}).set_index("rs")
    exact = (_scanned(folder, "some", seen=True, refit="all", test=test) for test in ("wald", "lrt"))
    return Mice(theirs, analysed, _scanned(folder, "all", refit="none"), *exact)


def _scanned(folder: Path, name: str, *, seen: bool = False, **options: Any) -> dw.ScanResult:
    """All mice, or those with a phenotype."""
    fam = pd.read_csv(folder / "all.fam", sep=r"\s+", header=None)
    K = np.loadtxt(folder / "output" / "k.cXX.txt")
    own = fam[5].notna().to_numpy()
    part = K[np.ix_(own, own)] - K[np.ix_(own, own)].mean(axis=0)
    part -= part.mean(axis=1)[:, None]  # as GEMMA does, which changes fits by maximum likelihood
    K = np.eye(len(K))
    K[np.ix_(own, own)] = 0.5 * (part + part.T)
    kept = own if seen else np.ones(len(own), dtype=bool)
    names = fam[1].astype(str).to_numpy()[kept]
    kernel = pd.DataFrame(K[np.ix_(kept, kept)], index=names, columns=names)
    return dw.scan_variants(
        fam[5].to_numpy()[kept], pd.DataFrame({"mouse": names}), folder / f"{name}.bed", "~ 1 + (1 | gr(mouse, cov=K))",
        kernels={"K": kernel}, **options,
    )  # fmt: skip


def _interior(mice: Mice, found: dw.ScanResult) -> tuple[pd.DataFrame, pd.DataFrame]:
    assert found.tests is not None
    theirs = mice.theirs[mice.theirs["l_remle"].between(1e-4, 1e4)]
    return theirs, found.tests.astype({"variant": str}).set_index("variant").loc[theirs.index]


def test_gemma_analyses_the_same_variants(mice: Mice) -> None:
    assert mice.n_analysed == 10_768 == mice.found.params["n_tests"] == len(mice.found.tests)
    assert set(mice.lrt.tests["variant"].astype(str)) == set(mice.theirs.index)
    assert mice.found.results["n_donors"].tolist() == [1410]


def test_gemma_says_the_same_of_variants(mice: Mice) -> None:
    theirs, ours = _interior(mice, mice.wald)
    for name, own in (("allele1", "a1"), ("allele0", "a0"), ("chr", "chrom")):
        assert (ours[own].astype(str) == theirs[name].astype(str)).all()
    assert (ours["pos"] == theirs["ps"].replace(-9, -1)).all() and (1410 - ours["n"] == theirs["n_miss"]).all()
    assert theirs["n_miss"].max() > 0
    np.testing.assert_allclose(ours["af"], theirs["af"], atol=5.01e-4)  # three digits


def test_wald_test_of_gemma(mice: Mice) -> None:
    theirs, ours = _interior(mice, mice.wald)
    assert len(theirs) > 1300
    np.testing.assert_array_less(np.abs(ours["beta"] - theirs["beta"]) / theirs["se"], 1e-4)
    np.testing.assert_allclose(ours["se"], theirs["se"], rtol=1e-4)
    np.testing.assert_allclose(ours["p_value"], theirs["p_wald"], rtol=1e-3)


def test_likelihood_ratio_of_gemma(mice: Mice) -> None:
    """It works with 1410 rows and chi-squared on one degree of freedom."""
    theirs, ours = _interior(mice, mice.lrt)
    np.testing.assert_allclose(ours["p_value"], theirs["p_lrt"], rtol=1e-3)
