"""Ctrl-C and SIGTERM let the step finish: what was done is then saved. A second one ends the program at once.

A terminal sends Ctrl-C to all of its processes, and one that started others passes it on to them: two that come within
a second are one.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SAME_SECONDS = 1.0


class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        asked: set by the first signal.
    """

    def __init__(self) -> None:
        self.asked, self._first = False, 0.0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal; the second one is an interrupt."""
        if not self.asked:
            self.asked, self._first = True, time.monotonic()
        elif time.monotonic() - self._first > _SAME_SECONDS:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Notes SIGINT and SIGTERM meanwhile; outside of the main thread none arrive, and nothing is done."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {number: signal.signal(number, request.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
