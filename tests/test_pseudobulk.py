"""The count-scale model: sums over cells, likelihood, inference, and the face."""

from __future__ import annotations

import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.special import ndtr

import donorwise as dw
from donorwise._core.cells.collapse import collapse
from donorwise._core.design.build import build_design
from donorwise._core.inference.moderation import Learned, moderated_tests
from donorwise._core.inference.prior import Prior
from donorwise._core.models.law import tensor
from donorwise._core.models.lograte.model import LogRateModel, unit_design
from donorwise._core.models.lograte.units import LogRates, depths_of_units, log_rates
from donorwise.errors import DataError, DesignError, DonorwiseWarning

if TYPE_CHECKING:
    from pathlib import Path

    from donorwise._typing import FloatArray, IntArray

KEY = "pseudobulk"
TESTED, OF_THE_T = ["estimate", "p_value", "adj_p_value", "log_fc"], ["se", "df", "ci_low", "ci_high"]
# Sums in another order differ by rounding, which the iterations that learn the prior enlarge.
RTOL, ATOL = 1e-5, 1e-7
_INTERCEPT = {"Intercept": 1}


def _units(random: bool) -> pd.DataFrame:
    """Ten units of five or ten donors, in no order, with a number and a factor."""
    rng = np.random.default_rng(5)
    donors = np.array(list("caebdcbade") if random else list("jcaebdihgf"))
    return pd.DataFrame({"donor": donors, "arm": list("xyxyyxxyxy"), "age": rng.normal(60, 9, 10)})


def _model(random: bool, n_genes: int = 4) -> tuple[LogRateModel, pd.DataFrame]:
    table = _units(random)
    units = unit_design(build_design("~ arm + age" + (" + (1 | donor)" if random else ""), table))
    rng = np.random.default_rng(6)
    shape = (n_genes, units.order.size)
    rates = LogRates(rng.normal(-8, 1, shape), rng.uniform(0.01, 1.0, shape), np.ones(n_genes))
    depths = depths_of_units(np.ones(10), units.order, 10)
    return LogRateModel(np.arange(n_genes), units, depths, rates, np.arange(1.0, n_genes + 1)), table


def _axes(*points: int) -> list[FloatArray]:
    """Grids of the variances, zero first."""
    return [np.concatenate([[0.0], np.geomspace(1e-4, 25, n - 1)]) for n in points]


@pytest.mark.parametrize("random", [False, True])
def test_likelihood_and_gls_equal_dense_algebra(random: bool) -> None:
    model, table = _model(random)
    rates = model.rates
    points = tensor(_axes(5, 4) if random else _axes(7))
    L = np.array([[0.0, 1.0, 0.0], [1.0, 0.5, 60.0]])
    law = model.law(points, L)
    own = table.iloc[model.units.order]
    X = np.column_stack([np.ones(10), own["arm"] == "y", own["age"]]).astype(float)
    same = np.equal.outer(own["donor"].to_numpy(), own["donor"].to_numpy())
    for g in range(4):
        for k, point in enumerate(points):
            V = np.diag(rates.v[g] + point[0]) + (point[1] * same if random else 0.0)
            W = np.linalg.inv(V)
            cov = np.linalg.inv(X.T @ W @ X)
            beta = cov @ X.T @ W @ rates.y[g]
            r = rates.y[g] - X @ beta
            # the kernel works in an orthonormal basis, whose determinant is that of the formula's but for |R|^2
            logdet_X = -np.linalg.slogdet(cov)[1] + 2 * np.linalg.slogdet(model.units.inverse)[1]
            expected = -0.5 * (np.linalg.slogdet(V)[1] + logdet_X + r @ W @ r)
            assert law.loglik[g, k] == pytest.approx(expected, rel=1e-9)
            np.testing.assert_allclose(law.centre[g, k], L @ beta, rtol=1e-8)
            np.testing.assert_allclose(law.scale[g, k], np.sqrt(np.einsum("ip,pq,iq->i", L, cov, L)), rtol=1e-8)


