"""What the docstrings of public functions share, written once: a line ``{key}`` in one stands for the text of that name.

A text is a whole entry of a numpydoc section, several of them, or what stands under the names of some parameters.
"""

from __future__ import annotations

import re
from textwrap import indent
from typing import TypeVar

T = TypeVar("T")

TEXTS = {
    # what is given
    "adata_cells": """\
adata
    Cells x features, log-normalised; or cells collapsed by :func:`donorwise.pp.collapse`, whose weights then apply.""",
    "adata_cells_counts": """\
adata
    Cells x features; or cells collapsed by :func:`donorwise.pp.collapse` with ``counts_layer=``, and for ``family="nb"`` and
    ``link="cloglog"`` with ``glmm=``. Formulas take no covariate there that differs between the cells of a row.""",
    "adata_result": """\
adata
    AnnData that holds a result of :func:`donorwise.tl.lmm`, :func:`donorwise.tl.glmm` or
    :func:`donorwise.tl.pseudobulk`. Features that are no longer in ``var`` are left out.""",
    "adata_refit": """\
adata
    AnnData that holds a result, and the cells (or collapsed rows) that it was fitted to.""",
    "adata_tests": """\
adata
    AnnData that holds a calibration (:func:`donorwise.tl.calibrate`), a result of tests or a scan
    (:func:`donorwise.tl.scan`); or a scan wherever it is, as in :func:`donorwise.pl.manhattan`.""",
    "scan_source": """\
source
    An AnnData that holds a scan over variants, the folder that one wrote with ``out=`` (which needs pyarrow, the extra
    ``parquet``), or the result of a scan of arrays. Genes that are no longer in ``var`` are left out.""",
    "scan_key": """\
key
    Entry of ``uns`` of an AnnData that holds the scan.""",
    "export_path": """\
path
    File to write, compressed where its name ends in ``.gz``; the file appears when it is whole. None returns the table.""",
    "export_trait": """\
gene, group
    The gene (or trait) and the group whose tests are meant; may be left out where there is only one.""",
    "key": """\
key
    Entry of ``uns`` that holds the result.""",
    "key_calibration": """\
key
    Entry of ``uns`` that holds the calibration.""",
    "key_tests": """\
key
    Entry of ``uns`` that holds it; None for the calibration where there is one, else the result.""",
    # what is fitted
    "groupby": """\
groupby
    Column of obs, for instance the cell type: every group is fitted for itself, from the same pass. Several columns,
    ``["cell_type", "tissue"]``, make a group of every combination that occurs, called ``"T cell | lung"``.""",
    "response": """\
layer, obsm, obs_keys
    Model a layer, a table of scores in ``obsm``, or columns of obs instead of X.""",
    "log_base": """\
log_base
    Base of the logarithm of 1 + x that the values are: ``"e"`` (as of ``sc.pp.log1p``), 2 or 10. None takes for X what
    ``uns["log1p"]`` says, and a layer or scores for no logarithms. Without one there is no `log_fc`.""",
    "layer_counts": """\
layer
    Layer of raw counts; None for X.""",
    "mask_var": """\
mask_var
    Boolean column of var, or array: which features to use. Depth is that of all genes anyway.""",
    "depth": """\
depth
    Column of obs with the depth of every cell, such as its total counts; the sum of its counts if None.""",
    "weights": """\
weights
    Precision weights of the cells: a column of obs or an array (n_obs,).""",
    "weights_again": """\
weights
    As given to the tool that fitted, where that was an array.""",
    "contrasts": """\
contrasts
    As in :meth:`donorwise.LMMFit.test`; every coefficient but the intercept if None.""",
    "kernels": """\
kernels
    Known covariances between donors, by the name that the formula has for them in ``(1 | gr(donor_id, cov=grm))``: a
    DataFrame whose index and columns are the donors (:func:`donorwise.pp.relatedness`), an xarray.DataArray, or an array.
relmat
    The short form of one kernel: ``{"donor_id": K}`` gives all random terms of ``donor_id`` this covariance.
levels
    Names of the rows of kernels that are arrays: one sequence for all of them, or one for each by name.""",
    "reml": """\
reml
    REML, or maximum likelihood.""",
    # how it runs, and where it goes
    "key_added": """\
key_added
    Entry of ``adata.uns`` for the results.""",
    "n_jobs": """\
n_jobs
    Threads; None takes scanpy's setting, and numba's for a pass over a matrix in memory; -1 all cores. The results do
    not depend on it.""",
    "max_memory": """\
max_memory
    GB for the statistics of groups that share a pass; None for one pass.""",
    "progress": """\
progress
    Show a progress bar.""",
    "copy": """\
copy
    Write into a copy of the AnnData, and return that.""",
    # what is read of it
    "keep": """\
Which rows to keep, one value or several; None keeps all. A group of several columns is ``"T cell | lung"`` or
``("T cell", "lung")``, one of numbers ``1`` or ``"1"``.""",
    "alpha_kept": """\
alpha
    Keep the tests with an adjusted p-value up to this; None keeps all.""",
    "sort_by": """\
sort_by
    Column to sort by, missing values last; None keeps the order of the features.""",
    "ascending": """\
ascending
    Direction of the sort.""",
    "symbols_beside": """\
gene_symbols
    Column of var with other names of the features, such as their symbols: `variables` may name these, and the table
    has them in a column of that name beside `variable`. A feature without a symbol keeps its own name, and where several
    have the same they are called ``"SYMBOL (name)"``. Only of features, not of results of `obsm` or `obs_keys`.""",
    "symbols": """\
gene_symbols
    Column of var with other names of the features, such as their symbols, which stand in place of the features' own
    and may be given wherever a feature is named; as in :func:`donorwise.get.tests`.""",
    "symbols_scan": """\
gene_symbols
    Column of var with other names of the genes, such as their symbols, which stand in place of the genes' own and may
    be given wherever a gene is named; of an AnnData.""",
    "min_log_fc": """\
min_log_fc
    Smallest absolute log2 fold change of such a test; None for any.""",
    "expression": """\
expression
    ``"all"`` features, or the ``"low"``, ``"middle"`` or ``"high"`` third of them by mean response.""",
    # what is drawn
    "contrast_drawn": """\
contrast
    The contrast to draw; None for the first one of the declared condition, else the first one.""",
    "group_drawn": """\
group
    Groups of ``groupby`` to draw; None for all.""",
    "group_panels": """\
group
    Groups of ``groupby`` to draw, one panel each; None for all.""",
    "n_variables": """\
n_variables
    How many features to draw where `variables` names none.""",
    "alpha": """\
alpha
    Adjusted p-value up to which a test counts as significant.""",
    "labels": """\
n_labels
    How many of the significant features to name in each panel, smallest p-value first.
labels
    Features to name in any case.
adjust_text
    Leave it to adjustText (the extra ``labels``) where the names go. The placement that is built in keeps names
    from overlapping and leaves out those without room; adjustText writes them all.""",
    "ax": """\
ax
    Axes to draw in, for one panel.""",
    "show": """\
show
    Show the figure and return nothing.
return_fig
    Return the figure.""",
    "axes": "The Axes, the Figure with ``return_fig``, or None with ``show``.",
    "axes_panels": "The Axes, an array of Axes for several panels, the Figure with ``return_fig``, or None with ``show``.",
}

_PLACE = re.compile(r"^( *)\{(\w+)\}$", re.MULTILINE)


def documented(item: T) -> T:
    """Fill the places of a docstring; there is none where Python runs with ``-OO``.

    Examples
    --------
    >>> @documented
    ... def show(key):
    ...     '''Show a result.
    ...
    ...     {key}
    ...     '''
    >>> print(show.__doc__)
    Show a result.
    <BLANKLINE>
        key
            Entry of ``uns`` that holds the result.
    """
    if item.__doc__:
        item.__doc__ = _PLACE.sub(lambda place: indent(TEXTS[place[2]], place[1]), item.__doc__)
    return item
