"""Rows that stand for many cells: what a formula may ask of them, and their statistics by the patterns of a design.

A design is built on one row per cell, as always: the columns of the collapsed rows repeated, and for
covariates numbers that have their mean and cross-products within every row. What is linear in a
covariate then has the moments that the cells gave, and everything that counts cells counts them.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.cells.measures import Collapsed
from donorwise._core.design.design import combine, first_rows, varies
from donorwise._core.design.formula import ParsedFormula, parse
from donorwise._core.design.terms import factor_variables, parse_columns
from donorwise._core.engine.tasks import Pass, Statistics
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray, IntArray

# Doubles of temporary arrays that a block of features may use (64 MB).
_BLOCK = 8_000_000
# Functions that give a linear function of their first argument; mean and variance are all they learn from cells.
_LINEAR = frozenset({"I", "scale", "center", "standardize"})
# Share of the largest variance below which a direction of the covariates is rounding noise.
_NOISE = 1e-28


@dataclass(frozen=True, slots=True)
class RowCells:
    """The cells behind K rows, and the moments of their m covariates, every cell counting once.

    Attributes
    ----------
    n_cells
        Shape (K,).
    covariates
        Names.
    mean
        Shape (K, m).
    ss
        Shape (K, m, m). Cross-products about the means.
    """

    n_cells: IntArray
    covariates: tuple[str, ...]
    mean: FloatArray
    ss: FloatArray

    @property
    def starts(self) -> IntArray:
        """First cell of each row, (K,), where the cells of a row stand side by side."""
        return np.asarray(np.cumsum(self.n_cells) - self.n_cells)

    def rows(self) -> IntArray:
        """The row of each cell, (N,)."""
        return np.repeat(np.arange(self.n_cells.size), self.n_cells)

    def unweighted(self) -> Collapsed:
        """These moments as statistics of no feature, every cell with a weight of one."""
        k, m = self.mean.shape
        nothing = np.zeros((k, 0))
        n, log_weight = self.n_cells.astype(np.float64), np.zeros(k)
        return Collapsed(self.n_cells, n, log_weight, nothing, nothing, self.mean, self.ss, np.zeros((k, m, 0)))

    def take_covariates(self, names: Sequence[str]) -> RowCells:
        """Some of the covariates."""
        at = [self.covariates.index(name) for name in names]
        return RowCells(self.n_cells, tuple(names), self.mean[:, at], self.ss[:, at][:, :, at])

    def directions(self) -> tuple[FloatArray, FloatArray]:
        """Factors A (K, m, m) of ``ss = A'A``, longest rows first, and their pseudo-inverses, transposed (K, m, m)."""
        scale = np.sqrt(np.einsum("kqq->q", self.ss))
        scale[scale == 0] = 1.0
        values, vectors = np.linalg.eigh(self.ss / np.outer(scale, scale))
        values, vectors = np.clip(values[:, ::-1], 0, None), np.swapaxes(vectors[:, :, ::-1], 1, 2)
        real = values > _NOISE * values[:, :1]
        length = np.sqrt(np.where(real, values, 0.0))[:, :, None]
        inverse = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
        return length * vectors * scale, inverse / scale

    def waves(self) -> Iterator[FloatArray]:
        """Columns (N,) that are orthonormal and of mean zero within every row: cosines of rising frequency."""
        n = np.repeat(self.n_cells, self.n_cells)
        place = np.arange(n.size) - np.repeat(self.starts, self.n_cells)
        for j in range(1, len(self.covariates) + 1):
            yield np.where(j < n, np.sqrt(2 / n) * np.cos(np.pi * (place + 0.5) * j / n), 0.0)

    def values(self) -> FloatArray:
        """Numbers (N, m) with these moments."""
        rows, (factor, _) = self.rows(), self.directions()
        out = self.mean[rows]
        for j, wave in enumerate(self.waves()):
            out += wave[:, None] * factor[rows, j]
        return out

    def linear(self, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means (K, r) and slopes (K, m, r), row by row, of columns (N, r) that are linear in :meth:`values`."""
        starts, inverse = self.starts, self.directions()[1]
        centred = columns - columns[starts][self.rows()]
        along = [np.add.reduceat(wave[:, None] * centred, starts, axis=0) for wave in self.waves()]
        mean = columns[starts] + np.add.reduceat(centred, starts, axis=0) / self.n_cells[:, None]
        return mean, np.einsum("kjq,kjr->kqr", inverse, np.stack(along, axis=1))


@dataclass(frozen=True, slots=True)
class CollapsedRows:
    """Statistics of K rows and G features, and the cells behind them (both with the same m covariates).

    Attributes
    ----------
    cells
        The cells.
    read
        Gives the statistics of some rows and features, by their positions (None for all): a file is read no earlier.
    """

    cells: RowCells
    read: Callable[[IntArray | None, IntArray | None], Collapsed]

    @classmethod
    def of(cls, cells: RowCells, values: Collapsed) -> CollapsedRows:
        """Rows whose statistics are in memory."""

        def read(rows: IntArray | None, features: IntArray | None) -> Collapsed:
            some = values if rows is None else values.take(rows)
            return some if features is None else some.take_features(features)

        return cls(cells, read)

    @property
    def values(self) -> Collapsed:
        """The statistics of all rows and features."""
        return self.read(None, None)


def formula_variables(parsed: ParsedFormula) -> list[str]:
    """Columns that the fixed part and the slopes of a formula read."""
    texts = [parsed.fixed, *(bar.columns for bar in parsed.bars)]
    terms = [term for text in texts for term in parse_columns(text, parsed.source)]
    return list(dict.fromkeys(v for term in terms for factor in term.factors for v in factor_variables(factor)))


def check_formula(formula: str, labels: Sequence[str], by: Sequence[str], covariates: Sequence[str]) -> list[str]:
    """Columns that a formula and `labels` read, if collapsed rows can answer for them.

    Parameters
    ----------
    formula
        Fixed and random effects.
    labels
        Further columns that are read as labels, such as a group.
    by, covariates
        What the rows were collapsed by, and the covariates they have moments of.

    Raises
    ------
    DesignError
        A column was collapsed away, or more is asked of a covariate than moments can tell.
    """
    parsed = parse(formula)
    numbers = formula_variables(parsed)
    groups = list(dict.fromkeys([*(g for bar in parsed.bars for g in bar.group), *labels]))
    have = f"by={list(by)}" + (f" and covariates={list(covariates)}" if covariates else "")
    for name in dict.fromkeys([*numbers, *groups]):
        if name not in by and name not in covariates:
            raise DesignError(
                f"`{name}` was collapsed away: these rows were made with {have}. Collapse the cells again with {name!r} "
                "in by= (or in covariates=, if it is a number that differs from cell to cell)."
            )
        if name in groups and name in covariates:
            raise DesignError(f"`{name}` was collapsed as a covariate; to group by it, collapse with it in by=.")
    _check_linear(parsed, covariates)
    return list(dict.fromkeys([*numbers, *groups]))


def _check_linear(parsed: ParsedFormula, covariates: Sequence[str]) -> None:
    for text in (parsed.fixed, *(bar.columns for bar in parsed.bars)):
        for term in parse_columns(text, parsed.source):
            used = [v for factor in term.factors for v in factor_variables(factor) if v in covariates]
            if used and sum(_degree(factor, covariates) for factor in term.factors) > 1:
                raise DesignError(
                    f"`{term}` is not linear in {listing(dict.fromkeys(used))}, of which collapsed rows have means and "
                    "cross-products only. Compute it as a column of obs before collapsing, and name that column in "
                    "covariates=."
                )


def _degree(factor: Any, covariates: Sequence[str]) -> float:
    """Degree of a factor in the covariates; infinite where it is no polynomial."""
    from formulaic.utils.code import sanitize_variable_names

    if factor.eval_method.name != "PYTHON":
        return float(factor.expr in covariates)
    aliases: dict[str, str] = {}
    tree = ast.parse(sanitize_variable_names(factor.expr, {}, aliases), mode="eval").body
    own = {name for name in {*covariates, *aliases} if aliases.get(name, name) in covariates}
    return _node_degree(tree, own)


def _node_degree(node: ast.AST, covariates: set[str]) -> float:
    if not any(isinstance(n, ast.Name) and n.id in covariates for n in ast.walk(node)):
        return 0.0
    if isinstance(node, ast.Name):
        return 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        return _node_degree(node.operand, covariates)
    if isinstance(node, ast.BinOp):
        left, right = _node_degree(node.left, covariates), _node_degree(node.right, covariates)
        if isinstance(node.op, ast.Add | ast.Sub):
            return max(left, right)
        if isinstance(node.op, ast.Mult) or (isinstance(node.op, ast.Div) and right == 0):
            return left + right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _LINEAR:
        options = [*node.args[1:], *(keyword.value for keyword in node.keywords)]
        if all(_node_degree(option, covariates) == 0 for option in options):
            return _node_degree(node.args[0], covariates)
    return np.inf


def coarsen(design: Design, covariates: Sequence[str]) -> Design:
    """The design with patterns of what is not a covariate; columns that read covariates vary inside them."""
    kept = design.frame.drop(columns=design.frame.columns.intersection(list(covariates)))
    coarse, size = combine([label_codes(kept[name]) for name in _key_order(design, kept)], design.n_patterns)
    if size == design.n_patterns:
        return design
    first, used = first_rows(coarse, size), design.codes >= 0
    columns = list(design.covariates.T)

    def index(values: FloatArray, varying: Sequence[int]) -> tuple[int, ...]:
        found = list(varying)
        for j, before in enumerate(varying):
            if before < 0 and varies(values[:, j], coarse, first):
                own = np.where(used, values[design.codes, j], 0.0)
                found[j] = next((i for i, other in enumerate(columns) if np.array_equal(other, own)), len(columns))
                if found[j] == len(columns):
                    columns.append(own)
        return tuple(found)

    varying = index(design.X, design.varying)
    terms = tuple(
        replace(t, codes=t.codes[first], Z=t.Z[first], varying=index(t.Z, t.varying)) for t in design.random_terms
    )
    return replace(
        design,
        codes=np.where(used, coarse[design.codes], -1).astype(np.int32),
        X=design.X[first],
        random_terms=terms,
        covariates=np.stack(columns, axis=1) if columns else design.covariates,
        varying=varying,
        frame=design.frame.iloc[first].reset_index(drop=True),
    )


def _key_order(design: Design, frame: pd.DataFrame) -> list[str]:
    """Columns in the order in which patterns are numbered: grouping factors, categories, numbers."""
    groups = dict.fromkeys(g for bar in parse(design.formula).bars for g in bar.group)
    others = [name for name in frame.columns if name not in groups]
    labels = [name for name in others if isinstance(frame[name].dtype, pd.CategoricalDtype)]
    numbers = sorted(frame.columns.difference([*groups, *labels]), key=lambda name: (frame[name].nunique(), name))
    return [*groups, *labels, *numbers]


def regroup(design: Design, rows: CollapsedRows, features: IntArray | None = None) -> Statistics:
    """The statistics of a design on the cells of collapsed rows (a coarse one, see :func:`coarsen`)."""
    at = design.codes[rows.cells.starts].astype(np.int64)
    used = np.flatnonzero(at >= 0)
    values = rows.read(used if used.size < at.size else None, features)
    moved = with_covariates(values, rows.cells, design.covariates, used)
    merged = merge_rows(moved, at[used], design.n_patterns)
    return Statistics(design, (Pass(np.arange(merged.mean.shape[1]), merged),))


def with_covariates(values: Collapsed, cells: RowCells, columns: FloatArray, used: IntArray) -> Collapsed:
    """Statistics with other covariates: columns that are linear in the present ones within every row.

    Parameters
    ----------
    values
        Statistics of the rows `used`.
    cells
        Cells of all rows.
    columns
        Shape (N, r). The new covariates, cell by cell.
    used
        Positions of the rows.
    """
    if columns.shape[1] == 0:
        return values.take_covariates(0)
    mean, slopes = (part[used] for part in cells.linear(columns))
    shift = values.covariate_mean - cells.mean[used]  # weighted less unweighted means
    return replace(
        values,
        covariate_mean=mean + np.einsum("kq,kqr->kr", shift, slopes),
        covariate_ss=np.einsum("kqr,kqi,kis->krs", slopes, values.covariate_ss, slopes),
        covariate_y=np.swapaxes(slopes, 1, 2) @ values.covariate_y,
    )


def merge_rows(rows: Collapsed, codes: IntArray, n: int) -> Collapsed:
    """Statistics of n unions of rows (every one of them has rows), exactly.

    Sums are about the mean of a union's first row, so that what is constant stays so to the last digit
    (see :meth:`donorwise._core.cells.measures.Collapsed.merge`).
    """
    order = np.argsort(codes, kind="stable")
    if n == codes.size:
        return rows if np.array_equal(order, np.arange(n)) else rows.take(order)
    by = codes[order]
    starts = np.searchsorted(by, np.arange(n))
    weight = np.add.reduceat(rows.weight[order], starts)
    w = rows.weight[order]
    share = w / weight[by]

    def centre(values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weighted means over the unions, and deviations of the rows from them."""
        origin = values[order[starts]]
        deviation = values[order] - origin[by]
        offset = np.add.reduceat(share[:, None] * deviation, starts, axis=0)
        return origin + offset, deviation - offset[by]

    covariate_mean, dc = centre(rows.covariate_mean)
    _, m, g = rows.shape
    out = Collapsed(
        n_obs=np.add.reduceat(rows.n_obs[order], starts),
        weight=weight,
        log_weight=np.add.reduceat(rows.log_weight[order], starts),
        mean=np.empty((n, g)),
        within_ss=np.empty((n, g)),
        covariate_mean=covariate_mean,
        covariate_ss=np.add.reduceat(
            rows.covariate_ss[order] + w[:, None, None] * dc[:, :, None] * dc[:, None], starts
        ),
        covariate_y=np.empty((n, m, g)),
    )
    width = max(1, _BLOCK // (order.size * (4 + 2 * m)))
    for part in (slice(low, low + width) for low in range(0, g, width)):
        out.mean[:, part], dy = centre(rows.mean[:, part])
        out.within_ss[:, part] = np.add.reduceat(rows.within_ss[:, part][order] + w[:, None] * dy**2, starts)
        if m:
            cross = (w[:, None] * dc)[:, :, None] * dy[:, None]
            out.covariate_y[..., part] = np.add.reduceat(rows.covariate_y[..., part][order] + cross, starts)
    return out


def label_codes(column: pd.Series) -> tuple[IntArray, int]:
    """Codes in the order of categories or values, missing values last, and their number."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, n = column.cat.codes.to_numpy().astype(np.int64), len(column.cat.categories)
    else:
        found, uniques = pd.factorize(column, sort=True)
        codes, n = found.astype(np.int64), len(uniques)
    return np.where(codes < 0, n, codes), n + 1


def concatenate(parts: Sequence[Collapsed]) -> Collapsed:
    """Rows of several, one under another."""
    return Collapsed(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Collapsed)})
