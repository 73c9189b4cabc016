"""The finished groups of a run that may be stopped at any moment."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from donorwise._batch.outputs import OutputError, reason, replaced, write_anndata
from donorwise._batch.sources import read_source
from donorwise._batch.tables import GroupResult, group_from_anndata, group_to_anndata
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Partial:
    """The folder ``<out>.partial``: a manifest of what is run, and one file per finished group."""

    folder: Path

    @classmethod
    def of(cls, out: Path) -> Partial:
        """The folder that belongs to an output."""
        return cls(out.with_name(f"{out.name}.partial"))

    def open(self, manifest: Mapping[str, Any], *, resume: bool) -> set[int]:
        """Start, or go on with, the run that `manifest` describes; return the groups that are finished.

        Raises
        ------
        DataError
            There is a stopped run and `resume` was not asked for, or it was another run.
        OutputError
            The folder cannot be written to.
        """
        wanted = json.loads(json.dumps(manifest))
        if (self.folder / MANIFEST).exists():
            if not resume:
                raise DataError(
                    f"{self.folder} holds a run that was stopped: go on with --resume, or remove that folder to start "
                    "again."
                )
            self._check(wanted)
            return self.finished()
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} could not be made: {reason(error)}.") from error
        with replaced(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1))
        return set()

    def finished(self) -> set[int]:
        """Numbers of the groups that are finished."""
        return {int(path.stem) for path in self.folder.glob("[0-9]*.h5ad")}

    def save(self, number: int, result: GroupResult, variables: Sequence[str]) -> None:
        """Keep a group that is finished."""
        write_anndata(group_to_anndata(result, variables), self._file(number))

    def load(self, number: int) -> GroupResult:
        """A group that was kept."""
        return group_from_anndata(read_source(self._file(number)))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.h5ad"

    def _check(self, wanted: Mapping[str, Any]) -> None:
        """Raise unless the stopped run had this manifest."""
        try:
            was = json.loads((self.folder / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder / MANIFEST} cannot be read; remove that folder to start again.") from error
        changed = _differences(was, wanted)
        if changed:
            raise DataError(
                f"The run that was stopped was another one, so it cannot be resumed: {'; '.join(changed)}. Restore what "
                f"changed, or remove {self.folder} to start again."
            )


def _differences(was: Any, now: Any, name: str = "") -> list[str]:
    """What changed, a phrase each."""
    if isinstance(was, dict) and isinstance(now, dict):
        found = [_differences(was.get(k), now.get(k), f"{name} {k}".strip()) for k in dict.fromkeys([*was, *now])]
        return [text for texts in found for text in texts]
    return [] if was == now else [f"{name} was {_short(was)} and is {_short(now)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
