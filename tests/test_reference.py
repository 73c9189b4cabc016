"""Stored fits of lme4, lmerTest and pbkrtest (tests/reference): every number, to the tolerance in its spec.json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from formulaic import model_matrix
from scipy import stats
from tests._agreement import Number, worst

import donorwise as dw

ROOT = Path(__file__).parent / "reference"
SPECS = {p.parent.name: json.loads(p.read_text()) for p in ROOT.glob("*/spec.json")}
# tests/test_kernels_reference.py has those with kernels, tests/test_peptides_reference.py those with features.
CASES = sorted(
    k for k, spec in SPECS.items() if spec["family"] == "gaussian" and not {"kernels", "features"} & set(spec)
)

# Where the spec has no tolerance of its own for a number, it follows from those that it has:
# - a variance is relative to itself plus a thousandth of the residual one, as the reference was measured;
# - t and F inherit the errors of the coefficient and its standard error, p those of t and the df;
# - a likelihood ratio has four times the error of a log-likelihood.
VARIANCE_FLOOR = 1e-3

# One number: a label for the message, what we have, what is expected, how far apart they may be.


@dataclass(frozen=True)
class Case:
    """A folder of tests/reference with the fits of this package."""

    spec: dict[str, Any]
    expected: dict[str, Any]
    obs: pd.DataFrame
    Y: pd.DataFrame
    reml: dw.LMMFit
    ml: dw.LMMFit

    @property
    def tolerance(self) -> dict[str, float]:
        return self.spec["tolerance"]

    @property
    def fitted(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Position, name and expectation of the responses that have a fit."""
        return [(g, n, self.expected[n]) for g, n in enumerate(self.Y.columns) if self.expected[n]["status"] == "ok"]

    @property
    def names(self) -> dict[str, str]:
        """Our name of every coefficient by R's."""
        return {_in_r(name): name for name in self.reml.fixed_names}

    def has_df(self, response: dict[str, Any], ddf: str) -> bool:
        """Not Satterthwaite's where a correlation is perfect: they depend on the parametrisation there."""
        correlated = any(row["var2"] for row in response["varcomp"])
        return ddf == "kenward-roger" or not (response["singular"] and correlated)


@cache
def load(name: str) -> Case:
    folder = ROOT / name
    spec = json.loads((folder / "spec.json").read_text())
    expected = json.loads((folder / "expected.json").read_text(), object_hook=_numbers)["responses"]
    obs = pd.read_csv(folder / "obs.csv", dtype=dict.fromkeys(spec["categories"], str))
    for column, levels in spec["categories"].items():
        obs[column] = pd.Categorical(obs[column], categories=levels)
    Y = pd.read_csv(folder / "Y.csv")
    reml, ml = (dw.fit_lmm(Y, obs, spec["formula"], weights=spec["weights"], reml=reml) for reml in (True, False))
    return Case(spec, expected, obs, Y, reml, ml)


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    special = {"NaN": np.nan, "Inf": np.inf, "-Inf": -np.inf}
    return {k: special.get(v, v) if isinstance(v, str) else v for k, v in values.items()}


def _in_r(name: str) -> str:
    return "(Intercept)" if name == "Intercept" else re.sub(r"\[T\.([^]]*)\]", r"\1", name)


# ---------------------------------------------------------------- estimates


def coefficients(case: Case, *, reml: bool = True) -> Iterator[Number]:
    fit = case.reml if reml else case.ml
    for g, name, response in case.fitted:
        block = response if reml else response["ml"]
        for j, own in enumerate(fit.fixed_names):
            value, se = block["coef"][_in_r(own)], block["se"][_in_r(own)]
            yield f"{name} {own}", fit.beta[g, j], value, case.tolerance["coef_in_se_units"] * se


def standard_errors(case: Case, *, reml: bool = True) -> Iterator[Number]:
    fit = case.reml if reml else case.ml
    for g, name, response in case.fitted:
        for j, own in enumerate(fit.fixed_names):
            se = (response if reml else response["ml"])["se"][_in_r(own)]
            yield f"{name} {own}", np.sqrt(fit.vcov_beta[g, j, j]), se, case.tolerance["se_rel"] * se


