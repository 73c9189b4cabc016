"""One analysis: a model for every group of cells, its data and its contrasts, whatever the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import numpy as np

from donorwise._core.engine.after_fit import UNCORRECTED
from donorwise._core.engine.contrast_tables import contrast_table
from donorwise._core.engine.kernel_tables import kernel_table
from donorwise._core.engine.mean_scale import MeanScale
from donorwise._core.engine.random_parts import RandomPart, random_parts
from donorwise._core.engine.results import resolve_by_group, results_table
from donorwise._core.models.glmm.families import RATIO_OF_LINK
from donorwise._typing import DDF
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from donorwise._core.design.depth import Depth
    from donorwise._core.design.design import Design
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.engine.power import Planner
    from donorwise._core.engine.predictions import Predictor
    from donorwise._core.engine.results import Contrasts
    from donorwise._core.engine.row_residuals import RowResiduals
    from donorwise._core.engine.sources import Source
    from donorwise._core.engine.tasks import Fit, Task, TaskStatistics
    from donorwise._typing import FloatArray, IntArray

GB = 1e9
USUAL_CELLS = (20, 100, 500)
"""Numbers of cells of a donor that studies are planned with where nothing else is said."""
COLLAPSED = (
    "These rows were collapsed: they hold what models need of their cells, and not the cells, whose values terms could be taken "
    "out of. Fit the AnnData with the cells; what a donor or batch does to every gene is in dw.get.ranef."
)
S = TypeVar("S", bound="TaskStatistics")  # statistics of one task
F = TypeVar("F", bound="Fit[Any]")  # its fitted models


@dataclass(frozen=True, slots=True)
class Options:
    """How models are fitted and tested: degrees of freedom, REML or maximum likelihood, and what bounds outliers.

    `robust` is empty for nothing, or ``"huber"``. Effects up to `min_effect`, in units of the estimates, are no
    findings.
    """

    ddf: str = "moderated"
    reml: bool = True
    robust: str = ""
    min_effect: float = 0.0


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between families of models, as the params of a result say it.

    Attributes
    ----------
    method
        The tool.
    observations
        What a row of the model is: ``"cells"`` and their values, or their ``"counts"`` (or yes and no), ``"units"`` over
        whose cells counts were summed, or ``"peptides"`` as they were measured in runs.
    link
        What estimates are differences of: the response (``"identity"``), the ``"log"`` of its rate (for yes and no
        ``"cloglog"``), or ``"logit"`` for the logarithm of odds.
    prior_on
        What the shared prior is on: the ``"ratio"`` of a variance to that of the residuals, or the ``"variance"``.
    """

    method: str
    observations: str
    link: str
    prior_on: str


@dataclass(frozen=True, slots=True)
class Tables:
    """What is kept of one task: its tables, and what params say of it.

    Attributes
    ----------
    results
        A row per variable and contrast, whatever happened.
    varcomp, icc, variance_partition
        Long tables; None where nothing was fitted.
    prior
        The shared prior; None where tests are not moderated.
    size_factors
        What the depths of units were multiplied by; None for a model of cells.
    heritability
        Shares of variance of the terms with a kernel; None where there are none.
    ddf, note
        How the tests allow for unknown variances, and why not as asked for; empty where nothing was fitted.
    donor
        The column that counted as the replicate; empty where nothing was fitted.
    failed
        Why nothing was fitted; empty for a task that was.
    cautions
        What deserves a second look after the fit, by what it is about.
    """

    results: pd.DataFrame
    varcomp: pd.DataFrame | None = None
    icc: pd.DataFrame | None = None
    variance_partition: pd.DataFrame | None = None
    prior: pd.DataFrame | None = None
    size_factors: pd.DataFrame | None = None
    heritability: pd.DataFrame | None = None
    ddf: str = ""
    note: str = ""
    donor: str = ""
    failed: str = ""
    cautions: dict[str, str] = field(default_factory=dict)


class Replicates(NamedTuple):
    """Names of donors, and which of them each of K patterns belongs to, (K,)."""

    names: tuple[str, ...]
    codes: IntArray


