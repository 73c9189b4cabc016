"""Moderated tests on one core: few rows, many features, one and two random terms."""

from __future__ import annotations

from copy import copy
from typing import Any

from data import small_cohort
from report import Aim, Section
from timing import one_core

import donorwise as dw

CONTRAST = "condition[T.case]"
N_DONORS = 40
# Random part, and the most seconds that a first contrast should take at the full size.
MODELS = {"(1 | donor)": 15.0, "(1 | donor) + (1 | donor:sample)": 10.0, "(1 | donor) + (1 | batch)": 10.0}


def run(quick: bool) -> Section:
    n_features = 2_000 if quick else 20_000
    Y, obs = small_cohort(N_DONORS, n_features)
    rows = [_row(random, Y, obs) for random in MODELS]
    aims = [
        Aim(f"first moderated contrast, {row['random part']}", row["first contrast s"], limit, " s")
        for row, limit in zip(rows, MODELS.values(), strict=True)
    ]
    title = f"moderated tests, one core (CPU s): {n_features:,} features, {N_DONORS} donors ({len(obs)} rows)"
    return Section("h", title, rows, aims)


def _row(random: str, Y: Any, obs: Any) -> dict[str, Any]:
    formula = f"~ condition + {random}"
    fit = dw.fit_lmm(Y, obs, formula, n_jobs=1)
    untested = copy(fit)  # a fit keeps the prior that its first test has learned
    fit.test(CONTRAST)
    tasks = {
        "fit s": lambda: dw.fit_lmm(Y, obs, formula, n_jobs=1),
        "first contrast s": lambda: copy(untested).test(CONTRAST),
        "another contrast s": lambda: fit.test(CONTRAST),
    }
    return {"random part": random} | {name: s[0] for name, s in one_core(tasks, repeats=1, warmup=0).items()}
