"""Proteins one at a time, each an ordinary mixed model: the naive twin of the loops, and random terms of several columns."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._peptides import Peptides, peptides
from tests.test_peptide_arrays import fitted, same

import donorwise as dw
from donorwise._core.engine import peptides as engine
from donorwise.errors import DesignError

TERMS = ["(1 | peptide) + (1 | donor)", "(1 | donor)", "(1 | peptide) + (0 + x | donor)"]
SLOPES = "~ arm + x + (1 | peptide) + (1 + x | donor)"
DDFS = ("kenward-roger", "satterthwaite", "between-within", "residual")


def data(seed: int = 0, runs: int = 3) -> Peptides:
    """Three arms; one protein lacks an arm, one is constant, one was never measured."""
    own = peptides(24, arms=("a", "b", "c"), runs=runs, seed=seed)
    Y, protein = own.Y.copy(), np.array(own.proteins)
    Y.loc[own.obs["arm"] == "c", protein == "P2"] = np.nan
    Y.loc[:, protein == "P5"] = 7.0
    Y.loc[:, protein == "P9"] = np.nan
    return replace(own, Y=Y)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("reml", [True, False])
def test_loops_are_what_ordinary_models_say(terms: str, reml: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    own, formula = data(), f"~ arm + x + {terms}"
    fast = fitted(own, formula, reml=reml)
    monkeypatch.setattr(engine, "is_scalar", lambda term: False)
    slow = fitted(own, formula, reml=reml)
    assert fast.status.tolist() == slow.status.tolist() and fast.formulas == slow.formulas
    for name in ("beta", "vcov_beta", "sigma2", "loglik"):
        np.testing.assert_allclose(getattr(slow, name), getattr(fast, name), rtol=1e-8, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(slow.theta, fast.theta, rtol=1e-6, atol=1e-6)
    for ddf in DDFS:
        same(slow.test(ddf=ddf), fast.test(ddf=ddf), 1e-8)  # type: ignore[arg-type]
        same(slow.joint_test("arm", ddf), fast.joint_test("arm", ddf), 1e-8)  # type: ignore[arg-type]
    for a, b in ((slow.icc(), fast.icc()), (slow.ranef("donor"), fast.ranef("donor"))):
        same(a, b, 1e-7)
    np.testing.assert_allclose(slow.at_ml().loglik, fast.at_ml().loglik, rtol=1e-10)


def test_slopes_are_those_of_one_protein_laid_out() -> None:
    own = data()
    fit = fitted(own, SLOPES)
    for name in ("P0", "P3", "P6"):
        at = np.array(own.proteins) == name
        long = own.Y.loc[:, at].stack().dropna()
        obs = own.obs.loc[long.index.get_level_values(0)].reset_index(drop=True)
        obs["peptide"] = long.index.get_level_values(1)
        obs["w"] = own.W.loc[:, at].stack().loc[long.index].to_numpy()
        if obs["peptide"].nunique() == 1:
            continue
        plain, g = dw.fit_lmm(long.to_numpy(), obs, SLOPES, weights="w"), fit.variables.index(name)
        np.testing.assert_allclose(fit.loglik[g], plain.loglik[0], rtol=1e-9)
        np.testing.assert_allclose(fit.theta[g], plain.theta[0], rtol=1e-5, atol=1e-5)
        for ddf in ("kenward-roger", "satterthwaite", "between-within"):
            a, b = (f.test(ddf=ddf).query("variable == @v") for f, v in ((fit, name), (plain, "y1")))  # type: ignore[arg-type]
            columns = ["estimate", "se", "statistic", "df", "p_value"]
            np.testing.assert_allclose(a[columns].to_numpy(float), b[columns].to_numpy(float), rtol=1e-5)
        own_effects = fit.ranef("donor").query("variable == @name")
        np.testing.assert_allclose(own_effects["value"], plain.ranef("donor")["value"], atol=1e-5)
        np.testing.assert_allclose(own_effects["cond_sd"], plain.ranef("donor")["cond_sd"], atol=1e-5)
        shares = fit.varcomp().query("variable == @name")["variance"]
        np.testing.assert_allclose(shares, plain.varcomp()["variance"], rtol=1e-4, atol=1e-6)


def test_a_term_without_enough_rows_keeps_its_levels() -> None:
    own = data(runs=2)
    fit = fitted(own, SLOPES)
    few = (fit.n_peptides == 1) & (fit.n_obs > fit.n_donors) & (fit.status == "reduced")
    assert few.any()
    formulas = np.array(fit.formulas)[few]
    assert set(formulas) == {"~ arm + x + (1 | donor)"}
    g = int(np.flatnonzero(few)[0])
    names = list(fit.theta_names)
    assert np.isfinite(fit.theta[g, names.index("donor.(Intercept)")])
    assert np.isnan(fit.theta[g, names.index("donor.x")]) and np.isnan(fit.theta[g, names.index("peptide.(Intercept)")])
    scalar = fitted(own, "~ arm + x + (1 | peptide) + (1 | donor)")
    np.testing.assert_allclose(fit.loglik[few], scalar.loglik[few], rtol=1e-9)
    assert fit.test(ddf="kenward-roger")["p_value"].notna().sum() >= 40
    table = fit.lrt(scalar).set_index("variable")
    assert (table["status"][np.array(fit.variables)[few]] == "not_estimable").all()
    whole = table[table["status"].isin(["ok", "boundary"])]
    assert (whole["df"] == 2).all() and whole["p_value"].notna().all()


def test_columns_that_a_protein_cannot_tell_make_way_for_an_intercept() -> None:
    own = data()
    fit = fitted(own, "~ arm + (1 | peptide) + (0 + arm | donor)")
    g = fit.variables.index("P2")  # which lacks an arm
    assert fit.status[g] == "reduced" and fit.formulas[g].endswith("(1 | donor)")
    assert np.isnan(fit.theta[g, 1:]).all()
    tests = fit.test(["arm[T.b]", "arm[T.c]"]).query("variable == 'P2'").set_index("contrast")
    assert tests["status"].tolist() == ["reduced", "not_estimable"]
    assert np.isfinite(tests["p_value"].iloc[0]) and tests.iloc[1][["estimate", "p_value"]].isna().all()


def test_it_is_told_that_this_is_slower_and_not_moderated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="donorwise"):
        fit = fitted(data(), SLOPES)
        fit.test()
    assert "which is slower" in caplog.text and "covers random terms of one column each" in caplog.text
    with pytest.raises(DesignError, match="no shared prior: moderation of proteins covers"):
        fit.prior  # noqa: B018


def test_tool_and_arrays_agree() -> None:
    own = data()
    var = pd.DataFrame({"protein": own.proteins}, index=own.Y.columns)
    adata = ad.AnnData(own.Y.to_numpy(), obs=own.obs, var=var, layers={"w": own.W.to_numpy()})
    dw.tl.lmm(adata, SLOPES, features="protein", weights_layer="w", progress=False)
    fit = fitted(own, SLOPES)
    same(fit.test(), adata.uns["lmm"]["results"][fit.test().columns])
    same(fit.varcomp(), adata.uns["lmm"]["varcomp"][fit.varcomp().columns])


def test_order_changes_nothing() -> None:
    own, rng = data(), np.random.default_rng(3)
    run, peptide = rng.permutation(len(own.obs)), rng.permutation(len(own.proteins))
    proteins = [own.proteins[i] for i in peptide]
    other = Peptides(own.Y.iloc[run, peptide], own.W.iloc[run, peptide], own.obs.iloc[run], proteins)
    a, b = fitted(own, SLOPES), fitted(other, SLOPES)
    same(a.test(ddf="kenward-roger"), b.test(ddf="kenward-roger"), 1e-6)  # a ridge: one variance nearly zero


@pytest.mark.parametrize("options", [{"kernels": {"K": np.eye(2)}}, {"relmat": {"donor": np.eye(2)}}, {}])
def test_kernels_are_refused(options: dict[str, object]) -> None:
    formula = "~ arm + (1 | donor)" if options else "~ arm + (1 | gr(donor, cov=K))"
    with pytest.raises(DesignError, match="take no known covariance between levels"):
        fitted(data(), formula, **options)
