from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from donorwise._core.design.audit import audit
from donorwise._core.design.replicates import leaves_out
from donorwise.errors import DesignError, FormulaError


@pytest.fixture(scope="module")
def obs():
    """Nine donors, D0 to D3 with MS; every donor has both cell types and both treatments."""
    rng = np.random.default_rng(0)
    donor = np.arange(2700) % 9
    table = pd.DataFrame(
        {
            "donor": [f"D{i}" for i in donor],
            "disease": pd.Categorical(np.where(donor < 4, "MS", "control"), ["control", "MS"]),
            "sex": np.where(donor % 2 == 0, "M", "F"),
            "batch": np.array(["b1", "b1", "b2", "b3", "b3", "b2", "b3", "b3", "b3"])[donor],
            "age": donor * 3.0,
            "ct": rng.choice(["B", "T"], len(donor)),
            "treated": rng.choice(["no", "yes"], len(donor)),
            "visit": rng.integers(0, 3, len(donor)),
            "depth": np.exp(rng.normal(8, 0.3, len(donor)) + 0.1 * donor),
        }
    )
    return table.assign(sample=table["treated"].map({"no": "s1", "yes": "s2"}), log_depth=np.log(table["depth"]))


def facts(report):
    return report.to_frame().set_index("contrast")


def test_arms(obs):
    report = audit("~ disease * ct + age + visit + log_depth + (1 | donor)", obs, depth=obs["depth"].to_numpy())
    table = facts(report)
    assert dict(table["kind"]) == {
        "disease[T.MS]": "between-donor",
        "ct[T.T]": "within-donor",
        "age": "between-donor",
        "visit": "within-donor",
        "log_depth": "within-donor",
        "disease[T.MS]:ct[T.T]": "between-donor (change)",
    }
    ms, t = obs["disease"] == "MS", obs["ct"] == "T"
    row = table.loc["disease[T.MS]"]
    assert (row["donors"], row["donors_reference"], row["donors_both"]) == (4, 5, 0)
    assert (row["cells"], row["cells_reference"]) == (ms.sum(), (~ms).sum())
    assert row["depth_ratio"] == pytest.approx(obs["depth"][ms].mean() / obs["depth"][~ms].mean())
    row = table.loc["disease[T.MS]:ct[T.T]"]
    assert (row["donors"], row["donors_reference"], row["cells"]) == (4, 5, (ms & t).sum())
    assert table.loc["age", "values"] == 9
    assert pd.isna(table.loc["age", "cells"])
    assert report.donor == "donor"
    assert any("these 2,700 cells are 9 replicates: 4 against 5" in note for note in report.notes)


def test_a_level_is_compared_with_the_reference_only(obs):
    row = facts(audit("~ batch + (1 | donor)", obs)).loc["batch[T.b2]"]
    assert (row["donors"], row["donors_reference"], row["cells"], row["cells_reference"]) == (2, 2, 600, 600)


def test_a_donor_without_one_side_makes_a_contrast_mixed(obs):
    report = audit("~ ct + (1 | donor)", obs[~((obs["donor"] == "D3") & (obs["ct"] == "T"))])
    row = facts(report).loc["ct[T.T]"]
    assert (row["kind"], row["donors"], row["donors_reference"], row["donors_both"]) == ("mixed", 8, 9, 8)


