"""A readable summary of a table of results."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys, list_results, read_results, symbols_of
from donorwise._anndata.write import result_columns
from donorwise._batch.files import read_source, write_figure
from donorwise._batch.records import read_record
from donorwise._batch.run import results_anndata
from donorwise._core.engine.groups import group_text
from donorwise._core.models.glmm.families import distribution
from donorwise._core.wording import code, markdown
from donorwise._typing import STATUSES
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import anndata as ad

_HEAD = (
    "formula",
    "groupby",
    "ddf",
    "response",
    "features",
    "weights_layer",
    "robust",
    "family",
    "exposure",
    "n_cells",
    "version",
)
_OPTIONS = ("formula", "ddf", "features", "weights_layer", "robust", "family", "exposure")
SHOWN = ["variable", "estimate", "se", "df", "p_value", "adj_p_value", "log_fc", "n_donors"]
_OF_PROTEINS = ("n_peptides", "formula")
_COUNTS = ("n_donors", "n_obs", "n_peptides", "n_missing")
_FEW_DONORS = 4
_PRIOR_ALONE = "(one degree of freedom of their own, or less than two): Kenward-Roger finds next to nothing."


def read_any(path: Path, key: str | None = None) -> tuple[ad.AnnData, str]:
    """Results from ``.parquet``, ``.csv`` or ``.h5ad``, and the key of ``uns`` they are under.

    Raises
    ------
    DataError
        The file cannot be read, or holds no results.
    """
    if path.suffix in (".h5ad", ".zarr"):
        adata = read_source(path)
        found = list_results(adata)
        if not found:
            raise DataError(f"{path} holds no results of donorwise: run donorwise lmm, glmm or pseudobulk first.")
        return adata, key or (keys.LMM if keys.LMM in found else found[0])
    table = _read_table(path)
    missing = [c for c in keys.RESULT_COLUMNS if c not in table.columns]
    if missing:
        raise DataError(f"{path} is no table of results: it lacks the columns {', '.join(missing)}.")
    log_base = math.e if table["log_fc"].notna().any() else math.nan  # which logarithm it is no plot asks
    params = {"response": keys.RESPONSE_X, "formula": "", "groupby": "", "log_base": log_base} | _params(path)
    features = table.astype({"variable": str}).drop_duplicates("variable").set_index("variable")
    adata = results_anndata({keys.RESULTS: table}, params, features.index)
    for column in set(table.columns) - set(result_columns(table)):  # symbols, where the command wrote them
        adata.var[column] = features[column].astype(object).to_numpy()
    return adata, keys.LMM


def _read_table(path: Path) -> pd.DataFrame:
    readers: dict[str, Any] = {".parquet": pd.read_parquet, ".csv": _read_csv}
    if path.suffix not in readers:
        raise DataError(f"{path}: results are .parquet, .csv or .h5ad.")
    try:
        table: pd.DataFrame = readers[path.suffix](path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except Exception as error:  # a damaged file makes the readers fail in any way
        raise DataError(f"{path} cannot be read: {next(iter(str(error).splitlines()), '')}") from error
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    """Names stay text (a gene may be called NA, a cluster 1), and numbers keep every digit."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    known = {*keys.RESULT_COLUMNS, *keys.PEPTIDE_COLUMNS} - {"variable", "group", "contrast", "status", "formula"}
    for column in set(table.columns) & known:
        table[column] = np.array(table[column].replace("", "nan"), dtype=np.float64)
    return table.astype({column: np.int64 for column in _COUNTS if column in table})


def _params(path: Path) -> dict[str, Any]:
    """Formula and command from the record beside the table, where there is one."""
    try:
        content = read_record(path) or {}
        known = {name: str(content["options"].get(name, "")) for name in _OPTIONS}
        if known["family"]:
            known["link"] = distribution(known["family"], content["options"].get("link")).link
        known["groupby"] = group_text(content["options"].get("groupby"))
        known["response"] = _response(content["options"])
        failed = {str(k): str(v) for k, v in content["result"]["failed_groups"].items()}
        known["version"] = str(content["versions"]["donorwise"])
        return known | {"reasons": failed}
    except (KeyError, TypeError, AttributeError):
        return {}


def _response(options: dict[str, Any]) -> str:
    """What was tested, as params say it, from the options of the command."""
    if "cell_type" in options:
        return f"{keys.LABELS_PREFIX}{options['cell_type'] or 'cell types'}"
    if options.get("obsm"):
        return f"{keys.OBSM_PREFIX}{options['obsm']}"
    if options.get("obs_keys"):
        return keys.RESPONSE_OBS
    layer = options.get("layer") or "X"
    return keys.RESPONSE_X if layer == "X" else f"{keys.LAYER_PREFIX}{layer}"


def summarise(
    adata: ad.AnnData,
    key: str,
    *,
    said: Sequence[str] = (),
    alpha: float = 0.05,
    top: int = 10,
    gene_symbols: str | None = None,
) -> str:
    """The report in markdown: what deserves a second look, statuses, hits, top features.

    Parameters
    ----------
    adata
        Holds the results.
    key
        Entry of ``uns``.
    said
        What the run warned of.
    alpha
        Adjusted p-value up to which a feature counts as found.
    top
        Features to list per group and contrast.
    gene_symbols
        Column of var with what to call them.
    """
    read = read_results(adata, key)
    table = symbols_of(adata, gene_symbols, read.params).rename(read.results)
    head = ["# Results", ""]
    for name in _HEAD:
        value = group_text(read.groupby) if name == "groupby" else read.params.get(name)
        if value not in (None, ""):
            head.append(f"- {name}: {code(value)}")
    parts = [
        *head, f"- tests: {len(table):,} (features: {table['variable'].nunique():,}, groups: "
        f"{table['group'].nunique():,}, contrasts: {table['contrast'].nunique():,})", "",
        *_section("Warnings", [*said, *_warnings(table, read.params, " ".join(said))]),
        "## Status of the tests", "", _markdown(_statuses(table)), "",
        f"## Found at a false discovery rate of {alpha:.0%}", "", _markdown(_hits(table, alpha)), "",
        *_heritability(read.heritability, alpha),
    ]  # fmt: skip
    for (contrast, group), own in table.groupby(["contrast", "group"], observed=True, sort=False):
        best = own[own["p_value"].notna()].sort_values("p_value", kind="stable").head(top)
        if len(best):
            shown = [*SHOWN, *(name for name in _OF_PROTEINS if name in best)]
            parts += [f"## {markdown(contrast)}, {markdown(group)}", "", _markdown(best[shown]), ""]
    return "\n".join(parts)


