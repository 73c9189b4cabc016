"""Scans where they are stored: in uns through every file, and in a folder of which no more is read than is asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._scan import GENES, GROUPS, Tables, scan_tables, write_folder

import donorwise as dw
from donorwise._anndata import keys, read_scan, write_scan
from donorwise._core.engine.scan_folder import open_tests
from donorwise._core.engine.wanted import Wanted, wanted_blocks
from donorwise._core.kinship.labels import bare
from donorwise.errors import DataError

TABLES = scan_tables()
SOME = {
    "all": Wanted(),
    "gene": Wanted(gene=(GENES[3],)),
    "group": Wanted(group=(GROUPS[0], GROUPS[2])),
    "variant": Wanted(variant=("rs4", "rs7", "unknown")),
    "region": Wanted(chrom=("CHRx",), low=10_000, high=60_000),
    "p": Wanted(p_max=0.05),
    "several": Wanted(gene=tuple(GENES[:2]), group=(GROUPS[1],), chrom=("chr10", "1"), p_max=0.5),
    "nothing": Wanted(gene=()),
}


def _adata(tables: Tables = TABLES, *, tests: bool = True, **params: Any) -> ad.AnnData:
    var = pd.DataFrame({"symbol": [f"SYM{i}" for i in range(7)]}, index=[*GENES, "other"])
    adata = ad.AnnData(np.zeros((3, 7), dtype="f4"), obs=pd.DataFrame(index=["a", "b", "c"]), var=var)
    kept = tables.tests if tests else None
    write_scan(adata, "scan", params=tables.params | params, results=tables.results, counts=tables.counts, tests=kept)
    return adata


def _same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert list(found.columns) == list(expected.columns)
    for name, column in expected.items():
        if pd.api.types.is_numeric_dtype(column.dtype):
            np.testing.assert_array_equal(found[name].to_numpy(), column.to_numpy())
        else:
            assert found[name].astype(str).tolist() == column.astype(object).fillna("").astype(str).tolist()


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr", "copy", "view"])
def test_round_trips(kind: str, tmp_path: Path) -> None:
    adata = _adata()
    if kind == "h5ad":
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = ad.read_h5ad(tmp_path / "a.h5ad")
    elif kind == "zarr":
        adata.write_zarr(tmp_path / "a.zarr")
        adata = ad.read_zarr(tmp_path / "a.zarr")
    elif kind != "memory":
        adata = adata.copy() if kind == "copy" else adata[:2]
    scan = read_scan(adata)
    _same(scan.results, TABLES.results)
    _same(scan.counts, TABLES.counts)
    _same(scan.table(Wanted()), TABLES.tests)
    assert scan.params == {k: v for k, v in TABLES.params.items() if v is not None}
    assert (scan.genes, scan.groups) == (GENES, GROUPS)
    assert adata.uns["scan"][keys.FORMAT] == keys.FORMAT_VERSION


def test_groups_of_one_and_no_tests(tmp_path: Path) -> None:
    """Tests without a column of groups get it beside the gene; a scan may keep none of its tests."""
    tables = scan_tables(["all"])
    bare_tests = tables._replace(tests=tables.tests.drop(columns="group"))
    _same(read_scan(_adata(bare_tests)).table(Wanted()), tables.tests)
    empty = _adata(tables._replace(tests=tables.tests.iloc[:0]))
    for end, read in ((".h5ad", ad.read_h5ad), (".zarr", ad.read_zarr)):
        getattr(empty, f"write_{end[1:]}")(tmp_path / f"a{end}")
        assert read_scan(read(tmp_path / f"a{end}")).table(Wanted(p_max=0.1)).shape == (0, len(keys.TEST_COLUMNS))


def test_subsets_of_genes() -> None:
    adata = _adata()[:, [1, 3, 6]].copy()
    scan = read_scan(adata)
    assert scan.genes == [GENES[1], GENES[3]]
    assert set(scan.table(Wanted())["gene"]) == {GENES[1], GENES[3]}
    with pytest.raises(DataError, match="None of the features of the result 'scan'"):
        read_scan(_adata()[:, ["other"]])
    traits = _adata(response="obs")[:, ["other"]]  # columns of obs are not those of var
    assert read_scan(traits).genes == GENES


@dataclass
class Made:
    """What ``dw.scan_variants`` gives."""

    results: pd.DataFrame
    counts: pd.DataFrame
    params: dict[str, Any]
    tests: pd.DataFrame | None


@pytest.mark.parametrize("wanted", SOME)
@pytest.mark.parametrize("with_group", [False, True])
def test_doors_agree(wanted: str, with_group: bool, tmp_path: Path) -> None:
    """A table in uns, the folder, uns that names the folder, and a result: all as a plain loop over the rows has it."""
    folder = write_folder(TABLES, tmp_path / "out_dir", with_group=with_group)
    rows = [_wanted(row, SOME[wanted]) for row in TABLES.tests.to_dict("records")]
    expected = TABLES.tests[rows].reset_index(drop=True)
    sources = (_adata(), folder, str(folder), _adata(tests=False, out=str(folder)), Made(*TABLES))
    for source in sources:
        scan = read_scan(source)
        _same(scan.table(SOME[wanted]), expected)
        blocks = [*scan.blocks(SOME[wanted], ["variant", "beta"]), expected[["variant", "beta"]].iloc[:0]]
        _same(pd.concat([b.astype({"variant": str}) for b in blocks], ignore_index=True), expected[["variant", "beta"]])
        _same(scan.results, TABLES.results)
        assert scan.params["lambda"] == TABLES.params["lambda"]
        assert read_scan(scan) is scan


def _wanted(row: dict[str, Any], pairs: Wanted) -> bool:
    named = all(getattr(pairs, n) is None or row[n] in getattr(pairs, n) for n in ("gene", "group", "variant"))
    there = pairs.chrom is None or row["chrom"] in [bare(c) for c in pairs.chrom]
    inside = (pairs.low or 0) <= row["pos"] <= (pairs.high or 10**9)
    return named and there and inside and (pairs.p_max is None or row["p_value"] <= pairs.p_max)


def test_folder_after_a_subset(tmp_path: Path) -> None:
    folder = write_folder(TABLES, tmp_path / "out")
    adata = _adata(tests=False, out=str(folder))[:, GENES[2:4]]
    scan = read_scan(adata)
    assert set(scan.table(Wanted())["gene"]) == set(GENES[2:4])
    assert scan.table(Wanted(gene=(GENES[0], GENES[2])))["gene"].unique().tolist() == [GENES[2]]


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    """Everything else in the files is garbage, and nobody sees it."""
    import pyarrow.parquet as pq

    folder = write_folder(TABLES, tmp_path / "out", rows=20)  # one row group a gene
    whole = read_scan(folder).table(Wanted())
    for file in folder.glob("group=*/*.parquet"):
        names = pq.ParquetFile(file)
        raw = bytearray(file.read_bytes())
        for number in range(names.num_row_groups):
            own = names.metadata.row_group(number)
            genes = names.read_row_group(number, ["gene"])["gene"].unique().to_pylist()
            if GENES[1] in genes and file.parent.name == "group=B":
                continue
            for column in (own.column(i) for i in range(own.num_columns)):
                start = column.dictionary_page_offset or column.data_page_offset
                raw[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        file.write_bytes(bytes(raw))
    found = read_scan(folder).table(Wanted(gene=(GENES[1],), group=("B",)))
    _same(found, whole[(whole["gene"] == GENES[1]) & (whole["group"] == "B")].reset_index(drop=True))
    with pytest.raises(OSError):
        read_scan(folder).table(Wanted(gene=(GENES[1],)))


def test_large_files_are_not_loaded(tmp_path: Path) -> None:
    """Ten rows of a million: what pyarrow holds at its peak is a small part of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, rows = 1_000_000, 10_000
    rng = np.random.default_rng(0)
    group = tmp_path / "group=all"
    group.mkdir()
    columns = {"gene": np.repeat([f"g{i:03}" for i in range(100)], rows), "p_value": rng.uniform(size=n)}
    table = pa.table(columns | {f"x{i}": rng.normal(size=n) for i in range(8)})
    pq.write_table(table, group / "part-00000.parquet", row_group_size=rows)
    del table
    code = """
import sys, pyarrow as pa
from pathlib import Path
from donorwise._core.engine.wanted import Wanted, read_wanted
from donorwise._core.engine.scan_folder import open_tests
found = read_wanted(open_tests(Path(sys.argv[1]), ["all"]), Wanted(gene=("g042",), p_max=0.001))
print(len(found), pa.default_memory_pool().max_memory())
"""
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    n_rows, peak = map(int, told.split())
    assert 0 < n_rows < 30
    assert peak < 8e6 < (group / "part-00000.parquet").stat().st_size / 8
    fragments = list(open_tests(tmp_path, ["all"]).get_fragments())
    assert len(fragments[0].subset(Wanted(gene=("g042",)).expression()).row_groups) == 1
    assert max(map(len, wanted_blocks(open_tests(tmp_path, ["all"]), Wanted()))) <= 2**17


