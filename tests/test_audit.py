from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from donorwise.design.audit import audit
from donorwise.design.replication import leaves_out
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
        "disease[T.MS]:ct[T.T]": "within-donor",
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
    """The model of counts is recommended where all contrasts lie between donors."""
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
