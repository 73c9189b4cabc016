"""Kernels from collapsed rows: fits and tests of many features, against independent donors and against other packages.

Other packages are timed on a few features each, in one core and without reading data, starting up and tests; what is compared
with them is this package's processor time for a feature, fit and Kenward-Roger's test together.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from competitors import fastlmm_kernel, glimix_kernel, missing, r_lme4_kernel
from kernels import Cohort, contrast, fitted
from report import Aim, Section
from timing import Seconds, interleave

from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.heritability import heritability_table
from donorwise._core.engine.tasks import test_features

N_JOBS, N_DONORS = 2, 200
NONE, ONE = "(1 | donor)", "(1 | gr(donor, cov=G))"
TWO = f"{ONE} + {NONE}"
THREE = f"{ONE} + (1 | gr(donor, cov=M)) + {NONE}"
# Donors, random part, ddf and the most seconds at the full size.
LONG = (
    (N_DONORS, TWO, "moderated", 60.0),
    (N_DONORS, TWO, "kenward-roger", 60.0),
    (1_000, TWO, "moderated", 600.0),
    (N_DONORS, THREE, "kenward-roger", 600.0),
)
FEW = 20  # features of the packages that are slow


def run(quick: bool) -> Section:
    n_features = 500 if quick else 20_000
    cohort = Cohort.of(N_DONORS, n_features)
    tasks = {random: partial(_whole, cohort, random, "kenward-roger") for random in (NONE, ONE)}
    seconds = interleave(tasks, repeats=2 if quick else 3)
    rows = [_row(N_DONORS, random, "kenward-roger", own.medians(), n_features) for random, own in seconds.items()]
    aims = [Aim("one kernel, times independent donors", seconds[ONE].ratios(seconds[NONE])["median CPU s"], 3.0)]
    for n, random, ddf, limit in LONG[:2] if quick else LONG:
        own = _apart(n, n_features, random, ddf)
        rows.append(_row(n, random, ddf, own, n_features))
        aims.append(Aim(f"{n} donors, {random}, {ddf}", own["median s"], limit, " s"))
    per_feature = {row["random part"]: row["CPU ms each"] for row in rows if row["ddf"] == "kenward-roger"}
    others = _others(cohort, per_feature)
    aims += [
        Aim(f"{row['random part']}: share of the time of {row['ddf']}", row["share"], row.pop("aim")) for row in others
    ]
    title = f"kernels, {N_JOBS} threads: {n_features:,} features from collapsed rows"
    return Section("r", title, rows + others, aims)


def _whole(cohort: Cohort, random: str, ddf: str) -> None:
    """Fit and test all features, and say their proportions of variance, as `tl.lmm` does where there are kernels.

    The collapsed rows are made anew, which takes no time to speak of.
    """
    with one_blas_thread():
        fit = fitted(cohort.collapsed(random), N_JOBS)
        test_features(fit, contrast(fit, "runs"), ddf, 0.95, N_JOBS)
        if "gr(" in random:
            heritability_table(fit.variables, fit.design, fit.models)


def _row(n: int, random: str, ddf: str, own: dict[str, float], n_features: int) -> dict[str, Any]:
    each = 1e3 * own["median CPU s"] / n_features
    return {"donors": n, "random part": random, "ddf": ddf} | own | {"CPU ms each": each}


def _apart(n: int, n_features: int, random: str, ddf: str) -> dict[str, float]:
    """In a process of its own, with its peak memory."""
    code = f"from measurements import kernels; kernels.measure({n}, {n_features}, {random!r}, {ddf!r})"
    here = Path(__file__).resolve().parents[1]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=here, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return {key: float(value) for key, value in json.loads(printed.splitlines()[-1]).items()}


def measure(n: int, n_features: int, random: str, ddf: str) -> None:
    """Print the seconds of one fit and test, after a warm-up on few donors, and the memory beyond that of the data."""
    _whole(Cohort.of(30, 150), random, ddf)
    cohort = Cohort.of(n, n_features)
    before, own = _peak(), Seconds()
    own.time(partial(_whole, cohort, random, ddf))
    print(json.dumps(own.medians() | {"peak beyond data MB": _peak() - before}))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _others(cohort: Cohort, own: dict[str, float]) -> list[dict[str, Any]]:
    """Rows of the packages that are installed, with this package's share of their time for a feature."""
    asked = (
        (fastlmm_kernel, ONE, partial(fastlmm_kernel.seconds, cohort, 200), 1 / 20),
        (r_lme4_kernel, ONE, partial(r_lme4_kernel.seconds, cohort, 1), 1 / 1_000),
        (glimix_kernel, TWO, partial(glimix_kernel.seconds, cohort, FEW, ["G"]), 1 / 100),
        (glimix_kernel, THREE, partial(glimix_kernel.seconds, cohort, FEW, ["G", "M"]), 1 / 100),
    )
    rows = []
    for package, random, seconds, aim in asked:
        if random in own and not missing(package):
            each = 1e3 * seconds()
            about = {"donors": N_DONORS, "random part": random, "ddf": package.NAME}
            rows.append(about | {"CPU ms each": each, "share": own[random] / each, "aim": aim})
    return rows
