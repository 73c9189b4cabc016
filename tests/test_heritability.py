"""Proportions of variance: h2, m2 and the like."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.inference.proportions import centred_size, proportions, standard_errors
from donorwise._core.models.lmm.curvature import INFORMATION, ratio_covariance
from donorwise.errors import DataError, DesignError, DonorwiseError

ROOT = Path(__file__).parent / "reference"
CASES = [name for name in ("a13_one_kernel_scan", "a14_two_kernels", "a15_kernel_and_donor") if (ROOT / name).exists()]


@cache
def fit_case(name: str) -> tuple[dict, dict, dw.LMMFit]:
    spec = json.loads((ROOT / name / "spec.json").read_text())
    expected = json.loads((ROOT / name / "expected.json").read_text())["responses"]
    obs, Y = (pd.read_csv(ROOT / name / f"{file}.csv") for file in ("obs", "Y"))
    kernels = {k: pd.read_csv(ROOT / name / own["file"]) for k, own in spec["kernels"].items()}
    kernels = {k: K.set_axis(K.columns) for k, K in kernels.items()}
    fixed, *donor = spec["formula"].split(" + (1 | donor)")
    terms = [f"(1 | gr(donor, cov={k}))" for k in kernels] + ["(1 | donor)"] * len(donor)
    return spec, expected, dw.fit_lmm(Y, obs, " + ".join([fixed, *terms]), kernels=kernels)


@pytest.mark.skipif(not CASES, reason="no cases with kernels")
@pytest.mark.parametrize("information", [None, *INFORMATION])
@pytest.mark.parametrize("name", CASES)
def test_proportions_and_errors_of_the_references(name: str, information: str | None) -> None:
    """Whatever the scale and the information are; by default the observed one, for two variances between rays."""
    spec, expected, fit = fit_case(name)
    (model,) = fit.models
    covariance = ratio_covariance(model.equations, model.estimates, information)
    K = next(iter(spec["kernels"]))
    names = spec.get("components", [K, "Residual"])
    mean = float(np.diag(model.design.random_terms[0].kernel).mean())
    ratios = spec.get(
        "ratios", {"h2": {"numerator": [K], "scale": [1, 1]}, "h2_trace": {"numerator": [K], "scale": [mean, 1]}}
    )
    for ratio, how in ratios.items():
        weights = np.array(how["scale"][:-1]) / [t.size for t in model.equations.terms]
        numerator = np.where(np.isin(names[:-1], how["numerator"]), weights, 0.0)[None]
        value = proportions(model.estimates.gamma, numerator, weights)[:, 0]
        se = standard_errors(model.estimates.gamma, covariance, numerator, weights)[:, 0]
        for g, own in enumerate(expected.values()):
            want = own.get("null", own)["ratios"][ratio]
            assert value[g] == pytest.approx(want["value"], rel=1e-6, abs=1e-9), (ratio, g)
            assert se[g] == pytest.approx(want["se"][information or "observed"], rel=1e-5, abs=1e-9), (ratio, g)


def families(n: int, sizes: tuple[int, ...] = (4, 1, 3, 2, 1), relation: float = 0.5) -> pd.DataFrame:
    """A kernel of families and of donors without relatives."""
    family = np.repeat(np.arange(n), np.resize(sizes, n))[:n]
    names = [f"d{i:03}" for i in range(n)]
    K = np.where(family[:, None] == family, relation, 0.0) + (1 - relation) * np.eye(n)
    return pd.DataFrame(K, names, names)


def simulate(
    K: pd.DataFrame, shares: tuple[float, float], *, genes: int = 50, cells: tuple[int, ...] = (3, 8, 5), seed: int = 0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Responses of cells of which `shares` are the kernel's and the donor's own, and a covariate of donors."""
    rng, n = np.random.default_rng(seed), len(K)
    donor = np.repeat(np.arange(n), np.resize(cells, n))
    root = np.linalg.cholesky(K + 1e-9 * np.eye(n))
    u = np.sqrt(shares[0]) * root @ rng.normal(size=(n, genes)) + np.sqrt(shares[1]) * rng.normal(size=(n, genes))
    Y = u[donor] + np.sqrt(1 - sum(shares)) * rng.normal(size=(donor.size, genes))
    age = rng.normal(size=n).round(2)
    return Y, pd.DataFrame({"donor": K.index.to_numpy()[donor], "age": age[donor]})