@pytest.mark.parametrize(
    ("formula", "warning"),
    [
        ("~ treated + (1 | donor)", "`treated` varies within donors (treated[T.yes])"),
        ("~ treated + (1 | donor)", "about .17 to .20 at a nominal .05, and more donors do not help"),
        ("~ treated + (1 | donor)", "add `(1 | donor:treated)`"),
        ("~ treated + (1 | donor) + (1 | donor:sample)", None),
        ("~ treated + (1 | donor/sample)", None),
        ("~ treated + (treated | donor)", None),
        ("~ treated + (1 | donor) + (1 | batch)", "`treated` varies within donors"),
        ("~ ct + (1 | donor) + (1 | donor:sample)", "add `(1 | donor:ct)`"),
        ("~ visit + (1 | donor)", "add `(0 + visit | donor)`, which with `(1 | donor)` is `(visit || donor)`"),
        ("~ visit + (1 | donor/ct)", "add `(0 + visit | donor)`"),
        ("~ visit + (1 | donor) + (0 + visit | donor)", None),
        ("~ visit + dose + (1 | donor)", "add `(0 + visit | donor)`"),
        ("~ visit + (visit || donor)", None),
        ("~ visit * disease + (visit | donor)", None),
        ("~ disease + (1 | donor)", None),
        ("~ disease + log_depth + (1 | donor)", None),
        ("~ disease", "has no random term, so every cell counts as a replicate"),
        ("~ disease + few + (1 | donor)", "few[T.y] compares 1 donor with 8: one donor cannot show"),
        ("~ disease + pair + (1 | donor)", "pair[T.y] compares 2 donors with 7: the result can hang"),
        ("~ disease + nearly + (1 | donor)", "disease[T.MS] is more than 99% explained by `nearly`"),
        ("~ disease + copy + (1 | donor)", "`copy[T.y]` is the same cells as `disease[T.MS]`"),
        ("~ one + (1 | donor)", "`one` has one level"),
        (
            "~ split + disease + (1 | donor)",
            "`split` p, q occur in one level of `disease` only, so 7 donors say nothing",
        ),
    ],
)
def test_warnings(obs, formula, warning):
    donor = obs["donor"].str[1].astype(int)
    obs = obs.assign(
        few=np.where(donor == 0, "y", "x"),
        pair=np.where(donor.isin([0, 5]), "y", "x"),
        copy=np.where(donor < 4, "y", "x"),
        nearly=(donor < 4) * 10 + 0.1 * donor,
        split=np.where(donor < 3, "p", np.where(donor > 4, "q", "r")),
        one="x",
        dose=donor % 3,
    )
    found = audit(formula, obs).warnings
    assert any(warning in text for text in found) if warning else not found


def test_depth(obs):
    depth = obs["depth"].to_numpy()
    (text,) = audit("~ disease + (1 | donor)", obs, depth=depth).warnings
    assert text.startswith("Depth differs between donors (standard deviation of log mean depth 0.2")
    assert "between the arms of disease[T.MS]" in text
    assert not audit("~ disease + log_depth + (1 | donor)", obs, depth=depth).warnings
    assert not audit("~ disease + (1 | donor)", obs, depth=depth / np.exp(0.1 * obs["age"] / 3)).warnings


@pytest.mark.parametrize("n_cells", [3, 20, 60])
def test_numbers_of_single_cells_are_told_from_visits(n_cells):
    """However few the cells of a donor: what is new in every cell is no visit, and what repeats in them is one."""
    rng = np.random.default_rng(1)
    donor = np.repeat(np.arange(8), n_cells)
    obs = pd.DataFrame({"donor": donor, "arm": np.where(donor < 4, "a", "b"), "x": rng.normal(size=len(donor))})
    obs["visit"] = np.arange(len(donor)) % 3
    report = audit("~ arm * x + (1 | donor)", obs)
    assert not report.warnings
    assert any(note.startswith("x, arm[T.b]:x differ from cell to cell") for note in report.notes)
    (warning,) = audit("~ arm * visit + (1 | donor)", obs).warnings
    assert "`visit` varies within donors" in warning


def test_donors_as_a_fixed_effect_are_no_comparison(obs):
    report = audit("~ ct + donor + (1 | donor:ct)", obs, donor="donor")
    assert not report.warnings and not any("donor[" in text for text in report.notes)


@pytest.mark.parametrize(
    ("group", "missed"),
    [("batch", True), ("donor", False), ("who", False), ("sample", False), ("donor:ct", False), ("batch:ct", True)],
)
def test_formulas_that_leave_out_the_donor(obs, group, missed):
    """The donors under another name, or units inside them, are not left out; a batch of several donors is."""
    obs = obs.assign(who=obs["donor"].str.lower(), sample=obs["donor"] + obs["sample"])
    assert leaves_out([group.split(":")], obs, "donor") is missed
    assert not leaves_out([["batch"]], obs.assign(donor=np.arange(len(obs))), "donor")
    assert not leaves_out([["batch"]], obs.assign(donor=obs["donor"].mask(obs.index == 3)), "donor")


