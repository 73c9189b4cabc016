"""Proteins from peptides as lme4 fits them one at a time (tests/reference, a16): weights, missing values, ten designs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._agreement import Number, worst

import donorwise as dw
from donorwise._anndata.prepare_peptides import prepare_peptides

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")  # of these data: missing values

FOLDER = Path(__file__).parent / "reference" / "a16_peptides"
SPEC = json.loads((FOLDER / "spec.json").read_text())
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text())["responses"]
TOLERANCE = SPEC["tolerance"]
OURS = {"(Intercept)": "Intercept", "conditioncase": "condition[T.case]"}


@cache
def peptides() -> ad.AnnData:
    obs, var = (pd.read_csv(FOLDER / f"{name}.csv", dtype=str) for name in ("obs", "peptides"))
    for column, levels in SPEC["categories"].items():
        obs[column] = pd.Categorical(obs[column], categories=levels)
    Y, W = (pd.read_csv(FOLDER / f"{name}.csv")[var["peptide"]].to_numpy() for name in "YW")
    return ad.AnnData(Y, obs=obs.set_index("run"), var=var.set_index("peptide"), layers={"weights": W})


@cache
def results_by(ddf: str) -> pd.DataFrame:
    adata, columns = peptides().copy(), list(OURS.values())
    dw.tl.lmm(adata, SPEC["formula"], features="protein", weights_layer="weights", contrasts=columns, ddf=ddf)
    return adata.uns["lmm"]["results"].set_index(["variable", "contrast"])


@cache
def fitted() -> Any:
    analysis = prepare_peptides(peptides(), SPEC["formula"], features="protein", weights_layer="weights")
    (statistics,) = analysis.statistics()
    return analysis.fit(0, statistics, lambda _: None)


def t_tests(ddf: str, se: str, df: str) -> Iterator[Number]:
    """`se` and `df` name their tolerances."""
    table, se_rel, df_rel = results_by(ddf), TOLERANCE[se], TOLERANCE[df]
    for name, response in EXPECTED.items():
        for coefficient, row in response[ddf.replace("-", "_")].items():
            own, label = table.loc[(name, OURS[coefficient])], f"{name} {coefficient}"
            yield f"{label} estimate", own["estimate"], row["estimate"], TOLERANCE["coef_in_se_units"] * row["se"]
            yield f"{label} se", own["se"], row["se"], se_rel * row["se"]
            yield f"{label} df", own["df"], row["df"], df_rel * row["df"]
            yield f"{label} t", own["statistic"], row["t"], TOLERANCE["coef_in_se_units"] + se_rel * abs(row["t"])


def variances() -> Iterator[Number]:
    """A thousandth of the residual variance is what a variance of zero may be away from it, relative to the tolerance."""
    table = fitted().varcomp().set_index(["variable", "term"])["variance"]
    for name, response in EXPECTED.items():
        for row in response["varcomp"]:
            bound = TOLERANCE["varcomp_rel"] * (row["vcov"] + 1e-3 * response["sigma2"])
            yield f"{name} {row['group']}", table[name, row["group"]], row["vcov"], bound


def likelihoods() -> Iterator[Number]:
    for name, own in zip(fitted().variables, fitted().loglik, strict=True):
        yield name, own, EXPECTED[name]["logLik_REML"], TOLERANCE["logLik_abs"]


def covariances() -> Iterator[Number]:
    for name, own in zip(fitted().variables, fitted().vcov_beta, strict=True):
        vcov = np.array(EXPECTED[name]["vcov"])
        bound = 2 * TOLERANCE["se_rel"] * np.sqrt(np.outer(np.diag(vcov), np.diag(vcov)))
        for i, j in np.ndindex(vcov.shape):
            yield f"{name} [{i}, {j}]", own[i, j], vcov[i, j], bound[i, j]


QUANTITIES = {
    "kenward-roger": lambda: t_tests("kenward-roger", "kr_se_rel", "kr_df_rel"),
    "satterthwaite": lambda: t_tests("satterthwaite", "se_rel", "satterthwaite_df_rel"),
    "varcomp": variances,
    "loglik": likelihoods,
    "vcov": covariances,
}


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_agrees(quantity: str) -> None:
    numbers = worst(QUANTITIES[quantity]())
    bad = [text for ratio, text in numbers if not ratio <= 1]
    assert numbers and not bad, f"{len(bad)} of {len(numbers)} numbers of {quantity}:\n" + "\n".join(bad[:10])


def test_status_and_counts() -> None:
    table = results_by("kenward-roger").xs(OURS["conditioncase"], level="contrast")
    for name, response in EXPECTED.items():
        own = table.loc[name]
        assert own["status"] == ("boundary" if response["singular"] else "ok")
        assert own["n_obs"] == response["n_obs"] and own["formula"] == SPEC["formula"]
        possible = len(peptides()) * response["n_peptides"]
        assert own["n_obs"] + own["n_missing"] == possible and own["n_peptides"] <= response["n_peptides"]
