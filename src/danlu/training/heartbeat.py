"""A sign of life between processes: who is gone is noticed within a minute, though an exchange could wait for hours.

An exchange of gradients waits for all; a machine that is cut off answers nothing, not even that it is gone. So each
process counts up a number in the run's store, and ends when the store or another's number stands still. One that ends
by an error leaves it there: the others end by it too, and the first of each machine, which speaks for all there,
says it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from datetime import timedelta
from typing import Any

from danlu.errors import DanluError
from danlu.tracking.progress import say

_BEAT_SECONDS, _LONGEST_SILENCE_SECONDS, _LONGEST_FAREWELL_SECONDS = 3.0, 30.0, 10.0
_LEFT, _FAILED = "left", "failed"
_GO_ON = "\n  hint: see to that machine; then go on with danlu train RECIPE --resume"


class Heartbeat:
    """Beats in a thread of its own until `leave`, or ends the program where another process falls silent.

    Args:
        rank: of this process.
        world_size: number of processes.
        store: a client of the run's store that nobody else uses.
        speaks: whether this process says what another one ended by.
    """

    def __init__(self, rank: int, world_size: int, store: Any, speaks: bool) -> None:
        self._speaks = speaks
        self._rank, self._others, self._store = rank, [one for one in range(world_size) if one != rank], store
        self._leaving, self._left = threading.Event(), threading.Event()
        self._answered = time.monotonic()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def leave(self, error: DanluError | None = None) -> None:
        """Says that this process is done, or by which error it ends; waits for the others, so that all can hear it."""
        self._leaving.set()
        self._beating.join()
        self._farewell(_LEFT if error is None else f"{_FAILED} {error.exit_status} {error}")
        self._left.set()

    def _farewell(self, state: str) -> None:
        """Leaves a last word in the store, and stays until the others have heard it."""
        deadline = time.monotonic() + _LONGEST_FAREWELL_SECONDS
        with contextlib.suppress(RuntimeError):  # who kept the store may have left before
            self._store.set(f"beat/{self._rank}", state)
            while time.monotonic() < deadline and not all(self._has_left(other) for other in self._others):
                time.sleep(0.05)

    def _has_left(self, other: int) -> bool:
        return self._heard_of(other).startswith((_LEFT, _FAILED))

    def _heard_of(self, other: int) -> str:
        key = f"beat/{other}"
        return str(self._store.get(key).decode()) if self._store.check([key]) else ""

    def _beat(self) -> None:
        heard = {other: ("", time.monotonic()) for other in self._others}
        beats = 0
        while not self._leaving.wait(_BEAT_SECONDS):
            beats += 1
            try:
                self._store.set(f"beat/{self._rank}", str(beats))
                for other, (last, since) in heard.items():
                    now = self._heard_of(other)
                    silent = time.monotonic() - since
                    if now.startswith(_FAILED):
                        _, status, message = now.split(" ", 2)
                        said = f"process {other} ended by an error: {message}" * self._speaks
                        self._end(said, int(status))
                    elif now not in (last, _LEFT):
                        heard[other] = (now, time.monotonic())
                    elif now != _LEFT and silent > _LONGEST_SILENCE_SECONDS:
                        self._others.remove(other)  # it hears no farewell
                        self._end(f"error: process {other} has been silent for {silent:.0f} s{_GO_ON}")
            except RuntimeError as error:
                reason = (str(error).splitlines() or [""])[0]
                self._end(f"error: the other processes can't be reached: {reason}{_GO_ON}", reached=False)
            self._answered = time.monotonic()

    def _watch(self) -> None:
        """A store that is cut off leaves a question without answer and without error: sees that answers come."""
        while not self._left.wait(_BEAT_SECONDS):
            silent = time.monotonic() - self._answered
            if silent > _LONGEST_SILENCE_SECONDS:
                say(f"error: the process that all meet at has been silent for {silent:.0f} s{_GO_ON}")
                os._exit(1)

    def _end(self, message: str, status: int = 1, reached: bool = True) -> None:
        """Ends the program at once: its main thread waits in an exchange that nothing can end."""
        if self._leaving.is_set():
            return
        if message:
            say(message)
        if reached:
            self._farewell(_LEFT)
        os._exit(status)


def start_heartbeat(rank: int, world_size: int, speaks: bool) -> Heartbeat:
    """Starts beating, by the store that MASTER_ADDR and MASTER_PORT name."""
    import torch

    patience = timedelta(seconds=_LONGEST_SILENCE_SECONDS)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = torch.distributed.TCPStore(address, port, is_master=False, timeout=patience)
    return Heartbeat(rank, world_size, torch.distributed.PrefixStore("danlu", store), speaks)