def _statuses(table: pd.DataFrame) -> pd.DataFrame:
    counts = pd.crosstab(table["group"].astype(str), table["status"].astype(str))
    order = [name for name in STATUSES if name in counts.columns]
    groups = table["group"].astype(str).drop_duplicates()
    return counts.reindex(groups)[order].rename_axis(columns=None).reset_index()


def _hits(table: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Features tested, up and down, by contrast and group."""
    rows = []
    for (contrast, group), own in table.groupby(["contrast", "group"], observed=True, sort=False):
        found = own["adj_p_value"] <= alpha
        up, down = int((found & (own["estimate"] > 0)).sum()), int((found & (own["estimate"] < 0)).sum())
        rows.append((contrast, group, int(own["p_value"].notna().sum()), up, down, int(own["n_donors"].max())))
    return pd.DataFrame(rows, columns=["contrast", "group", "tested", "up", "down", "donors"])


def _heritability(table: pd.DataFrame | None, alpha: float) -> list[str]:
    """Shares of variance by group and component, and how many were found; nothing for a model without kernels."""
    if table is None:
        return []
    rows = []
    for (group, component), own in table.groupby(["group", "component"], observed=True, sort=False):
        share, p = own["proportion"].dropna(), own["adj_p_value"].dropna()
        found = int((p <= alpha).sum()) if len(p) else np.nan
        rows.append((group, component, len(share), share.median(), share.quantile(0.9), found))
    shown = pd.DataFrame(rows, columns=["group", "component", "features", "median", "upper tenth", "found"])
    return ["## Shares of variance", "", _markdown(shown), ""]


def _section(title: str, texts: Sequence[str]) -> list[str]:
    """A list under a heading, a line for each text; nothing for no text."""
    lines = [f"- {markdown(text)}" for text in dict.fromkeys(texts)]
    return [f"## {title}", "", *lines, ""] if lines else []


def _warnings(table: pd.DataFrame, params: dict[str, Any], said: str) -> list[str]:
    """What the table and its params show; reasons that were `said` already are left out."""
    found = [f"{group}: {text}" for group, text in dict(params.get("reasons") or {}).items() if text not in said]
    groups: dict[str, list[str]] = {}
    for group, own in table.groupby("group", observed=True, sort=False):
        for text in _of_group(own, dict(params.get("carried_by_prior") or {}).get(str(group), "")):
            groups.setdefault(text, []).append(str(group))
    found += [f"{', '.join(names)}: {text}" for text, names in groups.items()]
    return [*found, *(text for text in dict(params.get("cautions") or {}).values() if text not in said)]


def _of_group(own: pd.DataFrame, carried: str) -> Iterator[str]:
    """What the tests of one group show; `carried` are the contrasts that nothing but the prior carries."""
    donors = int(own["n_donors"].max())
    if own["p_value"].isna().all():
        yield "nothing was tested."
    elif 0 < donors < _FEW_DONORS:
        yield f"only {donors} donors."
    if carried:
        yield f"nothing but the prior that features share carries the tests of {carried} {_PRIOR_ALONE}"
    stuck = int((own["status"] == "not_converged").sum())
    if stuck:
        yield f"{stuck:,} tests did not converge."


def _markdown(table: pd.DataFrame) -> str:
    """A table as markdown, aligned for reading as it is."""
    cells = [[_name(c) for c in table.columns], *([_cell(v) for v in row] for row in table.itertuples(index=False))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    right = [pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    lines = [
        [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)] for row in [*cells, rule]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [lines[0], lines[-1], *lines[1:-1]])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else _name(value)


def _name(value: object) -> str:
    """A name in a cell."""
    return markdown(value).replace("|", "\\|")


def draw_volcanoes(
    adata: ad.AnnData, key: str, folder: Path, *, alpha: float = 0.05, gene_symbols: str | None = None
) -> list[Path]:
    """One PNG per contrast that has tests, all groups in it."""
    from donorwise import pl

    table = read_results(adata, key).results
    written: list[Path] = []
    for contrast in table["contrast"].cat.categories:
        own = table[table["contrast"] == contrast]
        tested = own[own["p_value"].notna()]
        if tested.empty:
            continue
        groups = list(dict.fromkeys(tested["group"].astype(str)))
        figure: Any = pl.volcano(
            adata, contrast=contrast, group=groups, key=key, alpha=alpha, gene_symbols=gene_symbols, show=False,
            return_fig=True,
        )  # fmt: skip
        path = folder / f"volcano_{_file_name(str(contrast), written)}.png"
        write_figure(figure, path)
        written.append(path)
    return written


def _file_name(contrast: str, taken: list[Path]) -> str:
    """The contrast with the characters that every file system takes; numbered where that is not unique."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in contrast).strip("_")
    return plain if all(p.stem != f"volcano_{plain}" for p in taken) else f"{plain}_{len(taken) + 1}"
