"""Stored fits with known covariances (tests/reference, a13 to a15) to the tolerance in their spec.json, and a published one."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._agreement import Number, worst

import donorwise as dw

pytestmark = pytest.mark.filterwarnings(
    "ignore::donorwise.errors.DonorwiseWarning"
)  # of these kernels: tested elsewhere

ROOT = Path(__file__).parent / "reference"
FORMULAS = {
    "a13_one_kernel_scan": "~ age + sex + (1 | gr(donor, cov=K))",
    "a14_two_kernels": "~ age + dose + (1 | gr(donor, cov=K_G)) + (1 | gr(donor, cov=K_M))",
    "a15_kernel_and_donor": "~ snp + celltype + mito + (1 | gr(donor, cov=K_G)) + (1 | donor)",
}
CASES = sorted(FORMULAS)
# Of a13, which gives a tolerance for its scan and not for all numbers of its null model: those of a14 and a15, or better.
A13 = {"varcomp_rel": 1e-6, "coef_in_se_units": 1e-7, "se_rel": 1e-7, "logLik_abs": 1e-8, "df_rel": 1e-6}


@dataclass(frozen=True)
class Case:
    """A folder of tests/reference with the fits of this package."""

    formula: str
    tolerance: dict[str, float]
    expected: dict[str, dict[str, Any]]
    obs: pd.DataFrame
    Y: pd.DataFrame
    kernels: dict[str, pd.DataFrame]
    reml: dw.LMMFit
    ml: dw.LMMFit

    def ours(self, name: str) -> str:
        """Our name of one of R's coefficients."""
        own = {c.replace("Intercept", "(Intercept)").replace("[T.", "").rstrip("]"): c for c in self.reml.fixed_names}
        return own[name]

    def without(self, coefficient: str) -> dw.LMMFit:
        """By maximum likelihood without a column of X (each is a variable of its own)."""
        variable = self.ours(coefficient).split("[")[0]
        return self.fit(self.formula.replace(f"{variable} + ", "", 1), reml=False)

    def fit(self, formula: str, *, reml: bool = True) -> dw.LMMFit:
        return dw.fit_lmm(self.Y, self.obs, formula, kernels=self.kernels, reml=reml)


@cache
def load(name: str) -> Case:
    folder = ROOT / name
    spec = json.loads((folder / "spec.json").read_text())
    expected = json.loads((folder / "expected.json").read_text())["responses"]
    obs, Y = (pd.read_csv(folder / f"{table}.csv") for table in ("obs", "Y"))
    for column, levels in spec["categories"].items():
        obs[column] = pd.Categorical(obs[column], categories=levels)
    kernels = {k: pd.read_csv(folder / own["file"]) for k, own in spec["kernels"].items()}
    kernels = {k: K.set_axis(K.columns, axis=0) for k, K in kernels.items()}
    reml, ml = (dw.fit_lmm(Y, obs, FORMULAS[name], kernels=kernels, reml=reml) for reml in (True, False))
    tolerance = A13 if name.startswith("a13") else spec["tolerance"]
    nulls = {k: v.get("null", v) for k, v in expected.items()}
    return Case(FORMULAS[name], tolerance, nulls, obs, Y, kernels, reml, ml)


def variances(case: Case, *, reml: bool) -> Iterator[Number]:
    table = (case.reml if reml else case.ml).varcomp().set_index(["variable", "term"])["variance"]
    for name, response in case.expected.items():
        block = response if reml else response["ml"]
        for component, value in block["varcomp"].items():
            own = table[name][_term(case, component)]
            yield f"{name} {component}", own, value, case.tolerance["varcomp_rel"] * value


def _term(case: Case, component: str) -> str:
    return f"gr(donor, cov={component})" if component in case.kernels else component


def coefficients(case: Case, *, reml: bool) -> Iterator[Number]:
    fit = case.reml if reml else case.ml
    for g, (name, response) in enumerate(case.expected.items()):
        for coefficient, value in (response if reml else response["ml"])["coef"].items():
            own, se = fit.beta[g, fit.fixed_names.index(case.ours(coefficient))], response["se"][coefficient]
            yield f"{name} {coefficient}", own, value, case.tolerance["coef_in_se_units"] * se


def covariances(case: Case) -> Iterator[Number]:
    for g, (name, response) in enumerate(case.expected.items()):
        vcov, tol = np.array(response["vcov"]), case.tolerance["se_rel"]
        se = np.sqrt(np.diag(vcov))
        for i, j in np.ndindex(vcov.shape):
            yield f"{name} [{i}, {j}]", case.reml.vcov_beta[g, i, j], vcov[i, j], 2 * tol * se[i] * se[j]
            if i == j:
                yield f"{name} se {i}", np.sqrt(case.reml.vcov_beta[g, i, i]), se[i], tol * se[i]


