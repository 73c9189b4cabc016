"""Numbers and dates that are kept as text, and labels that are kept as numbers."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.design.audit import audit
from donorwise._core.design.build import build_design
from donorwise.errors import DesignError

DONORS = 12


def cells(**columns: object) -> pd.DataFrame:
    """Columns of donors, in 20 cells each; cases and controls by turns."""
    donors = pd.DataFrame(columns, index=range(DONORS)).assign(
        donor=[f"P{i}" for i in range(DONORS)], arm=["control", "case"] * (DONORS // 2)
    )
    return donors.loc[np.repeat(np.arange(DONORS), 20)].reset_index(drop=True)


AGES = [str(20 + 3 * i) for i in range(DONORS)]
TEXTS = {
    "ages": (AGES, 'obs["x"] = obs["x"].astype(float)'),
    "category": (pd.Categorical(AGES), "astype(float)"),
    "category of numbers": (pd.Categorical([20 + 3 * i for i in range(DONORS)]), "holds numbers as categories"),
    "string dtype": (pd.array(AGES, dtype="string"), "astype(float)"),
    "top-coded": ([*AGES[:-1], "90+"], "`90+`"),
    "below": ([*AGES[:-1], "<1"], "str.extract"),
    "with units": ([f"{a}-year-old stage" for a in AGES], "str.extract"),
    "comma": ([f"{a},5" for a in AGES], "str.replace(',', '.')"),
    "some unknown": ([*AGES[:-1], "unknown"], "unknown would be missing"),
    "top-coded and unknown": ([*AGES[:-2], "90+", "NA"], "str.extract"),
    "dates": ([f"2020-01-{i + 1:02d}" for i in range(DONORS)], "pd.Timestamp('2020-01-01')).dt.days"),
    "dates, one unknown": ([f"2020-01-{i + 1:02d}" for i in range(DONORS - 1)] + ["not known"], "errors='coerce'"),
    "dates with slashes": ([f"{i + 1:02d}/02/2020" for i in range(DONORS)], "pd.to_datetime"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_the_conversion_is_named_and_works(kind: str) -> None:
    values, part = TEXTS[kind]
    obs = cells(x=values)
    with pytest.raises(DesignError) as caught:
        build_design("~ arm + x + (1 | donor)", obs)
    text = str(caught.value)
    assert part.strip("`") in text
    assert "(1 | x)" not in text
    (warning, *_) = audit("~ arm + x + (1 | donor)", obs).warnings
    assert part.strip("`") in warning
    line = next(piece for piece in text.split("`") if piece.startswith('obs["x"] = '))
    exec(line, {"obs": obs, "pd": pd})
    build_design("~ arm + x + (1 | donor)", obs)


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d/%m/%y", "%Y/%m/%d", "%d-%m-%Y"])
def test_days_and_months_are_not_mixed_up(form: str) -> None:
    days = pd.date_range("2020-01-05", periods=DONORS, freq="3D")
    obs = cells(x=days.strftime(form))
    text = audit("~ arm + x + (1 | donor)", obs).warnings[0]
    exec(next(piece for piece in text.split("`") if piece.startswith('obs["x"] = ')), {"obs": obs, "pd": pd})
    np.testing.assert_array_equal(obs["x"].to_numpy()[::20], 3 * np.arange(DONORS))


def test_dates_that_do_not_tell() -> None:
    text = audit("~ arm + x + (1 | donor)", cells(x=[f"{i + 1:02d}/02/2020" for i in range(DONORS)])).warnings[0]
    assert "dayfirst=True) - pd.Timestamp('2020-02-01')" in text
    assert "without `dayfirst` where the month comes first" in text


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("age", ["20", "30", "40"] * 4), ("age", ["1", "2", "3"] * 4), ("dose", ["0", "5", "50"] * 4),
        ("visit_date", ["2020-01-01", "2020-02-01"] * 6), ("year", [2019, 2020, 2022] * 4),
    ],
)  # fmt: skip
def test_a_coefficient_for_each_of_a_few_is_said(name: str, values: list[object]) -> None:
    obs = cells(**{name: pd.Categorical(values)})
    found = [t for t in audit(f"~ arm + {name} + (1 | donor)", obs).warnings if t.startswith(f"`{name}` holds")]
    assert len(found) == 1
    assert f"if they are labels, write `C({name})`" in found[0]
    assert not [t for t in audit(f"~ arm + C({name}) + (1 | donor)", obs).warnings if "holds" in t]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("batch", ["11", "12", "23"] * 4), ("grade", ["1", "2", "3"] * 4), ("genotype", ["0/0", "0/1", "1/1"] * 4),
        ("stage", ["I", "II", "III"] * 4), ("plate_id", ["101", "205", "309"] * 4), ("smoker", ["0", "1"] * 6),
        ("site", ["7", "9", "30"] * 4), ("clone", ["a1", "b2", "c3"] * 4),
    ],
)  # fmt: skip
def test_labels_are_left_alone(name: str, values: list[str]) -> None:
    found = audit(f"~ arm + {name} + (1 | donor)", cells(**{name: values}))
    assert not [t for t in (*found.warnings, *found.notes) if "holds" in t]


@pytest.mark.parametrize("name", ["lane", "batch", "seq_run", "site", "pool", "plate", "cohort", "batch_id", "library"])
def test_codes_that_are_not_declared(name: str) -> None:
    obs = cells(**{name: [1, 2, 3, 4] * 3})
    (note,) = (t for t in audit(f"~ arm + {name} + (1 | donor)", obs).notes if t.startswith(f"`{name}` is a number"))
    assert "one slope over 1, 2, 3, ... 4" in note
    assert f"write `C({name})`" in note
    for formula in (f"~ arm + C({name}) + (1 | donor)", f"~ arm + (1 | {name}) + (1 | donor)"):
        assert not [t for t in audit(formula, obs).notes if "is a number" in t]


@pytest.mark.parametrize("name", ["age", "dose", "trial_length", "response", "log_depth", "planet", "runtime"])
def test_numbers_are_left_alone(name: str) -> None:
    obs = cells(**{name: [1, 2, 3, 4] * 3})
    assert not [t for t in audit(f"~ arm + {name} + (1 | donor)", obs).notes if "is a number" in t]


def test_real_dates_have_a_line_too() -> None:
    obs = cells(when=pd.date_range("2020-01-01", periods=DONORS))
    with pytest.raises(DesignError, match="dt.days") as caught:
        build_design("~ arm + when + (1 | donor)", obs)
    exec(next(p for p in str(caught.value).split("`") if p.startswith("obs['when'] =")), {"obs": obs, "pd": pd})
    assert build_design("~ arm + when + (1 | donor)", obs).numeric_means["when"] == 5.5


def test_tools_say_it() -> None:
    adata = dw.datasets.simulate_cohort(n_donors=9, n_cells=600, n_genes=5, seed=1)
    donors = sorted(adata.obs["donor_id"].unique())
    adata.obs["age"] = adata.obs["donor_id"].map({d: str(20 + 10 * (i % 3)) for i, d in enumerate(donors)}).astype(str)
    with pytest.warns(dw.errors.DonorwiseWarning, match="`age` holds numbers as text"):
        dw.tl.lmm(adata, "~ condition + age + (1 | donor_id)", progress=False)
    with pytest.warns(dw.errors.DonorwiseWarning, match="`age` holds numbers as text"):
        dw.tl.pseudobulk(adata, "~ condition + age", progress=False)


def test_donors_that_are_numbers_are_names() -> None:
    obs = cells(who=list(range(101, 101 + DONORS))).assign(when=lambda o: np.arange(len(o)) % 2)
    adata = ad.AnnData(
        np.random.default_rng(0).normal(size=(len(obs), 3)), obs=obs.set_axis([f"c{i}" for i in obs.index])
    )
    adata.donorwise.setup(donor="who")
    for formula, said in (("~ when + who", True), ("~ when + C(who)", False)):
        found = adata.donorwise.audit(formula)
        assert not [t for t in (*found.warnings, *found.notes) if "make it a number" in t]
        assert any("numbers of `who`, the donor, are taken for labels" in t for t in found.notes) is said


def test_a_slope_of_the_declared_batch_is_a_warning() -> None:
    obs = cells(pool=[1, 2, 3, 4] * 3)
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.normal(size=(len(obs), 3)), obs=obs.set_axis([f"c{i}" for i in obs.index]))
    adata.layers["counts"] = rng.poisson(3, adata.shape)
    adata.donorwise.setup(donor="donor", batch="pool")
    said = r"`pool` is a number to the formula.* write `C\(pool\)`"
    with pytest.warns(dw.errors.DonorwiseWarning, match=said):
        dw.tl.lmm(adata, "~ arm + scale(pool) + (1 | donor)", progress=False)
    with pytest.warns(dw.errors.DonorwiseWarning, match=said):
        dw.tl.pseudobulk(adata, "~ arm + log(pool)", progress=False)
    assert not [t for t in adata.donorwise.audit("~ arm + pool + (1 | donor)").warnings if "is a number" in t]
