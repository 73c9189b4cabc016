"""Names of columns and levels never steer the code: whatever they are, the numbers are those of plain names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.design.build import build_design
from donorwise._core.design.contrasts import resolve_term
from donorwise.errors import DesignError, FormulaError

DONORS, CELLS = 12, 20
COLUMNS = [
    "1", "2nd", "class", "lambda", "True", "a b", "a-b", "a:b", "a[b]", "a[T.x]", "it's", 'say "x"', "{x}", "x|y", "C", "log",
    "np", "Treatment", "I(x)", "µg", "Ⅷ", "a.b", "__x", "%in%", "a\tb", "🧬", "Intercept", "variable", "group", "contrast",
    "level", "column", "term", "Residual", "icc", "fixed", "fraction",
]  # fmt: skip
LEVELS = ["__b", "a:b", "a[b]", "[T.x]", "x]:age[", "", "it's", "b\nc", "µ", "🧬", "nan", "{0}", "%s", "'", "`"]


def cells() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    d = np.repeat(np.arange(DONORS), CELLS)
    obs = pd.DataFrame({"donor": [f"P{i}" for i in d], "arm": np.where(d % 2, "case", "control"), "age": 20.0 + d})
    Y = rng.normal(size=(d.size, 2)) + 2.0 * (d % 2)[:, None] + rng.normal(size=(DONORS, 2))[d] * 0.1
    return obs.assign(dose=rng.normal(size=d.size)), Y


def numbers(obs: pd.DataFrame, Y: np.ndarray, formula: str) -> list[np.ndarray]:
    """All that a fit says, without the names."""
    fit = dw.fit_lmm(Y, obs, formula)
    group = fit.design.random_terms[0].group
    tables = [fit.test(ddf="kenward-roger"), fit.varcomp(), fit.icc(), fit.variance_partition(), fit.ranef(group)]
    joint = [fit.joint_test(term) for term in fit.design.terms]
    return [table.select_dtypes("number").to_numpy() for table in [*tables, *joint]]


ROLES = {
    "factor": ("arm", "~ {} + age + (1 | donor)"),
    "coded": ("arm", "~ C({}, Treatment('control')) + age + (1 | donor)"),
    "interaction": ("arm", "~ {} * age + (1 | donor)"),
    "cell means": ("arm", "~ 0 + {} + age + (0 + {} || donor)"),
    "number": ("age", "~ arm + {} + (1 | donor)"),
    "call": ("age", "~ arm + I({} * 2) + (1 | donor)"),
    "slope": ("dose", "~ arm + (1 | donor) + (0 + {} | donor)"),
    "grouping factor": ("donor", "~ arm + age + (1 | {})"),
    "nested": ("donor", "~ age + (1 | {}:arm)"),
}


@pytest.mark.parametrize("role", ROLES)
def test_columns(role: str) -> None:
    obs, Y = cells()
    own, formula = ROLES[role]
    expected = numbers(obs, Y, formula.replace("{}", own))
    for name in [*COLUMNS, *([""] if own != "donor" else [])]:
        found = numbers(obs.rename(columns={own: name}), Y, formula.replace("{}", f"`{name}`"))
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, err_msg=repr(name))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "formula",
    [
        "~ arm + age + (1 | donor)", "~ C(arm, Sum) * age + (1 | donor)", "~ 0 + arm + age + (0 + arm || donor)",
        "~ C(arm, levels=['control', '{}']) + (1 | donor)", "~ C(arm, Treatment('{}')) + (1 | donor)",
    ],
)  # fmt: skip
def test_levels(formula: str, level: str) -> None:
    obs, Y = cells()

    def of(name: str) -> list[np.ndarray]:
        arm = pd.Categorical(np.where(obs["arm"] == "case", name, "control"), categories=["control", name])
        text = name.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        return numbers(obs.assign(arm=arm), Y, formula.replace("{}", text))

    for a, b in zip(of("case"), of(level), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9)


def test_levels_are_contrasted_by_their_names() -> None:
    obs, Y = cells()
    for level in LEVELS:
        arm = pd.Categorical(np.where(obs["arm"] == "case", level, "control"), categories=["control", level])
        fit = dw.fit_lmm(Y, obs.assign(arm=arm), "~ arm + (1 | donor)")
        assert fit.design.fixed_names == ("Intercept", f"arm[T.{level}]")
        rows = [fit.test(c, ddf="kenward-roger")["estimate"] for c in (("arm", level, "control"), f"arm[T.{level}]")]
        assert np.allclose(rows[0], rows[1])


def test_bare_names_that_python_keeps_for_itself() -> None:
    obs, _ = cells()
    for name in ("class", "global", "µg", "log"):
        design = build_design(f"~ C({name}) + (1 | donor)", obs.rename(columns={"arm": name}))
        shown = f"`{name}`" if name in ("class", "global") else name
        assert design.fixed_names == ("Intercept", f"C({shown})[T.control]")


def test_our_own_words_stay_ours() -> None:
    obs, _ = cells()
    for name, shown in {"1": "`1`", "Intercept": "`Intercept`", "": "``", "Residual": "Residual"}.items():
        design = build_design(f"~ arm + `{name}` + (1 | donor)", obs.rename(columns={"age": name}))
        assert design.fixed_names == ("Intercept", "arm[T.control]", shown)
        assert list(design.terms) == ["arm", shown]
        assert design.reads[shown] == (name,)


def test_two_coefficients_never_share_a_name() -> None:
    obs, _ = cells()
    clash = obs.rename(columns={"age": "arm[T.control]"})
    with pytest.raises(DesignError, match=r"Two coefficients are called `arm\[T.control\]`"):
        build_design("~ arm + `arm[T.control]` + (1 | donor)", clash)


def test_a_column_with_a_colon_is_no_interaction() -> None:
    obs, _ = cells()
    obs["arm:age"] = obs["dose"]
    design = build_design("~ `arm:age` + arm * age + (1 | donor)", obs)
    assert design.fixed_names == ("Intercept", "`arm:age`", "arm[T.control]", "age", "arm[T.control]:age")
    for text, at in {"age:arm": 4, "arm:age": 4, "`arm:age`": 1}.items():
        assert resolve_term(design, text).tolist() == np.eye(5)[[at]].tolist()


def test_a_grouping_factor_has_a_name() -> None:
    with pytest.raises(FormulaError, match="Right of the bar stands the name of a column"):
        build_design("~ arm + (1 | ``)", cells()[0])
