"""Permuted labels: which there are, what refitting from the statistics gives, and what users see of it."""

from __future__ import annotations

import logging
from itertools import permutations
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._patterns import numbers_inside_patterns

import donorwise as dw
from donorwise._anndata import keys
from donorwise._core.design import build
from donorwise._core.design.build import build_design
from donorwise._core.design.contrasts import resolve_contrasts
from donorwise._core.design.exchange import find_exchange
from donorwise._core.design.permutations import arrange, count_distinct
from donorwise._core.engine.calibration import calibrate_statistics, make_plan, permuted, refit, shape_of
from donorwise._core.engine.fit_arrays import fit_lmm
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.tasks import Task, collapse_tasks
from donorwise.errors import DataError, DesignError, DonorwiseError

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

DDF = ("moderated", "kenward-roger", "satterthwaite", "between-within", "residual")


def paired_obs(n_donors: int = 8, n_cells: int = 6, seed: int = 0) -> pd.DataFrame:
    """Donors of two arms and sexes, each with two samples (control and stimulated), and cells with a depth."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(n_donors), 2 * n_cells)
    return pd.DataFrame(
        {
            "donor": pd.Categorical([f"D{d:02d}" for d in donor]),
            "arm": pd.Categorical(np.where(donor % 2, "ms", "ctrl")),
            "sex": pd.Categorical(np.where(donor % 4 < 2, "f", "m")),
            "age": rng.uniform(20, 70, n_donors)[donor],
            "stim": pd.Categorical(np.tile(np.repeat(["no", "yes"], n_cells), n_donors)),
            "depth": rng.normal(size=donor.size),
            "w": rng.uniform(0.5, 2.0, donor.size),
        }
    )


def responses(obs: pd.DataFrame, n_features: int = 110, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    donor = obs["donor"].cat.codes.to_numpy()
    sample = donor * 2 + obs["stim"].cat.codes.to_numpy()
    sd = rng.uniform(0, 0.7, n_features)
    effects = [sd * rng.normal(size=(n, n_features)) for n in (donor.max() + 1, sample.max() + 1)]
    return rng.normal(size=(len(obs), n_features)) + effects[0][donor] + 0.5 * effects[1][sample]


def plan_and_statistics(Y: np.ndarray, obs: pd.DataFrame, formula: str, contrast: Any, **options: Any) -> tuple:
    weights = options.pop("weights", None)
    design = build_design(formula, obs)
    variables = tuple(f"y{i + 1}" for i in range(Y.shape[1]))
    (statistics,) = collapse_tasks(Y, variables, [Task("all", design, "")], weights=weights)
    _, L = resolve_contrasts(design, contrast)
    return statistics, variables, make_plan(design, obs, L, donor="donor", **options), design


def relabelled(obs: pd.DataFrame, design: Any, plan: Any, labels: np.ndarray) -> pd.DataFrame:
    """What a permutation means for the cells."""
    values = design.frame[plan.exchange.variable].array[plan.exchange.example]
    out = obs.copy()
    out[plan.exchange.variable] = values[labels[plan.exchange.unit[design.codes]]]
    return out


CASES = {
    "plain": ("~ arm + (1 | donor)", "arm[T.ms]"),
    "covariate": ("~ arm + depth + (1 | donor)", "arm[T.ms]"),
    "spline": ("~ arm + bs(age, df=3) + (1 | donor)", "arm[T.ms]"),
    "numeric": ("~ scale(age) + sex + (1 | donor)", "scale(age)"),
    "interaction": ("~ arm * stim + (1 | donor) + (1 | donor:stim)", ("arm", "ms", "ctrl")),
    "interaction term": ("~ arm * stim + (1 | donor)", "arm[T.ms]:stim[T.yes]"),
    "flips": ("~ stim + depth + (1 | donor) + (1 | donor:stim)", "stim[T.yes]"),
    "slope": ("~ stim + (stim | donor)", "stim[T.yes]"),
}


@pytest.mark.parametrize(("weighted", "case"), [(i % 2 == 0, case) for i, case in enumerate(CASES)])
def test_permuted_fit_equals_refit_from_cells(case: str, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_patterns", numbers_inside_patterns)
    formula, contrast = CASES[case]
    obs = paired_obs()
    Y = responses(obs)
    Y[3, 0] = Y[obs["donor"] == "D01", 1] = np.nan
    Y[:, 2] = 1.0
    w = obs["w"].to_numpy() if weighted else None
    statistics, variables, plan, design = plan_and_statistics(Y, obs, formula, contrast, weights=w)
    labels = plan.arrangements.labels[-1]
    assert not np.array_equal(labels, plan.exchange.labels)
    fit = fit_lmm(Y, relabelled(obs, design, plan, labels), formula, weights=w)
    for ddf in DDF if case in ("plain", "covariate") else DDF[1:]:
        ours = refit(permuted(statistics, plan, labels), lambda own: fit_statistics(own, variables), plan.L, ddf=ddf)
        naive = fit.test(contrast, ddf=ddf)
        np.testing.assert_allclose(ours.p_value, naive["p_value"], rtol=2e-5, err_msg=ddf)
        np.testing.assert_array_equal(np.asarray(ours.status), naive["status"].astype(str))
        if case != "numeric":  # the scale's own unit is learned from cells with other labels
            np.testing.assert_allclose(ours.estimate, naive["estimate"], rtol=2e-5, atol=1e-9)


def test_permutation_p_against_a_loop_over_refits() -> None:
    obs, formula, contrast = paired_obs(n_donors=6), "~ arm + (1 | donor)", "arm[T.ms]"
    Y = responses(obs, 12)
    statistics, variables, plan, design = plan_and_statistics(Y, obs, formula, contrast)
    made = calibrate_statistics(
        statistics, lambda own: fit_statistics(own, variables), plan, ddf="kenward-roger", n_jobs=2
    )
    t = np.array(
        [
            fit_lmm(Y, relabelled(obs, design, plan, labels), formula).test(contrast, "kenward-roger")["statistic"]
            for labels in (plan.exchange.labels, *plan.arrangements.labels)
        ]
    )
    assert len(t) == 10, "20 ways to choose three of six donors, half of them mirror images"
    naive = (np.abs(t) >= np.abs(t[0]) * (1 - 1e-9)).mean(axis=0)
    np.testing.assert_allclose(made.permutation_p, naive)
    assert made.permutation_p.min() >= 1 / plan.arrangements.n_distinct


def _all_by_brute_force(labels: np.ndarray, block: np.ndarray, mirrored: bool) -> set[tuple[int, ...]]:
    blocks = [np.flatnonzero(block == b) for b in np.unique(block)]
    found = set()
    for order in permutations(range(len(labels))):
        if all(set(np.array(order)[own]) == set(own) for own in blocks):
            own = tuple(labels[list(order)])
            found.add(min(own, tuple(1 - label for label in own)) if mirrored else own)
    return found


@pytest.mark.parametrize(
    ("arms", "strata", "mirrored"),
    [("ababab", None, True), ("aabbbb", None, False), ("abcabc", None, False), ("ababab", "xxxxyy", True),
     ("aabbab", "xxyyzz", False), ("aaabab", "xxyyyx", False)],
)  # fmt: skip
def test_arrangements_against_brute_force(arms: str, strata: str | None, mirrored: bool) -> None:
    obs = pd.DataFrame({"donor": np.repeat(list("123456"), 3), "arm": np.repeat(list(arms), 3)})
    if strata:
        obs["batch"] = np.repeat(list(strata), 3)
    design = build_design("~ arm + (1 | donor)", obs)
    own = find_exchange(design, obs, np.eye(len(design.fixed_names))[1], strata=["batch"] if strata else [])
    assert (own.swap is not None) == (mirrored or arms == "abcabc")
    if arms == "abcabc":
        assert own.swap == (0, 1), "the contrast of b with a is the same up to its sign, with c in its place"
        own = type(own)(*(getattr(own, name) for name in own.__slots__[:-1]), None)
    every = _all_by_brute_force(own.labels, own.block, mirrored)
    if len(every) == 1:
        with pytest.raises(DesignError, match="one way only"):
            arrange(own, 1000, np.random.default_rng(0), lambda labels: True)
        return
    assert count_distinct(own) == len(every)
    found = arrange(own, 1000, np.random.default_rng(0), lambda labels: True)
    assert found.exhaustive and len(found.labels) == len(every) - 1

    def canonical(labels: np.ndarray) -> tuple[int, ...]:
        return min(tuple(labels), tuple(1 - labels)) if mirrored else tuple(labels)

    assert {canonical(labels) for labels in found.labels} == every - {canonical(own.labels)}
    some = arrange(own, len(every) - 2, np.random.default_rng(0), lambda labels: True) if len(every) > 2 else found
    assert len({canonical(labels) for labels in some.labels}) == len(some.labels) == max(len(every) - 2, 1)
    assert {canonical(labels) for labels in some.labels} <= every - {canonical(own.labels)}
    assert not some.exhaustive or len(every) == 2


def test_flips_move_labels_inside_donors_only() -> None:
    obs = paired_obs(n_donors=5)
    obs = obs[~((obs["donor"] == "D04") & (obs["stim"] == "yes"))]
    design = build_design("~ stim + (1 | donor)", obs)
    own = find_exchange(design, obs, np.array([0.0, 1.0]))
    assert own.kind == "within-donor" and own.labels.size == 9
    assert count_distinct(own) == 2**4, (
        "the donor with one sample cannot flip, so no two arrangements are mirror images"
    )
    for labels in arrange(own, 100, np.random.default_rng(0), lambda labels: True).labels:
        assert all(sorted(labels[own.block == b]) == sorted(own.labels[own.block == b]) for b in range(5))


def test_samples_of_a_donor_with_one_label_move_together() -> None:
    """They share the donor's response: to move them one by one would take them for replicates of it."""
    obs = paired_obs(n_donors=4, n_cells=6)
    replicate = pd.Series(np.arange(len(obs)) % 2, index=obs.index)
    obs["sample"] = obs["donor"].astype(str) + obs["stim"].astype(str) + replicate.astype(str)
    design = build_design("~ stim + (1 | donor / sample)", obs)
    own = find_exchange(design, obs, np.array([0.0, 1.0]))
    assert own.labels.size == 8 and count_distinct(own) == 2**4 // 2
    coarser = build_design("~ stim + (1 | donor) + (1 | donor:stim) + (1 | sample)", obs)
    assert find_exchange(coarser, obs, np.array([0.0, 1.0])).labels.size == 8


