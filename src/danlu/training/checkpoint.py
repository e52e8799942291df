"""Checkpoints: all that training has changed, in safetensors, written aside, synced and renamed, read only if whole.

A checkpoint does not depend on how many processes wrote it: parameters and moments are whole and by name. Random
numbers need no state: each step seeds its own (see `danlu.training.loop`).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from danlu.errors import Fault, FolderError
from danlu.runs import CHECKPOINTS, changed_files, read_manifest, write_json, write_manifest
from danlu.training.backends.interface import TrainedState
from danlu.training.best import Best

_PARAMETERS, _MOMENTS, _STATE = "parameters.safetensors", "moments.safetensors", "state.json"
_NAME = re.compile(r"step-(\d+)")
_BETWEEN = "//"  # of a parameter's name and the moment's


@dataclass(frozen=True)
class Checkpoint:
    """A place in a run from which it goes on.

    Attributes:
        step: optimizer steps that are done.
        position: of the stream of rows after them; None where rows are prepared.
        trained: what they changed.
        best: evaluation so far.
        guards: what later judgements depend on (see `danlu.training.guards`); the checkpoint that it calls good is
            not removed while this one is the newest.
    """

    step: int
    position: int | None
    trained: TrainedState
    best: Best = field(default_factory=Best)
    guards: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(run: Path, checkpoint: Checkpoint, keep_last: int, keep_best: bool = False) -> Path:
    """Writes a checkpoint, whole or not at all, and then removes the oldest.

    Args:
        run: the run folder.
        checkpoint: what to write.
        keep_last: how many of the newest stay.
        keep_best: beside them, what each of them says was the best evaluation.
    """
    folder = _folder_of(run, checkpoint.step)
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write(aside, checkpoint)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # half of one is no use, and the disk may be full
        raise
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    _sync(folder.parent)
    _remove_old(run, keep_last, keep_best, checkpoint.guards.get("good_step"))
    return folder


def _write(aside: Path, checkpoint: Checkpoint) -> None:
    """Writes and syncs the files of a checkpoint."""
    trained = checkpoint.trained
    moments = {
        f"{name}{_BETWEEN}{key}": value.detach().cpu().contiguous()
        for name, kept in trained.moments.items()
        for key, value in kept.items()
    }
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in trained.parameters.items()}, aside / _PARAMETERS
    )
    save_file(moments, aside / _MOMENTS)
    state = {"step": checkpoint.step, "position": checkpoint.position, "scaler": trained.scaler}
    write_json(aside / _STATE, {**state, "best": asdict(checkpoint.best), "guards": checkpoint.guards})
    write_manifest(aside, "checkpoint", {"step": checkpoint.step})
    for path in aside.iterdir():
        _sync(path)
    _sync(aside)


def _remove_old(run: Path, keep_last: int, keep_best: bool, good_step: int | None) -> None:
    """Leaves the newest, the one that a run would go back to, and what each of these says was the best."""
    kept = _numbered(run)[:keep_last]
    if good_step is not None:
        kept.append(_folder_of(run, good_step))
    best = [_best_of(run, folder) for folder in kept if keep_best]
    for folder in _numbered(run):
        if folder not in (*kept, *best):
            shutil.rmtree(folder)


def _best_of(run: Path, folder: Path) -> Path | None:
    """The checkpoint of the best evaluation that one names; None too if it can't be read."""
    try:
        step = json.loads((folder / _STATE).read_text(encoding="utf-8"))["best"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if step is None else _folder_of(run, step)


def _folder_of(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / f"step-{step:06d}"


def remove_after(run: Path, step: int) -> None:
    """Removes the checkpoints after a step, to which a run went back."""
    for folder in _numbered(run):
        if folder not in _numbered(run, step):
            shutil.rmtree(folder)


def newest_checkpoint(
    run: Path, last_step: float = math.inf, with_best: bool = False
) -> tuple[Checkpoint | None, list[Fault]]:
    """The newest checkpoint that is whole, and a fault for each newer one that is not.

    Args:
        run: the run folder.
        last_step: none after this step is looked at.
        with_best: that of the best evaluation so far must be whole too, for it will be asked for.

    Returns:
        None where there is no whole one.
    """
    faults: list[Fault] = []
    for folder in _numbered(run, last_step):
        try:
            found = _read(folder)
            if with_best and found.best.step not in (None, found.step):
                _require_whole(_folder_of(run, found.best.step))
            return found, faults
        except FolderError as error:
            faults += error.faults
    return None, faults


def read_checkpoint(run: Path, step: int) -> Checkpoint:
    """The checkpoint of a step.

    Raises:
        FolderError: it is not there, or not what was written.
    """
    return _read(_folder_of(run, step))


def _require_whole(folder: Path) -> None:
    files = read_manifest(folder, "checkpoint")["files"]
    for name in changed_files(folder, files, (_PARAMETERS, _MOMENTS, _STATE)):
        hint = f"the one before it is used; this one can go: rm -r {folder}"
        raise FolderError(Fault(f"{name} is not what was written", str(folder), hint=hint))


def _read(folder: Path) -> Checkpoint:
    _require_whole(folder)
    state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    moments: dict[str, dict[str, Any]] = {}
    for both, value in load_file(folder / _MOMENTS).items():
        name, key = both.split(_BETWEEN)
        moments.setdefault(name, {})[key] = value
    trained = TrainedState(load_file(folder / _PARAMETERS), moments, state["scaler"])
    about = Best(**state.get("best", {})), state.get("guards", {})
    return Checkpoint(state["step"], state["position"], trained, *about)


def _numbered(run: Path, last_step: float = math.inf) -> list[Path]:
    """The folders of finished checkpoints, the newest first."""
    found = {path: _NAME.fullmatch(path.name) for path in (run / CHECKPOINTS).glob("step-*")}
    steps = {path: int(name.group(1)) for path, name in found.items() if name}
    return sorted((path for path in steps if steps[path] <= last_step), key=steps.__getitem__, reverse=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
