"""Recorded results of named scenarios: what the public functions and commands give, kept to be compared with.

``python -m tests._recorded`` lists what differs from the files in ``tests/recorded``; ``--update`` writes them anew,
all or those named. A recording is JSON with a table's row on a line, so that a change shows as a small diff. It holds
what a scenario returns, what it warned of and what it logged, without versions, times and paths.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import re
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from tests import _scenarios_files, _scenarios_fits, _scenarios_kernels, _scenarios_tools  # noqa: F401  fill SCENARIOS
from tests._scenarios import SCENARIOS

import donorwise as dw

FOLDER = Path(__file__).parent / "recorded"

RTOL = 1e-10
"""How far numbers may be off, relative to themselves or (but for p-values) to the median of their column.

It holds under both sets of versions that the tests run with and for cells in another order, for the degrees of freedom
of moderated tests too, as long as these are not in the thousands (the cohorts here have 900 cells)."""

LONG, KEPT = 40, 8
"""Tables with more rows than LONG are kept for some KEPT features, with sums over all rows."""

RECORDED_AS = {"source_backed": "source_memory", "source_rows_in_file": "source_rows"}
"""Scenarios that must give what another gives: cells in a file and in memory, rows in a file and in memory."""

_NOT_RECORDED = {"version", "versions", "truth", "log1p", "bytes"}


# ---------------------------------------------------------------- recording


def record(scenario: Callable[[Path], Any]) -> dict[str, Any]:
    """Run a scenario in a folder of its own and describe what it gave and said."""
    with tempfile.TemporaryDirectory() as name, _listening() as (caught, logged):
        folder = Path(name).resolve()
        found = describe(scenario(folder))
        said = {"warnings": [f"{w.category.__name__}: {w.message}" for w in caught if _ours(w)], "log": list(logged)}
        out: dict[str, Any] = _masked(said | {"found": found}, str(folder))
    return out


@contextlib.contextmanager
def _listening() -> Iterator[tuple[list[warnings.WarningMessage], list[str]]]:
    """Collect warnings, and messages of the package's logger from WARNING on."""
    logger, texts = logging.getLogger("donorwise"), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda r: texts.append(f"{r.levelname}: {r.getMessage()}")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught, texts
    finally:
        logger.removeHandler(handler)


def _ours(warning: warnings.WarningMessage) -> bool:
    """Whether it is of this package; what its libraries warn of depends on their versions."""
    return warning.category.__module__.startswith("donorwise")


