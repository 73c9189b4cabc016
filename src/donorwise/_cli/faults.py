"""Errors and signals as a line of text and an exit status."""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from donorwise._batch.outputs import OutputError
from donorwise.errors import DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

logger = logging.getLogger("donorwise")

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
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemTermination


def _one_line(error: Exception) -> str:
    """The message without the line that points into a formula."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line.strip("^"))


def _say(text: str) -> None:
    """Through the log where a command has set it up, so that a line of JSON stays one."""
    if logger.handlers:
        logger.error(text)
    else:
        click.echo(text, err=True)
