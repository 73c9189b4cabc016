"""Whose variance a variant takes from: donors, or their slopes. With equal numbers of cells the test without a refit is that with one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

import donorwise as dw

N_DONORS, N_CELLS, N_GENES, N_VARIANTS = 24, 10, 6, 15


def cohort(
    *, donor_sd: float, slope_sd: float = 0.0, strong: float = 0.0
) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Equal numbers of cells of all donors, one half of each stimulated (`x` is -1 or 1), one half of the donors in each arm."""
    rng = np.random.default_rng(3)
    names = [f"d{i}" for i in range(N_DONORS)]
    genotypes = pd.DataFrame(rng.binomial(2, 0.4, (N_DONORS, N_VARIANTS)), names, [f"v{j}" for j in range(N_VARIANTS)])
    donor = np.repeat(np.arange(N_DONORS), N_CELLS)
    x = np.tile([-1.0, 1.0], N_DONORS * N_CELLS // 2)
    level = donor_sd * rng.normal(size=(N_DONORS, N_GENES)) + strong * genotypes[["v0"]].to_numpy()
    slope = slope_sd * rng.normal(size=(N_DONORS, N_GENES)) + strong * genotypes[["v0"]].to_numpy() * (slope_sd > 0)
    Y = level[donor] + slope[donor] * x[:, None] + rng.normal(size=(donor.size, N_GENES))
    Y -= np.where(donor_sd > 0, 0.0, 1.0) * _means(Y, donor)  # donors do not differ at all
    arm = np.where(np.arange(N_DONORS) % 2, 1.0, -1.0)
    return Y, pd.DataFrame({"donor_id": np.array(names)[donor], "x": x, "arm": arm[donor]}), genotypes


def _means(Y: np.ndarray, donor: np.ndarray) -> np.ndarray:
    return np.stack([Y[donor == d].mean(axis=0) for d in range(N_DONORS)])[donor]


def statistics(
    refit: str, formula: str, data: tuple[np.ndarray, pd.DataFrame, pd.DataFrame], **options: str
) -> pd.DataFrame:
    found = dw.scan_variants(*data, formula, refit=refit, **options)
    assert found.tests is not None
    return found.tests


@pytest.mark.parametrize("strong", [0.0, 4.0])
def test_donors_with_equal_numbers_of_cells(strong: float) -> None:
    """The variance between donors is that of their means, whatever of it is of cells: t of least squares on the means."""
    data = cohort(donor_sd=2.0, strong=strong)
    fast, exact = (statistics(refit, "~ 1 + (1 | donor_id)", data) for refit in ("none", "all"))
    np.testing.assert_allclose(fast["statistic"], exact["statistic"], rtol=1e-6, atol=1e-9)
    Y, obs, genotypes = data
    means = pd.DataFrame(Y).groupby(obs["donor_id"].to_numpy()).mean().loc[genotypes.index].to_numpy()
    plain = dw.scan_variants(
        means, pd.DataFrame({"donor_id": genotypes.index}), genotypes, "~ 1", donor="donor_id"
    ).tests
    assert plain is not None
    for name in ("beta", "se", "statistic", "df", "p_value"):
        np.testing.assert_allclose(fast[name], plain[name], rtol=1e-6, atol=1e-9)


def test_donors_that_do_not_differ() -> None:
    """Without variance between donors cells are what a variant is tested against, and nothing is below that."""
    data = cohort(donor_sd=0.0)
    data[0][:] += np.random.default_rng(1).normal(size=data[0].shape) * 0.3
    fast, exact = (statistics(refit, "~ 1 + (1 | donor_id)", data) for refit in ("none", "all"))
    np.testing.assert_allclose(fast["statistic"], exact["statistic"], rtol=1e-6)


@pytest.mark.parametrize("x", ["x", "arm"])
@pytest.mark.parametrize("strong", [0.0, 4.0])
def test_interactions(x: str, strong: float) -> None:
    """What differs within donors takes from the variance of their slopes, what differs between them from that of their levels."""
    data = cohort(donor_sd=2.0, slope_sd=2.0, strong=strong)
    formula = (
        "~ x + (1 | donor_id) + (0 + x | donor_id)" if x == "x" else "~ arm + x + (1 | donor_id) + (0 + x | donor_id)"
    )
    fast, exact = (statistics(refit, formula, data, interaction=x) for refit in ("none", "all"))
    for name in ("beta", "statistic", "beta_main", "se_main"):
        np.testing.assert_allclose(fast[name], exact[name], rtol=1e-5, atol=1e-8)
    assert (fast["df"] == N_DONORS - (2 if x == "x" else 4)).all()


def test_slopes_pay_for_what_is_on_them_only() -> None:
    """Other covariates of cells, and those of donors, take no degree of freedom from slopes; what changes them does."""
    Y, obs, genotypes = cohort(donor_sd=1.0, slope_sd=1.0)
    obs["depth"] = np.random.default_rng(0).normal(size=len(obs))
    for fixed, used in (("x + depth + arm", 2), ("x * arm", 3), ("x + depth * x", 3)):
        formula = f"~ {fixed} + (1 | donor_id) + (0 + x | donor_id)"
        found = statistics("none", formula, (Y, obs, genotypes), interaction="x")
        assert (found["df"] == N_DONORS - used).all(), fixed


def warned(formula: str, data: tuple[np.ndarray, pd.DataFrame, pd.DataFrame], x: str = "x", **options: Any) -> bool:
    """Whether a scan says that slopes are lacking."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dw.scan_variants(*data, formula, interaction=x, refit="none", donor="donor_id", **options)
    return any("for replicates" in str(w.message) for w in caught)


@pytest.mark.parametrize("cells", [3, N_CELLS, 400])
def test_slopes_that_lack(cells: int) -> None:
    """However many cells there are, and whether all of them have values of their own or one of two."""
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(N_DONORS), cells)
    names = np.array([f"d{i}" for i in range(N_DONORS)])
    genotypes = pd.DataFrame(rng.binomial(2, 0.4, (N_DONORS, 3)), names)
    obs = pd.DataFrame({"donor_id": names[donor], "state": rng.normal(size=donor.size)})
    obs["x"] = np.tile(np.arange(cells) % 2, N_DONORS)
    data = rng.normal(size=(donor.size, 2)), obs, genotypes
    for x in ("state", "x"):
        assert warned(f"~ {x} + (1 | donor_id)", data, x)
        assert not warned(f"~ {x} + (1 | donor_id) + (0 + {x} | donor_id)", data, x)
        assert not warned(f"~ {x} + ({x} | donor_id)", data, x)


def test_what_is_as_good_as_slopes() -> None:
    """Two samples of a donor, of which each has an effect of its own; but not several samples in a condition."""
    Y, obs, genotypes = cohort(donor_sd=4.0, slope_sd=1.0)
    obs["condition"] = np.where(obs["x"] > 0, "stim", "ctrl")
    obs["sample_id"] = obs["donor_id"] + obs["condition"]
    obs["tube"] = obs["sample_id"] + np.repeat(np.arange(len(obs) // 4) % 2, 4).astype(str)
    data = Y, obs, genotypes
    for term in ("donor_id:condition", "sample_id"):
        assert not warned(f"~ condition + (1 | donor_id) + (1 | {term})", data, "condition"), term
    assert warned("~ condition + (1 | donor_id) + (1 | tube)", data, "condition")
    assert not warned("~ arm + condition + (1 | donor_id)", data, "arm")
    own = statistics("all", "~ x + (1 | donor_id) + (0 + x | donor_id)", data, interaction="x")
    samples = statistics("all", "~ x + (1 | donor_id) + (1 | sample_id)", data, interaction="x")
    np.testing.assert_allclose(own["statistic"], samples["statistic"], rtol=1e-5)
    rows = pd.DataFrame(Y).groupby(obs["sample_id"].to_numpy()).mean()
    one = obs.drop_duplicates("sample_id").set_index("sample_id", drop=False).loc[rows.index].reset_index(drop=True)
    assert not warned("~ condition + (1 | donor_id)", (rows.to_numpy(), one, genotypes), "condition")


def test_slopes_of_relatives() -> None:
    """Those who are alike in their levels are alike in their slopes."""
    Y, obs, genotypes = cohort(donor_sd=1.0, slope_sd=1.0)
    names = list(genotypes.index)
    K = pd.DataFrame(np.kron(np.eye(N_DONORS // 2), [[1.0, 0.5], [0.5, 1.0]]), names, names)
    levels = "~ arm + x + (1 | gr(donor_id, cov=K))"
    for slopes, said in (("", True), (" + (0 + x | donor_id)", True), (" + (0 + x | gr(donor_id, cov=K))", False)):
        assert warned(levels + slopes, (Y, obs, genotypes), kernels={"K": K}) is said, slopes
    assert not warned(levels + " + (0 + x | donor_id)", (Y, obs, genotypes), "arm", kernels={"K": K})


def test_genes_are_tested_at_the_variances_without_variants() -> None:
    """Tests with variances of their own are too small in few donors who are related; p-values of genes do not take them."""
    Y, obs, genotypes = cohort(donor_sd=0.5, strong=0.5)
    unequal = np.arange(len(obs)) % N_CELLS < 1 + np.arange(len(obs)) // N_CELLS % N_CELLS
    Y, obs = Y[unequal], obs[unequal]
    found = [
        dw.scan_variants(Y, obs, genotypes, "~ 1 + (1 | donor_id)", refit=refit).results
        for refit in ("none", "screen", "all")
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other["p_gene"], found[0]["p_gene"], rtol=1e-12)
        np.testing.assert_allclose(other["q_value"], found[0]["q_value"], rtol=1e-12)
    assert not np.allclose(found[2]["p_value"], found[0]["p_value"], rtol=1e-6, atol=0)
