"""Designs that look replicated and are not: the audit's word before the fit, and the right formula beside it."""

from __future__ import annotations

import re
import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._anndata import read_results
from donorwise._batch.report import summarise
from donorwise._core.design.audit import audit
from donorwise._core.design.build import build_design
from donorwise._core.design.exchange import find_exchange
from donorwise.errors import DesignError, DonorwiseWarning

N_GENES = 300
# shares below .05 of 300 null genes that share a prior; .05 +- 3 standard errors is .012 to .088
HELD, INFLATED = (0.01, 0.09), 0.2


def cohort(
    n_donors: int = 8, n_samples: int = 3, n_cells: int = 8, *, response: float = 0.5, seed: int = 0
) -> ad.AnnData:
    """Counts of null genes: donors x two conditions x samples; donors differ in their level and in their response."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(range(n_donors), range(2), range(n_samples), range(n_cells), indexing="ij")
    d, c, s, _ = (x.ravel() for x in grid)
    level, own = rng.normal(0, 0.4, (n_donors, N_GENES)), rng.normal(0, response, (2 * n_donors, N_GENES))
    noise = rng.normal(0, 0.05, (2 * n_donors * n_samples, N_GENES))
    Y = rng.poisson(np.exp(np.log(3) + level[d] + own[2 * d + c] + noise[(2 * d + c) * n_samples + s]))
    obs = pd.DataFrame(
        {
            "donor": [f"P{i}" for i in d],
            "condition": pd.Categorical(np.where(c, "stim", "ctrl")),
            "sample": [f"P{i}_{j}_{k}" for i, j, k in zip(d, c, s, strict=True)],
            "tube": [f"P{i}_{j}" for i, j in zip(d, c, strict=True)],
            "lane": [f"L{k}" for k in s],
            "visit": s.astype(float),
            "arm": np.where(d < n_donors // 2, "a", "b"),
        },
        index=[f"c{i}" for i in range(d.size)],
    )
    adata = ad.AnnData(
        np.log1p(Y / Y.sum(axis=1, keepdims=True) * 1e3),
        obs=obs,
        var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]),
    )
    adata.layers["counts"] = Y.astype(np.float64)
    return adata


@pytest.fixture(scope="module")
def repeated() -> ad.AnnData:
    """Three samples of a donor in each condition."""
    return cohort()


def warned(run: Any, *args: Any, **options: Any) -> list[str]:
    """What a tool warns of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run(*args, progress=False, **options)
    return [str(w.message) for w in found if issubclass(w.category, DonorwiseWarning)]


def share_below(adata: ad.AnnData, key: str, contrast: str = "condition[T.stim]") -> float:
    """Share of the null genes with p below .05."""
    return float((dw.get.tests(adata, key=key, contrast=contrast)["p_value"] < 0.05).mean())


def assert_held(share: float) -> None:
    assert HELD[0] < share < HELD[1]


