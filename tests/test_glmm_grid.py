"""The law of generalised models from few points of a grid, against all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from donorwise._core.cells.counts import count_cells
from donorwise._core.cells.nodes import choose_nodes
from donorwise._core.design.build import build_design
from donorwise._core.inference.mixture import two_sided
from donorwise._core.inference.moderation import posterior
from donorwise._core.models.glmm.counts import PatternCounts
from donorwise._core.models.glmm.families import distribution
from donorwise._core.models.glmm.fit import fit_counts
from donorwise._core.models.glmm.grid import GLMMGrid
from donorwise._core.models.law import tensor

MOVED = 0.01  # relative change of a p-value
SIZE = 2.0


def cohort(kind, formula, donors, per_donor, G, cells=24):
    """A model of features whose donors vary from hardly to very much, with so many counts a donor."""
    rng = np.random.default_rng(1)
    donor = np.repeat(np.arange(donors), cells)
    cond = rng.integers(0, 2, donor.size)
    obs = pd.DataFrame({
        "donor": pd.Categorical.from_codes(donor, [f"d{i}" for i in range(donors)]),
        "arm": np.where(donor % 2, "b", "a"), "cond": np.where(cond, "s", "c"),
    })  # fmt: skip
    exposure, spread = np.exp(rng.normal(0, 0.4, donor.size)), np.geomspace(0.01, 1.2, G)
    effect = np.linspace(0, 1.5, G) * rng.choice([-1, 0, 1], G)
    eta = rng.normal(size=(donors, G))[donor] * spread + effect * (donor % 2)[:, None]
    eta += rng.normal(size=(2 * donors, G))[2 * donor + cond] * rng.permutation(spread)
    mean = per_donor / cells * exposure[:, None] * np.exp(eta)
    y = rng.poisson(mean * (rng.gamma(SIZE, 1 / SIZE, mean.shape) if kind == "nb" else 1.0)).astype(float)
    design, family = build_design(formula, obs), distribution(kind)
    x = np.log(exposure)
    nodes = choose_nodes(x.min(), x.max(), family.smooth) if family.smooth else None
    counted = count_cells(y, design.codes, design.n_patterns, exposure=exposure, nodes=nodes)
    model = fit_counts(
        design, PatternCounts(family, counted, np.empty(0) if nodes is None else nodes.exposures, np.empty(0))
    )
    return replace(model, size=np.full(model.features.size, SIZE))


def priors(points):
    """All points alike, and about a variance or two."""
    yield np.full(len(points), 1 / len(points))
    x = np.log(np.maximum(points, 1e-5))
    for centre in np.log([3e-4, 0.01, 0.3]):
        near = np.exp(-0.5 * (((x - centre) / 0.7) ** 2).sum(axis=1)) + 1e-12
        yield near / near.sum()


@pytest.mark.parametrize(
    ("formula", "donors", "per_donor"),
    [
        ("~ arm + (1 | donor)", 6, 2.0), ("~ arm + (1 | donor)", 6, 1e5), ("~ arm + (1 | donor)", 20, 30.0),
        ("~ arm + (1 | donor)", 20, 1e5), ("~ arm + (1 | donor)", 100, 3.0), ("~ arm + (1 | donor)", 100, 1e5),
        ("~ arm + cond + (1 | donor/cond)", 6, 10.0), ("~ arm + cond + (1 | donor/cond)", 20, 1e4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["nb", "poisson"])
def test_p_values_from_few_points(kind, formula, donors, per_donor):
    model = cohort(kind, formula, donors, per_donor, G=24 if "/" in formula else 60)
    points = tensor(model.axes(model.largest()))
    L = np.zeros((1, len(model.design.fixed_names)))
    L[0, 1] = 1.0
    few = model.on(points, L)
    assert sum(axis.some.size for axis in few.axes) < len(points)
    laws = [grid.law(model.usable) for grid in (few, GLMMGrid(model, points, few.L, ()))]
    for prior in priors(points):
        p, right = (
            two_sided(posterior(law.loglik, prior[None]), law.root[..., 0], np.ones_like(law.root[..., 0]), np.inf)
            for law in laws
        )
        np.testing.assert_allclose(p[right > 1e-30], right[right > 1e-30], rtol=MOVED)


def test_no_point_is_lost():
    model = cohort("poisson", "~ arm + cond + (1 + cond | donor)", 20, 1e4, G=12)
    points = tensor(model.axes(model.largest()))
    law = model.on(points, np.eye(3)).law(model.usable)
    assert np.isfinite(law.root).all()
    assert (np.ptp(law.loglik, axis=1) > 0).all()
