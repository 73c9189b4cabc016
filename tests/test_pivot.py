"""dw.pp.pivot: tables of four programs, in all forms they come in, and what is said of those that cannot be laid out."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from tests import _reports

import donorwise as dw
from donorwise._anndata import resolve_response
from donorwise._cli import main
from donorwise._core.reports.layout import medians
from donorwise.errors import DataError, DonorwiseError, DonorwiseWarning

VALUE, PRECURSOR, PROTEIN = "Precursor.Normalised", "Precursor.Id", "Protein.Group"


def _same(found: ad.AnnData, expected: ad.AnnData) -> None:
    """Text is parsed with an error in the last digit."""
    pd.testing.assert_frame_equal(found.to_df(), expected.to_df(), rtol=1e-14)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    for name in expected.layers:
        if name is not None:
            np.testing.assert_allclose(found.layers[name], expected.layers[name], rtol=1e-14)


def test_is_what_pandas_pivots() -> None:
    report = _reports.diann()
    before = report.copy()
    found = dw.pp.pivot(report)
    pd.testing.assert_frame_equal(report, before)
    for matrix, column in ((found.X, VALUE), (found.layers["quality"], "Quantity.Quality")):
        expected = report.pivot(index="Run", columns=PRECURSOR, values=column)
        expected = np.log2(expected) if column == VALUE else expected
        assert list(found.obs_names) == list(expected.index)
        assert list(found.var_names) == list(expected.columns)
        np.testing.assert_allclose(matrix, expected, rtol=1e-14)
    assert found.X.dtype == np.float64
    assert found.var["Genes"].tolist() == [f"G{i // 3}" for i in range(9)]
    assert found.var["Precursor.Charge"].tolist() == [2] * 9
    assert found.obs["Run"].tolist() == list(found.obs_names)


def test_order_of_rows_does_not_matter() -> None:
    report = _reports.diann()
    _same(dw.pp.pivot(report.sample(frac=1, random_state=1)), dw.pp.pivot(report))


def _csv(path: Path, table: pd.DataFrame, **how: Any) -> Path:
    table.to_csv(path, index=False, **how)
    return path


WRITERS: dict[str, Callable[[Path, pd.DataFrame], Any]] = {
    "tsv": lambda folder, table: _csv(folder / "report.tsv", table, sep="\t"),
    "packed": lambda folder, table: _csv(folder / "report.tsv.gz", table, sep="\t"),
    "xls": lambda folder, table: _csv(folder / "report.xls", table, sep="\t"),
    "byte order mark": lambda folder, table: _csv(folder / "report.txt", table, sep="\t", encoding="utf-8-sig"),
    "csv": lambda folder, table: _csv(folder / "report.csv", table),
    "semicolons": lambda folder, table: str(_csv(folder / "report.csv", table, sep=";")),
    "categories": lambda folder, table: table.astype({"Run": "category", PRECURSOR: "category"}),
    "other index": lambda folder, table: table.set_index(table.index[::-1] * 2),
}


@pytest.mark.parametrize("form", WRITERS)
def test_forms(form: str, tmp_path: Path) -> None:
    report = _reports.diann()
    _same(dw.pp.pivot(WRITERS[form](tmp_path, report)), dw.pp.pivot(report))


def test_parquet_and_arrow(tmp_path: Path) -> None:
    """Of a file no more is read than is needed."""
    pa = pytest.importorskip("pyarrow")
    report = _reports.diann()
    report.assign(odd=[object.__name__] * len(report)).to_parquet(tmp_path / "report.parquet")
    _same(dw.pp.pivot(tmp_path / "report.parquet"), dw.pp.pivot(report))
    _same(dw.pp.pivot(pa.Table.from_pandas(report)), dw.pp.pivot(report))


def test_text_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that numbers would lose keep their zeros, whatever piece they are in."""
    monkeypatch.setattr("donorwise._core.reports.tables._CHUNK", 3)
    report = _reports.diann()
    report["Run"] = report["Run"].map({f"run_{i}": name for i, name in enumerate(["01", "1", "NA", "10"])})
    path = _csv(tmp_path / "report.tsv", report, sep="\t")
    found = dw.pp.pivot(path)
    assert list(found.obs_names) == ["01", "1", "10", "NA"]
    _same(found, dw.pp.pivot(report))


