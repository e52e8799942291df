"""Progress on stderr: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """One long piece of work that reports how far it is.

    Args:
        what: shown in front.
        total: number of parts.
        quiet: report nothing.
    """

    def __init__(self, what: str, total: int, quiet: bool = False) -> None:
        self.what, self.total, self.quiet = what, total, quiet
        self._started = time.monotonic()
        self._said = self._started
        self._bar: Any = None

    def update(self, done: int, note: str = "") -> None:
        """Reports that `done` parts are done."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.update(0, completed=done, note=note)
            return
        now = time.monotonic()
        if done >= self.total or now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            left = (now - self._started) / max(done, 1) * (self.total - done)
            say(f"{self.what} {done}/{self.total} {note} {f'{left:.0f} s left' if done < self.total else ''}".rstrip())


@contextlib.contextmanager
def progress(what: str, total: int, quiet: bool = False) -> Iterator[Progress]:
    """A `Progress` that is drawn as a bar with the time left where stderr is a terminal."""
    work = Progress(what, total, quiet)
    if quiet or not sys.stderr.isatty():
        yield work
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bars.add_task(what, total=total, note="")
        work._bar = bars
        yield work


def say(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
