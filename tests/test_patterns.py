"""The quick look at the first rows gives what a look at all of them does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from donorwise._core.design import design as design_module
from donorwise._core.design.build import build_design
from donorwise._core.design.replicates import find_donors
from donorwise._core.design.terms import used_categories

N = 3 * design_module._HEAD


@pytest.fixture(params=["mixed", "sorted", "late"])
def codes(request):
    """Levels of rows in any order, level after level, or one of which is seen at the very end only."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 5, N)
    return {"mixed": drawn, "sorted": np.sort(drawn), "late": np.append(np.sort(drawn)[:-1], 5)}[request.param]


def test_first_rows(codes):
    size = int(codes.max()) + 1
    assert np.array_equal(design_module.first_rows(codes, size), np.unique(codes, return_index=True)[1])


@pytest.mark.parametrize("at", [None, 0, N // 2, N - 2])
def test_what_varies_inside_levels(codes, at):
    values = codes * 2.0
    if at is not None:
        values[at] += 1
    size = int(codes.max()) + 1
    several = pd.Series(values).groupby(codes).nunique().to_numpy() > 1
    assert np.array_equal(design_module.changing(values, codes, size), several)
    assert design_module.constant(values, codes, size) is not several.any()
    assert design_module.varies(values, codes, design_module.first_rows(codes, size)) is bool(several.any())


def test_combinations_are_numbered_in_order(codes):
    other = np.random.default_rng(1).choice([0, 3, 7], N)
    found, size = design_module.combine([(codes, 8), (other.astype(np.int8), 9)], N)
    expected = np.unique(np.stack([codes, other]), axis=1, return_inverse=True)[1].ravel()
    assert np.array_equal(found, expected)
    assert size == expected.max() + 1


def test_categories_that_no_row_has_are_left_out():
    values = pd.Categorical(["b", "d", "b"], categories=list("abcd"))
    assert used_categories(values).equals(values.remove_unused_categories())


@pytest.mark.parametrize("donor", ["donor", "other"])
def test_rows_are_counted_by_pattern_and_donor(donor):
    """Of a donor that is a grouping factor, and of one that patterns do not tell apart."""
    rng = np.random.default_rng(2)
    obs = pd.DataFrame({"donor": rng.choice(list("abc"), 500), "arm": rng.choice(["x", "y"], 500)})
    obs["other"] = rng.choice(list("pqr"), 500)
    obs["sample"] = np.where(rng.random(500) < 0.1, None, obs["donor"] + obs["arm"])
    obs.loc[3, "arm"] = None
    depth = np.where(rng.random(500) < 0.2, np.nan, rng.gamma(5, 100, 500))
    design = build_design("~ arm + (1 | donor)", obs)
    found = find_donors(design, obs, donor, depth)
    rows, used = found.rows, obs[design.codes >= 0].assign(depth=depth[design.codes >= 0])
    seen = pd.DataFrame({"pattern": rows.pattern, "level": [found.levels[i] for i in rows.donor]})
    seen["arm"], seen["donor"] = design.frame.loc[rows.pattern, ["arm", "donor"]].to_numpy().T
    expected = used.groupby(list(dict.fromkeys(["donor", "arm", donor])))["depth"].agg(["size", "count", "sum"])
    keys = seen[["donor", "arm"]] if donor == "donor" else seen[["donor", "arm", "level"]]
    expected = expected.loc[list(keys.itertuples(index=False, name=None))]
    assert np.array_equal(rows.n, expected["size"])
    assert np.array_equal(rows.n_depth, expected["count"])
    assert rows.depth == pytest.approx(expected["sum"].to_numpy())
    crossed = rows.cross(obs["sample"], design)
    assert crossed.n_labels == used["sample"].nunique()
    assert crossed.n.sum() == used["sample"].notna().sum()
    assert crossed.some_missing