def log_likelihoods(case: Case) -> Iterator[Number]:
    for g, (name, response) in enumerate(case.expected.items()):
        tol = case.tolerance["logLik_abs"]
        yield f"{name} REML", case.reml.loglik[g], response["logLik_REML"], tol
        yield f"{name} ML", case.ml.loglik[g], response["logLik_ML"], tol


def t_tests(case: Case, *, ddf: str) -> Iterator[Number]:
    tol, L = case.tolerance, np.eye(len(case.reml.fixed_names))
    table = case.reml.test(L, ddf).set_index("variable")
    for name, response in case.expected.items():
        for coefficient, row in response[ddf.replace("-", "_")].items():
            own = table.loc[name].iloc[case.reml.fixed_names.index(case.ours(coefficient))]
            label, off = f"{name} {coefficient}", tol["coef_in_se_units"] + tol["se_rel"] * abs(row["t"])
            yield f"{label} estimate", own["estimate"], row["estimate"], tol["coef_in_se_units"] * row["se"]
            yield f"{label} se", own["se"], row["se"], tol["se_rel"] * row["se"]
            yield f"{label} df", own["df"], row["df"], tol["df_rel"] * row["df"]
            yield f"{label} t", own["statistic"], row["t"], off
            ends = [
                stats.t.sf(abs(row["t"]) + s * off, row["df"] * (1 + d * tol["df_rel"]))
                for s in (-1, 1)
                for d in (-1, 1)
            ]
            yield f"{label} p", own["p_value"], row["p"], 2 * np.ptp(ends)


def joint_tests(case: Case, *, ddf: str) -> Iterator[Number]:
    """Of one column they are the squares of its t."""
    tol = case.tolerance
    for term, (column,) in case.reml.design.terms.items():
        table = case.reml.joint_test(term, ddf).set_index("variable")
        for name, response in case.expected.items():
            (row,) = (r for c, r in response[ddf.replace("-", "_")].items() if case.ours(c) == _name(case, column))
            own, off = table.loc[name], 2 * abs(row["t"]) * (tol["coef_in_se_units"] + tol["se_rel"] * abs(row["t"]))
            yield f"{name} {term} F", own["statistic"], row["t"] ** 2, off + 1e-12
            yield f"{name} {term} df", own["den_df"], row["df"], tol["df_rel"] * row["df"]


def _name(case: Case, column: int) -> str:
    return case.reml.fixed_names[column]


def likelihood_ratios(case: Case) -> Iterator[Number]:
    tol = 4 * case.tolerance["logLik_abs"]
    for coefficient in next(iter(case.expected.values()))["lrt"]:
        table = case.ml.lrt(case.without(coefficient)).set_index("variable")
        for name, response in case.expected.items():
            own, row = table.loc[name], response["lrt"][coefficient]
            ends = stats.chi2.sf([max(row["chisq"] - tol, 0), row["chisq"] + tol], row["df"])
            yield f"{name} {coefficient} chisq", own["statistic"], row["chisq"], tol
            yield f"{name} {coefficient} p", own["p_value"], row["p"], float(abs(np.diff(ends)[0]))


def predicted_effects(case: Case) -> Iterator[Number]:
    """In units of the spread of the effects, as coefficients are in units of their standard errors."""
    for component in next(iter(case.expected.values()))["blup"]:
        table = case.reml.ranef(_term(case, component)).set_index(["variable", "level"])["value"]
        levels = case.obs["donor"].cat.categories
        for name, response in case.expected.items():
            spread = np.sqrt(response["varcomp"][component])
            for level, value in zip(levels, response["blup"][component], strict=True):
                yield f"{name} {component} {level}", table[name, level], value, case.tolerance["varcomp_rel"] * spread


QUANTITIES = {
    "varcomp": lambda case: variances(case, reml=True),
    "ml_varcomp": lambda case: variances(case, reml=False),
    "coef": lambda case: coefficients(case, reml=True),
    "ml_coef": lambda case: coefficients(case, reml=False),
    "vcov": covariances,
    "logLik": log_likelihoods,
    "satterthwaite": lambda case: t_tests(case, ddf="satterthwaite"),
    "kenward_roger": lambda case: t_tests(case, ddf="kenward-roger"),
    "joint_satterthwaite": lambda case: joint_tests(case, ddf="satterthwaite"),
    "joint_kenward_roger": lambda case: joint_tests(case, ddf="kenward-roger"),
    "lrt": likelihood_ratios,
    "blup": predicted_effects,
}


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("case", CASES)
def test_agrees(case: str, quantity: str) -> None:
    numbers = worst(QUANTITIES[quantity](load(case)))
    bad = [text for ratio, text in numbers if not ratio <= 1]
    assert numbers and not bad, f"{len(bad)} of {len(numbers)} numbers of {quantity} in {case}:\n" + "\n".join(bad[:10])


