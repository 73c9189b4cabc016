"""One analysis, two doors: tools in memory and commands give the same tables, params, warnings and messages."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from tests._batch import run
from tests._peptide_data import FORMULA as PEPTIDE_FORMULA
from tests._peptide_data import WEIGHTED, peptides

import donorwise as dw
from donorwise._anndata import keys, read_params, read_results, read_scan
from donorwise._anndata.prepare_units import prepare_pseudobulk
from donorwise._anndata.recover import recover
from donorwise._cli import main
from donorwise._core.engine.lmm import LmmAnalysis
from donorwise._core.engine.pseudobulk import PseudobulkAnalysis
from donorwise._core.engine.run import Memory
from donorwise._core.engine.run import run as run_analysis
from donorwise._core.engine.wanted import Wanted
from donorwise.errors import DataError, DesignError, DonorwiseWarning

BY = ["donor_id", "sample_id", "condition", "sex", "cell_type"]
MIXED, UNITS = "~ condition + sex + (1 | donor_id)", "~ condition + sex"


def cohort() -> ad.AnnData:
    """Cells without a sex, a group with one arm, one with few donors, and one with few genes that have counts."""
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=900, n_genes=110, seed=1)
    donors, types = adata.obs["donor_id"].cat.categories, adata.obs["cell_type"].astype(str).to_numpy(copy=True)
    types[adata.obs_names.isin(adata.obs_names[::4])] = "NK cell"
    one_arm = (types == "B cell") & (adata.obs["condition"] == "disease").to_numpy()
    few = (types == "Monocyte") & adata.obs["donor_id"].isin([donors[0], donors[-1]]).to_numpy()
    adata.obs["cell_type"] = pd.Categorical(types)
    adata = adata[~(one_arm | few)].copy()
    adata.obs.loc[adata.obs_names[:7], "sex"] = np.nan
    counts = adata.layers["counts"].toarray()
    counts[np.ix_(adata.obs["cell_type"] == "NK cell", np.arange(60))] = 0
    adata.layers["counts"] = counts
    rng = np.random.default_rng(0)
    asked = rng.integers(1, 5, adata.n_obs)
    yes = rng.binomial(asked, 0.4)
    adata.obs = adata.obs.assign(asked=asked, yes=yes, no=asked - yes, shift=rng.normal(0, 0.1, adata.n_obs))
    return adata


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """What is said from the level of warnings on, through the log or through warnings, in order."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda r: said.append(r.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("donorwise")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            before = warnings.showwarning
            warnings.showwarning = lambda message, category, *more, **named: (
                said.append(str(message)) if issubclass(category, DonorwiseWarning) else None
            )
            yield said
            warnings.showwarning = before
    finally:
        logger.removeHandler(handler)


def _memory(adata: ad.AnnData, tool: str, formula: str, options: dict[str, Any]) -> tuple[ad.AnnData, list[str]]:
    with listening() as said:
        getattr(dw.tl, tool)(adata, formula, key_added="found", progress=False, **options)
    return adata, said


def _kernels(path: Path, given: dict[str, pd.DataFrame]) -> list[str]:
    """The option for each kernel, which is put into a file."""
    arguments = []
    for name, K in given.items():
        K.to_csv(path.with_name(f"{name}.csv"))
        arguments += ["--kernel", f"{name}={path.with_name(f'{name}.csv')}"]
    return arguments


def _command(path: Path, tool: str, formula: str, options: dict[str, Any]) -> tuple[ad.AnnData, list[str]]:
    out = path.with_name(f"{tool}.h5ad")
    options = dict(options)
    arguments = _kernels(path, options.pop("kernels", {})) + [
        text
        for name, given in options.items()
        for value in ([",".join(given)] if name == "obs_keys" else given if isinstance(given, list) else [given])
        for text in (["--ml"] if name == "reml" else [f"--{name.replace('_', '-')}", "X" if value is None else value])
    ]
    with listening() as said:
        result = run(tool, path, "--formula", formula, "--out", out, *arguments)
    assert result.exit_code in (0, 3), result.output
    return ad.read_h5ad(out), [text for text in said if "groups could not be fitted" not in text]


