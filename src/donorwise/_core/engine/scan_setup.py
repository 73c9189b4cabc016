"""From analyses and genotypes to a scan: donors on both sides, rows that belong to one donor each, and what is wrong before any work."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.replicates import looks_like_replicate, replicate
from donorwise._core.design.terms import check_column
from donorwise._core.engine.scan import Scan
from donorwise._core.engine.scan_models import by_donor, interacting, lacks_kernel_slopes, lacks_slopes
from donorwise._core.engine.scan_resampled import check_resampled
from donorwise._core.wording import suggestion
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from donorwise._core.design.formula import Bar, ParsedFormula
    from donorwise._core.engine.lmm import LmmAnalysis
    from donorwise._core.engine.scan import Genes, ScanOptions
    from donorwise._core.engine.scan_models import TaskDonors
    from donorwise._core.engine.tasks import Task
    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._typing import BoolArray, FloatArray, StrArray

_INFLATED = 1.05  # variance, relative to what it should be
_LEAST = 3  # donors that a test needs at the very least


def donor_factor(parsed: ParsedFormula, donor: str | None, declared: str) -> tuple[str, ...]:
    """Columns of the factor whose levels are the donors that variants belong to.

    They are `donor`, alone or the last part of a grouping factor; else the grouping factor that is the declared one or looks like
    donors; else the declared one, whatever random terms there are (of batches, with one row for each donor).

    Raises
    ------
    DesignError
        Nothing tells.
    """
    groups = sorted((bar.group for bar in parsed.bars), key=len)
    named = [g for g in groups if g[-1] == (donor or declared)]
    looking = [] if donor else [g for g in groups if looks_like_replicate(g)]
    own = [(name,) for name in (donor, declared) if name]
    columns = next(iter([*named, *looking, *own]), ()) or replicate(groups)
    if not columns:
        raise DesignError(
            f"Which column has the donors that the genotypes are of? {parsed.source!r} has no grouping factor: give donor=."
        )
    return columns


def donor_names(obs: pd.DataFrame, columns: Sequence[str]) -> StrArray:
    """Names of the donors of all rows, (N,); empty where they are missing."""
    if missing := [column for column in columns if column not in obs.columns]:
        hint = suggestion(missing[0], map(str, obs.columns), "it has")
        if obs.index.name == missing[0]:
            hint = f"make a column of its index, obs[{missing[0]!r}] = obs.index."
        raise DesignError(f"obs has no column {missing[0]!r} with the donors that the genotypes are of; {hint}")
    own = obs[list(columns)]
    names = own[columns[0]].astype(object).map(str)
    for column in columns[1:]:
        names = names + ":" + own[column].astype(object).map(str)
    return names.where(own.notna().all(axis=1), "").to_numpy(dtype=object)


def one_row_each(obs: pd.DataFrame, names: StrArray, groupby: Sequence[str], used: BoolArray) -> bool:
    """Whether no donor has two of the rows in use in one group.

    Raises
    ------
    DesignError
        A column of `groupby` is not there.
    """
    for column in groupby:
        check_column(obs, "groupby", column)
    groups = obs[list(groupby)].assign(**{"\0": names})[used]
    return not groups.duplicated().any()


def without_own(parsed: ParsedFormula, columns: Sequence[str], names: StrArray) -> ParsedFormula:
    """A formula for one row a donor (N,), of which ``(1 | donor)`` is the residual, also by a kernel that is the identity."""
    known = set(names) - {""}
    own = [
        bar
        for bar in parsed.bars
        if bar.group == tuple(columns) and bar.columns.strip() == "1" and not _related(bar, known)
    ]
    return parsed.keep([bar for bar in parsed.bars if bar not in own]) if own else parsed


def about_weights(w: FloatArray, parsed: ParsedFormula, columns: Sequence[str]) -> list[str]:
    """A warning where weights of donors' rows differ, and no random term is of the donors.

    Where donors differ by more than the weights say, estimates vary by up to E(w²) / E(w)² times what they seem to.
    """
    inflation, column = float((w**2).mean() / w.mean() ** 2), ":".join(columns)
    if inflation < _INFLATED or any(bar.group == tuple(columns) for bar in parsed.bars):
        return []
    return [
        "The weights say that nothing but the precision of their rows makes donors differ. Where they differ beyond it, as in the "
        f"expression of most genes, variances of tests are too small, up to {inflation:.1f}-fold with these weights: add "
        f"(1 | {column})."
    ]


def _related(bar: Bar, names: Collection[str]) -> bool:
    """Whether a kernel says more of these levels than that they are different, or does not know all of them."""
    if bar.kernel is None:
        return bool(bar.cov)
    if not bar.kernel.has(names):
        return True
    K = bar.kernel.values
    return bool(np.count_nonzero(K) != len(K) or np.ptp(K.diagonal()) > 0)


def build_scan(
    analyses: Mapping[str, LmmAnalysis],
    genotypes: Genotypes,
    chrom: StrArray,
    genes: Genes | None,
    columns: Sequence[str],
    names: StrArray,
    options: ScanOptions,
    warnings: Sequence[str] = (),
) -> Scan:
    """A scan whose designs have patterns of one donor each.

    Parameters
    ----------
    analyses
        By chromosome, or under an empty name; see :class:`Scan`.
    columns, names
        Columns with the donors, and the donors of all rows (N,).

    Raises
    ------
    DesignError
        Rows of one donor would count as replicates, or the interaction is none of the formula.
    """
    column = ":".join(columns)
    made = {key: _by_donor(analysis, column, names) for key, analysis in analyses.items()}
    first, donors = next(iter(made.values()))
    positions = {name: i for i, name in enumerate(genotypes.donors)}
    rows = tuple(None if own is None else np.array([positions[name] for name in own.names]) for own in donors)
    designs = [task.design for task in first.tasks]
    interaction = options.interaction
    if options.tests.n_permutations:
        check_resampled(next(d for d in designs if d is not None), interaction=interaction is not None)
    at = tuple(None if d is None or interaction is None else interacting(d, interaction) for d in designs)
    said = [*warnings, *_about_slopes(first, donors, at, interaction)]
    return Scan(
        analyses={key: own for key, (own, _) in made.items()}, donors=donors, rows=rows, column=at, genotypes=genotypes,
        chrom=chrom, genes=genes, options=options, warnings=tuple(said),
    )  # fmt: skip


def _by_donor(analysis: LmmAnalysis, column: str, names: StrArray) -> tuple[LmmAnalysis, tuple[TaskDonors | None, ...]]:
    tasks: list[Task] = []
    donors: list[TaskDonors | None] = []
    for task in analysis.tasks:
        if task.design is None:
            tasks.append(task)
            donors.append(None)
            continue
        design, own = by_donor(task.design, column, names)
        tasks.append(replace(task, design=design))
        donors.append(own)
    return replace(analysis, tasks=tasks), tuple(donors)


def _about_slopes(
    analysis: LmmAnalysis, donors: Sequence[TaskDonors | None], at: Sequence[int | None], name: str | None
) -> list[str]:
    """A warning where cells of a donor, or relatives, would count as replicates of what a group says of an interaction."""
    if name is None:
        return []
    groups = [
        (task.design, own, column)
        for task, own, column in zip(analysis.tasks, donors, at, strict=True)
        if task.design is not None and own is not None and column is not None
    ]
    covs = analysis.formula.covs
    labels = name in analysis.obs.columns and not pd.api.types.is_numeric_dtype(analysis.obs[name])
    for design, own, column in groups:
        kernel = f"(0 + {name} | gr({own.column}, cov={next(iter(covs), '...')}))"
        if lacks_slopes(design, own, column, name):
            return [
                f"{name!r} differs between cells of a donor and the formula lets donors not differ in it, so that the interaction "
                "of a variant with it takes cells for replicates (hot p-values): add "
                + (f"(1 | {own.column}:{name})" if labels else f"(0 + {name} | {own.column})")
                + (f", and the same with the kernel, {kernel}." if covs else ".")
            ]
        if lacks_kernel_slopes(design, own, name):
            return [
                f"Levels of relatives are alike by the formula, and how they respond to {name!r} is not, so that the interaction of "
                f"a variant with it takes relatives for replicates (hot p-values): add {kernel}."
            ]
    return []


def check_options(options: ScanOptions, genotypes: Genotypes) -> None:
    """Raise where genotypes do not come with what is asked of them."""
    if genotypes.n_variants == 0:
        raise DataError(f"{genotypes.text} has no variants.")
    if options.mode == "cis" and (genotypes.chromosomes is None or genotypes.positions is None):
        raise DataError(
            f"mode='cis' needs the chromosome and position of every variant, which do not come with {genotypes.text}: give "
            "variants= a table with columns chrom and pos, or take mode='trans' or 'gwas'."
        )
    if options.loco and genotypes.chromosomes is None:
        raise DataError(f"loco=True needs the chromosome of every variant, which does not come with {genotypes.text}.")
