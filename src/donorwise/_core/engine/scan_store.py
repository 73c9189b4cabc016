"""Where the pairs of a scan go: memory, or a folder in which a stopped run can be gone on with."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from donorwise._core.engine.scan_folder import COUNTS, LEAD, MANIFEST, PARAMS, check_pyarrow, group_folder
from donorwise._core.engine.scan_summary import Summary
from donorwise._core.engine.scan_tables import pairs_table
from donorwise._core.engine.scan_tiles import Pairs
from donorwise._core.files import reason, replaced
from donorwise._core.wording import differences
from donorwise.errors import DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from donorwise._core.engine.scan import Scan
    from donorwise._typing import FloatArray

logger = logging.getLogger("donorwise")

PARTS = "_parts"
_SAME = 1e-7  # difference of numbers that were worked out twice
_ROW_GROUP = 100_000  # rows that readers take or leave together
MOST_ROWS = 20_000_000
"""Tests that are kept in memory at most."""


class Memory:
    """The store that keeps everything in memory."""

    def __init__(self) -> None:
        self.pairs: dict[int, list[Pairs]] = {}

    def check(self, task: int, chrom: str, models: FloatArray) -> None:
        """Nothing was tested before."""

    def finished(self, task: int) -> Mapping[int, Summary]:
        """Nothing is finished before it begins."""
        return {}

    def save(self, task: int, block: int, pairs: Pairs, summary: Summary) -> None:
        """Keep the pairs."""
        self.pairs.setdefault(task, []).append(pairs)

    def of(self, task: int) -> Pairs:
        """The pairs of a task."""
        return Pairs.concatenate([Pairs.none(), *self.pairs.get(task, [])]).in_order()


def check_size(scan: Scan) -> None:
    """Raise where all tests are asked for, and would not fit into memory.

    Raises
    ------
    DataError
        Says what to do.
    """
    n = scan.n_pairs() * len(scan.analysis.tasks)
    if scan.options.tests.p_max is None and n > MOST_ROWS:
        raise DataError(
            f"{n:,} tests do not fit into memory: write them to a folder (out='scan/'), or keep those that matter "
            "(p_max=1e-5); all of them are counted whatever is kept."
        )


def check_place(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise unless a scan can be written to `folder`: nothing is there, or a scan that may be gone on with or replaced.

    Raises
    ------
    DataError
        Something else is there, or a scan and nobody said what becomes of it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not _is_scan(folder):
        raise DataError(
            f"{folder} is there and is not the folder of a scan, so it is not replaced; choose another name."
        )
    if not (resume or overwrite):
        kind, go_on = ("finished", "takes it as it is") if _is_finished(folder) else ("stopped", "goes on with it")
        raise DataError(
            f"{folder} has a scan that was {kind}: resume=True (--resume) {go_on} if input and options are the same, "
            "overwrite=True (--overwrite) starts again."
        )


def _is_scan(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or _is_finished(folder)


def _is_finished(folder: Path) -> bool:
    return (folder / PARAMS).is_file()


class Folder:
    """The store that writes a Parquet part for each group and block; what all tests say is kept beside until the end.

    Parameters
    ----------
    scan
        What is scanned.
    folder
        Where to.
    resume, overwrite
        Whether to go on with what a stopped run left, and whether to remove what is there.
    inputs
        What tells the run from others; None for what the scan itself says.

    Attributes
    ----------
    complete
        Whether this scan is there already, from beginning to end.

    Raises
    ------
    DataError
        The folder has something else, or another run.
    OutputError
        It cannot be written to.
    """

    def __init__(
        self,
        scan: Scan,
        folder: Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        check_pyarrow()
        check_place(folder, resume=resume, overwrite=overwrite)
        self._scan, self.folder = scan, folder
        manifest = json.loads(json.dumps(inputs or self._manifest))
        self.complete = _is_scan(folder) and self._go_on(manifest, resume=resume, overwrite=overwrite)
        try:
            (folder / PARTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} could not be made: {reason(error)}.") from error
        if not self.complete:
            with replaced(folder / MANIFEST) as temporary:
                temporary.write_text(json.dumps(manifest, indent=1))

    def _go_on(self, manifest: dict[str, Any], *, resume: bool, overwrite: bool) -> bool:
        """Keep what the same scan left, and say whether that is all of it; else remove it, or raise."""
        changed = self._changed(manifest) if resume else ["not asked"]
        if not changed:
            done = len(list((self.folder / PARTS).glob("*.npz")))
            if not (complete := _is_finished(self.folder)) and done:
                logger.info("Resumed: %d of %d blocks are finished.", done, self._n_blocks)
            return complete
        if resume and not overwrite:
            raise DataError(
                f"The scan in {self.folder} was another one, so it cannot be gone on with: {'; '.join(changed)}. Restore what "
                "changed, choose another folder, or overwrite it (overwrite=True, --overwrite)."
            )
        shutil.rmtree(self.folder)
        return False

    @property
    def _n_blocks(self) -> int:
        """Blocks of all tasks that have a design."""
        return len(self._scan.blocks()) * sum(own is not None for own in self._scan.donors)

    def _changed(self, manifest: dict[str, Any]) -> list[str]:
        """How the scan that is there differs from the one that is wanted, a phrase each."""
        try:
            was = json.loads((self.folder / MANIFEST).read_text())
        except (OSError, ValueError):
            return [f"{MANIFEST}, which says what it was, cannot be read"]
        return differences(was, manifest)

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        """What must be the same for a stopped run to be gone on with."""
        scan = self._scan
        analysis = scan.analysis
        return {
            "formula": analysis.formula.source,
            "groups": [task.name for task in analysis.tasks],
            "donors": [None if own is None else list(own.names) for own in scan.donors],
            "genes": _digest("\n".join(analysis.variables)),
            "genotypes": [scan.genotypes.n_variants, scan.blocks()[:2], scan.blocks()[-1]],
            "response": [analysis.response, analysis.weights],
            "options": asdict(scan.options),
            "version": version("donorwise"),
        }

    def check(self, task: int, chrom: str, models: FloatArray) -> None:
        """Note numbers of null models, or compare them with those that were noted.

        Raises
        ------
        DataError
            The data are others than those of the scan that is there.
        """
        path = self.folder / PARTS / f"models-{task:05d}-{quote(chrom, safe='')}.npy"
        if not path.is_file():
            with replaced(path) as temporary:
                np.save(temporary, models)
            return
        was = np.load(path)
        if was.shape != models.shape or not np.allclose(was, models, rtol=_SAME, atol=_SAME):
            name = self._scan.analysis.tasks[task].name
            raise DataError(
                f"The data of {name!r} are not those of the scan in {self.folder}: restore them, choose another folder, or "
                "overwrite it (overwrite=True, --overwrite)."
            )

    def finished(self, task: int) -> dict[int, Summary]:
        """Blocks whose part is whole; all of a finished scan, whose tables are there."""
        if self.complete:
            nothing = Summary.empty(len(self._scan.analysis.variables))
            return dict.fromkeys(range(len(self._scan.blocks())), nothing)
        found = {}
        for file in sorted((self.folder / PARTS).glob(f"{task:05d}-*.npz")):
            with np.load(file) as arrays:
                found[int(file.stem.split("-")[1])] = Summary.of_arrays(arrays)
        return found

    def save(self, task: int, block: int, pairs: Pairs, summary: Summary) -> None:
        """Write the part of a block, and then that it is finished."""
        folder = self.folder / group_folder(self._scan.analysis.tasks[task].name)
        folder.mkdir(exist_ok=True)
        part = folder / f"part-{block:05d}.parquet"
        if pairs.feature.size:
            self._write(pairs_table(self._scan, pairs.in_order()), part)
        with replaced(self.folder / PARTS / f"{task:05d}-{block:05d}.npz") as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **summary.arrays())

    def finish(self, results: pd.DataFrame, counts: pd.DataFrame, params: Mapping[str, Any]) -> None:
        """Write what all tests say together; the folder is that of a finished scan then, which keeps what tells it from others."""
        self._write(results, self.folder / LEAD)
        self._write(counts, self.folder / COUNTS)
        with replaced(self.folder / PARAMS) as temporary:
            temporary.write_text(json.dumps(params, indent=1, default=float))
        for summary in (self.folder / PARTS).glob("*.npz"):
            summary.unlink()

    def _write(self, table: pd.DataFrame, path: Path) -> None:
        with replaced(path) as temporary:
            table.to_parquet(temporary, engine="pyarrow", index=False, row_group_size=_ROW_GROUP)


def _digest(text: str) -> str:
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()[:16]
