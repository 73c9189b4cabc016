"""Every tutorial runs from top to bottom, as a reader would run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
NOTEBOOKS = sorted((TESTS.parent / "tutorials").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

WARNS = "warns"
"""Tag of the cells that show a warning of this package on purpose."""


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_there_are_tutorials():
    assert NOTEBOOKS


@every_notebook
def test_outputs_are_not_stored(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    for cell in code_cells(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
@every_notebook
def test_tutorials_run(path, tmp_path, monkeypatch):
    """No cell fails, and those and only those that are meant to warn do so."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the figures are drawn as in a notebook
    shutil.copytree(TESTS / "reference", tmp_path / "tests" / "reference")  # read by one of them, from its clone
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    for cell in code_cells(notebook):
        errors = "".join(out["text"] for out in cell["outputs"] if out.get("name") == "stderr")
        expected = WARNS in cell["metadata"].get("tags", [])
        assert ("DonorwiseWarning" in errors) is expected, f"{cell['source']}\n\n{errors}"
        assert "TqdmWarning" not in errors or "import decoupler" in cell["source"]  # it warns by itself