def related(size: int) -> pd.DataFrame:
    """Relatedness of the donors of the cohort, in families of this size, and of one who is not there."""
    donors = [*cohort().obs["donor_id"].cat.categories, "stranger"]
    family = np.arange(len(donors)) // size
    K = np.where(family[:, None] == family, 0.5, 0.0) + np.diag(np.linspace(0.5, 0.6, len(donors)))
    return pd.DataFrame(K, donors, donors)


KERNEL = "~ condition + (1 | gr(donor_id, cov=grm))"

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lmm": ("lmm", MIXED, {"groupby": "cell_type"}),
    "lmm of groups of two columns": ("lmm", "~ condition + (1 | donor_id)", {"groupby": ["cell_type", "sex"]}),
    "pseudobulk of groups of two columns": ("pseudobulk", "~ condition", {"groupby": ["sex", "cell_type"]}),
    "lmm of everything": ("lmm", MIXED, {"ddf": "kenward-roger", "reml": False}),
    "lmm of raw counts": ("lmm", "~ condition + (1 | donor_id)", {"layer": "counts", "mask_var": "some"}),
    "lmm of relatives": ("lmm", KERNEL, {"groupby": "cell_type", "kernels": {"grm": related(2)}}),
    "lmm of relatives and donors": ("lmm", f"{KERNEL} + (1 | donor_id)", {"kernels": {"grm": related(3)}}),
    "lmm of two kernels": (
        "lmm",
        f"{KERNEL} + (1 | gr(donor_id, cov=mrm))",
        {"kernels": {"grm": related(3), "mrm": related(2)}, "ddf": "kenward-roger", "mask_var": "some"},
    ),
    "pseudobulk": ("pseudobulk", UNITS, {"groupby": "cell_type"}),
    "pseudobulk of few genes": ("pseudobulk", UNITS, {"mask_var": "some", "depth": "total_counts"}),
    "pseudobulk with repeated units": ("pseudobulk", "~ condition + cell_type", {}),
    "pseudobulk by medians of ratios": ("pseudobulk", UNITS, {"normalize": "median_ratio", "groupby": "cell_type"}),
    "pseudobulk of depths": ("pseudobulk", UNITS, {"normalize": "depth", "mask_var": "some"}),
    "glmm": ("glmm", MIXED, {"layer": "counts", "groupby": "cell_type"}),
    "glmm at the estimates": (
        "glmm",
        MIXED,
        {"layer": "counts", "family": "poisson", "ddf": "wald", "mask_var": "some"},
    ),
    "glmm of detection": (
        "glmm",
        "~ condition + (1 | donor_id)",
        {
            "layer": "counts",
            "family": "binomial",
            "link": "cloglog",
            "response": "detected",
            "groupby": ["cell_type", "sex"],
        },
    ),
    "glmm of exposures": (
        "glmm",
        "~ condition + log_depth + (1 | donor_id)",
        {"layer": "counts", "exposure": "total_counts", "offset": "shift", "ddf": "between-within", "mask_var": "some"},
    ),
    "glmm of trials": (
        "glmm",
        "~ condition + (1 | donor_id)",
        {"obs_keys": ["yes", "no"], "family": "binomial", "trials": "asked", "groupby": "cell_type"},
    ),
}


OF_CELLS = ("glmm of exposures", "glmm of trials")


