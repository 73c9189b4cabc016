"""Donors of every arm with a variance of their own: (0 + arm || donor), or indicators by hand."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._dense import Dense, Term

import donorwise as dw

BY_HAND = "~ arm + (0 + case | donor) + (0 + control | donor)"
PER_LEVEL = "~ arm + (0 + arm || donor)"


def study(
    n_case: int, n_control: int, spread: float, n_features: int, seed: int = 0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Null features; the donors' sd of cases is `spread` times that of controls."""
    rng = np.random.default_rng(seed)
    case = np.arange(n_case + n_control) < n_case
    donor = np.repeat(np.arange(case.size), rng.integers(20, 60, case.size))
    sd = np.sqrt(0.3 * np.exp(0.7 * rng.normal(size=n_features)))
    u = rng.normal(size=(case.size, n_features)) * sd * np.where(case, spread, 1.0)[:, None]
    obs = pd.DataFrame({"donor": [f"d{i:02}" for i in donor], "case": case[donor] * 1.0, "control": ~case[donor] * 1.0})
    arm = pd.Categorical(np.where(case[donor], "case", "control"), categories=["control", "case"])
    return u[donor] + rng.normal(size=(donor.size, n_features)), obs.assign(arm=arm)


@pytest.mark.parametrize(("sizes", "spread", "own"), [((3, 9), 2.0, (0.030, 0.060)), ((6, 6), 1.0, (0.035, 0.065))])
def test_share_of_small_p_values(sizes: tuple[int, int], spread: float, own: tuple[float, float]) -> None:
    """In unequal arms the smaller one's larger spread makes the common variance too small."""
    Y, obs = study(*sizes, spread, 1500)
    p = {f: dw.fit_lmm(Y, obs, f).test("arm[T.case]")["p_value"] for f in ("~ arm + (1 | donor)", BY_HAND)}
    assert own[0] < (p[BY_HAND] < 0.05).mean() < own[1] and (p[BY_HAND] < 0.001).mean() < 0.004
    if spread > 1:
        assert (p["~ arm + (1 | donor)"] < 0.05).mean() > 0.12


def test_formula_and_indicators_agree() -> None:
    Y, obs = study(4, 8, 2.0, 120)
    by_hand, written = (dw.fit_lmm(Y, obs, f) for f in (BY_HAND, PER_LEVEL))
    for ddf in ("moderated", "kenward-roger", "satterthwaite", "between-within"):
        own, other = (fit.test("arm[T.case]", ddf)[["estimate", "se", "df", "p_value"]] for fit in (by_hand, written))
        np.testing.assert_allclose(own, other, rtol=1e-6)
    assert by_hand.theta_names == ("donor.case", "donor.control")
    assert by_hand.prior.terms == ("(0 + case | donor)", "(0 + control | donor)")


def test_kenward_roger_by_matrices() -> None:
    Y, obs = study(4, 8, 2.0, 3)
    fit, L = dw.fit_lmm(Y, obs, BY_HAND), np.array([[0.0, 1.0]])
    own = fit.test("arm[T.case]", "kenward-roger")
    donor = pd.factorize(obs["donor"], sort=True)[0]
    terms = [Term(donor, obs[[name]].to_numpy()) for name in ("case", "control")]
    for g in range(3):
        twin = Dense(Y[:, g], np.column_stack([np.ones(len(obs)), obs["case"]]), terms)
        derivatives = twin.derivatives(twin.gamma(fit.theta[g]), reml=True)
        F, df, _ = derivatives.kenward_roger(L)
        np.testing.assert_allclose(own[["df"]].iloc[g], df, rtol=1e-7)
        np.testing.assert_allclose(own["statistic"].iloc[g] ** 2, F, rtol=1e-6)
        assert df < 6  # the four cases' own, and not the twelve donors'


def test_donors_of_another_arm_are_no_levels() -> None:
    """A variance and the scale it is found on are those of its own donors, whoever else is in the study."""
    Y, obs = study(4, 8, 2.0, 3)
    equations = dw.fit_lmm(Y, obs, BY_HAND).models[0].equations
    for t, name in enumerate(("case", "control")):
        cells = obs.loc[obs[name] == 1, "donor"].value_counts()
        np.testing.assert_allclose(equations.information[t], cells.mean() * len(obs) / cells.sum())


@pytest.mark.parametrize(("sizes", "said"), [((3, 9), True), ((6, 6), False)])
def test_counts_have_one_variance_and_say_so(sizes: tuple[int, int], said: bool) -> None:
    """Pseudobulk cannot give arms their own, so it names the model that can, and is not recommended in its place."""
    Y, obs = study(*sizes, 1.0, 6)
    counts = np.random.default_rng(0).poisson(5.0, Y.shape)
    adata = ad.AnnData(Y, obs=obs.set_axis([f"c{i}" for i in range(len(obs))]), layers={"counts": counts})
    adata.donorwise.setup(donor="donor")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        dw.tl.pseudobulk(adata, "~ arm", progress=False)
    assert (
        any("with one variance for both" in str(w.message) and "`(0 + arm || donor)`" in str(w.message) for w in found)
        is said
    )
    for formula in ("~ arm + (1 | donor)", "~ arm + (0 + arm || donor)"):
        assert any("dw.tl.pseudobulk" in note for note in adata.donorwise.audit(formula).notes) is not said
