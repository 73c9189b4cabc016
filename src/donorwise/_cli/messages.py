"""What the command says: logs, and faults in words."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from donorwise._core.jobs import asked_to_stop, forget
from donorwise._core.wording import one_line
from donorwise.errors import DonorwiseError, DonorwiseWarning, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import FrameType

logger = logging.getLogger("donorwise")


class _Echo(logging.Handler):
    """A line per record, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            click.echo(self.format(record), err=True)


class _Kept(logging.Handler):
    """What was warned of, for the record, whether it is shown or not."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of one record."""
        if record.levelno < logging.ERROR:
            self.texts.append(record.getMessage())


_SAID = "donorwise.warnings"


class _Plain(logging.Formatter):
    """The time and the message; errors as they are."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        text = one_line(record.getMessage())
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
    handler.setLevel(logging.ERROR if quiet else logging.INFO)
    kept = _Kept(logging.WARNING)
    ctx.find_root().meta[_SAID] = kept.texts
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    logger.addHandler(kept)
    warnings.showwarning = _log_warning
    _after_everything(ctx, lambda: _restore((handler, kept), *before))
    return progress


def warnings_said() -> list[str]:
    """All that the command has warned of so far."""
    return list(click.get_current_context().find_root().meta[_SAID])


def _not_on_the_bar(record: logging.LogRecord) -> bool:
    """Leave out what a progress bar shows: the groups that are finished."""
    return record.levelno > logging.INFO or getattr(record, "data", {}).get("event") != "group"


def _after_everything(ctx: click.Context, action: Callable[[], object]) -> None:
    """Call at the end of the whole command, when the last error has been said too."""
    ctx.find_root().call_on_close(action)


def _restore(handlers: Sequence[logging.Handler], level: int, propagate: bool, showwarning: Any) -> None:
    for handler in handlers:
        logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate
    warnings.showwarning = showwarning


def _log_warning(message: Warning | str, category: type[Warning], *args: Any, **more: Any) -> None:
    """Warnings of this package are for the user; those of its libraries are not about the data."""
    if issubclass(category, DonorwiseWarning):
        logger.warning(str(message))


NOT_WRITTEN, BAD_INPUT, FAILED_GROUPS, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143


class CarefulGroup(click.Group):
    """Commands whose errors are one line without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            with _terminable():
                return super().invoke(ctx)
        except DonorwiseError as error:
            _say(f"Error: {_one_line(error)}")
            ctx.exit(NOT_WRITTEN if isinstance(error, OutputError) else BAD_INPUT)
        except OSError as error:
            _say(f"Error: {_one_line(error)}")
            ctx.exit(NOT_WRITTEN)
        except KeyboardInterrupt:
            _say(f"Stopped.{self._kept(ctx)}")
            ctx.exit(INTERRUPTED)
        except SystemTermination:
            _say(f"Terminated.{self._kept(ctx)}")
            ctx.exit(TERMINATED)

    def _kept(self, ctx: click.Context) -> str:
        """What a command that can be resumed leaves."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        resumable = command is not None and any(param.name == "resume" for param in command.params)
        return " What is finished is kept: --resume goes on with it." if resumable else ""


class SystemTermination(BaseException):
    """SIGTERM, as schedulers of clusters send it before they kill; unwinds the stack, so that files are removed."""


@contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate), signal.getsignal(signal.SIGINT)
    if before[1] is signal.default_int_handler:  # not so where Ctrl-C is ignored
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
        forget()


def _terminate(number: int, frame: FrameType | None) -> None:
    asked_to_stop(SystemTermination)  # the run obeys, should a library swallow the exception
    raise SystemTermination


def _interrupt(number: int, frame: FrameType | None) -> None:
    asked_to_stop(KeyboardInterrupt)
    raise KeyboardInterrupt


def _one_line(error: Exception) -> str:
    """The message without the line that points into a formula."""
    lines = [line.strip() for line in str(error).split("\n")]
    return one_line(" ".join(line for line in lines if line.strip("^")))


def _say(text: str) -> None:
    """Through the log where a command has set it up, so that a line of JSON stays one."""
    if logger.handlers:
        logger.error(text)
    else:
        click.echo(text, err=True)


def say_finished(out: Path) -> None:
    """Say that there is nothing to do."""
    logger.info(
        "%s is finished: it was made from this input with these options.", out, extra={"data": {"event": "end"}}
    )
