"""What users are told of a generalised model: by the audit, before the fit, and after it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.collections import PathCollection
from scipy import sparse

import donorwise as dw
from donorwise._anndata.prepare_counts import prepare_glmm
from donorwise._cli import main
from donorwise._core.cells.nodes import RIGHT
from donorwise._core.engine.after_fit import overdispersed, separated
from donorwise._core.models.glmm.effects import modes
from donorwise._core.models.glmm.leftover import leftover, pearson
from donorwise._core.models.glmm.model import GLMM
from donorwise.errors import DataError, DonorwiseWarning

FORMULA = "~ condition + (1 | donor)"
DETECTED = {"family": "binomial", "response": "detected"}


def cohort(
    seed: int = 0,
    *,
    donors: int = 8,
    cells: int = 40,
    genes: int = 110,
    deeper: float = 1.0,
    paired: bool = False,
    within: float = 0.0,
) -> ad.AnnData:
    """Counts without a difference between arms, but for their depth; of each gene donors (and their responses) differ."""
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.uniform(np.log(0.02), np.log(2), genes))
    counts, obs = [], []
    for donor in range(donors):
        level = rng.normal(0, 0.4, genes)
        for arm in (0, 1) if paired else (donor % 2,):
            depth = np.exp(rng.normal(0, 0.3, cells)) * deeper**arm
            mu = depth[:, None] * mean * np.exp(level + rng.normal(0, within, genes))
            counts.append(rng.poisson(mu * rng.gamma(2.0, 0.5, mu.shape)))
            obs.append(pd.DataFrame({"donor": f"d{donor}", "condition": "ab"[arm], "total_counts": 1000 * depth}))
    table = pd.concat(obs, ignore_index=True)
    table.index = [f"c{i}" for i in range(len(table))]
    adata = ad.AnnData(np.concatenate(counts).astype(np.float32), obs=table)
    adata.obs["log_depth"] = np.log(adata.obs["total_counts"])
    adata.obs["k"], adata.obs["yes"] = adata.X[:, 0], adata.X[:, 0] > 0
    return adata


def fitted(adata: ad.AnnData, formula: str = FORMULA, **options: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.glmm(adata, formula, progress=False, **options)
    return adata.uns["glmm"]["params"]


def warned(adata: ad.AnnData, formula: str = FORMULA, **options: Any) -> list[str]:
    return list(prepare_glmm(adata, formula, **options).warnings)


@pytest.fixture(scope="module")
def deeper() -> ad.AnnData:
    return cohort(deeper=1.6)


# ---------------------------------------------------------------- depth


def test_detection_depends_on_depth_which_the_audit_and_the_tool_say(deeper: ad.AnnData) -> None:
    (text,) = deeper.donorwise.audit(FORMULA, family="binomial").warnings
    assert (
        "the chance that a gene is detected depends on depth" in text and "use link='cloglog' with an exposure" in text
    )
    assert "-fold between the arms of condition[T.b]" in text and "log-normalised" not in text
    assert warned(deeper, **DETECTED) == [text]
    adjusted = "~ condition + log_depth + (1 | donor)"
    assert not deeper.donorwise.audit(adjusted, family="binomial").warnings
    for options in ({"link": "cloglog"}, {"link": "cloglog", "exposure": "total_counts"}):
        assert not deeper.donorwise.audit(FORMULA, family="binomial", **options).warnings
        assert not warned(deeper, **DETECTED, **options)
    assert not warned(cohort(), **DETECTED)  # depth does not differ
    assert not warned(deeper, family="binomial", obs_keys="yes")  # a yes need not be one of detection
    assert not deeper.donorwise.audit(FORMULA, family="binomial", obs_keys="yes").warnings


def test_detection_with_an_exposure_holds_where_that_without_does_not() -> None:
    below: dict[str, list[float]] = {"logit": [], "cloglog": []}
    for seed in range(3):
        adata = cohort(seed, deeper=2.0, cells=60)
        for link, values in below.items():
            fitted(adata, link=link, **DETECTED, **({"exposure": "total_counts"} if link == "cloglog" else {}))
            values += list(dw.get.tests(adata, key="glmm")["p_value"] < 0.05)
    assert np.mean(below["logit"]) > 0.2
    assert np.mean(below["cloglog"]) < 0.09


def test_models_of_counts_have_the_depth(deeper: ad.AnnData) -> None:
    for family in ("nb", "poisson"):
        assert not deeper.donorwise.audit(FORMULA, family=family).warnings
        assert not warned(deeper, family=family)
    (text,) = deeper.donorwise.audit(FORMULA).warnings
    assert "log-normalised means depend on depth" in text


def test_depth_in_the_formula_and_in_the_exposure_is_noted(deeper: ad.AnnData) -> None:
    formula = "~ condition + log_depth + (1 | donor)"
    (note,) = (n for n in deeper.donorwise.audit(formula, family="nb").notes if "already" in n)
    assert note.startswith("`log_depth` is in the formula, and the exposure has the depth already")
    for options in ({"family": "binomial"}, {"family": "nb", "obs_keys": "k"}):
        assert not any("already" in n for n in deeper.donorwise.audit(formula, **options).notes)
    assert not any("already" in n for n in deeper.donorwise.audit(FORMULA, family="nb").notes)


def test_counts_without_an_exposure_are_said(deeper: ad.AnnData) -> None:
    (text,) = deeper.donorwise.audit(FORMULA, family="nb", obs_keys="k").warnings
    assert text.startswith("Counts without an exposure")
    assert warned(deeper, obs_keys="k") == [text]
    for options in ({"exposure": "total_counts"}, {"offset": "log_depth"}):
        assert not warned(deeper, obs_keys="k", **options)
        assert not deeper.donorwise.audit(FORMULA, family="nb", obs_keys="k", **options).warnings


def test_the_audit_knows_families(deeper: ad.AnnData) -> None:
    with pytest.raises(DataError, match=r"family='gaussian' is not known; use one of 'nb'"):
        deeper.donorwise.audit(FORMULA, family="gaussian")
    with pytest.raises(DataError, match=r"the link 'logit' has no exposure"):
        deeper.donorwise.audit(FORMULA, family="binomial", exposure="total_counts")
    for family in ("nb", "binomial"):  # it is one already
        assert not any("at hand" in n for n in deeper.donorwise.audit(FORMULA, family=family).notes)
    assert any("`dw.tl.glmm` (layer=None) tests them" in n for n in deeper.donorwise.audit(FORMULA).notes)


# ---------------------------------------------------------------- donors


def test_a_contrast_within_donors_needs_its_own_term() -> None:
    below: dict[str, list[float]] = {FORMULA: [], "~ condition + (1 | donor) + (1 | donor:condition)": []}
    for seed in range(3):
        adata = cohort(seed, donors=5, paired=True, within=0.3)
        for formula, values in below.items():
            said = [t for t in warned(adata, formula) if "no random term lets its effect differ between donors" in t]
            assert len(said) == (formula == FORMULA)
            assert all("(1 | donor:condition)" in text for text in said)
            fitted(adata, formula)
            values += list(dw.get.tests(adata, key="glmm")["p_value"] < 0.05)
    wrong, right = (float(np.mean(values)) for values in below.values())
    assert wrong > 0.12
    assert right < 0.08


def test_few_donors_and_unequal_arms_are_said() -> None:
    adata = cohort(donors=12)
    adata.obs["arm"] = np.where(adata.obs["donor"].isin(["d0", "d1"]), "x", "y")
    found = warned(adata, "~ arm + (1 | donor)")
    assert any("the result can hang on a single donor" in t for t in found)
    assert any("`(0 + arm || donor)` in place of `(1 | donor)` gives each arm its own" in t for t in found)
    assert not any("in place of" in t for t in warned(adata, "~ arm + (0 + arm || donor)"))


def test_a_handful_of_trials_a_donor_is_said() -> None:
    adata = cohort(donors=20, cells=3, genes=20)
    (text,) = (t for t in warned(adata, **DETECTED) if "yes or no" in t)
    assert text.startswith("Half of the levels of `donor` have 3 cells or fewer")
    adata.obs["m"] = 50
    assert not any("yes or no" in t for t in warned(adata, family="binomial", obs_keys="k", trials="m"))
    assert not any("yes or no" in t for t in warned(adata))
    assert not any("yes or no" in t for t in warned(cohort(genes=20), **DETECTED))


# ---------------------------------------------------------------- values and exposures


def test_counts_that_are_yes_and_no_are_said(deeper: ad.AnnData) -> None:
    own = deeper.copy()
    own.layers["seen"] = (own.X > 0).astype(np.int32)
    for family in ("nb", "poisson"):
        (text,) = warned(own, family=family, layer="seen")
        assert text.startswith("layers/seen has no count above one") and "link='cloglog'" in text
    assert not warned(own, **DETECTED, link="cloglog", layer="seen")


def test_exposures_too_far_apart_are_said_and_stored(deeper: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < fitted(deeper[:, :20].copy(), ddf="wald")["interpolation_error"] <= RIGHT
    assert "interpolation_error" not in fitted(deeper[:, :20].copy(), ddf="wald", family="poisson")
    monkeypatch.setattr("donorwise._core.cells.nodes._NODE_NUMBERS", (1, 4))
    (text,) = warned(deeper)
    assert text.startswith("Exposures reach from ") and "leave cells of extreme depth out" in text
    assert fitted(deeper[:, :20].copy(), ddf="wald")["interpolation_error"] > RIGHT
    assert not warned(deeper, exposure=np.ones(deeper.n_obs))


# ---------------------------------------------------------------- after the fit


def test_separated_features_are_counted(deeper: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    own = deeper[:, :30].copy()
    own.X[np.ix_(own.obs["condition"] == "a", range(3))] = 0
    own.X[:, 3] = 0
    with caplog.at_level(logging.WARNING, logger="donorwise"):
        params = fitted(own, ddf="between-within", exposure="total_counts")
    said = [r.getMessage() for r in caplog.records if "separated" in r.getMessage()]
    assert len(said) == 1 and said[0].startswith("condition[T.b]: 3 of 30 features are separated: in some arm")
    assert said[0] in params["cautions"]["values"]
    status = dw.get.tests(own, key="glmm", sort_by=None).set_index("variable")["status"]
    assert status.iloc[:4].tolist() == ["separated"] * 3 + ["constant"]
    assert separated(["c"], np.array([["ok", "constant"]])) == {}


def test_all_successes_are_constant(deeper: ad.AnnData) -> None:
    own = deeper[:, :20].copy()
    own.layers["seen"] = own.X > 0
    own.layers["seen"][:, 0], own.layers["seen"][:, 1] = True, False
    fitted(own, family="binomial", layer="seen", ddf="between-within")
    table = dw.get.tests(own, key="glmm", sort_by=None).set_index("variable")
    assert table["status"].iloc[:2].tolist() == ["constant"] * 2
    assert table.iloc[:2][["estimate", "p_value"]].isna().all(axis=None)


def test_few_features_have_between_within_tests(deeper: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="donorwise"):
        params = fitted(deeper[:, :40].copy())
    assert list(params["ddf_used"]["values"]) == ["between-within"]
    assert "40 features with a response are too few to learn a prior from (100 are needed)" in caplog.text


def test_log_fold_changes_that_are_shifted_name_the_exposure(caplog: pytest.LogCaptureFixture) -> None:
    adata = cohort(genes=240, cells=60)
    b = (adata.obs["condition"] == "b").to_numpy()
    adata.X[np.ix_(b, range(12))] += 8  # takes depth from all others
    with caplog.at_level(logging.WARNING, logger="donorwise"):
        fitted(adata)
    (text,) = (r.getMessage() for r in caplog.records if "the middle of the genes' log_fc" in r.getMessage())
    assert text.endswith("exposure='effective_depth', a column that dw.pp.size_factors makes, corrects that.")
    made = prepare_glmm(adata, FORMULA, exposure="total_counts")
    assert "effective_depth" in made.when_shifted
    adata.obs["effective_depth"] = 1.0
    assert (
        "left after exposure='effective_depth'" in prepare_glmm(adata, FORMULA, exposure="effective_depth").when_shifted
    )
    detected = prepare_glmm(adata, FORMULA, family="binomial", link="cloglog", response="detected")
    assert detected.when_shifted.endswith("compare family='nb'.")


def model_of(adata: ad.AnnData, formula: str, **options: Any) -> tuple[GLMM, np.ndarray]:
    """The first model, and typical variances of its features."""
    made = prepare_glmm(adata, formula, **options)
    (statistics,) = made.statistics()
    assert statistics is not None
    (model,) = made.fit(0, statistics, lambda n: None).models
    return model, np.tile(np.linspace(0.2, 0.4, len(model.components()[0])), (model.features.size, 1))


@pytest.mark.parametrize(
    "formula", [FORMULA, "~ condition + (1 | donor) + (1 | lane)", "~ condition + (condition || donor)"]
)
@pytest.mark.parametrize("family", ["poisson", "binomial"])
def test_what_is_left_over_has_its_naive_twin(formula: str, family: str) -> None:
    adata = cohort(paired=True, genes=12, within=0.2)
    adata.obs["lane"] = np.tile(["x", "y", "z", "z"], adata.n_obs // 4)
    options = {"family": family} | ({"response": "detected"} if family == "binomial" else {"exposure": "total_counts"})
    model, points = model_of(adata, formula, **options)
    at = np.array([1, 4, 5])
    squares, df = pearson(model, at, points[at])
    rows, found = model.rows, modes(model, at, points[at])
    component = np.repeat(np.arange(rows.kernel.starts.size - 1), np.diff(rows.kernel.starts))
    for g, A in enumerate(rows.loadings(points[at])):
        Z = np.zeros((component.size, component.max() + 1, A.shape[1]))
        Z[np.arange(component.size), component] = A
        C = np.hstack([rows.X, Z.reshape(component.size, -1)])
        eta = C @ np.concatenate([found.beta[g], found.b[g].ravel()])
        size = (model.counts.shared * model.counts.exposures).sum(axis=1)[rows.order]
        mean = size * (np.exp(eta) if family == "poisson" else 1 / (1 + np.exp(-eta)))
        W = mean if family == "poisson" else mean * (1 - mean / size)
        P = np.diag(np.r_[np.zeros(rows.X.shape[1]), np.ones(C.shape[1] - rows.X.shape[1])])
        H = C @ np.linalg.solve(C.T @ (W[:, None] * C) + P, C.T * W)
        y = model.counts.sums()[at[g]][rows.order]
        np.testing.assert_allclose([squares[g], df[g]], [((y - mean) ** 2 / W).sum(), y.size - np.trace(H)], rtol=1e-9)


def test_counts_that_vary_more_than_poisson_counts_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """Where rows share their random effects: of comparisons of donors, and with a term of their own, nothing is wrong."""
    paired = cohort(paired=True, genes=60)
    paired.X *= 3  # three times as much as Poisson counts do, at least
    for formula, n in ((FORMULA, 1), ("~ condition + (1 | donor) + (1 | donor:condition)", 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="donorwise"):
            params = fitted(paired, formula, family="poisson", ddf="wald")
        said = [
            r.getMessage() for r in caplog.records if "vary more within donors than Poisson counts do" in r.getMessage()
        ]
        assert len(said) == n
        assert not said or ("Use family='nb', and a random term" in said[0] and said[0] in params["cautions"]["values"])
    chance = cohort(paired=True, genes=60)
    chance.X = np.random.default_rng(0).poisson(1.0, chance.shape).astype(np.float32)
    for adata, options in ((chance, {"family": "poisson"}), (paired, {"family": "nb"}), (chance, DETECTED)):
        model, points = model_of(adata, FORMULA, **options)
        left = leftover(model, np.full_like(points, 0.01))
        assert left.n_over <= 1
        assert overdispersed(left, model.distribution) == {}
    assert leftover(model, np.full_like(points, np.nan)).n == 0


# ---------------------------------------------------------------- other doors


def test_commands_say_the_same(deeper: ad.AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, text = tmp_path / "cells.h5ad", "the chance that a gene is detected depends on depth"
    deeper.write_h5ad(path)
    base = ["--formula", FORMULA, "--family", "binomial"]
    said = CliRunner().invoke(main, ["audit", str(path), *base]).output
    assert said.strip() == str(deeper.donorwise.audit(FORMULA, family="binomial"))
    assert text in said
    assert text not in CliRunner().invoke(main, ["audit", str(path), *base, "--link", "cloglog"]).output
    run = ["glmm", str(path), *base, "--response", "detected", "--out", str(tmp_path / "out.csv"), "--dry-run"]
    with caplog.at_level(logging.WARNING, logger="donorwise"):
        found = CliRunner().invoke(main, run)
    assert found.exit_code == 0, found.output
    assert found.output.count(text) == 1 and text not in caplog.text
    assert text not in CliRunner().invoke(main, [*run, "--link", "cloglog"]).output


def test_open_intervals_are_arrows_and_separated_features_are_called_so(deeper: ad.AnnData) -> None:
    own = deeper[:, -30:].copy()
    own.X[np.ix_(own.obs["condition"] == "a", range(20))] = 0
    fitted(own, exposure="total_counts")
    for variables in (None, [own.var_names[0]]):  # the first has no other interval to go by
        ax = dw.pl.forest(own, variables, key="glmm")
        texts = [text.get_text() for text in ax.texts]
        assert any(text.startswith("FDR = ") and text.endswith(", separated") for text in texts)
        marked = [c for c in ax.collections if isinstance(c, PathCollection) and c.get_sizes()[0] == 16]
        assert sum(len(c.get_offsets()) for c in marked) == sum("separated" in text for text in texts)  # arrows
        assert np.isfinite(ax.get_xlim()).all()


def test_the_audit_looks_at_values_where_it_is_told_which() -> None:
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=600, n_genes=30, seed=3)
    counts = adata.layers["counts"].toarray()
    counts[(adata.obs["condition"] == "disease").to_numpy(), :4] = 0
    counts[:2, :4] = 1  # cells of the controls
    adata.layers["counts"] = sparse.csr_matrix(counts)
    formula = "~ condition + (1 | donor_id)"
    told = adata.donorwise.audit(formula, family="nb", layer="counts").warnings
    assert sum("4 of 30 features are separated" in text for text in told) == 1
    assert not any("separated" in text for text in adata.donorwise.audit(formula, family="nb").warnings)
    adata.layers["logged"] = adata.X
    told = adata.donorwise.audit(formula, family="poisson", layer="logged").warnings
    assert sum("does not hold raw counts" in text for text in told) == 1
    told = adata.donorwise.audit(
        formula, family="binomial", link="cloglog", layer="counts", response="detected"
    ).warnings
    assert sum("features are separated" in text for text in told) == 1
