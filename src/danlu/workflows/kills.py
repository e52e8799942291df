"""Training in processes that are killed without warning, at moments that can be chosen.

The processes are forked from one that has imported what training needs and computed nothing: they start in a moment.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

from danlu.errors import DanluError, Fault, InputError, WorkError
from danlu.runs import CHECKPOINTS
from danlu.tracking.metrics import FILE, read_metrics

Train = Callable[[str, Sequence[str], bool], None]
_IMPORTED = [
    *("danlu.training.session", "danlu.training.keeping", "danlu.engines.local", "peft"),
    *(
        "transformers.modeling_utils",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.auto.modeling_auto",
    ),
]
_POLL_SECONDS = 0.001
_LONGEST_WRITING_SECONDS = 0.02


def train(path: str, words: Sequence[str], resume: bool) -> None:
    """`danlu train` for one adapter."""
    from danlu.recipe import load_recipe
    from danlu.training.run import run_training

    run_training(load_recipe(path, words), resume=resume)


@dataclass(frozen=True)
class Moment:
    """When a run is killed.

    Attributes:
        step: that is done before, or whose checkpoint is being written.
        writing: whether it is a checkpoint's writing that is waited for.
        seconds: after that.
    """

    step: int
    writing: bool
    seconds: float

    def __str__(self) -> str:
        if self.writing:
            return f"{self.seconds:.3f} s into the writing of step {self.step}'s checkpoint"
        return f"{self.seconds:.3f} s after step {self.step}"

    def has_come(self, folder: Path) -> bool:
        """Whether the run in a folder is as far as `step` and `writing` say."""
        if self.writing:
            return (folder / CHECKPOINTS / f".step-{self.step:06d}.writing").is_dir()
        try:
            return (folder / FILE).read_bytes().count(b"\n") >= self.step
        except OSError:
            return self.step == 0


def draw(random: Random, whole: Path, writing: bool) -> Moment:
    """A moment anywhere in a run, or while it writes a checkpoint.

    Args:
        random: draws it.
        whole: a run folder of the same steps.
        writing: a checkpoint is to be under way.
    """
    lines = read_metrics(whole)
    if writing:
        steps = [int(path.name.removeprefix("step-")) for path in (whole / CHECKPOINTS).glob("step-*")]
        return Moment(random.choice(sorted(steps)), True, random.uniform(0.0, _LONGEST_WRITING_SECONDS))
    usual = sorted(line["seconds"] for line in lines)[len(lines) // 2]
    return Moment(
        random.randint(1 if random.random() < 0.9 else 0, len(lines)), False, random.uniform(0.0, 1.5 * usual)
    )


def run_whole(
    path: str, words: Sequence[str], log: Path, resume: bool = False, fresh: bool = False, target: Train = train
) -> None:
    """Trains to the end, in a fork or, if `fresh`, in an interpreter of its own, whose hashes are other ones.

    Raises:
        DanluError: as training does.
    """
    process = _start("spawn" if fresh else "forkserver", path, words, resume, log, target)
    try:
        process.join()
    finally:
        _kill(process)
    if process.exitcode:
        raise _error_of(process.exitcode, log)


def run_killed(path: str, words: Sequence[str], folder: Path, moment: Moment, log: Path, target: Train = train) -> bool:
    """Trains into a new folder until a moment has come, and kills it then; no if it ended before.

    Raises:
        DanluError: as training does.
    """
    process = _start("forkserver", path, words, False, log, target)
    try:
        while process.is_alive() and not moment.has_come(folder):
            time.sleep(_POLL_SECONDS)
        process.join(moment.seconds)
    finally:
        _kill(process)
    if process.exitcode and process.exitcode > 0:
        raise _error_of(process.exitcode, log)
    return process.exitcode == -signal.SIGKILL


def _start(method: str, path: str, words: Sequence[str], resume: bool, log: Path, target: Train) -> BaseProcess:
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(_IMPORTED)
    process: BaseProcess = context.Process(target=_child, args=(target, path, list(words), resume, log))
    process.start()
    return process


def _child(target: Train, path: str, words: Sequence[str], resume: bool, log: Path) -> None:
    """What such a process does: its words go to a file, and its faults beside it."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        target(path, words, resume)
    except DanluError as error:
        log.with_suffix(".json").write_text(json.dumps(error.to_json()), encoding="utf-8")
        sys.exit(error.exit_status)


def _kill(process: BaseProcess) -> None:
    """Ends a process and what it started, at once."""
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _error_of(status: int, log: Path) -> DanluError:
    """What a process raised."""
    try:
        told = json.loads(log.with_suffix(".json").read_text(encoding="utf-8"))
    except OSError:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
        return WorkError(Fault(f"training ended with status {status}: {said[-1]}", str(log), hint="see that file"))
    faults = [Fault(**fault) for fault in told["faults"]]
    return (InputError if status == InputError.exit_status else WorkError)(*faults)
