"""Models with several variance components, on one core: time for 1,000 features."""

from __future__ import annotations

from statistics import median
from typing import Any

from data import small_cohort
from report import Aim, Section
from timing import one_core

import donorwise as dw

MODELS = {
    "intercept": "~ condition + time + (1 | donor)",
    "slope": "~ condition + time + (time | donor)",
    "nested": "~ condition + time + (1 | donor) + (1 | donor:sample)",
    "crossed": "~ condition + time + (1 | donor) + (1 | batch)",
}


def run(quick: bool) -> Section:
    n_features = 200 if quick else 1_000
    rows = []
    for n_donors in (20,) if quick else (20, 60):
        Y, obs = small_cohort(n_donors, n_features)
        rows += [_row(name, formula, Y, obs, n_donors) for name, formula in MODELS.items()]
    slope = rows[-len(MODELS) :][list(MODELS).index("slope")]
    aims = [Aim(f"fit of random slopes, {slope['donors']} donors, 1,000 features", slope["fit s / 1,000"], 0.5, " s")]
    return Section("f", f"models of several variance components, one core (CPU s), {n_features:,} features", rows, aims)


def _row(name: str, formula: str, Y: Any, obs: Any, n_donors: int) -> dict[str, Any]:
    fit = dw.fit_lmm(Y, obs, formula, n_jobs=1)
    tasks = {
        "fit": lambda: dw.fit_lmm(Y, obs, formula, n_jobs=1),
        "satterthwaite": lambda: fit.test("time", ddf="satterthwaite"),
        "kenward-roger": lambda: fit.test("time", ddf="kenward-roger"),
    }
    s = {key: 1_000 / Y.shape[1] * median(v) for key, v in one_core(tasks, repeats=3).items()}
    return {
        "model": name,
        "random part": formula.split("time + ", 1)[1],
        "donors": n_donors,
        "fit s / 1,000": s["fit"],
        "Satterthwaite s / 1,000": s["satterthwaite"],
        "Kenward-Roger s / 1,000": s["kenward-roger"],
        "iterations": float(fit.n_iter.mean()),
        "at boundary": float((fit.status == "boundary").mean()),
        "not converged": int((fit.status == "not_converged").sum()),
    }