def covariances(case: Case, *, reml: bool = True) -> Iterator[Number]:
    fit = case.reml if reml else case.ml
    for g, name, response in case.fitted:
        vcov = np.array((response if reml else response["ml"])["vcov"])
        se = np.sqrt(np.diag(vcov))
        for i, j in np.ndindex(vcov.shape):
            bound = 2 * case.tolerance["se_rel"] * se[i] * se[j]
            yield f"{name} [{i}, {j}]", fit.vcov_beta[g, i, j], vcov[i, j], bound


def residual_variance(case: Case, *, reml: bool = True) -> Iterator[Number]:
    fit = case.reml if reml else case.ml
    for g, name, response in case.fitted:
        value = (response if reml else response["ml"])["sigma2"]
        yield name, fit.sigma2[g], value, case.tolerance["varcomp_rel"] * value


def variance_components(case: Case, *, reml: bool = True) -> Iterator[Number]:
    """Variances and covariances, and under "sd" the standard deviations and correlations."""
    table = (case.reml if reml else case.ml).varcomp().set_index(["variable", "term", "column1", "column2"])
    for _, name, response in case.fitted:
        block = response if reml else response["ml"]
        sd = {(row["group"], row["var1"]): row["sdcor"] for row in block["varcomp"] if not row["var2"]}
        for row in block["varcomp"]:
            bound = _variance_bound(case, row["vcov"], block["sigma2"])
            columns = [c for c in (row["var2"], row["var1"]) if c]  # a covariance has the later column first, as theta
            key = (_group(row["group"]), *(columns + ["", ""])[:2])
            own = table.loc[(name, *key)]
            label = f"{name} {' '.join(key)}".rstrip()
            yield label, own["variance"], row["vcov"], bound
            if row["var2"]:
                scale = sd[row["group"], row["var1"]] * sd[row["group"], row["var2"]]
                yield f"{label} (correlation)", own["sd"], row["sdcor"], 2 * bound / scale
            else:
                yield f"{label} (sd)", own["sd"], row["sdcor"], _sd_bound(bound, row["sdcor"])


def _variance_bound(case: Case, variance: float, sigma2: float) -> float:
    return case.tolerance["varcomp_rel"] * (abs(variance) + VARIANCE_FLOOR * sigma2)


def _sd_bound(bound: float, sd: float) -> float:
    """How far a standard deviation may be when its square may be off by `bound`."""
    return np.sqrt(sd**2 + bound) - sd


def _group(name: str) -> str:
    """Our name of a grouping factor: lme4 numbers terms of the same factor and writes the inner factor first."""
    return {"cask:batch": "batch:cask"}.get(name, re.sub(r"\.\d+$", "", name))


def relative_factors(case: Case, *, reml: bool = True) -> Iterator[Number]:
    fit = case.reml if reml else case.ml
    position = {name: k for k, name in enumerate(fit.theta_names)}
    for g, name, response in case.fitted:
        theta = response["reml_theta"] if reml else response["ml"]["theta"]
        for key, value in theta.items():
            group, _, columns = key.partition(".")
            own = fit.theta[g, position[f"{_group(group)}.{columns}"]]
            yield f"{name} {key}", own, value, _sd_bound(_variance_bound(case, value**2, 1.0), abs(value))


def log_likelihood(case: Case, *, reml: bool = True) -> Iterator[Number]:
    fit, key = (case.reml, "logLik_REML") if reml else (case.ml, "logLik_ML")
    for g, name, response in case.fitted:
        yield name, fit.loglik[g], response[key], case.tolerance["logLik_abs"]


# ---------------------------------------------------------------- inference


def t_tests(case: Case, *, ddf: str) -> Iterator[Number]:
    rows = {name: {own: 1.0} for name, own in case.names.items()}
    asked = {name: {case.names[c]: w for c, w in weights.items()} for name, weights in case.spec["contrasts"].items()}
    table = case.reml.test(rows | {f"contrast {k}": v for k, v in asked.items()}, ddf).set_index(
        ["variable", "contrast"]
    )
    key = ddf.replace("-", "_")
    for _, name, response in case.fitted:
        wanted = response[key] | {f"contrast {k}": v[key] for k, v in response["contrasts"].items()}
        direct = response.get("satterthwaite_direct_df", {}) if ddf == "satterthwaite" else {}
        for contrast, row in wanted.items():
            df = direct.get(contrast, row["df"])
            yield from _t_row(case, response, f"{name} {contrast}", table.loc[(name, contrast)], row, df, ddf)