@pytest.mark.parametrize(
    ("case", "source"),
    [(case, source) for case in CASES for source in ("cells", "rows") if source == "cells" or case not in OF_CELLS],
)
def test_both_doors_give_the_same(case: str, source: str, tmp_path: Path) -> None:
    tool, formula, options = CASES[case]
    adata = cohort()
    adata.var["some"] = np.arange(adata.n_vars) < 9
    if source == "rows":
        layer = options.get("layer") if tool == "lmm" else None
        more = {"depth": options.get("depth"), "glmm": ("nb", "cloglog") if tool == "glmm" else ()}
        options = {name: value for name, value in options.items() if name != "layer"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DonorwiseWarning)
            adata = dw.pp.collapse(adata, BY, layer=layer, counts_layer="counts", progress=False, **more)
    _compare(adata, tmp_path / "source.h5ad", tool, formula, options)


PEPTIDES: dict[str, dict[str, Any]] = {
    "moderated": {"groupby": "instrument", "weights": "quality"},
    "of some peptides": {"ddf": "kenward-roger", "reml": False, "mask_var": "some", "log_base": "e"},
    "outliers": {"robust": "huber", "groupby": ["instrument"]},
}


@pytest.mark.parametrize("case", PEPTIDES)
def test_both_doors_give_the_same_of_peptides(case: str, tmp_path: Path) -> None:
    """And the accessor."""
    adata, options = peptides(110 if case == "moderated" else 12), {**WEIGHTED, **PEPTIDES[case]}
    adata.X[0, 2] = 0  # of which all say something
    _compare(adata, tmp_path / "source.h5ad", "lmm", PEPTIDE_FORMULA, options)
    adata.donorwise.lmm(PEPTIDE_FORMULA, key_added="accessor", progress=False, **options)
    for name in keys.TABLES:
        one, other = (getattr(read_results(adata, key), name) for key in ("found", "accessor"))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert read_params(adata, "found") == read_params(adata, "accessor")


