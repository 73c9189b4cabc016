"""Arrays and a DataFrame in, fitted models out."""

from __future__ import annotations

from donorwise.engine.run import fit_lmm, fit_statistics, fit_tasks
from donorwise.engine.statistics import Statistics, Task, collapse_tasks

__all__ = ["Statistics", "Task", "collapse_tasks", "fit_lmm", "fit_statistics", "fit_tasks"]