def _t_row(
    case: Case, response: dict[str, Any], label: str, own: pd.Series, row: dict[str, float], df: float, ddf: str
) -> Iterator[Number]:
    kr = ddf == "kenward-roger"
    tol_coef, tol_se = case.tolerance["coef_in_se_units"], case.tolerance["kr_se_rel" if kr else "se_rel"]
    tol_df = case.tolerance["kr_df_rel" if kr else "satterthwaite_df_rel"]
    yield f"{label} estimate", own["estimate"], row["estimate"], tol_coef * row["se"]
    yield f"{label} se", own["se"], row["se"], tol_se * row["se"]
    tol_t = tol_coef + tol_se * abs(row["t"])
    yield f"{label} t", own["statistic"], row["t"], tol_t
    if case.has_df(response, ddf):
        yield f"{label} df", own["df"], df, tol_df * df
        printed = abs(_p(row["t"], df) - row["p"])  # R's p has R's df, which may be the less exact one
        yield f"{label} p", own["p_value"], row["p"], _p_bound(abs(row["t"]), df, tol_t, tol_df) + printed


def _p(t: float, df: float) -> float:
    return float(2 * stats.t.sf(abs(t), df))


def _p_bound(t: float, df: float, tol_t: float, tol_df: float) -> float:
    corners = [_p(max(t + s * tol_t, 0), df * (1 + u * tol_df)) for s in (-1, 1) for u in (-1, 1)]
    return float(np.ptp(corners)) + 1e-12 * _p(t, df)


def f_tests(case: Case, *, ddf: str) -> Iterator[Number]:
    key, kr = ddf.replace("-", "_"), ddf == "kenward-roger"
    tol_se = case.tolerance["kr_se_rel" if kr else "se_rel"]
    tol_df = case.tolerance["kr_df_rel" if kr else "satterthwaite_df_rel"]
    for term in _terms(case):
        table = case.reml.joint_test(term, ddf).set_index("variable")
        for _, name, response in case.fitted:
            own, row, label = table.loc[name], response["joint"][term][key], f"{name} {term}"
            assert own["num_df"] == row["num_df"] == len(response["joint"][term]["coefs"])
            tol_F = row["F"] * 2 * (tol_se + case.tolerance["coef_in_se_units"] / np.sqrt(max(row["F"], 1e-300)))
            tol_F += tol_df * row["F"] if kr else 0.0  # the scaling
            yield f"{label} F", own["statistic"], row["F"], tol_F
            yield f"{label} scaling", own["scaling"], row.get("F_scaling", 1.0), tol_df
            if case.has_df(response, ddf):
                yield f"{label} df", own["den_df"], row["den_df"], tol_df * row["den_df"]
                bound = _pF_bound(row["F"], row["num_df"], row["den_df"], tol_F, tol_df)
                yield f"{label} p", own["p_value"], row["p"], bound


def _pF_bound(F: float, num: int, den: float, tol_F: float, tol_df: float) -> float:
    corners = [stats.f.sf(F + s * tol_F, num, den * (1 + u * tol_df)) for s in (-1, 1) for u in (-1, 1)]
    return float(np.ptp(corners)) + 1e-12 * float(stats.f.sf(F, num, den))


def likelihood_ratios(case: Case) -> Iterator[Number]:
    """Against the fit whose X lacks the columns of a term, which no formula says when there is an interaction."""
    tol = case.tolerance["logLik_abs"]
    for term in _terms(case):
        dropped = [case.names[c] for c in case.fitted[0][2]["joint"][term]["coefs"]]
        table = case.ml.lrt(_without(case, dropped)).set_index("variable")
        for _, name, response in case.fitted:
            own, row = table.loc[name], response["lrt"][term]
            yield f"{name} {term} logLik", own["loglik_reduced"], row["logLik_ML_reduced"], tol
            yield f"{name} {term} chisq", own["statistic"], row["chisq"], 4 * tol
            assert own["df"] == row["df"]
            bound = abs(
                np.subtract(*stats.chi2.sf([max(row["chisq"] - 4 * tol, 0), row["chisq"] + 4 * tol], row["df"]))
            )
            yield f"{name} {term} p", own["p_value"], row["p"], bound + 1e-12 * row["p"]