def _masked(value: Any, folder: str) -> Any:
    """Leave out of every text the folder, the version and times."""
    if isinstance(value, dict):
        return {_masked(k, folder): _masked(v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_masked(v, folder) for v in value]
    if not isinstance(value, str):
        return value
    text = value.replace(folder, "FOLDER").replace(dw.__version__, "VERSION")
    return re.sub(r"\b\d\d:\d\d:\d\d\b", "TIME", re.sub(r"\b[\d.]+ s\b", "SECONDS", text))


def describe(value: Any) -> Any:
    """Anything a scenario returns as what JSON holds."""
    if isinstance(value, ad.AnnData):
        return _anndata(value)
    if isinstance(value, dw.LMMFit):
        return _fit(value)
    if isinstance(value, pd.DataFrame):
        return _table(value)
    if hasattr(value, "items"):
        return {str(k): describe(v) for k, v in value.items() if str(k) not in _NOT_RECORDED}
    if isinstance(value, np.ndarray | list | tuple):
        return [describe(v) for v in value]
    return _cell(value)


def _anndata(adata: ad.AnnData) -> dict[str, Any]:
    """What the package stored: entries of uns; of collapsed rows their slots as well."""
    out: dict[str, Any] = {"uns": {key: describe(adata.uns[key]) for key in sorted(adata.uns) if _kept(key)}}
    if "donorwise_collapsed" in adata.uns:
        layers = {str(k): _values(adata, m) for k, m in adata.layers.items() if k is not None}
        obsm = {k: describe(pd.DataFrame(np.asarray(m))) for k, m in adata.obsm.items()}
        out |= {"obs": describe(pd.DataFrame(adata.obs)), "X": _values(adata, adata.X), "layers": layers, "obsm": obsm}
        out["n_vars"] = adata.n_vars
    return out


def _kept(key: str) -> bool:
    return key not in _NOT_RECORDED and not key.endswith("_colors")


def _values(adata: ad.AnnData, matrix: Any) -> Any:
    """Some columns of a matrix, and the sums of all."""
    values = np.asarray(matrix[:], dtype=np.float64)
    chosen = np.unique(np.linspace(0, adata.n_vars - 1, 3).astype(int))
    frame = pd.DataFrame(values[:, chosen], columns=[str(adata.var_names[i]) for i in chosen])
    return {"some": describe(frame), "sums": describe(values.sum(axis=0))}


def _fit(fit: dw.LMMFit) -> dict[str, Any]:
    """The arrays of a fit; how many iterations it took is nobody's result."""
    names = ("formula", "reml", "donor", "variables", "fixed_names", "theta_names", "status", "n_obs", "n_donors",
             "beta", "vcov_beta", "sigma2", "theta", "loglik")  # fmt: skip
    return {"repr": repr(fit).splitlines(), **{name: describe(getattr(fit, name)) for name in names}}


def _table(table: pd.DataFrame) -> dict[str, Any]:
    """Columns, levels and rows; of a long table the rows of some features, and sums."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.rename_axis(table.index.name or "index").reset_index()
    columns = [str(c) for c in table.columns]
    rows = [[_cell(v) for v in row] for row in zip(*(table[c].tolist() for c in table.columns), strict=True)]
    out: dict[str, Any] = {"columns": columns, "levels": _levels(table), "n_rows": len(rows)}
    if len(rows) > LONG:
        out |= {"sums": _sums(columns, rows), "texts": _checksum(rows)}
        first = [row[0] for row in rows]
        distinct = list(dict.fromkeys(first))
        if columns[0] == "variable":
            chosen = {distinct[i] for i in np.linspace(0, len(distinct) - 1, KEPT).astype(int)}
            rows = [row for row in rows if row[0] in chosen]
        else:
            rows = [rows[i] for i in np.linspace(0, len(rows) - 1, LONG).astype(int)]
    return out | {"rows": rows}


def _levels(table: pd.DataFrame) -> dict[str, list[str]]:
    """Levels of categorical columns that are not just what occurs, in the order in which it does."""
    found = {}
    for name, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            levels = [str(level) for level in column.cat.categories]
            if levels != [str(v) for v in column.dropna().unique()]:
                found[str(name)] = levels
    return found


def _sums(columns: list[str], rows: list[list[Any]]) -> dict[str, list[Any]]:
    """Per column of numbers: how many there are, and the sum of their absolute values."""
    found = {}
    for name, column in zip(columns, zip(*rows, strict=True), strict=True):
        numbers = [abs(v) for v in column if isinstance(v, float) and math.isfinite(v)]
        if any(isinstance(v, float) for v in column):
            found[name] = [len(numbers), math.fsum(numbers)]
    return found


def _checksum(rows: list[list[Any]]) -> int:
    """Of everything in the rows that is not a float."""
    return zlib.crc32(json.dumps([[v for v in row if not isinstance(v, float)] for row in rows]).encode())


def _cell(value: Any) -> Any:
    """A plain value; text is text whatever pandas keeps it in."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA:
        return None
    return value if isinstance(value, bool | int | float) else str(value)


# ---------------------------------------------------------------- files


def path_of(name: str) -> Path:
    """The file of a recording."""
    return FOLDER / f"{RECORDED_AS.get(name, name)}.json"


def load(name: str) -> Any:
    """A recording as it was written."""
    return json.loads(path_of(name).read_text(encoding="utf-8"))


def dump(value: Any, indent: int = 0) -> str:
    """JSON with an entry of a dict, a row of a table and a line of text on a line each."""
    pad = "\n" + " " * (indent + 1)
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(k, ensure_ascii=False)}: {dump(v, indent + 1)}" for k, v in value.items()]
        return "{" + pad + f",{pad}".join(items) + pad[:-1] + "}"
    lines = isinstance(value, list) and any(isinstance(v, list) or (isinstance(v, str) and len(v) > 30) for v in value)
    if lines:
        return "[" + pad + f",{pad}".join(json.dumps(v, ensure_ascii=False) for v in value) + pad[:-1] + "]"
    return json.dumps(value, ensure_ascii=False)


