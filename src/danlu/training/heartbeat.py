"""A sign of life between processes: who is gone is noticed within a minute, though an exchange could wait for hours.

An exchange of gradients waits for all; a machine that is cut off answers nothing, not even that it is gone. So each
process counts up a number in the run's store, and ends when the store or another's number stands still.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from typing import Any

from danlu.tracking.progress import say

_BEAT_SECONDS, _LONGEST_SILENCE_SECONDS = 3.0, 30.0
_LEFT = "left"


class Heartbeat:
    """Beats in a thread of its own until `leave`, or ends the program where another process falls silent.

    Args:
        rank: of this process.
        world_size: number of processes.
        store: a client of the run's store that nobody else uses.
    """

    def __init__(self, rank: int, world_size: int, store: Any) -> None:
        self._rank, self._others, self._store = rank, [one for one in range(world_size) if one != rank], store
        self._leaving = threading.Event()
        self._answered = time.monotonic()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)]
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Says that this process is done, and stops watching the others."""
        self._leaving.set()
        for thread in self._threads:
            thread.join(_LONGEST_SILENCE_SECONDS)

    def _beat(self) -> None:
        heard = {other: ("", time.monotonic()) for other in self._others}
        beats = 0
        while not self._leaving.wait(_BEAT_SECONDS):
            beats += 1
            try:
                self._store.set(f"beat/{self._rank}", str(beats))
                for other, (last, since) in heard.items():
                    now = self._store.get(f"beat/{other}").decode() if self._store.check([f"beat/{other}"]) else ""
                    if now not in (last, _LEFT):
                        heard[other] = (now, time.monotonic())
                    elif now != _LEFT and time.monotonic() - since > _LONGEST_SILENCE_SECONDS:
                        self._end(f"process {other} has been silent for {time.monotonic() - since:.0f} s")
            except RuntimeError as error:
                self._end(f"the other processes can't be reached: {(str(error).splitlines() or [''])[0]}")
            self._answered = time.monotonic()
        try:
            self._store.set(f"beat/{self._rank}", _LEFT)
        except RuntimeError:
            return  # who kept the store has left before

    def _watch(self) -> None:
        """A store that is cut off leaves a question without an answer and without an error: see that answers come."""
        while not self._leaving.wait(_BEAT_SECONDS):
            silence = time.monotonic() - self._answered
            if silence > _LONGEST_SILENCE_SECONDS:
                self._end(f"the process that all meet at has been silent for {silence:.0f} s")

    def _end(self, why: str) -> None:
        """Ends the program at once: its main thread waits in an exchange that nothing can end."""
        if self._leaving.is_set():
            return
        say(f"error: {why}\n  hint: see to that machine; then go on with danlu train RECIPE --resume")
        os._exit(1)


def start_heartbeat(rank: int, world_size: int) -> Heartbeat:
    """Starts beating, by the store that MASTER_ADDR and MASTER_PORT name."""
    import torch

    patience = timedelta(seconds=_LONGEST_SILENCE_SECONDS)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = torch.distributed.TCPStore(address, port, is_master=False, timeout=patience)
    return Heartbeat(rank, world_size, torch.distributed.PrefixStore("danlu", store))
