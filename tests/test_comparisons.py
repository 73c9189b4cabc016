"""`dw.pairwise` and `dw.slope`: against emmeans, against contrasts written by hand, and what is said of wrong ones."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests._emmeans import BOTH, CUBIC, SLOPES, SPLINE, data, fitted, in_r

import donorwise as dw
from donorwise._batch.run import parse_contrast
from donorwise._core.design.build import build_design
from donorwise._core.design.contrasts import resolve_contrasts
from donorwise._core.engine.results import resolve_by_group, tasks_by_group
from donorwise.errors import DesignError
from donorwise.pl._contrasts import per_unit
from donorwise.pl._donors_data import _sides

# ------------------------------------------------------------------- emmeans


def of_pair(row: pd.Series, rest: dict[str, str]) -> str:
    high, low = row["contrast"].split(" - ")
    return f"disease: {high} vs {low}" + "".join(f" | {own}={row[name]}" for name, own in rest.items())


def of_differences(row: pd.Series) -> str:
    pairs = [f"{name}: {row[f'{name}_revpairwise'].replace(' - ', ' vs ')}" for name in ("disease", "ct")]
    return " | ".join(pairs)


CASES: list[tuple[str, str, Any, Any]] = [
    ("pairs", BOTH, dw.pairwise("disease"), lambda r: of_pair(r, {})),
    ("pairs by", BOTH, dw.pairwise("disease", by="ct"), lambda r: of_pair(r, {"ct": "ct"})),
    ("versus control", BOTH, dw.pairwise("disease", by="ct", reference="control"), lambda r: of_pair(r, {"ct": "ct"})),
    ("differences", BOTH, dw.pairwise("disease", by="ct", differences=True), of_differences),
    ("slopes", SLOPES, dw.slope("age", by="disease"), lambda r: f"slope of age | disease={r['disease']}"),
    (
        "slopes by", SLOPES, dw.slope("age", by=["disease", "ct"]),
        lambda r: f"slope of age | disease={r['disease']}, ct={r['ct']}",
    ),
    (
        "slope pairs", SLOPES, dw.slope("age", by="disease", differences=True),
        lambda r: f"slope of age | disease: {r['contrast'].replace(' - ', ' vs ')}",
    ),
    ("pairs at", SLOPES, dw.pairwise("disease", at={"age": [40, 60]}), lambda r: of_pair(r, {"age": "age"})),
    (
        "slopes at", CUBIC, dw.slope("age", by="disease", at={"age": [40, 60]}),
        lambda r: f"slope of age | age={r['age']:g}, disease={r['disease']}",
    ),
    ("slope", CUBIC, dw.slope("age"), lambda r: "slope of age"),
    ("slopes at", SPLINE, dw.slope("age", at={"age": [40, 60]}), lambda r: f"slope of age | age={r['age']:g}"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "formula", "contrasts", "name"), CASES)
def test_agrees_with_emmeans(case: str, formula: str, contrasts: Any, name: Any) -> None:
    """Estimates, standard errors and degrees of freedom of Kenward and Roger, whatever is compared."""
    expected = in_r(case, formula)
    names = [name(row) for _, row in expected.iterrows()]
    found = fitted(formula).test(contrasts, ddf="kenward-roger").set_index("contrast")
    assert sorted(found.index) == sorted(names)
    found = found.loc[names]
    value = next(c for c in ("estimate", "age.trend") if c in expected)
    columns = [value, "SE", "df", "lower.CL", "upper.CL"]
    for ours, theirs in zip(["estimate", "se", "df", "ci_low", "ci_high"], columns, strict=True):
        np.testing.assert_allclose(found[ours], expected[theirs], rtol=1e-6, atol=1e-8, err_msg=ours)


# ------------------------------------------------- contrasts written by hand


def rows(formula: str, contrasts: Any) -> dict[str, np.ndarray]:
    design = build_design(formula, data())
    names, L = resolve_contrasts(design, contrasts)
    return dict(zip(names, L, strict=True))


def test_pairs_are_differences_of_conditions() -> None:
    """Each is the difference of two `cond`, the later level less the earlier one, and has the sign of the coefficient."""
    at = {"ct": "T"}
    found = rows(BOTH, [dw.pairwise("disease", by="ct", at={"age": 50})])
    levels = ["control", "MS", "other"]
    by_hand = {
        f"disease: {high} vs {low} | ct={ct}, age=50": dw.cond(disease=high, ct=ct, age=50)
        - dw.cond(disease=low, ct=ct, age=50)
        for ct in ["B", "NK", "T"]
        for high, low in [("MS", "control"), ("other", "control"), ("other", "MS")]
    }
    assert list(found) == list(by_hand)
    for name, own in rows(BOTH, by_hand).items():
        np.testing.assert_array_equal(found[name], own)
    (only,) = rows("~ disease + ct + (1 | donor)", dw.pairwise("disease", at={"disease": levels[:2], **at})).items()
    assert only[0] == "disease: MS vs control | ct=T"
    np.testing.assert_array_equal(only[1], [0, 1, 0, 0, 0])


def test_names_of_a_dict_and_a_list() -> None:
    several = rows(
        BOTH,
        {"age": "age", "arms": dw.pairwise("disease"), "MS": dw.pairwise("disease", at={"disease": ["control", "MS"]})},
    )
    assert list(several) == [
        "age",
        *(f"arms[disease: {p}]" for p in ("MS vs control", "other vs control", "other vs MS")),
        "MS",
    ]
    listed = rows(SLOPES, ["ct[T.T]", dw.pairwise("disease"), dw.slope("age"), ("sex", "m", "f")])
    assert list(listed)[0] == "ct[T.T]" and list(listed)[4:] == ["slope of age", "sex: m vs f"]


def test_a_number_is_compared_at_values() -> None:
    found = rows(SLOPES, dw.pairwise("age", by="disease", at={"age": [40, 60, 70]}, reference=40))
    assert list(found)[:2] == ["age: 60 vs 40 | disease=control", "age: 70 vs 40 | disease=control"]
    slope = rows(SLOPES, dw.slope("age", at={"disease": "control"}))["slope of age | disease=control"]
    np.testing.assert_allclose(found["age: 60 vs 40 | disease=control"], 20 * slope, atol=1e-9)


@pytest.mark.parametrize(
    ("term", "derivative"),
    [
        ("age", lambda x: 1.0),
        ("I(age**3 / 1000)", lambda x: 3 * x**2 / 1000),
        ("I(age**4 / 10000)", lambda x: 4 * x**3 / 10000),
        ("log(age)", lambda x: 1 / x),
        ("exp(age / 50)", lambda x: np.exp(x / 50) / 50),
    ],
)
def test_slopes_are_derivatives(term: str, derivative: Any) -> None:
    """Polynomials to rounding; at the ends of the data, and beyond them, as well."""
    values = [31, 45.5, 73, 80]
    found = rows(f"~ {term} + ct + (1 | donor)", dw.slope("age", at={"age": values}))
    exact = [derivative(x) for x in values]
    np.testing.assert_allclose([row.sum() for row in found.values()], exact, rtol=1e-8)
    assert all(np.count_nonzero(row) == 1 for row in found.values())


def test_slopes_stay_inside_a_spline() -> None:
    """formulaic's bs() has no values beyond the data, and its slope is there at their ends."""
    found = rows(SPLINE, dw.slope("age", at={"age": [data()["age"].min(), data()["age"].max()]}))
    assert all(np.isfinite(row).all() and row.any() for row in found.values())


