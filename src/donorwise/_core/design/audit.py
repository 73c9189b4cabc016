"""What a design can and cannot say, told before any fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design import advice, disguise, slopes
from donorwise._core.design import depth as depths
from donorwise._core.design import findings as checks
from donorwise._core.design import kernel_checks as kernels
from donorwise._core.design import omissions as omitted
from donorwise._core.design.arms import Arms, describe
from donorwise._core.design.build import assemble_design
from donorwise._core.design.covariates import correlations, covariates_read, strongly_together
from donorwise._core.design.formula import ParsedFormula, parse
from donorwise._core.design.people import Named, about_names
from donorwise._core.design.replicates import Donors, find_donors, looks_like_replicate, replicate
from donorwise._core.design.rivals import hardly_told
from donorwise._core.design.terms import check_obs
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.depth import Depth
    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit of a design found.

    Attributes
    ----------
    formula
        The formula.
    donor
        The grouping factor that counts as the replicate; empty when there is none.
    n_donors
        Donors in use.
    n_obs
        Rows in use.
    n_dropped
        Rows left out because a variable is missing.
    arms
        One entry per coefficient but the intercept.
    warnings
        What can make the results wrong, a sentence each.
    notes
        What is worth knowing, a sentence each.
    rows
        What the rows are.
    covariates
        Canonical correlations of the formula's covariates over the donors, as of :func:`donorwise.get.covariates`; empty
        where there are fewer than two, or no donors.
    """

    formula: str
    donor: str
    n_donors: int
    n_obs: int
    n_dropped: int
    arms: tuple[Arms, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    rows: str = "cells"
    covariates: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per contrast.

        Returns
        -------
        Columns contrast, kind (what it compares: ``"between-donor"``, ``"within-donor"``, ``"mixed"``, or
        ``"between-donor (change)"``, donors with each other in what changes within them, such as the slopes of two
        arms), donors and cells at the level and at the reference, donors_both (on both sides), depth_ratio, values
        (different values of a number among donors) and covered (whether the random terms let a contrast within
        donors, or a change, differ between them).

        Examples
        --------
        >>> import donorwise as dw
        >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
        >>> frame = adata.donorwise.audit("~ condition + (1 | donor_id)").to_frame()
        >>> frame[["kind", "donors", "donors_reference"]].values.tolist()
        [['between-donor', 3, 3]]
        """
        columns = [
            "contrast", "kind", "donors", "donors_reference", "donors_both", "cells", "cells_reference",
            "depth_ratio", "values", "covered",
        ]  # fmt: skip
        frame = pd.DataFrame([_row(a) for a in self.arms], columns=columns)
        counts = ["donors", "donors_reference", "donors_both", "cells", "cells_reference", "values"]
        return frame.astype({**dict.fromkeys(counts, "Int64"), "depth_ratio": float, "covered": bool})

    def __repr__(self) -> str:
        """Table, notes and warnings as text."""
        dropped = f" ({self.n_dropped:,} more left out: a variable is missing)" if self.n_dropped else ""
        donors = f" of {self.n_donors:,} donors (`{self.donor}`)" if self.donor else ""
        parts = [f"Audit of {self.formula}", f"{self.n_obs:,} {self.rows}{donors}{dropped}"]
        if self.arms:
            parts += ["", _table(self.arms, self.rows)]
        if self.notes:
            parts += ["", *self.notes]
        if self.warnings:
            parts += ["", "Warnings", *(f"{i + 1}. {text}" for i, text in enumerate(self.warnings))]
        return "\n".join(parts)


def audit(
    formula: str | ParsedFormula,
    obs: pd.DataFrame,
    *,
    depth: FloatArray | None = None,
    donor: str | None = None,
    sample: str | None = None,
    batch: str | None = None,
    counts: str | None = None,
    depth_in: Depth = "values",
    is_fit: bool = True,
) -> Audit:
    """Say who is replicated and what is confounded, before any fit.

    Parameters
    ----------
    formula
        Fixed and random effects.
    obs
        N rows.
    depth
        Shape (N,). Sequencing depth of each cell, such as its total counts.
    donor
        Column that is the replicate. By default the grouping factor called donor, patient, subject or the
        like; else the first one.
    sample, batch
        Columns of the sample and of the batch of each row, if known: what they say is used where the formula
        leaves them out.
    counts
        Layer that holds raw counts (``""`` for X), if there are any: a note then says what they are good for.
    depth_in
        How the model takes depth.
    is_fit
        Whether a model is fitted to these rows, and not to groups of them: what depends on that is left out otherwise (see
        :func:`of_one_fit`).

    Raises
    ------
    FormulaError
        When the formula does not parse.
    DesignError
        When a column is missing. A design that the data cannot answer is a warning, not an error.
    """
    parsed = parse(formula)
    check_obs(obs, [*parsed.columns, *([donor] if donor else [])], parsed.source)
    if depth is not None and np.shape(depth) != (len(obs),):
        raise DesignError(f"depth needs one value for each of the {len(obs):,} rows, not shape {np.shape(depth)}.")
    try:
        design = assemble_design(parsed, obs)
    except DesignError as error:
        return Audit(parsed.source, "", 0, len(obs), 0, (), (str(error),), ())
    return audit_design(
        design, obs, depth=depth, donor=donor, sample=sample, batch=batch, counts=counts,
        impossible=list(checks.impossible(design)), depth_in=depth_in, is_fit=is_fit,
    )  # fmt: skip


def audit_design(
    design: Design,
    obs: pd.DataFrame,
    *,
    depth: FloatArray | None = None,
    donor: str | None = None,
    sample: str | None = None,
    batch: str | None = None,
    counts: str | None = None,
    impossible: Sequence[str] = (),
    depth_in: Depth = "values",
    is_fit: bool = True,
    what: str = "cells",
) -> Audit:
    """As :func:`audit`, for a design that is there already; `impossible` is why it cannot be fitted, if it cannot.

    `what` its rows are.
    """
    donors = find_donors(design, obs, donor, depth)
    rows = donors.rows
    samples = None if sample is None else rows.cross(obs[sample], design)
    arms = describe(design, donors)
    if samples is not None and samples.n_labels == rows.n_rows:  # a row a sample: no number is one of cells
        arms = tuple(replace(arm, cell_level=False) for arm in arms)
    found = [
        *impossible,
        *([design.lost.reason] if design.lost.reason else []),
        *(disguise.kept_as_text(design, (donor, sample, batch)) if not impossible else ()),
        *disguise.batch_as_number(design, batch),
        *checks.unreplicated(design, arms, donors),
        *slopes.uncentred(design),
        *slopes.redundant(design),
        *([] if impossible else kernels.kernel_warnings(design)),
    ]
    notes = [*disguise.kept_as_numbers(design, batch), *([] if impossible else kernels.kernel_notes(design))]
    if is_fit and not impossible:
        found += of_one_fit(design, donors)
    if donors.name:
        confined, serious = checks.confined(design, arms, donors)
        asked = _asked(arms, donors)
        batches = [arm for arm in arms if checks.is_technical(arm, batch)]
        others = [arm for arm in arms if arm not in batches]
        found += [*checks.few_donors(asked), *checks.uncovered(design, others, donors, samples), *serious]
        found += [*checks.collinear(design, arms, donors), *depths.depth_differs(design, arms, donors, depth_in)]
        found += depths.missing_exposure(depth_in)
        found += omitted.batch_left_out(design, obs, others, donors, batch)
        periods, orders = omitted.period_left_out(design, obs, others, donors, samples, batch)
        unequal, unsafe = advice.unequal_arms(design, others, donors)
        found += [*periods, *unsafe]
        found += about_names(obs, _named(design, donors)) if donor or looks_like_replicate(donors.columns) else []
        notes += [*checks.effective_replicates(asked, len(donors.levels), what), *confined]
        notes += checks.unpaired(design, arms, donors)
        notes += [*checks.technical(design, batches, donors, samples), *checks.cell_level(design, arms, donors)]
        notes += [*orders, *unequal, *depths.depth_twice(design, depth_in)]
        notes += [] if impossible else advice.complete_pairs(design, others, donors, counts)
        if counts is not None and not impossible and depth_in == "values" and not design.parsed.covs:
            notes += [*advice.count_scale(arms, counts), *advice.interactions(design, arms, donors, counts)]
    return Audit(
        design.formula, donors.name, len(donors.levels), rows.n_rows, design.n_dropped, arms, tuple(found), tuple(notes), what,
    )  # fmt: skip


def with_covariates(found: Audit, parsed: ParsedFormula, obs: pd.DataFrame, donor: str, sample: str = "") -> Audit:
    """The audit with the correlations of the covariates, and a note where some go together that it does not speak of yet."""
    donors = (donor,) if donor else replicate([bar.group for bar in parsed.bars])
    names = covariates_read(parsed, donors, sample)
    if not donors or len(names) < 2 or not found.donor:
        return found
    table = correlations(obs, names, donors, sample)
    notes = strongly_together(table, (*found.warnings, *found.notes))
    return replace(found, covariates=table, notes=(*found.notes, *notes))


def _named(design: Design, donors: Donors) -> Named:
    labels = [name for name in design.frame.columns if name not in design.numeric_means]
    return Named(
        donors.columns, donors.levels, np.flatnonzero(design.codes >= 0), donors.rows.donor[donors.rows.entry], labels
    )


def few_donors(design: Design, obs: pd.DataFrame, donor: str | None = None) -> list[str]:
    """Contrasts of a design that one or two donors make up, a sentence each."""
    donors = find_donors(design, obs, donor)
    return list(checks.few_donors(_asked(describe(design, donors), donors))) if donors.name else []


def of_one_fit(design: Design, donors: Donors) -> list[str]:
    """What depends on how many rows of one model a donor has: whether kernels can be told apart, and what they leave."""
    return [*kernels.without_own(design, donors), *hardly_told(design)]


def of_group(design: Design, obs: pd.DataFrame, donor: str | None = None) -> list[str]:
    """What is found in the design of one group that that of all groups does not show, a sentence each."""
    return [*few_donors(design, obs, donor), *of_one_fit(design, find_donors(design, obs, donor))]


def unequal_arms(design: Design, obs: pd.DataFrame, donor: str) -> list[str]:
    """Contrasts of a model of counts that compare arms of very different size, a sentence each."""
    donors = find_donors(design, obs, donor)
    return advice.unequal_arms_of_units(describe(design, donors), donors) if donors.name else []


def left_out(
    formula: ParsedFormula, obs: pd.DataFrame, donor: str, *, sample: str | None = None, batch: str | None = None
) -> list[str]:
    """What the formula leaves out and goes with what is tested, a sentence each; none where there is no design."""
    try:
        design = assemble_design(formula, obs, rows=obs[donor].notna().to_numpy())
    except DesignError:
        return []
    donors = find_donors(design, obs, donor)
    arms = [arm for arm in describe(design, donors) if not checks.is_technical(arm, batch)]
    samples = None if sample is None else donors.rows.cross(obs[sample], design)
    return [
        *omitted.batch_left_out(design, obs, arms, donors, batch),
        *omitted.period_left_out(design, obs, arms, donors, samples, batch)[0],
    ]


def confounded(formula: ParsedFormula, obs: pd.DataFrame, donor: str, design: Design | None = None) -> list[str]:
    """Effects on donors that the data can hardly tell apart, a sentence each; none where there is no design.

    `design` is that of all rows of `obs`, where it has been built.
    """
    try:
        design = design or assemble_design(formula, obs)
    except DesignError:
        return []
    donors = find_donors(design, obs, donor)
    arms = describe(design, donors)
    return [*checks.confined(design, arms, donors)[1], *checks.collinear(design, arms, donors)]


def _asked(arms: tuple[Arms, ...], donors: Donors) -> tuple[Arms, ...]:
    """All but the coefficients of the donors themselves, where they are a fixed effect."""
    return tuple(a for a in arms if a.variables != (donors.name,))


def _row(arms: Arms) -> tuple[object, ...]:
    """One row of the table: missing where a numeric coefficient has no arms."""
    at_level, at_reference = arms.donors or (pd.NA, pd.NA)
    cells, cells_reference = arms.cells or (pd.NA, pd.NA)
    return (
        arms.contrast, arms.kind, at_level, at_reference, arms.n_both, cells, cells_reference,
        _ratio(arms), arms.n_values or pd.NA, arms.covered,
    )  # fmt: skip


def _ratio(arms: Arms) -> float:
    return arms.depth[0] / arms.depth[1] if arms.depth else float("nan")


def _table(arms: tuple[Arms, ...], what: str) -> str:
    """Lay out the contrasts in columns, the first 30 of them."""
    rows = [("contrast", "kind", "donors", what, "depth ratio")]
    for a in arms[:30]:
        both = f" ({a.n_both:,} in both)" if a.donors and a.n_both else ""
        donors = " vs ".join(f"{n:,}" for n in a.donors) + both if a.donors else _spread(a)
        cells = " vs ".join(f"{n:,}" for n in a.cells)
        rows.append((a.contrast, a.kind, donors, cells, f"{_ratio(a):.2f}" if a.depth else ""))
    kept = [i for i in range(5) if any(row[i] for row in rows[1:])]
    width = {i: max(len(row[i]) for row in rows) for i in kept}
    lines = ["  ".join(row[i].ljust(width[i]) for i in kept).rstrip() for row in rows]
    more = [f"... and {len(arms) - 30} more: see to_frame()"] if len(arms) > 30 else []
    return "\n".join([*lines, *more])


def _spread(arms: Arms) -> str:
    """What a numeric coefficient shows in place of arms."""
    if arms.kind in ("within-donor", "mixed"):
        return f"varies in {arms.n_both:,}"
    return f"{arms.n_values:,} value{'' if arms.n_values == 1 else 's'}"