def test_decimal_comma(tmp_path: Path) -> None:
    report = _reports.diann()
    path = _csv(tmp_path / "report.csv", report, sep=";", decimal=",")
    _same(dw.pp.pivot(path, decimal=","), dw.pp.pivot(report))
    with pytest.raises(DataError, match=rf"`Q.Value` holds text .* {len(report)} rows, such as '0,001'. .*decimal=','"):
        dw.pp.pivot(path)
    with pytest.raises(DataError, match=r"'1\.234,5'\. With decimal=',' a number has no point"):
        dw.pp.pivot(report.assign(**{VALUE: "1.234,5"}), decimal=",")


def test_spectronaut() -> None:
    found = dw.pp.pivot(_reports.spectronaut())
    assert found.to_df().to_dict("list") == {"_AAK_.2": [12.0, 13.0]}
    assert found.obs["R.Condition"].tolist() == ["x", "y"]
    assert list(found.var.columns) == ["PG.ProteinGroups", "PG.Genes", "FG.Charge"]


def test_maxquant_evidence() -> None:
    found = dw.pp.pivot(_reports.evidence())
    assert found.to_df().to_dict("list") == {"_AAK__2": [12.0, 11.0]}
    assert found.obs["Experiment"].tolist() == ["x", "y"]
    assert found.var.columns[0] == "Leading razor protein"
    assert found.var["Charge"].tolist() == [2]
    all_of_them = dw.pp.pivot(
        _reports.evidence(), exclude=(), filters={"Reverse": None, "Potential contaminant": None}, obs="Experiment"
    )
    assert all_of_them.shape == (2, 4)
    assert list(all_of_them.obs.columns) == ["Experiment"]


def test_maxquant_peptides() -> None:
    found = dw.pp.pivot(_reports.peptides(), layers={"n": "MS/MS Count"})
    assert list(found.obs_names) == found.obs["Experiment"].tolist() == ["case 1", "control 1"]
    np.testing.assert_array_equal(found.X, [[12, np.nan], [11, 10]])
    np.testing.assert_array_equal(found.layers["n"], [[3, np.nan], [2, 1]])
    lfq = dw.pp.pivot(_reports.peptides(), values="LFQ intensity")
    np.testing.assert_array_equal(lfq.X, [[6, np.nan], [5, 4]])


def test_maxquant_labels() -> None:
    table = _reports.peptides().rename(columns=lambda name: name.replace("Intensity case 1", "Intensity L case"))
    table = table.assign(**{"Intensity L": 0, "Intensity H": 0, "Ratio H/L": 1.0})
    with pytest.raises(DataError, match="labelled intensities .* values='Intensity L'"):
        dw.pp.pivot(table)
    assert list(dw.pp.pivot(table, values="Intensity L").obs_names) == ["case"]


def test_msstats() -> None:
    found = dw.pp.pivot(_reports.msstats())
    assert list(found.obs_names) == ["1", "2"]
    assert list(found.var_names) == ["AAK_2", "CCK_2"]
    np.testing.assert_array_equal(found.X, [[12, np.nan], [11, 10]])
    assert found.obs["BioReplicate"].tolist() == [1, 2]


def test_any_table() -> None:
    table = _reports.diann().set_axis(["sample", "ion", "protein", "gene", "z", "area", "score", "q"], axis=1)
    found = dw.pp.pivot(
        table, obs="sample", var=["ion", "z"], values="area", layers={"s": "score"}, var_columns="protein"
    )
    expected = dw.pp.pivot(_reports.diann())
    np.testing.assert_array_equal(found.X, expected.X)
    assert list(found.var.columns) == ["protein", "ion", "z"]
    with pytest.raises(DataError, match=r"none of diann, .* \(values is missing\)"):
        dw.pp.pivot(table, obs="sample", var="ion")


def test_columns_in_other_capitals() -> None:
    table = _reports.evidence().rename(columns={"Leading razor protein": "Leading Razor Protein"})
    assert dw.pp.pivot(table).var.columns[0] == "Leading Razor Protein"


def test_filters(caplog: pytest.LogCaptureFixture) -> None:
    report = _reports.diann().assign(Decoy=0, label="L")
    n = len(report)
    report.loc[0, "Q.Value"], report.loc[1, "Decoy"], report.loc[2, "label"] = 0.02, 1, "H"
    report.loc[3, "Q.Value"], report.loc[4, VALUE] = np.nan, 0.0
    with caplog.at_level(logging.INFO, "donorwise"):
        found = dw.pp.pivot(report, filters={"label": "L"})
    assert np.isfinite(found.X).sum() == n - 5
    assert (
        f"5 of {n} rows of The table are left out: 2 by Q.Value (up to 0.01), 1 by Decoy (False), 1 by label (L), "
        f"1 with no value in {VALUE}."
    ) in caplog.text
    both = {"Quantity.Quality": (0.5, 0.9), "Q.Value": None, "Decoy": None}
    kept = report["Quantity.Quality"].between(0.5, 0.9) & (report[VALUE] > 0)
    assert np.isfinite(dw.pp.pivot(report, filters=both).X).sum() == kept.sum()
    assert np.isfinite(dw.pp.pivot(report, filters={"label": ["L", "H"]}).X).sum() == n - 4


