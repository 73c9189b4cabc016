"""What deserves a second look after a fit, a sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._typing import ALL

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pandas as pd

    from donorwise._core.models.glmm.families import Distribution
    from donorwise._core.models.glmm.leftover import Leftover
    from donorwise._typing import StrArray

_SHIFTED = "{}: the middle of the genes' log_fc is {:.2f}, far from 0 for a spread of {:.2f}. {}"
COMPOSITION = "Where some genes respond strongly, their counts take depth from all others, which then look down: "
"""What shifts all genes of a contrast, to be followed by what corrects it."""
UNCORRECTED = (
    f"{COMPOSITION}dw.tl.pseudobulk(normalize='tmm') corrects that, and dw.pp.size_factors the values of dw.tl.lmm."
)
CORRECTED = "That is left after {}: most genes may differ, or too few have the counts to be compared."
_ONE_SIDED = (
    "are separated: in some arm the response is nothing else than zero (or than what it can be at most). Their estimates lean "
    "on a prior, and their intervals are open on one side; "
)
_SEPARATED = {
    True: f"{_ONE_SIDED}their p-values hold, as they are those of the likelihood.",
    False: f"{_ONE_SIDED}z tests at the estimates say little of them.",
}
_OVERDISPERSED = (
    "{:,} of the {:,} features that were looked at (those of many counts) vary more within donors than {}, all together {:.1f} times "
    "as much: standard errors of contrasts within donors are about {:.2f} of what they should be. Use {}a random term for what varies "
    "within donors."
)
_SOME, _SHARE = 3, 0.05  # features that vary too much, for a word; their share of those that were looked at
_ENOUGH_GENES, _FAR, _SEEN = 200, 0.3, 0.05  # tests; spreads; log2 units that are worth a word


def shifted(results: pd.DataFrame, apart: Collection[str], advice: str) -> dict[str, str]:
    """What to say of groups and contrasts in which the genes' log fold changes are far from zero as a whole, by their names.

    Of the genes whose fold changes are known best (the half with the smaller standard errors: with few counts they depend
    on the depth) the median is compared with 1.48 times the median distance from it. With depths as they are, halves of
    unaffected donors reach the limit once in eight comparisons, with ``"tmm"`` once in twenty.

    Parameters
    ----------
    results
        The tests of all groups and contrasts.
    apart
        Contrasts that are not looked at, such as those of the depth.
    advice
        What to do about it.
    """
    known = results[results["p_value"].notna() & results["log_fc"].notna() & ~results["contrast"].isin(apart)]
    found = {}
    for (contrast, group), own in known.groupby(["contrast", "group"], observed=True, sort=False):
        if len(own) >= _ENOUGH_GENES:
            middle, spread = _middle(own)
            if abs(middle) > max(_FAR * spread, _SEEN):
                name = str(contrast) if group == ALL else f"{contrast}, {group}"
                found[name] = _SHIFTED.format(name, middle, spread, advice)
    return found


def separated(names: Sequence[str], status: StrArray, *, by_likelihood: bool = True) -> dict[str, str]:
    """What to say of contrasts that some features have no response for, or nothing else, in an arm; `status` is (n, G).

    `by_likelihood` says whether p-values are those of the likelihood and not of estimates.
    """
    found = {}
    for name, own in zip(names, status, strict=True):
        if n := int((own == "separated").sum()):
            found[f"separated: {name}"] = f"{name}: {n:,} of {own.size:,} features {_SEPARATED[by_likelihood]}"
    return found


def overdispersed(left: Leftover, distribution: Distribution) -> dict[str, str]:
    """What to say of features whose rows vary more about the fit than by chance, where these are not few."""
    if left.n_over < max(_SOME, _SHARE * left.n):
        return {}
    law, instead = (
        ("Poisson counts do", "family='nb', and ") if distribution.counts else ("yes and no do by chance", "")
    )
    return {"over-dispersion": _OVERDISPERSED.format(left.n_over, left.n, law, left.times, left.times**-0.5, instead)}


def of_fits(found: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What the fits of groups say of themselves, each text by what it is about, with the name of its group."""
    return {
        about if group == ALL else f"{about}, {group}": text if group == ALL else f"{group}: {text}"
        for group, own in found.items()
        for about, text in own.items()
    }


def _middle(tests: pd.DataFrame) -> tuple[float, float]:
    """Median log fold change of the genes in which it is known best, and their spread about it."""
    log_fc = tests["log_fc"].to_numpy(dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        se = tests["se"].to_numpy(dtype=np.float64) * np.abs(log_fc / tests["estimate"].to_numpy(dtype=np.float64))
    best = log_fc[se <= np.nanmedian(se)]
    middle = np.median(best)
    return float(middle), float(1.4826 * np.median(np.abs(best - middle)))