@pytest.mark.parametrize(
    ("formula", "needs"),
    [
        ("~ condition + (1 | donor) + (1 | sample)", "(1 | donor:condition)"),
        ("~ condition + (1 | donor / sample)", "(1 | donor:condition)"),
        ("~ condition + (1 | sample)", "(1 | donor:condition)"),
        ("~ condition + visit + (1 | donor) + (1 | sample)", "(1 | donor:condition)"),
        ("~ condition + lane + (1 | donor) + (1 | donor:condition:lane)", "(1 | donor:condition)"),
        ("~ condition + (1 | donor) + (0 + condition | sample)", "(1 | donor:condition)"),
        ("~ region + (1 | donor) + (1 | piece)", "(1 | donor:region)"),
        ("~ C(region, contr.sum) + (1 | donor) + (1 | piece)", "(1 | donor:region)"),
        ("~ condition * region + (1 | donor) + (1 | piece)", "(1 | donor:condition:region)"),
        ("~ tissue + arm + (1 | donor) + (1 | piece)", "(1 | donor:tissue)"),
        ("~ dose + (1 | donor) + (1 | sample)", "(0 + dose | donor)"),
        ("~ condition + (1 | donor) + (1 | donor:condition)", None),
        ("~ condition + (1 | donor) + (1 | donor:condition) + (1 | sample)", None),
        ("~ condition + (1 | donor) + (1 | tube)", None),
        ("~ condition + (condition | donor)", None),
        ("~ condition + (0 + condition | donor) + (1 | sample)", None),
        ("~ condition * visits + (1 | donor) + (1 | sample)", None),
        ("~ visits + (1 | donor) + (1 | donor:visits)", None),
        ("~ C(visits, contr.sum) + (1 | donor) + (1 | donor:visits)", None),
        ("~ C(visits, contr.poly) + (1 | donor) + (1 | donor:visits)", None),
        ("~ condition * region + (1 | donor) + (1 | donor:condition:region)", None),
        ("~ arm + (1 | donor) + (1 | sample)", None),
        ("~ arm * visits + (1 | donor) + (1 | donor:visits)", None),
    ],
)
def test_a_term_that_splits_the_donors_response_is_no_cover_of_it(
    repeated: ad.AnnData, formula: str, needs: str
) -> None:
    obs = repeated.obs.assign(
        visits=[f"v{v:.0f}" for v in repeated.obs["visit"]], dose=(repeated.obs["condition"] == "stim") * 1.5
    )
    obs["region"] = np.tile(["r1", "r2"], len(obs) // 2)
    obs["tissue"] = obs["region"].map({"r1": "skin", "r2": "gut"})
    obs["piece"] = obs["sample"] + obs["region"]
    found = [t for t in audit(formula, obs, donor="donor").warnings if "lets" in t]
    assert any(f"`{needs}`" in text for text in found) if needs else not found


def test_the_formula_that_is_advised_holds_its_level(repeated: ad.AnnData) -> None:
    asked = "~ condition + (1 | donor) + (1 | sample)"
    (text,) = warned(dw.tl.lmm, repeated, asked)
    assert "`(1 | sample)` takes the several levels that a donor has at one value of `condition` for replicates" in text
    assert "add `(1 | donor:condition)` besides `(1 | sample)`." in text
    assert share_below(repeated, "lmm") > INFLATED
    assert not warned(dw.tl.lmm, repeated, "~ condition + (1 | donor) + (1 | donor:condition)")
    assert_held(share_below(repeated, "lmm"))


def test_one_donor_with_a_sample_more_is_no_cause_for_a_warning(repeated: ad.AnnData) -> None:
    obs = repeated.obs
    obs = obs[obs["sample"].str.endswith("_0") | (obs["sample"] == "P0_1_1")]
    assert not audit("~ condition + (1 | donor) + (1 | sample)", obs).warnings


def test_what_is_permuted_is_what_the_contrast_varies_over(repeated: ad.AnnData) -> None:
    """All that a donor has in a condition moves together, whatever random terms split it."""
    for formula in ("~ condition + (1 | donor) + (1 | sample)", "~ condition + (1 | donor) + (1 | donor:condition)"):
        exchange = find_exchange(build_design(formula, repeated.obs), repeated.obs, np.array([0.0, 1.0]))
        assert exchange.labels.size == 16
    dw.tl.calibrate(
        repeated, "~ condition + (1 | donor) + (1 | sample)", "condition[T.stim]", n_permutations=20, progress=False
    )
    assert repeated.uns["calibration"]["groups"]["lambda_median"].iloc[0] > 2


@pytest.mark.parametrize("formula", ["~ condition + (1 | donor)", "~ condition + donor"])
def test_declared_samples_of_one_condition_are_one_unit(repeated: ad.AnnData, formula: str) -> None:
    """The donor's response is the unit, unless samples are asked for: then the formula that is right is named."""
    adata = repeated.copy()
    adata.donorwise.setup(donor="donor", sample="sample")
    assert not warned(dw.tl.pseudobulk, adata, formula)
    assert adata.uns["pseudobulk"]["params"]["units"] == "donor:condition"
    assert adata.uns["pseudobulk"]["params"]["sample"] == ""
    assert_held(share_below(adata, "pseudobulk"))
    (text,) = warned(dw.tl.pseudobulk, adata, formula, sample="sample")
    assert adata.uns["pseudobulk"]["params"]["units"] == "donor:sample"
    assert "Fit `~ condition + donor + (1 | donor:condition)`, or leave out `sample`" in text
    assert share_below(adata, "pseudobulk") > INFLATED
    advised = re.search(r"Fit `([^`]+)`,", text).group(1)
    assert not warned(dw.tl.pseudobulk, adata, advised, sample="sample")
    assert_held(share_below(adata, "pseudobulk"))


def test_samples_stay_units_where_donors_are_compared(repeated: ad.AnnData) -> None:
    adata = repeated[repeated.obs["condition"] == "ctrl"].copy()
    adata.donorwise.setup(donor="donor", sample="sample")
    assert not warned(dw.tl.pseudobulk, adata, "~ arm + (1 | donor)")
    assert adata.uns["pseudobulk"]["params"]["units"] == "donor:sample"


def test_a_lane_that_splits_units_is_warned_about_and_the_valid_formula_is_not(repeated: ad.AnnData) -> None:
    """Every tube (a donor in a condition) ran on three lanes."""
    adata = repeated.copy()
    adata.donorwise.setup(donor="donor", sample="tube")
    (text,) = warned(dw.tl.pseudobulk, adata, "~ condition + lane + (1 | donor)")
    assert "Fit `~ condition + lane + donor + (1 | donor:condition)`, or leave out `lane`" in text
    assert share_below(adata, "pseudobulk") > INFLATED
    for formula in ("~ condition + lane + donor + (1 | donor:condition)", "~ condition + (1 | donor)"):
        assert not warned(dw.tl.pseudobulk, adata, formula)
        assert_held(share_below(adata, "pseudobulk"))
    assert not warned(dw.tl.pseudobulk, adata, "~ condition + lane + (1 | tube)")
    assert share_below(adata, "pseudobulk") < HELD[1]  # unpaired: cautious


@pytest.mark.parametrize(
    ("formula", "options", "texts"),
    [
        ("~ visit + (1 | donor)", {}, ["fit `dw.tl.lmm` with `(0 + visit | donor)`"]),
        ("~ visit * arm + (1 | donor)", {}, ["fit `dw.tl.lmm` with `(0 + visit | donor)`"]),
        (
            "~ condition + arm + lane + (1 | donor)",
            {},
            ["Leave out `lane`, which splits the units, or fit `dw.tl.lmm`"],
        ),
        ("~ condition + lane", {}, ["Fit `~ condition + lane + donor + (1 | donor:condition)`"]),
        ("~ arm + lane", {}, ["8 donors have several units (donor:lane)"]),
        ("~ arm + (1 | tube)", {"sample": "sample"}, ["the 16 levels of `tube` for replicates"]),
        ("~ condition * lane + (1 | donor)", {}, []),
        ("~ arm + lane + (1 | donor)", {}, []),
        ("~ condition + arm + (1 | donor)", {}, []),
    ],
)
def test_units_that_count_as_replicates(
    repeated: ad.AnnData, formula: str, options: dict[str, str], texts: list[str]
) -> None:
    adata = repeated[:, :20]
    found = warned(dw.tl.pseudobulk, adata.copy(), formula, donor="donor", **options)
    assert len(found) == len(texts)
    for text, own in zip(texts, found, strict=True):
        assert text in own


@pytest.fixture(scope="module")
def two_pairs() -> ad.AnnData:
    """Two donors in both conditions; a fifth of the genes respond."""
    adata = cohort(n_donors=2, n_samples=1, n_cells=80, response=0.1, seed=4)
    adata.X[adata.obs["condition"] == "stim", :60] += 1.5
    return adata


PAIRED = "~ condition + (1 | donor) + (1 | donor:condition)"


def test_two_pairs_have_nothing_but_the_prior(two_pairs: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    """The audit, the params, the report, influence and power say so; Kenward-Roger finds next to nothing."""
    (text,) = warned(dw.tl.lmm, two_pairs, PAIRED)
    assert "nothing but the prior that features share carries a moderated test of it" in text
    found = int((dw.get.tests(two_pairs)["adj_p_value"] < 0.05).sum())
    assert found > 40
    assert read_results(two_pairs, "lmm").params["carried_by_prior"] == {"all": "condition[T.stim]"}
    assert "all: nothing but the prior that features share carries" in summarise(two_pairs, "lmm")
    with caplog.at_level("INFO", logger="donorwise"):
        dw.tl.influence(two_pairs, progress=False)
    assert f"{found} of {found} hits have no test without any one of their donors" in caplog.text
    assert "hang on one donor" not in caplog.text
    texts = [text.get_text() for text in dw.pl.influence(two_pairs).texts]
    assert "no test can be made without any one of these donors" in texts
    assert not any("hang on one donor" in text for text in texts)
    texts = warned(dw.tl.power, two_pairs, n_donors=(2, 8), n_cells=100)
    assert any(t.startswith("condition[T.stim]: the fitted study (2 donors) says next to nothing") for t in texts)
    assert any(t.startswith("n_donors of 2: nothing but the prior") for t in texts)
    assert not any(t.startswith("n_donors of 8") for t in texts)
    dw.tl.lmm(two_pairs, PAIRED, ddf="kenward-roger", progress=False, key_added="kr")
    assert int((dw.get.tests(two_pairs, key="kr")["adj_p_value"] < 0.05).sum()) == 0
    assert "carried_by_prior" not in two_pairs.uns["kr"]["params"]
    dw.tl.pseudobulk(two_pairs, "~ condition + (1 | donor)", progress=False)
    assert read_results(two_pairs, "pseudobulk").params["carried_by_prior"] == {"all": "condition[T.stim]"}


def test_one_donor_against_one_is_refused_and_against_two_is_warned_about(repeated: ad.AnnData) -> None:
    adata = repeated[repeated.obs["donor"].isin(["P0", "P7"])].copy()
    for tool, formula in ((dw.tl.lmm, "~ arm + (1 | donor)"), (dw.tl.pseudobulk, "~ arm")):
        with pytest.raises(DesignError):
            tool(adata, formula, progress=False)
    adata = repeated[repeated.obs["donor"].isin(["P0", "P6", "P7"])].copy()
    (text,) = warned(dw.tl.lmm, adata, "~ arm + (1 | donor)")
    assert "compares 2 donors with 1" in text or "compares 1 donor with 2" in text
    assert "nothing but the prior" in text
    assert read_results(adata, "lmm").params["carried_by_prior"] == {"all": "arm[T.b]"}


@pytest.fixture(scope="module")
def dated() -> ad.AnnData:
    """Twelve donors, four visits each on days of the calendar, null genes with slopes that differ between donors."""
    rng = np.random.default_rng(3)
    n_donors, n_cells = 12, 15
    d = np.repeat(np.arange(n_donors), 4 * n_cells)
    day = np.tile(np.repeat([0, 30, 60, 90.0], n_cells), n_donors)
    start, born = rng.uniform(0, 60, n_donors).round(), rng.uniform(7e3, 3e4, n_donors).round()
    level, slope = rng.normal(0, 0.3, (n_donors, N_GENES)), rng.normal(0, 0.006, (n_donors, N_GENES))
    Y = level[d] + slope[d] * day[:, None] + rng.normal(size=(d.size, N_GENES))
    obs = pd.DataFrame(
        {
            "donor": [f"P{i:02d}" for i in d],
            "date": 737425 + day + start[d],
            "age": born[d] + day,
            "day": day,
            "visit": np.unique(day, return_inverse=True)[1] + 1,
            "depth": rng.normal(9, 0.1, d.size),
            "arm": np.where(d < 6, "a", "b"),
        },
        index=[f"c{i}" for i in range(d.size)],
    )
    obs["age_own"] = obs["age"] - obs.groupby("donor")["age"].transform("mean")
    return ad.AnnData(Y, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("~ date + (1 | donor) + (0 + date | donor)", "write `center(date)` in that term."),
        ("~ date * arm + (date || donor)", "write `center(date)` in that term."),
        ("~ age + (1 | donor) + (0 + age | donor)", 'obs["age"] - obs.groupby("donor")["age"].transform("mean")'),
        ("~ depth + (1 | donor) + (0 + depth | donor)", "write `center(depth)` in that term."),
        (
            "~ date + (1 | donor)",
            "add `(0 + center(date) | donor)`, which with `(1 | donor)` is `(center(date) || donor)`",
        ),
        ("~ date + (1 | donor) + (0 + center(date) | donor)", None),
        ("~ visit + (visit || donor)", "write `center(visit)` in that term."),
        ("~ date + (log(date) || donor)", "write `center(log(date))` in that term."),
        ("~ center(date) * arm + (center(date) || donor)", None),
        ("~ age + (1 | donor) + (0 + age_own | donor)", None),
        ("~ age * arm + (1 | donor) + (0 + age_own | donor)", None),
        ("~ day + (day || donor)", None),
        ("~ date + (date | donor)", None),
    ],
)
def test_a_slope_depends_on_no_origin_in_silence(dated: ad.AnnData, formula: str, text: str | None) -> None:
    found = audit(formula, dated.obs).warnings
    assert len(found) == (text is not None)
    assert all(text in own.replace("'", '"') for own in found)


def test_a_centred_slope_holds_its_level(dated: ad.AnnData) -> None:
    """A number of the calendar and the same number centred in the formula; of ages each donor's own are taken."""
    (text,) = warned(dw.tl.lmm, dated, "~ date + (1 | donor) + (0 + date | donor)")
    assert "2.2e+04 standard deviations (within `donor`) from the data" in text
    assert share_below(dated, "lmm", "date") > INFLATED
    dw.tl.lmm(dated, "~ age_own + (1 | donor) + (0 + center(age) | donor)", progress=False)
    assert share_below(dated, "lmm", "age_own") > INFLATED  # ages of donors lie apart, so their mean is far from most
    for name, slope in (("date", "center(date)"), ("age", "age_own")):
        assert not warned(dw.tl.lmm, dated, f"~ {name} + (1 | donor) + (0 + {slope} | donor)")
        assert_held(share_below(dated, "lmm", name))


@pytest.mark.parametrize(
    ("formula", "warning"),
    [
        ("~ condition + (0 + condition | donor)", None),
        ("~ condition + (condition | donor)", None),
        ("~ condition + (0 + condition | donor) + (1 | sample)", None),
        ("~ arm + (0 + condition | donor)", None),
        (
            "~ condition + (1 | donor) + (0 + condition | donor)",
            "`(1 | donor)` says nothing that `(0 + condition | donor)`",
        ),
        (
            "~ lane + (1 | donor) + (0 + C(lane) | donor)",
            "`(1 | donor)` says nothing that `(0 + C(lane) | donor)` does not",
        ),
        ("~ visit + (0 + visit | donor)", "`donor` has no random intercept"),
        (
            "~ arm + (1 | donor) + (1 | donor:arm)",
            "`(1 | donor:arm)` says nothing that `(1 | donor)` does not say: each level of",
        ),
        ("~ arm + (1 | donor) + (1 | donor:lane)", None),
    ],
)
def test_a_column_for_each_level_of_a_factor_gives_donors_a_level(
    repeated: ad.AnnData, formula: str, warning: str | None
) -> None:
    found = audit(formula, repeated.obs, donor="donor").warnings
    assert len(found) == (warning is not None)
    assert all(warning in text for text in found)


@pytest.mark.parametrize("offset", [0, 1e6, 1e9, 1e10])
def test_rank_does_not_depend_on_the_origin_of_a_number(offset: float) -> None:
    """Interactions of a number far from zero are no aliases; a number and its shifted copy are, however far."""
    rng = np.random.default_rng(0)
    donor = np.arange(1200) % 12
    obs = pd.DataFrame({"donor": [f"D{i}" for i in donor], "arm": np.where(donor < 6, "a", "b")})
    values = rng.normal(0, 0.5, 1200)
    obs["x"] = values + offset
    Y = rng.normal(size=(1200, 5)) + rng.normal(size=(12, 5))[donor]
    test = dw.fit_lmm(Y, obs, "~ arm * x + (1 | donor)").test(ddf="satterthwaite")
    truth = dw.fit_lmm(Y, obs.assign(x=values), "~ arm * x + (1 | donor)").test(ddf="satterthwaite")
    own, true = (t[t["contrast"] == "arm[T.b]:x"]["p_value"].to_numpy() for t in (test, truth))
    np.testing.assert_allclose(own, true, rtol=1e-8 if offset < 1e7 else 1e-4)
    with pytest.raises(DesignError, match="cannot be told apart"):
        build_design("~ arm + x + x2 + (1 | donor)", obs.assign(x2=obs["x"] + 1))


def renamed(adata: ad.AnnData, donor: list[str], **columns: Any) -> ad.AnnData:
    """The cohort with other names of the eight donors, and columns of one value per donor."""
    at = adata.obs["donor"].str[1:].astype(int).to_numpy()
    out = adata.copy()
    out.obs["donor"] = np.array(donor)[at]
    for name, values in columns.items():
        out.obs[name] = np.array(values)[at]
    return out


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["doublet", "unassigned", *"abcdef"], "'doublet' (48 cells), 'unassigned' (48 cells)"),
        (["Ambiguous", "NA", *"abcdef"], "'Ambiguous' (48 cells), 'NA' (48 cells)"),
        (["pool", "unknown", *"abcdef"], "'unknown' (48 cells)"),
        (["a/b", "a", *"bcdefg"], "'a/b' (48 cells)"),
        (["Doublet_2", "nan", *"abcdef"], "'Doublet_2' (48 cells)"),
        ([f"pool{i}" for i in range(8)], None),
        (["Nancy", "Polly", "Othello", "Unkas", *"abcd"], None),
        (["HC/1", "HC/2", *"abcdef"], None),
    ],
)
def test_labels_that_are_no_donors_are_named(repeated: ad.AnnData, names: list[str], told: str | None) -> None:
    """By the audit and by pseudobulk; none is left out, and the line that does so is there."""
    adata = renamed(repeated, names)
    formula = "~ condition + (1 | donor) + (1 | donor:condition)"
    for found in (
        adata.donorwise.audit(formula).warnings, warned(dw.tl.pseudobulk, adata[:, :20].copy(), "~ condition + (1 | donor)"),
    ):  # fmt: skip
        odd = [text for text in found if "look like no donor" in text]
        assert len(odd) == (told is not None)
        assert all(told in text and 'adata = adata[~adata.obs["donor"].isin([' in text for text in odd)
    assert adata.donorwise.audit(formula).n_donors == 8