TABLES = ("results", "varcomp", "icc", "variance_partition", "prior", "size_factors", "heritability")
FACTS = tuple(f.name for f in fields(Tables) if f.name not in TABLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis(ABC, Generic[S, F]):
    """A model for every group: its data, its contrasts, and what can be said of it before any fit.

    Attributes
    ----------
    formula, groupby
        As given, and the columns that make the groups.
    response, log_base, weights
        Names of the matrix and of the weights, and the base of the logarithm that the values are (NaN for none).
    variables
        Names of the G features.
    source
        Makes statistics.
    obs
        Rows of the designs: cells, or units of them.
    sizes
        Cells that each row of `obs` stands for; None for one.
    n_cells
        Cells of the input.
    tasks
        One per group.
    donor
        Column that is known to be the donor; empty for none.
    n_jobs, pass_jobs
        Threads of the fits, and of a pass over the cells (see `donorwise._core.cells.collapse.collapse`).
    names, contrasts
        Names of all contrasts, and those that each task can answer (None for none).
    warnings
        What deserves a second look before the fit.
    """

    family: ClassVar[Family]
    ddfs: ClassVar[tuple[str, ...]] = DDF  # the degrees of freedom that its tests can have

    formula: ParsedFormula
    groupby: tuple[str, ...]
    response: str
    log_base: float
    weights: str
    variables: tuple[str, ...]
    source: Source[S]
    obs: pd.DataFrame
    sizes: IntArray | None = None
    n_cells: int
    tasks: list[Task]
    donor: str
    options: Options = field(default_factory=Options)
    n_jobs: int = 1
    pass_jobs: int | None = 1
    names: tuple[str, ...] = ()
    contrasts: tuple[Contrasts | None, ...] = ()
    warnings: tuple[str, ...] = ()

    @abstractmethod
    def fit(self, number: int, statistics: S, update: Callable[[int], object]) -> F:
        """Fit the models of a task; `update` is told how many features are done."""

    @abstractmethod
    def tables(self, number: int, fit: F | None) -> Tables:
        """The tables of a task; without a fit every feature has its row all the same."""

    @property
    def pooled(self) -> bool:
        """Whether a model depends on the other features, whatever its tests do."""
        return False

    @abstractmethod
    def random_effects(self, fit: F, varcomp: pd.DataFrame) -> pd.DataFrame:
        """Effects of a task's units and levels: term, variable, level, column, value, cond_sd.

        `varcomp` are the variances that a result holds of the task, as in :class:`Tables`.
        """

    @abstractmethod
    def predictor(self, number: int, fit: F, varcomp: pd.DataFrame) -> Predictor:
        """What the models of a task say of the responses of single cells; `varcomp` as for :meth:`random_effects`."""

    @abstractmethod
    def row_residuals(self, number: int, statistics: S, fit: F, varcomp: pd.DataFrame) -> RowResiduals:
        """What the K patterns of a task's design have beside the fixed effects, on the scale of the linear predictor.

        `varcomp` as for :meth:`random_effects`.
        """

    @abstractmethod
    def donors(self, number: int) -> Replicates:
        """The donor of each pattern of a task's design."""

    @abstractmethod
    def planner(self, number: int, statistics: S, fit: F) -> Planner[Any]:
        """What is known of studies like that of a task with other numbers of cells."""

    @abstractmethod
    def replication(self, number: int, L: FloatArray) -> tuple[list[str], list[str]]:
        """What contrasts (n, p) of a task compare, and what to be warned of; see :func:`replication`."""

    def full_design(self, number: int) -> Design:
        """The design of a task, with all random terms that its models have."""
        return self._design(number)

    @property
    def without_cells(self) -> str:
        """Why there are no responses of single cells that terms could be taken out of; empty where there are."""
        return "" if self.source.from_cells else COLLAPSED

    def permuted_donors(self, number: int) -> IntArray | None:
        """The donor of each pattern, where a permutation cannot tell it from the design."""
        return None

    def usual_cells(self, number: int) -> tuple[int, ...]:
        """Numbers of cells of a donor that studies like that of a task may have."""
        return USUAL_CELLS

    @property
    def depth_in(self) -> Depth:
        """How the model takes the depth of cells."""
        return "values"

    @property
    def log2_unit(self) -> float:
        """A log2 fold change of one, in units of the estimates; NaN where these are no logarithms of ratios."""
        of_rates = RATIO_OF_LINK.get(self.family.link) == "rate_ratio"
        return float(np.log(2) if of_rates else np.log(2) / np.log(self.log_base))

    @property
    def mean_scale(self) -> MeanScale:
        """How means are told."""
        return MeanScale(self.family.link)

    @property
    def when_shifted(self) -> str:
        """What to do where the log fold changes of a contrast are far from zero as a whole."""
        return UNCORRECTED

    @abstractmethod
    def own_params(self) -> dict[str, Any]:
        """What params say of this kind of model alone."""

    def random_parts(self, number: int) -> list[RandomPart]:
        """The parts of a task's random effects that can be tested."""
        return random_parts(self._design(number))

    def shared_tables(self) -> dict[str, pd.DataFrame]:
        """Tables that belong to no task: weights of the contrasts; kernels of the formula, for the levels that there are."""
        designs = [task.design for task in self.tasks if task.design is not None]
        kernels = {"kernels": kernel_table(designs)} if self.formula.covs else {}
        return {"contrasts": contrast_table(self.tasks, self.contrasts), **kernels}

    def _design(self, number: int) -> Design:
        """The design of a task that has one."""
        design = self.tasks[number].design
        if design is None:
            raise DesignError(self.tasks[number].reason)
        return design

    def fitting(self, number: int) -> Callable[[S], F]:
        """What fits the models of a task from any of its statistics, in one thread."""
        alone = replace(self, n_jobs=1)
        return lambda statistics: alone.fit(number, statistics, lambda n: None)

    def results(
        self, number: int, tested: pd.DataFrame | None, *, n_donors: IntArray | int = 0, n_obs: IntArray | int = 0
    ) -> pd.DataFrame:
        """The results of a task from the tests of its contrasts (None for none); see :func:`results_table`."""
        return results_table(
            self.tasks[number], self.contrasts[number], tested, names=self.names, variables=self.variables,
            groups=tuple(task.name for task in self.tasks), n_donors=n_donors, n_obs=n_obs,
        )  # fmt: skip

    def asking(self, contrasts: Any) -> Self:
        """The same with these contrasts; None for every coefficient but the intercept."""
        names, found = resolve_by_group(self.tasks, contrasts, self.groupby)
        return replace(self, names=tuple(names), contrasts=tuple(found))

    def take_features(self, features: IntArray) -> Self:
        """The same with some features only."""
        variables = tuple(self.variables[i] for i in features)
        return replace(self, variables=variables, source=self.source.take_features(features))

    def take_tasks(self, numbers: Sequence[int]) -> Self:
        """The same with some tasks only."""
        contrasts = tuple(self.contrasts[i] for i in numbers)
        return replace(self, tasks=[self.tasks[i] for i in numbers], contrasts=contrasts)

    def few(self, n_features: int) -> Self:
        """The same with some features only, spread over all, to see how long it takes."""
        n = len(self.variables)
        return self.take_features(np.unique(np.linspace(0, n - 1, min(n, n_features)).astype(np.int64)))

    def cells_of(self, number: int) -> int:
        """Number of cells in use for a task."""
        design = self.tasks[number].design
        if design is None:
            return 0
        used = design.codes >= 0
        return int(used.sum() if self.sizes is None else self.sizes[used].sum())

    def passes(self, max_memory: float | None = None) -> list[list[int]]:
        """Numbers of the tasks that share a pass over the cells: as many in order as fit into `max_memory` GB.

        They depend on the input and the options alone, so that a resumed run adds the same numbers in the same
        order. Collapsed rows are read task by task, which costs nothing.
        """
        if not self.source.from_cells:
            return [[number] for number in range(len(self.tasks))]
        out: list[list[int]] = [[]]
        for number in range(len(self.tasks)):
            if max_memory is not None and out[-1] and self.bytes_of([*out[-1], number]) > max_memory * GB:
                out.append([])
            out[-1].append(number)
        return out

    def bytes_of(self, numbers: Sequence[int]) -> int:
        """Memory for the statistics of some tasks; for those of a file there are running sums while it is read."""
        return self.source.bytes_of([self.tasks[i] for i in numbers], len(self.variables))

    def statistics(self, numbers: Sequence[int] | None = None) -> list[S | None]:
        """The statistics of some tasks (all if None) from one pass over the cells; None for a task without a design."""
        tasks = self.tasks if numbers is None else [self.tasks[i] for i in numbers]
        return self.source.statistics(tasks, self.variables, self.pass_jobs)
