"""Collapsing and merging that can be stopped: finished blocks are kept, and the result is made of them alone."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import is_collapsed
from donorwise._anndata.identity import digest, hash_cells
from donorwise._anndata.origin import COLLAPSED
from donorwise._batch.files import fingerprint, read_source, reading
from donorwise.errors import DataError, DonorwiseError, OutputError
from donorwise.pp._log_depth import log_depths
from donorwise.pp._merge_collapsed import (
    check_cohorts,
    merge_cohorts,
    merge_collapsed,
    merge_features,
    say_shared_donors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import anndata as ad
    import pandas as pd
    from numpy.typing import NDArray

    from donorwise._batch.partial import Partial

logger = logging.getLogger("donorwise")

CELLS = 1_000_000
_BLOCK_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of cells.

    Attributes
    ----------
    path
        Where it is.
    told
        What tells it from another, see :func:`donorwise._batch.files.fingerprint`.
    blocks
        Ranges of cells between which a collapse can stop.
    hashes
        What tells its cells from others, see :func:`donorwise._anndata.identity.hash_cells`.
    """

    path: Path
    told: dict[str, Any]
    blocks: list[tuple[int, int]]
    hashes: NDArray[np.uint64]


def survey(path: Path, *, columns: Sequence[str], layer: str | None, block_size: int | None) -> InputFile:
    """Look at a source before its cells are read; a matrix that is stored by columns is one block.

    `columns` are those that rows keep.
    """
    adata = read_source(path)
    with _naming(path):
        if is_collapsed(adata):
            raise DataError("this is collapsed already: put collapsed cohorts together with donorwise merge.")
        hashes = hash_cells(adata, columns)
    n = int(adata.n_obs)
    matrix = adata.layers.get(layer) if layer else adata.X
    step = max(1, n) if getattr(matrix, "format", "") == "csc" else block_size or CELLS
    blocks = [(low, min(n, low + step)) for low in range(0, max(1, n), step)]
    return InputFile(path, fingerprint(path, adata), blocks, hashes)


def add_log_depth(
    sources: Sequence[InputFile], *, layer: str | None, normalize: str
) -> Callable[[ad.AnnData, Path], None]:
    """What adds the logarithm of the cells' depth, centred over all sources, to the obs of a source once it is opened.

    Raises
    ------
    DataError
        See :func:`donorwise.pp.log_depth`; the message begins with the file. Or factors are asked for of units in several
        files, which would be compared within each.
    """
    if normalize != "depth" and len(sources) > 1:
        raise DataError(
            f"--normalize {normalize} compares units, which have to be in one file: collapse one with all cells."
        )
    found = {}
    for source in sources:
        with _naming(source.path), reading(source.path, layer or "X"):
            found[source.path] = log_depths(read_source(source.path), layer=layer, normalize=normalize)
    mean = np.concatenate(list(found.values())).mean()

    def add(cells: ad.AnnData, path: Path) -> None:
        cells.obs["log_depth"] = found[path] - mean

    return add


