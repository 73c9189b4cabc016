"""Competitive tests of sets against limma's camera and cameraPR, and against loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import linalg, sparse, stats

from donorwise._core.inference.competitive import competitive_tests, mean_correlation
from donorwise._core.inference.multiplicity import adjust

LIMMA = json.loads((Path(__file__).parent / "reference" / "camera" / "camera.json").read_text())
SETS = [np.atleast_1d(rows) for rows in LIMMA["sets"].values()]


def matrix(sets: list[np.ndarray], G: int, signs: list[np.ndarray] | None = None) -> sparse.csr_array:
    rows = np.repeat(np.arange(len(sets)), [len(own) for own in sets])
    values = np.ones(rows.size) if signs is None else np.concatenate(signs)
    return sparse.csr_array((values, (rows, np.concatenate(sets))), shape=(len(sets), G))


def residual_effects() -> np.ndarray:
    """Y of every gene in directions that the design leaves free."""
    free = linalg.null_space(np.array(LIMMA["design"]).T)
    return np.array(LIMMA["y"]) @ free


@pytest.mark.parametrize("name", LIMMA["cases"])
def test_the_numbers_of_limma(name: str) -> None:
    expected = LIMMA["cases"][name]
    which, kind, how = name.split("_")
    z = np.array(LIMMA["ties" if kind == "ties" else "statistic"])
    members, ranks, G = matrix(SETS, z.size), how == "ranks", z.size
    rho = np.array(
        {
            "fixed": [0.01] * 6 if which == "camera" else [0.05] * 6,
            "ties": [0.05] * 6,
            "each": [0.1, 0, 0.02, 0, 0.3, 0.01],
        }.get(kind, [])
    )
    df = np.inf if ranks else G - 2
    if kind == "estimated":
        rho, df = mean_correlation(residual_effects(), members), LIMMA["df"][0]
        known = np.array([np.nan if value == "NA" else value for value in expected["correlation"]], dtype=float)
        np.testing.assert_allclose(rho, known, rtol=1e-10)
    found = competitive_tests(z, members, rho, df, use_ranks=ranks)
    np.testing.assert_allclose(found.p_value, expected["p_value"], rtol=1e-10)
    np.testing.assert_allclose(adjust(found.p_value), expected["fdr"], rtol=1e-10)
    assert ["Up" if t > 0 else "Down" for t in found.statistic] == expected["direction"]
    np.testing.assert_array_equal(abs(members).sum(axis=1), expected["n_genes"])


def test_an_order_of_genes_and_sets_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=60)
    scores = rng.normal(size=(60, 5))
    sets = [rng.choice(60, 9, replace=False) for _ in range(4)]
    whole = matrix(sets, 60)
    order = rng.permutation(60)
    for ranks in (False, True):
        found = competitive_tests(z, whole, mean_correlation(scores, whole), 5, use_ranks=ranks)
        moved = matrix([np.argsort(order)[own] for own in sets[::-1]], 60)
        again = competitive_tests(z[order], moved, mean_correlation(scores[order], moved), 5, use_ranks=ranks)
        np.testing.assert_allclose(again.p_value[::-1], found.p_value, rtol=1e-10)


@pytest.mark.parametrize("ranks", [False, True])
def test_targets_that_go_the_other_way_are_turned_around(ranks: bool) -> None:
    """Each set is as camera would test it on statistics of which its repressed genes are mirrored at the others' mean."""
    rng = np.random.default_rng(2)
    z, scores = rng.normal(size=80) + 0.3, rng.normal(size=(80, 6))
    sets = [rng.choice(80, 12, replace=False) for _ in range(3)]
    signs = [rng.choice([-1.0, 1.0], size=12) for _ in sets]
    signed = matrix(sets, 80, signs)
    rho = mean_correlation(scores, signed)
    found = competitive_tests(z, signed, rho, 6, use_ranks=ranks)
    for i, (own, sign) in enumerate(zip(sets, signs, strict=True)):
        turned, left = z.copy(), scores.copy()
        others = np.delete(z, own).mean()
        turned[own] = others + sign * (z[own] - others)
        left[own] *= sign[:, None]
        alone = matrix([own], 80)
        np.testing.assert_allclose(rho[i], mean_correlation(left, alone), rtol=1e-10)
        one = competitive_tests(turned, alone, rho[i : i + 1], 6, use_ranks=ranks)
        np.testing.assert_allclose(
            [found.statistic[i], found.p_value[i]], [one.statistic[0], one.p_value[0]], rtol=1e-10
        )


def test_a_set_of_genes_that_all_go_the_other_way_is_its_mirror_image() -> None:
    z = np.random.default_rng(3).normal(size=80) + 1.0
    own = np.arange(9)
    plain, turned = (
        competitive_tests(z, matrix([own], 80, [np.full(9, sign)]), np.array([0.1]), 6) for sign in (1.0, -1.0)
    )
    np.testing.assert_allclose([turned.statistic, turned.p_value], [-plain.statistic, plain.p_value], rtol=1e-12)


def test_the_correlation_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(30, 7)) + rng.normal(size=7)
    scores[4] = 0.0
    own = np.arange(10)
    u = scores[own] / np.maximum(np.linalg.norm(scores[own], axis=1, keepdims=True), 1e-300)
    pairs = (u @ u.T)[~np.eye(10, dtype=bool)]
    found = mean_correlation(scores, matrix([own], 30))
    np.testing.assert_allclose(found, pairs.mean(), rtol=1e-12)


def test_ranks_without_a_difference() -> None:
    """Both corrections for continuity together would give more than one."""
    found = competitive_tests(
        np.array([0.0, 1.0, 2.0, 3.0, 4.0]), matrix([np.array([2])], 5), np.zeros(1), np.inf, use_ranks=True
    )
    assert found.p_value[0] == 1.0


def test_the_level_of_sets_whose_genes_go_together() -> None:
    """All genes null, those of a set correlated at .1: with the correlation the level holds, without it every third is a hit."""
    rng = np.random.default_rng(4)
    G, m, D, times, rho = 400, 40, 8, 400, 0.1
    sets = matrix([np.arange(m)], G)
    naive, camera = np.empty(times), np.empty(times)
    for i in range(times):
        common = rng.normal(size=(1, D + 1))
        y = rng.normal(size=(G, D + 1))
        y[:m] = np.sqrt(1 - rho) * y[:m] + np.sqrt(rho) * common
        z, left = y[:, 0], y[:, 1:]
        naive[i] = competitive_tests(z, sets, np.zeros(1), G - 2).p_value[0]
        camera[i] = competitive_tests(z, sets, mean_correlation(left, sets), D).p_value[0]
    assert stats.binom.sf((camera < 0.05).sum() - 1, times, 0.05) > 0.01
    assert (naive < 0.05).mean() > 0.3
