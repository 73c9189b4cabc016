"""Whether an AnnData is still the one that a result was fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._anndata import keys, read_results
from donorwise._anndata.write import ROW
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

    from donorwise._typing import FloatArray


def changed(key: str, how: str, tool: str = keys.LMM) -> DataError:
    """What to say of an AnnData that is not the one of a result any more."""
    return DataError(f"This AnnData is not the one that {key!r} was fitted to: {how}. Run dw.tl.{tool} again.")


def check_same(estimates: FloatArray, stored: FloatArray, key: str, tool: str) -> None:
    """Raise unless estimates that were computed again are those of the result."""
    if not np.allclose(
        estimates, stored, rtol=1e-5, atol=1e-8 * np.nanmax(np.abs(stored), initial=1.0), equal_nan=True
    ):
        raise changed(
            key, "the same model gives other estimates (the values, the columns of obs, or weights= changed)", tool
        )


def same_as(adata: ad.AnnData, key: str) -> Callable[[pd.Series], None]:
    """What raises unless estimates by variable, group and contrast are those of the result `key`, as far as it has them."""
    stored = read_results(adata, key)

    def check(estimates: pd.Series) -> None:
        index = pd.MultiIndex.from_frame(stored.results[ROW].astype(str))
        known = stored.results["estimate"].set_axis(index)
        common = estimates[estimates.index.isin(index)]
        check_same(common.to_numpy(), known.loc[common.index].to_numpy(np.float64), key, stored.params["method"])

    return check
