"""Formulas as other packages have them: every message says what to write, and that works."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from donorwise._core.design.build import build_design
from donorwise.errors import DonorwiseError


def cells() -> pd.DataFrame:
    donor = np.repeat(np.arange(30), 10)
    obs = pd.DataFrame(
        {"donor": [f"P{i}" for i in donor], "arm": np.where(donor % 2, "case", "control"), "age": 20.0 + 2 * donor}
    )
    return obs.assign(**dict.fromkeys(("donor-id", "donor id", "my-donor.id"), obs["donor"]), stage=donor % 3)


# what is written, a piece of what is said, and what it says to write instead
ENDS = [
    ("ns(age, df=3)", "cr(age, df=3, constraints='center')"),
    ("splines::ns(age, df=3)", "cr(age, df=3, constraints='center')"),
    ("s(age)", "cr(age, df=4, constraints='center')"),
    ("s(age, k=5)", "cr(age, df=5, constraints='center')"),
    ("s(donor, bs='re')", "write `(1 | donor)`, a random effect"),
    ("rcs(age, 4)", "cr(age, df=4, constraints='center')"),
    ("age^2", "this is `age` itself; for numbers write `I(age**2)`"),
    ("age + age**2", "for numbers write `I(age**2)`"),
    ("C(arm, 'case')", "written `C(arm, Treatment('case'))`"),
    ("C(arm, ref='case')", "written `C(arm, Treatment('case'))`"),
    ("C(arm, Treatment)", "written `C(arm, Treatment('reference'))`"),
    ("cr(age, df=4)", "cr(age, df=4, constraints='center')"),
    ("arm*cr(age, df=4)", "cr(age, df=4, constraints='center')"),
    ("cc(age, df=4)", "cc(age, df=4, constraints='center')"),
    ("I(age^2)", "I(age**2)"),
    ("age + I(age ^ 3)", "I(age ** 3)"),
    ("log(age^2)", "log(age**2)"),
    ("sqrt(age)", "np.sqrt(age)"),
    ("log1p(age)", "np.log1p(age)"),
    ("factor(stage)", "C(stage)"),
    ("as.factor(stage)", "C(stage)"),
    ("C(arm, Treatment(reference='control'))", "Treatment('control')"),
    ("C(arm, Treatment('ctrl'))", "did you mean `control`?"),
    ("C(stage, Treatment('1'))", "write 1, which is no text"),
    ("C(arm, contr.treatment('Case'))", "did you mean `case`?"),
]


@pytest.mark.parametrize(("term", "said"), ENDS)
def test_terms(term: str, said: str) -> None:
    with pytest.raises(DonorwiseError) as caught:
        build_design(f"~ {term} + (1 | donor)", cells())
    assert said in str(caught.value)
    if "`" not in said and "which" not in said and "reference" not in term:
        build_design(f"~ {said} + (1 | donor)", cells())


def test_grouping_factors_are_labels_anyway() -> None:
    with pytest.raises(DonorwiseError, match=r"whatever they hold: write `\(1 \| donor\)`"):
        build_design("~ arm + (1 | C(donor))", cells())


@pytest.mark.parametrize("name", ["donor-id", "donor id", "my-donor.id"])
@pytest.mark.parametrize("formula", ["~ arm + (1 | {})", "~ arm + (age | {})", "~ age + {} + (1 | donor)"])
def test_names_want_backticks(name: str, formula: str) -> None:
    with pytest.raises(DonorwiseError) as caught:
        build_design(formula.format(name), cells())
    text = str(caught.value)
    assert "backticks" in text
    if "|" in formula[:14] or "-" in name:
        assert f"`{name}`" in text
    build_design(f"~ arm + (1 | `{name}`)", cells())


def test_a_difference_is_no_name() -> None:
    build_design("~ arm + age -1 + (1 | donor)", cells().rename(columns={"donor id": "age -1", "donor-id": "x-1"}))
