"""A tracker from the side of the training process: given lines, never waited for until the end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.tracking.interface import Line, Status
from danlu.tracking.progress import say
from danlu.tracking.trackers import TRACKERS
from danlu.tracking.worker import STATE

_LOG = "log.txt"
_POLL_SECONDS = 0.02
_MOST_WAITING = 100_000  # lines; what comes beyond them is lost


class RemoteTracker:
    """One tracker's process.

    Args:
        type: a name in `TRACKERS`.
        settings: its own keys, and `name` and `timeout_seconds`.
        folder: of its own, in the run folder.
        recipe: as it was resolved; plain values.
        first_step: the run goes on after this one.
        quiet: say nothing on stderr.
    """

    def __init__(
        self, type: str, settings: dict[str, Any], folder: Path, recipe: dict[str, Any], first_step: int, quiet: bool
    ) -> None:
        self.type, self.folder, self._quiet = type, folder, quiet
        self._timeout_seconds = settings["timeout_seconds"]
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._given = 0
        self._answer: dict[str, Any] = {"taken": 0, "delivered": 0, "problem": None, "finished": None}
        self._heard_at, self._said, self._killed = time.monotonic(), "", False
        self._process: subprocess.Popen[str] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            state = _read_state(folder / STATE)
            self.told_step: int = state.get("step", 0)
            run = {"recipe": recipe, "folder": str(folder), "id": state.get("id"), "first_step": first_step}
            run |= {"name": settings["name"], "timeout_seconds": self._timeout_seconds}
            own = {key: value for key, value in settings.items() if key not in ("type", "name", "timeout_seconds")}
            self._start({"type": type, "settings": own, "run": run, "told_step": self.told_step})
        except OSError as error:
            self.told_step = 0
            self._trouble(f"could not be started: {error}")

    def _start(self, begin: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "danlu.tracking.worker", str(self.folder / _LOG)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C in a terminal is not for it, and its own children end with it
        )
        self._queue.put(begin)
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._hearing.start()
        threading.Thread(target=self._send, daemon=True).start()

    def write(self, line: Line) -> None:
        """Passes a line on; returns at once."""
        if self._given == self._answer["taken"]:
            self._heard_at = time.monotonic()  # it has not been asked for anything until now
        self._given += 1
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait({"line": dict(line)})
        if self._silent_seconds() > self._timeout_seconds:
            self._trouble(f"has not answered for {self._timeout_seconds:g} s")

    def end(self, status: Status, result: dict[str, Any]) -> None:
        """Says what the run came to; `close` waits for the answer."""
        self._heard_at = time.monotonic()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait({"status": status, "result": result})
            self._queue.put_nowait(None)

    def close(self) -> dict[str, Any]:
        """Waits until the tracker is done or silent for too long, ends it, and gives what arrived.

        Returns:
            `type`, `folder`, `lines`, `lost` (lines not known to have arrived), `finished`, `problem` and `hint`, null
            where all is well.
        """
        try:
            while self._is_alive() and self._answer["finished"] is None:
                if self._silent_seconds() > self._timeout_seconds:
                    self._trouble(f"has not answered for {self._timeout_seconds:g} s, and was ended")
                    break
                time.sleep(_POLL_SECONDS)
        finally:
            self._kill()
        answer = self._answer
        problem = None if answer["finished"] else answer["problem"] or self._said or "its process ended"
        lost = self._given - answer["delivered"]
        hint = self._hint() if problem or lost else None
        report = {"type": self.type, "folder": str(self.folder), "lines": self._given, "lost": lost}
        report |= {"finished": bool(answer["finished"]), "problem": problem, "hint": hint}
        return report

    def _hint(self) -> str:
        kind = TRACKERS[self.type]
        kept = sorted(self.folder.glob(kind.kept)) if kind.kept else []
        return f"send them: {kind.send} {kept[-1]}" if kept else "metrics.jsonl of the run folder has every line"

    def _silent_seconds(self) -> float:
        return time.monotonic() - self._heard_at if self._process else 0.0

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _send(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            while (message := self._queue.get()) is not None:
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()

    def _hear(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for text in self._process.stdout:
                self._answer, self._heard_at = json.loads(text), time.monotonic()
                if self._answer["problem"]:
                    self._trouble(self._answer["problem"])
                elif self._said and self._answer["taken"]:
                    self._said = ""
                    if not self._quiet:
                        say(f"tracker {self.type}: is there again")
        if self._answer["finished"] is None and not self._killed:
            self._trouble("its process ended too early")

    def _trouble(self, problem: str) -> None:
        """Says once what is wrong."""
        if not self._said and not self._quiet:
            say(f"tracker {self.type}: {problem}; the run goes on")
        self._said = self._said or problem

    def _kill(self) -> None:
        if self._process is None:
            return
        self._killed = True
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._hearing.join(1.0)  # what it said last


def losses(reports: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each tracker that did not get all, or was not closed."""
    lines = []
    for report in reports:
        lost, problem = report["lost"], report["problem"]
        if lost or problem:
            what = f"{lost} of {report['lines']} lines may not have arrived" if lost else "the run was not closed there"
            lines.append(f"tracker {report['type']}: {what} ({problem or 'too many waited'}); {report['hint']}")
    return lines


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return state
    except (OSError, ValueError):
        return {}
