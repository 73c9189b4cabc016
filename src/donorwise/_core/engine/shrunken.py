"""Shrunken estimates and local false sign rates of a table of tests, one contrast and group at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.inference.shrinkage import MIN_TESTS, informative, shrink

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class Shrunken:
    """What adaptive shrinkage makes of N tests.

    Attributes
    ----------
    mean, lfsr
        Shape (N,). Posterior means and local false sign rates; NaN where they are not asked for, or not known.
    effects
        The distributions that the effects come from: group, contrast, sd (0 for no effect) and share.
    few
        Tests of the contrasts and groups that have too few of them.
    """

    mean: FloatArray
    lfsr: FloatArray
    effects: pd.DataFrame
    few: dict[tuple[str, str], int]

    def told(self) -> list[str]:
        """By contrast, how many effects are taken for none, and where there were too few tests to tell."""
        null = self.effects[self.effects["sd"] == 0]
        said = [
            f"{contrast}: share of effects that are taken for none: {self._each(own)}."
            for contrast, own in null.groupby("contrast", observed=True, sort=False)
        ]
        for contrast in dict.fromkeys(contrast for _, contrast in self.few):
            names = ", ".join(f"{group} ({n})" for (group, own), n in self.few.items() if own == contrast)
            said.append(
                f"{contrast}: {MIN_TESTS} tests are needed to learn a distribution of effects from, and there are fewer in "
                f"{names}; shrunk and lfsr are missing there."
            )
        return said

    @staticmethod
    def _each(null: pd.DataFrame) -> str:
        shares = [f"{share:.2f}" for share in null["share"]]
        if len(shares) == 1:
            return shares[0]
        return ", ".join(f"{group} {share}" for group, share in zip(null["group"], shares, strict=True))


def shrink_tests(tests: pd.DataFrame, asked: BoolArray) -> Shrunken:
    """Shrink the estimates of the tests (N,) that are `asked` for, each contrast and group by a distribution of its own."""
    mean, lfsr = np.full((2, len(tests)), np.nan)
    numbers = tests[["estimate", "se", "df"]].to_numpy(dtype=np.float64)
    tables, few = [], {}
    for (group, contrast), at in tests[asked].groupby(["group", "contrast"], observed=True, sort=False).indices.items():
        rows = np.flatnonzero(asked)[at]
        estimate, se, df = numbers[rows].T
        if (n := int(informative(estimate, se, df).sum())) < MIN_TESTS:
            few[str(group), str(contrast)] = n
            continue
        made = shrink(estimate, se, df)
        mean[rows], lfsr[rows] = made.mean, made.lfsr
        own = {"group": str(group), "contrast": str(contrast), "sd": made.sd, "share": made.share}
        tables.append(pd.DataFrame(own))
    columns = ["group", "contrast", "sd", "share"]
    effects = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    return Shrunken(mean, lfsr, effects, few)
