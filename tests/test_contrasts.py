from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from donorwise._core.design.build import build_design
from donorwise._core.design.cond import cond
from donorwise._core.design.contrasts import resolve_contrasts, resolve_term
from donorwise._core.design.evaluate import evaluate_rows
from donorwise.errors import DesignError


@pytest.fixture(scope="module")
def obs():
    rng = np.random.default_rng(0)
    donor = np.arange(900) % 9
    return pd.DataFrame(
        {
            "donor": donor,
            "disease": pd.Categorical(
                np.array(["control", "MS", "other"])[donor % 3], ["control", "MS", "other", "gone"]
            ),
            "ct": rng.choice(["B", "T"], 900),
            "visit": rng.integers(1, 4, 900),
            "age": donor + rng.normal(size=900),
            "smokes": donor % 2 == 0,
            "my site": rng.choice(["x", "y"], 900),
        }
    )


@pytest.fixture(scope="module")
def design(obs):
    return build_design("~ disease * ct + age + (1 | donor)", obs)


def weights(design, contrast):
    names, L = resolve_contrasts(design, contrast)
    return names, [dict(zip(np.array(design.fixed_names)[row != 0], row[row != 0].round(12), strict=True)) for row in L]


MS, B_MS = "disease[T.MS]", "disease[T.MS]:ct[T.T]"


@pytest.mark.parametrize(
    ("contrast", "name", "expected"),
    [
        (MS, MS, {MS: 1}),
        ("(Intercept)", "Intercept", {"Intercept": 1}),
        (("disease", "MS", "control"), "disease: MS vs control", {MS: 1, B_MS: 0.5}),
        (
            ("disease", "MS", "other"),
            "disease: MS vs other",
            {MS: 1, "disease[T.other]": -1, B_MS: 0.5, "disease[T.other]:ct[T.T]": -0.5},
        ),
        (("age", 60, 50), "age: 60 vs 50", {"age": 10}),
        ({MS: 1, B_MS: 1}, f"{MS} + {B_MS}", {MS: 1, B_MS: 1}),
        ({"in T": {MS: 1, B_MS: 1}}, "in T", {MS: 1, B_MS: 1}),
        ({"in T": cond(disease="MS", ct="T") - cond(disease="control", ct="T")}, "in T", {MS: 1, B_MS: 1}),
        (
            cond(disease="MS", ct="T") - cond(disease="control", ct="T"),
            "(disease=MS, ct=T) - (disease=control, ct=T)",
            {MS: 1, B_MS: 1},
        ),
        (
            (cond(disease="MS") + cond(disease="other")) / 2 - cond(disease="control"),
            "0.5*(disease=MS) + 0.5*(disease=other) - (disease=control)",
            {MS: 0.5, "disease[T.other]": 0.5, B_MS: 0.25, "disease[T.other]:ct[T.T]": 0.25},
        ),
        ([0, 1, 0, 0, 0, 0, 0], MS, {MS: 1}),
        (np.eye(7)[1], MS, {MS: 1}),
    ],
)
def test_contrasts(design, contrast, name, expected):
    assert weights(design, contrast) == ((name,), [expected])


def test_several_contrasts(design):
    assert resolve_contrasts(design)[0] == design.fixed_names[1:]
    np.testing.assert_array_equal(resolve_contrasts(design)[1], np.eye(7)[1:])
    assert resolve_contrasts(design, ["age", ("ct", "T", "B")])[0] == ("age", "ct: T vs B")
    assert resolve_contrasts(design, {"a": "age", "m": np.eye(7)[:2]})[0] == ("a", "m[1]", "m[2]")
    names, L = resolve_contrasts(design, np.eye(7)[[2, 4]])
    assert names == tuple(np.array(design.fixed_names)[[2, 4]])
    np.testing.assert_array_equal(L, np.eye(7)[[2, 4]])


def test_a_condition_is_the_mean_of_the_grid(obs):
    """Equal weights over categories, numbers at the mean of the rows: as emmeans has it."""
    formula = "disease * ct + poly(age, 2) + C(visit):smokes + `my site`"
    design = build_design(f"~ {formula} + (1 | donor)", obs)
    _, L = resolve_contrasts(design, cond({"my site": "y"}, disease="MS"))
    grid = pd.MultiIndex.from_product([["B", "T"], [1, 2, 3], [False, True]], names=["ct", "visit", "smokes"])
    grid = grid.to_frame(index=False).assign(disease="MS", age=obs["age"].mean(), **{"my site": "y"})
    grid["smokes"] = pd.Categorical(grid["smokes"])
    expected = evaluate_rows(design, grid).mean(axis=0)
    np.testing.assert_allclose(L[0], expected, atol=1e-12)


@pytest.mark.parametrize("formula", ["~ disease + ct + (1 | donor)", "~ 0 + disease + ct + (1 | donor)"])
def test_without_interaction_a_level_difference_is_a_coefficient_difference(obs, formula):
    design = build_design(formula, obs)
    _, L = resolve_contrasts(design, ("disease", "MS", "other"))
    assert set(L[0]) == {-1.0, 0.0, 1.0}
    assert np.count_nonzero(L) == 2


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        ("disease[T.Ms]", "did you mean `disease[T.MS]`"),
        ("disease", "`disease` is a term, not a coefficient; its coefficients are `disease[T.MS]`, `disease[T.other]`"),
        ("zzz", "the coefficients are `Intercept`"),
        ({"disease[T.X]": 1}, "is not a coefficient"),
        ({"a": 1, "b": "age"}, "not both"),
        (("disease", "gone", "control"), "'gone' is not a level of `disease` in these rows; its levels are `control`"),
        (("donor", 1, 2), "`donor` is not a variable of the fixed effects"),
        (("disease", "MS"), "(variable, level, level to compare with)"),
        (("age", "old", "young"), "`age` is numeric"),
        (cond(disease="MS") - cond(disease="MS"), "is zero"),
        (np.zeros(7), "is zero"),
        (np.full(7, np.nan), "not a finite number"),
        (np.eye(3), "A contrast has 7 weights"),
        (object(), "is not a contrast"),
        ([], "No contrast was given"),
        ({}, "No contrast was given"),
        (["age", "age"], "Two contrasts are called `age`"),
    ],
)
def test_errors(design, contrast, message):
    with pytest.raises(DesignError) as caught:
        resolve_contrasts(design, contrast)
    assert message in str(caught.value)


def test_terms(obs):
    design = build_design("~ `my site` * disease + poly(age, 2) + (1 | donor)", obs)
    for term in ("my site:disease", "disease:`my site`"):
        np.testing.assert_array_equal(resolve_term(design, term), np.eye(8)[list(design.terms["my site:disease"])])
    assert resolve_term(design, "poly(age,2)").shape == (2, 8)
    with pytest.raises(DesignError, match="did you mean `disease`"):
        resolve_term(design, "diseases")
