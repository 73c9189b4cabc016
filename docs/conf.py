"""Sphinx configuration: ``python -m sphinx -W docs docs/_build/html``.

``-t offline`` does without the inventories of other projects; ``-D nb_execution_mode=force`` runs the
tutorials, which are kept without outputs.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils.nodes import Text
from sphinx import addnodes
from sphinx.ext.napoleon import NumpyDocstring

if TYPE_CHECKING:
    from docutils.nodes import document
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for pictures.py
OFFLINE = tags.has("offline")  # noqa: F821  defined by Sphinx

project = "donorwise"
author = "the donorwise developers"
copyright = author
version = release = installed_version("donorwise")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "donorwise"
html_theme_options = {"show_navbar_depth": 1, "navbar_persistent": []}

autosummary_ignore_module_all = False  # the public functions of a face are its __all__
autosummary_imported_members = True  # where private modules hold them
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
nitpicky = True
# What attributes of fits and of an audit hold of the package's inside: nothing that anybody asks for by this name.
nitpick_ignore = [("py:class", name) for name in ("Design", "Grouping", "Learned", "Prior")]
if OFFLINE:  # names of other projects have their targets in the inventories
    nitpick_ignore_regex = [("py:.*", r"(anndata|collections|matplotlib|numpy|os|pandas)\..*")]
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force" if os.environ.get("READTHEDOCS") else "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 600

# what the kernels of the tutorials inherit
os.environ.pop("MPLBACKEND", None)  # with another than the notebooks' own there would be no pictures
os.environ["TQDM_DELAY"] = "3600"  # seconds until a progress bar appears: pages would show each of its steps
# decoupler imports tqdm's bars for notebooks, which miss ipywidgets aloud
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

intersphinx_mapping = (
    {}
    if OFFLINE
    else {
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
    }
)


# annotations as the code spells them, or as Python knows them inside -> names that are documented
DOCUMENTED = {
    "ad.AnnData": "anndata.AnnData",
    "anndata._core.anndata.AnnData": "anndata.AnnData",
    "Axes": "matplotlib.axes.Axes",
    "Figure": "matplotlib.figure.Figure",
    "np.ndarray": "numpy.ndarray",
    "BoolArray": "numpy.ndarray",
    "FloatArray": "numpy.ndarray",
    "IntArray": "numpy.ndarray",
    "StrArray": "numpy.ndarray",
    "PathLike": "os.PathLike",
    "pd.DataFrame": "pandas.DataFrame",
    "pandas.core.frame.DataFrame": "pandas.DataFrame",
    "donorwise._core.design.arms.Arms": "Arms",
    "donorwise._core.design.comparisons.Pairwise": "Comparisons",
    "donorwise._core.design.comparisons.Slope": "Comparisons",
    "donorwise._core.design.cond.Cond": "Cond",
}


def _name_targets(app: Sphinx, doctree: document) -> None:
    for reference in doctree.findall(addnodes.pending_xref):
        written = reference["reftarget"]
        if written in DOCUMENTED:
            reference["reftarget"] = DOCUMENTED[written]
            for text in reference.findall(Text):
                text.parent.replace(text, Text(DOCUMENTED[written].rpartition(".")[2]))


def _parse_returns(self: NumpyDocstring, section: str) -> list[str]:
    """Prose under Returns stays prose: napoleon would take its lines for types."""
    return [":returns:", *self._indent(self._dedent(self._consume_to_next_section())), ""]


def _copy_tutorials(app: Sphinx) -> None:
    """Bring the notebooks, and scripts that they link to, under the documentation's root: Sphinx looks no further."""
    target = HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in (HERE.parent / "tutorials").iterdir():
        if file.suffix in (".ipynb", ".py", ".sh"):
            shutil.copy2(file, target)


def _draw_pictures(app: Sphinx) -> None:
    import matplotlib as mpl
    import pictures

    if pictures.outdated():
        with mpl.rc_context({"backend": "agg"}):
            pictures.draw()


def _show_picture(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Plots have theirs on their own page as well."""
    plot = name.rpartition(".")[2]
    if what == "function" and name.startswith("donorwise.pl."):
        lines += ["", f".. image:: /pictures/{plot}.png", f"   :alt: {plot}", "   :width: 80%", ""]
        lines += ["Drawn with the code on :doc:`/plots`.", ""]


def setup(app: Sphinx) -> None:
    """Register what is particular to this project."""
    NumpyDocstring._parse_returns_section = _parse_returns
    app.connect("builder-inited", _copy_tutorials)
    app.connect("builder-inited", _draw_pictures)
    app.connect("autodoc-process-docstring", _show_picture)
    app.connect("doctree-read", _name_targets)
    # a list of pages by pattern may be empty; this warning has no type by which suppress_warnings could name it
    logging.getLogger("sphinx.sphinx.directives.other").addFilter(
        lambda record: getattr(record, "subtype", "") != "empty_glob"
    )
