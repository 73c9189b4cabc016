"""What is said of the data of peptides, and what is not said of data that are as they should be."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import donorwise as dw
from donorwise._anndata.prepare_peptides import prepare_peptides
from donorwise._core.design.formula import parse
from donorwise._core.design.peptide_labels import of_several, proteins_of, unlabelled, without_protein
from donorwise._core.design.peptide_names import split_names
from donorwise._core.design.peptide_terms import formula_warnings
from donorwise._core.engine.peptide_findings import peptide_warnings
from donorwise._core.engine.peptide_loss import others_level
from donorwise._core.engine.peptide_pass import Measurements, look_at
from donorwise.errors import DataError, DesignError

N_RUNS, N_PROTEINS, N_PEPTIDES = 8, 60, 5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def _values(rng: np.random.Generator, n_runs: int = N_RUNS, n_proteins: int = N_PROTEINS) -> np.ndarray:
    """Logarithms of intensities of proteins with five peptides each, complete."""
    protein = np.repeat(np.arange(n_proteins), N_PEPTIDES)
    base = rng.normal(24, 2, n_proteins)[protein] + rng.normal(0, 1.5, protein.size)
    shared = rng.normal(0, 0.5, (n_runs, n_proteins))[:, protein]
    return base + shared + rng.normal(0, 0.3, n_runs)[:, None] + rng.normal(0, 0.3, (n_runs, protein.size))


def _at_random(rng: np.random.Generator, y: np.ndarray, share: float = 0.2) -> np.ndarray:
    return np.where(rng.random(y.shape) < share, np.nan, y)


def _found(y: np.ndarray, weights: np.ndarray | None = None, proteins: object = None) -> tuple[str, ...]:
    names = [f"P{k // N_PEPTIDES:03d}" for k in range(y.shape[1])]
    return peptide_warnings(
        y,
        proteins=names if proteins is None else proteins,
        peptides=[f"pep{k}" for k in range(y.shape[1])],
        runs=[f"run{i}" for i in range(y.shape[0])],
        weights=weights if np.ndim(weights) == 2 else None,
        run_weights=weights if np.ndim(weights) == 1 else None,
    )


def _one(found: tuple[str, ...], text: str) -> str:
    assert [text in own for own in found] == [True], found
    return found[0]


@pytest.mark.parametrize("share", [0, 0.2, 0.4])
def test_nothing_is_said_of_clean_data(rng: np.random.Generator, share: float) -> None:
    y = _at_random(rng, _values(rng), share)
    y[0, np.isnan(y).all(axis=0)] = 20.0
    for own in (y, y.astype(np.float32), np.asfortranarray(y), y * np.log(2), y * np.log10(2), y - 24.0):
        assert _found(own) == ()
    assert _found(y, np.full(y.shape, 3.0)) == ()
    assert _found(y, rng.gamma(4, 1, y.shape)) == ()
    assert _found(y, rng.uniform(0.2, 1, y.shape)) == ()
    assert _found(y, rng.gamma(4, 1, len(y))) == ()
    assert _found(np.round(y, 1)) == ()
    to_a_reference = y - 24.0
    to_a_reference[0] = np.where(np.isnan(y[0]), np.nan, 0.0)
    assert _found(to_a_reference) == ()


def test_quantile_normalised_runs_share_their_values(rng: np.random.Generator) -> None:
    y = _values(rng)
    assert _found(np.sort(y[0])[np.argsort(np.argsort(y, axis=1), axis=1)]) == ()


def test_zeros_among_logarithms(rng: np.random.Generator) -> None:
    y = _values(rng)
    y[0, 3] = y[5, 7] = 0
    assert "2 of 2,400 values of X are exactly 0" in _one(_found(y), "np.nan")
    ratios = np.where(rng.random(y.shape) < 0.05, 0, y - 24)
    assert "are exactly 0" in _one(tuple(t for t in _found(ratios) if "same value" not in t), "exactly 0")


def test_zeros_without_weight_are_none(rng: np.random.Generator) -> None:
    gone = rng.random((N_RUNS, N_PROTEINS * N_PEPTIDES)) < 0.2
    y = np.where(gone, 0, _values(rng))
    assert "have no weight" in _one(_found(y, np.where(gone, 0.0, 1.0)), f"{gone.sum():,} measurements")


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_raw_intensities_are_refused(rng: np.random.Generator, spread: float) -> None:
    y = _values(rng)
    with pytest.raises(DataError, match=r"no logarithms of intensities.*np\.log2"):
        _found(2.0 ** (24 + (y - 24) * spread))
    with pytest.raises(DataError, match="np.log2"):
        _found(np.where(rng.random(y.shape) < 0.7, 0, np.round(2.0 ** (y - 14))))


def test_large_values_without_a_tail_are_no_error(rng: np.random.Generator) -> None:
    assert "no logarithms" in _one(_found(rng.gamma(20, 30, (N_RUNS, N_PROTEINS * N_PEPTIDES))), "differences")


def test_runs_and_values_that_were_not_logged(rng: np.random.Generator) -> None:
    y = _values(rng)
    y[2] = 2 ** y[2]
    with pytest.raises(DataError, match=r"1 of 8 runs hold raw intensities \(the first is 'run2'\)"):
        _found(y)
    y[2] = np.log2(y[2])
    y[4, 4] = 2 ** y[4, 4]
    assert "1 of 2,400 values of X is above 64" in _one(_found(y), "logarithm")


def test_counts_of_spectra(rng: np.random.Generator) -> None:
    y = rng.poisson(3.0, (N_RUNS, N_PROTEINS * N_PEPTIDES)).astype(float)
    assert "whole numbers" in _one(_found(y), "counts of spectra")
    assert _found((y > 3).astype(float)) == ()


def test_infinite_values_say_where(rng: np.random.Generator) -> None:
    y = _values(rng)
    y[1, 6], y[3, 2] = -np.inf, np.inf
    with pytest.raises(
        DataError, match=r"X has 2 infinite values \(the first is -inf for peptide 'pep6' in run 'run1'\)"
    ):
        _found(y)
    weights = np.ones(y.shape)
    weights[1, 6] = weights[3, 2] = 0
    assert "2 measurements have no weight" in _one(_found(y, weights), "left out")


@pytest.mark.parametrize("fill", ["constant", "run", "one"])
def test_filled_in_values(rng: np.random.Generator, fill: str) -> None:
    y = _values(rng)
    low = {"constant": 12.345678, "run": y.min(axis=1, keepdims=True), "one": 1.0}[fill]
    filled = np.where(rng.random(y.shape) < 0.1, low, y)
    assert any("one and the same value of X" in text for text in _found(filled))


def test_peptides_that_are_there_twice(rng: np.random.Generator) -> None:
    y = _at_random(rng, _values(rng))
    y[:, 3] = y[:, 1]
    assert "'pep3' those of 'pep1' in 'P000'" in _one(_found(y), "count twice")
    y[:, 3] = y[:, 77]
    assert "'pep77' of 'P015' those of 'pep3' of 'P000'" in _one(_found(y), "of another protein")


def test_names_that_are_there_twice(rng: np.random.Generator) -> None:
    y = _values(rng)[:, :4]
    with pytest.raises(DataError, match="1 peptides share a name with another, such as 'b'"):
        peptide_warnings(y, proteins=["P"] * 4, peptides=["a", "b", "b", "c"], runs=list("12345678"))


def test_peptides_and_proteins_without_values(rng: np.random.Generator) -> None:
    y = _values(rng)
    y[:, [2, 5, 6, 7, 8, 9]] = np.nan
    text = _one(_found(y), "6 of 300 peptides were measured in no run (the first is 'pep2')")
    assert "Of 1 protein (such as 'P001') nothing was measured" in text


def test_nothing_to_analyse(rng: np.random.Generator) -> None:
    y = _values(rng)
    with pytest.raises(DataError, match="no value in any of the 8 runs"):
        _found(np.full(y.shape, np.nan))
    with pytest.raises(DataError, match="no value with a weight above zero"):
        _found(y, np.zeros(y.shape))
    with pytest.raises(DataError, match="for none of the 300 peptides"):
        _found(y, proteins=[""] * y.shape[1])


def test_peptides_without_a_protein(rng: np.random.Generator) -> None:
    y = _values(rng)
    labels: list[object] = [f"P{k // N_PEPTIDES}" for k in range(y.shape[1])]
    labels[4], labels[9], labels[14] = np.nan, "", None
    y[0, 4] = np.inf  # of a peptide that is left out
    assert "3 of 300 peptides have no protein in features (the first is 'pep4')" in _one(
        _found(y, proteins=labels), "left out"
    )
    for kind in (pd.Categorical(labels), pd.array(labels, dtype="string"), np.array(labels, dtype=object)):
        assert np.flatnonzero(unlabelled(kind)).tolist() == [4, 9, 14]
    assert "'nan' (2 peptides)" in _one(
        tuple(without_protein(["nan", "A", "nan"], list("abc"), "var['x']")), "no protein"
    )


@pytest.mark.parametrize(
    ("label", "n"),
    [
        ("P12345;Q67890", 2), ("ACTB;ACTG1", 2), ("P12345; Q67890;", 2), ("sp|P1|A_B;sp|P2|C_D", 2), ("P04264-1;P04264-2", 2),
        ("P12345,Q67890", 2), ("ACTB, ACTG1", 2), ("P12345|Q67890", 2), ("2/P12345/Q67890", 2), ("1/P12345", 0), ("2/sp|P1|A_B/sp|P2|C_D", 2), ("P1|P2", 2), ("known, names", 2),
        ("sp|P60709|ACTB_HUMAN", 0), ("P60709|ACTB_HUMAN", 0), ("ALB|P02768", 0), ("Actin, cytoplasmic 1", 0), ("P12345", 0),
        ("ENSP00000354687.2|ENST00000361390.2|ENSG00000198888.2", 0), ("Actin, alpha", 0), ("P1;", 0), ("P1;P1", 0), ("HLA-A", 0),
    ],
)  # fmt: skip
def test_proteins_of_a_label(label: str, n: int) -> None:
    assert len(proteins_of(label, {"known", "names"})) == n


def test_peptides_of_several_proteins() -> None:
    text = _one(tuple(of_several(["P1;P2", "P1", "P1;P2", "Q1;Q2", "P3"], "var['protein']")), "several proteins")
    assert "3 of 5 peptides" in text
    assert "'P1;P2'; of 2 such labels 1 name a protein that has peptides of its own" in text
    assert list(of_several(["P1", "sp|P60709|ACTB_HUMAN", np.nan], "var['protein']")) == []


@pytest.mark.parametrize("by", ["value", "protein"])
def test_loss_that_depends_on_intensity(rng: np.random.Generator, by: str) -> None:
    y = _values(rng)
    level = y - y.mean() if by == "value" else y - y.mean(axis=0)
    lost = np.where(rng.random(y.shape) < 1 / (1 + np.exp(1 + level * (1 if by == "value" else 3))), np.nan, y)
    found = [text for text in _found(lost) if "not at random" in text]
    assert len(found) == 1
    assert (
        "quarter of the peptides with the lowest mean" if by == "value" else "other peptides of its protein"
    ) in found[0]


@pytest.mark.parametrize("kind", ["cells", "runs and peptides", "proteins in runs"])
def test_random_loss_says_nothing(kind: str) -> None:
    n = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        y = _values(rng, 6, 40)
        odds = {
            "cells": -1.0,
            "runs and peptides": rng.normal(-1, 1, (6, 1)) + rng.normal(0, 1, y.shape[1]),
            "proteins in runs": np.repeat(rng.normal(-1, 1.5, (6, 40)), N_PEPTIDES, axis=1),
        }[kind]
        n += any(
            "not at random" in text
            for text in _found(np.where(rng.random(y.shape) < 1 / (1 + np.exp(-odds)), np.nan, y))
        )
    assert n <= 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_peptides", [1, 2, 3])
def test_few_peptides_have_no_quarters(rng: np.random.Generator, n_peptides: int) -> None:
    y = _values(rng)[:, :n_peptides]
    y[0, 0] = np.nan
    assert _found(y) == ()


def test_level_of_the_others_is_that_of_a_loop(rng: np.random.Generator) -> None:
    y, codes = _at_random(rng, _values(rng, 5, 4), 0.4), np.repeat(np.arange(4), N_PEPTIDES)
    y[0, np.isnan(y).all(axis=0)] = 20.0
    e = y - np.nanmean(y, axis=0)
    e = e - np.nanmean(e, axis=1, keepdims=True)
    level = others_level(y, codes)
    for i in range(5):
        for p in range(y.shape[1]):
            others = [e[i, q] for q in range(y.shape[1]) if codes[q] == codes[p] and q != p and np.isfinite(e[i, q])]
            np.testing.assert_allclose(level[i, p], np.mean(others) if others else np.nan, rtol=1e-10, atol=1e-12)


def test_pass_in_blocks_is_that_of_all(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    y = _at_random(rng, _values(rng))
    y[2, 9], y[3, 3] = 0, 99
    w = np.where(rng.random(y.shape) < 0.1, 0, rng.gamma(3, 1, y.shape))
    monkeypatch.setattr("donorwise._core.engine.peptide_pass._BLOCK", 8 * 7)
    columns = np.arange(10, 250)
    runs = np.array([0, 2, 3, 4, 7])
    seen = look_at(Measurements(y, w, None, runs, columns), runs, columns, "X")
    own, weights = np.where(w > 0, y, np.nan)[runs][:, columns], w[runs][:, columns]
    used = ~np.isnan(own)
    np.testing.assert_array_equal(seen.n, used.sum(axis=0))
    np.testing.assert_allclose(seen.mean, np.nanmean(own, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(seen.zeros_of_run, (own == 0).sum(axis=1))
    np.testing.assert_array_equal(seen.large_of_run, (own > 64).sum(axis=1))
    assert seen.n_unweighted == np.sum(~np.isnan(y[runs][:, columns]) & (weights == 0))
    kept = weights[used]
    np.testing.assert_allclose(seen.weights, [kept.min(), kept.max(), kept.sum(), np.sum(kept**2)])


@pytest.mark.parametrize("bad", [-1.0, np.inf])
def test_weights_that_are_none(rng: np.random.Generator, bad: float) -> None:
    y = _values(rng)
    w = np.ones(y.shape)
    w[2, 5] = w[3, 1] = bad
    with pytest.raises(DataError, match=rf"2 are not \(the first is {bad:g} for peptide 'pep5' in run 'run2'\)"):
        _found(y, w)
    y[2, 5] = y[3, 1] = np.nan
    assert _found(y, w) == ()


def test_weights_that_leave_out(rng: np.random.Generator) -> None:
    y = _values(rng)
    w = np.ones(y.shape)
    w[0, 0], w[1, 1], w[2, 2] = 0, np.nan, 0
    y[2, 2] = np.nan
    assert "2 measurements have no weight, or one of zero" in _one(_found(y, w), "left out")
    runs = np.ones(N_RUNS)
    runs[3] = 0
    assert "300 measurements" in _one(_found(_values(rng), runs), "left out")


def test_weights_of_huge_range(rng: np.random.Generator) -> None:
    y = _values(rng)
    w = np.ones(y.shape)
    w[0, 0] = 1e9
    assert "2,400 measurements say no more than 1 of equal weight" in _one(
        _found(y, w), "Weights reach from 1 to 1e+09"
    )
    assert _found(y, 1e-9 * rng.gamma(2, 1, y.shape)) == ()


def test_weights_that_look_like_q_values(rng: np.random.Generator) -> None:
    y = _values(rng)
    q = 0.01 * rng.beta(0.2, 2, y.shape) + 1e-6
    assert "q-values and error probabilities" in _one(_found(y, q), "most near 0")
    assert _found(y, rng.beta(8, 2, y.shape)) == ()


OBS = pd.DataFrame(
    {
        "arm": list("ccccdddd"),
        "condition": list("abababab"),
        "donor_id": list("ttuuvvww"),
        "batch": list("xxyyxxyy"),
        "age": [1, 2, 3, 4, 5, 6, 7, 8],
    },
    index=[f"run{i}" for i in range(8)],
)  # fmt: skip
VAR = pd.DataFrame(
    {"protein": ["P", "P", "Q"], "charge": [2, 3, 2], "sequence": ["A", "B", "B"]}, index=["a", "b", "c"]
)


def test_names_of_a_formula() -> None:
    parsed = parse("~ arm * charge + (1 | peptide) + (1 | donor_id) + (1 | sequence)")
    assert split_names(parsed, OBS, VAR) == (["arm", "donor_id"], ["charge", "peptide", "sequence"])
    own = VAR.assign(peptide=["x", "x", "y"])
    assert split_names(parsed, OBS, own) == (["arm", "donor_id"], ["charge", "peptide", "sequence"])


@pytest.mark.parametrize(
    ("formula", "obs", "var", "text"),
    [
        ("~ arm + (1 | peptide)", {}, {"arm": 1}, "`arm` is a column of obs .runs. and of var .peptides.*rename"),
        ("~ arm + (1 | peptide)", {"peptide": "x"}, {}, "`peptide` is a column of obs.*'peptide_of_run'"),
        ("~ arm + (1 | peptide)", {"peptide": "x"}, {"peptide": "x"}, "`peptide` is a column of obs .runs. and of var"),
        ("~ amr + (1 | peptide)", {}, {}, "`amr` is not a column of obs or of var; did you mean `arm`"),
        ("~ arm + (1 | Peptide)", {}, {}, "did you mean `peptide`"),
        ("~ arm + (1 | chrage)", {}, {}, "did you mean `charge`"),
        ("~ arm + (1 | protein)", {}, {}, "`protein` has one value in each model"),
        ("~ arm + a-b + (1 | peptide)", {}, {"a-b": 1}, "`a-b` goes in backticks"),
    ],
)
def test_names_that_are_wrong(formula: str, obs: dict[str, object], var: dict[str, object], text: str) -> None:
    with pytest.raises(DesignError, match=text):
        split_names(parse(formula), OBS.assign(**obs), VAR.assign(**var), "protein")


def test_names_that_are_there_several_times() -> None:
    twice = pd.concat([OBS, OBS[["arm"]]], axis=1)
    with pytest.raises(DesignError, match="obs has 2 columns named `arm`"):
        split_names(parse("~ arm + (1 | peptide)"), twice, VAR)


@pytest.mark.parametrize(
    ("formula", "texts"),
    [
        ("~ arm + (1 | peptide)", ["no term of the donors, samples or runs"]),
        ("~ arm", ["no term of the donors, samples or runs", "no term of the peptides"]),
        ("~ arm + (1 | donor_id:peptide)", ["no term of the donors, samples or runs"]),
        ("~ age + (1 | peptide) + (0 + age | donor_id)", ["no term of the donors, samples or runs"]),
        ("~ arm + (1 | donor_id)", ["no term of the peptides"]),
        ("~ arm + (1 | peptide) + (1 | donor_id)", []),
        ("~ charge + (1 | peptide)", []),
        ("~ arm + charge + (1 | donor_id)", ["no term of the peptides"]),
        ("~ arm + peptide + (1 | donor_id)", []),
        ("~ condition + (1 | peptide) + (1 | donor_id)", ["`condition` differs between the runs of one level of `donor_id`"]),
        ("~ condition + donor_id + (1 | peptide)", ["`condition` differs between the runs"]),
        ("~ condition + (1 | peptide) + (1 | donor_id / condition)", []),
        ("~ condition + (1 | peptide) + (condition | donor_id)", []),
        ("~ condition + (1 | peptide) + (0 + condition || donor_id)", []),
        ("~ condition + (1 | peptide) + (1 | donor_id) + (1 | run)", []),
        ("~ arm + (1 | peptide) + (1 | run)", ["Several runs belong to one level of `donor_id`"]),
        ("~ arm + batch + (1 | peptide) + (1 | donor_id)", []),
        ("~ arm + (1 | peptide) + (1 | batch)", ["Several runs belong to one level", "`arm` differs between the runs of one level of `batch`"]),
    ],
)  # fmt: skip
def test_formulas(formula: str, texts: list[str]) -> None:
    parsed, obs = parse(formula), OBS.assign(run=OBS.index)
    found = formula_warnings(parsed, obs, split_names(parsed, obs, VAR)[1], several=True)
    assert len(found) == len(texts)
    assert all(text in own for text, own in zip(texts, found, strict=True))
    assert formula_warnings(parsed, obs, split_names(parsed, obs, VAR)[1], several=False) == ()


def test_advice_names_what_there_is() -> None:
    parsed = parse("~ arm + (1 | peptide)")
    one = OBS.assign(donor_id=OBS.index)
    assert "Add `(1 | donor_id)`." in formula_warnings(parsed, one, ["peptide"], several=True)[0]
    bare = OBS[["arm"]]
    assert '`adata.obs["run"] = adata.obs_names`' in formula_warnings(parsed, bare, ["peptide"], several=True)[0]
    named = OBS[["arm"]].assign(unit=OBS.index)
    assert "Add `(1 | unit)`." in formula_warnings(parsed, named, ["peptide"], several=True, donor="unit")[0]


@pytest.fixture
def peptides(rng: np.random.Generator) -> ad.AnnData:
    """Eight donors, one run each; 60 proteins of five peptides."""
    obs = pd.DataFrame({"arm": list("aaaabbbb"), "donor_id": list("stuvwxyz")}, index=[f"run{i}" for i in range(8)])
    names = [f"P{k // N_PEPTIDES:03d}" for k in range(N_PROTEINS * N_PEPTIDES)]
    var = pd.DataFrame({"protein": names, "charge": rng.integers(2, 4, len(names)).astype(str)})
    var.index = [f"pep{k}" for k in range(len(names))]
    return ad.AnnData(_at_random(rng, _values(rng)), obs=obs, var=var)


FORMULA = "~ arm + (1 | peptide) + (1 | donor_id)"


def test_prepared_peptides_say_nothing_where_all_is_well(peptides: ad.AnnData) -> None:
    assert prepare_peptides(peptides, FORMULA, features="protein").warnings == ()
    assert prepare_peptides(peptides, f"{FORMULA} + charge", features="protein").warnings == ()
    sparse = peptides.copy()
    sparse.X = sp.csr_matrix(sparse.X)
    assert prepare_peptides(sparse, FORMULA, features="protein").warnings == ()
    some = np.arange(peptides.n_vars) < 50
    peptides.X[:, 60] = 0
    assert prepare_peptides(peptides, FORMULA, features="protein", mask_var=some).warnings == ()


def test_prepared_peptides_look_at_the_runs_in_use(peptides: ad.AnnData) -> None:
    peptides.obs["arm"] = peptides.obs["arm"].where(peptides.obs_names != "run3")
    peptides.X[3] = np.inf
    found = prepare_peptides(peptides, FORMULA, features="protein").warnings
    assert found == ("1 of 8 runs are left out: a variable of the formula or the group is missing.",)


def test_prepared_peptides_say_what_is_found(peptides: ad.AnnData) -> None:
    peptides.layers["w"] = np.ones(peptides.shape)
    peptides.layers["w"][0, ~np.isnan(peptides.X[0])] = 0
    peptides.var.loc["pep7", "protein"] = "P001;P002"
    found = prepare_peptides(peptides, "~ arm + (1 | peptide)", features="protein", weights_layer="w").warnings
    parts = (
        "Add `(1 | donor_id)`",
        "'P001;P002'",
        "measurements have no weight",
    )
    assert len(found) == len(parts)
    assert all(part in text for part, text in zip(parts, found, strict=True))


def test_prepared_peptides_count_donors_and_not_peptides(peptides: ad.AnnData) -> None:
    peptides.obs["group"] = list("mnmnmnmn")
    found = prepare_peptides(peptides, FORMULA, features="protein", groupby="group").warnings
    assert found == ("m, n: arm[T.b] compares 2 donors with 2: the result can hang on a single donor.",)


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("~ arm", "has no random term"),
        ("~ arm + (1 | protein)", "one value in each model"),
        ("~ arm + (1 | peptid)", "did you mean `peptide`"),
    ],
)
def test_formulas_that_are_no_question(peptides: ad.AnnData, formula: str, text: str) -> None:
    with pytest.raises(DesignError, match=text):
        prepare_peptides(peptides, formula, features="protein")


def test_errors_come_before_the_fit(peptides: ad.AnnData) -> None:
    peptides.X = 2**peptides.X
    with pytest.raises(DataError, match=r"np\.log2"):
        dw.tl.lmm(peptides, FORMULA, features="protein")
    assert "lmm" not in peptides.uns
    peptides.var["protein"] = np.where(peptides.var_names == "pep0", " ", None)
    with pytest.raises(DataError, match="none of the 300 peptides has a protein"):
        dw.tl.lmm(peptides, FORMULA, features="protein")


def test_peptides_in_a_file_are_told_the_same(peptides: ad.AnnData, tmp_path: Path) -> None:
    peptides.X[:, 40] = 0
    peptides.layers["w"] = np.where(np.isnan(peptides.X), np.nan, 1.0)
    peptides.layers["w"][1, :20] = 0
    asked = {"features": "protein", "weights_layer": "w"}
    found = prepare_peptides(peptides, FORMULA, **asked).warnings
    peptides.write_h5ad(tmp_path / "peptides.h5ad")
    stored = ad.read_h5ad(tmp_path / "peptides.h5ad", backed="r")
    assert len(found) == 2
    assert prepare_peptides(stored, FORMULA, **asked).warnings == found
    stored.file.close()
