from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import donorwise as dw
from donorwise._cli import main


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output == f"donorwise, version {dw.__version__}\n"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return CliRunner().invoke(main, ["demo", "--out", str(out)], catch_exceptions=False), out


def test_demo_writes_what_it_says(demo: tuple[Result, Path]) -> None:
    result, out = demo
    assert result.exit_code == 0
    assert str(out) in result.output
    written = re.findall(r"[a-z]+\.(?:csv|png)", "".join(re.findall(r"^Wrote .*", result.output, re.MULTILINE)))
    assert set(written) == {path.name for path in out.iterdir()} and len(written) == 7 + 9
    for name in written:
        content = (out / name).read_bytes()
        assert content.startswith(b"\x89PNG" if name.endswith("png") else b"variable,") or name == "eqtls.csv", name
    table = pd.read_csv(out / "results.csv")
    assert len(table) == 1_500 * 3 * table["contrast"].nunique()
    assert {"variable", "group", "contrast", "estimate", "p_value", "adj_p_value", "status"} <= set(table.columns)


def test_demo_says_what_is_true(demo: tuple[Result, Path]) -> None:
    """Every family finds true things at the rate that it states, and intervals of h² cover."""
    said = re.findall(r"Reported at .*?: ([\d,]+) [\w ]+, of which ([\d,]+) are true \(([\d,]+) are\)", demo[0].output)
    rows = [[int(number.replace(",", "")) for number in row] for row in said]
    assert len(rows) == 5  # pseudobulk, counts, detection, eQTLs, peptides
    for reported, right, there_are in rows:
        assert right > 0.85 * reported and right > 0.2 * there_are
    mean, true, covered = re.findall(r"Mean h² .* eQTL (\S+); the truth is (\S+), and .* of (\d+)%", demo[0].output)[0]
    assert abs(float(mean) - float(true)) < 0.1 and int(covered) > 90


def test_demo_of_some_families(tmp_path: Path) -> None:
    """Only what was asked for; a family that is shown aside says no more and no less than alone."""
    aside, alone = (
        CliRunner().invoke(main, ["demo", "--out", str(tmp_path / name), *options], catch_exceptions=False)
        for name, options in {
            "two": ["--family", "peptides", "--family", "eqtls"],
            "one": ["--family", "peptides"],
        }.items()
    )
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"proteins.csv", "peptides.png"}
    assert aside.output.endswith(alone.output) and "eQTLs" in aside.output
    assert (tmp_path / "two/proteins.csv").read_bytes() == (tmp_path / "one/proteins.csv").read_bytes()


def test_demo_tells_what_went_wrong_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "donorwise.py").write_text("raise ImportError('broken')")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path), "--family", "peptides", "--family", "eqtls"])
    assert result.exit_code == 1 and "the part on peptides ended with status 1" in result.stderr
    assert "broken" in result.stderr


def test_demo_shows_pseudoreplication(demo: tuple[Result, Path]) -> None:
    """The mixed model keeps its false discovery rate; the t-test on cells is mostly wrong."""
    rows = re.findall(r"(donorwise|t-test) \(\w+\) +([\d,]+) +([\d,]+) +([\d,]+)", demo[0].output)
    reported = {name: [int(n.replace(",", "")) for n in numbers] for name, *numbers in rows}
    found, true, false = reported["donorwise"]
    assert found == true + false
    assert true > 40
    assert false < 0.15 * found
    assert reported["t-test"][2] > 0.5 * reported["t-test"][0]
