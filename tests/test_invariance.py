"""What must not change the numbers: the order and the container of the cells, blocks, threads, units, labels, groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests._patterns import numbers_inside_patterns

import donorwise as dw
from donorwise._core.design import build
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.tasks import Task, collapse_tasks
from donorwise._core.inference.wald import contrast_tests, joint_tests

# Sums in another order differ in the last bits, and an optimum by what those move it.
RELATIVE = 1e-8
NUMBERS = ["estimate", "se", "ci_low", "ci_high", "statistic", "df", "p_value", "adj_p_value"]

FORMULAS = [
    "~ arm + cond + x + (1 | donor)",
    "~ arm + cond + (1 | donor) + (1 | donor:sample)",
    "~ arm * time + (time | donor)",
    "~ arm + x + (1 | donor) + (1 | batch)",
]
G = 12


@pytest.fixture(scope="module")
def obs() -> pd.DataFrame:
    """600 cells of 10 donors with 1 to 3 samples each, in no order."""
    rng = np.random.default_rng(1)
    samples = np.repeat(np.arange(10), [3, 2, 1, 3, 2, 2, 3, 1, 2, 3])
    sample = np.sort(rng.integers(0, samples.size, 600))[rng.permutation(600)]
    donor, cond = samples[sample], rng.integers(0, 2, samples.size)[sample]
    return pd.DataFrame(
        {
            "donor": pd.Categorical([f"D{d}" for d in donor]),
            "sample": sample,
            "arm": np.where(donor % 2, "case", "ctrl"),
            "cond": [f"c{c}" for c in cond],
            "batch": rng.integers(0, 4, 600).astype(str),
            "time": rng.integers(0, 5, 600),
            "x": rng.normal(size=600).round(1),
            "cell_type": rng.choice(["B", "T"], 600),
            "weight": rng.gamma(4, size=600),
        },
        index=[f"cell{i}" for i in range(600)],
    )


@pytest.fixture(scope="module")
def Y(obs: pd.DataFrame) -> np.ndarray:
    """Log counts, four in ten of them zero; the last feature is constant."""
    rng = np.random.default_rng(2)
    donor, time = obs["donor"].cat.codes.to_numpy(), obs["time"].to_numpy()
    effects = rng.normal(size=(10, G)) * np.linspace(0, 0.8, G) + rng.normal(size=G)
    slopes = 0.15 * rng.normal(size=(10, G))
    Y = np.log1p(rng.poisson(np.exp(0.2 + effects[donor] * 0.7 + slopes[donor] * time[:, None]))).astype(np.float64)
    Y[:, -1] = 0
    return Y


def fitted(Y: np.ndarray, obs: pd.DataFrame, formula: str, **options: int) -> dw.LMMFit:
    """`fit_lmm` with options of the engine."""
    variables = tuple(f"y{i + 1}" for i in range(Y.shape[1]))
    (statistics,) = collapse_tasks(Y, variables, [Task("all", build.build_design(formula, obs), "")])
    return fit_statistics(statistics, variables, **options)


def assert_same(own: dw.LMMFit, other: dw.LMMFit) -> None:
    """Same features, statuses and numbers, up to rounding."""
    assert own.variables == other.variables and own.fixed_names == other.fixed_names
    np.testing.assert_array_equal(own.status, other.status)
    np.testing.assert_array_equal(own.n_obs, other.n_obs)
    np.testing.assert_allclose(own.loglik, other.loglik, rtol=0, atol=1e-8)
    np.testing.assert_allclose(own.theta, other.theta, rtol=RELATIVE, atol=1e-7)
    assert_same_tests(own.test(None), other.test(None))
    assert_same_tests(own.test(None, "satterthwaite"), other.test(None, "satterthwaite"))


def assert_same_tests(own: pd.DataFrame, other: pd.DataFrame) -> None:
    """Same tests; estimates and intervals in units of the standard error."""
    for column in own.columns.difference([*NUMBERS, "group", "log_fc"]):
        assert own[column].astype(str).tolist() == other[column].astype(str).tolist(), column
    for column in NUMBERS:
        atol = (1e-300 + RELATIVE * other["se"]) if column in ("estimate", "ci_low", "ci_high") else RELATIVE
        gap = (own[column] - other[column]).abs()
        assert ((gap <= atol + RELATIVE * other[column].abs()) | (own[column].isna() & other[column].isna())).all(), (
            column
        )


def assert_identical(own: dw.LMMFit, other: dw.LMMFit) -> None:
    """Bit for bit."""
    for name in ("beta", "vcov_beta", "sigma2", "theta", "loglik", "status", "n_iter"):
        np.testing.assert_array_equal(getattr(own, name), getattr(other, name), err_msg=name)
    pd.testing.assert_frame_equal(own.test(None), other.test(None), check_exact=True)


@pytest.fixture(params=["patterns", "accumulated"])
def numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of the formula as part of the patterns, and varying inside them as with many cells."""
    if request.param == "accumulated":
        monkeypatch.setattr(build, "find_patterns", numbers_inside_patterns)


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize("weights", [None, "weight"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_order_of_rows(Y: np.ndarray, obs: pd.DataFrame, formula: str, weights: str | None) -> None:
    order = np.random.default_rng(3).permutation(len(obs))
    fit = dw.fit_lmm(Y, obs, formula, weights=weights)
    assert set(fit.status) >= {"ok", "constant"}
    assert_same(dw.fit_lmm(Y[order], obs.iloc[order], formula, weights=weights), fit)


@pytest.mark.parametrize("formula", FORMULAS)
def test_blocks_of_features(Y: np.ndarray, obs: pd.DataFrame, formula: str) -> None:
    assert_same(fitted(Y, obs, formula, budget=1), dw.fit_lmm(Y, obs, formula))


@pytest.mark.parametrize("ddf", ["kenward-roger", "satterthwaite"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_chunks_of_tests(Y: np.ndarray, obs: pd.DataFrame, formula: str, ddf: str) -> None:
    (model,) = dw.fit_lmm(Y, obs, formula).models
    L = np.eye(model.equations.p)[1:3]
    for tests in (contrast_tests, joint_tests):
        own, other = (tests(model, L, ddf, chunk=chunk) for chunk in (1, 8_000_000))
        for field in fields(own):
            a, b = np.asarray(getattr(own, field.name)), np.asarray(getattr(other, field.name))
            if a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=RELATIVE, err_msg=field.name)
            else:
                np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.mark.parametrize("formula", FORMULAS)
def test_one_feature_at_a_time(Y: np.ndarray, obs: pd.DataFrame, formula: str) -> None:
    fit = dw.fit_lmm(Y, obs, formula)
    for g in (0, 5, G - 1):
        alone = dw.fit_lmm(Y[:, g], obs, formula)
        np.testing.assert_allclose(alone.beta[0], fit.beta[g], rtol=RELATIVE, atol=1e-10)
        np.testing.assert_allclose(alone.vcov_beta[0], fit.vcov_beta[g], rtol=RELATIVE, atol=1e-10)
        assert alone.status[0] == fit.status[g]


@pytest.mark.parametrize("formula", FORMULAS)
def test_threads(Y: np.ndarray, obs: pd.DataFrame, formula: str) -> None:
    several = {"budget": 3000, "per_worker": 1}  # blocks, and enough of them for all workers
    fit = fitted(Y, obs, formula, n_jobs=1, **several)
    for n_jobs in (2, 4):
        assert_identical(fitted(Y, obs, formula, n_jobs=n_jobs, **several), fit)
    assert_identical(dw.fit_lmm(Y, obs, formula, n_jobs=-1), dw.fit_lmm(Y, obs, formula, n_jobs=1))


def test_repeated_calls(Y: np.ndarray, obs: pd.DataFrame) -> None:
    assert_identical(dw.fit_lmm(Y, obs, FORMULAS[2]), dw.fit_lmm(Y, obs, FORMULAS[2]))


def _read_only(Y: np.ndarray) -> np.ndarray:
    out = Y.copy()
    out.setflags(write=False)
    return out


def _int64_indices(Y: np.ndarray) -> sparse.csr_matrix:
    out = sparse.csr_matrix(Y)
    out.indices, out.indptr = out.indices.astype(np.int64), out.indptr.astype(np.int64)
    return out


def _unsorted(Y: np.ndarray) -> sparse.csr_matrix:
    """Column indices of every row backwards, every value split in two entries."""
    plain = sparse.csr_matrix(Y)
    rows = [slice(a, b) for a, b in zip(plain.indptr[:-1], plain.indptr[1:], strict=True)]
    indices = np.concatenate([np.repeat(plain.indices[r][::-1], 2) for r in rows])
    data = np.concatenate([np.repeat(plain.data[r][::-1] / 2, 2) for r in rows])
    return sparse.csr_matrix((data, indices, 2 * plain.indptr), shape=Y.shape)


CONTAINERS: dict[str, Callable[[np.ndarray], Any]] = {
    "fortran": np.asfortranarray,
    "strided": lambda Y: np.repeat(Y, 2, axis=1)[:, ::2],
    "read_only": _read_only,
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "coo_matrix": sparse.coo_matrix,
    "int64_indices": _int64_indices,
    "unsorted_duplicates": _unsorted,
    "list": lambda Y: Y.tolist(),
    "dataframe": lambda Y: pd.DataFrame(Y, columns=[f"y{i + 1}" for i in range(Y.shape[1])]),
}


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize("formula", FORMULAS[::2])
@pytest.mark.parametrize("container", CONTAINERS)
def test_container(Y: np.ndarray, obs: pd.DataFrame, container: str, formula: str) -> None:
    assert_same(dw.fit_lmm(CONTAINERS[container](Y), obs, formula), dw.fit_lmm(Y, obs, formula))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8])
def test_dtype(Y: np.ndarray, obs: pd.DataFrame, dtype: type) -> None:
    counts = np.round(np.expm1(Y))
    assert_same(dw.fit_lmm(counts.astype(dtype), obs, FORMULAS[0]), dw.fit_lmm(counts, obs, FORMULAS[0]))
    sparse_counts = sparse.csr_matrix(counts.astype(dtype))
    assert_same(dw.fit_lmm(sparse_counts, obs, FORMULAS[0]), dw.fit_lmm(counts, obs, FORMULAS[0]))


@pytest.mark.parametrize("ddf", ["kenward-roger", "satterthwaite", "between-within", "residual"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_units_of_the_response(Y: np.ndarray, obs: pd.DataFrame, formula: str, ddf: Any) -> None:
    """a y + X b: coefficients a beta + b, and the tests of beta - b as they were."""
    fit = dw.fit_lmm(Y[:, :-1], obs, formula)
    X, p = fit.design.X[fit.design.codes], len(fit.fixed_names)
    assert fit.design.covariates.shape[1] == 0
    b = np.random.default_rng(4).normal(size=(p, G - 1)) * 50
    a = np.array([-3.0, 1e-6, 1e6] * 4)[: G - 1]
    moved = dw.fit_lmm(a * (Y[:, :-1] + X @ b), obs, formula)
    se = np.sqrt(np.einsum("gii->gi", fit.vcov_beta))
    assert (np.abs(moved.beta / a[:, None] - b.T - fit.beta) <= RELATIVE * se).all()
    np.testing.assert_array_equal(moved.status, fit.status)
    before, after = fit.test(np.eye(p), ddf), moved.test(np.eye(p), ddf)
    scale = np.tile(np.abs(a), p)
    np.testing.assert_allclose(after["se"] / scale, before["se"], rtol=RELATIVE)
    np.testing.assert_allclose(after["df"], before["df"], rtol=RELATIVE)
    shifted = after["estimate"] / np.tile(a, p) - b.ravel()
    np.testing.assert_allclose(shifted / (after["se"] / scale), before["statistic"], rtol=RELATIVE, atol=RELATIVE)
    only_scaled = dw.fit_lmm(a * Y[:, :-1], obs, formula).test(np.eye(p), ddf)
    np.testing.assert_allclose(only_scaled["p_value"], before["p_value"], rtol=1e-6)
    np.testing.assert_allclose(only_scaled["statistic"], before["statistic"] * np.tile(np.sign(a), p), rtol=RELATIVE)


@pytest.mark.parametrize("formula", FORMULAS[:3])
def test_units_of_a_covariate(Y: np.ndarray, obs: pd.DataFrame, formula: str) -> None:
    """Calendar years and micrograms: the model is the same, also where the covariate has a random slope."""
    moved = obs.assign(time=1e4 * obs["time"].astype(float), x=1e-6 * obs["x"])
    own, other = dw.fit_lmm(Y, moved, formula), dw.fit_lmm(Y, obs, formula)
    np.testing.assert_array_equal(own.status, other.status)
    before, after = other.test(None), own.test(None)
    for column in ("statistic", "df", "p_value"):
        np.testing.assert_allclose(after[column], before[column], rtol=1e-7, atol=1e-9, err_msg=column)
    shifted = dw.fit_lmm(Y, obs.assign(time=obs["time"] + 2020), formula)
    rows = [c for c in other.fixed_names if "arm" not in c and c != "Intercept"]
    if rows and "arm *" not in formula:
        assert_same_tests(shifted.test(rows), other.test(rows))
    np.testing.assert_allclose(shifted.loglik, other.loglik, atol=1e-6)


@pytest.mark.parametrize("formula", FORMULAS)
def test_labels_of_donors(Y: np.ndarray, obs: pd.DataFrame, formula: str) -> None:
    names = dict(zip(obs["donor"].cat.categories, "zyxwvutsrq", strict=True))
    renamed = obs.assign(donor=obs["donor"].astype(str).map(names), sample=-obs["sample"])
    fit, other = dw.fit_lmm(Y, obs, formula), dw.fit_lmm(Y, renamed, formula)
    assert_same(other, fit)
    before = fit.ranef("donor").set_index(["variable", "level", "column"])["value"]
    after = other.ranef("donor")
    after["level"] = after["level"].map({new: old for old, new in names.items()})
    after = after.set_index(["variable", "level", "column"])["value"].reindex(before.index)
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("change", ["sorted", "duplicated", "object", "integers", "unused_category", "extra_column"])
def test_form_of_obs(Y: np.ndarray, obs: pd.DataFrame, change: str) -> None:
    fit = dw.fit_lmm(Y, obs, FORMULAS[1])
    if change == "sorted":
        order = np.argsort(obs["x"].to_numpy(), kind="stable")
        assert_same(dw.fit_lmm(Y[order], obs.iloc[order], FORMULAS[1]), fit)
        return
    changed = {
        "duplicated": lambda: obs.set_axis(["same"] * len(obs)),
        "object": lambda: obs.assign(donor=obs["donor"].astype(object)),
        "integers": lambda: obs.assign(donor=obs["donor"].cat.codes),
        "unused_category": lambda: obs.assign(donor=obs["donor"].cat.add_categories(["nobody"])),
        "extra_column": lambda: obs.assign(nothing=np.nan),
    }[change]()
    assert_same(dw.fit_lmm(Y, changed, FORMULAS[1]), fit)


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")  # the audit's, about the formulas
@pytest.mark.parametrize("formula", FORMULAS)
def test_groups_are_subsets(Y: np.ndarray, obs: pd.DataFrame, formula: str) -> None:
    adata = ad.AnnData(sparse.csr_matrix(Y), obs=obs.copy(), var=pd.DataFrame(index=[f"y{i + 1}" for i in range(G)]))
    dw.tl.lmm(adata, formula, groupby="cell_type", progress=False)
    table = adata.uns["lmm"]["results"]
    for group in ("B", "T"):
        rows = (obs["cell_type"] == group).to_numpy()
        alone = dw.fit_lmm(Y[rows], obs[rows], formula)
        assert_same_tests(table[table["group"] == group].reset_index(drop=True), alone.test(None))
        part = ad.AnnData(Y[rows], obs=obs[rows].copy(), var=adata.var.copy())
        dw.tl.lmm(part, formula, progress=False)
        assert_same_tests(part.uns["lmm"]["results"], alone.test(None))


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("weight", [1e-3, 7.0])
def test_weight_of_every_row(Y: np.ndarray, obs: pd.DataFrame, weight: float, formula: str) -> None:
    """A weight that all rows share is a unit of sigma2, and nothing else."""
    single = dw.fit_lmm(Y, obs, formula)
    scaled = dw.fit_lmm(Y, obs, formula, weights=np.full(len(obs), weight))
    np.testing.assert_allclose(scaled.beta, single.beta, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(scaled.sigma2, weight * single.sigma2, rtol=1e-7)
    np.testing.assert_allclose(scaled.theta * np.sqrt(weight), single.theta, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(scaled.loglik, single.loglik, atol=1e-7)
    assert_same_tests(scaled.test(None), single.test(None))
