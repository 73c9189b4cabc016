"""The documentation says what the code says: every status and warning, formulas that parse, docstrings with all parts."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

import donorwise as dw
from donorwise import _typing
from donorwise._accessor import DonorwiseAccessor
from donorwise._core.design import advice as audit_advice
from donorwise._core.design import covariates as audit_covariates
from donorwise._core.design import depth as audit_depth
from donorwise._core.design import findings as audit_checks
from donorwise._core.design import kernel_checks as audit_kernels
from donorwise._core.design import omissions as audit_omitted
from donorwise._core.design import people as audit_people
from donorwise._core.design import rivals as audit_rivals
from donorwise._core.design import slopes as audit_slopes
from donorwise._core.design.formula import parse
from donorwise._core.engine import exact_features
from donorwise._docs import TEXTS, documented
from donorwise._typing import STATUSES

DOCS = Path(__file__).parents[1] / "docs"
SOURCE = Path(dw.__file__).parent
FACES = ("datasets", "get", "pl", "pp", "tl")
METHODS = (dw.LMMFit, dw.GLMMFit, DonorwiseAccessor)


def _page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def _public() -> dict[str, Any]:
    """Everything a user calls, by name."""
    found = {f"{face}.{name}": getattr(getattr(dw, face), name) for face in FACES for name in getattr(dw, face).__all__}
    found |= {name: getattr(dw, name) for name in ("LMMFit", "GLMMFit", "cond", "fit_lmm", "fit_glmm")}
    for owner in METHODS:
        found |= {f"{owner.__name__}.{n}": m for n, m in vars(owner).items() if n[0] != "_" and _is_documented(m)}
    return found


def _is_documented(member: Any) -> bool:
    return inspect.isfunction(member) or isinstance(member, property) or hasattr(member, "attrname")


PUBLIC = _public()


def _sections(item: Any) -> list[str]:
    return re.findall(r"^(\w+)\n-{3,}$", inspect.getdoc(item) or "", re.MULTILINE)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_have_an_example(name: str) -> None:
    assert "Examples" in _sections(PUBLIC[name])
    assert ">>> " in (inspect.getdoc(PUBLIC[name]) or "")


@pytest.mark.parametrize("name", [name for name, item in PUBLIC.items() if inspect.isfunction(item)])
def test_docstrings_describe_every_parameter(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    if "Parameters, results and errors are those of" in text:  # a method that hands everything on
        return
    names = [n for n in inspect.signature(PUBLIC[name]).parameters if n != "self"]
    described = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-{3,}$|\Z)", text, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^\w.*$", described[1], re.MULTILINE) if described else []
    assert [n for line in lines for n in line.split(", ")] == names


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_have_no_empty_place(name: str) -> None:
    assert re.findall(r"^ *\{\w+\}$", inspect.getdoc(PUBLIC[name]) or "", re.MULTILINE) == []


def test_every_function_has_its_question() -> None:
    names = [f"{face}.{name}" for face in FACES for name in getattr(dw, face).__all__]
    names += [name for name in dw.__all__ if name not in (*FACES, "__version__")]
    page = _page("which-function")
    assert [name for name in names if not re.search(rf"`(?:donorwise|dw)\.{re.escape(name)}`", page)] == []


def test_every_plot_has_its_picture() -> None:
    """Under a heading of its name, with the code that draws it; the pictures are drawn when the site is built."""
    headings = re.split(r"^### ", _page("plots"), flags=re.MULTILINE)[1:]
    assert sorted(part.split("`")[1] for part in headings) == sorted(dw.pl.__all__)
    for part in headings:
        name = part.split("`")[1]
        assert f"dw.pl.{name}(" in part
        assert f"pictures/{name}.png" in part


@pytest.mark.slow
def test_pictures_are_drawn(tmp_path: Path) -> None:
    drawn = runpy.run_path(str(DOCS / "pictures.py"))["draw"](DOCS / "plots.md", tmp_path)
    assert sorted(drawn) == sorted(dw.pl.__all__) == sorted(path.stem for path in tmp_path.glob("*.png"))


PLAIN = {"Any", "Audit", "Axes", "Figure", "Hashable", "Iterable", "Literal", "Mapping", "None", "PathLike", "Sequence"}
"""What signatures say that has its place elsewhere: in Python, matplotlib, or beside the accessor."""


@pytest.mark.parametrize("name", [name for name, item in PUBLIC.items() if inspect.isfunction(item)])
def test_types_of_signatures_are_explained(name: str) -> None:
    """Names that Sphinx cannot look up: of one word, and imported for the checker alone (arrays it is told of)."""
    spelled = " ".join(str(annotation) for annotation in PUBLIC[name].__annotations__.values())
    own = set(re.findall(r"(?<![.\w'\"])[A-Z]\w+", re.sub(r"(['\"]).*?\1", "", spelled)))
    listed = set(re.findall(r"^\.\. py:type:: (\w+)$", _page("types"), re.MULTILINE))
    arrays = {word for word in own if word.endswith("Array")}
    looked_up = PUBLIC[name].__globals__.keys() | set(dw.__all__)
    assert own - PLAIN - arrays - listed - looked_up == set()


def test_types_are_listed_with_their_options() -> None:
    shown = dict(re.findall(r'py:type:: (\w+)\n +:canonical: (".*)', _page("types")))
    modules = (_typing, exact_features, import_module("donorwise.pl._heatmap"))
    actual = {name: alias for module in modules for name, alias in vars(module).items() if name in shown}
    assert {name: re.findall(r'"(.*?)"', text) for name, text in shown.items()} == {
        name: list(get_args(alias)) for name, alias in actual.items()
    }


def test_shared_texts_are_written_once() -> None:
    """And shared they are."""
    sources = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py") if path.name != "_docs.py"]
    used = [place for source in sources for place in re.findall(r"^ +\{(\w+)\}$", source, re.MULTILINE)]
    assert [name for name in TEXTS if used.count(name) < 2] == []
    faces = [path.read_text(encoding="utf-8") for face in FACES for path in (SOURCE / face).glob("*.py")]
    once = {name: text.splitlines()[-1].strip() for name, text in TEXTS.items()}
    assert [name for name, text in once.items() if any(f" {text}\n" in source for source in faces)] == []


def test_documented_without_docstrings() -> None:
    """As Python runs with ``-OO``."""
    assert documented(lambda: 1)() == 1


def _strings(path: Path) -> list[str]:
    """Constant parts of the strings in a file, as the user reads them (adjacent pieces joined)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pieces = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    joined = (
        "".join(v.value if isinstance(v, ast.Constant) else "…" for v in n.values)
        for n in ast.walk(tree)
        if isinstance(n, ast.JoinedStr)
    )
    return [*pieces, *joined]


