"""The simulators of the calibration benchmark give what they promise, and its measures are right."""

from __future__ import annotations

import numpy as np
import pytest

metrics = pytest.importorskip("benchmarks.calibration.metrics")
scenarios = pytest.importorskip("benchmarks.calibration.scenarios")
simulate = pytest.importorskip("benchmarks.calibration.simulate")


def test_gaussian_moments():
    data = simulate.gaussian(np.random.default_rng(0), 5, 40_000)
    between = data.collapsed.mean.var(axis=0, ddof=1)
    # E(ratio) = 0.75 * 0.02 * exp(1/2), and 1/40 from the cells
    assert between.mean() == pytest.approx(0.75 * 0.02 * np.exp(0.5) + 1 / 40, rel=0.02)
    assert data.collapsed.within_ss.mean() == pytest.approx(39, rel=0.005)
    assert data.fit(data.formula).n_donors[0] == 10


@pytest.mark.parametrize("depth_sd", [0.0, 0.3])
def test_counts_moments(depth_sd):
    recipe = simulate.Recipe(cells=(100, 100), log_mean=(np.log(0.5), 0.0), depth_sd=depth_sd)
    data = simulate.counts(np.random.default_rng(1), 30, 200, recipe)
    counts = data.adata.layers["counts"].toarray()[:, :-1]
    donor = data.adata.obs["donor"].cat.codes.to_numpy()
    depth = np.array([counts[donor == d].mean() for d in range(60)])
    assert np.log(depth).std() == pytest.approx(depth_sd, abs=0.06)
    # mean of exp N(0, .3^2) and of the donor effects, whose sd is U(0, .6) in 80% of the genes
    assert depth.mean() == pytest.approx(0.5 * np.exp((0.09 + depth_sd**2) / 2) * 1.055, rel=0.12)
    assert np.mean(data.effect[:-1] != 0) == pytest.approx(0.1, abs=0.06)
    shift = np.array([np.log(counts[donor == d].mean(axis=0) / depth[d]) for d in range(60)])
    found = shift[30:].mean(axis=0) - shift[:30].mean(axis=0)
    assert np.corrcoef(found, data.effect[:-1])[0, 1] > 0.6


def test_paired_donors_have_both_conditions():
    recipe = simulate.Recipe(cells=(20, 20), paired=True)
    obs = simulate.counts(np.random.default_rng(2), 3, 100, recipe).adata.obs
    assert obs.groupby("donor", observed=True)["condition"].nunique().tolist() == [2, 2, 2]


def test_data_sets_are_seeded_apart():
    sets = scenarios.data_sets("BD", quick=True)
    assert len({d.name for d in sets}) == len(sets)
    first, again, other = (d.make(None).adata.layers["counts"].sum() for d in (sets[0], sets[0], sets[1]))
    assert first == again != other


def test_measures():
    truth = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
    found = metrics.measure(np.array([1e-6, 0.9, 1e-5, 0.5, np.nan]), truth, np.full(5, np.nan))
    assert found["type1@0.05"] == 0.5
    assert (found["fdp"], found["power"], found["power_equal"]) == (0.5, 0.5, 0.5)
    assert found["untested"] == pytest.approx(0.2)


def test_no_power_from_ties():
    """A method that gives nulls and effects the same p-value cannot tell them apart."""
    assert metrics.power_at_fdp(np.zeros(10), np.arange(10) < 5) == 0


def test_measures_of_parts_of_the_genes():
    """Quarters by counts; the cut of an equal level lies between the p-values of nulls, linearly."""
    truth, counts = np.repeat([0.0, 1.0], 40), np.tile(np.arange(40) / 20, 2)
    p = np.tile(np.linspace(0.0125, 0.5, 40), 2)
    found = metrics.measure(p, truth, counts)
    assert found["type1@0.05 q1"] == found["found@0.05 q1"] == 0.4
    assert found["type1@0.05 <1"] == 0.2
    assert found["found_equal <1"] == pytest.approx(0.05)
    nulls, effects = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.1, 0.1, 0.3, 0.9])
    assert metrics.found_at(nulls, effects, 0.125) == 0.5
    assert metrics.found_at(nulls, effects, 0.25) == 0.75  # up to the second null
