"""What a run says while it runs, on stderr: a bar on a terminal, lines elsewhere, or JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from donorwise.errors import DonorwiseWarning

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("donorwise")


class _Echo(logging.Handler):
    """A line per record, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            click.echo(self.format(record), err=True)


class _Plain(logging.Formatter):
    """The time and the message; errors as they are."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            return text
        mark = "warning: " if record.levelno >= logging.WARNING else ""
        return f"{datetime.fromtimestamp(record.created):%H:%M:%S} {mark}{text}"


class _Json(logging.Formatter):
    """One JSON object a line: time (UTC), level, message, and what the record carries as ``data``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "message": record.getMessage()}
        return json.dumps(line | getattr(record, "data", {}))


def set_up(ctx: click.Context, *, quiet: bool, as_json: bool) -> bool:
    """Send the package's log and warnings to stderr until the command ends; say whether to draw progress bars."""
    progress = sys.stderr.isatty() and not (quiet or as_json)
    handler = _Echo()
    handler.setFormatter(_Json() if as_json else _Plain())
    before = (logger.level, logger.propagate, warnings.showwarning)
    if progress:
        handler.addFilter(_not_on_the_bar)
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    warnings.showwarning = _log_warning
    _after_everything(ctx, lambda: _restore(handler, *before))
    return progress


def _not_on_the_bar(record: logging.LogRecord) -> bool:
    """Leave out what a progress bar shows: the groups that are finished."""
    return record.levelno > logging.INFO or getattr(record, "data", {}).get("event") != "group"


def _after_everything(ctx: click.Context, action: Callable[[], object]) -> None:
    """Call at the end of the whole command, when the last error has been said too."""
    ctx.find_root().call_on_close(action)


def _restore(handler: logging.Handler, level: int, propagate: bool, showwarning: Any) -> None:
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate
    warnings.showwarning = showwarning


def _log_warning(message: Warning | str, category: type[Warning], *args: Any, **more: Any) -> None:
    """Warnings of this package are for the user; those of its libraries are not about the data."""
    if issubclass(category, DonorwiseWarning):
        logger.warning(str(message))
