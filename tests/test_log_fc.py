"""`log_fc` of mixed models: against dense weights of the cells, on every way to it, and where there is none."""

from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._anndata.prepare import prepare_lmm
from donorwise._anndata.scale import is_scaled
from donorwise._core.engine.analysis import Options
from donorwise._core.inference.moderation import posterior
from donorwise.errors import DataError, DonorwiseWarning

pytestmark = pytest.mark.filterwarnings("ignore:Depth differs between donors")
QUIET: dict[str, Any] = {"progress": False}
CONTRAST = "condition[T.case]"


def cohort(seed: int = 0, n_genes: int = 12, n_cells: int = 25) -> ad.AnnData:
    """Eight donors with two samples each, counts of some genes in a transcriptome, log1p of counts per 10,000."""
    rng = np.random.default_rng(seed)
    sample = np.repeat(np.arange(16), rng.integers(n_cells // 2, 2 * n_cells, 16))
    donor, later = np.divmod(sample, 2)
    kind = rng.integers(0, 2, sample.size)
    depth = rng.integers(800, 6000, sample.size).astype(float)
    rate = 10 ** rng.uniform(-4, -2.3, n_genes) * np.exp(rng.normal(0, 0.3, (16, n_genes)))[sample]
    changed = np.where(np.arange(n_genes) % 3 == 0, 1.5, 0.0) * (donor % 2)[:, None]
    counts = rng.poisson(depth[:, None] * rate * 2**changed)
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical([f"D{d}" for d in donor]),
            "sample": pd.Categorical([f"S{s:02d}" for s in sample]),
            "condition": pd.Categorical(np.where(donor % 2, "case", "control"), ["control", "case"]),
            "kind": pd.Categorical(np.where(kind, "T", "B")),
            "time": later * 1.5 + donor % 3,
            "log_depth": np.log(depth),
            "weight": rng.uniform(0.5, 2, sample.size),
        },
        index=[f"c{i}" for i in range(sample.size)],
    )
    X = sparse.csr_matrix(np.log1p(counts / depth[:, None] * 1e4))
    adata = ad.AnnData(X, obs=obs, var=pd.DataFrame(index=[f"g{g}" for g in range(n_genes)]))
    adata.layers["counts"] = sparse.csr_matrix(counts)
    adata.uns["log1p"] = {"base": None}
    return adata


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return cohort()


def fold(adata: ad.AnnData, contrast: Any = CONTRAST, key: str = "lmm", column: str = "log_fc") -> pd.Series:
    table = dw.get.tests(adata, contrast=contrast, key=key)
    return table.set_index("variable")[column].reindex(adata.var_names)


# ---------------------------------------------------------------- the dense twin


