"""Preparation: covariates that the models need."""

from __future__ import annotations

from donorwise.pp.log_depth import log_depth

__all__ = ["log_depth"]
