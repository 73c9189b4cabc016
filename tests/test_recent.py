"""What fits of the same rows and donors share is made once while an analysis runs, and forgotten then."""

from __future__ import annotations

import numpy as np
import pandas as pd

import donorwise as dw
from donorwise._core.inference import intervals
from donorwise._core.models.lmm import recent


class Made:
    """Something that is made."""


def test_kept_while_an_analysis_runs():
    """The last of a kind is given again for the same arrays; nothing is kept outside, or afterwards."""
    one, other = (np.arange(3.0),), (np.arange(4.0),)
    assert recent.once(Made, one, Made) is not recent.once(Made, one, Made)
    with recent.REMEMBERING:
        first = recent.once(Made, one, Made)
        assert recent.once(Made, one, Made) is first
        assert recent.once(Made, other, Made) is not first
        assert recent.once(Made, one, Made) is not first
    assert recent.once(Made, one, Made) is not recent.once(Made, one, Made)


def test_cell_types_with_the_same_donors_share_their_null_distributions(monkeypatch):
    """With one row of each donor in every cell type there is one simulation; its numbers are those of each alone."""
    import anndata as ad

    rng = np.random.default_rng(0)
    donors = [f"d{i}" for i in range(24)]
    K = pd.DataFrame(np.kron(np.eye(8), 0.5 + 0.5 * np.eye(3)), donors, donors)
    obs = pd.DataFrame({"donor_id": donors * 4, "kind": np.repeat(list("aabb"), 24)}, index=[str(i) for i in range(96)])
    adata = ad.AnnData(rng.normal(size=(96, 5)), obs=obs)
    calls = []

    def counted(*args):
        calls.append(1)
        return simulate(*args)

    simulate = intervals.simulate_nulls
    monkeypatch.setattr(intervals, "simulate_nulls", counted)
    formula = "~ 1 + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)"
    dw.tl.lmm(adata, formula, groupby="kind", kernels={"grm": K}, progress=False)
    assert len(calls) == 1
    both = dw.get.heritability(adata, group="b").reset_index(drop=True)
    alone = adata[adata.obs["kind"] == "b"].copy()
    dw.tl.lmm(alone, formula, groupby="kind", kernels={"grm": K}, progress=False)
    pd.testing.assert_frame_equal(both.drop(columns="group"), dw.get.heritability(alone).drop(columns="group"))