@pytest.mark.parametrize("name", CASES)
def test_status(name: str) -> None:
    case = load(name)
    assert [e["status"] for e in case.expected.values()] == ["ok"] * len(case.expected)
    singular = {k: "boundary" if e["singular"] else "ok" for k, e in case.expected.items()}
    assert dict(zip(case.reml.variables, case.reml.status, strict=True)) == singular


@pytest.mark.parametrize("response", ["y_h60", "y_h25", "y_h0"])
def test_variants_one_at_a_time(response: str) -> None:
    """Every 20th variant as a column of X, its variance ratio estimated anew."""
    case, folder = load("a13_one_kernel_scan"), ROOT / "a13_one_kernel_scan"
    variants, spec = pd.read_csv(folder / "variants.csv"), json.loads((folder / "spec.json").read_text())
    own = json.loads((folder / "expected.json").read_text())["responses"][response]
    formula = "~ age + sex + x + (1 | gr(donor, cov=K))"
    for i in range(0, len(own["variant"]), 20):
        name, expected = own["variant"][i], {k: v[i] for k, v in own["tests"].items()}
        obs = case.obs.assign(x=variants[name].to_numpy())
        fits = [dw.fit_lmm(case.Y[[response]], obs, formula, kernels=case.kernels, reml=reml) for reml in (True, False)]
        _check_variant(fits[0], fits[1], expected, spec["tolerance"])


def _check_variant(reml: dw.LMMFit, ml: dw.LMMFit, expected: dict[str, float], tol: dict[str, float]) -> None:
    def ratio(fit: dw.LMMFit) -> float:
        variances = fit.varcomp()["variance"].to_numpy()
        return float(variances[0] / variances[1])

    se = np.sqrt(reml.vcov_beta[0, -1, -1])
    assert abs(reml.beta[0, -1] - expected["beta"]) <= tol["beta_in_se_units"] * se
    np.testing.assert_allclose(se, expected["se"], rtol=tol["se_rel"])
    np.testing.assert_allclose(ratio(reml), expected["lambda_reml"], rtol=tol["lambda_rel"])
    np.testing.assert_allclose(ratio(ml), expected["lambda_ml"], rtol=tol["lambda_rel"])
    np.testing.assert_allclose(reml.loglik[0], expected["logLik_REML"], rtol=0, atol=tol["logLik_abs"])
    np.testing.assert_allclose(ml.loglik[0], expected["logLik_ML"], rtol=0, atol=tol["logLik_abs"])


EXAMPLE = next(iter(Path("/usr/share/doc").glob("gemma*/example*/mouse_hs1940.bed.gz")), None)


@pytest.mark.skipif(EXAMPLE is None or shutil.which("gemma") is None, reason="GEMMA and its example are not here")
def test_null_model_of_gemma(tmp_path: Path) -> None:
    """Heterogeneous stock mice, first phenotype: what GEMMA 0.98 logs of its null model, given its relatedness matrix."""
    assert EXAMPLE is not None
    for ending in ("bed", "bim", "fam"):
        (tmp_path / f"mice.{ending}").write_bytes(
            gzip.decompress(EXAMPLE.with_suffix("").with_suffix(f".{ending}.gz").read_bytes())
        )
    command = ["gemma", "-bfile", "mice", "-gk", "1", "-o", "k"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    fam = pd.read_csv(tmp_path / "mice.fam", sep=r"\s+", header=None)
    seen = np.flatnonzero(fam[5].notna())
    K = np.loadtxt(tmp_path / "output" / "k.cXX.txt")[np.ix_(seen, seen)]
    mice = fam[1].astype(str).to_numpy()[seen]
    y, kernel = fam[5].to_numpy()[seen], pd.DataFrame(0.5 * (K + K.T), index=mice, columns=mice)
    fit = dw.fit_lmm(y, pd.DataFrame({"mouse": mice}), "~ 1 + (1 | gr(mouse, cov=K))", kernels={"K": kernel})
    genetic, rest = fit.varcomp()["variance"]
    np.testing.assert_allclose([genetic, rest], [1.47914, 0.340552], rtol=5e-6)
    np.testing.assert_allclose(fit.loglik[0] + 0.5 * np.log(len(y)), -1584.07, rtol=0, atol=0.006)  # without log|X'X|
    centred = K - K.mean(axis=0) - K.mean(axis=1)[:, None] + K.mean()  # as GEMMA does before it takes the trace
    share = genetic * np.trace(centred) / len(K)
    np.testing.assert_allclose(share / (share + rest), 0.609672, rtol=0, atol=1e-6)
