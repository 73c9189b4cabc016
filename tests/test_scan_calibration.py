"""Scans of null genes are not inflated where the plain regression is, and find known effects at least as often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import donorwise as dw

scans = pytest.importorskip("benchmarks.calibration.scans")

BAND = 0.97, 1.03


def inflation(*asked: Any, **options: Any) -> float:
    return float(scans.genomic_lambda(scans.p_values(*asked, **{"refit": "none", **options})))


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["families", "populations"])
def test_structure(structure: str) -> None:
    """Relatives whose levels are alike, and populations that differ in expression; 40 donors."""
    donors, Y = scans.structured(np.random.default_rng(1), structure, 40, 150)
    obs = pd.DataFrame({"donor_id": donors.names})
    models = donors.models()
    assert inflation(Y, obs, donors.tested, models["plain"][0]) > 1.2
    for name in ("kernel", "loco"):
        formula, given = models[name]
        assert BAND[0] <= inflation(Y, obs, donors.tested, formula, **given) <= BAND[1], name


@pytest.mark.slow
def test_power_where_lambda_is_one() -> None:
    """What the kernel explains is noise to least squares."""
    rows = list(scans.power_rows(scans.argparse.Namespace(donors=[200], genes=100, seed=3)))
    median = {(row[1], row[2]): float(row[5]) for row in rows[1:]}
    for structure in ("families", "populations"):
        assert min(median[structure, "kernel"], median[structure, "loco"]) >= median[structure, "plain"], structure


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_cells(spread: float) -> None:
    """With 40 donors of equal or of very unequal numbers of cells, and without a refit."""
    rng = np.random.default_rng(2)
    names = [f"d{i}" for i in range(40)]
    genotypes = pd.DataFrame(rng.binomial(2, rng.uniform(0.15, 0.85, 500), (40, 500)), names)
    d = scans.cells_of(rng, 40, 20, spread)
    Y = 0.5 * rng.normal(size=(40, 100))[d] + rng.normal(size=(d.size, 100))
    p = scans.p_values(
        Y, pd.DataFrame({"donor_id": np.array(names)[d]}), genotypes, "~ 1 + (1 | donor_id)", refit="none"
    )
    assert 0.96 <= scans.genomic_lambda(p) <= 1.04
    for level, low, high in ((0.05, 0.9, 1.1), (0.01, 0.8, 1.2), (0.001, 0.6, 1.5)):
        assert low <= (p < level).mean() / level <= high, level


@pytest.mark.parametrize("n", [20, 60])
def test_interactions(n: int) -> None:
    """Without slopes cells are replicates; with them donors are, and the degrees of freedom are theirs."""
    rng = np.random.default_rng(n)
    names = np.array([f"d{i}" for i in range(n)])
    genotypes = pd.DataFrame(rng.binomial(2, rng.uniform(0.2, 0.8, 300), (n, 300)), names)
    d = scans.cells_of(rng, n, 30, 0.5)
    x = rng.normal(size=d.size)
    level, slope = 0.4 * rng.normal(size=(2, n, 60))
    Y = level[d] + slope[d] * x[:, None] + rng.normal(size=(d.size, 60))
    obs = pd.DataFrame({"donor_id": names[d], "x": x})
    hot, warned = scans.scan(Y, obs, genotypes, "~ x + (1 | donor_id)", interaction="x", refit="none")
    assert warned and scans.genomic_lambda(hot.tests["p_value"]) > 3
    found, warned = scans.scan(
        Y, obs, genotypes, "~ x + (1 | donor_id) + (0 + x | donor_id)", interaction="x", refit="none"
    )
    p = found.tests["p_value"].to_numpy()
    assert not warned and (found.tests["df"] == n - 2).all()
    assert 0.94 <= scans.genomic_lambda(p) <= 1.06
    assert 0.85 <= (p < 0.05).mean() / 0.05 <= 1.15
    assert 0.7 <= (p < 0.01).mean() / 0.01 <= 1.3


def test_weights_of_donors() -> None:
    """Numbers of cells as weights say how well a donor is known, not that donors do not differ."""
    rng = np.random.default_rng(4)
    names = [f"d{i}" for i in range(50)]
    genotypes = pd.DataFrame(rng.binomial(2, rng.uniform(0.2, 0.8, 300), (50, 300)), names)
    cells = np.round(40 * np.exp(rng.normal(size=50))) + 1
    mean = rng.normal(size=(50, 100)) * 0.3 + rng.normal(size=(50, 100)) / np.sqrt(cells)[:, None]
    obs = pd.DataFrame({"donor_id": names, "cells": cells})
    assert inflation(mean, obs, genotypes, "~ 1", weights="cells") > 2
    assert 0.95 <= inflation(mean, obs, genotypes, "~ 1 + (1 | donor_id)", weights="cells") <= 1.05


@pytest.mark.slow
def test_genes() -> None:
    """P-values of genes over linked variants, whose small ones are what they say."""
    donors, genotypes = dw.datasets.simulate_eqtls(
        n_donors=40, n_cells=None, n_genes=1500, n_variants=4000, n_chromosomes=2, eqtl_fraction=0.0, seed=1
    )
    donors.X = np.random.default_rng(0).normal(size=donors.shape)
    for test in ("acat", "permutations"):
        dw.tl.scan(
            donors,
            genotypes,
            "~ 1",
            donor="donor_id",
            gene_test=test,
            n_permutations=300,
            p_max=1e-6,
            key_added=test,
            progress=False,
        )
        results = donors.uns[test]["results"]
        p = results["p_gene"].dropna().to_numpy()
        for level in (0.05, 0.01):
            low, high = stats.binom.interval(0.999, p.size, level)
            assert low <= (p < level).sum() <= high, (test, level)
        assert (results["q_value"] <= 0.05).sum() <= 2
    assert stats.kstest(p, "uniform").pvalue > 0.01