def test_what_has_nothing_left_is_said(caplog: pytest.LogCaptureFixture) -> None:
    report = _reports.diann()
    report.loc[report["Run"] == "run_1", "Q.Value"] = 0.5
    report.loc[report[PRECURSOR] == "PEPTIDE32", VALUE] = np.nan
    with (
        caplog.at_level(logging.INFO, "donorwise"),
        pytest.warns(DonorwiseWarning, match="1 of 4 runs have no value left and are dropped: 'run_1'"),
    ):
        found = dw.pp.pivot(report)
    assert found.shape == (3, 8)
    assert "1 of 9 precursors have no value left and are dropped: 'PEPTIDE32'." in caplog.text
    with pytest.raises(DataError, match=r"Nothing remains of the .* left out are .* by Q.Value \(up to 1e-09\)"):
        dw.pp.pivot(report, filters={"Q.Value": 1e-9})


@pytest.mark.parametrize("aggregate", ["max", "sum", "median"])
def test_repeated_rows(aggregate: str) -> None:
    rng = np.random.default_rng(3)
    report = pd.concat([_reports.diann(), _reports.diann(), _reports.diann(seed=5).iloc[::2]], ignore_index=True)
    report[VALUE] = np.exp2(rng.normal(20, 2, len(report)))
    report["Quantity.Quality"] = rng.uniform(0.4, 1, len(report))
    found = dw.pp.pivot(report, aggregate=aggregate)
    groups = report.groupby(["Run", PRECURSOR])
    values = groups[VALUE].agg(aggregate).unstack()
    np.testing.assert_allclose(found.X, np.log2(values), rtol=1e-13)
    quality = groups["Quantity.Quality"].median().unstack()
    if aggregate == "max":
        quality = report.loc[groups[VALUE].idxmax()].pivot(index="Run", columns=PRECURSOR, values="Quantity.Quality")
    np.testing.assert_allclose(found.layers["quality"], quality, rtol=1e-13)


def test_repeated_rows_are_an_error() -> None:
    report = _reports.diann()
    again = pd.concat([report, report.iloc[:2]])
    with pytest.raises(
        DataError, match=r"2 pairs of Run and Precursor.Id .*'PEPTIDE02' in 'run_0' \(2 rows\).*the same.*max"
    ):
        dw.pp.pivot(again)
    again = pd.concat([report, report.iloc[:2].assign(**{VALUE: 1e6})])
    with pytest.raises(DataError, match="several rows: .* Give aggregate='max'"):
        dw.pp.pivot(again)


def test_medians_leave_out_what_is_missing() -> None:
    values, groups = np.array([3.0, np.nan, 1.0, np.nan, 7.0, 2.0, 4.0]), np.array([2, 2, 2, 5, 7, 7, 7])
    expected = pd.Series(values).groupby(groups).median()
    np.testing.assert_array_equal(medians(values, groups), expected)


@pytest.mark.parametrize("base", [2, 10, "e"])
def test_base_of_the_logarithm_is_known_to_the_models(base: Any, tmp_path: Path) -> None:
    report = _reports.diann()
    report.loc[0, VALUE] = 0.01  # a logarithm below zero
    found = dw.pp.pivot(report, log=base)
    number = np.e if base == "e" else base
    np.testing.assert_allclose(np.nanmax(found.X), np.log(report[VALUE].max()) / np.log(number))
    found.write_h5ad(tmp_path / "found.h5ad")
    for own in (found, ad.read_h5ad(tmp_path / "found.h5ad")):
        assert resolve_response(own).log_base == pytest.approx(number)
        assert np.isnan(resolve_response(own, layer="quality").log_base)
    found.X = number**found.X
    assert np.isnan(resolve_response(found).log_base)


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")  # few donors
def test_log_fc_of_pivoted_values() -> None:
    """As if the base had been given."""
    found = dw.pp.pivot(_reports.diann(n_runs=20, n_precursors=6, seed=2), log=10)
    found.obs["arm"] = ["a", "b"] * 10
    found.obs["donor_id"] = [f"d{i % 10}" for i in range(20)]
    tables = []
    for base in (None, 10):
        dw.tl.lmm(found, "~ arm + (1 | donor_id)", ddf="between-within", log_base=base, progress=False)
        tables.append(dw.get.tests(found))
    assert tables[0]["log_fc"].notna().all()
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_log_fc_of_proteins() -> None:
    found = dw.pp.pivot(_reports.diann(n_runs=20, seed=2), log=10)
    found.obs["arm"], found.obs["donor_id"] = ["a", "b"] * 10, [f"d{i % 10}" for i in range(20)]
    dw.tl.lmm(found, "~ arm + (1 | peptide) + (1 | donor_id)", features="Protein.Group", progress=False)
    table = dw.get.tests(found)
    assert table["log_fc"].notna().all()
    np.testing.assert_allclose(table["log_fc"], table["estimate"] * np.log2(10), rtol=1e-12)


