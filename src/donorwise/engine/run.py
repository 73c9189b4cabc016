"""Arrays and a DataFrame in, fitted models out: collapse once, then fit block by block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed
from scipy import sparse
from threadpoolctl import ThreadpoolController
from tqdm.auto import tqdm

from donorwise.collapse import collapse, missing_patterns
from donorwise.design.build import build_design
from donorwise.design.replication import replicate
from donorwise.engine.arrays import as_matrix, check_aligned, check_weights, effective_jobs
from donorwise.errors import DataError, DesignError
from donorwise.lmm.fit import Block, Model, build_model, fit_collapsed
from donorwise.lmm.result import LMMFit, Part, assemble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from donorwise._typing import BoolArray, FloatArray, IntArray
    from donorwise.collapse.statistics import Collapsed
    from donorwise.design.structure import Design

# Doubles of temporary arrays that a block of features may use (32 MB).
_BLOCK = 4_000_000
# Features times levels that keep one worker busy for long enough.
_WORKER = 100_000


@dataclass(frozen=True, slots=True)
class Task:
    """One group of rows with its design, or the reason why it has none.

    `changed` names coefficients that do not mean here what they mean in other groups.
    """

    name: str
    design: Design | None
    reason: str
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """Statistics of features that share their rows, over the patterns of all tasks."""

    features: IntArray
    collapsed: Collapsed


def fit_lmm(
    Y: Any,
    obs: pd.DataFrame,
    formula: str,
    *,
    reml: bool = True,
    weights: Any = None,
    n_jobs: int | None = None,
    progress: bool = False,
) -> LMMFit:
    """Fit a linear mixed model to every column of `Y`.

    The estimates are those of ``lme4::lmer`` (Bates et al. 2015, J Stat Softw 67(1)) for every
    column; what columns share is computed once.

    Parameters
    ----------
    Y
        Responses, (N, G): array, sparse matrix, DataFrame, or one vector (N,). Missing values
        (NaN) of a dense `Y` are dropped column by column.
    obs
        N rows: the variables of the formula.
    formula
        ``"~ fixed + (columns | group)"``; see the package's documentation for random terms.
    reml
        REML, or maximum likelihood.
    weights
        Precision weights: an array (N,), or the name of a column of `obs`. The residual variance
        of a row is ``sigma2 / weight``.
    n_jobs
        Threads; None takes scanpy's setting, -1 all cores.
    progress
        Show a progress bar.

    Returns
    -------
    LMMFit

    Raises
    ------
    FormulaError
        If the formula does not parse.
    DesignError
        If the rows cannot answer it.
    DataError
        If `Y` or `weights` cannot be used.

    Examples
    --------
    >>> import numpy as np, pandas as pd, donorwise as dw
    >>> obs = pd.DataFrame({"donor": np.repeat(list("abcdef"), 5), "arm": np.repeat(["ctrl", "case"], 15)})
    >>> rng = np.random.default_rng(0)
    >>> fit = dw.fit_lmm(rng.normal(size=(30, 3)), obs, "~ arm + (1 | donor)")
    >>> fit.beta.shape
    (3, 2)
    >>> list(fit.test("arm[T.ctrl]").columns[:4])
    ['variable', 'contrast', 'estimate', 'se']
    """
    matrix, variables = as_matrix(Y)
    check_aligned(Y, obs, "Y")
    if matrix.shape[0] != len(obs):
        raise DataError(f"Y has {matrix.shape[0]:,} rows and obs has {len(obs):,}; they must be the same observations.")
    w = check_weights(weights, obs)
    design = build_design(formula, obs)
    (fit,) = fit_tasks(
        matrix, variables, [Task("all", design, "")], reml=reml, weights=w, n_jobs=n_jobs, progress=progress
    )
    if fit is None:
        raise DesignError("The fixed part is rank deficient on the rows that have responses.")
    return fit


def fit_tasks(
    matrix: Any,
    variables: tuple[str, ...],
    tasks: Sequence[Task],
    *,
    reml: bool,
    weights: FloatArray | None = None,
    features: IntArray | None = None,
    donor: str = "",
    n_jobs: int | None = None,
    progress: bool = False,
) -> list[LMMFit | None]:
    """Fit every task from one pass over the matrix; None for a task without a design.

    `donor` is the column that counts as the replicate, where that is declared.
    """
    n_jobs = effective_jobs(n_jobs)
    designs = [t.design for t in tasks if t.design is not None]
    if not designs:
        return [None] * len(tasks)
    passes = list(_passes(matrix, variables, designs, weights, features, n_jobs))
    starts = np.cumsum([0] + [d.n_patterns for d in designs])
    workers = min(n_jobs, _useful_workers(designs, len(variables)))
    bar = tqdm(total=len(designs) * len(variables), unit="fit", desc="mixed models", disable=not progress)
    fits: list[LMMFit] = []
    # BLAS would start threads of its own for every small product, and they would fight over the cores.
    with bar, blas().limit(limits=1), Parallel(workers, prefer="threads", return_as="generator") as parallel:
        for design, start in zip(designs, starts[:-1], strict=True):
            own = np.arange(start, start + design.n_patterns)
            m = design.covariates.shape[1]
            replicates = replicate([t.group for t in design.random_terms], donor) or ""
            parts = [
                _fit_part(design, _own(p.collapsed, own, m), p.features, replicates, reml, parallel, bar.update)
                for p in passes
            ]
            fits.append(assemble(design, tuple(parts), variables, donor=replicates, reml=reml))
    done = iter(fits)
    return [None if t.design is None else next(done) for t in tasks]


@cache
def blas() -> ThreadpoolController:
    """The BLAS libraries of the process (finding them takes milliseconds)."""
    return ThreadpoolController().select(user_api="blas")


def _useful_workers(designs: Sequence[Design], n_features: int) -> int:
    """Workers that a job of this size can keep busy: handing out work costs some 10 ms."""
    levels = max(sum(t.codes.max() + 1 for t in d.random_terms) if d.random_terms else 1 for d in designs)
    iterative = any(sum(len(t.columns) for t in d.random_terms) > 1 for d in designs)
    return 1 + int(n_features * levels * (50 if iterative else 1)) // _WORKER


def _own(collapsed: Collapsed, patterns: IntArray, m: int) -> Collapsed:
    """One task's patterns and covariates."""
    return collapsed.take(patterns).take_covariates(m)


