"""How strongly covariates of donors go together: against R's cancor, in tables, audits and pictures."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency
from scipy.stats.contingency import association

import donorwise as dw
from donorwise._core.design.covariates import canonical
from donorwise.errors import DesignError

REFERENCE = Path(__file__).parent / "reference" / "covariates"
NAMES = ["disease", "site", "batch", "age", "bmi", "sex"]


def cells(extra: pd.DataFrame | None = None) -> ad.AnnData:
    """Donors of the reference, with numbers of cells that differ."""
    donors = pd.read_csv(REFERENCE / "donors.csv") if extra is None else extra
    n = np.random.default_rng(0).integers(2, 30, len(donors))
    obs = donors.loc[np.repeat(donors.index, n)].reset_index(drop=True)
    obs.index = [f"c{i}" for i in range(len(obs))]
    return ad.AnnData(np.random.default_rng(1).normal(size=(len(obs), 3)), obs=obs)


def test_against_cancor() -> None:
    expected = pd.read_csv(REFERENCE / "expected.csv", index_col=0)
    found = dw.get.covariates(cells(), NAMES)
    np.testing.assert_allclose(found, expected.loc[NAMES, NAMES], atol=1e-12)
    assert list(found.index) == list(found.columns) == NAMES
    assert found.attrs["units"] == "24 donors"


def test_numbers_and_factors() -> None:
    """A correlation, a multiple correlation, and Cramér's V."""
    donors = pd.read_csv(REFERENCE / "donors.csv")
    found = dw.get.covariates(cells(), ["age", "disease", "site", "batch"])
    table = pd.crosstab(donors["site"], donors["batch"])
    assert found.loc["site", "batch"] == pytest.approx(association(table, method="cramer"))
    assert chi2_contingency(table, correction=False)[0] > 0
    means = donors.groupby("site")["age"].transform("mean")
    assert found.loc["site", "age"] == pytest.approx(np.sqrt(means.var(ddof=0) / donors["age"].var(ddof=0)))
    assert found.loc["disease", "age"] == pytest.approx(
        abs(np.corrcoef(donors["disease"] == "MS", donors["age"])[0, 1])
    )


def test_collapsed_rows_and_formulas() -> None:
    adata = cells()
    rows = dw.pp.collapse(adata, ["donor", "disease", "site", "age"])
    formula = "~ disease + age + (1 | site) + (1 | donor)"
    by_name = dw.get.covariates(adata, ["disease", "age", "site"])
    for own in (adata, rows):
        pd.testing.assert_frame_equal(dw.get.covariates(own, formula), by_name)


def test_covariates_that_differ_within_donors() -> None:
    """A category makes parts of a donor, of as many cells as it likes; a number of cells is averaged."""
    obs = pd.DataFrame(
        {
            "donor": list("aaabbbccc"),
            "state": ["rest", "rest", "stim"] * 3,
            "depth": [1.0, 3, 5, 2, 2, 4, 1, 1, 9],
            "age": [30.0] * 3 + [50] * 3 + [40] * 3,
        },
        index=[f"c{i}" for i in range(9)],
    )
    found = dw.get.covariates(ad.AnnData(np.zeros((9, 1)), obs=obs), ["state", "depth", "age"])
    means, state = np.array([2, 5, 2, 4, 1, 9.0]), np.array([0, 1] * 3)
    assert found.attrs["units"] == "6 parts of donors"
    assert found.loc["state", "depth"] == pytest.approx(np.corrcoef(means, state)[0, 1])
    assert found.loc["state", "age"] == pytest.approx(0, abs=1e-12)


def test_samples_are_units_of_their_own() -> None:
    adata = cells()
    adata.obs["sample"] = adata.obs["donor"].astype(str) + np.where(np.arange(adata.n_obs) % 2, ".1", ".2")
    assert dw.get.covariates(adata, ["disease", "age"]).attrs["units"] == "48 parts of donors"
    assert dw.get.covariates(adata, ["disease", "age"], sample="").attrs["units"] == "24 donors"


