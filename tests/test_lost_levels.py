"""Levels without rows: what compares with them is not estimable, with the reason, by every door."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.design.build import build_design
from donorwise.errors import DesignError, DonorwiseWarning

DONORS, CELLS, GENES = 24, 12, 4
TRUE = {"control": 0.0, "MS": 2.0, "AD": 5.0}


def cohort(lost: str = "control", *, name: str = "condition") -> ad.AnnData:
    """Donors of three conditions; those of one have no bmi."""
    rng = np.random.default_rng(0)
    d = np.repeat(np.arange(DONORS), CELLS)
    arm = np.array(list(TRUE))[d % 3]
    effect = np.array([TRUE[x] for x in arm])
    obs = pd.DataFrame(
        {
            "donor": [f"P{i:02}" for i in d],
            name: pd.Categorical(arm, categories=list(TRUE)),
            "sex": np.where(d % 2, "m", "f"),
            "bmi": np.where(arm == lost, np.nan, 20.0 + d % 7),
            "ct": "T",
        },
        index=[f"c{i}" for i in range(d.size)],
    )
    counts = rng.poisson(np.exp(1 + 0.2 * effect)[:, None], size=(d.size, GENES))
    X = effect[:, None] + rng.normal(size=(DONORS, GENES))[d] * 0.1 + rng.normal(size=(d.size, GENES)) * 0.1
    var = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    adata = ad.AnnData(X, obs=obs, var=var, layers={"counts": counts})
    adata.donorwise.setup(donor="donor")
    return adata


CHANGED = [
    ("condition + bmi", {"condition[T.AD]"}, {"condition[T.MS]"}),
    ("C(condition) + bmi", {"C(condition)[T.AD]"}, {"C(condition)[T.MS]"}),
    (
        "C(condition, Treatment('control')) + bmi",
        {"C(condition, Treatment('control'))[T.AD]"}, {"C(condition, Treatment('control'))[T.MS]"},
    ),
    # another reference is there: only what compares with the lost level goes
    ("C(condition, Treatment('MS')) + bmi", set(), {"C(condition, Treatment('MS'))[T.control]"}),
    # each code compares with all levels
    ("C(condition, Sum) + bmi", {"C(condition, Sum)[S.MS]"}, {"C(condition, Sum)[S.control]"}),
    ("C(condition, Helmert) + bmi", {"C(condition, Helmert)[H.AD]"}, {"C(condition, Helmert)[H.MS]"}),
    ("C(condition, Diff) + bmi", {"C(condition, Diff)[D.AD]"}, {"C(condition, Diff)[D.MS]"}),
    ("C(condition, contr.treatment('control')) + bmi", {"C(condition, contr.treatment('control'))[T.AD]"}, None),
    # the order of levels is that of the list
    (
        "C(condition, levels=['control', 'AD', 'MS']) + bmi",
        {"C(condition, levels=['control', 'AD', 'MS'])[T.MS]"}, {"C(condition, levels=['control', 'AD', 'MS'])[T.AD]"},
    ),
    (
        "C(condition, levels=['AD', 'control', 'MS']) + bmi",
        set(), {"C(condition, levels=['AD', 'control', 'MS'])[T.control]"},
    ),
    # in an interaction the other factor is read at the reference
    (
        "condition * sex + bmi",
        {"condition[T.AD]", "condition[T.AD]:sex[T.m]", "sex[T.m]"}, {"condition[T.MS]", "condition[T.MS]:sex[T.m]"},
    ),
    ("condition * bmi", {"condition[T.AD]", "bmi", "condition[T.AD]:bmi"}, {"condition[T.MS]", "condition[T.MS]:bmi"}),
    ("condition + sex + bmi", {"condition[T.AD]"}, {"condition[T.MS]"}),
    # levels of their own compare with none
    ("0 + condition + bmi", set(), {"condition[control]"}),
    ("0 + condition + condition:sex + bmi", set(), None),
]  # fmt: skip


@pytest.mark.parametrize(("fixed", "changed", "absent"), CHANGED)
def test_what_a_lost_reference_takes_with_it(fixed: str, changed: set[str], absent: set[str] | None) -> None:
    lost = build_design(f"~ {fixed} + (1 | donor)", cohort().obs).lost
    assert lost.changed - {"Intercept"} == changed
    present = set(build_design(f"~ {fixed} + (1 | donor)", cohort().obs).fixed_names)
    assert absent is None or (set(lost.expected) - present) == absent
    assert "level 'control' of `condition`" in lost.reason
    assert "(rows that miss `bmi` are left out)" in lost.reason


@pytest.mark.parametrize("name", ["my disease", "a:b", "a[T.x]", "class", "1"])
def test_names_do_not_hide_it(name: str) -> None:
    obs = cohort(name=name).obs
    for text in (f"`{name}`", f"C(`{name}`)", f"C(`{name}`, Treatment('control'))", f"`{name}` * sex"):
        lost = build_design(f"~ {text} + bmi + (1 | donor)", obs).lost
        assert any("[T.AD]" in coefficient for coefficient in lost.changed)


def test_a_level_that_is_no_reference_is_only_missed() -> None:
    adata = cohort("AD")
    lost = build_design("~ condition + bmi + (1 | donor)", adata.obs).lost
    assert not lost.changed
    with pytest.warns(DonorwiseWarning, match="No cell here has the level 'AD' of `condition`"):
        dw.tl.lmm(adata, "~ condition + bmi + (1 | donor)", progress=False)
    table = dw.get.tests(adata).groupby(["contrast", "status"], observed=True).size()
    assert table["condition[T.AD]"].to_dict() == {"not_estimable": GENES}
    assert "not_estimable" not in table["condition[T.MS]"]


def _lmm(adata: ad.AnnData, **options: object) -> pd.DataFrame:
    dw.tl.lmm(adata, "~ condition + bmi + (1 | donor)", progress=False, **options)
    return dw.get.tests(adata)


def _pseudobulk(adata: ad.AnnData, **options: object) -> pd.DataFrame:
    dw.tl.pseudobulk(adata, "~ condition + bmi", progress=False, **options)
    return dw.get.tests(adata, key="pseudobulk")


def _collapsed(adata: ad.AnnData, **options: object) -> pd.DataFrame:
    return _lmm(dw.pp.collapse(adata, by=["donor", "condition", "bmi", "ct"], progress=False), **options)


def _collapsed_counts(adata: ad.AnnData, **options: object) -> pd.DataFrame:
    by = ["donor", "condition", "bmi", "ct"]
    return _pseudobulk(dw.pp.collapse(adata, by=by, counts_layer="counts", progress=False), **options)


@pytest.mark.parametrize("groupby", [None, "ct"])
@pytest.mark.parametrize("door", [_lmm, _pseudobulk, _collapsed, _collapsed_counts])
def test_doors(door, groupby: str | None) -> None:
    adata = cohort()
    with pytest.warns(DonorwiseWarning, match="the reference level 'control' of `condition`"):
        table = door(adata, groupby=groupby)
    status = table.groupby("contrast", observed=True)["status"].agg(lambda s: set(s.astype(str)))
    assert status["condition[T.AD]"] == status["condition[T.MS]"] == {"not_estimable"}
    assert "not_estimable" not in status["bmi"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = door(adata, groupby=groupby, contrasts=[("condition", "AD", "MS")])
    assert set(other["status"].astype(str)) <= {"ok", "boundary"}
    with pytest.raises(
        DesignError, match="'control' is not a level of `condition` in these rows.*reference level 'control'"
    ):
        door(adata, groupby=groupby, contrasts=[("condition", "AD", "control")])
    with pytest.raises(DesignError, match="reference level 'control'"):
        door(adata, groupby=groupby, contrasts="condition[T.AD]")


def test_audit_says_it() -> None:
    (text,) = (
        t for t in cohort().donorwise.audit("~ condition + bmi + (1 | donor)").warnings if "reference level" in t
    )
    assert text.startswith("No cell here has the reference level 'control' of `condition`")


def test_arrays() -> None:
    adata = cohort()
    with pytest.warns(DonorwiseWarning, match="reference level"):
        fit = dw.fit_lmm(adata.X, adata.obs, "~ C(condition, Treatment('control')) + bmi + (1 | donor)")
    table = fit.test(ddf="kenward-roger").set_index(["contrast", "variable"])
    for level in ("AD", "MS"):
        rows = table.loc[f"C(condition, Treatment('control'))[T.{level}]"]
        assert set(rows["status"]) == {"not_estimable"}
        assert rows["estimate"].isna().all()
    assert set(table.loc["bmi"]["status"]) == {"ok"}
    difference = fit.test(("condition", "AD", "MS"), ddf="kenward-roger")
    np.testing.assert_allclose(difference["estimate"], 3.0, atol=0.2)


def test_the_other_numbers_are_those_of_the_levels_that_are_left() -> None:
    """What stands in for the reference changes no estimate that is kept."""
    adata = cohort()
    own = adata[adata.obs["condition"] != "control"].copy()
    plain = dw.fit_lmm(own.X, own.obs, "~ condition + bmi + (1 | donor)").test("bmi", ddf="kenward-roger")
    for text in ("C(condition, Treatment('control'))", "C(condition, Sum)", "condition"):
        with pytest.warns(DonorwiseWarning):
            fit = dw.fit_lmm(
                adata.X,
                adata.obs,
                f"~ {text} + bmi + (1 | donor)",
            )
        np.testing.assert_allclose(fit.test("bmi", ddf="kenward-roger")["p_value"], plain["p_value"], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C(condition, Treatment('ctrl'))", "'ctrl', which `C(condition, Treatment('ctrl'))` compares with, is not a level of `condition`"),
        ("C(condition, Treatment('Control'))", "did you mean `control`?"),
        ("C(stage, Treatment('2'))", "write 2, which is no text"),
        ("C(condition, levels=['control', 'MS'])", "leaves 'AD' of `condition` out"),
        ("C(condition, levels=['control', 'MS', 'AD', 'ad'])", "'ad', which `C(condition, levels=['control', 'MS', 'AD', 'ad'])` lists, is not a level"),
        ("C(stage, levels=['0', '1', '2'])", "write 0, which is no text"),
        ("C(condition, levels='control')", "is a list of levels"),
    ],
)  # fmt: skip
def test_a_reference_that_there_is_not(text: str, message: str) -> None:
    obs = cohort("").obs.assign(stage=lambda o: o["donor"].str[1:].astype(int) % 3)
    with pytest.raises(DesignError) as caught:
        build_design(f"~ {text} + (1 | donor)", obs)
    assert message in str(caught.value)
