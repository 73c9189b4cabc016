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
import yaml
from tests._batch import run
from tests._peptide_data import peptides

import donorwise as dw
from donorwise._anndata import list_results, read_params
from donorwise._batch.files import read_source
from donorwise.errors import DonorwiseError

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning", "ignore:Writing zarr v2")

FORMULA = "~ condition + sex + (1 | donor_id)"
DISEASE = "condition[T.disease]"


def cohort() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_donors=10, n_cells=500, n_genes=24, seed=3)
    adata.obs["age"] = 30.0 + adata.obs["donor_id"].cat.codes
    return adata


def relatedness(adata: ad.AnnData) -> pd.DataFrame:
    donors = adata.obs["donor_id"].cat.categories
    family = np.arange(len(donors)) // 2
    return pd.DataFrame(
        np.where(family[:, None] == family, 0.5, 0.0) + 0.5 * np.eye(len(donors)), index=donors, columns=donors
    )


def proteins() -> ad.AnnData:
    adata = peptides(n_proteins=24)
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
    dw.tl.variance_partition(adata, variables=[fit.variable], key=fit.key, n_draws=100, random_state=4, progress=False)
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
        lambda fit: ("--variables", fit.variable, "--n-draws", 100, "--random-state", 4),
        _partition,
    ),
    "shrink": Question("shrink", lambda fit: (), _shrink, of_results=True),
}