@pytest.mark.parametrize(
    "Y",
    [np.ones((6, 1)), np.full((6, 1), np.nan), np.ones((6, 2)), np.empty((6, 0))],
    ids=["one", "none", "two", "empty"],
)
def test_a_covariate_with_a_single_value_has_none(Y: np.ndarray) -> None:
    assert np.isnan(canonical(np.arange(6.0)[:, None], Y))


def test_collinear_columns_count_once() -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(30, 2)), rng.normal(size=(30, 3))
    assert canonical(np.hstack([X, X @ [[1.0], [2.0]]]), Y) == pytest.approx(canonical(X, Y))
    assert canonical(1e6 + 1e-3 * X, Y) == pytest.approx(canonical(X, Y), rel=1e-5)


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        (["age"], {}, "two covariates or more"),
        ("~ age + (1 | donor)", {}, "two covariates or more"),
        (["age", "sxe"], {}, "no column 'sxe'. Did you mean 'sex'"),
        (["age", "sex"], {"donor": "patient"}, "no column 'patient'"),
    ],
)
def test_what_cannot_be_compared(columns: object, options: dict[str, str], said: str) -> None:
    with pytest.raises(DesignError, match=said):
        dw.get.covariates(cells(), columns, **options)  # type: ignore[arg-type]


def test_without_a_donor() -> None:
    adata = cells()
    adata.obs = adata.obs.rename(columns={"donor": "who"})
    with pytest.raises(DesignError, match="No column is known to be the donor: name it with donor="):
        dw.get.covariates(adata, ["age", "sex"])
    assert dw.get.covariates(adata, ["age", "sex"], donor="who").attrs["units"] == "24 donors"
    assert dw.get.covariates(adata, "~ age + sex + (1 | who)").attrs["units"] == "24 donors"


# ---------------------------------------------------------------- the audit


def told(adata: ad.AnnData, formula: str) -> list[str]:
    return [note for note in adata.donorwise.audit(formula).notes if "go together" in note]


def test_the_audit_has_them_and_speaks_of_those_that_go_together() -> None:
    donors = pd.read_csv(REFERENCE / "donors.csv")
    rng = np.random.default_rng(3)
    donors["weight"] = 2 * donors["age"] + rng.normal(0, 4.8, len(donors))  # correlation .93: below what is warned of
    adata = cells(donors)
    report = adata.donorwise.audit("~ disease + age + weight + (1 | donor)")
    assert list(report.covariates) == ["disease", "age", "weight"]
    value = report.covariates.loc["age", "weight"]
    assert 0.9 < value < 0.95
    text = (
        f"`age` and `weight` go together (canonical correlation {value:.2f} over 24 donors): what one of them explains"
    )
    assert (
        [note for note in report.notes if "go together" in note][0].replace("`", "").startswith(text.replace("`", ""))
    )
    assert not told(adata, "~ disease + age + (1 | donor)")
    donors["weight"] = 2 * donors["age"] + rng.normal(0, 0.5, len(donors))
    close = cells(donors).donorwise.audit("~ disease + age + weight + (1 | donor)")
    assert any("explained by" in text for text in close.warnings), "which says it already"
    assert not [note for note in close.notes if "go together" in note]


def test_audits_without_covariates() -> None:
    adata = cells()
    assert adata.donorwise.audit("~ disease + (1 | donor)").covariates.empty
    assert adata.donorwise.audit("~ disease + age").covariates.shape in {(0, 0), (2, 2)}


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("n", [2, 12])
def test_the_picture_holds_every_number(n: int) -> None:
    donors = pd.read_csv(REFERENCE / "donors.csv")[["donor", "disease"]]
    rng = np.random.default_rng(0)
    names = ["disease", *(f"a covariate with a name that is long, number {i}" for i in range(n - 1))]
    for name in names[1:]:
        donors[name] = rng.normal(size=len(donors))
    adata = cells(donors)
    figure = dw.pl.covariates(adata, names, return_fig=True)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    assert len(ax.texts) == n**2
    table = dw.get.covariates(adata, names)
    assert {text.get_text() for text in ax.texts} == {f"{value:.2f}" for value in table.to_numpy().ravel()}
    boxes = [label.get_window_extent() for label in [*ax.get_xticklabels(), *ax.get_yticklabels()]]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)
    plt.close(figure)