FORMULA = "~ age + (1 | gr(donor, cov=grm)) + (1 | donor)"


def test_scales() -> None:
    """A kernel times ten has a tenth of the variance: on the scale of traces nothing changes."""
    K = families(30)
    Y, obs = simulate(K, (0.4, 0.1), genes=6)
    one, ten = (dw.fit_lmm(Y, obs, FORMULA, kernels={"grm": k * K}) for k in (1, 10))
    trace = one.heritability()
    np.testing.assert_allclose(ten.heritability()["proportion"], trace["proportion"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ten.heritability()["se"], trace["se"], rtol=1e-5)
    P = np.eye(30) - 1 / 30
    c = np.trace(P @ K.to_numpy() @ P) / 29
    assert centred_size(K.to_numpy()) == pytest.approx(c)
    variances = one.varcomp().set_index(["variable", "term"])["variance"].unstack()
    kernel, donor, rest = (variances[t] for t in ("gr(donor, cov=grm)", "donor", "Residual"))
    own = trace[trace["component"] == "grm"]["proportion"]
    np.testing.assert_allclose(own, c * kernel / (c * kernel + donor + rest), rtol=1e-9)
    as_is = one.heritability("as-is")
    np.testing.assert_allclose(
        as_is[as_is["component"] == "grm"]["proportion"], kernel / variances.sum(axis=1), rtol=1e-9
    )


def test_components() -> None:
    """Kernels by name, what else the donors vary by, and the sum of several kernels."""
    K = families(20)
    Y, obs = simulate(K, (0.4, 0.1), genes=3)
    M = pd.DataFrame(np.cov(np.random.default_rng(1).normal(size=(20, 40))), K.index, K.columns)
    obs["sample"] = np.tile(["s1", "s2"], len(obs))[: len(obs)]
    formula = "~ 1 + (1 | gr(donor, cov=grm)) + (1 | gr(donor, cov=mrm)) + (1 | donor) + (1 | sample)"
    table = dw.fit_lmm(Y, obs, formula, kernels={"grm": K, "mrm": M}).heritability()
    assert table["component"].tolist()[:4] == ["grm", "mrm", "donor", "sum"]
    wide = table.pivot(index="variable", columns="component", values="proportion")
    np.testing.assert_allclose(wide["sum"], wide["grm"] + wide["mrm"], rtol=1e-9)
    assert set(table["status"]) <= {"ok", "boundary", "confounded"}


def test_read_from_anndata(tmp_path: Path) -> None:
    """Group by group, through a file, of the features that are left; the two doors agree."""
    K = families(20)
    Y, obs = simulate(K, (0.4, 0.1), genes=8)
    obs["type"] = np.tile(["a", "b"], len(obs))[: len(obs)]
    adata = ad.AnnData(Y, obs.set_axis(obs.index.astype(str)))
    dw.tl.lmm(adata, FORMULA, groupby="type", kernels={"grm": K}, progress=False)
    table = dw.get.heritability(adata, group="a")
    arrays = dw.fit_lmm(Y[obs["type"] == "a"], obs[obs["type"] == "a"], FORMULA, kernels={"grm": K}).heritability()
    columns = ["proportion", "se", "ci_low", "ci_high", "statistic", "p_value", "adj_p_value"]
    np.testing.assert_allclose(table[columns], arrays[columns], rtol=1e-7, atol=1e-9)
    assert list(table.columns) == ["variable", "group", "component", *columns, "status"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")[:, [1, 4]]
    few = dw.get.heritability(again, component="grm", scale="as-is")
    assert len(few) == 4
    assert set(few["variable"]) == set(again.var_names)
    with pytest.raises(DataError, match="no component 'mrm'"):
        dw.get.heritability(adata, component="mrm")
    with pytest.raises(DonorwiseError, match="scale='liability'"):
        dw.get.heritability(adata, scale="liability")


def test_without_a_kernel() -> None:
    K = families(12)
    Y, obs = simulate(K, (0.4, 0.1), genes=4)
    with pytest.raises(DesignError, match="has no kernel, and so no heritability"):
        dw.fit_lmm(Y, obs, "~ age + (1 | donor)").heritability()
    adata = ad.AnnData(Y, obs.set_axis(obs.index.astype(str)))
    dw.tl.lmm(adata, "~ age + (1 | donor)", progress=False)
    with pytest.raises(DataError, match="has no kernel"):
        dw.get.heritability(adata)