# ---------------------------------------------------------------- comparing


def differences(was: Any, now: Any, at: str = "") -> list[str]:
    """Where two recordings differ, in words; numbers are compared within a tolerance."""
    if isinstance(was, dict) and isinstance(now, dict):
        if "columns" in was and "rows" in was and "columns" in now:
            return _table_differences(was, now, at)
        changed = [f"{at}: no {k!r} any more" for k in was if k not in now]
        changed += [f"{at}: {k!r} is new" for k in now if k not in was]
        return changed + [text for k in was if k in now for text in differences(was[k], now[k], f"{at}/{k}")]
    if isinstance(was, list) and isinstance(now, list):
        return _list_differences(was, now, at)
    return [] if _same(was, now, RTOL, 0.0) else [f"{at}: {was!r} became {now!r}"]


def _list_differences(was: list[Any], now: list[Any], at: str) -> list[str]:
    if len(was) != len(now):
        return [f"{at}: {len(was)} entries became {len(now)}: {was!r} became {now!r}"]
    floor = RTOL * _scale(_floats(was))
    if floor:
        old, new = _flat(was), _flat(now)
        if len(old) != len(new):
            return [f"{at}: another shape"]
        pairs = enumerate(zip(old, new, strict=True))
        return [f"{at}[{i}]: {a!r} became {b!r}" for i, (a, b) in pairs if not _same(a, b, RTOL, floor)]
    pairs = enumerate(zip(was, now, strict=True))
    return [text for i, (a, b) in pairs for text in differences(a, b, f"{at}[{i}]")]


def _table_differences(was: dict[str, Any], now: dict[str, Any], at: str) -> list[str]:
    """Cell by cell, with a floor for numbers near zero that is the size usual in their column."""
    found = []
    for part in ("columns", "levels", "n_rows", "texts"):
        if was.get(part) != now.get(part):
            found.append(f"{at}/{part}: {was.get(part)!r} became {now.get(part)!r}")
    if was["columns"] != now["columns"] or len(was["rows"]) != len(now["rows"]):
        return found or [f"{at}/rows: {len(was['rows'])} became {len(now['rows'])}"]
    for j, name in enumerate(was["columns"]):
        old, new = ([row[j] for row in table["rows"]] for table in (was, now))
        floor = 0.0 if "p_value" in name else RTOL * _scale([v for v in old if isinstance(v, float)])
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            if not _same(a, b, RTOL, floor):
                found.append(f"{at} row {i} ({was['rows'][i][0]}), {name}: {a!r} became {b!r}")
        sums = [table.get("sums", {}).get(name, []) for table in (was, now)]
        if not all(_same(a, b, RTOL, 0.0) for a, b in zip(*sums, strict=True)):
            found.append(f"{at}, sum of {name}: {sums[0]} became {sums[1]}")
    return found


def _same(a: Any, b: Any, rtol: float, floor: float) -> bool:
    if not (isinstance(a, float) and isinstance(b, float)):
        return type(a) is type(b) and bool(a == b)
    if not (math.isfinite(a) and math.isfinite(b)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return abs(a - b) <= max(rtol * abs(a), floor)


def _scale(numbers: list[float]) -> float:
    finite = [abs(v) for v in numbers if math.isfinite(v)]
    return float(np.median(finite)) if finite else 0.0


def _flat(value: Any) -> list[Any]:
    return [v for own in value for v in _flat(own)] if isinstance(value, list) else [value]


def _floats(value: list[Any]) -> list[float]:
    return [v for v in _flat(value) if isinstance(v, float)]


# ---------------------------------------------------------------- command


def main(arguments: list[str]) -> int:
    """Compare, or write anew, the recordings that are named (all if none is)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="Scenarios; all if none is named.")
    parser.add_argument("--update", action="store_true", help="Write the recordings anew.")
    given = parser.parse_args(arguments)
    n_changed = 0
    for name in given.names or SCENARIOS:
        now = record(SCENARIOS[name])
        if given.update and name not in RECORDED_AS:
            path_of(name).write_text(dump(now) + "\n", encoding="utf-8")
            continue
        found = differences(load(name), json.loads(dump(now)))
        n_changed += bool(found)
        print("\n".join([f"{name}: {len(found)} differences", *found[:5]]) if found else f"{name}: the same")
    return int(n_changed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
