"""What kernels must not change, and models that are the same by another name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._core.models.lmm.ratios import NODES
from donorwise._core.models.lmm.rays import Rays

pytestmark = pytest.mark.filterwarnings(
    "ignore::donorwise.errors.DonorwiseWarning"
)  # of these kernels: tested elsewhere

DDF = ("kenward-roger", "satterthwaite", "between-within", "moderated")
ONE = "~ arm + x + (1 | gr(donor, cov=K))"
TWO = "~ arm + x + (1 | gr(donor, cov=K)) + (1 | donor)"
THREE = "~ arm + x + (1 | gr(donor, cov=K)) + (1 | gr(donor, cov=M)) + (1 | sample)"
SLOPES = "~ arm + x + (1 + x | gr(donor, cov=K))"
N_DONORS = 18


@pytest.fixture(scope="module")
def obs() -> pd.DataFrame:
    """18 donors in 6 families, two or three samples each, 2 to 6 cells in each."""
    rng = np.random.default_rng(0)
    samples = np.repeat(np.arange(N_DONORS), rng.integers(2, 4, N_DONORS))
    sample = np.repeat(np.arange(samples.size), rng.integers(2, 7, samples.size))
    donor = samples[sample]
    return pd.DataFrame(
        {
            "donor": [f"d{d:02}" for d in donor],
            "sample": [f"s{s:02}" for s in sample],
            "family": [f"f{d // 3}" for d in donor],
            "arm": np.where(donor % 2, "case", "control"),
            "x": rng.choice([0.0, 1.0, 2.0], donor.size),
        },
        index=[f"c{i:03}" for i in range(donor.size)],
    )


@pytest.fixture(scope="module")
def Y(obs: pd.DataFrame) -> np.ndarray:
    """110 features: the last ten have no variance of donors."""
    rng, donor, n = np.random.default_rng(1), obs["donor"].str[1:].astype(int).to_numpy(), 110
    size = np.where(np.arange(n) < 100, rng.choice([0.1, 0.5, 1.0], n), 0.0)
    family, own = rng.normal(size=(6, n))[donor // 3], rng.normal(size=(N_DONORS, n))[donor]
    return 3 + rng.normal(size=(len(obs), n)) + np.sqrt(size) * (family + own)


def names() -> list[str]:
    return [f"d{d:02}" for d in range(N_DONORS)]


def kernel(seed: int = 0) -> pd.DataFrame:
    """Families, and a little of everyone."""
    rng, family = np.random.default_rng(seed), np.arange(N_DONORS) // 3
    A = rng.normal(size=(N_DONORS, 40))
    K = 0.5 * np.eye(N_DONORS) + 0.4 * (family[:, None] == family) + 0.1 * A @ A.T / 40
    return pd.DataFrame(K, index=names(), columns=names())


def kernels() -> dict[str, pd.DataFrame]:
    A = np.random.default_rng(7).normal(size=(N_DONORS, 9))
    return {"K": kernel(), "M": pd.DataFrame(A @ A.T / 9, index=names(), columns=names())}


def fit(Y: Any, obs: pd.DataFrame, formula: str, **options: Any) -> dw.LMMFit:
    own = options.pop("kernels", kernels())
    return dw.fit_lmm(Y, obs, formula, kernels={k: v for k, v in own.items() if f"cov={k})" in formula}, **options)


def same_estimates(one: dw.LMMFit, other: dw.LMMFit, tol: float = 1e-9) -> None:
    assert list(one.status) == list(other.status)
    se = np.sqrt(np.einsum("gii->gi", one.vcov_beta))
    assert np.abs((one.beta - other.beta) / se).max() < tol
    assert np.abs((one.vcov_beta - other.vcov_beta) / (se[:, :, None] * se[:, None])).max() < tol
    np.testing.assert_allclose(other.sigma2, one.sigma2, rtol=tol)
    np.testing.assert_allclose(other.loglik, one.loglik, rtol=0, atol=100 * tol)


def same_tests(one: dw.LMMFit, other: dw.LMMFit, ddf: str, tol: float = 1e-8) -> None:
    a, b = one.test(None, ddf), other.test(None, ddf)
    assert list(a["status"]) == list(b["status"])
    assert np.abs((a["estimate"] - b["estimate"]) / a["se"]).max() < tol
    for name in ("se", "df", "p_value"):
        np.testing.assert_allclose(b[name], a[name], rtol=tol, err_msg=f"{ddf} {name}")


def same_variances(one: dw.LMMFit, other: dw.LMMFit, tol: float = 1e-7) -> None:
    a, b = one.varcomp(), other.varcomp()
    scale = np.repeat(one.sigma2, len(a) // one.sigma2.size)
    assert np.abs((a["variance"].to_numpy() - b["variance"].to_numpy()) / scale).max() < tol


# ---------------------------------------------------------------- the same model by another name


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_identity_is_the_donors_own_effect(obs: pd.DataFrame, Y: np.ndarray, reml: bool) -> None:
    identity = pd.DataFrame(np.eye(N_DONORS), index=names(), columns=names())
    known = fit(Y, obs, ONE, kernels={"K": identity}, reml=reml)
    plain = fit(Y, obs, "~ arm + x + (1 | donor)", reml=reml)
    same_estimates(plain, known)
    same_variances(plain, known)
    np.testing.assert_allclose(known.theta, plain.theta, rtol=1e-7, atol=1e-7)
    for ddf in DDF if reml else DDF[:3]:
        same_tests(plain, known, ddf)
    a, b = plain.ranef("donor"), known.ranef("gr(donor, cov=K)")
    np.testing.assert_allclose(b[["value", "cond_sd"]], a[["value", "cond_sd"]], atol=1e-7)
    np.testing.assert_allclose(known.icc()["icc"], plain.icc()["icc"], atol=1e-8)


def test_identity_beside_samples(obs: pd.DataFrame, Y: np.ndarray) -> None:
    """Two variances: between nodes and by Newton's method. Moderation has other grids, with as many points."""
    identity = pd.DataFrame(np.eye(N_DONORS), index=names(), columns=names())
    known = fit(Y, obs, ONE + " + (1 | sample)", kernels={"K": identity})
    plain = fit(Y, obs, "~ arm + x + (1 | donor) + (1 | sample)")
    same_estimates(plain, known, 1e-7)
    same_variances(plain, known, 1e-6)
    for ddf in DDF[:3]:
        same_tests(plain, known, ddf, 1e-6)
    a, b = plain.test(None, "moderated"), known.test(None, "moderated")
    assert np.abs(np.log(b["p_value"] / a["p_value"])).max() < 0.05  # half of them agree to 0.1%