def collapse_sources(
    sources: Sequence[InputFile],
    collapse: Callable[[ad.AnnData], ad.AnnData],
    partial: Partial,
    *,
    element: str,
    begin: Callable[[ad.AnnData, Path], None] = lambda cells, path: None,
) -> ad.AnnData:
    """Collapse block by block what is not finished yet, and merge all blocks.

    Parameters
    ----------
    sources
        What to collapse.
    collapse
        :func:`donorwise.pp.collapse` with its options.
    partial
        Where finished blocks are kept.
    element
        The matrix that is read, for messages.
    begin
        Told of every source when it is opened.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.pp.collapse`; the message begins with the file.
    OutputError
        A block cannot be kept.
    """
    finished, number = partial.finished(), 0
    n_blocks = sum(len(source.blocks) for source in sources)
    for source in sources:
        own = range(number, number + len(source.blocks))
        number = own.stop
        if finished.issuperset(own):
            continue
        with _naming(source.path), reading(source.path, element):
            cells = read_source(source.path)
            begin(cells, source.path)
            for block, (low, high) in zip(own, source.blocks, strict=True):
                if block not in finished:
                    logger.info(
                        "Collapsing %s: %s of %s cells, block %d of %d.", source.path, f"{high - low:,}",
                        f"{cells.n_obs:,}", block + 1, n_blocks,
                        extra={"data": {"event": "block", "number": block + 1, "blocks": n_blocks}},
                    )  # fmt: skip
                    partial.save(block, collapse(_cells(cells, low, high)))
    rows = list(_merged_blocks(sources, partial))
    return rows[0] if len(rows) == 1 else merge_collapsed(rows)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say in which of several inputs something is wrong."""
    try:
        yield
    except OutputError:
        raise
    except DonorwiseError as error:
        raise type(error)(f"{path}: {error}") from error


def _cells(adata: ad.AnnData, low: int, high: int) -> ad.AnnData:
    """A range of cells, with the levels of all: the first is the reference of a formula."""
    import anndata as ad

    with ad.settings.override(remove_unused_categories=False):
        return adata if high - low == adata.n_obs else adata[low:high]


def _merged_blocks(sources: Sequence[InputFile], partial: Partial) -> Iterator[ad.AnnData]:
    """The rows of every source; no more than two tables at a time are in memory for one of them."""
    number = 0
    for source in sources:
        rows = partial.load(number)
        for later in range(number + 1, number + len(source.blocks)):
            rows = merge_cohorts([rows, partial.load(later)])
        number += len(source.blocks)
        rows.uns[COLLAPSED] = {**rows.uns[COLLAPSED], "cells": np.array([digest(source.hashes)], dtype=object)}
        yield rows


def merge_sources(
    paths: Sequence[Path], cohorts: Sequence[ad.AnnData], partial: Partial, *, block_size: int | None
) -> ad.AnnData:
    """Merge collapsed cohorts from these files, a block of features at a time, without the blocks that are finished.

    Raises
    ------
    DataError
        See :func:`donorwise.pp.merge_collapsed`.
    OutputError
        A block cannot be kept.
    """
    names, dropped = check_cohorts(cohorts, [str(path) for path in paths])
    say_shared_donors(cohorts)
    n_rows, n_tables = sum(a.n_obs for a in cohorts), 1 + max(len(a.layers) for a in cohorts)
    size = block_size or max(1, _BLOCK_BYTES // (8 * n_rows * n_tables))
    finished, starts = partial.finished(), range(0, len(names), size)
    for number, low in enumerate(starts):
        if number not in finished:
            block = names[low : low + size]
            parts = [_read(path, adata, block) for path, adata in zip(paths, cohorts, strict=True)]
            partial.save(number, merge_features(parts, block, dropped))
            data = {"event": "block", "number": number + 1, "blocks": len(starts)}
            logger.info("Merged block %d of %d.", number + 1, len(starts), extra={"data": data})
    return _side_by_side([partial.load(number) for number in range(len(starts))], cohorts[0][:, names].var)


def _read(path: Path, adata: ad.AnnData, names: Sequence[str]) -> ad.AnnData:
    """Some features of a collapsed cohort, in memory."""
    import anndata as ad

    with ad.settings.override(remove_unused_categories=False), _naming(path), reading(path, "X or a layer"):
        return adata[:, list(names)].to_memory()


def _side_by_side(blocks: Sequence[ad.AnnData], var: pd.DataFrame) -> ad.AnnData:
    """The same rows with the features of all blocks, which are `var`."""
    import anndata as ad

    first = blocks[0]
    names = [name for name in first.layers if name is not None]  # None: X, in anndata 0.13
    return ad.AnnData(
        X=np.concatenate([np.asarray(block.X) for block in blocks], axis=1),
        layers={name: np.concatenate([np.asarray(b.layers[name]) for b in blocks], axis=1) for name in names},
        obs=first.obs,
        var=var,
        obsm=dict(first.obsm),
        uns=dict(first.uns),
    )