def test_labels_that_fall_together_with_a_covariate_are_left_out() -> None:
    obs = paired_obs(n_donors=6)
    obs["site"] = pd.Categorical(np.where(obs["donor"].cat.codes < 3, "x", "y"))
    design = build_design("~ arm + site + (1 | donor)", obs)
    plan = make_plan(design, obs, np.array([[0.0, 1.0, 0.0]]))
    assert plan.arrangements.n_unusable == 1 and len(plan.arrangements.labels) == 8


@pytest.fixture(scope="module")
def null() -> ad.AnnData:
    """Donors that differ, and nothing else."""
    obs = paired_obs(n_donors=10, n_cells=15)
    X = responses(obs, 300, seed=3) * 0.5 + 1.0
    adata = ad.AnnData(X, obs=obs.set_axis([f"c{i}" for i in range(len(obs))]))
    adata.obs["type"] = pd.Categorical(np.where(np.arange(len(obs)) % 3, "T", "B/NK"))
    return adata


def calibrated(adata: ad.AnnData, formula: str = "~ arm + (1 | donor)", contrast: Any = "arm[T.ms]", **options: Any):
    options = {"n_permutations": 12, "ddf": "kenward-roger", "progress": False} | options
    return dw.tl.calibrate(adata, formula, contrast, copy=True, **options)