NAMES = [f"{i % 4}" for i in range(8)]
STUDY = ["s1"] * 4 + ["s2"] * 4
SEXES = ["f", "m", "f", "m", "m", "f", "f", "m"]


@pytest.mark.parametrize(
    ("names", "columns", "text"),
    [
        (
            NAMES,
            {"sex": SEXES, "study": STUDY},
            'obs["donor"] = obs["study"].astype(str) + "_" + obs["donor"].astype(str)',
        ),
        (NAMES, {"Gender": SEXES}, 'obs["donor"] = obs["arm"].astype(str) + "_" + obs["donor"].astype(str)'),
        (
            NAMES,
            {"age": [20, 31, 44, 58, 60, 33, 70, 25]},
            "donors have several values of `age` ('0', '1', '2' and 1 more)",
        ),
        ([f"d{i}" for i in range(8)], {"sex": SEXES, "study": STUDY}, None),
        (NAMES, {"study": STUDY, "response": SEXES}, None),
        (NAMES, {"age": [20, 31, 44, 58, 21, 31, 45, 60]}, None),
    ],
)
def test_names_that_several_people_share(
    repeated: ad.AnnData, names: list[str], columns: dict[str, list[Any]], text: str | None
) -> None:
    """Eight people called 0 to 3 in each of two studies: told by what a person has one value of."""
    adata = renamed(repeated, names, **columns)
    del adata.obs["visit"]
    for found in (
        adata.donorwise.audit("~ arm + (1 | donor)").warnings, warned(dw.tl.pseudobulk, adata[:, :20].copy(), "~ arm + (1 | donor)"),
    ):  # fmt: skip
        shared = [t for t in found if "people who share a name" in t]
        assert len(shared) == (text is not None)
        assert all(text in t for t in shared)