def _without(case: Case, dropped: list[str]) -> dw.LMMFit:
    bars = re.findall(r"\([^()]*\|[^()]*\)", case.spec["formula"])
    fixed = case.spec["formula"].split("(")[0].rstrip(" +")
    X = model_matrix(fixed, case.obs).drop(columns=["Intercept", *dropped])
    columns = {f"column_{j}": X.iloc[:, j].to_numpy(dtype=float) for j in range(X.shape[1])}
    formula = " + ".join(["~ 1", *columns, *bars])
    return dw.fit_lmm(case.Y, case.obs.assign(**columns), formula, weights=case.spec["weights"], reml=False)


def _terms(case: Case) -> list[str]:
    return list(case.fitted[0][2]["joint"])


def random_effects(case: Case) -> Iterator[Number]:
    """Conditional modes, in units of the spread of the effect, and their variances."""
    tol = case.tolerance["varcomp_rel"]
    for group in case.fitted[0][2]["ranef"]:
        table = case.reml.ranef(_group(group)).set_index(["variable", "level", "column"])
        for _, name, response in case.fitted:
            block, components = response["ranef"][group], response["varcomp"]
            spread = {r["var1"]: r["vcov"] for r in components if _group(r["group"]) == _group(group) and not r["var2"]}
            for level, values, variance in zip(block["levels"], block["values"], block["cond_var"], strict=True):
                for i, column in enumerate(block["columns"]):
                    own = table.loc[(name, _level(group, level), column)]
                    label = f"{name} {group} {level} {column}"
                    bound = _variance_bound(case, spread[column], response["sigma2"])
                    yield label, own["value"], values[i], np.sqrt(tol * bound)
                    yield f"{label} (variance)", own["cond_sd"] ** 2, variance[i][i], bound


def _level(group: str, level: str) -> str:
    return ":".join(reversed(level.split(":"))) if _group(group) != group else level


# Nothing to test jointly, or to drop, in the model of a mean.
WITHOUT_TERMS = {"joint_satterthwaite", "joint_kenward_roger", "lrt"}

QUANTITIES: dict[str, Callable[[Case], Iterator[Number]]] = {
    "coef": coefficients,
    "se": standard_errors,
    "vcov": covariances,
    "sigma2": residual_variance,
    "varcomp": variance_components,
    "theta": relative_factors,
    "logLik": log_likelihood,
    "ml_coef": lambda case: coefficients(case, reml=False),
    "ml_se": lambda case: standard_errors(case, reml=False),
    "ml_vcov": lambda case: covariances(case, reml=False),
    "ml_sigma2": lambda case: residual_variance(case, reml=False),
    "ml_varcomp": lambda case: variance_components(case, reml=False),
    "ml_theta": lambda case: relative_factors(case, reml=False),
    "ml_logLik": lambda case: log_likelihood(case, reml=False),
    "satterthwaite": lambda case: t_tests(case, ddf="satterthwaite"),
    "kenward_roger": lambda case: t_tests(case, ddf="kenward-roger"),
    "joint_satterthwaite": lambda case: f_tests(case, ddf="satterthwaite"),
    "joint_kenward_roger": lambda case: f_tests(case, ddf="kenward-roger"),
    "lrt": likelihood_ratios,
    "ranef": random_effects,
}


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("case", CASES)
def test_agrees(case: str, quantity: str) -> None:
    numbers = worst(QUANTITIES[quantity](load(case)))
    if not numbers:
        assert quantity in WITHOUT_TERMS and not _terms(load(case))
    bad = [text for ratio, text in numbers if not ratio <= 1]
    assert not bad, f"{len(bad)} of {len(numbers)} numbers of {quantity} in {case}:\n" + "\n".join(bad[:10])


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", CASES)
def test_status(name: str, reml: bool) -> None:
    case = load(name)
    wanted = {}
    for response, expected in case.expected.items():
        singular = expected["status"] == "ok" and (expected if reml else expected["ml"])["singular"]
        wanted[response] = "boundary" if singular else expected["status"]
    fit = case.reml if reml else case.ml
    assert dict(zip(fit.variables, fit.status, strict=True)) == wanted


def test_constant_responses_have_no_numbers() -> None:
    case = load("a06_single_cell")
    table = case.reml.test(None).set_index("variable").loc[case.spec["constant_responses"]]
    assert (table["status"] == "constant").all()
    assert (
        table[["estimate", "se", "statistic", "df", "p_value", "adj_p_value", "ci_low", "ci_high"]]
        .isna()
        .all(axis=None)
    )
    assert len(table) == 3 * 5