def _compare(adata: ad.AnnData, path: Path, tool: str, formula: str, options: dict[str, Any]) -> None:
    """The command on a file and the tool in memory."""
    adata.write_h5ad(path)
    memory, said = _memory(adata, tool, formula, options)
    file, said_by_command = _command(path, tool, formula, options)
    assert said_by_command == said and (tool != "lmm" or "features" not in options or said)
    params, expected = read_params(file, tool), read_params(memory, "found")
    np.testing.assert_equal(params.pop("log_base"), expected.pop("log_base"))  # may be NaN
    assert params == expected
    one, other = read_results(memory, "found"), read_results(file, tool)
    for name in (*keys.TABLES, keys.PRIOR, keys.SIZE_FACTORS, keys.HERITABILITY, keys.KERNELS):
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None), name
        if left is not None:
            pd.testing.assert_frame_equal(right, left, check_exact=True, obj=name)


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_the_accessor_takes_kernels() -> None:
    """As do collapsed rows; all of them give the tables of the tool."""
    adata, K = cohort(), related(2)
    formula = f"{KERNEL} + (1 | donor_id)"
    dw.tl.lmm(adata, formula, kernels={"grm": K}, progress=False)
    adata.donorwise.lmm(formula, kernels={"grm": K}, key_added="accessor", progress=False)
    adata.donorwise.lmm("~ condition + (1 | donor_id)", relmat={"donor_id": K}, key_added="short", progress=False)
    rows = dw.pp.collapse(adata, BY, progress=False)
    rows.donorwise.lmm(formula, kernels={"grm": K}, progress=False)
    right, kernels = read_results(adata, "lmm"), read_results(adata, "short").kernels
    pd.testing.assert_frame_equal(read_results(adata, "accessor").results, right.results, check_exact=True)
    pd.testing.assert_frame_equal(read_results(rows, "lmm").results, right.results, rtol=1e-6)
    assert kernels is not None and set(kernels["kernel"]) == {"donor_id"}


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize(
    ("tool", "formula", "analysis"),
    [("lmm", MIXED, LmmAnalysis), ("pseudobulk", UNITS, PseudobulkAnalysis)],
)
def test_one_bad_group_does_not_end_the_run(
    tool: str, formula: str, analysis: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adata = cohort()
    fit, broken = analysis.fit, {"T cell"}

    def fail(self: Any, number: int, *more: Any) -> Any:
        if self.tasks[number].name in broken:
            raise np.linalg.LinAlgError("Singular matrix")
        return fit(self, number, *more)

    monkeypatch.setattr(analysis, "fit", fail)
    run_tool = getattr(dw.tl, tool)
    run_tool(adata, formula, groupby="cell_type", key_added="found", progress=False)
    assert "T cell: not fitted. Singular matrix" in caplog.text
    table = dw.get.tests(adata, key="found", sort_by=None)
    assert (table.loc[table["group"] == "T cell", "status"] == "not_estimable").all()
    assert (table.loc[table["group"] == "NK cell", "p_value"]).notna().any()
    params = read_params(adata, "found")
    assert params["reasons"]["T cell"] == "Singular matrix" and "T cell" not in params["ddf_used"]
    broken |= {"NK cell", "Monocyte"}
    del adata.uns["found"]
    with pytest.raises(DataError, match="No group could be fitted"):
        run_tool(adata, formula, groupby="cell_type", key_added="found", progress=False)
    assert "found" not in adata.uns


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_groups_of_pseudobulk_share_passes_as_memory_allows() -> None:
    tables = []
    for max_memory in (None, 1e-9):
        adata = cohort()
        dw.tl.pseudobulk(adata, UNITS, groupby="cell_type", max_memory=max_memory, progress=False)
        tables.append(dw.get.tests(adata, key="pseudobulk"))
    pd.testing.assert_frame_equal(tables[1], tables[0], check_exact=True)


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_entries_say_their_format(tmp_path: Path) -> None:
    """A result of a later version is refused; one without a version is of the first."""
    adata = cohort()
    adata.donorwise.setup(donor="donor_id")
    dw.tl.lmm(adata, MIXED, groupby="cell_type", ddf="residual", progress=False)
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad")
    for entry in (adata.uns[keys.SETTINGS], adata.uns[keys.LMM]):
        assert int(entry[keys.FORMAT]) == keys.FORMAT_VERSION
    table = dw.get.tests(adata)
    del adata.uns[keys.LMM][keys.FORMAT]
    pd.testing.assert_frame_equal(dw.get.tests(adata), table)
    adata.uns[keys.LMM][keys.FORMAT] = keys.FORMAT_VERSION + 1
    with pytest.raises(DataError, match="written by a newer donorwise"):
        dw.get.tests(adata)


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_a_contrast_that_a_group_lacks_is_no_failure_of_the_others() -> None:
    adata = cohort()
    with pytest.raises(DesignError):
        dw.tl.pseudobulk(adata, UNITS, contrasts="nothing", progress=False)
    dw.tl.pseudobulk(adata, UNITS, groupby="cell_type", contrasts=["condition[T.disease]"], progress=False)
    assert set(read_params(adata, "pseudobulk")["reasons"]) == {"B cell"}


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize("source", ["cells", "rows"])
@pytest.mark.parametrize(
    ("formula", "options"),
    [(UNITS, {}), ("~ condition + cell_type + (1 | donor_id)", {}), (UNITS, {"sample": "sample_id", "depth": "depth"})],
)
def test_an_analysis_is_made_again_from_its_params(source: str, formula: str, options: dict[str, Any]) -> None:
    adata = cohort()
    adata.obs["depth"] = adata.layers["counts"].sum(axis=1)
    if source == "rows":
        adata = dw.pp.collapse(adata, BY, counts_layer="counts", depth=options.get("depth"), progress=False)
    dw.tl.pseudobulk(adata, formula, progress=False, **options)
    again = run_analysis(recover(adata, "pseudobulk").analysis, Memory())
    assert again.params == read_params(adata, "pseudobulk")
    stored = read_results(adata, "pseudobulk").results
    pd.testing.assert_frame_equal(again.tables["results"], stored, check_exact=True)
    with pytest.raises(DataError, match=r"Run dw.tl.pseudobulk again"):
        recover(adata[5:], "pseudobulk")


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize("method", ["depth", "tmm"])
def test_log_depth_of_the_command_is_that_of_the_tool(method: str, tmp_path: Path) -> None:
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=600, n_genes=120, seed=1)
    del adata.obs["log_depth"]
    path, out, rows = tmp_path / "cells.h5ad", tmp_path / "lmm.h5ad", tmp_path / "rows.h5ad"
    adata.write_h5ad(path)
    more = ["--log-depth", "--depth-normalize", method]
    assert run("lmm", path, "--formula", MIXED, "--out", out, *more).exit_code == 0
    result = run("collapse", path, "--by", ",".join(BY), "--out", rows, *more, "--block-size", 250)
    assert result.exit_code == 0, result.output
    dw.pp.log_depth(adata, normalize=method)
    formula = f"{MIXED} + log_depth"
    for source in (adata, ad.read_h5ad(rows)):
        dw.tl.lmm(source, formula, progress=False)
        one, other = read_results(source, "lmm"), read_results(ad.read_h5ad(out), keys.LMM)
        assert other.params["formula"] == formula
        pd.testing.assert_frame_equal(one.results, other.results, rtol=1e-6)


