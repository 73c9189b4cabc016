"""What is asked after the fit, as commands: the numbers of the tools, whatever the family, from cells and from collapsed rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._batch import run
from tests._peptide_data import peptides

import donorwise as dw
from donorwise.errors import DonorwiseError

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning", "ignore:Writing zarr v2")

FORMULA = "~ condition + sex + (1 | donor_id)"
DISEASE = "condition[T.disease]"


def cohort() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_donors=10, n_cells=500, n_genes=16, seed=3)
    adata.obs["age"] = 30.0 + adata.obs["donor_id"].cat.codes
    return adata


def relatedness(adata: ad.AnnData) -> pd.DataFrame:
    donors = adata.obs["donor_id"].cat.categories
    family = np.arange(len(donors)) // 2
    return pd.DataFrame(
        np.where(family[:, None] == family, 0.5, 0.0) + 0.5 * np.eye(len(donors)), index=donors, columns=donors
    )


def proteins() -> ad.AnnData:
    adata = peptides()
    adata.obs["sex"] = np.where(adata.obs["donor_id"].isin(["d1", "d4"]), "f", "m")
    return adata


@dataclass(frozen=True)
class Fitted:
    """A source, the result of a command on it, and the same cells (or rows) with the result of the tool."""

    source: Path
    result: Path
    adata: ad.AnnData
    key: str
    variable: str

    def again(self) -> ad.AnnData:
        return self.adata.copy()


GROUPED = ("--groupby", "cell_type")
FITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lmm": ("lmm", ("--formula", FORMULA, *GROUPED)),
    "rows": ("lmm", ("--formula", FORMULA, *GROUPED)),
    "pseudobulk": ("pseudobulk", ("--formula", "~ condition + sex", "--donor", "donor_id", *GROUPED)),
    "glmm": ("glmm", ("--formula", FORMULA, "--layer", "counts", *GROUPED)),
    "glmm rows": ("glmm", ("--formula", FORMULA, *GROUPED)),
    "composition": ("composition", ("--formula", FORMULA, "--cell-type", "cell_type")),
    "peptides": ("lmm", ("--formula", "~ condition + sex + (1 | peptide) + (1 | donor_id)", "--features", "protein")),
    "kernel": ("lmm", ("--formula", "~ condition + sex + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)")),
}


def tool(name: str, adata: ad.AnnData) -> None:
    """Fit as the command of FITS does."""
    command, (_, formula, *options) = FITS[name]
    given: dict[str, Any] = {
        option.removeprefix("--").replace("-", "_"): value
        for option, value in zip(options[::2], options[1::2], strict=True)
    }
    if name == "kernel":
        given["kernels"] = {"grm": relatedness(adata)}
    if name == "pseudobulk":
        given["layer"] = "counts"
    getattr(dw.tl, command)(adata, formula, progress=False, **given)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Fitted]:
    """Fits by name, each made once."""
    folder, made = tmp_path_factory.mktemp("after"), {}
    cohort().write_h5ad(folder / "cells.h5ad")
    proteins().write_h5ad(folder / "runs.h5ad")
    relatedness(cohort()).to_csv(folder / "grm.csv")

    def source(name: str) -> Path:
        rows = folder / f"{name}.source.h5ad"
        if "rows" in name:
            counts = ("--counts-layer", "counts", "--glmm", "nb") if "glmm" in name else ()
            by = ("--by", "donor_id,cell_type,condition,sex,age")
            assert run("collapse", folder / "cells.h5ad", *by, *counts, "--out", rows).exit_code == 0
            return rows
        return folder / ("runs.h5ad" if name == "peptides" else "cells.h5ad")

    def fit(name: str) -> Fitted:
        if name not in made:
            path, out, (command, options) = source(name), folder / f"{name}.fit.h5ad", FITS[name]
            kernel = ("--kernel", f"grm={folder / 'grm.csv'}") if name == "kernel" else ()
            done = run(command, path, *options, *kernel, "--out", out)
            assert done.exit_code == 0, done.output
            adata = ad.read_h5ad(path)
            tool(name, adata)
            table = dw.get.tests(adata, key=command, sort_by=None)
            made[name] = Fitted(path, out, adata, command, str(table["variable"].iloc[-1]))
        return made[name]

    return fit


@dataclass(frozen=True)
class Question:
    """A command's options, and what gives the same table in memory."""

    command: str
    options: Callable[[Fitted], tuple[object, ...]]
    asked: Callable[[ad.AnnData, Fitted], pd.DataFrame]
    of_results: bool = False


def _contrasts(fit: Fitted) -> list[Any]:
    last = fit.adata.obs["condition"].astype("category").cat.categories[::-1]
    return [("condition", *last), "sex[T.m]" if fit.variable.startswith("P") else "sex[T.male]"]