def test_calibrated_where_donors_are_replicates_and_not_where_cells_are(null: ad.AnnData) -> None:
    right = calibrated(null, ddf="moderated", n_permutations=20)
    level = dw.get.calibration(right).set_index("alpha")
    assert 0.85 < level.loc[0.05, "ratio"] < 1.15
    assert 0.8 < dw.get.calibration(right, table="groups")["lambda_median"][0] < 1.2
    flat = dw.get.calibration(right, table="histogram")
    assert stats.chisquare(flat["median"], np.full(20, flat["median"].mean())).pvalue > 1e-3
    wrong = calibrated(null, "~ stim + (1 | donor)", "stim[T.yes]", ddf="residual", n_permutations=20)
    assert dw.get.calibration(wrong).set_index("alpha").loc[0.05, "ratio"] > 1.6
    assert dw.get.calibration(wrong, table="groups")["kind"].tolist() == ["within-donor"]


@pytest.mark.parametrize("ddf", ["moderated", "kenward-roger"])
def test_observed_labels_are_what_lmm_gives(null: ad.AnnData, ddf: str) -> None:
    adata = calibrated(null, groupby="type", ddf=ddf, n_permutations=2)
    dw.tl.lmm(adata, "~ arm + (1 | donor)", groupby="type", ddf=ddf, progress=False)
    ours = dw.get.calibration(adata, table="variables")
    theirs = dw.get.tests(adata, sort_by=None)
    assert ours["variable"].tolist() == theirs["variable"].tolist()
    np.testing.assert_allclose(ours["p_value"], theirs["p_value"], rtol=1e-6)
    np.testing.assert_allclose(ours["estimate"], theirs["estimate"], rtol=1e-6, atol=1e-12)
    first = dw.get.calibration(adata, table="permutations").query("observed")
    assert (
        first["hits"].tolist() == (theirs["adj_p_value"] < 0.05).groupby(theirs["group"], observed=True).sum().tolist()
    )


