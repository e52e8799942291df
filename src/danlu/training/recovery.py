"""The steps of a run under guard: what is done, in memory and in the run folder, about one that went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from danlu.data.prepared import LEDGER
from danlu.errors import Fault, WorkError
from danlu.runs import write_json
from danlu.tracking.progress import say
from danlu.training.checkpoint import newest_checkpoint, remove_after
from danlu.training.loop import Step
from danlu.training.quarantine import FILE, cut_quarantine, read_quarantine, set_aside, suspects
from danlu.training.running import note_running
from danlu.training.watchdog import Watchdog


def guarded_steps(
    session: Any, folder: Path, keep: Callable[[int], None], cut: Callable[[int], None], quiet: bool
) -> Iterator[Step]:
    """A session's steps; those that tripped have a `fault`, and after a going back numbers come again.

    Args:
        session: of the run.
        folder: the run folder.
        keep: writes a checkpoint after so many steps; called for the first state, if there may be a going back to it.
        cut: takes back what was noted of the steps after one; called in every process.
        quiet: nothing is said.

    Raises:
        WorkError: too much went wrong.
    """
    guard = session.guard
    if session.first_step == 0 and guard.limits.max_retries:
        keep(0)
    micro_batch_tokens = session.feed.micro_batch_tokens
    while True:
        if guard.retreating:
            _go_back(session, folder, cut, quiet)
        for step in _watched(session, folder):
            if step.fault and step.trained_tokens:
                _set_aside(session, folder, step, quiet)
            if step.micro_batch_tokens != micro_batch_tokens:
                _note_shrinking(session, folder, step, micro_batch_tokens, quiet)
                micro_batch_tokens = step.micro_batch_tokens
            yield step
            if guard.retreating:
                break
        else:
            guard.require_any_good()
            return


def _watched(session: Any, folder: Path) -> Iterator[Step]:
    """The steps, each watched: what the caller does between two of them is not."""
    dog, steps = Watchdog(folder, session.patience, session.processes.rank), session.steps()
    for number in range(session.first_step + 1, session.feed.num_steps + 1):
        with dog.watching(number):
            step = next(steps)
        yield step


def _set_aside(session: Any, folder: Path, step: Step, quiet: bool) -> None:
    """Writes down a step that tripped and its rows, and which of them are to blame: these do not come again."""
    guard, feed, index = session.guard, session.feed, step.number - 1
    wheres, numbers, losses = feed.wheres(index), feed.numbers(index), session.losses_of_rows(index)
    blamed = suspects(losses, guard.most_loss())
    guard.left_out.update({numbers[place]: step.number for place in blamed if numbers})
    if 0 < len(blamed) <= len(losses) // 2:
        guard.clear_weights()
    if session.processes.first:
        entry = {
            "step": step.number,
            "reason": step.fault,
            "loss": _finite(step.loss),
            "gradient_norm": _finite(step.gradient_norm),
            "learning_rate": step.learning_rate,
            "rows": [{"where": where, "loss": _finite(loss)} for where, loss in zip(wheres, losses, strict=True)],
            "suspects": [wheres[place] for place in blamed],
        }
        set_aside(folder, entry)
    if not quiet:
        rows = ", ".join(dict.fromkeys(wheres[place] for place in blamed[:3])) or f"{len(wheres)} rows"
        say(f"step {step.number} is left out: {step.fault} ({rows}; {folder / FILE})")
    guard.require_hope(step.number, step.fault, str(folder / FILE))


def _go_back(session: Any, folder: Path, cut: Callable[[int], None], quiet: bool) -> None:
    """Puts a session where its last good checkpoint left off; what was done since is taken back everywhere."""
    guard = session.guard
    session.processes.wait()  # the first one has written it
    checkpoint, _ = newest_checkpoint(folder, guard.good_step)
    if checkpoint is None:
        hint = "lower training.learning_rate, and train anew into another folder with run.folder=NAME"
        raise WorkError(Fault(f"{guard.tripped}, and there is no checkpoint to go back to", str(folder), hint=hint))
    session.processes.wait()  # all have read it
    tripped, retreats = guard.tripped, guard.retreats
    session.resume(checkpoint)
    guard.retreats = [*retreats, {"to_step": checkpoint.step, "reason": tripped}]
    cut(checkpoint.step)
    if session.processes.first:
        cut_quarantine(folder, checkpoint.step)
        remove_after(folder, checkpoint.step)
    if not quiet:
        slower = f", with {guard.rate_factor:.3g} of the learning rate" if guard.rate_factor < 1 else ""
        say(f"{tripped}; the steps before it went wrong too: goes back to step {checkpoint.step}{slower}")


def _note_shrinking(session: Any, folder: Path, step: Step, before: int, quiet: bool) -> None:
    if session.processes.first:
        note_running(folder, step.micro_batch_tokens)
    if not quiet:
        say(
            f"step {step.number}: memory was not enough for micro-batches of {before} tokens; from here on they have "
            f"at most {step.micro_batch_tokens}"
        )


def shrink_after(note: dict[str, Any] | None, session: Any, quiet: bool) -> None:
    """Takes micro-batches of half the size, in every process, if the system ended the run for want of memory.

    Args:
        note: what `danlu.training.running.read_note` found in this process.
        session: of the run that goes on.
        quiet: nothing is said.
    """
    first, before = session.processes.first, session.largest_micro_batch
    killed = note is not None and note["killed_for_memory"] and first
    tokens = int(session.backend.total(max(1, note["micro_batch_tokens"] // 2) if note and killed else 0))
    if tokens:
        session.shrink_to(tokens)
    if quiet or note is None:
        return
    if tokens:
        say(
            f"the system ended this run for want of memory: goes on with micro-batches of at most {tokens} tokens, "
            f"not {note['micro_batch_tokens']}"
        )
    else:
        say(
            "the last start ended without a word; if memory was not enough, say so: "
            f"training.micro_batch_tokens={max(1, before // 2)}"
        )


def account(session: Any, folder: Path) -> dict[str, Any]:
    """What the guards did in a run."""
    guard, entries = session.guard, read_quarantine(folder)
    return {
        "quarantined_steps": len(entries),
        "quarantined_rows": sum(len(entry["rows"]) for entry in entries),
        "suspects": list(dict.fromkeys(where for entry in entries for where in entry["suspects"])),
        "retreats": guard.retreats,
        "learning_rate_factor": guard.rate_factor,
        "micro_batch_tokens": session.micro_batch_tokens,
    }


def add_to_ledger(session: Any, folder: Path) -> None:
    """Writes what the guards did into the run's ledger, beside what became of the rows before."""
    path = folder / LEDGER
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "guards": account(session, folder)})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
