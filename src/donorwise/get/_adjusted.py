"""Tables whose p-values are adjusted anew, over other tests than they were stored with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.engine.tables import UNIVERSE
from donorwise._core.inference.multiplicity import adjust
from donorwise._core.inference.stagewise import stagewise
from donorwise._core.wording import listing
from donorwise._typing import ADJUSTMENTS, check_option

if TYPE_CHECKING:
    import pandas as pd

    from donorwise._typing import FloatArray

LEVEL = 0.05
"""Level of the stages where none is asked for."""
SCREENED = "adj_p_screen"
"""Column of the genes' adjusted p-values, beside those of their groups."""


def adjusted(table: pd.DataFrame, how: str, alpha: float | None, by: str = "contrast") -> tuple[pd.DataFrame, str]:
    """Adjust the p-values of a table, and say what was done.

    Parameters
    ----------
    table
        All tests that count: variable, group, what else tests are told apart `by`, p_value, and adj_p_value as it is stored.
    how
        ``"within"`` leaves it as it is, over the features of each `by` and group; ``"global"`` is Benjamini and Hochberg's over
        the whole table; ``"stagewise"`` is over features, and then their groups, for each `by`.
    alpha
        Level of the stages; None for .05.
    by
        A column such as contrast.

    Returns
    -------
    The table, of which adj_p_value is another, with adj_p_screen after it where there were stages; and a text.

    Raises
    ------
    DonorwiseError
        There is no such way.
    """
    check_option("adjust", how, ADJUSTMENTS)
    if how == "within":
        return table, UNIVERSE
    p_values = table["p_value"].to_numpy(dtype=np.float64)
    if how == "global":
        n = int(np.isfinite(p_values).sum())
        of, within = (listing(table[column].unique().astype(str)) for column in (by, "group"))
        return table.assign(
            adj_p_value=adjust(p_values)
        ), f"Benjamini-Hochberg over all {n:,} tests of {of} in {within}"
    level = LEVEL if alpha is None else float(alpha)
    screening, confirmation = np.full((2, len(table)), np.nan)
    passed = []
    for name, at in table.groupby(by, observed=True, sort=False).indices.items():
        screening[at], confirmation[at], (n_passed, n_genes) = _in_stages(table.iloc[at], p_values[at], level)
        passed.append(f"{n_passed:,} of {n_genes:,} ({name})")
    out = table.assign(adj_p_value=confirmation)
    out.insert(out.columns.get_loc("adj_p_value") + 1, SCREENED, screening)
    return out, _told(by, level, passed)


def _in_stages(
    table: pd.DataFrame, p_values: FloatArray, level: float
) -> tuple[FloatArray, FloatArray, tuple[int, int]]:
    """Screening and confirmation of each row of tests that belong together, and how many features passed of how many."""
    rows, columns = table["variable"].cat.codes.to_numpy(), table["group"].cat.codes.to_numpy()
    wide = np.full((len(table["variable"].cat.categories), len(table["group"].cat.categories)), np.nan)
    wide[rows, columns] = p_values
    found = stagewise(wide, level)
    screening = np.where(np.isfinite(p_values), found.screening[rows], np.nan)
    return screening, found.confirmation[rows, columns], (found.n_passed, found.n_genes)


def _told(by: str, level: float, passed: list[str]) -> str:
    return (
        f"stage-wise within each {by}, at an overall false discovery rate of {level:g}: features by Simes' p-values over their groups, "
        f"Benjamini-Hochberg ({SCREENED}), passed by {', '.join(passed)}; then the groups of those, by Holm and Shaffer. Of adj_p_value "
        f"{level:g} is the one cutoff that holds; for another one ask again with alpha="
    )