def test_a_factor_within_donors_is_no_property_of_donors(obs):
    """No donor has runs r1 and r3, yet each has two runs: nothing is confined to, or explained by, a donor's run."""
    runs = np.where(
        obs["disease"] == "MS", np.where(obs["visit"] > 0, "r1", "r2"), np.where(obs["visit"] > 0, "r3", "r2")
    )
    report = audit("~ disease + run + (1 | donor) + (1 | donor:run)", obs.assign(run=runs))
    assert facts(report).loc["run[T.r3]", "kind"] == "between-donor"
    assert not report.warnings and not any("occur" in note for note in report.notes)


def test_counts(obs):
    """Models of counts are recommended where all contrasts lie between donors."""
    (note,) = (n for n in audit("~ disease + log_depth + (1 | donor)", obs, counts="raw").notes if "pseudobulk" in n)
    assert '(layer="raw"), without `log_depth`, tests' in note
    (note,) = (n for n in audit("~ disease + (1 | donor)", obs, counts="").notes if "pseudobulk" in n)
    assert "(layer=None) tests" in note
    assert not any("pseudobulk" in n for n in audit("~ disease + (1 | donor)", obs).notes)
    assert not any("pseudobulk" in n for n in audit("~ disease + treated + (1 | donor)", obs, counts="").notes)


@pytest.mark.parametrize(
    ("formula", "donor", "found"),
    [
        ("~ disease + (1 | batch) + (1 | donor)", None, "donor"),
        ("~ disease + (1 | donor:sample) + (1 | donor)", None, "donor"),
        ("~ disease + (1 | id:sample) + (1 | id)", None, "id"),
        ("~ ct + (1 | id) + (1 | batch)", None, "id"),
        ("~ ct + (1 | batch)", "id", "id"),
    ],
)
def test_which_factor_is_the_donor(obs, formula, donor, found):
    assert audit(formula, obs.assign(id=obs["donor"]), donor=donor).donor == found


def test_a_donor_outside_the_formula_is_missed(obs):
    (text,) = audit("~ disease + (1 | batch)", obs, donor="donor").warnings
    assert text.startswith("`donor` has no random intercept")


def test_printed(obs):
    report = audit("~ disease + ct + (1 | donor)", obs.assign(ct=obs["ct"].where(obs.index >= 90)))
    assert repr(report).splitlines() == [
        "Audit of ~ disease + ct + (1 | donor)",
        "2,610 cells of 9 donors (`donor`) (90 more left out: a variable is missing)",
        "",
        *repr(report).splitlines()[3:7],
        "disease[T.MS]: these 2,610 cells are 9 replicates: 4 against 5.",
        "",
        "Warnings",
        f"1. {report.warnings[0]}",
    ]
    assert repr(report).splitlines()[4].split() == [
        "disease[T.MS]",
        "between-donor",
        "4",
        "vs",
        "5",
        "1,160",
        "vs",
        "1,450",
    ]


def test_errors(obs):
    with pytest.raises(FormulaError):
        audit("~ disease + (1 | donor", obs)
    with pytest.raises(DesignError, match="did you mean `disease`"):
        audit("~ diseas + (1 | donor)", obs)
    with pytest.raises(DesignError, match="`patient` is not a column"):
        audit("~ disease + (1 | donor)", obs, donor="patient")
    with pytest.raises(DesignError, match="one value for each of the 2,700 rows"):
        audit("~ disease + (1 | donor)", obs, depth=np.ones(3))


