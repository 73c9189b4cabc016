"""dw.pp.log_depth: centred, and a clear word where there are no counts."""

from __future__ import annotations

import numpy as np
import pytest

import donorwise as dw
from donorwise.errors import DataError


def test_is_the_centred_log_of_the_totals(cohort) -> None:
    dw.pp.log_depth(cohort)
    total = np.asarray(cohort.layers["counts"].sum(axis=1), dtype=np.float64).ravel()
    np.testing.assert_allclose(cohort.obs["log_depth"], np.log(total) - np.log(total).mean(), atol=1e-12)


def test_column_layer_and_copy_agree(cohort) -> None:
    cohort.obs["totals"] = np.asarray(cohort.layers["counts"].sum(axis=1)).ravel()
    copy = dw.pp.log_depth(cohort, obs_key="totals", key_added="depth", copy=True)
    assert "depth" not in cohort.obs
    dw.pp.log_depth(cohort)
    np.testing.assert_allclose(copy.obs["depth"], cohort.obs["log_depth"], atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"layer": None}, "raw counts"), ({"layer": "absent"}, "absent"), ({"obs_key": "cell_type"}, "numeric")],
)
def test_needs_counts(cohort, arguments, says) -> None:
    with pytest.raises(DataError, match=says):
        dw.pp.log_depth(cohort, **arguments)


def test_cells_without_counts_are_named(cohort) -> None:
    cohort.obs["totals"] = 1.0
    cohort.obs.iloc[7, cohort.obs.columns.get_loc("totals")] = 0.0
    with pytest.raises(DataError, match=f"{cohort.obs_names[7]}.*obs_key="):
        dw.pp.log_depth(cohort, obs_key="totals", key_added="new")
    assert "new" not in cohort.obs