def test_values_as_they_are() -> None:
    report = _reports.diann()
    report.loc[0, VALUE] = 0.0
    logs = report.assign(**{VALUE: np.log2(report[VALUE].replace(0, np.nan))})
    np.testing.assert_allclose(dw.pp.pivot(logs, log=None).X, dw.pp.pivot(report).X)
    assert np.isnan(resolve_response(dw.pp.pivot(logs, log=None)).log_base)
    assert np.isfinite(dw.pp.pivot(report, log=None).X).sum() == len(report) - 1
    centred = report.assign(**{VALUE: np.arange(len(report)) - 3.0})
    assert np.isfinite(dw.pp.pivot(centred, log=None).X).sum() == len(report)  # zero is a value among these
    with pytest.warns(DonorwiseWarning, match="values up to .* only. .* log=None"):
        dw.pp.pivot(logs)


def _with(**columns: Any) -> Callable[[], pd.DataFrame]:
    names = {"value": VALUE, "protein": PROTEIN, "q": "Q.Value"}
    return lambda: _reports.diann().assign(**{names.get(name, name): own for name, own in columns.items()})


WRONG: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "infinite": (_with(value=np.inf), {}, "`Precursor.Normalised` is infinite in"),
    "negative": (_with(value=-3.0), {}, r"below zero in .* \(down to -3\).*log=None"),
    "text": (_with(value="many"), {}, "no number in .* such as 'many'. Correct"),
    "no flags": (_with(Decoy="perhaps"), {}, "`Decoy` is no column of flags; it holds 'perhaps'"),
    "no run": (_with(Run=None), {}, r"rows with a value have no `Run` \(obs=\)"),
    "blank run": (_with(Run=" "), {}, r"rows with a value have no `Run`"),
    "no rows": (lambda: _reports.diann().iloc[:0], {}, "has no rows"),
    "protein": (
        lambda: _reports.diann().assign(**{PROTEIN: lambda t: t["Run"]}),
        {},
        r"`Protein.Group` differs between rows of the same precursor, of 9 in all: 'PEPTIDE02' has run_0 and run_1. Leave",
    ),
    "rt": (
        lambda: _reports.diann().assign(RT=lambda t: np.arange(len(t))),
        {"obs_columns": "RT"},
        "`RT` differs between rows of the same run, of 4 in all",
    ),
    "absent": (
        _reports.diann,
        {"layers": {"x": "Quantity.Qualit"}},
        r"no column `Quantity.Qualit` \(layers=\): did you mean",
    ),
    "absent filter": (_reports.diann, {"filters": {"PEP": 0.1}}, r"no column `PEP` \(filters=\)"),
    "kind": (_reports.diann, {"kind": "maxquant"}, "The table is no table of maxquant: it has no column"),
    "no kind": (_reports.diann, {"kind": "skyline"}, "kind='skyline' is not known; choose one of 'diann'"),
    "layer": (_reports.diann, {"layers": {"a/b": "Q.Value"}}, "cannot name a layer"),
    "log": (_reports.diann, {"log": 1}, "log=1 is no base"),
    "aggregate": (_reports.diann, {"aggregate": "mean"}, "aggregate='mean' is not an option"),
    "decimal": (_reports.diann, {"decimal": ";"}, "decimal=';' must be"),
    "no report": (lambda: 3, {}, "A report is a DataFrame or the path of a file .*, not int"),
    "no file": (lambda: "absent.tsv", {}, "There is no file absent.tsv"),
    "two columns": (
        lambda: pd.concat([_reports.diann(), _reports.diann()[["Run"]]], axis=1),
        {},
        "several columns of the name `Run`",
    ),
    "one name": (
        lambda: pd.DataFrame({"r": "a", "p": ["A_B", "A"], "z": ["C", "B_C"], "v": [1e3, 2e3]}),
        {"obs": "r", "var": ["p", "z"], "values": "v"},
        "different values of p and z make the same name, 'A_B_C'",
    ),
    "no runs": (lambda: _reports.peptides().iloc[:, :4], {}, "has no columns `Intensity <run>`"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_laid_out(name: str) -> None:
    report, options, says = WRONG[name]
    with pytest.raises(DonorwiseError, match=says):
        dw.pp.pivot(report(), **options)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("report.parquet", b"PAR1", "cannot be read as Parquet"),
        ("report.tsv.gz", b"no gzip", "cannot be read as text"),
        ("report.tsv", b"\xff\xfe\x00\x01", "cannot be read as text"),
        ("report.tsv", b"", "Columns: none"),
        (
            "report.tsv",
            b"Run\tPrecursor.Id\tPrecursor.Normalised\nr1\tA\t5\t6\t7\n",
            "3 columns in its first line and 5 in",
        ),
        (
            "report.csv",
            b"Run,Precursor.Id,Precursor.Normalised\nr1,A,1024,5\n",
            "Are commas both between columns and in",
        ),
        ("report.xlsx", b"", "how to read it does not show from its name"),
    ],
)
def test_damaged_files(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        dw.pp.pivot(tmp_path / name)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page on reports, in a folder that has the files it names."""
    pytest.importorskip("pyarrow")
    report = _reports.diann(n_runs=6, n_precursors=30)
    rng = np.random.default_rng(0)
    report["RT"], report["PG.Q.Value"] = rng.random(len(report)), 0.01
    report = report.assign(**{"Lib.Q.Value": 0.001, "Precursor.Quantity": report[VALUE]})
    report.to_parquet(tmp_path / "report.parquet")
    design = pd.DataFrame({"Run": report["Run"].unique(), "donor_id": list("abcdef"), "condition": list("xyxyxy")})
    design.to_csv(tmp_path / "design.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return (Path(__file__).parents[1] / "docs" / "reports.md").read_text(encoding="utf-8")


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def test_code_of_the_page_runs(page: str) -> None:
    names: dict[str, Any] = {}
    for block in _blocks(page, "python"):
        exec(block, names)
    peptides = names["peptides"]
    assert set(peptides.layers) - {None} == {"quality", "rt", "weights", "by_rt"}
    assert peptides.obs["condition"].notna().all()


def test_commands_of_the_page_run(page: str) -> None:
    commands = "".join(_blocks(page, "bash")).splitlines()
    assert len(commands) == 2
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command)[1:], catch_exceptions=False)
        assert result.exit_code == 0, f"{command}\n{result.output}"


def test_command(tmp_path: Path) -> None:
    source, out = _csv(tmp_path / "report.tsv", _reports.diann(), sep="\t"), tmp_path / "peptides.h5ad"
    arguments = ["pivot", str(source), "-o", str(out), "--filter", "Quantity.Quality=0.5:", "--weights", "diann"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    expected = dw.pp.pivot(source, filters={"Quantity.Quality": (0.5, None)})
    dw.pp.quality_weights(expected, "quality")
    _same(ad.read_h5ad(out), expected)
    record = yaml.safe_load((tmp_path / "peptides.h5ad.run.yaml").read_text())
    assert record["result"]["runs"] == 4
    assert record["options"]["filters"] == {"Quantity.Quality": "0.5:"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--filter", "Q.Value"], "--filter Q.Value: give COLUMN=RULE, such as Q.Value=0.01"),
        (["--layer", "a=b"], "no column `b` (layers=)"),
        (["--layer", "a=Q.Value", "--weights", "sd"], "--weights reads the layer quality"),
        (["--weights", "score"], "--features names"),
        (
            ["--log", "none", "--filter", "Q.Value=none", "--filter", "Genes=G0", "--filter", "Precursor.Charge=3:"],
            "Nothing",
        ),
    ],
)
def test_command_says_what_is_wrong(options: list[str], says: str, tmp_path: Path) -> None:
    source = _csv(tmp_path / "report.tsv", _reports.diann(), sep="\t")
    result = CliRunner().invoke(main, ["pivot", str(source), "-o", str(tmp_path / "x.h5ad"), *options])
    assert result.exit_code == 2
    assert says in result.output
    assert not (tmp_path / "x.h5ad").exists()