def test_page_of_statuses_has_them_all() -> None:
    assert re.findall(r"^\| `(\w+)` \|", _page("statuses-and-warnings"), re.MULTILINE) == list(STATUSES)


_AUDIT = (
    audit_checks, audit_covariates, audit_depth, audit_omitted, audit_advice, audit_people, audit_slopes, audit_kernels, audit_rivals,
)  # fmt: skip
LISTED = {"confined", "unequal_arms", "period_left_out", "hardly_told", "kernel_warnings"}
"""Findings of the audit that are warnings or notes, or also those of a fit without one, so that their functions return lists."""


def test_page_of_warnings_has_every_finding_of_the_audit() -> None:
    findings = {
        name
        for module in _AUDIT
        for name, item in vars(module).items()
        if inspect.isgeneratorfunction(item) or name in LISTED
        if item.__module__ == module.__name__ and name[0] != "_"
    }
    assert set(re.findall(r"^\(audit-(\w+)\)=$", _page("statuses-and-warnings"), re.MULTILINE)) == findings


def test_page_of_warnings_quotes_the_code() -> None:
    """A text that the page quotes, from headings and tables, still occurs in the code."""
    quoted = re.findall(r'^(?:### |\| )"([^"]+)"', _page("statuses-and-warnings"), re.MULTILINE)
    texts = [text for path in SOURCE.rglob("*.py") for text in _strings(path)]
    assert len(quoted) > 20
    assert [q for q in quoted if not any(q in text for text in texts)] == []


def test_formulas_of_the_decision_table_parse() -> None:
    formulas = [f.replace("\\|", "|") for f in re.findall(r"`(~ [^`]+)`", _page("which-model"))]
    assert len(formulas) > 10
    for formula in formulas:
        parse(formula)


def test_papers_that_the_code_names_are_listed() -> None:
    """By the year and an author: the one whose name stands before it, or before "et al." """
    entries = (DOCS / "references.bib").read_text(encoding="utf-8").split("\n@")
    listed = {
        (author.split(",")[0].split()[-1], year)
        for entry in entries
        for year in re.findall(r"year = \{(\d+)\}", entry)
        for author in re.findall(r"author = \{(.*)\}", entry)[0].split(" and ")
    }
    name = re.compile(r"([A-Z][\wö-]*[a-zö])(?: et al\.)?,?\s\(?((?:19|20)\d\d)\b(?!-\d)")
    named = {found for path in SOURCE.rglob("*.py") for found in name.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 50
    assert named - listed == set()


def test_papers_that_pages_cite_are_listed() -> None:
    keys = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(encoding="utf-8"), re.MULTILINE))
    pages = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    cited = {key for keys_ in re.findall(r"\{cite:\w+\}`(.*?)`", pages) for key in keys_.split(",")}
    assert cited <= keys
