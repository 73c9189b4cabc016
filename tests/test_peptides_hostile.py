"""Proteins that go wrong beside a hundred that do not: a status each, and nothing else changes."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

DONOR = np.repeat(np.arange(8), 2)
ARM = DONOR % 2
R = DONOR.size
FITTED = ("ok", "boundary", "reduced")
FORMULAS = {
    "donor": "~ arm + (1 | donor)",
    "peptide": "~ arm + (1 | peptide) + (1 | donor)",
    "run": "~ arm + (1 | peptide) + (1 | donor) + (1 | run)",
    "slope": "~ arm + x + (1 | peptide) + (0 + x | donor)",
}
NONE = ("one", "two", "none", "two_runs", "one_arm", "one_donor", "one_donor_an_arm")  # of which nothing is asked for


def _only(values: np.ndarray, *cells: tuple[int, int]) -> np.ndarray:
    kept = np.zeros(values.shape, dtype=bool)
    kept[tuple(np.transpose(cells))] = True
    return np.where(kept, values, np.nan)


def _hostile(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name, responses and weights (R, peptides) of every protein."""
    noise, of_donor, levels = rng.normal(size=(R, 3)), rng.normal(size=(8, 1))[DONOR], np.array([1.0, 2.0, 5.0])
    responses = {
        "tiny": 1e-60 * noise,
        "huge": 1e60 * noise,
        "far": 1e9 + noise,
        "one": _only(noise, (5, 0)),
        "two": _only(noise, (5, 0), (5, 1)),
        "two_runs": _only(noise, (0, 0), (2, 1)),
        "none": _only(noise, (0, 0)) * np.nan,
        "saturated": _only(noise, (0, 0), (0, 1), (1, 2), (3, 0), (4, 1), (12, 1)),
        "constant_in_donors": of_donor + 0 * noise,
        "constant_in_donors_and_peptides": of_donor + levels + 0 * noise,
        "constant_in_peptides": levels + 0 * noise,
        "constant": 7 + 0 * noise,
        "arm": ARM[:, None] + 0 * noise,
        "arm_and_peptide": ARM[:, None] + levels + 0 * noise,
        "nearly_donors": of_donor + 1e-9 * noise + 10,
        "nearly_donors_5": of_donor + 1e-5 * noise + 10,
        "nearly_peptides": 200 * levels + 1e-8 * noise,
        "rounded": np.round(noise),
        "two_values": (noise > 0) * 1.0,
        "one_arm": np.where(ARM[:, None] == 0, noise, np.nan),
        "one_donor": np.where(DONOR[:, None] == 0, noise, np.nan),
        "one_donor_an_arm": np.where(DONOR[:, None] < 2, noise, np.nan),
        "one_peptide": noise[:, :1],
        "disjoint": np.where(np.arange(R)[:, None] % 3 == np.arange(3), noise, np.nan),
        "a_row_a_peptide": np.where(np.eye(R) > 0, rng.normal(size=(R, R)), np.nan),
    }
    out = {name: (Y, np.ones(Y.shape)) for name, Y in responses.items()}
    out["light"] = noise, 1e-100 * np.exp(rng.normal(size=noise.shape))
    out["lightest"] = noise, 1e-300 * np.exp(rng.normal(size=noise.shape))
    out["heavy"] = noise, 1e12 * np.exp(rng.normal(size=noise.shape))
    out["wide"] = noise, 10 ** rng.uniform(-12, 12, noise.shape)
    return out


@cache
def _cohort(hostile: bool) -> ad.AnnData:
    rng = np.random.default_rng(0)
    protein = np.repeat(np.arange(110), 3)
    Y = (
        20
        + 2 * rng.normal(size=330)
        + (0.5 * rng.normal(size=(8, 110)))[DONOR][:, protein]
        + 0.4 * rng.normal(size=(R, 330))
    )
    W, names = np.exp(0.5 * rng.normal(size=Y.shape)), [f"P{g}" for g in protein]
    obs = pd.DataFrame({"donor": DONOR, "arm": ARM, "run": np.arange(R)}).astype(str).assign(x=rng.normal(size=R))
    for name, (own, weights) in _hostile(rng).items() if hostile else ():
        Y, W, names = np.hstack([Y, own]), np.hstack([W, weights]), [*names, *[name] * own.shape[1]]
    obs.index = pd.Index([f"o{i}" for i in range(R)])
    var = pd.DataFrame({"protein": names}, index=[f"p{i}" for i in range(len(names))])
    return ad.AnnData(Y, obs=obs, var=var, layers={"weights": W})


