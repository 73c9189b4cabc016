"""Logarithms of two-sided p-values of t against numbers of mpmath, and the t of a p-value."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_ndtr

from donorwise._core.inference.joint import f_of_p
from donorwise._core.inference.student import log_two_sided, t_of_log_p, t_of_p, two_sided

REFERENCE = json.loads((Path(__file__).parent / "reference" / "gene_level" / "student_t.json").read_text())
T, DF = np.array(REFERENCE["t"]), np.array(REFERENCE["df"], dtype=float)
LOG_P = np.array(REFERENCE["log_p"])


def test_logarithms_are_those_of_mpmath() -> None:
    """Also where p is 1 - 1e-12, and where it is exp(-2e6) or exp(-5e7)."""
    np.testing.assert_allclose(log_two_sided(T, DF[:, None]), LOG_P, rtol=1e-11)
    np.testing.assert_array_equal(log_two_sided(-T, DF[:, None]), log_two_sided(T, DF[:, None]))


def test_the_t_of_every_logarithm() -> None:
    np.testing.assert_allclose(t_of_log_p(LOG_P, DF[:, None]), np.broadcast_to(T, LOG_P.shape), rtol=1e-11)


@pytest.mark.parametrize("df", [0.4, 1, 7.3, 19.99, 20.01, 250, 1e7, 1e12])
def test_scipy_has_the_same_where_it_is_exact(df: float) -> None:
    t = np.concatenate([np.linspace(0, 6, 301), np.geomspace(6, 20, 50)])
    np.testing.assert_allclose(two_sided(t, df), 2 * stats.t.sf(t, df), rtol=1e-9)
    np.testing.assert_allclose(np.exp(log_two_sided(t, np.inf)), 2 * stats.norm.sf(t), rtol=1e-11)


def test_no_seam_between_series_and_fraction() -> None:
    """The slope changes smoothly where one way of computing follows another."""
    for df in (1.0, 3.0, 12.0, 20.0, 1e3, np.inf):
        t = np.linspace(0.5, 6, 20_001)
        bend = np.diff(log_two_sided(t, df), 2)
        assert np.abs(np.diff(bend)).max() < 1e-9


def test_normal_far_out() -> None:
    t = np.array([1e2, 1e5, 1e100])
    np.testing.assert_allclose(log_two_sided(t, np.inf), np.log(2) + log_ndtr(-t), rtol=1e-12)
    np.testing.assert_allclose(log_two_sided(t[:1], 1e9), log_two_sided(t[:1], np.inf), rtol=1e-4)


def test_what_has_no_p() -> None:
    t, df = [0.0, np.inf, np.nan, 1.0, 1.0, 1.0, 1e200, 1e200], [3.0, 3.0, 3.0, np.nan, 0.0, -2.0, np.inf, 5.0]
    p = log_two_sided(t, df)
    np.testing.assert_array_equal(p[:7], [0, -np.inf, np.nan, np.nan, np.nan, np.nan, -np.inf])
    np.testing.assert_allclose(p[7], np.log(two_sided(1e50, 5.0)) - 5 * np.log(1e150), rtol=1e-12)
    t = t_of_p([1.0, 0.0, np.nan, 1.5, -1.0, 0.05], 8.0)
    np.testing.assert_array_equal(t[:5], [0, np.inf, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(t[5], stats.t.isf(0.025, 8), rtol=1e-12)
    assert t_of_log_p(-1e4, 1.0) == np.inf  # tan(exp(-1e4)) is beyond what can be written
    assert np.isnan(t_of_p(0.05, 0.0))


def test_shapes() -> None:
    assert log_two_sided(2.0, 10).shape == t_of_p(0.1, 3.0).shape == ()
    assert log_two_sided(np.ones((3, 1)), np.ones(4)).shape == (3, 4)
    assert log_two_sided(np.ones((0, 4)), 3.0).shape == t_of_p(np.ones((0, 4)), 3.0).shape == (0, 4)
    strided = np.arange(12.0).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(log_two_sided(strided, 5.0), log_two_sided(strided.copy(), 5.0))


@pytest.mark.parametrize("exponent", [1e-4, 0.01, 1, 10, 100, 250, 299])
@pytest.mark.parametrize("df", [2.5, 8.0, 1e3, 1e6])
def test_quantiles_at_every_p(exponent: float, df: float) -> None:
    p = np.array([10.0**-exponent])
    np.testing.assert_allclose(2 * stats.t.sf(t_of_p(p, df), df), p, rtol=1e-11)
    for rank in (2, 5):
        np.testing.assert_allclose(stats.f.sf(f_of_p(p, rank, np.array([df])), rank, df), p, rtol=1e-9)
    assert f_of_p(np.ones(1), 3, np.array([df])) == 0
