"""What the project tells registries, and what its workflows run: consistent, in the registries' words, and pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import donorwise as dw

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
pytestmark = pytest.mark.skipif(not GITHUB.exists(), reason="not a checkout")

# The registry of the scverse ecosystem: README (categories, tags) and scripts/src/ecosystem_scripts/schema.json (fields) of
# github.com/scverse/ecosystem-packages, as of autumn 2026. The version is read from where the package is published.
FIELDS = {
    "name", "description", "project_home", "documentation_home", "install", "primary_category", "tags", "license", "contact",
    "category",
}  # fmt: skip
OPTIONAL = {"tutorials_home", "publications", "logo", "language", "test_command", "inventory", "blurb"}
CATEGORIES = {
    "Data structures", "scRNA-seq", "bulk RNA-seq", "Spatial", "Epigenomics", "Proteomics", "Adaptive immune cell receptor",
    "Multimodal", "Imaging", "Infrastructure",
}  # fmt: skip
TAGS = {
    "scRNA-seq", "bulk RNA-seq", "spatial transcriptomics", "spatial proteomics", "proteomics", "flow cytometry", "ATAC-seq",
    "epigenomics", "immune receptor", "imaging", "multimodal",
    "preprocessing", "quality control", "denoising", "data integration", "cell-type annotation", "differential expression",
    "compositional analysis", "functional analysis", "gene regulatory networks", "cell-cell communication", "deconvolution",
    "clustering", "dimensionality reduction", "trajectory inference", "pseudotime", "RNA velocity", "lineage tracing",
    "perturbation", "spatially variable genes", "segmentation", "copy number variation", "visualization", "benchmarking",
    "deep learning", "foundation model", "large language models", "probabilistic modeling", "optimal transport",
    "GPU acceleration", "pipeline", "data structures", "interoperability", "file formats", "documentation",
}  # fmt: skip


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def meta() -> dict[str, Any]:
    return dict(_read(GITHUB / "scverse/meta.yaml"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def test_entry_of_the_ecosystem_has_the_registrys_fields_and_words(meta: dict[str, Any]) -> None:
    assert set(meta) >= FIELDS and set(meta) <= FIELDS | OPTIONAL, "the registry reads the version by itself"
    assert meta["primary_category"] in CATEGORIES
    assert len(set(meta["tags"])) == len(meta["tags"]) > 0 and set(meta["tags"]) <= TAGS
    assert meta["category"] == "ecosystem"
    assert meta["install"] and meta["contact"]


def test_addresses_are_the_same_everywhere(meta: dict[str, Any], project: dict[str, Any]) -> None:
    urls = project["urls"]
    assert set(urls) == {"Home", "Documentation", "Source", "Issues", "Changelog"}
    assert meta["project_home"] == urls["Home"] == urls["Source"]
    assert urls["Issues"] == f"{urls['Home']}/issues" and urls["Changelog"].startswith(f"{urls['Home']}/")
    assert meta["documentation_home"] == urls["Documentation"]
    assert meta["tutorials_home"].startswith(urls["Documentation"])
    citation = _read(ROOT / "CITATION.cff")
    assert (citation["repository-code"], citation["url"]) == (urls["Home"], urls["Documentation"])
    badges = re.findall(r"\[!\[[^]]*\]\(([^)]+)\)\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    home = urls["Home"].removeprefix("https://github.com/")
    assert badges and all(home in "".join(pair) or urls["Documentation"] in pair for pair in badges), badges


def test_name_licence_and_version_are_the_same_everywhere(meta: dict[str, Any], project: dict[str, Any]) -> None:
    citation = _read(ROOT / "CITATION.cff")
    assert meta["name"] == meta["install"]["pypi"] == project["name"] == "donorwise"
    assert meta["license"] == project["license"] == citation["license"]
    assert project["version"] == citation["version"] == dw.__version__


def test_pythons_said_are_the_pythons_tested(project: dict[str, Any]) -> None:
    said = {text.rpartition(" ")[2] for text in project["classifiers"] if re.search(r":: 3\.\d+$", text)}
    assert project["requires-python"] == f">={min(said, key=lambda text: int(text.partition('.')[2]))}"
    for name, job in {"test.yml": "test", "build.yml": "wheel"}.items():
        assert set(_read(GITHUB / "workflows" / name)["jobs"][job]["strategy"]["matrix"]["python"]) == said


@pytest.mark.parametrize("path", sorted(GITHUB.glob("workflows/*.yml")), ids=lambda path: path.name)
def test_workflows_are_pinned_and_may_only_read(path: Path) -> None:
    """An action is named by its commit, with the version beside it; no job may do more than it needs."""
    text = path.read_text(encoding="utf-8")
    for used in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"\./\S+|[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used
    workflow = _read(path)
    assert workflow["permissions"] == {"contents": "read"} and "group" in workflow["concurrency"]
    for name, job in workflow["jobs"].items():
        allowed = {"id-token": "write"} if (path.name, name) == ("release.yml", "publish") else {}
        assert job.get("permissions", {}) == allowed, name
        assert "uses" in job or "timeout-minutes" in job, name
        for step in job.get("steps", []):
            assert not step.get("uses", "").startswith("actions/checkout") or not step["with"]["persist-credentials"]
            assert "${{" not in step.get("run", ""), "what others may write reaches a shell by the environment only"