@pytest.mark.parametrize("random", [False, True])
def test_known_variance_gives_the_z_test(random: bool) -> None:
    model, _ = _model(random)
    axes = _axes(6, 5) if random else _axes(6)
    points = tensor(axes)
    weights = np.zeros((6, len(points)))
    weights[:, 3] = 1.0
    prior = Prior(tuple(axes), *model.components(), weights, np.linspace(0, 1, 6), np.zeros(1), 4)
    L = np.array([[0.0, 1.0, 0.0]])
    tested = moderated_tests(model, L, Learned(prior, np.linspace(0, 1, 4), np.full(4, -1), np.empty((0, 0))), 0.95)
    law = model.law(points[3:4], L)
    z = law.root[:, 0, 0]
    np.testing.assert_allclose(z, law.centre[:, 0, 0] / law.scale[:, 0, 0])
    np.testing.assert_allclose(tested.tests.p_value[:, 0], 2 * ndtr(-np.abs(z)), rtol=1e-9)
    np.testing.assert_allclose(tested.tests.se[:, 0], law.scale[:, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(tested.variances, np.tile(points[3], (4, 1)))


def _cells(seed: int = 0) -> tuple[FloatArray, FloatArray, IntArray]:
    """Counts (cells, genes), depths, and units of cells; one gene without dispersion."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(300, 2000, 600)
    codes = rng.integers(0, 8, 600)
    mean = depth[:, None] * np.array([1e-3, 4e-3, 5e-4]) * np.exp(rng.normal(0, 0.2, (8, 3)))[codes]
    phi = np.array([0.5, 0.2, 1.0])
    return rng.poisson(mean * rng.gamma(1 / phi, phi, mean.shape)).astype(float), depth, codes


def test_unit_sums_and_dispersion_equal_loops_over_cells() -> None:
    x, depth, codes = _cells()
    Q = np.linalg.qr(np.column_stack([np.ones(8), np.arange(8) % 2]))[0]
    depths = depths_of_units(depth, codes, 8)
    rates = log_rates(collapse(sparse.csr_matrix(x), codes, 8, covariates=depth[:, None]), depths, Q)
    excess, slope = np.zeros(3), np.zeros(3)
    for s in range(8):
        own, l = x[codes == s], depth[codes == s]
        C, total = own.sum(axis=0), l.sum()
        np.testing.assert_allclose(np.exp(rates.y[:, s]) * total - 0.5, C, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(rates.y[:, s], np.log((C + 0.5) / total))
        assert depths.share[s] == pytest.approx((l**2).sum() / total**2)
        for i in range(3):
            excess[i] += ((own[:, i] - l * C[i] / total) ** 2).sum() - C[i] / total * (total - (l**2).sum() / total)
            leverage = (l**2 * (1 - l / total) ** 2).sum() + (l**2).sum() ** 2 / total**2 - (l**4).sum() / total**2
            slope[i] += C[i] * (C[i] - 1) / total**2 * leverage
    np.testing.assert_allclose(rates.dispersion, np.maximum(excess / slope, 0))


def test_dispersion_and_sampling_variance_match_simulation() -> None:
    """Units with one rate: phi is recovered, and v is the variance of the log rate over repetitions."""
    rng = np.random.default_rng(2)
    depth, codes, n = rng.uniform(300, 2000, 480), np.repeat(np.arange(6), 80), 3000
    phi, mean = 0.6, depth[:, None] * np.full(n, 3e-4)
    x = rng.poisson(mean * rng.gamma(1 / phi, phi, mean.shape)).astype(float)
    depths = depths_of_units(depth, codes, 6)
    rates = log_rates(collapse(x, codes, 6, covariates=depth[:, None]), depths, np.full((6, 1), 6**-0.5))
    # mean of a moment estimate that is cut off at zero in few genes; its standard error is .005
    assert rates.dispersion.mean() == pytest.approx(phi, abs=0.03)
    np.testing.assert_allclose(rates.v.mean(axis=0), rates.y.var(axis=0), rtol=0.1)


def _cohort(design: str = "case-control", **options: object) -> ad.AnnData:
    settings = {"n_donors": 8, "n_cells": 960, "n_genes": 150, "cell_types": ("T", "B"), "seed": 3} | options
    return dw.datasets.simulate_cohort(design, **settings)  # type: ignore[arg-type]


def _table(adata: ad.AnnData, formula: str = "~ condition", **options: object) -> pd.DataFrame:
    dw.tl.pseudobulk(adata, formula, progress=False, **options)  # type: ignore[arg-type]
    return dw.get.tests(adata, key=KEY, sort_by=None)


def _assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one[["variable", "group", "status"]], other[["variable", "group", "status"]])
    np.testing.assert_allclose(one[TESTED], other[TESTED], rtol=RTOL, atol=ATOL)
    known = ~(one["p_value"] > 0.99)  # the t of others rests on the last digits of the estimate and of 1 - p
    np.testing.assert_allclose(one.loc[known, OF_THE_T], other.loc[known, OF_THE_T], rtol=RTOL, atol=ATOL)


def test_order_of_cells_container_and_workers_do_not_matter() -> None:
    adata = _cohort()
    expected = _table(adata, groupby="cell_type", n_jobs=1)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    shuffled.layers["counts"] = shuffled.layers["counts"].toarray()
    shuffled.obs["donor_id"] = shuffled.obs["donor_id"].cat.reorder_categories(
        shuffled.obs["donor_id"].cat.categories[::-1]
    )
    _assert_same(_table(shuffled, groupby="cell_type", n_jobs=2), expected)


def test_units_of_depth_do_not_matter() -> None:
    adata = _cohort()
    expected = _table(adata, "~ condition + sex")
    adata.obs["depth"] = 1e-4 * np.ravel(adata.layers["counts"].sum(axis=1))
    _assert_same(_table(adata, "~ condition + sex", depth="depth"), expected)
    intercept = {"level": [1.0, 0.0, 0.0]}
    scaled = _table(adata, "~ condition + sex", depth="depth", contrasts=intercept)
    plain = _table(adata, "~ condition + sex", contrasts=intercept)
    np.testing.assert_allclose(scaled["estimate"], plain["estimate"] + np.log(1e4), rtol=RTOL)


def test_random_term_of_the_units_is_the_variance_between_them() -> None:
    adata = _cohort()
    _assert_same(_table(adata, "~ condition + (1 | donor_id)"), _table(adata))


@pytest.mark.parametrize("formula", ["~ condition + (1 | donor_id)", "~ condition + donor_id"])
def test_paired_design(formula: str) -> None:
    """Two units per donor; the effects are those simulated, with less error than unpaired."""
    adata = _cohort("paired", cell_types=("T",), donor_sd=0.6, slope_sd=0.05, de_fraction=0.3)
    table = _table(adata, formula, contrasts=[_condition(adata)])
    assert table["status"].eq("ok").all() and table["n_donors"].eq(8).all()
    truth = adata.var["true_log_fc"].to_numpy()
    z = (table["estimate"] - np.log(2) * truth) / table["se"]
    assert 0.6 < np.std(z) < 1.5
    with pytest.warns(DonorwiseWarning, match="8 donors have several units"):
        unpaired = _table(adata, "~ condition")
    assert table["se"].median() < 0.7 * unpaired["se"].median()


def _condition(adata: ad.AnnData) -> str:
    return f"condition[T.{adata.obs['condition'].cat.categories[1]}]"


def test_type_one_error() -> None:
    """Without effects 5% of the genes are found, of those with few counts as well; sampling noise alone finds many more."""
    adata = _cohort(
        cell_types=("T",), n_donors=12, n_cells=3000, n_genes=1200, de_fraction=0.0, donor_sd=0.4, depth_sd=0.3
    )
    table = _table(adata)
    assert 0.03 < (table["p_value"] < 0.05).mean() < 0.07
    rare = np.argsort(np.ravel(adata.layers["counts"].sum(axis=0)))[:400]
    assert 0.02 < (table["p_value"].iloc[rare] < 0.05).mean() < 0.08


def test_few_genes_take_reml_and_t(caplog: pytest.LogCaptureFixture) -> None:
    adata = _cohort()
    mask = np.arange(adata.n_vars) < 60
    with caplog.at_level(logging.INFO, logger="donorwise"):
        table = _table(adata, mask_var=mask)
    assert "too few to learn a prior" in caplog.text
    params = adata.uns[KEY]["params"]
    assert params["ddf"] == "moderated" and params["ddf_used"]["values"] == ["between-within"]
    assert len(params["ddf_reasons"]["names"]) == 1 and not params["reasons"]["names"]
    np.testing.assert_allclose(table["df"], 6, rtol=1e-3)
    assert table["status"].eq("ok").all()


def test_statuses_and_groups() -> None:
    """A gene without counts, a group without a second arm, and cells without a donor all have their place."""
    adata = _cohort()
    counts = adata.layers["counts"].toarray()
    counts[:, 0] = 0
    adata.layers["counts"] = sparse.csr_matrix(counts)
    arm = adata.obs["condition"].to_numpy()
    first = adata.obs["condition"].cat.categories[0]
    adata = adata[(adata.obs["cell_type"] == "T").to_numpy() | (arm == first)].copy()
    adata.obs["donor_id"] = adata.obs["donor_id"].astype(object)
    adata.obs.iloc[0, adata.obs.columns.get_loc("donor_id")] = np.nan
    with pytest.warns(DonorwiseWarning, match="1 of .* cells are left out"):
        table = _table(adata, groupby="cell_type")
    by = table.set_index(["group", "variable"])["status"]
    assert by.loc["T"].iloc[0] == "constant" and by.loc["T"].iloc[1:].eq("ok").all()
    assert by.loc["B"].eq("not_estimable").all() and len(by) == 2 * adata.n_vars
    assert adata.uns[KEY]["params"]["reasons"]["names"] == ["B"]


@pytest.mark.parametrize(
    ("formula", "options", "error", "match"),
    [
        ("~ condition", {"layer": None}, DataError, "does not hold raw counts"),
        ("~ condition", {"layer": "halves"}, DataError, "has the value 0.5"),
        ("~ condition", {"layer": "nothing"}, DataError, "no layer"),
        ("~ condition", {"depth": "sex"}, DataError, "not a numeric column"),
        ("~ condition", {"depth": "negative"}, DataError, "not negative"),
        ("~ condition", {"donor": "nobody"}, DesignError, "not a column"),
        ("~ condition + log_depth", {}, DesignError, "differs from cell to cell"),
        ("~ condition + (condition | donor_id)", {}, DesignError, "one random intercept"),
        ("~ 1 + (1 | condition) + (1 | sex)", {}, DesignError, "one random intercept"),
        ("~ condition + donor_id", {}, DesignError, "fixed effects"),
    ],
)
def test_errors_come_before_any_change(formula: str, options: dict[str, str], error: type, match: str) -> None:
    adata = _cohort()
    adata.layers["halves"] = adata.layers["counts"] / 2
    adata.obs["negative"] = -1.0
    with pytest.raises(error, match=match):
        _table(adata, formula, **options)
    assert KEY not in adata.uns


@pytest.mark.parametrize(
    ("case", "groupby", "says"),
    [
        ("2 v 2", None, r"^condition.* compares 2 donors with 2: the result can hang on a single donor"),
        ("2 v 2", "cell_type", r"^T, B: condition.* compares 2 donors with 2"),
        ("4 v 1", None, r"compares 1 donor with 4: one donor cannot show"),
        ("4 v 1 in T", "cell_type", r"^T: condition.* compares 1 donor with 4"),
        ("1 cell", None, "Most units are a single cell"),
        ("nearly", None, "more than 99% explained by `nearly`"),
        ("nearly", "cell_type", "more than 99% explained by `nearly`"),
        ("split", None, "`split` p, q occur in one level of `condition` only"),
        ("4 v 4", "cell_type", None),
        ("4 v 4", None, None),
    ],
)
def test_few_donors_and_confounding_are_told(case: str, groupby: str | None, says: str | None) -> None:
    adata = _cohort(de_fraction=0.0)
    arm = adata.obs["condition"].cat.codes.to_numpy()
    place = adata.obs.groupby("condition", observed=True)["donor_id"].transform(
        lambda donors: donors.cat.remove_unused_categories().cat.codes
    )
    place = place.to_numpy(dtype=int)
    last = (arm == 1) & (place > 0)
    kept = {
        "2 v 2": place < 2,
        "4 v 1": ~last,
        "4 v 1 in T": ~(last & (adata.obs["cell_type"] == "T").to_numpy()),
        "1 cell": ~adata.obs["donor_id"].duplicated().to_numpy(),
    }
    adata.obs["nearly"] = 10.0 * arm + 0.1 * (place % 3)
    adata.obs["split"] = np.where(arm * 4 + place < 3, "p", np.where(arm * 4 + place > 4, "q", "r"))
    formula = f"~ condition + {case}" if case in ("nearly", "split") else "~ condition"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        _table(adata[kept.get(case, slice(None))].copy(), formula, groupby=groupby)
    texts = [str(w.message) for w in found if issubclass(w.category, DonorwiseWarning)]
    assert sum(re.search(says, text) is not None for text in texts) == 1 if says else not texts


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"groupby": "celltype"}, r"^groupby='celltype' is not a column of obs; did you mean `cell_type`\?$"),
        (
            {"groupby": ["cell_type", "celltype"]},
            r"^groupby='celltype' is not a column of obs; did you mean `cell_type`\?$",
        ),
        ({"donor": "zz"}, "^donor='zz' is not a column of obs; it has"),
        ({"sample": "zz"}, "^sample='zz' is not a column of obs; it has"),
    ],
)
def test_columns_that_are_not_there_are_named_with_their_argument(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DesignError, match=says):
        _table(_cohort(), **options)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_counts_that_are_not_finite_are_one_clear_error(value: float) -> None:
    adata = _cohort()
    adata.layers["counts"] = adata.layers["counts"].astype(np.float64)
    adata.layers["counts"].data[7] = value
    with warnings.catch_warnings(), pytest.raises(DataError, match=f"raw counts: it has the value {value:g}"):
        warnings.simplefilter("error")
        _table(adata)


@pytest.mark.parametrize(
    ("formula", "contrasts", "is_level"),
    [
        ("~ 1", None, [True]),
        ("~ condition", [_INTERCEPT, ("condition", "disease", "control")], [True, False]),
        ("~ 0 + condition", [{"condition[control]": 1}, ("condition", "disease", "control")], [True, False]),
    ],
)
@pytest.mark.parametrize("tool", ["pseudobulk", "lmm"])
def test_a_level_has_no_fold_change(tool: str, formula: str, contrasts: list[object], is_level: list[bool]) -> None:
    adata = _cohort()
    if tool == "lmm":
        dw.tl.lmm(adata, f"{formula} + log_depth + (1 | donor_id)", contrasts=contrasts or _INTERCEPT, progress=False)
        table = dw.get.tests(adata, sort_by=None)
    else:
        table = _table(adata, formula, contrasts=contrasts)
    missing = table.groupby("contrast", observed=True, sort=False)["log_fc"].apply(lambda own: own.isna().all())
    assert list(missing) == is_level
    rest = table[~table["contrast"].isin(missing.index[missing])]
    if tool == "lmm":
        assert rest["log_fc"].notna().equals(rest["estimate"].notna())
    else:
        np.testing.assert_allclose(rest["log_fc"], rest["estimate"] / np.log(2))


def test_donor_must_be_known() -> None:
    adata = _cohort()
    adata.obs = adata.obs.rename(columns={"donor_id": "who"})
    with pytest.raises(DesignError, match="give donor="):
        _table(adata)
    assert _table(adata, donor="who")["n_donors"].eq(8).all()


def test_samples_are_units_where_asked_or_where_the_donor_has_a_term() -> None:
    adata = _cohort(cell_types=("T",))
    adata.obs["sample_id"] = adata.obs["donor_id"].astype(str) + np.where(np.arange(adata.n_obs) % 2, "a", "b")

    def units(formula: str, **options: object) -> str:
        _table(adata, formula, **options)
        return str(adata.uns[KEY]["params"]["units"])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert units("~ condition") == "donor_id"
        assert units("~ condition + (1 | donor_id)") == "donor_id:sample_id"
    with pytest.warns(DonorwiseWarning, match="several units"):
        assert units("~ condition", sample="sample_id") == "donor_id:sample_id"


def test_readers_and_files(tmp_path: Path) -> None:
    adata = _cohort()
    table = _table(adata, groupby="cell_type")
    assert list(table.columns) == list(dw.get.tests(_fitted_lmm(adata), key="lmm").columns)
    np.testing.assert_allclose(table["log_fc"], table["estimate"] / np.log(2))
    parts = dw.get.variance_partition(adata, key=KEY)
    sums = parts.groupby(["variable", "group"], observed=True)["fraction"].sum()
    np.testing.assert_allclose(sums, 1)
    assert dw.get.icc(adata, key=KEY)["icc"].between(0, 1).all()
    assert set(dw.get.varcomp(adata, key=KEY)["term"]) == {"donor_id", "Residual", "dispersion"}
    dw.pl.volcano(adata, key=KEY, group="T", show=False)
    dw.pl.icc(adata, key=KEY, show=False)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = dw.get.tests(ad.read_h5ad(tmp_path / "a.h5ad"), key=KEY, sort_by=None)
    np.testing.assert_array_equal(again[TESTED + OF_THE_T], table[TESTED + OF_THE_T])


def _fitted_lmm(adata: ad.AnnData) -> ad.AnnData:
    dw.tl.lmm(adata, "~ condition + log_depth + (1 | donor_id)", groupby="cell_type", progress=False)
    return adata
