"""Where the pairs of a scan go: memory, or a folder in which a stopped run can be gone on with."""

from __future__ import annotations

import json
import shutil
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from donorwise._core.engine.scan_folder import COUNTS, LEAD, MANIFEST, PARAMS, check_pyarrow, group_folder
from donorwise._core.engine.scan_summary import Summary
from donorwise._core.engine.scan_tables import pairs_table
from donorwise._core.engine.scan_tiles import Pairs
from donorwise._core.files import reason, replaced
from donorwise.errors import DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from donorwise._core.engine.scan import Scan
    from donorwise._typing import FloatArray

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
        What else tells a run from another.

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
        self._scan, self.folder = scan, folder
        manifest = json.loads(json.dumps(self._manifest | {"inputs": dict(inputs or {})}))  # as it is read again
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            self._make_way(manifest, resume=resume, overwrite=overwrite)
        try:
            (folder / PARTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} could not be made: {reason(error)}.") from error
        with replaced(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1))

    def _make_way(self, manifest: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Remove what is in the folder, or see that it can be gone on with."""
        of_scan = (self.folder / MANIFEST).is_file() or (self.folder / PARAMS).is_file()
        if not of_scan:
            raise DataError(
                f"{self.folder} is there and is not the folder of a scan, so it is not replaced; choose another name."
            )
        if resume and (self.folder / MANIFEST).is_file():
            was = json.loads((self.folder / MANIFEST).read_text())
            changed = [name for name in manifest if was.get(name) != manifest[name]]
            if not changed:
                return
            if not overwrite:
                raise DataError(
                    f"The scan in {self.folder} was another one ({', '.join(changed)} changed), so it cannot be gone on with: "
                    "restore what changed, choose another folder, or overwrite it."
                )
        elif not overwrite:
            kind = "a scan that was stopped" if (self.folder / MANIFEST).is_file() else "a finished scan"
            raise DataError(
                f"{self.folder} has {kind}: resume=True goes on with one that was stopped, overwrite=True starts again."
            )
        shutil.rmtree(self.folder)

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        """What must be the same for a stopped run to be gone on with."""
        scan = self._scan
        analysis, o = scan.analysis, scan.options
        return {
            "formula": analysis.formula.source,
            "groups": [task.name for task in analysis.tasks],
            "donors": [None if own is None else list(own.names) for own in scan.donors],
            "genes": _digest("\n".join(analysis.variables)),
            "genotypes": [scan.genotypes.n_variants, scan.blocks()[:2], scan.blocks()[-1]],
            "response": [analysis.response, analysis.weights],
            "options": [o.mode, o.window, o.interaction, o.tests.test, o.tests.refit, o.tests.screen, o.tests.p_max, o.gene_test,
                        o.tests.n_permutations, o.loco, o.maf, o.missing, o.tests.seed],
        }  # fmt: skip

    def check(self, task: int, chrom: str, models: FloatArray) -> None:
        """Note numbers of null models, or compare them with those that were noted.

        Raises
        ------
        DataError
            The data are others than those of the stopped run.
        """
        path = self.folder / PARTS / f"models-{task:05d}-{quote(chrom, safe='')}.npy"
        if not path.is_file():
            with replaced(path) as temporary:
                np.save(temporary, models)
            return
        was = np.load(path)
        if was.shape != models.shape or not np.allclose(was, models, rtol=_SAME, atol=_SAME):
            raise DataError(
                f"The data of {self._scan.analysis.tasks[task].name!r} are not those that the stopped scan in {self.folder} was of: "
                "restore them, choose another folder, or overwrite it."
            )

    def finished(self, task: int) -> dict[int, Summary]:
        """Blocks whose part is whole."""
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
        """Write what all tests say together; the folder is that of a finished scan then."""
        self._write(results, self.folder / LEAD)
        self._write(counts, self.folder / COUNTS)
        with replaced(self.folder / PARAMS) as temporary:
            temporary.write_text(json.dumps(params, indent=1, default=float))
        shutil.rmtree(self.folder / PARTS)
        (self.folder / MANIFEST).unlink()

    def _write(self, table: pd.DataFrame, path: Path) -> None:
        with replaced(path) as temporary:
            table.to_parquet(temporary, engine="pyarrow", index=False, row_group_size=_ROW_GROUP)


def _digest(text: str) -> str:
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()[:16]
