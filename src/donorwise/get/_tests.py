"""The table of tests, and how tables are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._anndata import keys, read_every_test, read_results, suggest, symbols_of
from donorwise._core.engine.groups import group_names
from donorwise._docs import documented
from donorwise._typing import STATUSES, check_option, is_number
from donorwise.errors import DataError, DonorwiseError
from donorwise.get._adjusted import adjusted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._anndata import Symbols
    from donorwise._typing import Adjust, BoolArray, Groups


def choose(table: pd.DataFrame, column: str, wanted: Groups) -> pd.DataFrame:
    """Keep the rows whose categorical `column` is (one of) `wanted`; None keeps all of them.

    A group may be named by a number, or by a level of each column that makes the groups (a tuple).

    Raises
    ------
    DataError
        A wanted value does not occur; the message names close matches or lists what occurs.
    """
    if wanted is None:
        return table
    known = table[column].cat.categories
    names = group_names(wanted, known)
    for name in names:
        if name not in known:
            raise DataError(f"There is no {column} {name!r} in this result. {suggest(name, known)}")
    return table[table[column].isin(names)]


def choose_some(table: pd.DataFrame, column: str, wanted: Groups) -> pd.DataFrame:
    """As :func:`choose`, for what is computed: it has to be asked for something.

    Raises
    ------
    DataError
        A wanted value does not occur, or `wanted` is empty.
    """
    found = choose(table, column, wanted)
    if len(table) and not len(found):
        raise DataError(f"An empty list of {column}s asks for nothing; leave it out (None) for all of them.")
    return found


def choose_all(table: pd.DataFrame, **wanted: Groups) -> pd.DataFrame:
    """Keep the rows that are wanted in every column, tidied.

    Raises
    ------
    DataError
        A wanted value does not occur in its column.
    """
    for column, names in wanted.items():
        table = choose(table, column, names)
    return tidy(table)


def only_one(table: pd.DataFrame, column: str, wanted: str | None) -> str:
    """Return `wanted` if it occurs in `column`, or else the one value there is.

    Raises
    ------
    DataError
        `wanted` does not occur, or it is None and there are several values to choose from.
    """
    known = list(choose(table, column, wanted)[column].cat.categories)
    if wanted is not None:
        return wanted
    if len(known) != 1:
        raise DataError(f"This result has {len(known)} {column}s; choose one with {column}=. {suggest('', known)}")
    return str(known[0])


def present(table: pd.DataFrame, column: str) -> list[str]:
    """Values of a categorical column that occur, in the order of the categories."""
    return [str(name) for name in table[column].cat.remove_unused_categories().cat.categories]


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Copy the chosen rows, with categories that do not occur in them left out and rows numbered from 0."""
    chosen = table.reset_index(drop=True).copy()
    for column in chosen.select_dtypes("category"):
        chosen[column] = chosen[column].cat.remove_unused_categories()
    return chosen


def meant(symbols: Symbols, wanted: str | Sequence[str] | None) -> list[str] | None:
    """The features that are meant; None for all."""
    return None if wanted is None else symbols.find(wanted)


def with_status(
    table: pd.DataFrame, wanted: str | Sequence[str] | None, statuses: tuple[str, ...] = STATUSES
) -> pd.DataFrame:
    """Keep the rows with (one of) these statuses; None keeps all of them.

    Raises
    ------
    DonorwiseError
        One of them is none of `statuses`.
    """
    if wanted is None:
        return table
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        check_option("status", name, statuses)
    return table[table["status"].isin(names)]


def in_order(table: pd.DataFrame, sort_by: str | None, *, ascending: bool) -> pd.DataFrame:
    """Sort by a column, missing values last; None keeps the order.

    Raises
    ------
    DataError
        There is no such column.
    """
    if sort_by is None:
        return table
    if sort_by not in table.columns:
        raise DataError(f"sort_by: there is no column {sort_by!r}. {suggest(sort_by, table.columns)}")
    return table.sort_values(sort_by, ascending=ascending, kind="stable", na_position="last")


def passes(table: pd.DataFrame, alpha: float | None, min_log_fc: float | None) -> BoolArray:
    """Which tests have an adjusted p-value up to `alpha` and at least this fold change; None asks for nothing.

    Raises
    ------
    DonorwiseError
        A cutoff is none.
    DataError
        Fold changes are asked for, and there are none.
    """
    found = np.ones(len(table), dtype=bool)
    if alpha is not None:
        check_cutoff("alpha", alpha, 1.0)
        found &= (table["adj_p_value"] <= alpha).to_numpy()
    if min_log_fc is not None:
        check_cutoff("min_log_fc", min_log_fc, np.inf)
        if len(table) and not table["log_fc"].notna().any():
            raise DataError(
                "min_log_fc= needs log2 fold changes, and these tests have none: their estimates are in units of the "
                "response. Leave it out, or choose by the column estimate of dw.get.tests."
            )
        found &= (table["log_fc"].abs() >= min_log_fc).to_numpy()
    return found


def check_cutoff(name: str, value: object, most: float) -> None:
    """Raise unless `value` is a number between 0 and `most`."""
    if not (is_number(value) and 0 <= float(value) <= most):  # type: ignore[arg-type]
        what = "a number between 0 and 1, such as 0.05" if most == 1 else "a number of at least 0, such as 1"
        raise DonorwiseError(f"{name}={value!r} must be {what}.")


