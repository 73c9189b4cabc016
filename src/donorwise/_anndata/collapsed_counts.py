"""What collapsed rows keep of their cells' counts for generalised models: how it is stored, and read.

Of a family (`nb`, `cloglog`) that needs the depth of every cell there is, for each of J nodes of log depth, a layer
``<family>_own:<j>`` of counts (of cells with a count, for `cloglog`) and a column of ``obsm["<family>_shared"]``, cells; and
for `nb` a layer ``nb_tail:<h>`` for each of H values of counts, cells. The nodes and values are in ``uns``. See
`donorwise._core.cells.nodes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata.obs import computed
from donorwise._anndata.origin import COLLAPSED, COUNT_DEPTH, COUNTS, DETECTED, N_CELLS, read_origin
from donorwise._anndata.slots import column_of, some_of
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

    from donorwise._core.cells.counted_rows import CountedRows, RowCounts
    from donorwise._core.cells.nodes import Nodes
    from donorwise._core.cells.tails import Tails
    from donorwise._typing import FloatArray, IntArray

NB, CLOGLOG = "nb", "cloglog"
KEPT = {NB: "negative binomial models", CLOGLOG: "models of detection with link='cloglog'"}
"""What rows can keep, and what for; by the names of `donorwise._core.cells.nodes.SMOOTH`."""


def kept_families(adata: ad.AnnData) -> tuple[str, ...]:
    """Which of `KEPT` these rows keep."""
    return tuple(kind for kind in KEPT if f"{kind}_nodes" in adata.uns[COLLAPSED])


def read_row_counts(adata: ad.AnnData, kind: str, *, detected: bool) -> RowCounts:
    """What generalised models need of the counts of the cells behind rows.

    Parameters
    ----------
    adata
        Collapsed rows.
    kind
        What is wanted besides sums, one of `KEPT`; empty for nothing.
    detected
        Whether cells with a count are wanted instead of counts. Without nodes each of them has an exposure of 1.

    Raises
    ------
    DataError
        The rows do not have it; says how they would.
    """
    from donorwise._core.cells.counted_rows import RowCounts

    check_kept(adata, kind, detected=detected)
    nodes, tails = _read_nodes(adata, kind) if kind else (None, None)
    n, n_nodes, n_tails = column_of(adata, N_CELLS), 0, 0
    if nodes is not None:
        n_nodes, n_tails = len(nodes.at), 0 if tails is None else len(tails.values)
        _check_whole(adata, kind, n_nodes, n_tails)
    shared = np.array(adata.obsm[f"{kind}_shared"], dtype=np.float64) if kind else np.zeros((n.size, 0))
    exposure = n if detected and not kind else column_of(adata, COUNT_DEPTH)
    layers = adata.layers  # anndata looks at all of them whenever it is asked for them

    def read(name: str, number: int, rows: IntArray, features: IntArray | None) -> FloatArray:
        own = [layer_name(kind, name, number)]
        if name == "total":
            own = [DETECTED if detected else COUNTS]
            if detected and kind:  # of the counts, not of what was modelled: cells at the nodes add up to them
                own = [layer_name(kind, "own", i) for i in range(n_nodes)]
        values = sum(some_of(layers[layer], rows, features) for layer in own)
        return np.rint(values) if name == "total" else np.asarray(values)

    return RowCounts(n.astype(np.int64), exposure, shared, nodes, tails, read)


def layer_name(kind: str, what: str, number: int) -> str:
    """Layer of the counts at a node (``"own"``), or of the cells at a value (``"tail"``)."""
    return f"{kind}_{what}:{number:02d}"


def read_counted_rows(adata: ad.AnnData) -> dict[str, CountedRows]:
    """All that is kept, by family, in memory."""
    from donorwise._core.cells.counted_rows import CountedRows

    rows, n = np.arange(adata.n_obs), int(adata.n_obs)
    sources = {kind: read_row_counts(adata, kind, detected=kind == CLOGLOG) for kind in kept_families(adata)}
    return {kind: CountedRows(own.patterns(rows, n), own.nodes, own.tails) for kind, own in sources.items()}


def counted_slots(kept: Mapping[str, CountedRows]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Layers, entries of obsm, and entries of ``uns`` that keep these; views of their arrays."""
    layers: dict[str, Any] = {}
    obsm: dict[str, Any] = {}
    uns: dict[str, Any] = {}
    for kind, rows in kept.items():
        for what, values in (("own", rows.counted.own), ("tail", rows.counted.tail)):
            layers |= {layer_name(kind, what, i): values[:, i] for i in range(values.shape[1])}
        obsm[f"{kind}_shared"] = rows.counted.shared
        if rows.nodes is not None:
            uns[f"{kind}_nodes"] = rows.nodes.at
            uns[f"{kind}_range"] = np.array([rows.nodes.low, rows.nodes.high, rows.nodes.error])
        if rows.tails is not None:
            uns[f"{kind}_values"] = rows.tails.values
            uns[f"{kind}_exact"] = np.array([rows.tails.exact, rows.tails.largest])
    return layers, obsm, uns


