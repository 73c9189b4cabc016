"""Scenarios of ``fit_lmm``, and of questions that cannot be answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests._scenarios import (
    DDF,
    FORMULA,
    QUIET,
    SCENARIOS,
    Scenario,
    lmm,
    pseudobulk,
    reference,
    scenario,
    simulated,
)  # fmt: skip

import donorwise as dw
from donorwise.errors import DonorwiseError

# ---------------------------------------------------------------- fit_lmm

CASES = {
    "a01_sleepstudy_ri": "Subject",
    "a02_sleepstudy_rs": "Subject",
    "a03_sleepstudy_uncorr": "Subject",
    "a04_penicillin_crossed": "plate",
    "a05_pastes_nested": "batch",
    "a06_single_cell": "donor",
    "a07_paired_donor_sample": "donor",
    "a08_longitudinal": "patient",
    "a09_stepped_wedge": "clinic",
    "a10_weights": "run",
}


def _case(name: str, group: str) -> Scenario:
    def run(folder: Path) -> Any:
        Y, obs, spec = reference(name)
        Y = Y.iloc[:, :6]
        fit = dw.fit_lmm(Y, obs, spec["formula"], weights=spec["weights"])
        found = {"fit": fit, "ml": fit.at_ml(), "varcomp": fit.varcomp(), "icc": fit.icc()}
        found |= {f"test {ddf}": fit.test(None, ddf=ddf, level=0.9) for ddf in DDF[1:]}
        for term in [term for term in fit.design.terms if term not in ("1", "Intercept")]:
            found[f"joint {term}"] = fit.joint_test(term, ddf="kenward-roger")
            found[f"joint {term}, Satterthwaite"] = fit.joint_test(term, ddf="satterthwaite")
        bars = spec["formula"][spec["formula"].index("(") :]
        if len(fit.fixed_names) > 1:
            found["lrt"] = fit.lrt(dw.fit_lmm(Y, obs, f"~ 1 + {bars}", weights=spec["weights"]))
        return found | {"partition": fit.variance_partition(), "ranef": fit.ranef(group)}

    return run


SCENARIOS |= {f"fit_{name}": _case(name, group) for name, group in CASES.items()}


@scenario
def fit_moderated(folder: Path) -> Any:
    """The prior of one and of two terms, tests with it, and gaps."""
    one, two = simulated(), simulated("crossed")
    Y = one.X.toarray().astype(float)
    Y[::50, :30] = np.nan
    fits = {
        "one": dw.fit_lmm(one.X, one.obs, FORMULA, n_jobs=1),
        "gaps": dw.fit_lmm(Y, one.obs, FORMULA, n_jobs=1, weights="quality"),
        "two": dw.fit_lmm(two.X, two.obs, two.uns["truth"]["formula"], n_jobs=1),
    }
    return {
        name: {
            "test": fit.test("condition[T.disease]"),
            "axes": list(fit.prior.axes),
            "knots": np.asarray(fit.prior.knots),
            "weights": np.asarray(fit.prior.weights)[:, ::5],
        }
        for name, fit in fits.items()
    }


# ---------------------------------------------------------------- errors


@scenario
def errors(folder: Path) -> Any:
    """Questions that cannot be answered, and what is said of them."""
    cells = simulated(n_genes=6)
    rows = dw.pp.collapse(cells, ["donor_id", "condition"], progress=False)
    asked: dict[str, Callable[[], Any]] = {
        "syntax": lambda: lmm(cells, "~ condition + (1 | donor_id"),
        "column": lambda: lmm(cells, "~ conditions + (1 | donor_id)"),
        "group": lambda: lmm(cells, groupby="celltype"),
        "contrast": lambda: lmm(cells, contrasts="condition[T.ill]"),
        "level": lambda: lmm(cells, contrasts=("condition", "ill", "control")),
        "confounded": lambda: lmm(cells, "~ condition + donor_id + (1 | sample_id)", contrasts="condition[T.disease]"),
        "ddf": lambda: lmm(cells, ddf="exact"),
        "layer": lambda: lmm(cells, layer="lognorm"),
        "weights": lambda: lmm(cells, weights=np.zeros(cells.n_obs)),
        "key": lambda: lmm(cells, key_added="a/b"),
        "taken": lambda: lmm(cells, key_added="truth"),
        "collapsed away": lambda: lmm(rows, "~ condition + sex + (1 | donor_id)"),
        "rows with weights": lambda: lmm(rows, weights="quality"),
        "no counts": lambda: pseudobulk(rows),
        "not counts": lambda: pseudobulk(cells, layer=None),
        "varies": lambda: pseudobulk(cells, "~ condition + log_depth"),
        "two terms": lambda: pseudobulk(cells, "~ condition + (1 | donor_id) + (1 | sample_id)"),
        "permute": lambda: dw.tl.calibrate(cells, FORMULA, "Intercept", **QUIET),
        "no result": lambda: dw.tl.influence(cells, **QUIET),
        "collapse": lambda: dw.pp.collapse(cells, ["donor_id", "n_cells"], progress=False),
    }
    return {name: _said(question) for name, question in asked.items()}


def _said(question: Callable[[], Any]) -> str:
    try:
        question()
    except DonorwiseError as error:
        return f"{type(error).__name__}: {error}"
    return "answered"
