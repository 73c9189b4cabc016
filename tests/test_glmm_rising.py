"""log Gamma(y + r) - log Gamma(r) - y log(r), and its derivative in log r, as sums of their terms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from donorwise._core.models.glmm.derivatives import _rising


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 30.0, 1e3, 1e6, 1e9, 1e13])
def test_sums_of_many_terms_are_right(size: float) -> None:
    counts = np.array([0.0, 1, 5, 31, 32, 33, 100, 5_000, 100_000])
    value, slope = _rising(counts, size)
    for y, found, change in zip(counts, value, slope, strict=True):
        right = math.fsum(math.log1p(k / size) for k in range(int(y)))
        assert found == pytest.approx(right, rel=2e-13, abs=2e-11)
        right = -math.fsum(k / (size + k) for k in range(int(y)))
        assert change == pytest.approx(right, rel=2e-13, abs=2e-11)
