"""The finished parts of a run that may be stopped at any moment."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from donorwise._anndata import open_source
from donorwise._batch.files import write_anndata
from donorwise._core.files import reason, replaced
from donorwise._core.wording import differences
from donorwise.errors import DataError, DonorwiseError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import anndata as ad

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Partial:
    """The folder ``<out>.partial``: a manifest of what is run, and one file per finished part (a group, a block)."""

    folder: Path

    @classmethod
    def of(cls, out: Path) -> Partial:
        """The folder that belongs to an output."""
        return cls(out.with_name(f"{out.name}.partial"))

    @contextmanager
    def kept(self, manifest: Mapping[str, Any], *, resume: bool, overwrite: bool = False) -> Iterator[set[int]]:
        """Keep what is finished while a run lasts; give the parts that were finished before. See :meth:`open`.

        An error that ends the run says what is kept, and for what.
        """
        finished = self.open(manifest, resume=resume, overwrite=overwrite)
        try:
            yield finished
        except DonorwiseError as error:
            n = len(self.finished())
            if not n:
                raise
            raise type(error)(
                f"{error} What was finished before ({n}) is kept in {self.folder}: --resume goes on with it if input and "
                "options stay the same; if one of them has to change, --overwrite starts again."
            ) from error
        finally:
            if not self.finished():
                self.remove()

    def is_there(self) -> bool:
        """Whether there is a run that was stopped."""
        return (self.folder / MANIFEST).exists()

    def open(self, manifest: Mapping[str, Any], *, resume: bool, overwrite: bool = False) -> set[int]:
        """Start, or go on with, the run that `manifest` describes; return the parts that are finished.

        With `overwrite` a stopped run that is not to be resumed, or cannot be, makes way.

        Raises
        ------
        DataError
            There is a stopped run and `resume` was not asked for, or it was another run.
        OutputError
            The folder cannot be written to.
        """
        wanted = json.loads(json.dumps(manifest))
        if self.is_there():
            changed = self._changed(wanted)
            if resume and not changed:
                return self.finished()
            if not overwrite:
                raise DataError(self._refusal(changed) if resume else self._question())
            self.remove()
        try:
            self.folder.mkdir(exist_ok=True)
            for number in self.finished():  # of a run whose removal was cut short, after its manifest was gone
                self._file(number).unlink()
        except OSError as error:
            raise OutputError(f"{self.folder} could not be made: {reason(error)}.") from error
        with replaced(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1))
        return set()

    def finished(self) -> set[int]:
        """Numbers of the parts that are finished."""
        return {int(path.stem) for path in self.folder.glob("[0-9]*.h5ad")}

    def save(self, number: int, part: ad.AnnData) -> None:
        """Keep a part that is finished."""
        write_anndata(part, self._file(number), compression="lzf")

    def load(self, number: int) -> ad.AnnData:
        """A part that was kept; its matrices stay in the file."""
        return open_source(self._file(number))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.h5ad"

    def _changed(self, wanted: Mapping[str, Any]) -> list[str]:
        """How the stopped run differs from the one that is wanted, a phrase each."""
        try:
            was = json.loads((self.folder / MANIFEST).read_text())
        except (OSError, ValueError):
            return [f"{self.folder / MANIFEST} cannot be read"]
        return differences(was, wanted)

    def _refusal(self, changed: Sequence[str]) -> str:
        return (
            f"The run that was stopped was another one, so it cannot be resumed: {'; '.join(changed)}. Restore what "
            f"changed, or start again with --overwrite, which removes {self.folder}."
        )

    def _question(self) -> str:
        return f"{self.folder} holds a run that was stopped: go on with --resume, or start again with --overwrite."