def abundances(values: np.ndarray, units: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """log2(m + prior count) of the unit of every cell, (N,): plain loops over the units."""
    used, names = np.isfinite(values), np.unique(units[np.isfinite(values)])
    linear = np.expm1(values)
    means, typical, value = [], [], []
    for name in names:
        own = used & (units == name)
        w, y = weights[own], values[own]
        means.append((w @ linear[own]) / w.sum())
        typical.append((w @ y**2) / (w @ y) if y.any() else np.inf)
        value.append((w @ linear[own]) * (w @ y**2) / (w @ y) ** 2 if y.any() else np.nan)
    prior = value[int(np.argmin(typical))] * len(names) / used.sum()
    z = dict(zip(names, np.log2(np.array(means) + prior), strict=True))
    return np.array([z.get(name, np.nan) for name in units])


def weights_of_cells(fit: dw.LMMFit, g: int, X: np.ndarray, Z: list[np.ndarray], w: np.ndarray) -> np.ndarray:
    """(X'V⁻¹X)⁻¹X'V⁻¹ of the cells (p, N) at the variances of feature g."""
    model = next(m for m in fit.models if g in m.features)
    at = int(np.flatnonzero(model.features == g)[0])
    V = np.diag(1 / w)
    for columns, covariance in zip(Z, model.covariances(), strict=True):
        T = covariance[at] / model.estimates.sigma2[at]
        V += np.einsum("ilr,rs,jls->ij", columns, T, columns)
    XV = X.T @ np.linalg.inv(V)
    return np.linalg.solve(XV @ X, XV)


def term(obs: pd.DataFrame, group: str, *columns: str) -> np.ndarray:
    """Columns (N, levels, r) of a random term."""
    level = pd.get_dummies(obs[group].astype(str)).to_numpy(dtype=float)
    values = np.column_stack([np.ones(len(obs)) if c == "1" else obs[c].to_numpy(dtype=float) for c in columns])
    return level[:, :, None] * values[:, None, :]


MODELS = {
    "one term": ("~ condition + (1 | donor)", [("donor", "1")], ["condition", "donor"]),
    "two terms": ("~ condition + (1 | donor) + (1 | sample)", [("donor", "1"), ("sample", "1")], ["sample"]),
    "slopes": ("~ condition + time + (1 + time | donor)", [("donor", "1", "time")], ["donor", "time"]),
    "own slopes": (
        "~ condition * kind + (1 | donor) + (1 | sample)", [("donor", "1"), ("sample", "1")], ["sample", "kind"],
    ),
    "depth": ("~ condition + log_depth + (1 | donor)", [("donor", "1")], ["donor"]),
    "depth and time": ("~ condition * time + log_depth + (1 | donor)", [("donor", "1")], ["donor", "time"]),
}  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("missing", [False, True], ids=["", "missing"])
def test_twin(adata, name, weighted, missing):
    formula, random, unit_columns = MODELS[name]
    given = adata[:, :4].copy()
    Y = given.X.toarray()
    if missing:
        Y[np.random.default_rng(1).random(len(Y)) < 0.2, 1] = np.nan
        given.X = Y
    w = given.obs["weight"].to_numpy() if weighted else np.ones(len(Y))
    option = {"weights": "weight"} if weighted else {}
    fit = dw.fit_lmm(Y, given.obs, formula, weights=option.get("weights"))
    design = fit.design
    X = design.X[design.codes]
    for j, k in enumerate(design.varying):
        X[:, j] = design.covariates[:, k] if k >= 0 else X[:, j]
    Z = [term(given.obs, *columns) for columns in random]
    units = given.obs[unit_columns].astype(str).agg("|".join, axis=1).to_numpy()
    expected = pd.DataFrame(np.nan, index=given.var_names, columns=list(fit.fixed_names))
    for g in range(4):
        used = np.isfinite(Y[:, g])
        A = weights_of_cells(fit, g, X[used], [z[used] for z in Z], w[used])
        np.testing.assert_allclose(A @ Y[used, g], fit.beta[g], rtol=1e-6, atol=1e-8)
        expected.iloc[g] = A @ abundances(Y[:, g], units, w)[used]
    for ddf in ("kenward-roger", "satterthwaite", "between-within", "residual"):
        dw.tl.lmm(given, formula, ddf=ddf, **option, **QUIET)
        for contrast in fit.fixed_names[1:]:
            own = fold(given, contrast)
            if contrast == "log_depth":
                assert own.isna().all()
            else:
                np.testing.assert_allclose(own, expected[contrast], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["one term", "two terms"])
def test_moderated_twin(name):
    """The mean over the same posterior of the ratios as the estimate."""
    adata, (formula, random, unit_columns) = cohort(n_genes=120, n_cells=8), MODELS[name]
    made = prepare_lmm(adata, formula, options=Options("moderated"))
    fit = made.fit(0, made.statistics()[0], lambda n: None)
    (model,), learned = fit.models, fit.learned
    points, some = learned.points, model.usable[:3]
    weight = posterior(model.on(points).loglik(some), learned.prior.at(learned.rank[model.features[some]]))
    X, Z = fit.design.X[fit.design.codes], [term(adata.obs, *columns) for columns in random]
    units = adata.obs[unit_columns].astype(str).agg("|".join, axis=1).to_numpy()
    ratios = points * np.array(model.components()[1])
    cross = [np.einsum("ilr,jlr->ij", z, z) for z in Z]
    expected = np.zeros(3)
    for at in np.flatnonzero((weight > 1e-9).any(axis=0)):
        V = np.eye(len(X)) + sum(ratio * own for ratio, own in zip(ratios[at], cross, strict=True))
        XV = X.T @ np.linalg.inv(V)
        a = np.linalg.solve(XV @ X, XV)[1]
        for i, g in enumerate(model.features[some]):
            values = adata.X[:, [g]].toarray()[:, 0]
            expected[i] += weight[i, at] * (a @ abundances(values, units, np.ones(len(X))))
    dw.tl.lmm(adata, formula, **QUIET)
    np.testing.assert_allclose(fold(adata).iloc[model.features[some]], expected, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- what a fold change has to be


def test_close_to_the_truth():
    adata = cohort(seed=3, n_genes=150, n_cells=60)
    dw.tl.lmm(adata, "~ condition + log_depth + (1 | donor) + (1 | sample)", **QUIET)
    truth = np.where(np.arange(150) % 3 == 0, 1.5, 0.0)
    slope, start = np.polyfit(truth, fold(adata), 1)
    assert 0.85 < slope < 1.1
    assert abs(start) < 0.15
    dw.tl.pseudobulk(adata, "~ condition + (1 | donor)", donor="donor", sample="sample", **QUIET)
    assert 0.85 < np.polyfit(fold(adata, key="pseudobulk"), fold(adata), 1)[0] < 1.15


def test_no_difference_is_exactly_zero():
    """The same cells in both arms."""
    half = cohort()
    half = half[half.obs["condition"] == "control"].copy()
    other = half.copy()
    other.obs["donor"] = pd.Categorical("X" + other.obs["donor"].astype(str))
    other.obs["condition"] = "case"
    both = ad.concat([half, other[np.random.default_rng(0).permutation(other.n_obs)]], index_unique="-")
    both.obs["condition"] = pd.Categorical(both.obs["condition"], ["control", "case"])
    for column in ("donor", "sample"):
        both.obs[column] = pd.Categorical(both.obs[column])
    both.uns["log1p"] = {"base": None}
    for ddf in ("kenward-roger", "between-within"):
        dw.tl.lmm(both, "~ condition + log_depth + (1 | donor)", ddf=ddf, **QUIET)
        np.testing.assert_allclose(fold(both), 0.0, atol=1e-12)
    alike = half.copy()
    alike.X = np.tile(np.log1p([3.0, 0.0, 5.0, 2.0]), (half.n_obs, 3)) * (np.arange(half.n_obs) % 2)[:, None]
    alike.obs["condition"] = pd.Categorical(
        np.where(alike.obs["donor"].cat.codes % 2, "case", "control"), ["control", "case"]
    )
    keep = alike.obs.groupby("sample", observed=True).cumcount() < 12
    alike = alike[keep].copy()
    alike.X = np.tile(alike.X[:2], (alike.n_obs // 2, 1))
    dw.tl.lmm(alike, "~ condition + (1 | donor)", ddf="between-within", **QUIET)
    assert (fold(alike).dropna() == 0).all()


def test_rare_features_do_not_explode(adata):
    rare = adata.copy()
    counts = np.zeros(rare.shape)
    case = np.flatnonzero(rare.obs["condition"] == "case")
    counts[case[:2], 0] = 1
    counts[np.arange(0, rare.n_obs, 3), 1] = 1  # a third of the cells, in both arms
    rare.X = sparse.csr_matrix(np.log1p(counts * 5))
    dw.tl.lmm(rare, "~ condition + (1 | donor)", ddf="kenward-roger", **QUIET)
    assert 0 < fold(rare)["g0"] < 1  # two counts against none
    assert abs(fold(rare)["g1"]) < 0.3


def test_contrasts_are_linear(adata):
    three = adata.copy()
    three.obs["arm"] = pd.Categorical(np.array(["a", "b", "c"])[three.obs["donor"].cat.codes % 3])
    contrasts = {"b-a": {"arm[T.b]": 1}, "c-a": {"arm[T.c]": 1}, "c-b": {"arm[T.c]": 1, "arm[T.b]": -1}}
    dw.tl.lmm(three, "~ arm + (1 | donor)", contrasts=contrasts, ddf="kenward-roger", **QUIET)
    b, c, difference = (fold(three, name) for name in contrasts)
    np.testing.assert_allclose(c - b, difference, atol=1e-10)
    again = three.copy()
    again.obs["arm"] = again.obs["arm"].cat.reorder_categories(["b", "a", "c"])
    dw.tl.lmm(again, "~ arm + (1 | donor)", contrasts=["arm[T.c]"], ddf="kenward-roger", **QUIET)
    np.testing.assert_allclose(fold(again, "arm[T.c]"), difference, atol=1e-8)
    means = {"level": {"Intercept": 1, "arm[T.b]": 1}}
    dw.tl.lmm(three, "~ arm + (1 | donor)", contrasts=means, **QUIET)
    assert fold(three, "level").isna().all()
    dw.tl.lmm(three, "~ 0 + time + (1 | donor)", contrasts=["time"], **QUIET)
    assert fold(three, "time").isna().all()


# ---------------------------------------------------------------- every way to it


@pytest.mark.parametrize(
    "formula", ["~ condition + log_depth + (1 | donor)", "~ condition * kind + log_depth + (1 | donor) + (1 | sample)"]
)
@pytest.mark.parametrize("weights", [None, "weight"])
def test_collapsed_rows_give_the_same(adata, formula, weights, tmp_path):
    given = adata.copy()
    rows = dw.pp.collapse(
        given, ["donor", "sample", "condition", "kind"], covariates="log_depth", weights=weights, **QUIET
    )
    halves = [
        dw.pp.collapse(
            given[i::2], ["donor", "sample", "condition", "kind"], covariates="log_depth", weights=weights, **QUIET
        )
        for i in range(2)
    ]
    rows.write_h5ad(tmp_path / "rows.h5ad")
    in_file = dw.pp.collapse(
        given, ["donor", "sample", "condition", "kind"], covariates="log_depth", weights=weights, out=tmp_path / "file.zarr",
        max_memory=1e-4, **QUIET,
    )  # fmt: skip
    dw.tl.lmm(given, formula, weights=weights, **QUIET)
    for own in (rows, dw.pp.merge_collapsed(halves), ad.read_h5ad(tmp_path / "rows.h5ad"), in_file):
        dw.tl.lmm(own, formula, **QUIET)
        np.testing.assert_allclose(fold(own), fold(given), rtol=1e-10, atol=1e-10)
        assert own.uns["lmm"]["params"]["log_base"] == np.e


def test_rows_of_before_have_none_and_say_so(adata):
    rows = dw.pp.collapse(adata, ["donor", "condition"], **QUIET)
    old = rows.copy()
    del old.layers["abundance"], old.uns["donorwise_collapsed"]["scale"]
    merged = dw.pp.merge_collapsed([old, dw.pp.collapse(cohort(7), ["donor", "condition"], **QUIET)])
    for own in (old, merged):
        with pytest.warns(DonorwiseWarning, match="log_fc is left empty") as said:
            dw.tl.lmm(own, "~ condition + (1 | donor)", **QUIET)
        assert sum("log_fc" in str(w.message) for w in said) == 1
        assert fold(own).isna().all()
        assert fold(own, column="estimate").notna().all()


@pytest.mark.parametrize(
    "container", [sparse.csc_matrix, sparse.csr_array, lambda x: x.toarray(), lambda x: np.asfortranarray(x.toarray())]
)
@pytest.mark.parametrize("groupby", [None, "kind"])
def test_containers_and_order(adata, container, groupby):
    formula = "~ condition + log_depth + (1 | donor)"
    first, other = adata.copy(), adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    other.X = container(other.X)
    for own in (first, other):
        dw.tl.lmm(own, formula, groupby=groupby, **QUIET)
    keys = ["variable", "group", "contrast"]
    tables = [dw.get.tests(own).sort_values(keys).reset_index(drop=True) for own in (first, other)]
    np.testing.assert_allclose(tables[0]["log_fc"], tables[1]["log_fc"], rtol=1e-9, atol=1e-9)


def test_float32_is_read_as_it_is(adata):
    single = adata.copy()
    single.X = single.X.astype(np.float32)
    double = adata.copy()
    double.X = single.X.astype(np.float64)
    for own in (single, double):
        dw.tl.lmm(own, "~ condition + (1 | donor)", **QUIET)
    np.testing.assert_allclose(fold(single), fold(double), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("base", ["e", 2, 10])
def test_base_of_x_and_of_layers(adata, base):
    number = np.e if base == "e" else float(base)
    given = adata.copy()
    given.layers["lognorm"] = given.X / np.log(number)
    dw.tl.lmm(given, "~ condition + (1 | donor)", **QUIET)
    expected = fold(given)
    dw.tl.lmm(given, "~ condition + (1 | donor)", layer="lognorm", log_base=base, **QUIET)
    np.testing.assert_allclose(fold(given), expected, rtol=1e-9, atol=1e-9)
    assert given.uns["lmm"]["params"]["log_base"] == number
    rows = dw.pp.collapse(given, ["donor", "condition"], layer="lognorm", log_base=base, **QUIET)
    dw.tl.lmm(rows, "~ condition + (1 | donor)", **QUIET)
    np.testing.assert_allclose(fold(rows), expected, rtol=1e-9, atol=1e-9)
    given.X = given.layers["lognorm"]
    given.uns["log1p"] = {"base": None if base == "e" else base}
    given.donorwise.lmm("~ condition + (1 | donor)", **QUIET)
    np.testing.assert_allclose(fold(given), expected, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- no logarithms


def scales(adata: ad.AnnData) -> dict[str, Any]:
    X, counts = adata.X.toarray(), adata.layers["counts"].toarray()
    cpm = counts / np.exp(adata.obs["log_depth"].to_numpy())[:, None] * 1e6
    sd = X.std(axis=0, ddof=1)
    return {
        "cpm": cpm,
        "sqrt": np.sqrt(cpm),
        "scaled": X / sd,
        "centred": (X - X.mean(axis=0)) / sd,
        "single": sparse.csr_matrix((X / sd).astype(np.float32)),
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cpm", "no logarithms"),
        ("sqrt", "no logarithms"),
        ("scaled", "standard deviation of one"),
        ("centred", "below zero"),
        ("single", "standard deviation of one"),
    ],
)
def test_x_that_is_no_logarithm(adata, name, said):
    given = adata.copy()
    given.X = scales(adata)[name]
    rows, more = (dw.pp.collapse(own, ["donor", "condition"], **QUIET) for own in (given, cohort(7)))
    for own in (given, rows, dw.pp.merge_collapsed([rows, more])):
        with pytest.warns(DonorwiseWarning, match=said) as caught:
            dw.tl.lmm(own, "~ condition + (1 | donor)", **QUIET)
        assert sum("log_fc is left empty" in str(w.message) for w in caught) == 1
        assert fold(own).isna().all()
        assert np.isnan(own.uns["lmm"]["params"]["log_base"])
        assert fold(own, column="estimate").notna().all()


@pytest.mark.parametrize("name", ["cpm", "sqrt", "scaled", "centred", "lognorm", "counts"])
def test_layers_have_the_base_they_are_given(adata, name):
    given = adata.copy()
    for key, values in {**scales(adata), "lognorm": given.X}.items():
        given.layers[key] = values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.lmm(given, "~ condition + (1 | donor)", layer=name, **QUIET)
    assert fold(given).isna().all()
    assert np.isnan(given.uns["lmm"]["params"]["log_base"])
    if name in ("cpm", "counts", "centred"):
        with pytest.raises(DataError, match="log_base= says that layers/"):
            dw.tl.lmm(given, "~ condition + (1 | donor)", layer=name, log_base="e", **QUIET)


def test_scores_have_none_unless_a_base_is_given(adata):
    given = adata.copy()
    given.obs["score"] = given.X[:, [0]].toarray()[:, 0]
    given.obsm["proteins"] = given.X[:, :5].toarray()
    dw.tl.lmm(given, "~ condition + (1 | donor)", obs_keys="score", **QUIET)
    assert dw.get.tests(given)["log_fc"].isna().all()
    dw.tl.lmm(given, "~ condition + (1 | donor)", obsm="proteins", ddf="kenward-roger", log_base="e", **QUIET)
    own = dw.get.tests(given).set_index("variable")["log_fc"].loc["proteins_1"]
    dw.tl.lmm(given, "~ condition + (1 | donor)", ddf="kenward-roger", **QUIET)
    np.testing.assert_allclose(own, fold(given)["g0"], rtol=1e-10)


@pytest.mark.parametrize("base", ["ln", 1, 0, -2, np.inf, np.nan, True, [2]])
def test_what_is_no_base(adata, base):
    with pytest.raises(DataError, match="no base of a logarithm: give 'e'"):
        dw.tl.lmm(adata, "~ condition + (1 | donor)", log_base=base, **QUIET)


def test_base_of_rows_is_that_of_their_cells(adata):
    rows = dw.pp.collapse(adata, ["donor", "condition"], **QUIET)
    dw.tl.lmm(rows, "~ condition + (1 | donor)", log_base="e", **QUIET)
    with pytest.raises(DataError, match="log_base=2: these rows .* base 2.71828; give log_base= to dw.pp.collapse"):
        dw.tl.lmm(rows, "~ condition + (1 | donor)", log_base=2, **QUIET)


def test_logarithms_are_not_taken_for_scaled(adata):
    assert not is_scaled(adata.X)
    assert is_scaled(scales(adata)["scaled"])
    assert is_scaled(scales(adata)["single"])
    proteins = np.random.default_rng(0).normal(4, 1, (300, 6)).clip(0)
    assert is_scaled(proteins / proteins.std(axis=0))


# ---------------------------------------------------------------- what does not need it


def test_what_refits_reads_no_abundances(adata, monkeypatch):
    from donorwise._core.engine import lmm as engine

    given = cohort(n_genes=110, n_cells=8)
    dw.tl.lmm(given, "~ condition + (1 | donor)", **QUIET)

    def refuse(*_: Any) -> None:
        raise AssertionError("abundances are made")

    monkeypatch.setattr(engine, "find_units", refuse)
    dw.tl.influence(given, **QUIET)
    dw.tl.calibrate(given, "~ condition + (1 | donor)", contrast=CONTRAST, n_permutations=2, **QUIET)
    dw.tl.power(given, n_donors=(8,), **QUIET)
