"""Fits of models that are known by their law on a grid of variances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from donorwise._core.engine.partition import term_labels
from donorwise._core.inference.moderation import Learned, learn
from donorwise._core.models.law import STATUS_DTYPE, Model

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray, IntArray, StrArray

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, kw_only=True)
class LawFit(Generic[M]):
    """One model of those of G features that have a response (see :class:`donorwise._core.engine.tasks.Fit`).

    Attributes
    ----------
    variables
        Names of the G features.
    models
        The model of the features that have a response.
    n_donors, n_obs
        Shape (G,). Replicates and cells.
    n_jobs
        Threads that learn the prior.
    """

    variables: tuple[str, ...]
    models: tuple[M, ...]
    n_donors: IntArray
    n_obs: IntArray
    n_jobs: int = 1

    @property
    def design(self) -> Design:
        """The design that all share."""
        return self.models[0].design

    @property
    def random_labels(self) -> tuple[str, ...]:
        """What shares of the random terms are called."""
        return tuple(term_labels(self.design))

    @cached_property
    def status(self) -> StrArray:
        """Whether each feature has a response that varies, (G,)."""
        out = np.full(len(self.variables), "constant", dtype=STATUS_DTYPE)
        out[self.models[0].features] = "ok"
        return out

    @cached_property
    def learned(self) -> Learned:
        """The prior that the features share."""
        return learn(self.models, n_jobs=self.n_jobs)

    def spread(self, values: FloatArray) -> FloatArray:
        """Values of the model's features as values of all, NaN for the others."""
        out = np.full((len(self.variables), *values.shape[1:]), np.nan)
        out[self.models[0].features] = values
        return out