def test_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(TABLES, tmp_path / "out")
    with pytest.raises(DataError, match="There is no folder .*elsewhere"):
        read_scan(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="a file, not the folder .* of an .h5ad give the AnnData"):
        read_scan(folder / "_lead.parquet")
    with pytest.raises(DataError, match="is not the folder of a scan: it has no _lead.parquet"):
        read_scan(tmp_path)
    shutil.copytree(folder, tmp_path / "stopped")
    (tmp_path / "stopped" / "_lead.parquet").unlink()
    with pytest.raises(
        DataError, match="not come to its end: it has no _lead.parquet. Run it again with the same out= and resume"
    ):
        read_scan(tmp_path / "stopped")
    (folder / "_params.json").write_text(json.dumps(TABLES.params | {"format": 99}))
    with pytest.raises(DataError, match="out was written by a newer donorwise"):
        read_scan(folder)
    (folder / "_params.json").write_text("{")
    with pytest.raises(DataError, match="_params.json cannot be read: Expecting property name"):
        read_scan(folder)


def test_folders_that_moved_or_changed(tmp_path: Path) -> None:
    """What is in uns is read all the same."""
    folder = write_folder(TABLES, tmp_path / "out")
    adata = _adata(tests=False, out=str(folder))
    shutil.move(folder, tmp_path / "moved")
    scan = read_scan(adata)
    assert len(scan.results) == len(GENES) * len(GROUPS)
    with pytest.raises(DataError, match=r"'scan' were written to .*out, .* If it was moved, give its new place"):
        scan.table(Wanted())
    assert len(read_scan(tmp_path / "moved").table(Wanted())) == len(TABLES.tests)
    other = scan_tables()
    write_folder(other._replace(params=other.params | {"formula": "~ age"}), folder)
    with pytest.raises(DataError, match="tests of another scan than 'scan', .* formula is '~ age' there and '~ sex"):
        scan.table(Wanted())
    with pytest.raises(DataError, match="The tests of 'scan' were not kept"):
        read_scan(_adata(tests=False)).table(Wanted())


