"""Moderated tests and permutations on one core: few rows, many features, one random intercept."""

from __future__ import annotations

from statistics import median

from data import small_cohort
from report import Aim, Section
from timing import one_core

import donorwise as dw
from donorwise._core.design.build import build_design
from donorwise._core.design.contrasts import resolve_contrasts
from donorwise._core.engine.calibration import calibrate_statistics, make_plan
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.tasks import Task, collapse_tasks

FORMULA = "~ condition + (1 | donor)"
CONTRAST = "condition[T.case]"


def run(quick: bool) -> Section:
    n_features, n_donors, n_permutations = (2_000 if quick else 20_000), 40, 10
    Y, obs = small_cohort(n_donors, n_features)
    fit = dw.fit_lmm(Y, obs, FORMULA, n_jobs=1)
    design = build_design(FORMULA, obs)
    (statistics,) = collapse_tasks(Y, fit.variables, [Task("all", design, "")])
    L = resolve_contrasts(design, CONTRAST)[1]
    plan = make_plan(design, obs, L, n_permutations=n_permutations)
    tasks = {
        "moderated test with its prior": lambda: dw.fit_lmm(Y, obs, FORMULA, n_jobs=1).test(CONTRAST),
        "moderated test, prior known": lambda: (fit.prior, fit.test(CONTRAST)),
        f"{n_permutations} permutations, moderated": lambda: calibrate_statistics(
            statistics, lambda own: fit_statistics(own, fit.variables), plan, ddf="moderated"
        ),
        f"{n_permutations} permutations, Kenward-Roger": lambda: calibrate_statistics(
            statistics, lambda own: fit_statistics(own, fit.variables), plan, ddf="kenward-roger"
        ),
    }
    s = one_core(tasks, repeats=1 if quick else 3)
    rows = [{"": name, "median CPU s": median(v)} for name, v in s.items()]
    title = f"shared prior, one core: {n_features:,} features, {n_donors} donors ({len(obs)} rows), {FORMULA}"
    return Section("h", title, rows, [Aim("fit and moderated test", rows[0]["median CPU s"], 15.0, " s")])
