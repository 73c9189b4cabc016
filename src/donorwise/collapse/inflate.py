"""Compressed HDF5 datasets read in several threads at once.

HDF5 decompresses under a lock that all threads share. Here it hands over the stored bytes of each chunk, and they are
decompressed outside of it, which frees Python's own lock too.
"""

from __future__ import annotations

import zlib
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEFLATE, _SHUFFLE = 1, 2  # numbers of the filters (HDF5 specification, H5Z_FILTER_*)


def can_inflate(element: Any) -> bool:
    """Whether an element is an HDF5 dataset, open for reading only, that is compressed with gzip (and shuffled)."""
    filters = _filters(element)
    return _DEFLATE in filters and set(filters) <= {_DEFLATE, _SHUFFLE} and element.file.mode == "r"


def inflate(dataset: Any, span: slice) -> NDArray[Any]:
    """Rows of a dataset for which `can_inflate` is true: what ``dataset[span]`` is."""
    low, high, _ = span.indices(dataset.shape[0])
    out = np.empty((max(0, high - low), *dataset.shape[1:]), dtype=dataset.dtype)
    filters, sizes = _filters(dataset), dataset.chunks
    starts = [range(low // sizes[0] * sizes[0], high, sizes[0])]
    starts += [range(0, n, size) for n, size in zip(dataset.shape[1:], sizes[1:], strict=True)]
    for start in product(*starts) if out.size else ():
        chunk = _chunk(dataset, start, filters)
        if chunk is None:  # never written: HDF5 knows what it reads as
            return np.asarray(dataset[span])
        first = max(start[0], low)
        inner = (
            slice(first - start[0], high - start[0]),
            *(slice(0, n - s) for n, s in zip(out.shape[1:], start[1:], strict=True)),
        )
        block = chunk[inner]
        at = (first - low, *start[1:])
        out[tuple(slice(a, a + n) for a, n in zip(at, block.shape, strict=True))] = block
    return out


def _filters(element: Any) -> list[int]:
    """Numbers of the filters, in the order in which they were applied; empty for what is no chunked HDF5 dataset."""
    if getattr(element, "chunks", None) is None or not hasattr(element, "id"):
        return []
    properties = element.id.get_create_plist()
    return [int(properties.get_filter(i)[0]) for i in range(properties.get_nfilters())]


def _chunk(dataset: Any, start: tuple[int, ...], filters: list[int]) -> NDArray[Any] | None:
    """The chunk that begins at `start`, whole; None if it was never written."""
    try:
        skipped, raw = dataset.id.read_direct_chunk(start)
    except (RuntimeError, ValueError):
        if dataset.id.get_chunk_info_by_coord(start).byte_offset is None:
            return None
        raise
    n_bytes = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
    for i, kind in reversed(list(enumerate(filters))):
        if not skipped >> i & 1:
            raw = zlib.decompress(raw, bufsize=n_bytes) if kind == _DEFLATE else _unshuffle(raw, dataset.dtype.itemsize)
    return np.frombuffer(raw, dtype=dataset.dtype).reshape(dataset.chunks)


def _unshuffle(raw: bytes, size: int) -> bytes:
    """Values from their first bytes, then their second bytes, and so on."""
    return np.frombuffer(raw, dtype=np.uint8).reshape(size, -1).T.tobytes()
