"""Says when a step hangs, and where: a run that stands still looks like one that works."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from danlu.tracking.progress import say

_WINDOW_STEPS = 32


@dataclass(frozen=True)
class Patience:
    """How long a step may take.

    Attributes:
        seconds: at least so long.
        factor: and so many median steps.
        aborts: whether the program ends then, with status 1.
    """

    seconds: float
    factor: float
    aborts: bool


class Watchdog:
    """Watches one step at a time, from a thread of its own.

    Args:
        folder: where `stuck-step-N.txt` is written, the place that every thread of the process stands at.
        patience: how long a step may take; None: for ever.
        rank: of this process; each writes a file of its own, the first one speaks.
    """

    def __init__(self, folder: Path, patience: Patience | None, rank: int = 0) -> None:
        self._folder, self._patience, self._rank = folder, patience, rank
        self._seconds: deque[float] = deque(maxlen=_WINDOW_STEPS)

    def limit_seconds(self) -> float:
        """How long the next step may take before something is said."""
        assert self._patience is not None
        median = statistics.median(self._seconds) if self._seconds else 0.0
        return max(self._patience.seconds, self._patience.factor * median)

    @contextlib.contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Watches what is done meanwhile as a step, counted from 1."""
        if self._patience is None:
            yield
            return
        started = time.monotonic()
        timer = threading.Timer(self.limit_seconds(), self._bark, [step, started])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        self._seconds.append(time.monotonic() - started)

    def _bark(self, step: int, started: float) -> None:
        assert self._patience is not None
        path = self._folder / (f"stuck-step-{step}.txt" if not self._rank else f"stuck-step-{step}-{self._rank}.txt")
        with contextlib.suppress(OSError), path.open("w") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)
        if not self._rank:
            median = (
                f"the median one takes {statistics.median(self._seconds):.3g} s" if self._seconds else "none before"
            )
            say(f"step {step} has taken {time.monotonic() - started:.0f} s; {median}: it may hang (see {path})")
        if self._patience.aborts:
            if not self._rank:
                say("error: the step was given up\n  hint: go on with danlu train RECIPE --resume")
            os._exit(1)