NO_ANSWER = {("composition", "shrink")}  # three cell types are too few to learn from


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same table, texts as texts (a csv keeps no categories)."""
    assert list(found.columns) == list(expected.columns) and len(found) == len(expected) > 0
    for column in expected:
        if pd.api.types.is_numeric_dtype(expected[column]):
            np.testing.assert_allclose(found[column], expected[column], rtol=1e-10, atol=1e-10, err_msg=str(column))
        else:
            texts = [table[column].astype(object).fillna("").astype(str) for table in (found, expected)]
            assert list(texts[0]) == list(texts[1]), column


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
        assert (family, name) in NO_ANSWER
        done = ask(fit, question, out)
        assert done.exit_code == 2 and " ".join(str(error).split())[:60] in " ".join(done.output.split()), done.output
        assert not list(tmp_path.iterdir())
        return
    done = ask(fit, question, out)
    assert done.exit_code == 0, done.output
    same(pd.read_csv(out), expected)


# files in and out


@pytest.fixture(scope="module")
def lmm(fitted: Callable[[str], Fitted]) -> Fitted:
    return fitted("lmm")


def made(out: Path, command: str, *given: object) -> Path:
    done = run(command, *given, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def test_results_go_from_command_to_command(lmm: Fitted, tmp_path: Path) -> None:
    """Each .h5ad holds all of before and what was asked, and no other result; the next command needs no --key."""
    contrast, expected = "pairwise(sex)", lmm.again()
    dw.tl.test(expected, dw.pairwise("sex"), progress=False)
    dw.tl.shrink(expected)
    dw.tl.joint_test(expected, ["condition", "sex"], progress=False)
    dw.tl.gene_sets(expected, _sets(lmm), min_size=2, progress=False)
    source, results = lmm.source, "--results"
    one = made(tmp_path / "1.h5ad", "test", source, results, lmm.result, "--contrast", contrast)
    two = made(tmp_path / "2.h5ad", "shrink", one)
    three = made(tmp_path / "3.h5ad", "joint-test", source, results, two, "--term", "condition", "--term", "sex")
    four = made(tmp_path / "4.h5ad", "gene-sets", source, results, three, "--sets", _sets_file(lmm), "--min-size", 2)
    found = ad.read_h5ad(four)
    assert list_results(found) == ["lmm"] and list(found.var_names) == list(expected.var_names)
    for read in (dw.get.tests, dw.get.joint_tests, dw.get.gene_sets, dw.get.varcomp):
        same(read(found), read(expected))
    assert {"shrunk", "lfsr"} <= set(dw.get.tests(found))
    for path in (one, two, three, four):
        report = run("report", path)
        assert report.exit_code == 0 and "sex: male vs female" in report.output, report.output


def test_other_tests_are_a_result_of_their_own(lmm: Fitted, tmp_path: Path) -> None:
    """Which can be asked in turn."""
    given = (lmm.source, "--results")
    wald = made(tmp_path / "a.h5ad", "test", *given, lmm.result, "--ddf", "kenward-roger")
    again = made(tmp_path / "b.h5ad", "test", *given, wald, "--ddf", "residual")
    assert list_results(ad.read_h5ad(wald)) == ["lmm_test"] and len(list_results(ad.read_h5ad(again))) == 1
    expected = lmm.again()
    dw.tl.test(expected, None, ddf="residual", key_added="other", progress=False)
    same(
        pd.read_csv(made(tmp_path / "c.csv", "test", *given, wald, "--ddf", "residual")),
        dw.get.tests(expected, key="other", sort_by=None),
    )
    report = run("report", again)
    assert report.exit_code == 0 and "- ddf: `residual`" in report.output


def test_reports_of_tables(lmm: Fitted, tmp_path: Path) -> None:
    """Of tests; other tables are named as what they are not."""
    suffix = ".parquet"
    tests = made(tmp_path / f"a{suffix}", "test", lmm.source, "--results", lmm.result, "--contrast", "pairwise(sex)")
    report = run("report", tests, "--plots", tmp_path / "plots")
    assert report.exit_code == 0 and "sex: male vs female" in report.output
    means = made(tmp_path / f"b{suffix}", "means", lmm.source, "--results", lmm.result, "--of", "sex")
    refused = run("report", means)
    assert refused.exit_code == 2 and "is no table of results: it lacks the columns" in refused.output


def test_a_source_that_holds_results(lmm: Fitted, tmp_path: Path) -> None:
    """No --results is needed; of several --key says which, and no other comes along."""
    adata = lmm.again()
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", key_added="lmm_simple", progress=False)
    adata.write_zarr(tmp_path / "cells.zarr")
    refused = run("joint-test", tmp_path / "cells.zarr", "--out", tmp_path / "a.csv")
    assert refused.exit_code == 2 and "`lmm`, `lmm_simple`; choose one with --key" in refused.output
    given = (tmp_path / "cells.zarr", "--key", "lmm", "--term", "sex")
    out = made(tmp_path / "a.h5ad", "joint-test", *given)
    assert list_results(ad.read_h5ad(out)) == ["lmm"]
    dw.tl.joint_test(adata, "sex", progress=False)
    same(dw.get.joint_tests(ad.read_h5ad(out)), dw.get.joint_tests(adata))


def test_results_of_a_file_take_the_place_of_those_of_the_source(lmm: Fitted, tmp_path: Path) -> None:
    """With all that was worked out of them."""
    adata = lmm.again()
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    dw.tl.gene_sets(adata, _sets(lmm), min_size=2, progress=False)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out = made(
        tmp_path / "a.h5ad", "test", tmp_path / "cells.h5ad", "--results", lmm.result, "--contrast", "pairwise(sex)"
    )
    assert list(ad.read_h5ad(out).uns) == ["lmm"]
    assert read_params(ad.read_h5ad(out), "lmm")["formula"] == FORMULA


CONFIGURED = {
    "test": ("--contrast", "pairwise(condition | sex)", "--contrast", DISEASE),
    "joint-test": ("--term", "condition", "--term", "sex"),
    "means": ("--of", "condition,sex", "--variables", "gene_0001,gene_0002"),
    "variance-partition": ("--variables", "gene_0001,gene_0002", "--n-draws", 100),
    "residuals": ("--remove", "donor_id,(1 | donor_id)", "--variables", "gene_0001,gene_0002"),
    "gene-sets": ("--min-size", 2, "--contrast", DISEASE),
}


@pytest.mark.parametrize("command", CONFIGURED)
def test_a_record_is_a_file_of_options(lmm: Fitted, command: str, tmp_path: Path) -> None:
    suffix = ".h5ad" if command == "residuals" else ".csv"
    given: tuple[object, ...] = CONFIGURED[command]
    given = (*given, "--sets", _sets_file(lmm)) if command == "gene-sets" else given
    one, two = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    made(one, command, lmm.source, "--results", lmm.result, *given)
    record = tmp_path / f"a{suffix}.run.yaml"
    made(two, command, "--config", record)
    if suffix == ".csv":
        assert one.read_text() == two.read_text()
    else:
        layers = [ad.read_h5ad(path).layers["residuals"] for path in (one, two)]
        np.testing.assert_array_equal(*layers)
    first, second = (yaml.safe_load(path.read_text()) for path in (record, tmp_path / f"b{suffix}.run.yaml"))
    assert first["command"] == command and first["result"]["rows"] > 0
    assert first["options"] | {"out": ""} == second["options"] | {"out": ""}


def test_values_of_variables_of_means(tmp_path: Path) -> None:
    """Numbers, and levels that look like numbers; from the command line and from its record."""
    adata = cohort()
    adata.obs["cluster"] = pd.Categorical(np.where(adata.obs["cell_type"] == "T cell", "1", "2"))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    formula = "~ condition * age + cluster + (1 | donor_id)"
    fit = made(tmp_path / "fit.h5ad", "lmm", tmp_path / "cells.h5ad", "--formula", formula)
    given = ("--results", fit, "--of", "condition", "--at", "age=32, 36", "--at", "cluster=1")
    out = made(tmp_path / "a.csv", "means", tmp_path / "cells.h5ad", *given)
    dw.tl.lmm(adata, formula, progress=False)
    expected = dw.get.means(adata, "condition", at={"age": [32, 36], "cluster": "1"})
    numbers = expected.select_dtypes("number").columns
    pd.testing.assert_frame_equal(pd.read_csv(out)[numbers], expected[numbers], rtol=1e-10, check_dtype=False)
    again = made(tmp_path / "b.csv", "means", "--config", tmp_path / "a.csv.run.yaml")
    assert again.read_text() == out.read_text()


# what is refused


REFUSED: dict[str, tuple[Callable[[Fitted, Path], tuple[object, ...]], str]] = {
    "no results": (lambda fit, folder: (fit.source, "--out", folder / "a.csv"), "holds no results of donorwise: name with --results"),
    "a table": (
        lambda fit, folder: (fit.source, "--results", "tests.csv", "--out", folder / "a.csv"),
        "tests.csv: tables of tests do not say what was fitted; give the .h5ad",
    ),
    "results that are not there": (
        lambda fit, folder: (fit.source, "--results", folder / "fit.h5ad", "--out", folder / "a.csv"), "There is no file"),
    "results without any": (
        lambda fit, folder: (fit.source, "--results", fit.source, "--out", folder / "a.csv"), "holds no results of donorwise"),
    "key": (
        lambda fit, folder: (fit.source, "--results", fit.result, "--key", "glmm", "--out", folder / "a.csv"),
        "has no result 'glmm'; it holds `lmm`",
    ),
    "out": (lambda fit, folder: (fit.source, "--results", fit.result, "--out", fit.result), "is an input, which would be lost"),
    "source": (lambda fit, folder: (fit.source, "--results", fit.result, "--out", fit.source), "is an input, which would be lost"),
    "ending": (lambda fit, folder: (fit.source, "--results", fit.result, "--out", folder / "a.txt"), "the name must end in"),
    "no folder": (
        lambda fit, folder: (fit.source, "--results", fit.result, "--out", folder / "no" / "a.csv"), "does not exist; make it first"),
    "term": (
        lambda fit, folder: (fit.source, "--results", fit.result, "--term", "batch", "--out", folder / "a.csv"), "batch"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(lmm: Fitted, what: str, tmp_path: Path) -> None:
    options, text = REFUSED[what]
    before = lmm.result.read_bytes()
    done = run("joint-test", *options(lmm, tmp_path))
    assert done.exit_code == (1 if what == "no folder" else 2), done.output
    assert text in done.output and "Traceback" not in done.output, done.output
    assert not list(tmp_path.iterdir()) and lmm.result.read_bytes() == before


OTHERS = {
    "contrast": ("test", ("--contrast", "condition[T.severe]"), "severe"),
    "nothing asked": ("test", (), "Nothing is asked: give --contrast, --ddf or a minimal effect."),
    "variable": ("means", ("--of", "batch"), "batch"),
    "feature": ("means", ("--of", "sex", "--variables", "gene_9"), "gene_9"),
    "level": ("means", ("--of", "sex", "--at", "condition=severe"), "severe"),
    "value": ("means", ("--of", "sex", "--at", "condition"), "give NAME=VALUE"),
    "ending": ("means", ("--of", "sex"), "the name must end in .parquet or .csv"),
    "term": ("residuals", ("--remove", "batch"), "batch"),
    "random term": ("test-variance", ("--term", "batch"), "batch"),
    "ddf": ("test", ("--ddf", "wald"), "wald"),
    "group": ("gene-sets", ("--group", "NK cell", "--sets"), "NK cell"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_unknown_is_refused(lmm: Fitted, what: str, tmp_path: Path) -> None:
    command, options, text = OTHERS[what]
    given = (*options, _sets_file(lmm)) if command == "gene-sets" else options
    out = tmp_path / ("out.h5ad" if command == "residuals" or what == "ending" else "out.csv")
    done = run(command, lmm.source, "--results", lmm.result, *given, "--out", out)
    assert done.exit_code == 2 and text in done.output and "Traceback" not in done.output, done.output
    assert not list(tmp_path.iterdir())


def test_other_cells_are_refused(lmm: Fitted, tmp_path: Path) -> None:
    ad.read_h5ad(lmm.source)[:-1].copy().write_h5ad(tmp_path / "fewer.h5ad")
    changed = ad.read_h5ad(lmm.source)
    changed.obs["donor_id"] = changed.obs["donor_id"].to_numpy()[::-1]
    changed.write_h5ad(tmp_path / "changed.h5ad")
    for name, text in {"fewer": "it has 499 cells and had 500", "changed": "lmm"}.items():
        out = tmp_path / "a.csv"
        done = run("joint-test", tmp_path / f"{name}.h5ad", "--results", lmm.result, "--term", "sex", "--out", out)
        assert done.exit_code == 2 and text in done.output, done.output
        assert not out.exists()


def test_groups_that_could_not_be_fitted(tmp_path: Path) -> None:
    """The status is that of the command that fitted, and the log says it; the answer is of the other groups."""
    adata = cohort()
    adata = adata[~((adata.obs["cell_type"] == "B cell") & (adata.obs["condition"] == "disease"))].copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    fit = tmp_path / "fit.h5ad"
    assert run("lmm", tmp_path / "cells.h5ad", "--formula", FORMULA, *GROUPED, "--out", fit).exit_code == 3
    for command, options in {
        "joint-test": ("--term", "sex"),
        "means": ("--of", "sex"),
        "test": ("--contrast", "sex[T.male]"),
    }.items():
        out = tmp_path / f"{command}.csv"
        done = run(command, tmp_path / "cells.h5ad", "--results", fit, *options, "--out", out)
        assert done.exit_code == 3 and "1 of 3 groups could not be fitted." in done.output, done.output
        assert {"T cell", "Monocyte"} <= set(pd.read_csv(out)["group"])
        assert any("1 of 3 groups" in text for text in yaml.safe_load(Path(f"{out}.run.yaml").read_text())["warnings"])


# residuals


@pytest.mark.parametrize(
    ("family", "remove", "suffix"),
    [
        ("lmm", "donor_id,sex", ".h5ad"),
        ("glmm", None, ".zarr"),
        ("pseudobulk", "sex", ".h5ad"),
        ("peptides", None, ".zarr"),
        ("kernel", "donor_id", ".h5ad"),
    ],
)
def test_residuals_are_those_of_the_tool(
    fitted: Callable[[str], Fitted], family: str, remove: str | None, suffix: str, tmp_path: Path
) -> None:
    fit, out = fitted(family), tmp_path / f"out{suffix}"
    removed = ("--remove", remove) if remove else ()
    made(out, "residuals", fit.source, "--results", fit.result, *removed, "--fitted")
    found = ad.read_h5ad(out) if suffix == ".h5ad" else ad.read_zarr(out)
    expected = fit.again()
    terms = remove.split(",") if remove else None
    dw.tl.residuals(expected, fit.key, remove=terms, fitted="fitted", progress=False)
    at = expected.var_names.get_indexer(found.var_names)
    for name in ("residuals", "fitted"):
        np.testing.assert_array_equal(found.layers[name], expected.layers[name][:, at])
        assert found.layers[name].dtype == np.float32
        others = np.delete(expected.layers[name], at, axis=1)
        assert np.isnan(others).all()
    pd.testing.assert_frame_equal(found.obs, expected.obs[found.obs.columns], check_categorical=False)
    assert list(found.obs_names) == list(expected.obs_names)
    assert found.uns[f"{fit.key}_residuals"]["table"]["remove"].iloc[0] == (", ".join(terms) if terms else "everything")
    assert yaml.safe_load(Path(f"{out}.run.yaml").read_text())["result"]["rows"] == expected.n_obs
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, f"{out.name}.run.yaml"]


@pytest.mark.parametrize(
    ("container", "suffix"), [("csr", ".zarr"), ("csc", ".h5ad"), ("dense", ".zarr"), ("zarr", ".h5ad")]
)
def test_residuals_of_every_container(
    lmm: Fitted, container: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks that are small, with cells that were not fitted, and a few features in another order."""
    import scipy.sparse as sp

    from donorwise._anndata import block_files
    from donorwise._core.cells import blocks

    adata = cohort()
    adata.obs.loc[adata.obs_names[[3, 4, 200]], "condition"] = np.nan
    adata.X = {"csc": sp.csc_matrix, "dense": lambda X: X.toarray()}.get(container, sp.csr_matrix)(adata.X)
    source = tmp_path / ("cells.zarr" if container == "zarr" else "cells.h5ad")
    (adata.write_zarr if container == "zarr" else adata.write_h5ad)(source)
    fit = made(tmp_path / "fit.h5ad", "lmm", source, "--formula", FORMULA)
    monkeypatch.setattr(blocks.dense_blocks, "__defaults__", (300,))
    monkeypatch.setattr(block_files, "_CHUNK", (16, 4))
    dw.tl.lmm(adata, FORMULA, progress=False)
    dw.tl.residuals(adata, fitted="fitted", progress=False)
    for number, names in enumerate([None, ["gene_0007", "gene_0002", "gene_0012"]]):
        chosen = ("--variables", ",".join(names)) if names else ()
        out = made(
            tmp_path / f"{number}{suffix}", "residuals", source, "--results", fit, *chosen, "--max-memory", "1e-4"
        )
        found = read_source(out)
        assert list(found.var_names) == (sorted(names) if names else list(adata.var_names))
        values = np.asarray(found.layers["residuals"][:])
        np.testing.assert_allclose(values, adata[:, found.var_names].layers["residuals"], rtol=1e-6, atol=1e-6)
        assert np.isnan(values).any(axis=1).nonzero()[0].tolist() == [3, 4, 200]
    assert found.layers["residuals"].chunks is not None


