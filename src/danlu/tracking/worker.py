"""`python -m danlu.tracking.worker`: one tracker in a process of its own, told of a run in lines of JSON on stdin.

A library that hangs, crashes, takes signals or writes to the terminal does so here, not in the training process. Lines
that could not be delivered are kept and tried again with the next ones. Answers on stdout, one JSON object each:
`taken` and `delivered` (lines so far), `problem` (null if there is none), and at the end `finished`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from danlu.runs import write_json
from danlu.tracking.interface import Line, Status, TrackedRun, Tracker
from danlu.tracking.trackers import open_tracker

STATE = "state.json"
_SECONDS_BETWEEN_TRIES = 5.0
_LONGEST_PROBLEM = 200


class Delivery:
    """Brings lines to a tracker that may not be there.

    Args:
        begin: the message that opens the run: `type`, `settings`, `run` (the fields of a `TrackedRun`), and
            `told_step`, up to which the tracker has been told of it before.
        answers: where answers go.
    """

    def __init__(self, begin: dict[str, Any], answers: TextIO) -> None:
        self._type, self._settings, self._told_step = begin["type"], begin["settings"], begin["told_step"]
        self._run = TrackedRun(**{**begin["run"], "folder": Path(begin["run"]["folder"])})
        self._answers = answers
        self._tracker: Tracker | None = None
        self._waiting: list[Line] = []
        self._taken = self._handed_over = 0
        self._failed_at = -_SECONDS_BETWEEN_TRIES
        self.problem: str | None = None

    def take(self, lines: list[Line]) -> None:
        """Takes lines, and tries to deliver them with those that wait; not again right after a failure."""
        self._waiting += lines
        self._taken += len(lines)
        if time.monotonic() - self._failed_at >= _SECONDS_BETWEEN_TRIES:
            self._try()
        self._answer()

    def end(self, status: Status, result: dict[str, Any]) -> None:
        """Delivers what waits and closes the run."""
        if self._try() and self._tracker:
            try:
                self._tracker.finish(status, result)
                self.problem = None
            except Exception as error:  # noqa: BLE001 - a library may raise anything, and the run goes on
                self.problem = _in_a_line(error)
        self._answer(finished=self.problem is None)

    def _try(self) -> bool:
        try:
            if self._tracker is None:
                self._tracker = open_tracker(self._type, self._run, self._settings)
                self._note(min(self._told_step, self._run.first_step))
            if self._waiting:
                self._tracker.log(self._waiting)
                self._note(self._waiting[-1]["step"])
        except Exception as error:  # noqa: BLE001 - a library may raise anything, and the run goes on
            self._failed_at, self.problem = time.monotonic(), _in_a_line(error)
            return False
        self._handed_over += len(self._waiting)
        self._waiting, self.problem = [], None
        return True

    def _note(self, step: int) -> None:
        """What a resumed run must know: what the run is called there, and up to which step it was told."""
        assert self._tracker is not None
        write_json(self._run.folder / STATE, {"id": self._tracker.id, "step": step})

    def _answer(self, finished: bool | None = None) -> None:
        sure = self._tracker is not None and (self._tracker.is_sure or bool(finished))
        delivered = self._handed_over if sure else 0
        answer = {"taken": self._taken, "delivered": delivered, "problem": self.problem, "finished": finished}
        with contextlib.suppress(BrokenPipeError):  # nobody is left to hear it; the run is closed all the same
            self._answers.write(json.dumps(answer) + "\n")
            self._answers.flush()


def _in_a_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= _LONGEST_PROBLEM else text[:_LONGEST_PROBLEM] + '…'}"


def work(messages: TextIO, answers: TextIO) -> None:
    """Serves one run, until it ends or the process that trains is gone."""
    begin = json.loads(messages.readline())
    delivery = Delivery(begin, answers)
    waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(ValueError):  # half a line, of a process that was killed
            for text in messages:
                waiting.put(json.loads(text))
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    delivery.take([])
    while True:
        batch = [waiting.get()]
        while not waiting.empty():
            batch.append(waiting.get())
        delivery.take([message["line"] for message in batch if message and "line" in message])
        last = batch[-1]
        if last is None:  # nobody is left who would end this process if it hangs
            signal.setitimer(signal.ITIMER_REAL, begin["run"]["timeout_seconds"])
            delivery.end("failed", {})
            return
        if "status" in last:
            delivery.end(last["status"], last["result"])
            return


def main() -> None:
    """Keeps the pipes to itself, so that what a library prints goes to the tracker's log."""
    messages, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL))
    empty, log = os.open(os.devnull, os.O_RDONLY), os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for place, target in ((0, empty), (1, log), (2, log)):
        os.dup2(target, place)
    work(messages, answers)
    sys.stdout.flush()
    os._exit(0)  # a library's own end may hang


if __name__ == "__main__":
    main()
