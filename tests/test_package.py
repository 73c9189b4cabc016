"""What holds for the package as a whole: what importing it costs, what it offers, who may import whom."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import donorwise as dw

ROOT = Path(dw.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# From the ground up; a file belongs to the layer of its first path component, inside `_core` of the second.
LAYERS = (
    {"errors", "_typing", "_docs", "_core.jobs", "_core.wording", "_core.files"},
    {"_core.design", "_core.cells"},
    {"_core.reports"},
    {"_core.models", "_core.kinship"},
    {"_core.inference"},
    {"_core.engine"},
    {"_anndata"},
    {"get", "pp", "datasets"},
    {"tl"},
    {"pl"},
    {"_batch", "_accessor"},
    {"_cli", "__main__", "__init__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FACES = set().union(*LAYERS[7:])
ONLY_IN = {"anndata": FACES | {"_anndata"}, "matplotlib": {"pl"}, "scanpy": FACES, "click": {"_cli"}}


def _layer(parts: tuple[str, ...]) -> str:
    return ".".join(parts[: 1 + (parts[0] == "_core")])


def _imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_downward(path: Path) -> None:
    """Also inside functions, and for types."""
    own = _layer(path.relative_to(ROOT).with_suffix("").parts)
    wrong = []
    for name in _imports(path):
        package, *rest = name.split(".")
        if package in ONLY_IN and own not in ONLY_IN[package]:
            wrong.append(name)
        if package != "donorwise" or own not in RANK:
            continue
        target = _layer((*rest, "__init__"))
        if not (
            RANK.get(target, RANK["__init__"]) < RANK[own] or target == own or {target, own} <= LAYERS[0] | LAYERS[-1]
        ):
            wrong.append(name)
    assert not wrong, f"{path.relative_to(ROOT)} is in layer {own!r} and must not import {wrong}"


def test_no_circles_in_the_core() -> None:
    """Nor do modules of one layer import each other, not even for types."""
    names = {".".join(("donorwise", *p.relative_to(ROOT).with_suffix("").parts)): p for p in FILES}
    core = {name: path for name, path in names.items() if name.startswith("donorwise._core.")}
    graph = {
        name: {found for target in _imports(path) for found in (target, target.rpartition(".")[0]) if found in core}
        for name, path in core.items()
    }
    assert tuple(TopologicalSorter(graph).static_order())


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_is_light() -> None:
    """`import donorwise` brings in nothing heavy that anndata has not brought in; the rest comes when it is used."""
    code = """
import json, sys
import anndata
before = set(sys.modules)
import donorwise
new = sorted(set(sys.modules) - before)
donorwise.fit_lmm, donorwise.tl.lmm, donorwise.pl.volcano
print(json.dumps([new, "numba" in sys.modules and "matplotlib" in sys.modules]))
"""
    new, loaded_on_use = json.loads(_run(code))
    heavy = {"scanpy", "formulaic", "numba", "matplotlib", "seaborn", "statsmodels", "sklearn", "joblib", "click"}
    assert not heavy & {name.partition(".")[0] for name in new}
    assert not {"scipy.stats", "scipy.optimize"} & set(new)
    assert loaded_on_use


@pytest.mark.parametrize("name", sorted(set(dw.__all__) - {"__version__"}))
def test_public_name(name: str) -> None:
    """Every public name can be had and is documented; so is everything a public module offers."""
    value = getattr(dw, name)
    assert value.__doc__
    for public in getattr(value, "__all__", ()):
        assert getattr(value, public).__doc__, f"{name}.{public}"
    if hasattr(value, "__all__"):
        assert dir(value) == sorted(value.__all__), "completion offers functions, not their modules"


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_thing'"):
        _ = dw.no_such_thing
    assert set(dw.__all__) == set(dir(dw))
