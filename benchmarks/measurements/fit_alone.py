"""The fit and the tests alone, on one core: few rows, many features, one random intercept."""

from __future__ import annotations

from statistics import median

from data import small_cohort
from report import Aim, Section
from timing import one_core

import donorwise as dw

FORMULA = "~ condition + (1 | donor)"


def run(quick: bool) -> Section:
    n_features, n_donors = (2_000 if quick else 20_000), 100
    Y, obs = small_cohort(n_donors, n_features)
    fit = dw.fit_lmm(Y, obs, FORMULA, n_jobs=1)
    tasks = {
        "fit (REML)": lambda: dw.fit_lmm(Y, obs, FORMULA, n_jobs=1),
        "test, Satterthwaite": lambda: fit.test("condition[T.case]", ddf="satterthwaite"),
        "test, Kenward-Roger": lambda: fit.test("condition[T.case]", ddf="kenward-roger"),
    }
    s = one_core(tasks, repeats=3 if quick else 5)
    rows = [
        {"": name, "median CPU s": median(v), "us per feature": 1e6 * median(v) / n_features} for name, v in s.items()
    ]
    reml, satterthwaite, kenward_roger = (row["median CPU s"] for row in rows)
    aims = [
        Aim("REML + Satterthwaite", reml + satterthwaite, 2.0, " s"),
        Aim("REML + Kenward-Roger", reml + kenward_roger, 10.0, " s"),
    ]
    title = f"fit alone, one core: {n_features:,} features, {n_donors} donors ({len(obs)} rows), {FORMULA}"
    return Section("c", title, rows, aims)
