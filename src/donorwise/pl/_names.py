"""Names of features, donors, groups and contrasts: which are meant, and how they fit."""

from __future__ import annotations

import re
from os.path import commonprefix
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from donorwise._anndata import keys, read_settings
from donorwise.errors import DataError
from donorwise.get._select import only_one
from donorwise.pl._style import inches, root

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes


LONGEST = 28
"""Letters of a name in a row of a plot, of which longer ones would take the width."""
_LETTER, _SMALL_LETTER = 0.08, 0.055
"""Inches of a letter of a title, and of a name in a row."""
_MOST_LINES = 3
_LAST_WORD = re.compile(r"[^\W_]*$")


def feature_names(variables: str | Sequence[str]) -> list[str]:
    """The features that are named, each once.

    Raises
    ------
    DataError
        There is none.
    """
    names = [variables] if isinstance(variables, str) else list(dict.fromkeys(variables))
    if not names:
        raise DataError("variables= names no feature.")
    return names


def choose_contrast(adata: ad.AnnData | None, table: pd.DataFrame, contrast: str | None) -> str:
    """The contrast that was asked for, else the first of the declared condition, else the first of the result.

    Raises
    ------
    DataError
        There is no such contrast.
    """
    if contrast is not None:
        if not isinstance(contrast, str):
            raise DataError(f"contrast= names one contrast, not {contrast!r}.")
        return only_one(table, "contrast", contrast)
    known = [str(name) for name in table["contrast"].cat.categories]
    declared = None if adata is None else read_settings(adata).get("condition")
    of_condition = [] if adata is None or declared is None else [n for n in known if column_of(n, adata) == declared]
    return [*of_condition, *known][0]


def column_of(contrast: str, adata: ad.AnnData) -> str | None:
    """Column of obs whose levels a contrast compares; None for an interaction or an unknown name."""
    for column in sorted(map(str, adata.obs.columns), key=len, reverse=True):
        if contrast == column or re.match(rf"(C\()?{re.escape(column)}\b([^:]*\[[^:]*\]|: .+ vs .+)$", contrast):
            return column
    return None


def shorten(names: Sequence[str], most: int = LONGEST) -> list[str]:
    """Names of about `most` letters at the most, without what is inside of longer ones or common to all.

    Names that could not be told apart any more are left as they are.

    Examples
    --------
    >>> shorten(["D1", "a name that is far too long"], 12)
    ['D1', 'a name…o long']
    >>> shorten([f"University hospital, patient {i}, 2021" for i in range(2)], 12)
    ['…0…', '…1…']
    """
    for names_or_core in (names, _cores(names)):
        short = [n if len(n) <= most else f"{n[: most // 2]}…{n[len(n) - most // 2 :]}" for n in names_or_core]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def _cores(names: Sequence[str]) -> list[str]:
    """Names without the words that all of them begin or end with."""
    start = len(_LAST_WORD.sub("", commonprefix(list(names))))
    end = len(_LAST_WORD.sub("", commonprefix([name[start:][::-1] for name in names])))
    return [f"{'…' * (start > 0)}{name[start : len(name) - end]}{'…' * (end > 0)}" for name in names]


def panel_title(group: str, *rest: str) -> str:
    """What a panel shows, the group first where there are groups."""
    return ", ".join(rest if group == keys.ALL else (group, *rest))


def fold(ax: Axes, text: str, *, beside: Sequence[str] = ()) -> str:
    """Break a title into the few lines that fit above axes with these names beside them."""
    names = _SMALL_LETTER * max(map(len, beside), default=0)
    n_letters = max(16, int((_room(ax) - names) / _LETTER))
    return "\n".join(wrap(text, n_letters, max_lines=_MOST_LINES, placeholder="…"))


def write_title(ax: Axes, text: str, *, beside: Sequence[str] = (), **options: Any) -> None:
    """Write a title that stays within the room of its panel."""
    ax.set_title(fold(ax, text, beside=beside), **{"fontsize": "medium", "parse_math": False, **options})


def _room(ax: Axes) -> float:
    """Inches above axes: what a layout engine will give them, or what they have now."""
    spec = ax.get_subplotspec()
    if root(ax).get_layout_engine() is None or spec is None:
        return inches(ax)[0] + 0.4
    return float(root(ax).get_figwidth()) / spec.get_gridspec().ncols - 0.6