def test_blocks_of_ones_are_families(obs: pd.DataFrame, Y: np.ndarray) -> None:
    family = np.arange(N_DONORS) // 3
    ones = pd.DataFrame((family[:, None] == family).astype(float), index=names(), columns=names())
    known = fit(Y, obs, ONE, kernels={"K": ones})
    plain = fit(Y, obs, "~ arm + x + (1 | family)")
    same_estimates(plain, known)
    same_variances(plain, known)
    for ddf in ("kenward-roger", "satterthwaite"):
        same_tests(plain, known, ddf)
    both = fit(Y, obs, TWO, kernels={"K": ones})
    plain = fit(Y, obs, "~ arm + x + (1 | family) + (1 | donor)")
    same_estimates(plain, both, 1e-7)
    same_variances(plain, both, 1e-6)
    for ddf in ("kenward-roger", "satterthwaite"):
        same_tests(plain, both, ddf, 1e-6)


def test_nearly_the_same_kernel_twice(obs: pd.DataFrame, Y: np.ndarray) -> None:
    """A ridge of nearly equal likelihood: it ends somewhere on it, no lower than with one of them."""
    own = {"K": kernel(), "M": 0.8 * kernel() + 0.2 * kernels()["M"]}
    two, one = fit(Y, obs, ONE + " + (1 | gr(donor, cov=M))", kernels=own), fit(Y, obs, ONE)
    assert "not_converged" not in two.status
    assert (two.loglik >= one.loglik - 1e-8).all()


# ---------------------------------------------------------------- units and orders

FORMULAS = [ONE, TWO, THREE, SLOPES]


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e8])
def test_units_of_a_kernel_change_its_variance_only(
    obs: pd.DataFrame, Y: np.ndarray, formula: str, scale: float
) -> None:
    plain, own = fit(Y[:, :40], obs, formula), kernels()
    scaled = fit(Y[:, :40], obs, formula, kernels=own | {"K": own["K"] * scale})
    same_estimates(plain, scaled)
    for ddf in ("kenward-roger", "satterthwaite"):
        same_tests(plain, scaled, ddf, 1e-7)
    a, b = plain.varcomp(), scaled.varcomp()
    known = (a["term"] == "gr(donor, cov=K)").to_numpy()
    np.testing.assert_allclose(b["variance"] * np.where(known, scale, 1.0), a["variance"], rtol=1e-6, atol=1e-8)
    a, b = (f.ranef("gr(donor, cov=K)")[["value", "cond_sd"]] for f in (plain, scaled))
    np.testing.assert_allclose(b, a, atol=1e-6)


@pytest.mark.parametrize("formula", [ONE, TWO])
def test_units_of_a_kernel_and_moderation(obs: pd.DataFrame, Y: np.ndarray, formula: str) -> None:
    plain, scaled = fit(Y, obs, formula), fit(Y, obs, formula, kernels={"K": kernel() * 1e5})
    same_tests(plain, scaled, "moderated", 1e-7)


