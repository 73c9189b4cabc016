"""Simulated families: what their genotypes and pedigrees are."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

import donorwise as dw
from donorwise.errors import DonorwiseError


@pytest.fixture(scope="module")
def people() -> ad.AnnData:
    return dw.datasets.simulate_relatives(60, n_children=3, n_unrelated=60, n_variants=8000, seed=1)


def test_table(people: ad.AnnData) -> None:
    assert people.shape == (360, 8000)
    assert people.obs["role"].value_counts().to_dict() == {"child": 180, "father": 60, "mother": 60, "unrelated": 60}
    assert people.obs.loc["F7_child3"].tolist()[:4] == ["F7", "child", "F7_father", "F7_mother"]
    assert (people.obs.loc[people.obs["role"] == "father", "sex"] == "male").all()
    assert people.obs.loc["U9", ["family", "father", "mother"]].tolist() == ["", "", ""]
    assert set(np.unique(people.X)) == {0, 1, 2}
    assert (people.var["a0"] != people.var["a1"]).all()
    assert people.var.groupby("chrom", observed=True)["pos"].is_monotonic_increasing.all()
    assert people.var["chrom"].nunique() == 22
    founders = people.X[people.obs["father"] == ""]
    assert np.corrcoef(founders.mean(axis=0) / 2, people.var["frequency"])[0, 1] > 0.98


def test_children_carry_what_their_parents_have(people: ad.AnnData) -> None:
    for child in ("F1_child1", "F60_child3"):
        own, father, mother = (people[n].X[0] for n in (child, *people.obs.loc[child, ["father", "mother"]]))
        assert (own >= (father == 2).astype(int) + (mother == 2)).all()
        assert (own <= (father > 0).astype(int) + (mother > 0)).all()


def test_relatedness_is_that_of_the_pedigree(people: ad.AnnData) -> None:
    """On the scale of founders' frequencies; sibs differ in how much they share, by hundredths."""
    z = people.X - 2 * people.var["frequency"].to_numpy()
    p = people.var["frequency"].to_numpy()
    K = z @ z.T / (2 * p * (1 - p)).sum()
    expected = people.obsp["pedigree"]
    child = (people.obs["role"] == "child").to_numpy()
    sibs = np.outer(child, child) & (expected == 0.5)
    parents = ~np.outer(child, child) & (expected == 0.5)
    for of, value in ((sibs, 0.5), (parents, 0.5), (expected == 0, 0.0), (expected == 1, 1.0)):
        assert K[of].mean() == pytest.approx(value, abs=0.01)
    assert sibs.sum() == 60 * 6 and parents.sum() == 60 * 12
    assert 0.02 < K[sibs].std() < 0.06
    assert K[sibs].std() > 1.5 * K[parents].std()


def test_neighbours_go_together() -> None:
    def correlation(ld: float) -> float:
        people = dw.datasets.simulate_relatives(0, n_unrelated=400, n_variants=60, n_chromosomes=2, ld=ld)
        r = np.corrcoef(people.X.T)
        assert abs(r[29, 30]) < 0.25, "chromosomes are independent"
        return float(np.mean([r[i, i + 1] for i in range(28)]))

    assert correlation(0.0) == pytest.approx(0, abs=0.05)
    assert correlation(0.9) > 0.4


def test_missing_genotypes_and_seeds() -> None:
    one, two, other = (dw.datasets.simulate_relatives(2, n_variants=900, missing=0.1, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.X, two.X)
    assert not np.array_equal(one.X, other.X, equal_nan=True)
    assert np.isnan(one.X).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    "options",
    [{"n_families": -1}, {"n_families": 0, "n_unrelated": 0}, {"n_chromosomes": 0}, {"ld": 1.0}, {"missing": 1.5}],
)
def test_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(DonorwiseError, match=next(iter(options))):
        dw.datasets.simulate_relatives(**options)