def test_residuals_go_on(lmm: Fitted, tmp_path: Path) -> None:
    """What a file of residuals is for; a folder that is no store is left alone, a store is replaced."""
    given = (lmm.source, "--results", lmm.result)
    out = made(tmp_path / "a.zarr", "residuals", *given)
    assert run("residuals", *given, "--remove", "sex", "--out", out).exit_code == 0
    assert ad.read_zarr(out).uns["lmm_residuals"]["table"]["remove"].iloc[0] == "sex"
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "notes.txt").write_text("mine")
    refused = run("residuals", *given, "--out", tmp_path / "mine.zarr")
    assert refused.exit_code == 1 and "is not a zarr store, so it is not replaced" in refused.output
    assert [path.name for path in (tmp_path / "mine.zarr").iterdir()] == ["notes.txt"]


def test_residuals_that_are_stopped_leave_nothing(lmm: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from donorwise._core.engine.residuals import Removal

    blocks = Removal.blocks

    def fails(self: Removal, **how: Any) -> Any:
        yield next(blocks(self, **how))
        raise KeyboardInterrupt

    monkeypatch.setattr(Removal, "blocks", fails)
    for suffix in (".h5ad", ".zarr"):
        done = run("residuals", lmm.source, "--results", lmm.result, "--out", tmp_path / f"a{suffix}")
        assert done.exit_code == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["rows", "composition"])
def test_residuals_of_no_cells(fitted: Callable[[str], Fitted], family: str, tmp_path: Path) -> None:
    fit = fitted(family)
    done = run("residuals", fit.source, "--results", fit.result, "--out", tmp_path / "a.h5ad")
    assert done.exit_code == 2 and "Error: " in done.output, done.output
    assert not list(tmp_path.iterdir())
