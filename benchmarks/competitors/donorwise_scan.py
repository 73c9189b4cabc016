"""This package's scans: mixed models of all genes with one kernel, or without one least squares."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scan import Scanned

import donorwise as dw

if TYPE_CHECKING:
    from scan import Study

NAME = "donorwise scan_variants"


def run(study: Study, *, n_jobs: int, kernel: bool = True, refit: str = "none", **options: Any) -> Scanned:
    """Scan all genes; `options` say which variants, and what is kept. Reading what goes to a folder takes no time of it."""
    random, kernels = (" + (1 | gr(donor, cov=G))", study.kernels) if kernel else ("", None)
    wall, cpu = time.perf_counter(), time.process_time()
    found = dw.scan_variants(
        study.responses, study.obs, study.panel, study.fixed + random, kernels=kernels, refit=refit, donor="donor",
        genes=study.genes, n_jobs=n_jobs, progress=False, **options,
    )  # fmt: skip
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tests = pd.read_parquet(options["out"]) if found.tests is None else found.tests
    return scanned(tests)._replace(wall=wall, cpu=cpu)


def scanned(tests: pd.DataFrame) -> Scanned:
    """What is in a table of pairs, whose genes and variants are called g0, g1, ..., and v0, v1, ..."""
    number = {name: tests[name].astype("category") for name in ("gene", "variant")}
    gene, variant = (
        np.array([int(n[1:]) for n in own.cat.categories], dtype=int)[own.cat.codes] for own in number.values()
    )
    return Scanned(gene, variant, tests["statistic"].to_numpy())