def _read_nodes(adata: ad.AnnData, kind: str) -> tuple[Nodes, Tails | None]:
    from donorwise._core.cells.nodes import Nodes
    from donorwise._core.cells.tails import Tails

    entry = {name: np.asarray(computed(v)) for name, v in adata.uns[COLLAPSED].items() if name.startswith(f"{kind}_")}
    low, high, error = entry[f"{kind}_range"].tolist()
    nodes = Nodes(np.atleast_1d(entry[f"{kind}_nodes"]), low, high, error)
    if f"{kind}_values" not in entry:
        return nodes, None
    exact, largest = entry[f"{kind}_exact"].tolist()
    return nodes, Tails(np.atleast_1d(entry[f"{kind}_values"]), int(exact), largest)


def check_kept(adata: ad.AnnData, kind: str, *, detected: bool) -> None:
    """Raise unless the rows have what is asked for."""
    origin = read_origin(adata)
    if origin.counts_layer is None and not (detected and not kind):
        more = f" and glmm={kind!r}" if kind else ""
        raise DataError(f"These rows were collapsed without counts: give counts_layer={more} to dw.pp.collapse.")
    families = kept_families(adata)
    if kind and kind not in families:
        depth = f", depth={origin.depth!r}" if origin.depth else ""
        other = "".join(f" and what {KEPT[name]} need," for name in families)
        glmm = [*families, kind] if families else kind
        raise DataError(
            f"These rows keep no more than sums of the counts{other or ','} and {KEPT[kind]} need the depth of every cell: collapse the "
            f"cells again, with dw.pp.collapse(..., counts_layer={origin.counts_layer!r}{depth}, glmm={glmm!r})."
        )


def _check_whole(adata: ad.AnnData, kind: str, n_nodes: int, n_tails: int) -> None:
    """Raise where a part is not there any more."""
    numbers, layers = (("own", n_nodes), ("tail", n_tails)), adata.layers
    names = [layer_name(kind, what, i) for what, size in numbers for i in range(size)]
    missing = [f"layers[{name!r}]" for name in names if name not in layers]
    missing += [] if f"{kind}_shared" in adata.obsm else [f"obsm['{kind}_shared']"]
    if missing:
        raise DataError(f"This collapsed AnnData is not whole: it has no {', '.join(missing)}.")


def check_glmm(glmm: str | Sequence[str] | None, counts_layer: str | None) -> tuple[str, ...]:
    """The families named by ``glmm=`` of :func:`donorwise.pp.collapse`, in the order of `KEPT`.

    Raises
    ------
    DataError
        One is not known, or there are no counts.
    """
    names = list(glmm) if isinstance(glmm, list | tuple | set) else [] if glmm is None else [glmm]
    unknown = next((name for name in names if name not in KEPT), None)
    if unknown is not None:
        raise DataError(
            f"glmm={unknown!r}: rows can keep {' and '.join(map(repr, KEPT))}. Models with family='poisson', and of detection "
            "with the link 'logit', need no more than counts_layer=."
        )
    if names and counts_layer is None:
        raise DataError("glmm= keeps what models need of the counts: name their layer with counts_layer=.")
    return tuple(kind for kind in KEPT if kind in names)
