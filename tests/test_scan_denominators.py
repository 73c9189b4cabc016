"""x'Px between interpolation points against x'Px worked out directly: any design, ratios over many decades, odd variants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests._scan_data import null_of

from donorwise._core.models.lmm.denominators import OneRatio
from donorwise._core.models.lmm.variants import NullModels

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

FORMULAS = {
    "donor": "~ sex + age + (1 | donor_id)",
    "kernel": "~ sex + age + (1 | gr(donor_id, cov=K))",
    "pool": "~ sex + age + (1 | pool)",
    "kernel of pools": "~ age + (1 | gr(pool, cov=P))",
    "interaction": "~ sex + age + dose + (1 | donor_id)",
    "interaction and kernel": "~ sex + age + dose + (1 | gr(donor_id, cov=K))",
}


@dataclass(frozen=True)
class Recipe:
    """What hypothesis draws: `rows` of each donor at most, and `decades` of ratios."""

    random: str
    n_donors: int
    rows: int
    decades: float
    n_ratios: int
    seed: int

    @property
    def formula(self) -> str:
        return FORMULAS[self.random]

    @property
    def interaction(self) -> str:
        return "dose" if "interaction" in self.random else ""

    @cached_property
    def null(self) -> tuple[NullModels, np.ndarray, pd.DataFrame, np.ndarray]:
        """Null models, genotypes (V, D), the rows, and their covariance with a ratio of one; every donor has
        one row where the formula has no term of donors."""
        rng = np.random.default_rng(self.seed)
        donors = np.array([f"d{i:03d}" for i in range(self.n_donors)])
        one = "pool" in self.random
        of = np.repeat(np.arange(self.n_donors), 1 if one else rng.integers(2, self.rows + 2, self.n_donors))
        age = rng.normal(50, 10, self.n_donors)
        obs = pd.DataFrame(
            {"donor_id": donors[of], "age": age[of], "sex": np.array(["f", "m"])[rng.integers(0, 2, self.n_donors)][of]}
        )
        obs["pool"] = np.array([f"p{i}" for i in range(6)])[rng.integers(0, 6, self.n_donors)][of]
        X = pd.DataFrame(self.variants(rng, age).T, index=donors)
        kernels = {"K": _kernel(donors, rng), "P": _kernel(np.array([f"p{i}" for i in range(6)]), rng)}
        obs["dose"] = rng.normal(size=len(obs)).round(1)
        Y = rng.normal(size=(len(obs), 3)) + rng.normal(size=(self.n_donors, 3))[of]
        used = {name: K for name, K in kernels.items() if f"cov={name}" in self.formula}
        null, x = null_of(Y, obs, self.formula, X, kernels=used, interaction=self.interaction)
        group, K = ("pool", kernels["P"]) if "pool" in self.random else ("donor_id", kernels["K"])
        same = (
            K.loc[obs[group], obs[group]].to_numpy()
            if used
            else obs[group].to_numpy()[:, None] == obs[group].to_numpy()
        )
        return null, x, obs, same * float(null.equations.terms[0].scale[0]) ** 2

    def variants(self, rng: np.random.Generator, age: np.ndarray) -> np.ndarray:
        """Common and rare, carried by one donor, dosages, and nearly a covariate."""
        n = self.n_donors
        one = np.zeros((3, n))
        one[np.arange(3), rng.integers(0, n, 3)] = [1, 2, 1]
        near = (age - age.min()) / np.ptp(age) + rng.normal(size=(4, n)) * np.array([1e-1, 1e-2, 1e-3, 1e-4])[:, None]
        return np.vstack(
            [rng.binomial(2, 0.4, (6, n)), rng.binomial(2, 0.05, (4, n)), one, rng.uniform(0, 2, (2, n)), near]
        )

    def gamma(self, null: NullModels) -> np.ndarray:
        """Ratios around what levels say, half of a decade each way to all decades, and zero."""
        assert null.equations.spectrum is not None
        rng = np.random.default_rng(self.seed + 1)
        middle = -np.log10(null.equations.spectrum.s.mean())
        return np.concatenate(
            [[0.0, 0.0], 10 ** (middle + rng.uniform(-self.decades / 2, self.decades / 2, self.n_ratios))]
        )


def _kernel(names: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    L = rng.normal(size=(len(names), 2 * len(names)))
    return pd.DataFrame(L @ L.T / (2 * len(names)), index=names, columns=names)


recipes = st.builds(
    Recipe,
    random=st.sampled_from(sorted(FORMULAS)),
    n_donors=st.integers(12, 60),
    rows=st.sampled_from([1, 3, 40]),
    decades=st.sampled_from([0.1, 1.0, 4.0, 8.0]),
    n_ratios=st.sampled_from([3, 150]),
    seed=st.integers(0, 2**31),
)


def _weighed(null: NullModels, gamma: np.ndarray) -> OneRatio:
    assert isinstance(null.variances, OneRatio)
    return replace(null.variances, gamma=gamma)


def _products(recipe: Recipe, gamma: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """x'Pz (V, G) of the columns that variants make, at ratios, and the largest that they can be."""
    null, x, _, _ = recipe.null
    assert isinstance(null.variances, OneRatio)
    block = replace(null, variances=replace(null.variances, gamma=gamma)).block(x)
    found = {at: own(slice(None), np.arange(gamma.size))[~block.aliased] for at, own in block.products.items()}
    for (a, b), own in found.items():
        yield own, np.sqrt(np.abs(found[a, a] * found[b, b]))


@settings(max_examples=80)
@given(recipes)
def test_interpolated_are_direct_ones(recipe: Recipe) -> None:
    """Those of few features are not interpolated."""
    gamma = recipe.gamma(recipe.null[0])
    for at, (found, scale) in enumerate(_products(recipe, gamma)):
        direct = np.column_stack([list(_products(recipe, gamma[[g]]))[at][0] for g in range(gamma.size)])
        np.testing.assert_array_less(np.abs(found - direct), 1e-6 * scale)


@settings(max_examples=25)
@given(recipes)
def test_direct_ones_are_those_of_dense_matrices(recipe: Recipe) -> None:
    null, x, obs, covariance = recipe.null
    gamma = recipe.gamma(null)[:4]
    rows = x[:, pd.Categorical(obs["donor_id"]).codes].T
    several = [rows, rows * obs["dose"].to_numpy()[:, None]] if recipe.interaction else [rows]
    X = np.column_stack([np.ones(len(obs)), *([obs["sex"] == "m"] if "sex" in recipe.formula else []), obs["age"] - 50,
                         *([obs["dose"]] if recipe.interaction else [])]).astype(float)  # fmt: skip
    kept = ~null.block(x).aliased
    found = [own for own, _ in _products(recipe, gamma)]
    for g, ratio in enumerate(gamma):
        W = np.linalg.inv(np.eye(len(obs)) + ratio * covariance)
        left = [own - X @ np.linalg.solve(X.T @ W @ X, X.T @ W @ own) for own in several]
        length = [np.einsum("nv,nm,mv->v", own, W, own)[kept] for own in left]
        for at, (a, b) in enumerate([(0, 0), (1, 0), (1, 1)][: len(found)]):
            direct = np.einsum("nv,nm,mv->v", left[a], W, left[b])[kept]
            np.testing.assert_array_less(np.abs(found[at][:, g] - direct), 1e-6 * np.sqrt(length[a] * length[b]))