def test_ages_of_those_who_were_followed_are_no_finding(repeated: ad.AnnData) -> None:
    obs = repeated.obs.assign(age=40 + 9 * repeated.obs["visit"])
    assert not any("people" in text for text in audit("~ arm + (1 | donor)", obs).warnings)
    assert not any("people" in text for text in audit("~ arm + (1 | lane)", obs.assign(sex=obs["arm"])).warnings)


def test_donors_of_several_cohorts_are_named(repeated: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    small = repeated[:, :5]
    cohorts = [dw.pp.collapse(small[small.obs["arm"] == arm], ["donor", "condition"], progress=False) for arm in "ab"]
    with caplog.at_level("INFO", logger="donorwise"):
        dw.pp.merge_collapsed(cohorts)
    assert "in several cohorts" not in caplog.text
    again = dw.pp.collapse(renamed(small, NAMES)[:, :5], ["donor", "condition"], progress=False)
    other = dw.pp.collapse(renamed(small, [*"0189abcd"])[:, :5], ["donor", "condition"], progress=False)
    with caplog.at_level("INFO", logger="donorwise"):
        dw.pp.merge_collapsed([again, other])
    assert "2 of 10 donors (`donor`) are in several cohorts (0, 1) and count as one donor each" in caplog.text


@pytest.mark.parametrize(
    ("n_a", "n_b", "formula", "kind"),
    [
        (3, 9, "~ arm + (1 | donor)", "warning"),
        (8, 2, "~ arm + (1 | donor)", "warning"),
        (4, 8, "~ arm + (1 | donor)", "note"),
        (10, 5, "~ arm + sex + (1 | donor)", "note"),
        (5, 7, "~ arm + (1 | donor)", None),
        (3, 3, "~ arm + (1 | donor)", None),
        (1, 7, "~ arm + (1 | donor)", None),
        (3, 9, "~ arm + (0 + arm || donor)", None),
        (3, 9, "~ arm + (0 + arm | donor)", None),
        (3, 9, "~ arm + donor_batch + (1 | donor)", "warning"),
    ],
)
def test_arms_of_very_different_size_may_need_variances_of_their_own(
    n_a: int, n_b: int, formula: str, kind: str
) -> None:
    donor = np.repeat(np.arange(n_a + n_b), 10)
    obs = pd.DataFrame({"donor": [f"P{i}" for i in donor], "arm": np.where(donor < n_a, "a", "b")})
    obs["sex"] = np.where(donor % 2, "f", "m")
    obs["donor_batch"] = np.where(donor % 4 == 0, "x", "y")  # a batch has arms too, and nobody tests them
    report = audit(formula, obs)
    own = {"warning": report.warnings, "note": report.notes}
    found = {
        name: [t for t in texts if "`(0 + arm || donor)` in place of `(1 | donor)`" in t] for name, texts in own.items()
    }
    assert {name: len(texts) for name, texts in found.items()} == {"warning": kind == "warning", "note": kind == "note"}


def test_own_variances_hold_where_the_smaller_arm_spreads_more() -> None:
    rng = np.random.default_rng(3)
    donor = np.repeat(np.arange(12), 12)
    level = rng.normal(size=(12, 600)) * np.where(np.arange(12) < 3, 1.0, 0.5)[:, None]
    Y = level[donor] + rng.normal(size=(donor.size, 600))
    obs = pd.DataFrame({"donor": [f"P{i}" for i in donor], "arm": np.where(donor < 3, "a", "b")})
    shares = {
        term: float((dw.fit_lmm(Y, obs, f"~ arm + {term}").test()["p_value"] < 0.05).mean())
        for term in ("(1 | donor)", "(0 + arm || donor)")
    }
    assert shares["(1 | donor)"] > 0.1
    assert 0.02 < shares["(0 + arm || donor)"] < 0.08


@pytest.mark.parametrize(
    ("formula", "donors", "told"),
    [
        ("~ condition + (1 | donor) + (1 | donor:condition)", 5, "`~ condition + donor + (1 | donor:condition)`"),
        ("~ condition + (1 | donor) + (1 | sample)", 5, "`~ condition + donor + (1 | donor:condition)`"),
        ("~ condition + (condition | donor)", 8, "or `dw.tl.pseudobulk` with `~ condition + donor`,"),
        ("~ condition + donor + (1 | sample)", 5, None),
        ("~ condition + (1 | donor)", 5, None),
        ("~ condition + arm + (1 | donor) + (1 | sample)", 5, None),
    ],
)
def test_few_complete_pairs_are_advised_to_fix_the_donor(formula: str, donors: int, told: str | None) -> None:
    adata = cohort(n_donors=donors, n_samples=1, n_cells=5)
    for obs in (adata.obs, adata.obs[~((adata.obs["donor"] == "P0") & (adata.obs["condition"] == "stim"))]):
        notes = [t for t in audit(formula, obs, donor="donor", counts="counts").notes if "so few pairs" in t]
        assert len(notes) == (told is not None and obs is adata.obs)
        assert all(told in text for text in notes)
    for advised in ("~ condition + donor + (1 | donor:condition)", "~ condition + donor"):
        tool = dw.tl.lmm if "|" in advised else dw.tl.pseudobulk
        assert not warned(tool, adata, advised, **({} if "|" in advised else {"donor": "donor"}))
    many = cohort(n_donors=9, n_samples=1, n_cells=5).obs
    assert not any("so few pairs" in t for t in audit(formula, many, donor="donor").notes)


@pytest.mark.parametrize(
    ("formula", "told"),
    [
        (
            "~ arm * kind + depth + (1 | donor) + (1 | donor:kind)",
            "~ arm + kind + arm:kind + (1 | donor) + (1 | donor:kind)",
        ),
        (
            "~ condition * kind + (1 | donor) + (1 | donor:condition:kind)",
            "~ condition + kind + condition:kind + (1 | donor) + (1 | donor:condition:kind)",
        ),
        (
            "~ condition * kind + donor + (1 | donor:condition:kind)",
            "~ condition + kind + donor + condition:kind + (1 | donor:condition:kind)",
        ),
        ("~ arm + kind + (1 | donor) + (1 | donor:kind)", None),
        ("~ visit * arm + (visit || donor)", None),
    ],
)
def test_interactions_are_asked_on_the_scale_of_counts(repeated: ad.AnnData, formula: str, told: str | None) -> None:
    adata = repeated[:, :20].copy()
    adata.obs["kind"] = np.tile(["B", "T"], adata.n_obs // 2)
    adata.obs["depth"] = np.random.default_rng(0).normal(size=adata.n_obs)
    notes = [t for t in adata.donorwise.audit(formula).notes if "asks whether fold changes differ" in t]
    assert len(notes) == (told is not None)
    for text in notes:
        assert f'`dw.tl.glmm(adata, "{told}", layer="counts")`' in text
        dw.tl.glmm(adata, told, layer="counts", progress=False)
    assert not any("fold changes" in t for t in audit(formula, adata.obs, donor="donor").notes)  # no counts at hand


def test_a_period_that_is_left_out_is_a_warning_of_every_tool() -> None:
    """A stepped wedge: treatment comes late in every site, so that a trend would count as its effect."""
    adata = dw.datasets.simulate_cohort("stepped-wedge", n_cells=1500, n_genes=20, seed=1)
    terms = "(1 | donor_id) + (1 | donor_id:condition)"
    for tool, formula in (
        (dw.tl.lmm, f"~ condition + log_depth + {terms}"),
        (dw.tl.pseudobulk, "~ condition + (1 | donor_id)"),
    ):
        assert any("goes with `period`, which is not in the formula" in t for t in warned(tool, adata, formula))
    right = f"~ condition + period + log_depth + {terms} + (1 | sample_id)"
    assert not adata.donorwise.audit(right).warnings
