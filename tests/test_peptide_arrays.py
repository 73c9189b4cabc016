"""`fit_lmm(features=)`: peptides in arrays, every protein a mixed model of its own."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from tests._peptides import FORMULA, Peptides, dense, peptides

import donorwise as dw
from donorwise._core.models.law import tensor
from donorwise.errors import DataError, DesignError, DonorwiseError, DonorwiseWarning

NUMBERS = ["estimate", "se", "statistic", "df", "p_value", "ci_low", "ci_high"]


@cache
def data(n_proteins: int = 12, **options: Any) -> Peptides:
    return peptides(n_proteins, **options)


def fitted(own: Peptides, formula: str = FORMULA, **options: Any) -> dw.PeptideFit:
    given: dict[str, Any] = {"features": own.proteins, "weights": own.W} | options
    fit = dw.fit_lmm(own.Y, own.obs, formula, **given)
    assert isinstance(fit, dw.PeptideFit)
    return fit


@cache
def many() -> dw.PeptideFit:
    return fitted(data(150, arms=("a", "b", "c")))


def same(a: pd.DataFrame, b: pd.DataFrame, rtol: float = 1e-10) -> None:
    """Equal rows by variable, level and column, whatever their order; equal texts; numbers to `rtol`."""
    keys = [c for c in ("variable", "contrast", "term", "level", "column", "column1") if c in a]
    a, b = (t.astype(dict.fromkeys(keys, str)).sort_values(keys).reset_index(drop=True) for t in (a, b))
    assert list(a) == list(b) and len(a) == len(b)
    for name in a:
        if pd.api.types.is_float_dtype(a[name]):
            np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-12, err_msg=name)
        else:
            assert a[name].astype(str).tolist() == b[name].astype(str).tolist(), name


def test_it_is_what_the_tool_gives() -> None:
    own = data(120)
    adata = ad.AnnData(own.Y.to_numpy(), obs=own.obs, var=pd.DataFrame({"protein": own.proteins}, index=own.Y.columns))
    adata.layers["w"] = own.W.to_numpy()
    dw.tl.lmm(adata, FORMULA, features="protein", weights_layer="w", progress=False)
    fit = fitted(own)
    same(fit.test(), adata.uns["lmm"]["results"][fit.test().columns])
    same(fit.varcomp(), adata.uns["lmm"]["varcomp"][fit.varcomp().columns])
    same(fit.icc(), adata.uns["lmm"]["icc"][["variable", "term", "icc"]])


@pytest.mark.parametrize("n_proteins", [12, 120])
def test_order_changes_nothing(n_proteins: int) -> None:
    own, rng = data(n_proteins), np.random.default_rng(5)
    run, peptide = rng.permutation(len(own.obs)), rng.permutation(len(own.proteins))
    other = Peptides(
        own.Y.iloc[run, peptide], own.W.iloc[run, peptide], own.obs.iloc[run], [own.proteins[i] for i in peptide]
    )
    a, b = fitted(own), fitted(other)
    for ddf in ("moderated", "kenward-roger", "satterthwaite", "between-within", "residual"):
        same(a.test(ddf=ddf), b.test(ddf=ddf))  # type: ignore[arg-type]
    for method in ("varcomp", "icc"):
        same(getattr(a, method)(), getattr(b, method)(), rtol=1e-9)  # that of 13 is known to 3e-10
    for group in ("peptide", "donor"):
        same(a.ranef(group), b.ranef(group), rtol=1e-9)
    same(a.at_ml().test(ddf="satterthwaite"), b.at_ml().test(ddf="satterthwaite"))


def test_containers_of_responses_and_weights_are_alike() -> None:
    own = data()
    whole, names = fitted(own).test(), list(own.Y.columns)
    Y, W = own.Y.to_numpy(), own.W.to_numpy()
    holes = np.where(np.isnan(Y), np.nan, W)
    for y, w in [
        (Y, W), (own.Y, sparse.csr_matrix(W)), (sparse.csr_array(Y), holes), (sparse.coo_array(Y), own.W),
        (own.Y.astype(np.float64), sparse.csc_array(np.nan_to_num(holes))),
    ]:  # fmt: skip
        same(dw.fit_lmm(y, own.obs, FORMULA, features=own.proteins, weights=w).test(), whole)
    by_name = dict(zip(names, own.proteins, strict=True))
    backwards = pd.Series(by_name).iloc[::-1]
    var = pd.DataFrame({"protein": own.proteins}, index=names)
    for given in ({"features": by_name}, {"features": backwards}, {"features": np.array(own.proteins)},
                  {"features": pd.Series(own.proteins)}, {"features": pd.Categorical(own.proteins)},
                  {"features": "protein", "var": var}):  # fmt: skip
        same(fitted(own, **given).test(), whole)


def test_weights_of_zero_are_missing_and_those_of_runs_apply_to_all() -> None:
    own = data()
    left_out = np.random.default_rng(1).random(own.W.shape) < 0.1
    zero, nan = own.W.mask(left_out, 0.0), own.W.mask(left_out)
    missing = replace(own, Y=own.Y.mask(left_out))
    expected = fitted(missing)
    for W in (zero, nan):
        fit = fitted(own, weights=W)
        same(fit.test(), expected.test())
        np.testing.assert_array_equal(fit.n_missing, expected.n_missing)
    of_runs = np.random.default_rng(2).uniform(0.5, 2, len(own.obs))
    spread = np.repeat(of_runs[:, None], own.W.shape[1], axis=1)
    with_column = replace(own, obs=own.obs.assign(w=of_runs))
    for given in (of_runs, pd.Series(of_runs, own.obs.index), "w"):
        same(fitted(with_column, weights=given).test(), fitted(own, weights=spread).test())


def test_a_constant_times_the_weights_changes_sigma2_alone() -> None:
    own = data(120)
    a, b = fitted(own), fitted(own, weights=own.W * 37.0)
    np.testing.assert_allclose(b.sigma2, 37 * a.sigma2, rtol=1e-10)
    np.testing.assert_allclose(b.theta, a.theta / np.sqrt(37), rtol=1e-8)
    np.testing.assert_allclose(b.loglik, a.loglik, rtol=1e-10)
    for ddf in ("moderated", "kenward-roger"):
        same(a.test(ddf=ddf), b.test(ddf=ddf))  # type: ignore[arg-type]
    same(a.icc(), b.icc(), rtol=1e-9)
    parts = a.varcomp(), b.varcomp()
    random = (parts[0]["term"] != "Residual").to_numpy()
    same(parts[0][random], parts[1][random], rtol=1e-9)
    np.testing.assert_allclose(parts[1]["variance"][~random], 37 * parts[0]["variance"][~random], rtol=1e-10)


def test_shares_of_a_protein_are_its_own() -> None:
    """Neither the units of its weights nor what other proteins there are change how its variance is divided."""
    own = data()
    names = ["P0", "P1", "P2"]
    columns = [name for name, label in zip(own.Y.columns, own.proteins, strict=True) if label in names]
    units = np.exp([0.3 * int(label[1:]) for label in own.proteins])
    few = Peptides(own.Y[columns], own.W[columns], own.obs, [p for p in own.proteins if p in names])
    shares = fitted(own).variance_partition().loc[names]
    for other in (fitted(few), fitted(own, weights=own.W * units)):
        np.testing.assert_allclose(other.variance_partition().loc[names], shares, rtol=1e-7, atol=1e-12)


def test_every_protein_has_its_row() -> None:
    own = data()
    empty = own.Y.copy()
    empty.loc[:, np.array(own.proteins) == "P3"] = np.nan
    one = np.array(own.proteins) == "P5"
    empty.loc[own.obs["arm"] == "ctrl", one] = np.nan  # one arm only
    empty.loc[:, np.array(own.proteins) == "P7"] = 3.0
    fit = fitted(replace(own, Y=empty))
    table = fit.test("arm[T.case]", "kenward-roger").set_index("variable")
    assert table.index.tolist() == list(dict.fromkeys(own.proteins))
    assert table["status"][["P3", "P5", "P7"]].tolist() == ["not_estimable", "not_estimable", "constant"]
    assert table.loc["P3", ["n_obs", "n_peptides", "n_donors"]].tolist() == [0, 0, 0]
    assert table.loc["P3", "n_missing"] == 12 * own.proteins.count("P3") and table.loc["P3", "formula"] in fit.formulas
    assert table.loc[["P3", "P5", "P7"], "p_value"].isna().all()
    assert fit.joint_test("arm", "kenward-roger").set_index("variable")["status"]["P5"] == "not_estimable"
    assert fit.ranef("peptide").query("variable == 'P3'").empty
    assert not fit.ranef("donor").query("variable == 'P5'").empty
    assert "12 proteins by REML" in repr(fit) and "measurements of" in repr(fit)


def test_one_protein_and_proteins_of_one_peptide() -> None:
    own = data()
    at = np.array(own.proteins) == "P4"
    alone = fitted(Peptides(own.Y.loc[:, at], own.W.loc[:, at], own.obs, ["P4"] * int(at.sum())))
    whole = fitted(own)
    row = whole.test(ddf="kenward-roger").query("variable == 'P4'").reset_index(drop=True)
    same(alone.test(ddf="kenward-roger"), row.assign(adj_p_value=row["p_value"]), rtol=1e-9)
    singles = fitted(own, features=list(own.Y.columns))
    assert set(singles.status) <= {"reduced", "not_estimable"}
    assert set(singles.formulas) <= {"~ arm + (1 | donor)", "~ arm"}  # one run of each donor: donors are the rows
    plain = dw.fit_lmm(own.Y["pep0"], own.obs, "~ arm + (1 | donor)")
    ours = fitted(own, features=list(own.Y.columns), weights=None)
    np.testing.assert_allclose(ours.loglik[0], plain.loglik[0], rtol=1e-9)
    expected = plain.test(ddf="kenward-roger")
    found = ours.test(ddf="kenward-roger").query("variable == 'pep0'")
    np.testing.assert_allclose(found[NUMBERS].to_numpy(float), expected[NUMBERS].to_numpy(float), rtol=1e-7)


def test_terms_that_are_left_out_have_no_variance() -> None:
    fit = fitted(data())
    one = np.flatnonzero(fit.n_peptides == 1)
    assert one.size and (fit.status[one] == "reduced").all()
    t = fit.theta_names.index("peptide.(Intercept)")
    assert np.isnan(fit.theta[one, t]).all() and np.isfinite(fit.theta[fit.n_peptides > 1, t]).all()
    name = fit.variables[one[0]]
    components = fit.varcomp().query("variable == @name").set_index("term")["variance"]
    assert np.isnan(components["peptide"]) and components[["donor", "Residual"]].notna().all()
    shares = fit.variance_partition()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert np.isnan(shares.loc[name, "peptide"])
    effects = fit.ranef("peptide").query("variable == @name")
    assert len(effects) == 1 and effects[["value", "cond_sd"]].isna().all(axis=None)


@pytest.mark.parametrize("protein", ["P0", "P2", "P4"])
def test_random_effects_are_those_of_a_dense_model(protein: str) -> None:
    own = data()
    fit = fitted(own)
    g = fit.variables.index(protein)
    model = dense(own, protein, ["1", "case"])
    names = [n.split(".")[0] for n in fit.theta_names]
    ratios = {name: theta**2 for name, theta in zip(names, fit.theta[g], strict=True) if np.isfinite(theta)}
    inverse = np.linalg.inv(model.V(ratios))
    for name, ratio in ratios.items():
        Z = model.Z[name]
        mode = ratio * Z.T @ inverse @ (model.y - model.X @ fit.beta[g])
        variance = fit.sigma2[g] * (ratio - ratio**2 * np.diag(Z.T @ inverse @ Z))
        found = fit.ranef(name).query("variable == @protein").set_index("level").loc[model.levels[name]]
        np.testing.assert_allclose(found["value"], mode, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found["cond_sd"], np.sqrt(np.clip(variance, 0, None)), rtol=1e-8, atol=1e-8)


def test_joint_laws_are_those_of_a_dense_model() -> None:
    own, fit = data(150, arms=("a", "b", "c")), many()
    (model,) = fit.models
    L, points = np.eye(3)[1:], tensor([np.array([0.0, 0.3, 40.0]), np.array([0.0, 0.2, 3.0])])
    at = model.usable[:8]
    law = model.on(points, L).joint(at)
    for i, g in enumerate(at):
        plain = dense(own, fit.variables[g], ["1", "b", "c"])
        for k, (peptide, donor) in enumerate(points):
            inverse = np.linalg.inv(plain.V({"peptide": peptide, "donor": donor}))
            Phi = np.linalg.inv(plain.X.T @ inverse @ plain.X)
            beta = Phi @ plain.X.T @ inverse @ plain.y
            rest = plain.y - plain.X @ beta
            s2 = rest @ inverse @ rest / (plain.y.size - 3)
            F = beta[1:] @ np.linalg.solve(s2 * Phi[1:, 1:], beta[1:]) / 2
            np.testing.assert_allclose(law.F[i, k], F, rtol=1e-7)
        assert law.nu[i] == plain.y.size - 3


def test_joint_tests() -> None:
    fit = many()
    joint = fit.joint_test("arm")
    answered = joint["status"].isin(["ok", "boundary", "reduced"])
    assert answered.mean() > 0.9 and joint.loc[answered, "p_value"].between(0, 1).all()
    tail = stats.f.sf(joint["statistic"], 2, joint["den_df"])
    np.testing.assert_allclose(tail[answered], joint["p_value"][answered], rtol=1e-10)
    kr = fit.joint_test("arm", "kenward-roger")
    assert np.corrcoef(np.log(kr["p_value"][answered]), np.log(joint["p_value"][answered]))[0, 1] > 0.8
    two = fitted(data(120))
    one, t = two.joint_test("arm"), two.test("arm[T.case]")
    np.testing.assert_array_equal(one["p_value"], t["p_value"])


def test_likelihood_ratios_count_what_a_protein_can_tell() -> None:
    own = data()
    full, null = fitted(own), fitted(own, "~ 1 + (1 | peptide) + (1 | donor)")
    table = full.lrt(null)
    known = table["status"].isin(["ok", "boundary", "reduced"])
    np.testing.assert_allclose(table["p_value"][known], stats.chi2.sf(table["statistic"][known], 1), rtol=1e-12)
    without = full.lrt(fitted(own, "~ arm + (1 | donor)"))
    one = full.n_peptides == 1
    assert (without["status"][one] == "not_estimable").all() and without["p_value"][one].isna().all()
    assert (without["df"][~one] == 1).all() and without["p_value"][~one].notna().all()
    with pytest.raises(DesignError, match="same features, rows"):
        full.lrt(fitted(own, "~ 1 + (1 | peptide) + (1 | donor)", weights=None))


def test_maximum_likelihood_is_what_a_fit_by_it_gives() -> None:
    own = data()
    a, b = fitted(own).at_ml(), fitted(own, reml=False)
    assert isinstance(a, dw.PeptideFit) and not a.reml and a.at_ml() is a
    np.testing.assert_allclose(a.loglik, b.loglik, rtol=1e-12)
    assert a.formulas == b.formulas and a.n_peptides.tolist() == b.n_peptides.tolist()
    same(a.varcomp(), b.varcomp())


def test_columns_of_peptides_are_read() -> None:
    own = data()
    charge = np.random.default_rng(3).integers(2, 4, len(own.proteins))
    var = pd.DataFrame({"charge": charge.astype(float)}, index=own.Y.columns)
    fit = fitted(own, "~ arm + charge + (1 | peptide) + (1 | donor)", var=var)
    assert fit.fixed_names == ("Intercept", "arm[T.case]", "charge")
    status = fit.test("charge", "kenward-roger").set_index("variable")["status"]
    single = pd.Series(charge).groupby(own.proteins).nunique() == 1
    assert (status[single[single].index] == "not_estimable").all()
    assert fit.test("arm[T.case]", "kenward-roger")["p_value"].notna().sum() >= 10


def test_rows_and_peptides_without_a_variable_are_left_out_with_a_warning() -> None:
    own = data()
    obs, var = own.obs.copy(), pd.DataFrame({"charge": 2.0}, index=own.Y.columns)
    obs.loc["run1", "x"] = np.nan
    var.iloc[:3, 0], var.iloc[5, 0] = 3.0, np.nan
    with pytest.warns(DonorwiseWarning) as caught:
        fit = dw.fit_lmm(
            own.Y,
            obs,
            "~ arm + x + charge + (1 | peptide) + (1 | donor)",
            features=own.proteins,
            weights=own.W,
            var=var,
        )
    texts = [str(w.message) for w in caught]
    assert any("1 of 12 rows are left out" in t for t in texts)
    assert any(f"1 of {len(own.proteins)} peptides are left out" in t for t in texts)
    assert caught[0].filename == __file__
    at = own.Y.columns != "pep5"
    kept = own.Y.drop(index="run1").loc[:, at]
    assert fit.n_obs.sum() == kept.notna().sum().sum()


def test_peptides_without_a_protein_are_left_out() -> None:
    own = data()
    labels: list[Any] = list(own.proteins)
    labels[0], labels[-1] = None, np.nan
    fit = fitted(own, features=labels)
    assert fit.n_obs.sum() == own.Y.iloc[:, 1:-1].notna().sum().sum()


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"features": ["P"]}, DataError, r"features has shape \(1,\)"),
        ({"features": [None] * 50}, DataError, "no label|shape"),
        ({"features": {"pep0": "P0"}}, DataError, "no label for .* of .* columns of Y"),
        ({"features": "protein"}, DesignError, "not a column of var"),
        ({"weights": "W"}, DataError, "not a column of obs"),
        ({"weights": np.ones((3, 2))}, DataError, "needs one value for each of 12 rows, or for each measurement"),
        ({"weights": np.array([["a"]])}, DataError, "must be numbers"),
        ({"var": pd.DataFrame({"q": [1.0]})}, DataError, "var has 1 rows"),
        ({"n_jobs": 0}, DataError, "n_jobs=0"),
    ],
)
def test_refusals(given: dict[str, Any], error: type[DonorwiseError], text: str) -> None:
    with pytest.raises(error, match=text):
        fitted(data(), **given)


def test_more_refusals() -> None:
    own = data()
    with pytest.raises(DataError, match="1 is not .the first is -1 for peptide"):
        fitted(own, weights=own.W.mask(own.W < np.sort(own.W.to_numpy().ravel())[2], -1.0))
    with pytest.raises(DataError, match="infinite value .the first is inf for peptide 'pep1' in run 'run3'"):
        fitted(replace(own, Y=own.Y.mask(np.add.outer(np.arange(12) * 100, np.arange(own.Y.shape[1])) == 301, np.inf)))
    with pytest.raises(DataError, match="several columns of one name, `pep0`"):
        fitted(replace(own, Y=own.Y.rename(columns={"pep1": "pep0"})))
    with pytest.raises(DataError, match=r"use weights\[Y.columns\]"):
        fitted(own, weights=own.W.iloc[:, ::-1])
    with pytest.raises(DataError, match=r"use weights.loc\[obs.index\]"):
        fitted(own, weights=own.W.iloc[::-1])
    with pytest.raises(DesignError, match="goes with features="):
        dw.fit_lmm(own.Y.iloc[:, :1], own.obs, "~ arm + (1 | donor)", var=pd.DataFrame({"a": [1.0]}))
    with pytest.raises(DesignError, match="no heritability of proteins"):
        fitted(own).heritability()
    with pytest.raises(DesignError, match="not a column of obs or of var"):
        fitted(own, "~ arm + (1 | peptides) + (1 | donor)")
    with pytest.raises(DesignError, match="is a column of obs, and in a model of peptides"):
        fitted(replace(own, obs=own.obs.assign(peptide="a")))
    with pytest.raises(DesignError, match="12 proteins are too few"):
        fitted(own).prior  # noqa: B018
    with pytest.raises(DesignError, match="not a grouping factor"):
        fitted(own).ranef("run")


def test_a_formula_that_takes_peptides_for_replicates_is_told() -> None:
    own = data()
    with pytest.warns(DonorwiseWarning, match="peptide"):
        fitted(own, "~ arm + (1 | peptide)")


def test_a_number_that_makes_too_many_kinds_of_peptides(monkeypatch: pytest.MonkeyPatch) -> None:
    own = data()
    monkeypatch.setattr("donorwise._core.engine.peptide_design._MOST_ROWS", 100)
    var = pd.DataFrame({"mz": np.arange(own.Y.shape[1]) + 0.5}, index=own.Y.columns)
    with pytest.raises(DesignError, match="`mz` makes .* kinds of peptides, for 12 runs"):
        fitted(own, "~ arm + mz + (1 | peptide) + (1 | donor)", var=var)
