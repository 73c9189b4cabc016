"""Kernels from files: layouts written here by hand, names, and files that are not what they seem."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._typing import FloatArray
from donorwise.errors import DataError

NAMES = ["D1", "D2", "D3", "D4"]


@pytest.fixture
def K() -> FloatArray:
    half = np.random.default_rng(0).normal(size=(4, 9))
    return half @ half.T / 9


def text(values: FloatArray, separator: str = "\t") -> str:
    return "".join(separator.join(repr(float(v)) for v in row) + "\n" for row in values)


def ids(path: Path, names: list[str] = NAMES, header: str = "#FID\tIID\n", family: bool = True) -> None:
    path.write_text(header + "".join((f"F{i}\t" if family else "") + f"{name}\n" for i, name in enumerate(names)))


def check(path: Path, K: FloatArray, *, atol: float = 0.0, levels: list[str] | None = None) -> pd.DataFrame:
    read = dw.pp.read_relatedness(path, levels=levels)
    np.testing.assert_allclose(read, K, rtol=0, atol=atol)
    assert read.index.tolist() == read.columns.tolist() == NAMES
    assert read.attrs["file"] == str(path)
    return read


# ---------------------------------------------------------------- GCTA, PLINK, GEMMA


@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-6), (np.float64, 0.0)])
def test_grm_bin(K: FloatArray, tmp_path: Path, dtype: type, atol: float) -> None:
    K[np.tril_indices(4)].astype(dtype).tofile(tmp_path / "study.v2.grm.bin")
    np.full(10, 4321, dtype=np.float32).tofile(tmp_path / "study.v2.grm.N.bin")
    ids(tmp_path / "study.v2.grm.id", header="")
    for name in ("study.v2.grm.bin", "study.v2.grm", "study.v2"):
        read = dw.pp.read_relatedness(tmp_path / name)
        np.testing.assert_allclose(read, K, rtol=0, atol=atol)
        assert read.index.tolist() == NAMES
        assert read.attrs["n_variants"] == 4321 and read.attrs["method"] == "gcta"


@pytest.mark.parametrize(
    ("header", "family"), [("#FID\tIID\n", True), ("#IID\n", False), ("#IID\tSID\n", False), ("", True), ("", False)]
)
def test_ids(K: FloatArray, tmp_path: Path, header: str, family: bool) -> None:
    (tmp_path / "a.rel").write_text(text(K))
    ids(tmp_path / "a.rel.id", header=header, family=family)
    check(tmp_path / "a.rel", K)


def test_king_is_doubled(K: FloatArray, tmp_path: Path) -> None:
    np.fill_diagonal(K, 0.5)
    ids(tmp_path / "a.king.id")
    (tmp_path / "a.king").write_text(text(K))
    assert check(tmp_path / "a.king", 2 * K).attrs["scale"] == "twice the kinship coefficient"
    (tmp_path / "a.king").write_text("".join("\t".join(map(repr, K[i, :i].tolist())) + "\n" for i in range(1, 4)))
    check(tmp_path / "a.king", 2 * K)


def test_gemma(K: FloatArray, tmp_path: Path) -> None:
    path = tmp_path / "mice.v1.cXX.txt"
    path.write_text(text(K))
    with pytest.raises(DataError, match="no names of donors: give levels=, the names of its 4 rows"):
        dw.pp.read_relatedness(path)
    assert check(path, K, levels=NAMES).attrs["method"] == "centered"
    (tmp_path / "mice.v1.fam").write_text("".join(f"F {name} 0 0 1 -9\n" for name in NAMES))
    check(path, K)
    path.rename(tmp_path / "mice.v1.sXX.txt")
    assert check(tmp_path / "mice.v1.sXX.txt", K).attrs["method"] == "standardized"


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("name", ["k.csv", "k.tsv", "k.txt", "k.csv.gz", "k.parquet"])
def test_tables(K: FloatArray, tmp_path: Path, name: str) -> None:
    table = pd.DataFrame(K, index=NAMES, columns=NAMES)
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
        table.to_parquet(tmp_path / name)
    else:
        table.to_csv(tmp_path / name, sep={"csv": ",", "tsv": "\t", "txt": " "}[name.split(".")[1]], index_label="id")
    check(tmp_path / name, K, atol=1e-15)


def test_parquet_with_names_in_a_column(K: FloatArray, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table = pd.DataFrame(K, columns=NAMES)
    table.to_parquet(tmp_path / "a.parquet")
    check(tmp_path / "a.parquet", K)
    table.insert(0, "donor", NAMES)
    table.to_parquet(tmp_path / "b.parquet")
    check(tmp_path / "b.parquet", K)


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("kind", ["corner", "no corner", "above", "other order", "quoted", "bare"])
def test_forms_of_tables(K: FloatArray, tmp_path: Path, kind: str, numbers: bool) -> None:
    """Names may be numbers; R leaves the corner out."""
    names = ["101", "102", "103", "104"] if numbers else NAMES
    values, order = K.tolist(), [2, 0, 3, 1]
    rows = {
        "corner": [["", *names], *([n, *v] for n, v in zip(names, values, strict=True))],
        "no corner": [names, *([n, *v] for n, v in zip(names, values, strict=True))],
        "above": [names, *values],
        "other order": [
            ["id", *(names[i] for i in order)],
            *([n, *(v[i] for i in order)] for n, v in zip(names, values, strict=True)),
        ],
        "quoted": [['""', *(f'"{n}"' for n in names)], *([f'"{n}"', *v] for n, v in zip(names, values, strict=True))],
        "bare": values,
    }[kind]
    path = tmp_path / "k.csv"
    path.write_text("\ufeff" + "".join(",".join(map(str, row)) + "\r\n" for row in rows), encoding="utf-8")
    read = dw.pp.read_relatedness(path, levels=names if kind == "bare" else None)
    np.testing.assert_allclose(read, K, rtol=0, atol=1e-15)
    assert read.index.tolist() == names
    if kind == "bare":
        with pytest.raises(DataError, match="no names of donors"):
            dw.pp.read_relatedness(path)


def test_rounded_halves_are_averaged(K: FloatArray, tmp_path: Path) -> None:
    K[1, 2] += 1e-6
    pd.DataFrame(K, index=NAMES, columns=NAMES).to_csv(tmp_path / "k.csv")
    check(tmp_path / "k.csv", (K + K.T) / 2, atol=1e-15)


# ---------------------------------------------------------------- what is refused


def test_no_file_and_unknown_endings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        dw.pp.read_relatedness(tmp_path / "a.rel")
    (tmp_path / "a.npy").touch()
    with pytest.raises(DataError, match=r"does not show from its name; it should end with one of .grm.bin, .grm.gz"):
        dw.pp.read_relatedness(tmp_path / "a.npy")


def test_files_that_do_not_fit_their_names(K: FloatArray, tmp_path: Path) -> None:
    K[np.tril_indices(4)].astype(np.float32).tofile(tmp_path / "a.grm.bin")
    with pytest.raises(DataError, match=r"a.grm.id cannot be read"):
        dw.pp.read_relatedness(tmp_path / "a.grm.bin")
    ids(tmp_path / "a.grm.id", names=[*NAMES, "D5"])
    with pytest.raises(DataError, match="40 bytes, which is no matrix of the 5 donors"):
        dw.pp.read_relatedness(tmp_path / "a.grm.bin")
    ids(tmp_path / "a.grm.id", names=["D1", "D2", "D2", "D4"])
    with pytest.raises(DataError, match="1 name more than once: `D2`. Give names of their own with levels="):
        dw.pp.read_relatedness(tmp_path / "a.grm.bin")
    check(tmp_path / "a.grm.bin", K, atol=1e-6, levels=NAMES)
    with pytest.raises(DataError, match="levels has 3 names for 4 donors"):
        dw.pp.read_relatedness(tmp_path / "a.grm.bin", levels=NAMES[:3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\t2\n", "1 rows for the 4 donors"),
        ("1 2 3\n4 5\n6 7\n8\n", "neither a square nor one half of it: its 4 rows have 1 to 3 numbers"),
        ("1 0 0 0\n0 1 0 0\n0 0 x 0\n0 0 0 1\n", "row 3: could not convert string to float: 'x'"),
        ("1 0 0 0\n.5 1 0 0\n0 0 1 .1\n0 0 0 1\n", "not symmetric: 0 in row 1, column 2, and 0.5 in row 2, column 1"),
        ("1\n0 1\n0 nan 1\n0 0 0 1\n", "no number in row 2, column 3"),
        ("", "0 rows for the 4 donors"),
    ],
)
def test_texts_that_are_no_kernel(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.rel").write_text(content)
    ids(tmp_path / "a.rel.id")
    with pytest.raises(DataError, match=message):
        dw.pp.read_relatedness(tmp_path / "a.rel")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no square table: it has 0 lines"),
        (",a,b\na,1,0\n", "no square table: it has 2 lines, of 3 to 3 fields"),
        (",a,b\na,1,0\nc,0,1\n", r"names of rows and columns differ \(`c` is a row only\)"),
        (",a,b\na,1,\nb,0,1\n", "row 2: could not convert"),
        ("donor,age\na,1\nb,2\nc,3\n", "no square table"),
    ],
)
def test_tables_that_are_no_kernel(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        dw.pp.read_relatedness(tmp_path / "a.csv")


def test_binary_that_is_called_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x80" * 9)
    with pytest.raises(DataError, match="cannot be read"):
        dw.pp.read_relatedness(tmp_path / "a.csv")
