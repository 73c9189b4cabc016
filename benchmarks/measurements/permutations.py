"""Calibration by permuted labels, on one core: few rows, many features, one random intercept."""

from __future__ import annotations

from data import small_cohort, wrapped
from report import Aim, Section
from timing import one_core

import donorwise as dw

FORMULA = "~ condition + (1 | donor)"
CONTRAST = "condition[T.case]"


def run(quick: bool) -> Section:
    n_features, n_donors, n_permutations = (2_000, 40, 10) if quick else (20_000, 40, 100)
    adata = wrapped(*small_cohort(n_donors, n_features))

    def calibrate(ddf: str, n: int = n_permutations) -> None:
        dw.tl.calibrate(adata, FORMULA, CONTRAST, n_permutations=n, ddf=ddf, n_jobs=1, progress=False)

    tests = {"moderated": 40.0, "kenward-roger": None}
    for ddf in tests:
        calibrate(ddf, 2)
    s = one_core({ddf: lambda ddf=ddf: calibrate(ddf) for ddf in tests}, repeats=1, warmup=0)
    rows = [{"tests": ddf, "permutations": n_permutations, "CPU s": found[0]} for ddf, found in s.items()]
    aims = [Aim(f"{n_permutations} permutations, {d}", s[d][0], most, " s") for d, most in tests.items() if most]
    title = f"tl.calibrate, one core: {n_features:,} features, {n_donors} donors ({adata.n_obs} rows), {FORMULA}"
    return Section("l", title, rows, aims)