def test_deterministic_and_independent_of_workers(null: ad.AnnData) -> None:
    tables = [
        dw.get.calibration(calibrated(null, n_permutations=6, **options), table="permutations")
        for options in ({}, {"n_jobs": 2}, {"random_state": 1})
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0]["lambda"][1:].isin(tables[2]["lambda"]).all()
    assert tables[0]["lambda"].is_unique, "no permutation twice, and none the observed labels"


@pytest.mark.parametrize("permute", ["arm", "sex"])
def test_one_variable_of_an_interaction_is_permuted(null: ad.AnnData, permute: str) -> None:
    contrast = "arm[T.ms]:sex[T.m]"
    adata = calibrated(null, "~ arm * sex + (1 | donor)", contrast, permute=permute, n_permutations=30)
    assert dw.get.calibration(adata, table="groups")["permuted"].tolist() == [permute]
    assert 0.8 < dw.get.calibration(adata).set_index("alpha").loc[0.05, "ratio"] < 1.2
    assert adata.uns["calibration"]["params"]["permute"] == permute


def test_the_same_reason_is_told_once(null: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    adata = null.copy()
    adata.obs["one"] = pd.Categorical(np.where(adata.obs["type"] == "T", adata.obs["arm"], "ctrl"))
    dw.tl.lmm(adata, "~ one + (1 | donor)", groupby="type", ddf="kenward-roger", progress=False)
    adata.obs["half"] = adata.obs["type"].astype(str) + adata.obs["sex"].astype(str)
    with caplog.at_level(logging.WARNING, logger="donorwise"):
        caplog.clear()
        dw.tl.lmm(adata, "~ one + (1 | donor)", groupby="half", ddf="kenward-roger", progress=False)
    (text,) = (r.getMessage() for r in caplog.records if "one level" in r.getMessage())
    assert text.startswith("B/NKf, B/NKm: ")
    with pytest.raises(DesignError) as error:
        dw.tl.lmm(adata, "~ amr + (1 | donor)", groupby="half")
    assert str(error.value).count("did you mean `arm`") == 1


def test_strata_are_respected(null: ad.AnnData) -> None:
    adata = calibrated(null, "~ arm + sex + (1 | donor)", strata="sex", n_permutations=1000)
    facts = dw.get.calibration(adata, table="groups").iloc[0]
    n = null.obs.drop_duplicates("donor").groupby(["sex", "arm"], observed=True).size()
    ways = np.prod([stats.binom(n[sex].sum(), 0.5).pmf(n[sex]["ms"]) * 2 ** n[sex].sum() for sex in "fm"])
    assert facts["n_blocks"] == 2 and facts["n_distinct"] == round(ways / 2)
    assert facts["exhaustive"] and facts["smallest_p"] == pytest.approx(1 / facts["n_distinct"])


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_survives_a_file(null: ad.AnnData, suffix: str, tmp_path: Path) -> None:
    adata = calibrated(null, groupby="type", strata=["sex"], n_permutations=3)
    path = tmp_path / f"x.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    for table in keys.CALIBRATION_TABLES:
        before, after = (dw.get.calibration(a, table=table) for a in (adata, back))
        pd.testing.assert_frame_equal(before, after, check_categorical=False)
    assert back.uns["calibration"]["params"]["contrast"] == "arm[T.ms]"
    part = back[:, :7].copy()
    assert len(dw.get.calibration(part, table="variables")) == 14
    assert dw.pl.qq(part, group="T") is not None


def test_every_feature_has_a_row_and_a_bad_group_a_reason(null: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    adata = null.copy()
    adata.X[:, 0] = 2.0
    adata.obs["type"] = np.where(adata.obs["donor"].isin(["D00", "D02"]), "rare", "common")
    with caplog.at_level(logging.INFO, logger="donorwise"):
        adata = calibrated(adata, groupby="type", n_permutations=2)
    assert "common: 2 of 55 between-donor permutations of `arm`" in caplog.text
    table = dw.get.calibration(adata, table="variables")
    assert len(table) == 2 * adata.n_vars
    assert (table.loc[table["group"] == "rare", "status"] == "not_estimable").all()
    assert table.loc[(table["group"] == "common") & (table["variable"] == "0"), "status"].tolist() == ["constant"]
    assert dw.get.calibration(adata)["group"].unique().tolist() == ["common"]


@pytest.mark.parametrize(("n_donors", "says"), [(10, "of 511 "), (50, "of 5.6e+14 "), (1100, "of inf ")])
def test_numbers_of_permutations_are_short(n_donors: int, says: str, caplog: pytest.LogCaptureFixture) -> None:
    """Two to the power of 1099 flips are more than a float can hold."""
    obs = paired_obs(n_donors=n_donors, n_cells=1)
    adata = ad.AnnData(responses(obs, 2), obs=obs.set_axis([f"c{i}" for i in range(len(obs))]))
    with caplog.at_level(logging.INFO, logger="donorwise"):
        calibrated(adata, "~ stim + (1 | donor)", "stim[T.yes]", ddf="residual", n_permutations=2)
    assert f"all: 2 {says}within-donor permutations of `stim`" in caplog.text


def test_says_when_the_design_has_too_few_permutations(caplog: pytest.LogCaptureFixture) -> None:
    """Three pairs can be flipped in 2³ ways, which are four by symmetry, the observed one among them."""
    obs = paired_obs(n_donors=3, n_cells=2)
    adata = ad.AnnData(responses(obs, 2), obs=obs.set_axis([f"c{i}" for i in range(len(obs))]))
    calibrated(adata, "~ stim + (1 | donor)", "stim[T.yes]", ddf="residual", n_permutations=20)
    assert "all: 3 of the 20 permutations" in caplog.text


def test_says_when_it_calibrates_another_ddf(null: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="donorwise"):
        adata = calibrated(null[:, :50].copy(), ddf="moderated", n_permutations=3)
    assert caplog.text.count("Kenward-Roger degrees of freedom are") == 1, "once, not at every permutation"
    assert dw.get.calibration(adata, table="groups")["ddf"].tolist() == ["kenward-roger"]


@pytest.mark.parametrize(
    ("formula", "contrast", "options", "message"),
    [
        ("~ arm + depth + (1 | donor)", "depth", {}, "differs from cell to cell"),
        ("~ arm * depth + (1 | donor)", "arm[T.ms]", {}, "number that differs from cell to cell"),
        ("~ arm + (1 | sample)", "arm[T.ms]", {}, "no random term for the donor `donor`"),
        ("~ arm * sex + (1 | donor)", "arm[T.ms]:sex[T.m]", {}, "say which with permute='arm'"),
        ("~ arm * sex + (1 | donor)", "arm[T.ms]:sex[T.m]", {"permute": "age"}, "it is about `arm`, `sex`"),
        ("~ arm + sex + (1 | donor)", {"arm[T.ms]": 1, "sex[T.m]": 1}, {}, "share no variable"),
        ("~ arm + (1 | donor)", "Intercept", {}, "intercept alone"),
        ("~ arm + sex + (1 | donor)", None, {}, "one contrast, not 2"),
        ("~ visit + (1 | donor)", "visit[T.b]", {}, "one or the other"),
        ("~ arm + (1 | donor)", "arm[T.ms]", {"strata": "arm"}, "one way only"),
        ("~ arm + (1 | donor)", "arm[T.ms]", {"strata": "stim"}, "whole units"),
        ("~ arm + (1 | donor)", "arm[T.ms]", {"strata": "sx"}, "did you mean `sex`"),
        ("~ arm + (1 | donor)", "arm[T.ms]", {"n_permutations": 0}, "whole number"),
        ("~ arm + (1 | donor)", "arm[T.ms]", {"ddf": "kr"}, "is not an option"),
        ("~ sex + (1 | arm) + (1 | donor)", "sex[T.m]", {"strata": "hole"}, "is missing"),
        ("~ arm + (1 | arm) + (1 | donor)", "arm[T.ms]", {}, "already fit|grouping factor"),
    ],
)
def test_errors(
    null: ad.AnnData, formula: str, contrast: Any, options: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find_patterns", numbers_inside_patterns)
    adata = null.copy()
    adata.obs["sample"] = (adata.obs["arm"].astype(str) + (np.arange(adata.n_obs) % 5).astype(str)).to_numpy()
    adata.obs["visit"] = np.where((adata.obs["donor"] == "D00") & (adata.obs["stim"] == "no"), "a", "b")
    adata.obs.loc[adata.obs["donor"].isin(["D01", "D03"]), "visit"] = "a"
    adata.obs["hole"] = pd.Categorical(np.where(adata.obs["donor"] == "D05", None, "x"))
    adata.donorwise.setup(donor="donor")
    before = dict(adata.uns)
    with pytest.raises(DonorwiseError, match=message):
        dw.tl.calibrate(adata, formula, contrast, **({"progress": False, "ddf": "kenward-roger"} | options))
    assert dict(adata.uns) == before


def test_readers_without_a_calibration(null: ad.AnnData) -> None:
    with pytest.raises(DataError, match=r"run dw\.tl\.calibrate first"):
        dw.get.calibration(null)
    with pytest.raises(DataError, match=r"no donorwise result 'lmm'.*run dw\.tl\.lmm first"):
        dw.pl.qq(null)
    with pytest.raises(DonorwiseError, match="choose one of 'groups'"):
        dw.get.calibration(calibrated(null, n_permutations=1), table="level")


def test_shape_of_known_p_values() -> None:
    p = np.append((np.arange(1000) + 0.5) / 1000, np.nan)
    shape = shape_of(p)
    assert shape.n_tested == 1000 and shape.hits == 0
    assert shape.inflation == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(shape.share_below, [0.05, 0.01, 0.001, 0])
    assert set(shape.counts) == {50}
    assert np.all(np.diff(shape.curve) >= 0) and shape.curve[0] == p[0] and shape.curve[-1] == p[999]
    assert shape_of(p[-1:]).n_tested == 0


def test_plots_show_the_tables(null: ad.AnnData) -> None:
    adata = calibrated(null, groupby="type")
    axes = dw.pl.qq(adata)
    assert [ax.get_title() for ax in axes] == ["B/NK, arm[T.ms]", "T, arm[T.ms]"]
    curve = dw.get.calibration(adata, table="curves", group="T")
    np.testing.assert_allclose(axes[1].collections[-1].get_offsets(), curve[["expected", "observed"]])
    facts = dw.get.calibration(adata, table="groups", group="T").iloc[0]
    assert any(f"{facts['lambda_observed']:.2f}" in text.get_text() for text in axes[1].texts)
    ax = dw.pl.pvalues(adata, group="T")
    heights = dw.get.calibration(adata, table="histogram", group="T")["observed"]
    np.testing.assert_allclose(ax.patches[0].get_data().values, heights)
    assert "12 permutations" in ax.get_legend().get_texts()[1].get_text()
    plt.close("all")


def test_plots_of_a_result_without_permutations(null: ad.AnnData) -> None:
    adata = null.copy()
    dw.tl.lmm(adata, "~ arm + sex + (1 | donor)", ddf="kenward-roger", progress=False)
    assert dw.pl.qq(adata).get_title() == "arm[T.ms]", "without a calibration the result, and its first contrast"
    ax = dw.pl.qq(adata, key="lmm", contrast="sex[T.m]")
    assert "independent" in ax.get_legend().get_texts()[0].get_text()
    p = np.sort(dw.get.tests(adata, contrast="sex[T.m]")["p_value"])
    assert ax.collections[-1].get_offsets()[0][1] == pytest.approx(-np.log10(p[0]))
    assert dw.pl.pvalues(adata, key="lmm", contrast="sex[T.m]", return_fig=True) is not None
    plt.close("all")