def _with_ratios(table: pd.DataFrame, ratio: str, key: str) -> pd.DataFrame:
    """The tests with the ratios that estimates are logarithms of, and the ratios' intervals."""
    if not ratio:
        raise DataError(
            f"exponentiate=True: the estimates of {key!r} are differences of mean responses, and no logarithms of ratios; "
            "leave it out. Where there are fold changes, `log_fc` has them in log2."
        )
    table = table.assign(**{end: np.exp(table[end]) for end in ("ci_low", "ci_high")})
    table.insert(table.columns.get_loc("ci_low"), ratio, np.exp(table["estimate"]))
    return table


@documented
def tests(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    status: str | Sequence[str] | None = None,
    alpha: float | None = None,
    adjust: Adjust = "within",
    min_log_fc: float | None = None,
    gene_symbols: str | None = None,
    exponentiate: bool = False,
    sort_by: str | None = "p_value",
    ascending: bool = True,
) -> pd.DataFrame:
    """Return the tests of a model as a tidy DataFrame.

    Parameters
    ----------
    {adata_result}
    {key}
    contrast, group, variables, status
        {keep}
    {alpha_kept}
    adjust
        Over which tests p-values are adjusted, in the table that is returned alone. ``"within"``: as it is stored, over the features of
        each contrast and group. ``"global"``: over all tests of the chosen contrasts in all groups (name `contrast` to leave out
        covariates that nobody asks about). ``"stagewise"``: for each contrast, at a false discovery rate of features that change in
        any group, and then in which groups they do, as stageR (Van den Berge et al. 2017) does it; a column adj_p_screen has the
        features' own adjusted p-values. Its level is `alpha`, or .05, and its `adj_p_value` is a yes or no at that level
        alone. What `group`, `variables` and `status` keep does not change any of them.
    {min_log_fc}
    {symbols_beside}
    exponentiate
        Of :func:`donorwise.tl.glmm` and :func:`donorwise.tl.pseudobulk`, whose estimates are logarithms of ratios: add the
        ratio, exp of `estimate`, as a column ``rate_ratio`` or ``odds_ratio`` before `ci_low` and `ci_high`, which become
        those of the ratio. Of an intercept it is the rate (for one unit of exposure) or the odds.
    {sort_by}
    {ascending}

    Returns
    -------
    One row per variable x group x contrast with the columns variable, group, contrast, estimate, se,
    ci_low, ci_high, statistic, df, p_value, adj_p_value, log_fc, status, n_donors and n_obs; ``attrs["adjust"]`` says in words over
    which tests `adj_p_value` is adjusted, and of tests of a minimal effect ``attrs["min_effect"]`` is that, in units of `estimate`.
    `estimate` is in units of the response, `log_fc` a log2 fold change; those of a covariate such as age are per unit of
    it (per year). `statistic`, `se`, `df`, `p_value` and the interval are those of one t distribution: ``estimate
    / se`` is `statistic`, and p the two-sided tail of t beyond it. Of a moderated test, whose law is a mixture over
    what is not known of the variances, that is the t with the mixture's p-value and the width of its 95% interval:
    its `df` describes that shape, and is no count of donors or cells. Where p is nearly 1 an estimate beside the
    mixture's median makes `se` large or small. Of a ``separated`` one the interval has no end on the side of the arm that has
    all of the response, or none. Tests against a minimal effect (:func:`donorwise.tl.test`) have a `statistic` that is zero up
    to it, and p from both of its ends. After :func:`donorwise.tl.shrink` there are two more columns, shrunk and lfsr.

    Results of proteins (``features=`` of :func:`donorwise.tl.lmm`) have three more: n_peptides, n_missing, and formula, the one that
    was fitted.

    Raises
    ------
    DataError
        There is no such result, contrast, group, variable or column of var; the message says which there are. Or there
        are no fold changes for `min_log_fc`, or no ratios to `exponentiate`.
    DonorwiseError
        A cutoff or an option is none.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> table = dw.get.tests(adata, contrast="condition[T.disease]", group="T cell")
    >>> table["p_value"].is_monotonic_increasing
    True
    >>> hits = dw.get.tests(adata, alpha=0.05, min_log_fc=0.5)
    >>> bool((hits["adj_p_value"] <= 0.05).all() and (hits["log_fc"].abs() >= 0.5).all())
    True
    >>> dw.get.tests(adata, adjust="global").attrs["adjust"]
    'Benjamini-Hochberg over all 60 tests of `condition[T.disease]` in `T cell`, `Monocyte`, `B cell`'
    >>> hits = dw.get.tests(adata, adjust="stagewise", alpha=0.1)
    >>> bool((hits["adj_p_screen"] <= 0.1).all())
    True
    """
    stored = read_results(adata, key)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    if alpha is not None:
        check_cutoff("alpha", alpha, 1.0)
    # over those of features that have left the AnnData as well
    table, told = adjusted(choose(read_every_test(adata, key), "contrast", contrast), adjust, alpha)
    table = table[table["variable"].isin(stored.results["variable"].cat.categories)]
    if exponentiate:
        table = _with_ratios(table, stored.ratio, key)
    for column, wanted in (("group", group), ("variable", meant(symbols, variables))):
        table = choose(table, column, wanted)
    table = with_status(table, status)
    table = symbols.beside(table[passes(table, alpha, min_log_fc)])
    table = tidy(in_order(table, sort_by, ascending=ascending))
    table.attrs["adjust"] = told
    if "min_effect" in stored.params:
        table.attrs["min_effect"] = float(stored.params["min_effect"])
    return table