def results(formula: str, ddf: str, *, hostile: bool = True) -> pd.DataFrame:
    adata = _cohort(hostile).copy()
    options = {"features": "protein", "weights_layer": "weights", "contrasts": "arm[T.1]", "progress": False}
    dw.tl.lmm(adata, FORMULAS[formula], ddf=ddf, **options)
    return adata.uns["lmm"]["results"].astype({"variable": str}).set_index("variable")


@pytest.mark.parametrize("ddf", ["moderated", "kenward-roger", "satterthwaite", "between-within"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_status_each(formula: str, ddf: str) -> None:
    table = results(formula, ddf)
    assert sorted(table.index) == sorted(set(_cohort(True).var["protein"]))
    numbers = table[["estimate", "se", "df", "statistic", "p_value", "ci_low", "ci_high"]]
    fitted = table["status"].isin(FITTED)
    assert np.isfinite(numbers[fitted]).all(None), table[fitted & ~np.isfinite(numbers).all(axis=1)]
    assert (table.loc[fitted, "se"] > 0).all() and table.loc[fitted, "p_value"].between(0, 1).all()
    assert table.loc[~fitted, "p_value"].isna().all(), table[~fitted & table["p_value"].notna()]
    assert not fitted[list(NONE)].any() and fitted[[f"P{g}" for g in range(110)]].all()
    assert (table.loc[table["status"] == "not_estimable", "estimate"].isna()).all()
    assert table["status"]["constant"] == "constant"
    assert table["status"][["rounded", "far", "heavy", "tiny", "huge", "light"]].isin(FITTED).all()


@pytest.mark.parametrize("formula", ["peptide", "slope"])
def test_the_others_do_not_notice(formula: str) -> None:
    table, alone = results(formula, "kenward-roger"), results(formula, "kenward-roger", hostile=False)
    own = table.loc[alone.index]
    numbers = ["estimate", "se", "df", "p_value"]
    np.testing.assert_allclose(own[numbers], alone[numbers], rtol=1e-12)


SIZES = {
    "many peptides": (300, 100, 20, "~ arm + (1 | peptide) + (1 | donor)"),
    "three terms": (60, 100, 20, "~ arm + (1 | peptide) + (1 | donor) + (1 | run)"),
    "many donors": (3, 500, 500, "~ arm + (1 | peptide) + (1 | donor)"),
    "many cells": (2, 2000, 40, "~ arm + (1 | peptide) + (1 | donor) + (1 | run)"),
}


@pytest.mark.parametrize("size", SIZES)
def test_large_proteins(size: str) -> None:
    """Seconds, not minutes: the term with most levels costs its levels times the square of the others."""
    n_peptides, n_runs, n_donors, formula = SIZES[size]
    rng = np.random.default_rng(0)
    donor = np.arange(n_runs) % n_donors
    Y = rng.normal(size=n_peptides) + rng.normal(size=n_donors)[donor][:, None] + rng.normal(size=(n_runs, n_peptides))
    Y[rng.random(Y.shape) < 0.2] = np.nan
    obs = pd.DataFrame({"donor": donor, "arm": donor % 2, "run": np.arange(n_runs)}).astype(str)
    obs.index, names = obs["run"].radd("r"), [f"p{i}" for i in range(n_peptides)]
    adata = ad.AnnData(Y, obs=obs, var=pd.DataFrame({"protein": ["P"] * n_peptides}, index=names))
    dw.tl.lmm(adata, formula, features="protein", ddf="kenward-roger", progress=False)
    table = adata.uns["lmm"]["results"]
    assert table["status"].isin(FITTED).all() and np.isfinite(table["p_value"]).all()
