"""Where each line of a run's metrics goes: into its file, to its trackers, and onto the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from danlu.errors import Stopped
from danlu.tracking.interface import Line, Status
from danlu.tracking.metrics import MetricsFile, read_metrics
from danlu.tracking.progress import say
from danlu.tracking.remote import RemoteTracker, losses

TRACKING = "tracking"  # in the run folder


class Journal:
    """Keeps the lines of one run; what a tracker does can't stop it.

    Args:
        folder: the run folder.
        recipe: as it was resolved; plain values.
        trackers: the keys of each.
        first_step: the run goes on after this one.
        quiet: say nothing on stderr.
    """

    def __init__(
        self,
        folder: Path,
        recipe: dict[str, Any],
        trackers: Sequence[dict[str, Any]] = (),
        first_step: int = 0,
        quiet: bool = False,
    ) -> None:
        self._file, self._quiet = MetricsFile(folder), quiet
        self._trackers = []
        for settings, name in zip(trackers, _names([one["type"] for one in trackers]), strict=True):
            own = {**settings, "name": settings["name"] or folder.name}
            tracker = RemoteTracker(own["type"], own, folder / TRACKING / name, recipe, first_step, quiet)
            for line in read_metrics(folder):  # of a run that goes on: what it was not told before
                if line["step"] > tracker.told_step:
                    tracker.write(line)
            self._trackers.append(tracker)

    def write(self, line: Line, memory_bytes: int) -> None:
        """Keeps a line; trackers are told the memory too."""
        self._file.write(dict(line))
        for tracker in self._trackers:
            tracker.write({**line, "peak_memory_bytes": memory_bytes})

    def cut(self, folder: Path, last_step: int) -> None:
        """Leaves out of the file what was noted after a step, to which the run goes back; trackers are told it anew."""
        self._file.cut(folder, last_step)

    def close(self, status: Status, result: dict[str, Any]) -> list[dict[str, Any]]:
        """Ends the file and the trackers; for each tracker what arrived, as `RemoteTracker.close` gives it."""
        self._file.close()
        trackers, self._trackers = self._trackers, []
        for tracker in trackers:
            tracker.end(status, result)
        reports = [tracker.close() for tracker in trackers]
        if status != "finished" and not self._quiet:  # else the run's result says so
            for line in losses(reports):
                say(line)
        return reports


def _names(types: Sequence[str]) -> list[str]:
    """A folder's name for each: its type, and a number from the second of that type on."""
    numbers = [types[: place + 1].count(type) for place, type in enumerate(types)]
    return [type if number == 1 else f"{type}-{number}" for type, number in zip(types, numbers, strict=True)]


@contextlib.contextmanager
def closed_at_the_end(journal: Journal) -> Iterator[Journal]:
    """The journal; what ends the run early closes it, and trackers are told which way it ended."""
    try:
        yield journal
    except (KeyboardInterrupt, Stopped):
        journal.close("stopped", {})
        raise
    except BaseException:
        journal.close("failed", {})
        raise