def test_log_depth_of_several_files_is_centred_over_all(tmp_path: Path) -> None:
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=600, n_genes=120, seed=1)
    half = adata.obs["donor_id"].isin(adata.obs["donor_id"].cat.categories[:3]).to_numpy()
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path, own in zip(paths, (half, ~half), strict=True):
        adata[own].write_h5ad(path)
    out, more = tmp_path / "rows.h5ad", ["--by", ",".join(BY), "--log-depth"]
    assert run("collapse", *paths, "--out", out, *more).exit_code == 0
    dw.pp.log_depth(adata)
    expected = dw.pp.collapse(adata, BY, covariates="log_depth", progress=False)
    found = ad.read_h5ad(out)[expected.obs_names]
    np.testing.assert_allclose(found.obsm["covariate_mean"], expected.obsm["covariate_mean"], atol=1e-10)
    refused = CliRunner().invoke(
        main, ["collapse", *map(str, paths), "--out", str(tmp_path / "c.h5ad"), *more, "--depth-normalize", "tmm"]
    )
    assert refused.exit_code == 2 and "have to be in one file" in refused.output
    refused = CliRunner().invoke(
        main, ["lmm", str(out), "--formula", MIXED, "--log-depth", "--out", str(tmp_path / "d.h5ad")]
    )
    assert refused.exit_code == 2 and "call this before dw.pp.collapse" in refused.output


def test_statistics_of_some_donors_are_those_of_their_cells() -> None:
    adata = cohort()
    left_out = adata.obs["donor_id"].cat.categories[1]
    some = adata[adata.obs["donor_id"] != left_out].copy()
    formula = "~ condition + age"
    (whole,) = prepare_pseudobulk(adata, formula, normalize="depth").statistics()
    (part,) = prepare_pseudobulk(some, formula, normalize="depth").statistics()
    assert whole is not None and part is not None
    kept = np.flatnonzero(prepare_pseudobulk(adata, formula).units.table["donor_id"] != left_out)
    taken = whole.take_patterns(np.sort(whole.design.codes[kept])).take_features(np.arange(3, 7))
    np.testing.assert_allclose(taken.collapsed.mean, part.collapsed.mean[:, 3:7], rtol=1e-12)
    np.testing.assert_allclose(taken.depths.total, part.depths.total, rtol=1e-12)
    np.testing.assert_allclose(
        taken.design.X[taken.design.codes[taken.units]], part.design.X[part.design.codes[part.units]]
    )


