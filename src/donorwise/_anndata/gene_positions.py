"""Where genes are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.kinship.labels import bare_chromosomes

if TYPE_CHECKING:
    import pandas as pd

    from donorwise._typing import IntArray, StrArray


class GenePositions(NamedTuple):
    """Chromosome and start of transcription of G genes, (G,)."""

    chrom: StrArray
    tss: IntArray


def gene_positions(var: pd.DataFrame, chrom: StrArray) -> GenePositions:
    """Positions in the columns chrom and tss."""
    return GenePositions(bare_chromosomes(var["chrom"].to_numpy(dtype=str)), var["tss"].to_numpy(dtype=np.int64))
