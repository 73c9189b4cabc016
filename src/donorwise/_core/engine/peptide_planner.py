"""Power of studies of peptides with more or fewer runs of each donor: see :class:`donorwise._core.engine.power.Planner`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.engine.power import Known, Planned
from donorwise._core.models.lmm.ragged import RaggedEquations
from donorwise._core.models.lmm.ragged_fit_kernels import evaluate_ragged

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.lmm.ragged_model import RaggedLMM
    from donorwise._typing import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class PeptidePlanner:
    """Models of proteins: their peptides, and what is missing of them, are as they were; a donor has more or fewer runs.

    Where f runs stand for each of a donor's, their means say what the data say: the variance of the residuals and of what
    every run has of its own is divided by f, the other variances stay.

    Attributes
    ----------
    donors, runs
        Shape (K,). Donor and run of each pattern.
    of_runs
        Shape (T,). Terms of which every run has effects of its own.
    measured
        Measurements in a run, of the median protein.
    """

    donors: IntArray
    runs: IntArray
    of_runs: BoolArray
    measured: float

    @classmethod
    def of(cls, design: Design, donor: str, donors: IntArray, runs: IntArray, n_obs: IntArray) -> PeptidePlanner:
        """The planner of a design whose `donors` are the levels of the grouping factor `donor`, for proteins with `n_obs` (G,)."""
        # a donor's sample of one run remains one sample with more of them
        known = {*donor.split(":"), *design.parsed.variables}
        own = [bool(set(t.bar.group) - known) and _inside(t.codes, runs) for t in design.random_terms]
        measured = float(np.median(n_obs[n_obs > 0])) / np.unique(runs).size
        return cls(donors, runs, np.array(own, dtype=bool), measured)

    @property
    def runs_of_donors(self) -> IntArray:
        """Runs of every donor in the fitted study, (D,)."""
        return count_runs(self.donors, self.runs)

    def n_obs(self, n_donors: int, n_cells: int) -> float:
        """Measurements of a usual protein."""
        return n_donors * n_cells * self.measured

    def most_df(self, n_obs: float, p: int) -> float:
        """Those of the residual variance."""
        return n_obs - p

    def at(self, n_cells: int, known: Known[RaggedLMM], L: FloatArray) -> Planned:
        """A contrast in a study with `n_cells` runs of every donor, spread over its samples as they are."""
        equations = known.model.equations
        factor = (n_cells / self.runs_of_donors)[self.donors]
        after = _relative(known, self._with_runs(equations, factor), L)
        return Planned(known.variance * after / _relative(known, equations, L), after)

    def from_estimates(self, model: RaggedLMM, L: FloatArray) -> Known[RaggedLMM]:
        """Variances at the estimates."""
        one, variance = np.ones((model.features.size, 1)), np.einsum("p,gpr,r->g", L[0], model.vcov_beta, L[0])
        return Known(model, model.estimates.gamma, variance[:, None], one, one)

    def _with_runs(self, equations: RaggedEquations, factor: FloatArray) -> RaggedEquations:
        """Equations in which a pattern stands for `factor` (K,) runs, in units of the residual variance of one."""
        rows = equations.rows
        z = equations.z / np.where(self.of_runs, np.sqrt(factor)[:, None], 1.0)
        more = replace(rows, w=rows.w * factor[rows.pattern])
        made = RaggedEquations.of(more, equations.X @ equations.factor, z, range(z.shape[1]))
        return replace(made, kept=equations.kept)


def count_runs(donors: IntArray, runs: IntArray) -> IntArray:
    """Runs of every donor, (D,), from donor and run of patterns (K,)."""
    return np.bincount(np.unique(np.stack([donors, runs]), axis=1)[0])


def _inside(codes: IntArray, runs: IntArray) -> bool:
    """Whether each level lies in one run."""
    return np.unique(np.stack([codes, runs]), axis=1).shape[1] == np.unique(codes).size


def _relative(known: Known[RaggedLMM], equations: RaggedEquations, L: FloatArray) -> FloatArray:
    """c'(X'V⁻¹X)⁻¹c of a contrast L (1, p) under other equations, V in units of sigma2, (G, points)."""
    own = known.variance.shape[1] == 1  # each feature its point
    c = L[0] @ equations.inverse
    points = known.points[None] if own else known.points[:, None]
    G, T, p = *equations.n_levels.shape, equations.p
    kept = equations.kept if own else np.ones((G, T), dtype=np.bool_)
    out = np.empty((G, len(points)))
    for k, point in enumerate(points):
        gamma = np.ascontiguousarray(np.broadcast_to(point, (G, T)))
        Phi, delta = np.zeros((G, p, p)), np.zeros((G, p))
        evaluate_ragged(
            equations.data, equations.basis, equations.rank, kept, gamma, True, np.ones((G, T)), np.empty((G, 4)), Phi, delta
        )  # fmt: skip
        out[:, k] = np.einsum("p,gpr,r->g", c, Phi, c)
    return out