def _test(adata: ad.AnnData, fit: Fitted) -> pd.DataFrame:
    dw.tl.test(adata, [dw.pairwise("condition", reference=None), _contrasts(fit)[1]], key=fit.key, progress=False)
    return dw.get.tests(adata, key=fit.key, sort_by=None)


def _larger(adata: ad.AnnData, fit: Fitted) -> pd.DataFrame:
    dw.tl.test(adata, _contrasts(fit)[:1], key=fit.key, min_effect=0.1, key_added="other", progress=False)
    return dw.get.tests(adata, key="other", sort_by=None)


def _joint(adata: ad.AnnData, fit: Fitted) -> pd.DataFrame:
    dw.tl.joint_test(adata, ["condition", "sex"], key=fit.key, progress=False)
    return dw.get.joint_tests(adata, key=fit.key, sort_by=None)


def _variance(adata: ad.AnnData, fit: Fitted) -> pd.DataFrame:
    dw.tl.test_variance(adata, key=fit.key, progress=False)
    return dw.get.variance_tests(adata, key=fit.key, sort_by=None)


def _sets(fit: Fitted) -> dict[str, list[str]]:
    names = list(dict.fromkeys(dw.get.tests(fit.adata, key=fit.key, sort_by=None)["variable"].astype(str)))
    return {"one": names[::2], "other": names[1::2]}


def _sets_file(fit: Fitted) -> Path:
    path = fit.result.with_suffix(".gmt")
    path.write_text("".join("\t".join([name, "", *genes]) + "\n" for name, genes in _sets(fit).items()))
    return path


def _gene_sets(adata: ad.AnnData, fit: Fitted) -> pd.DataFrame:
    dw.tl.gene_sets(adata, _sets(fit), key=fit.key, min_size=2, progress=False)
    return dw.get.gene_sets(adata, key=fit.key, sort_by=None)


def _partition(adata: ad.AnnData, fit: Fitted) -> pd.DataFrame:
    dw.tl.variance_partition(adata, variables=[fit.variable], key=fit.key, n_draws=50, random_state=4, progress=False)
    return dw.get.variance_partition(adata, key=fit.key, variables=[fit.variable])


def _shrink(adata: ad.AnnData, fit: Fitted) -> pd.DataFrame:
    dw.tl.shrink(adata, key=fit.key)
    return dw.get.tests(adata, key=fit.key, sort_by=None)


QUESTIONS = {
    "test": Question(
        "test", lambda fit: ("--contrast", "pairwise(condition)", "--contrast", _contrasts(fit)[1]), _test
    ),
    "larger": Question("test", lambda fit: ("--contrast", ":".join(_contrasts(fit)[0]), "--min-effect", 0.1), _larger),
    "joint-test": Question("joint-test", lambda fit: ("--term", "condition", "--term", "sex"), _joint),
    "test-variance": Question("test-variance", lambda fit: (), _variance),
    "means": Question(
        "means",
        lambda fit: ("--of", "condition", "--by", "sex", "--averaged", "proportional", "--level", 0.9),
        lambda adata, fit: dw.get.means(adata, ["condition"], ["sex"], key=fit.key, weights="proportional", level=0.9),
    ),
    "gene-sets": Question("gene-sets", lambda fit: ("--sets", _sets_file(fit), "--min-size", 2), _gene_sets),
    "variance-partition": Question(
        "variance-partition",
        lambda fit: ("--variables", fit.variable, "--n-draws", 50, "--random-state", 4),
        _partition,
    ),
    "shrink": Question("shrink", lambda fit: (), _shrink, of_results=True),
}


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same table, texts as texts (a csv keeps no categories)."""
    assert list(found.columns) == list(expected.columns) and len(found) == len(expected) > 0
    for column in expected:
        if pd.api.types.is_numeric_dtype(expected[column]):
            np.testing.assert_allclose(found[column], expected[column], rtol=1e-10, atol=1e-10, err_msg=str(column))
        else:
            assert list(found[column].fillna("").astype(str)) == list(
                expected[column].astype(object).fillna("").astype(str)
            )


def ask(fit: Fitted, question: Question, out: Path, *more: object) -> Any:
    given = (fit.result,) if question.of_results else (fit.source, "--results", fit.result)
    return run(question.command, *given, *question.options(fit), "--out", out, *more)


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("family", FITS)
def test_commands_give_what_the_tools_give(
    fitted: Callable[[str], Fitted], family: str, name: str, tmp_path: Path
) -> None:
    """And where a tool says that there is no answer, the command says the same, and leaves nothing."""
    fit, question, out = fitted(family), QUESTIONS[name], tmp_path / "out.csv"
    try:
        expected = question.asked(fit.again(), fit)
    except DonorwiseError as error:
        done = ask(fit, question, out)
        assert done.exit_code == 2 and " ".join(str(error).split())[:60] in " ".join(done.output.split()), done.output
        assert not list(tmp_path.iterdir())
        return
    done = ask(fit, question, out)
    assert done.exit_code == 0, done.output
    same(pd.read_csv(out), expected)
