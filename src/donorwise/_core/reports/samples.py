"""What is known of runs beside their measurements: a table of samples, joined to the runs by their names."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from donorwise._core.files import at_home, reason
from donorwise.errors import DataError

_SHOWN = 5

logger = logging.getLogger("donorwise")


def join_samples(
    obs: pd.DataFrame, samples: pd.DataFrame | str | os.PathLike[str], by: Sequence[str], decimal: str
) -> pd.DataFrame:
    """Columns of the runs `obs` and of their rows in `samples`, found by the columns `by` of both.

    Raises
    ------
    DataError
        The file cannot be read, a column of `by` is missing, a run has no row or several, or a column is in both.
    """
    table = _table(samples, by, decimal)
    clash = [name for name in table.columns if name in obs.columns and name not in by]
    if clash:
        raise DataError(f"samples: `{clash[0]}` is a column of obs already; rename it, or leave it out of obs_columns.")
    keys, own = _keys(obs, by), _keys(table, by)
    wanted = own.isin(keys)
    _check_keys(keys, own, by)
    if not wanted.all():
        logger.info("Rows of samples that are of no run here are left out: %s.", _some(own[~wanted]))
    rows = table.drop(columns=list(by)).iloc[own.get_indexer(keys)]
    return obs.join(rows.set_axis(obs.index))


def _table(samples: pd.DataFrame | str | os.PathLike[str], by: Sequence[str], decimal: str) -> pd.DataFrame:
    if isinstance(samples, str | os.PathLike):
        table = _read(at_home(Path(samples)), by, decimal)
    elif isinstance(samples, pd.DataFrame):
        table = samples
    else:
        raise DataError(f"samples is a DataFrame or the path of a file, not {type(samples).__name__}.")
    if len(by) == 1 and by[0] not in table.columns and table.index.name in (None, by[0]):
        table = table.rename_axis(by[0]).reset_index()
    absent = [name for name in by if name not in table.columns]
    if absent:
        have = ", ".join(f"`{name}`" for name in table.columns)
        raise DataError(f"samples has no column `{absent[0]}`, by which runs are found; it has {have}.")
    return table


def _read(path: Path, by: Sequence[str], decimal: str) -> pd.DataFrame:
    """A small table, in Parquet or in text whose separator its first lines show; names of runs are text."""
    if not path.is_file():
        raise DataError(f"samples: there is no file {path}.")
    try:
        if path.suffix in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(
            path, sep=None, engine="python", decimal=decimal, dtype=dict.fromkeys(by, str), encoding="utf-8-sig"
        )
    except (OSError, ValueError, ImportError, pd.errors.ParserError) as error:
        raise DataError(f"samples: {path} cannot be read as a table ({reason(error)}).") from error


def _keys(table: pd.DataFrame, by: Sequence[str]) -> pd.Index:
    """One name for each row."""
    return pd.Index(table[list(by)].astype(str).agg(" ".join, axis=1), dtype=object)


def _check_keys(keys: pd.Index, own: pd.Index, by: Sequence[str]) -> None:
    name = " and ".join(f"`{column}`" for column in by)
    missing = keys[~keys.isin(own)]
    if len(missing):
        raise DataError(
            f"{len(missing):,} of {len(keys):,} runs have no row in samples ({name}): {_some(missing)}. It has {_some(own)}. "
            f"Add rows for them, or leave these runs out: filters={{{by[0]!r}: [...]}} names those to keep."
        )
    twice = own[own.isin(keys) & own.duplicated()]
    if len(twice):
        raise DataError(f"samples has several rows of one run ({name}): {_some(twice.unique())}. Keep one of each.")


def _some(names: pd.Index) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
