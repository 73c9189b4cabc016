"""PyDESeq2 on sums over the cells of a sample; its Cook's filter may leave genes without a p-value."""

from __future__ import annotations

import contextlib
import io
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from benchmarks.calibration.data import CountData
from benchmarks.calibration.methods import Method


def p_values(data: CountData) -> np.ndarray:
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.default_inference import DefaultInference
    from pydeseq2.ds import DeseqStats

    counts, samples = data.sums()
    inference = DefaultInference(n_cpus=1)
    design = "~ donor + condition" if data.paired else "~ condition"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        fitted = DeseqDataSet(counts=counts, metadata=samples, design=design, inference=inference, quiet=True)
        fitted.deseq2()
        tests = DeseqStats(fitted, contrast=["condition", "case", "control"], inference=inference, quiet=True)
        tests.summary()
    return tests.results_df["pvalue"].reindex(counts.columns).to_numpy(dtype=np.float64)


def _has_cells(data: Any) -> bool:
    return isinstance(data, CountData)


METHODS = (Method("PyDESeq2", p_values, _has_cells, "" if find_spec("pydeseq2") else "the package pydeseq2"),)