# -------------------------------------------------------------------- groups


def grouped(contrasts: Any, formula: str = "~ disease + (1 | donor)", by: tuple[str, ...] = ("ct",)) -> Any:
    """Names, and those that each of the groups answers; nobody with `other` has T cells."""
    obs = data()[~((data()["ct"] == "T") & (data()["disease"] == "other"))]
    tasks = tasks_by_group(formula, obs, by)
    names, own = resolve_by_group(tasks, contrasts, by)
    return names, {task.name: found.names for task, found in zip(tasks, own, strict=True) if found is not None}


@pytest.mark.parametrize("by", [None, "ct"])
def test_groups_answer_for_the_levels_that_they_have(by: str | None) -> None:
    """A column that makes the groups may be named: every group has its own answer anyway."""
    names, own = grouped(dw.pairwise("disease", by=by))
    assert names == ["disease: MS vs control", "disease: other vs control", "disease: other vs MS"]
    assert own == {"B": tuple(names), "NK": tuple(names), "T": tuple(names[:1])}


def test_levels_keep_their_order_where_a_group_lacks_some() -> None:
    """The first group has control and other alone; the order is that of the column."""
    obs = data()[~((data()["ct"] == "B") & (data()["disease"] == "MS"))]
    tasks = tasks_by_group("~ disease + age + (1 | donor)", obs, ("ct",))
    names, _ = resolve_by_group(tasks, dw.pairwise("disease"), ("ct",))
    assert names == ["disease: MS vs control", "disease: other vs control", "disease: other vs MS"]