@pytest.mark.parametrize("formula", FORMULAS)
def test_orders_do_not_matter(obs: pd.DataFrame, Y: np.ndarray, formula: str) -> None:
    """Of rows, of levels, of the kernel's rows and columns, with levels in it that no row has."""
    rng, own, shown = np.random.default_rng(5), kernels(), Y[:, :40]
    plain = fit(shown, obs, formula)
    rows = rng.permutation(len(obs))
    more = {k: K.reindex(index=[*K.index, "z"], columns=[*K.index, "z"], fill_value=0.3) for k, K in own.items()}
    mixed = {k: K.iloc[rng.permutation(len(K)), rng.permutation(len(K))] for k, K in more.items()}
    other = obs.iloc[rows].assign(donor=pd.Categorical(obs["donor"].iloc[rows], rng.permutation(names())))
    shuffled = fit(shown[rows], other, formula, kernels=mixed)
    same_estimates(plain, shuffled)
    same_tests(plain, shuffled, "kenward-roger", 1e-7)
    same_variances(plain, shuffled)
    index = ["variable", "level", "column"]
    a, b = (f.ranef("gr(donor, cov=K)").set_index(index)["value"] for f in (plain, shuffled))
    np.testing.assert_allclose(b.loc[a.index], a, atol=1e-7)


def test_order_of_terms_does_not_matter(obs: pd.DataFrame, Y: np.ndarray) -> None:
    bars = THREE.split(" + ")[-3:]
    plain = fit(Y[:, :40], obs, THREE)
    other = fit(Y[:, :40], obs, "~ arm + x + " + " + ".join(bars[::-1]))
    same_estimates(plain, other)
    same_tests(plain, other, "kenward-roger", 1e-7)
    pairs = [TWO, "~ arm + x + (1 | donor) + (1 | gr(donor, cov=K))"]
    one, two = (fit(Y, obs, formula) for formula in pairs)
    same_estimates(one, two, 1e-8)
    same_tests(one, two, "moderated", 1e-6)


@pytest.mark.parametrize("formula", [ONE, TWO, THREE])
def test_workers_blocks_and_containers_do_not_matter(obs: pd.DataFrame, Y: np.ndarray, formula: str) -> None:
    shown = Y[:, :40]
    plain = fit(shown, obs, formula, n_jobs=1)
    for other in (
        fit(shown, obs, formula, n_jobs=2),
        fit(sparse.csr_array(shown), obs, formula),
        fit(pd.DataFrame(shown, index=obs.index), obs, formula),
    ):
        same_estimates(plain, other, 1e-10)
    alone = fit(shown[:, 7:8], obs, formula)
    np.testing.assert_allclose(alone.beta[0], plain.beta[7], rtol=1e-9)
    np.testing.assert_allclose(alone.sigma2[0], plain.sigma2[7], rtol=1e-9)


def test_workers_share_rays(obs: pd.DataFrame, Y: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are worked out once, and not by every thread."""
    many = np.hstack([Y] * 11)  # more than a block of features
    counted: list[object] = []
    at = Rays.at
    monkeypatch.setattr(Rays, "at", lambda self, direction: (counted.append(direction), at(self, direction))[1])
    found = []
    for n_jobs in (1, 2):
        counted.clear()
        fit(many, obs, TWO, n_jobs=n_jobs)
        found.append(len(counted))
    assert found == [NODES + 2, NODES + 2]


@pytest.mark.parametrize("formula", [ONE, TWO, SLOPES])
def test_containers_of_kernels(obs: pd.DataFrame, Y: np.ndarray, formula: str) -> None:
    xarray = pytest.importorskip("xarray")
    plain, own = fit(Y[:, :10], obs, formula), kernel()
    array = xarray.DataArray(own.to_numpy(), coords={"a": names(), "b": names()}, dims=("a", "b"))
    same_estimates(plain, fit(Y[:, :10], obs, formula, kernels={"K": array}), 1e-12)
    same_estimates(plain, fit(Y[:, :10], obs, formula, kernels={"K": own.to_numpy()}, levels=names()), 1e-12)
    same_estimates(plain, fit(Y[:, :10], obs, formula, kernels={"K": sparse.csr_array(own)}, levels=names()), 1e-12)


@pytest.mark.parametrize("formula", [ONE, TWO, THREE])
def test_collapsed_rows_are_the_cells(obs: pd.DataFrame, Y: np.ndarray, formula: str) -> None:
    ad = pytest.importorskip("anndata")
    cells = ad.AnnData(Y[:, :20].copy(), obs=obs.astype({"x": str}).assign(x2=obs["x"]))
    rows = dw.pp.collapse(cells, ["donor", "sample", "arm", "x2"])
    own = {k: v for k, v in kernels().items() if f"cov={k})" in formula}
    for adata in (cells, rows):
        dw.tl.lmm(adata, formula.replace("+ x +", "+ x2 +"), kernels=own, progress=False)
    a, b = (dw.get.tests(adata).set_index(["variable", "contrast"]) for adata in (cells, rows))
    for name in ("estimate", "se", "df", "p_value"):
        np.testing.assert_allclose(b.loc[a.index, name], a[name], rtol=1e-7, err_msg=name)
    direct = fit(Y[:, :20], obs, formula).test(None, "kenward-roger")
    assert len(direct) == len(a)
