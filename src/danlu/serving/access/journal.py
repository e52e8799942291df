"""An entry of the audit log for each request, written before its answer is complete.

One thread writes what has come in since, all with one wait for the disk. If the log can't be written, entries are kept
and written later, and until then nobody is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.audit import append_all, audit_path
from danlu.serving.access.keys import Key
from danlu.tracking.progress import say

_Acts = Sequence[tuple[str, dict[str, Any]]]
_AGAIN_SECONDS = 1.0


@dataclass
class Account:
    """One request, as its entry tells it.

    Attributes:
        key: that was shown; None before it is known.
        status: of the answer.
        about: what else is told: model, tokens, the answer's id.
        complete: all that is to be told is known.
        written: the entry was.
    """

    key: Key | None = None
    status: int | None = None
    about: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    written: bool = False
    began: float = field(default_factory=time.perf_counter)


class Journal:
    """Writes entries of requests.

    Args:
        gateway: its name, which is told with each.
        with_texts: whether what was asked and said is told too.
        write: as `danlu.audit.append_all`.

    Attributes:
        fault: why the log can't be written now; empty if it can.
    """

    def __init__(self, gateway: str, with_texts: bool = False, write: Callable[[_Acts], Any] = append_all) -> None:
        self.fault, self.with_texts = "", with_texts
        self._gateway, self._write = gateway, write
        self._waiting: queue.SimpleQueue[tuple[dict[str, Any], Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def enter(self, account: Account, method: str, path: str) -> None:
        """Adds the request's entry, and waits until it is written, or until it is known that it can't be."""
        if account.written:
            return
        account.written = True
        key = account.key
        fields: dict[str, Any] = {
            "gateway": self._gateway,
            "key": key.id if key else None,
            "key_name": key.name if key else None,
            "method": method,
            "path": path,
            "status": account.status,
            "seconds": round(time.perf_counter() - account.began, 4),
            **account.about,
        }
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits
                loop.call_soon_threadsafe(done.set)

        self._waiting.put((fields, tell))
        await done.wait()

    def close(self) -> None:
        """Writes what is left."""
        self._waiting.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        kept: list[tuple[str, dict[str, Any]]] = []
        ends = False
        while not ends:
            told: list[Callable[[], None]] = []
            with contextlib.suppress(queue.Empty):
                found = self._waiting.get(timeout=_AGAIN_SECONDS if kept else None)
                while True:
                    if found is None:
                        ends = True
                    else:
                        kept.append(("request", found[0]))
                        told.append(found[1])
                    found = self._waiting.get_nowait()
            if kept and self._written(kept):
                kept = []
            for tell in told:
                tell()

    def _written(self, kept: _Acts) -> bool:
        try:
            self._write(kept)
        except OSError as error:
            if not self.fault:
                say(
                    f"warning: the audit log can't be written, nobody is answered until it can: {audit_path()}: {error}"
                )
            self.fault = f"the audit log can't be written: {error.strerror or error}"
            return False
        if self.fault:
            say("the audit log can be written again")
        self.fault = ""
        return True