def _passes(
    matrix: Any,
    variables: tuple[str, ...],
    designs: Sequence[Design],
    weights: FloatArray | None,
    features: IntArray | None,
    n_jobs: int,
) -> Iterator[Pass]:
    codes, covariates = _stack(designs)
    n_patterns = sum(d.n_patterns for d in designs)
    columns = np.arange(matrix.shape[1]) if features is None else np.asarray(features)
    for at, seen in _masks(matrix, columns, codes):
        used = codes if seen is None else np.where(seen, codes, -1).astype(codes.dtype)
        whole = at.size == matrix.shape[1]
        collapsed = collapse(
            matrix, used, n_patterns, weights=weights, covariates=covariates, features=None if whole else columns[at],
            names=variables if whole else tuple(variables[i] for i in at), n_jobs=n_jobs,
        )  # fmt: skip
        yield Pass(at, collapsed)


def _masks(matrix: Any, columns: IntArray, codes: NDArray[np.int32]) -> list[tuple[IntArray, BoolArray | None]]:
    """Features by the rows in use that they have; positions within `columns`."""
    if sparse.issparse(matrix):
        return [(np.arange(columns.size), None)]
    position = np.full(matrix.shape[1], -1)
    position[columns] = np.arange(columns.size)
    groups: dict[bytes, tuple[list[IntArray], BoolArray | None]] = {}
    for found, seen in missing_patterns(matrix, columns):
        seen = None if seen is None or seen[codes >= 0].all() else seen | (codes < 0)
        key = b"" if seen is None else np.packbits(seen).tobytes()
        groups.setdefault(key, ([], seen))[0].append(position[found])
    return [(np.sort(np.concatenate(found)), seen) for found, seen in groups.values()]


def _stack(designs: Sequence[Design]) -> tuple[NDArray[np.int32], FloatArray | None]:
    """Pattern codes and covariates of all tasks (no row belongs to two)."""
    codes = np.full(designs[0].codes.size, -1, dtype=np.int32)
    m = max(d.covariates.shape[1] for d in designs)
    covariates = np.zeros((codes.size, m)) if m else None
    start = 0
    for design in designs:
        used = design.codes >= 0
        codes[used] = design.codes[used] + start
        if covariates is not None and design.covariates.shape[1]:
            covariates[used, : design.covariates.shape[1]] = design.covariates[used]
        start += design.n_patterns
    return codes, covariates


def _fit_part(
    design: Design,
    collapsed: Collapsed,
    features: IntArray,
    donor: str,
    reml: bool,
    parallel: Parallel,
    update: Callable[[int], object],
) -> Part:
    present = np.flatnonzero(collapsed.n_obs > 0)
    n_obs = int(collapsed.n_obs.sum())
    if present.size < design.n_patterns:
        collapsed, design = collapsed.take(present), design.take(present)
    donors = _n_donors(design, donor)
    try:
        model = build_model(design, collapsed)
        if n_obs <= model.p:
            raise DesignError("No more rows than fixed effects.")
    except DesignError:
        update(features.size)
        return Part(features, None, None, n_obs, donors)
    blocks = []
    for block in parallel(delayed(_fit_slice)(model, collapsed, s, reml) for s in _slices(model, collapsed)):
        blocks.append(block)
        update(block.status.size)
    return Part(features, model, Block.concatenate(blocks), n_obs, donors)


def _fit_slice(model: Model, collapsed: Collapsed, features: slice, reml: bool) -> Block:
    return fit_collapsed(model, collapsed.take_features(features), reml=reml)


def _slices(model: Model, collapsed: Collapsed) -> list[slice]:
    """Blocks of features within the memory budget; their number does not depend on the workers."""
    n_features, m = collapsed.mean.shape[1], collapsed.covariate_mean.shape[1]
    per_feature = collapsed.n_obs.size * (4 + 3 * m) + 4 * model.blocks.order.size + 4 * model.p**2
    size = int(np.clip(_BLOCK // per_feature, 1, 1024))
    return [slice(i, min(i + size, n_features)) for i in range(0, n_features, size)]


def _n_donors(design: Design, donor: str) -> int:
    return next((np.unique(t.codes).size for t in design.random_terms if t.group == donor), 0)