def test_one_missing_level_among_several_values_costs_its_own_contrast_only() -> None:
    names, own = grouped(dw.slope("age", at={"disease": ["MS", "other"]}), "~ disease * age + (1 | donor)")
    assert names == ["slope of age | disease=MS", "slope of age | disease=other"]
    assert own["T"] == (names[0],) and own["B"] == tuple(names)


def test_through_a_fit() -> None:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=600, n_genes=5, seed=1)
    dw.tl.lmm(
        adata, "~ condition + (1 | donor_id)", groupby="cell_type", contrasts=dw.pairwise("condition", by="cell_type"),
        ddf="kenward-roger", progress=False,
    )  # fmt: skip
    found = dw.get.tests(adata)
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", ddf="kenward-roger", progress=False)
    plain = dw.get.tests(adata, contrast="condition[T.disease]")
    assert set(found["contrast"]) == {"condition: disease vs control"}
    np.testing.assert_allclose(found["p_value"], plain["p_value"], rtol=1e-10)


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dw.pairwise("diseas"), "`diseas` is not a variable of the fixed effects; did you mean `disease`?"),
        (lambda: dw.pairwise("donor"), "`donor` is not a variable of the fixed effects"),
        (lambda: dw.pairwise("disease", by="cT"), "did you mean `ct`?"),
        (lambda: dw.pairwise("disease", at={"batch": 1}), "`batch` is not a variable of the fixed effects"),
        (lambda: dw.pairwise("age"), "`age` is numeric and has no levels to compare"),
        (lambda: dw.pairwise("disease", by="age"), "name values, as in at={'age': [40, 60]}"),
        (lambda: dw.slope("disease"), "`disease` is a category, which has no slope; dw.pairwise('disease')"),
        (lambda: dw.pairwise("disease", reference="healthy"), "reference='healthy' is not a level of `disease`; they are `control`"),
        (lambda: dw.pairwise("disease", at={"disease": "MS"}), "`disease` has one level here, 'MS', and there is nothing"),
        (lambda: dw.pairwise("disease", at={"ct": "X"}), "'X' is not a level of `ct` in these rows; its levels are `B`"),
        (lambda: dw.pairwise("disease", at={"age": "old"}), "`age` is numeric: give a number, not 'old'"),
        (lambda: dw.slope("age", at={"age": [40, "x"]}), "`age` is numeric: give a number, not 'x'"),
        (lambda: dw.pairwise("disease", differences=True), "name a variable there"),
        (lambda: dw.slope("age", differences=True), "name a variable there"),
        (lambda: dw.pairwise("disease", by="disease"), "names a variable twice, or the one that is asked about"),
        (lambda: dw.pairwise("disease", by=["ct", "ct"]), "names a variable twice"),
        (lambda: dw.pairwise("disease", at=[("age", 50)]), "at= is a dict of values by variable"),
        (lambda: dw.pairwise("disease", at={"age": []}), "at= has no value for `age`"),
        (lambda: dw.pairwise(("disease",)), "('disease',) is not the name of a variable"),
        (lambda: dw.pairwise("sex", by="ct", differences=True), "The contrast `sex: m vs f | ct: NK vs B` is zero"),
    ],
)  # fmt: skip
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(DesignError, match=re.escape(message)):
        rows(BOTH, make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: dw.pairwise("ct"),
        lambda: dw.pairwise("disease", at={"ct": "T"}),
        lambda: dw.pairwise("disease", by="ct", differences=True),
    ],
)
def test_nothing_is_compared_between_groups(make: Any) -> None:
    with pytest.raises(DesignError, match="`ct` makes the groups, which have a model each"):
        grouped(make())


# -------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("pairwise(disease)", dw.pairwise("disease")),
        ("pairwise(disease | cell type)", dw.pairwise("disease", by="cell type")),
        ("slope(age | disease, sex)", dw.slope("age", by=["disease", "sex"])),
        ("pairwise[T.x]", "pairwise[T.x]"),
    ],
)
def test_commands_take_them_as_text(text: str, made: Any) -> None:
    obs = pd.DataFrame({"disease": ["MS"], "cell type": ["T"], "sex": ["f"], "age": [4.0]})
    assert parse_contrast(text, obs) == made


def test_plots_read_the_names() -> None:
    levels = ["control", "MS", "a | b=c"]
    assert _sides("disease: MS vs control | ct=T", levels) == ("MS", "control")
    assert _sides("disease: MS vs a | b=c", levels) == ("MS", "a | b=c")
    assert _sides("disease: MS vs control | ct: T vs B", levels) == ("", "")
    assert per_unit("slope of age | disease=MS", SLOPES) == " per unit of age"
    assert per_unit("slope of age", SLOPES) == " per unit of age"
    assert per_unit("disease: MS vs control | age=40", SLOPES) == ""