@pytest.fixture(scope="module")
def visits():
    """Twelve donors, six of them on the drug, each with five samples of four cells at times of its own."""
    rng = np.random.default_rng(2)
    sample = np.repeat(np.arange(60), 4)
    donor, visit = sample // 5, sample % 5
    return pd.DataFrame(
        {
            "donor": [f"D{d:02d}" for d in donor],
            "sample": [f"S{s:02d}" for s in sample],
            "arm": np.where(donor % 2, "drug", "placebo"),
            "age": 50 + donor,
            "sex": np.where(donor // 2 % 2, "m", "f"),
            "time": (visit + rng.uniform(0, 0.4, 60)[sample]).round(3),
            "visit": [f"v{v}" for v in visit],
            "period": [f"t{v}" for v in visit],
            "treated": np.where(visit > donor % 4, "yes", "no"),  # a stepped wedge
            "late": np.where(visit > 1, "yes", "no"),
            "dose": np.where(visit > donor % 4, visit - donor % 4, 0),
            "mixed": [f"m{v}" for v in (visit * 2 + donor) % 5],
            "viability": rng.uniform(size=60)[sample],
            "ct": np.tile(["B", "T"], 120),
        }
    )


@pytest.mark.parametrize(
    ("formula", "contrast", "facts_of"),
    [
        ("~ time * arm + (time || donor)", "time:arm[T.placebo]", ("between-donor (change)", 6, 6)),
        ("~ visit * arm + (1 | donor)", "visit[T.v2]:arm[T.placebo]", ("between-donor (change)", 6, 5)),
        ("~ time * arm * sex + (1 | donor)", "time:arm[T.placebo]:sex[T.m]", ("between-donor (change)", 3, 9)),
        ("~ arm + arm:time + (1 | donor)", "arm[placebo]:time", ("within-donor", None, None)),
        ("~ time * age + (1 | donor)", "time:age", ("between-donor (change)", None, None)),
        ("~ time * treated + (1 | donor)", "time:treated[T.yes]", ("within-donor", None, None)),
        ("~ arm * ct + (1 | donor)", "arm[T.placebo]:ct[T.T]", ("between-donor (change)", 6, 6)),
    ],
)
def test_slopes_of_arms_compare_donors(visits, formula, contrast, facts_of):
    """Donors of the two arms that show a change: D01 of the drug arm has no third visit."""
    row = facts(audit(formula, visits[~visits["sample"].eq("S07")])).loc[contrast]
    assert tuple(None if pd.isna(v) else v for v in row[["kind", "donors", "donors_reference"]]) == facts_of
    if contrast == "time:age":
        assert row["values"] == 12


def test_one_donor_with_a_slope_is_too_few(visits):
    few = visits[(visits["arm"] == "drug") | visits["donor"].isin(["D00"])]
    (text,) = (t for t in audit("~ time * arm + (time || donor)", few).warnings if t.startswith("time:arm"))
    assert "compares 1 donor with 6" in text


@pytest.mark.parametrize(
    ("formula", "warning"),
    [
        (
            "~ time * arm + (1 | donor) + (1 | sample)",
            "`(1 | sample)` takes the visits of a donor for replicates of a slope",
        ),
        ("~ time * arm + (1 | donor) + (1 | sample)", "add `(0 + time | donor)`"),
        ("~ time * arm + (time || donor) + (1 | sample)", None),
        ("~ visit * arm + (1 | donor) + (1 | sample)", None),
        ("~ period + (1 | donor)", "add `(1 | donor:period)`, which is the same here as `(1 | sample)`."),
        ("~ late + (1 | donor)", "add `(1 | donor:late)`."),
    ],
)
def test_terms_that_changes_need(visits, formula, warning):
    found = audit(formula, visits, sample="sample").warnings
    assert any(warning in text for text in found) if warning else not found


@pytest.mark.parametrize(
    ("formula", "repeated", "unpaired"),
    [
        ("~ arm * ct + (1 | donor:ct)", False, True),
        ("~ arm + ct + (1 | donor:ct)", True, True),
        ("~ arm + (1 | donor:ct) + (1 | sample:ct)", True, False),
        ("~ ct + (1 | donor:ct)", False, True),
        ("~ arm * C(ct, contr.sum) + (1 | donor:ct)", True, True),
        ("~ arm + time + (0 + time | donor) + (1 | sample)", True, True),
        ("~ arm * ct + (1 | donor) + (1 | donor:ct)", False, False),
    ],
)
def test_units_inside_donors_in_place_of_donors(visits, formula, repeated, unpaired):
    """Cell types are replicates of a donor only where a contrast takes the mean of several of them."""
    report = audit(formula, visits, donor="donor")
    assert any("levels of `" in t and "for replicates, in place of 12 donors" in t for t in report.warnings) == repeated
    assert any("which is cautious" in text for text in report.notes) == unpaired
    assert not any("its cells count as replicates" in text for text in report.warnings)


def test_a_batch_that_donors_are_spread_over_is_a_note(visits):
    for name, options in (("seq_batch", {}), ("site", {"batch": "site"})):
        obs = visits.assign(**{name: visits["mixed"]})
        report = audit(f"~ arm + {name} + (1 | donor)", obs, **options)
        assert not report.warnings
        assert any(f"That concerns tests of `{name}` itself" in text for text in report.notes)
    assert any("`site` varies" in text for text in audit("~ arm + site + (1 | donor)", obs).warnings)


@pytest.mark.parametrize(
    ("formula", "batch", "text"),
    [
        ("~ arm + (1 | donor)", "confounded", "goes with the batch (`confounded`) completely"),
        ("~ arm + (1 | donor)", "uneven", "is spread unevenly over the batches (`uneven`"),
        ("~ arm + uneven + (1 | donor)", "uneven", None),
        ("~ arm + (1 | donor) + (1 | uneven)", "uneven", None),
        ("~ arm + (1 | donor)", "sex", None),
        ("~ arm + (1 | donor)", "own", None),
        ("~ arm + (1 | donor)", "mixed", None),
        ("~ late + (1 | donor) + (1 | donor:late)", "run", "goes with the batch (`run`) completely"),
        ("~ late + (1 | donor) + (1 | donor:late)", "sample", None),
        ("~ late + (1 | donor) + (1 | donor:late)", "confounded", None),
    ],
)
def test_a_declared_batch_that_is_left_out(visits, formula, batch, text):
    """A batch of one donor differs as donors do; one that all donors share, or that is even, says nothing."""
    obs = visits.assign(
        confounded=visits["arm"] + (visits["age"] % 4 < 2).astype(str),
        uneven=np.where(
            visits["age"].isin([51, 54]), visits["arm"].map({"drug": "placebo", "placebo": "drug"}), visits["arm"]
        ),
        own=visits["donor"].str.lower(),
        run=visits["late"] + visits["sex"],
    )
    found = [t for t in audit(formula, obs, batch=batch).warnings if "batch" in t]
    assert len(found) == (text is not None) and all(text in t for t in found)


@pytest.mark.parametrize(
    ("formula", "named"),
    [
        ("~ treated + (1 | donor) + (1 | sample)", ["period", "time", "visit"]),
        ("~ treated + visit + (1 | donor) + (1 | sample)", ["period", "time"]),
        ("~ ct + (1 | donor) + (1 | donor:ct)", []),
        ("~ arm + (1 | donor)", []),
        ("~ late + (1 | donor) + (1 | sample)", ["dose"]),
    ],
)
def test_a_period_that_is_left_out(visits, formula, named):
    """A warning of what is called a time, with or without the samples, and a note of what is not.

    Nothing is said of a finer column (the dose of a treatment), what splits time at one point, or another order in each
    donor.
    """
    times = [name for name in named if name != "dose"]
    for options in ({"sample": "sample"}, {}):
        report = audit(formula, visits, **options)
        told, noted = (
            [t.split("`")[1] for t in texts if "goes with" in t] for texts in (report.warnings, report.notes)
        )
        assert sorted(told) == times
        assert noted == (["dose"] if "dose" in named and options else [])


def test_rows_that_are_visits(visits):
    """Without cells a time that is new in every row is one of visits, where the sample says so."""
    rows = visits.drop_duplicates("sample")
    formula = "~ time * arm + (1 | donor)"
    assert any("`time` varies within donors" in text for text in audit(formula, rows, sample="sample").warnings)
    report = audit(formula, rows)
    assert not report.warnings
    assert any("If the rows are visits or samples and not cells, add `(0 + time | donor)`" in t for t in report.notes)


def test_a_model_that_cannot_be_fitted_is_not_sent_elsewhere(obs):
    report = audit("~ disease + copy + (1 | donor)", obs.assign(copy=obs["disease"].astype(str)), counts="")
    assert "cannot be told apart" in report.warnings[0] and not any("pseudobulk" in note for note in report.notes)
