"""Where memory is not enough for a step: the same step again, in smaller micro-batches.

A step's numbers do not depend on how it is cut, so nothing else changes. A process that the system ends for want of
memory can do nothing any more: `running.json` in the run folder tells the next start what it was about.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from danlu.data.template import Document
from danlu.errors import Fault, WorkError, is_out_of_memory
from danlu.runs import write_json
from danlu.training.backends.interface import Backend
from danlu.training.machine import release_memory

FILE = "running.json"
_COUNTS, _BOOT = Path("/proc/vmstat"), Path("/proc/sys/kernel/random/boot_id")
T = TypeVar("T")


def within_memory(compute: Callable[[], T], backend: Backend, able: bool) -> T | None:
    """What is computed; None in every process, with the gradients dropped, if memory was not enough in one of them.

    Args:
        compute: forward and backward passes, in which processes exchange nothing.
        backend: has the gradients.
        able: whether to try at all; else the error is raised.

    Raises:
        MemoryError, RuntimeError: as `compute`, for other reasons, or where processes exchange something in passes.
    """
    result: T | None = None
    failed = False
    try:
        result = compute()
    except (MemoryError, RuntimeError) as error:
        if not able or backend.equal_shares or not is_out_of_memory(error):
            raise
        failed = True  # and the error goes: its frames hold what was computed
    if not backend.total(float(failed)):
        return result
    backend.drop()
    gc.collect()
    release_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def fewer_tokens(documents: Sequence[Document], micro_batch_tokens: int) -> int:
    """Half of the largest micro-batch that a step can have had.

    Raises:
        WorkError: each document was alone already.
    """
    lengths = [len(document.ids) for document in documents]
    tokens = min(micro_batch_tokens, sum(lengths))
    if tokens <= min(lengths):
        what = f"memory is not enough for a row of {max(lengths)} tokens alone"
        hint = "set training.activation_checkpointing=1, or lower data.max_sequence_tokens or adapter.rank"
        raise WorkError(Fault(what, "training", hint=f"{hint}; or close other programs and go on with --resume"))
    return max(1, tokens // 2)


def mark_running(folder: Path, micro_batch_tokens: int) -> None:
    """Notes that a run goes on, by how large micro-batches, and how often the system has ended a program so far."""
    write_json(folder / FILE, {"micro_batch_tokens": micro_batch_tokens, **_memory_kills()})


def mark_ended(folder: Path) -> None:
    """Takes the note away: the program ends by itself."""
    (folder / FILE).unlink(missing_ok=True)


def read_mark(folder: Path) -> dict[str, Any] | None:
    """What the last start noted, if it was ended before it could take it away; `killed_for_memory` is added.

    Since the note was made, the system must have ended a program on this machine for want of memory, and not have
    been started anew.
    """
    try:
        mark: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    now = _memory_kills()
    known = bool(now["boot"]) and now["boot"] == mark["boot"]
    return {**mark, "killed_for_memory": known and now["memory_kills"] > mark["memory_kills"]}


def _memory_kills() -> dict[str, Any]:
    """How many programs the system has ended for want of memory, a memory cgroup's too, since this boot."""
    try:
        counts = dict(line.split() for line in _COUNTS.read_text(encoding="ascii").splitlines())
        return {"memory_kills": int(counts["oom_kill"]), "boot": _BOOT.read_text(encoding="ascii").strip()}
    except (OSError, ValueError, KeyError):
        return {"memory_kills": 0, "boot": ""}