def test_damaged_parquet(tmp_path: Path) -> None:
    folder = write_folder(TABLES, tmp_path / "out")
    for file in folder.rglob("*.parquet"):
        file.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="_lead.parquet cannot be read: .* truncated or was changed"):
        read_scan(folder)
    with pytest.raises(DataError, match="part-00000.parquet cannot be read"):
        read_scan(_adata(tests=False, out=str(folder))).table(Wanted())


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan in uns does without."""
    folder = write_folder(TABLES, tmp_path / "out")
    adata, linked = _adata(), _adata(tests=False, out=str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert len(read_scan(adata).table(SOME["several"])) > 0
    assert len(read_scan(linked).results) > 0
    for source in (folder, linked):
        with pytest.raises(DataError, match=r"need the package pyarrow: pip install 'donorwise\[parquet\]'"):
            read_scan(source).table(Wanted())


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_entries_of_other_kinds(cohort: ad.AnnData) -> None:
    dw.tl.lmm(cohort, "~ condition + (1 | donor_id)", ddf="kenward-roger", progress=False)
    with pytest.raises(DataError, match=r"has no scan 'scan'. There are none in this AnnData: run dw.tl.scan first"):
        read_scan(cohort)
    write_scan(cohort, "eqtl", params=TABLES.params, results=TABLES.results, counts=TABLES.counts)
    with pytest.raises(DataError, match=r"has no scan 'eqtls'. Did you mean 'eqtl'\?"):
        read_scan(cohort, "eqtls")
    with pytest.raises(
        DataError, match=r"'lmm'\] is the result of a model, not of a scan: dw.get.tests\(adata, key='lmm'\)"
    ):
        read_scan(cohort, "lmm")
    readers = (dw.get.tests, dw.get.varcomp, dw.get.matrix, dw.get.influence, dw.get.calibration, dw.tl.influence)
    for read in readers:
        with pytest.raises(DataError, match=r"'eqtl'\] is a scan .* dw.get.scan\(adata, key='eqtl'\) reads it"):
            read(cohort, key="eqtl")
    write_scan(cohort, "eqtl", params={}, results=TABLES.results, counts=TABLES.counts)  # its own kind is replaced
    cohort.uns["eqtl"][keys.FORMAT] = 99
    with pytest.raises(DataError, match=r"adata.uns\['eqtl'\] was written by a newer donorwise"):
        read_scan(cohort, "eqtl")
    with pytest.raises(DataError, match="must be an AnnData, not DataFrame"):
        read_scan(TABLES.tests)


def test_tables_that_lack_columns() -> None:
    with pytest.raises(DataError, match="The tests of a scan lack the columns a1, se."):
        _adata(TABLES._replace(tests=TABLES.tests.drop(columns=["se", "a1"])))
    with pytest.raises(DataError, match="The lead variants of a scan lack the columns q_value."):
        _adata(TABLES._replace(results=TABLES.results.drop(columns="q_value")))
    wider = _adata(TABLES._replace(tests=TABLES.tests.assign(info=1.0)[["info", *keys.TEST_COLUMNS]]))
    assert list(read_scan(wider).table(Wanted()).columns) == [*keys.TEST_COLUMNS, "info"]
