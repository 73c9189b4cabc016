"""How much a pass over a matrix holds, reads and sends at a time."""

from __future__ import annotations

from typing import NamedTuple


class Budget(NamedTuple):
    """Bounds of a pass; the statistics do not depend on them, but for `segment_rows` by rounding.

    Attributes
    ----------
    segment_rows
        A pattern of more rows is cut, so that few patterns still keep many threads busy.
    chunk_bytes
        Decompressed values that are read at a time.
    plan_items
        Rows (or columns) whose sizes are looked at together.
    process_bytes
        Starting processes takes seconds: below this many bytes, decompressed, a thread reads faster.
    range_bytes
        Decompressed values that are in the memory of a task of a cluster.
    result_bytes
        Statistics that a task of a cluster may find; what they say of each tile is picked out where they are.
    message_bytes
        What goes from one worker of a cluster to another, and to the client, is no larger.
    """

    segment_rows: int = 16_384
    chunk_bytes: int = 2**25
    plan_items: int = 2**18
    process_bytes: int = 2**29
    range_bytes: int = 2**27
    result_bytes: int = 2**28
    message_bytes: int = 2**26


BUDGET = Budget()
