"""`running.json`: what a run is about while it trains, for the next start if the system ends it without a word.

A process that the system ends for want of memory can't say so. The note says by how large micro-batches it went on,
and how often the system had ended a program on this machine: if that is more by now, the next start takes smaller ones.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.errors import DanluError
from danlu.runs import write_json

FILE = "running.json"
_COUNTS, _BOOT = Path("/proc/vmstat"), Path("/proc/sys/kernel/random/boot_id")


@contextlib.contextmanager
def noted(folder: Path, micro_batch_tokens: int, writes: bool) -> Iterator[None]:
    """Keeps the note while a run trains; it stays where the program ends otherwise than by an error of its own."""
    if not writes:
        yield
        return
    note_running(folder, micro_batch_tokens)
    try:
        yield
    except (DanluError, OSError, KeyboardInterrupt):
        (folder / FILE).unlink(missing_ok=True)
        raise
    (folder / FILE).unlink()


def note_running(folder: Path, micro_batch_tokens: int) -> None:
    """Writes the note."""
    write_json(folder / FILE, {"micro_batch_tokens": micro_batch_tokens, **_memory_kills()})


def read_note(folder: Path) -> dict[str, Any] | None:
    """The note that the last start left behind, with `killed_for_memory`; None if there is none.

    Since it was made, the system must have ended a program for want of memory, and not have been started anew.
    """
    try:
        note: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    now = _memory_kills()
    known = bool(now["boot"]) and now["boot"] == note["boot"]
    return {**note, "killed_for_memory": known and now["memory_kills"] > note["memory_kills"]}


def _memory_kills() -> dict[str, Any]:
    """How many programs the system has ended for want of memory, a memory cgroup's among them, since this boot."""
    try:
        counts = dict(line.split() for line in _COUNTS.read_text(encoding="ascii").splitlines())
        return {"memory_kills": int(counts["oom_kill"]), "boot": _BOOT.read_text(encoding="ascii").strip()}
    except (OSError, ValueError, KeyError):
        return {"memory_kills": 0, "boot": ""}
