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
    for name in ("volcano.png", "donors.png"):
        assert name in result.output
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(out / "results.csv")
    assert len(table) == 1_500 * 3 * table["contrast"].nunique()
    assert {"variable", "group", "contrast", "estimate", "p_value", "adj_p_value", "status"} <= set(table.columns)


def test_demo_shows_pseudoreplication(demo: tuple[Result, Path]) -> None:
    """The mixed model keeps its false discovery rate; the t-test on cells is mostly wrong."""
    rows = re.findall(r"(donorwise|t-test) \(\w+\) +([\d,]+) +([\d,]+) +([\d,]+)", demo[0].output)
    reported = {name: [int(n.replace(",", "")) for n in numbers] for name, *numbers in rows}
    found, true, false = reported["donorwise"]
    assert found == true + false
    assert true > 40
    assert false < 0.15 * found
    assert reported["t-test"][2] > 0.5 * reported["t-test"][0]
