"""Arrays and a DataFrame in, fitted models out."""

from __future__ import annotations

from donorwise.engine.run import Task, fit_lmm, fit_tasks

__all__ = ["Task", "fit_lmm", "fit_tasks"]