SCANS: dict[str, tuple[str, dict[str, Any]]] = {
    "scan in cis": ("~ sex + (1 | donor_id)", {"groupby": "cell_type"}),
    "scan of relatives": (
        "~ sex + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)",
        {"mode": "trans", "p_max": 0.3, "refit": "all", "gene_test": "bonferroni", "mask_var": "some"},
    ),
    "scan of an interaction": (
        "~ condition + sex + (1 | donor_id)",
        {"interaction": "condition", "groupby": "cell_type", "window": 400_000, "maf": 0.1},
    ),
    "scan without the chromosome": ("~ sex + (1 | gr(donor_id, cov=grm))", {"loco": True, "refit": "none"}),
}


@pytest.fixture(scope="module")
def study() -> tuple[ad.AnnData, ad.AnnData]:
    cells, genotypes = dw.datasets.simulate_eqtls(
        n_donors=20, n_cells=1_000, n_genes=10, n_variants=120, n_chromosomes=2, condition=True, families="nuclear",
        cell_types=["T cell", "B cell"], missing=0.02, seed=4,
    )  # fmt: skip
    cells.var["some"] = np.arange(cells.n_vars) < 6
    return cells, genotypes


def _same_scan(found: Any, expected: Any, **how: Any) -> None:
    assert {**found.params, "out": ""} == {**expected.params, "out": ""}
    for name in ("results", "counts"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name), check_categorical=False, **how)
    order = ["gene", "group", "variant"]
    tables = [own.table(Wanted()) for own in (found, expected)]
    one, other = (t.sort_values(order, key=lambda names: names.astype(str), ignore_index=True) for t in tables)
    pd.testing.assert_frame_equal(one, other, check_categorical=False, **how)


@pytest.mark.parametrize("source", ["cells", "rows"])
@pytest.mark.parametrize("case", SCANS)
def test_every_door_gives_the_same_scan(
    study: tuple[ad.AnnData, ad.AnnData], case: str, source: str, tmp_path: Path
) -> None:
    """The tool in memory, the accessor, and the command to a folder; rows give the numbers of cells."""
    cells, genotypes = study
    formula, options = SCANS[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        rows = dw.pp.collapse(cells, BY, progress=False)
    adata = rows if source == "rows" else cells.copy()
    adata.write_h5ad(tmp_path / "source.h5ad")
    genotypes.write_h5ad(tmp_path / "genotypes.h5ad")
    K = dw.pp.relatedness(genotypes, progress=False)
    kernels = {"grm": K} if "cov=grm" in formula and not options.get("loco") else None
    told = {}
    for door, scan in (("tool", partial(dw.tl.scan, adata)), ("accessor", adata.donorwise.scan)):
        with listening() as told[door]:
            scan(genotypes, formula, kernels=kernels, key_added=door, progress=False, **options)
    arguments = _kernels(tmp_path / "source.h5ad", kernels or {}) + [
        text
        for name, given in options.items()
        for text in ([f"--{name.replace('_', '-')}"] + ([] if given is True else [str(given)]))
    ]
    with listening() as told["command"]:
        result = run(
            "scan", tmp_path / "source.h5ad", "--genotypes", tmp_path / "genotypes.h5ad", "--formula", formula,
            "--out", tmp_path / "scan", *arguments,
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert told["accessor"] == told["command"] == told["tool"]
    assert any("Depth differs" in text for text in told["tool"])
    tool = read_scan(adata, "tool")
    _same_scan(read_scan(adata, "accessor"), tool, check_exact=True)
    _same_scan(read_scan(tmp_path / "scan"), tool, rtol=1e-10)
    if source == "rows":
        memory = cells.copy()
        with listening():
            dw.tl.scan(memory, genotypes, formula, kernels=kernels, progress=False, **options)
        _same_scan(tool, read_scan(memory, "scan"), rtol=1e-6, atol=1e-9)
