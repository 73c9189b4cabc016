"""Type I error of moderated tests where few donors or few features decide: joint tests, slopes, small panels.

``python -m benchmarks.moderated [--features 4000] [--seed 0]`` prints a table in markdown: shares of p-values below
.05, .01 and .001 over the level, moderated and by Kenward-Roger. Every feature is null.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import donorwise as dw

Floats = NDArray[np.float64]
LEVELS = (0.05, 0.01, 0.001)


class Study(NamedTuple):
    """Donors of each arm, visits of a donor, the formula, and what is tested: a contrast, or a term of several."""

    per_arm: tuple[int, ...]
    visits: int
    formula: str
    tested: str
    slopes: float = 0.0
    panel: int = 0  # features that are fitted at a time; all for 0


ONE = "~ arm + (1 | donor)"
SLOPE = "~ arm * time + (time | donor)"
THREE = "~ arm * time + (1 | donor) + (0 + time | donor) + (1 | sample)"
STUDIES = (
    Study((3, 3, 3), 1, ONE, "arm"),
    Study((2, 3, 4), 1, ONE, "arm"),
    Study((2, 2, 2, 2), 1, ONE, "arm"),
    Study((3, 3), 4, SLOPE, "arm[T.b]:time"),
    Study((3, 3), 4, SLOPE, "arm[T.b]:time", slopes=0.15),
    Study((6, 6), 3, SLOPE, "arm[T.b]:time", slopes=0.15),
    Study((4, 4), 3, THREE, "arm[T.b]:time", slopes=0.15),
    *(Study((3, 3), 1, ONE, "arm[T.b]", panel=n) for n in (100, 150, 200, 500)),
)


def simulate(study: Study, n_features: int, rng: np.random.Generator) -> tuple[Floats, pd.DataFrame]:
    """Cells of donors that differ in level (a quarter of the features: not at all) and, where asked, in slope."""
    n_donors = sum(study.per_arm)
    sample = np.repeat(np.arange(n_donors * study.visits), rng.integers(8, 40, n_donors * study.visits))
    donor, time = sample // study.visits, sample % study.visits
    arm = np.repeat(list("abcd")[: len(study.per_arm)], study.per_arm)[donor]
    ratio = np.where(rng.random(n_features) < 0.25, 0.0, 0.1 * np.exp(rng.normal(size=n_features)))
    level = rng.normal(size=(n_donors, n_features))
    slope = study.slopes * (0.4 * level + np.sqrt(1 - 0.4**2) * rng.normal(size=level.shape))
    Y = rng.normal(size=(donor.size, n_features)) + (np.sqrt(ratio) * level)[donor] + slope[donor] * time[:, None]
    return Y, pd.DataFrame({"donor": donor, "time": time, "sample": sample, "arm": arm})


def shares(study: Study, n_features: int, seed: int) -> dict[str, str]:
    """One row of the table."""
    rng = np.random.default_rng([seed, *study.per_arm, study.visits, study.panel])
    size = study.panel or n_features
    p: dict[str, list[Floats]] = {"moderated": [], "kenward-roger": []}
    for _ in range(max(1, n_features // size)):
        Y, obs = simulate(study, size, rng)
        fit = dw.fit_lmm(Y, obs, study.formula)
        test = fit.joint_test if study.tested in fit.design.terms else fit.test
        for ddf, found in p.items():
            found.append(test(study.tested, ddf=ddf)["p_value"].to_numpy())  # type: ignore[operator]
    of = {ddf: np.concatenate(found) for ddf, found in p.items()}
    return {
        "donors": "+".join(map(str, study.per_arm)), "model": study.formula, "tested": study.tested,
        "features": f"{study.panel} at a time" if study.panel else str(n_features),
        **{ddf: " ".join(f"{np.mean(own < level) / level:.2f}" for level in LEVELS) for ddf, own in of.items()},
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--features", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [shares(study, options.features, options.seed) for study in STUDIES]
    print("| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0]), sep="\n")
    for row in rows:
        print(
            "| " + " | ".join(row.values()).replace("(1 | ", "(1 \\| ").replace("time | donor", "time \\| donor") + " |"
        )


if __name__ == "__main__":
    main()
