"""Progress bars: widgets in notebooks that have ipywidgets, text elsewhere."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # tqdm warns where it falls back on text in a notebook, which needs nothing to be done
    warnings.filterwarnings("ignore", "IProgress not found")
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
