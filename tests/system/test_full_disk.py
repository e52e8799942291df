"""A disk that fills up while a run trains: one message, nothing half written, and it goes on once there is space."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import numbers_of, write_recipe

from danlu.errors import WorkError
from danlu.recipe import load_recipe
from danlu.tracking.metrics import read_metrics
from danlu.training import run as runs
from danlu.training.checkpoint import newest_checkpoint
from danlu.training.run import run_training

_SIZE = 140 << 20  # a run asks for 128 MB before it begins
_WORDS = ("adapter={type: lora, rank: 2, dropout: 0.1}", "training.num_epochs=8", "training.max_steps=28")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "danlu-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a file system can be mounted by root alone, where that is allowed")
    yield place
    # Checkpoints that were read may be mapped still.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def recipe(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("full_disk"), tiny_base)


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that had space."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(recipe, folder)
    return folder


def train(recipe: Path, folder: Path, *words: str, resume: bool = False) -> dict[str, Any]:
    loaded = load_recipe(recipe, [*_WORDS, *words, f"run.folder={folder}"])
    return run_training(loaded, quiet=True, resume=resume)


def fill(place: Path, left_bytes: int) -> None:
    """Takes all space but so much."""
    free = os.statvfs(place)
    with (place / "ballast").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize - left_bytes)


def fill_after(step: int, place: Path, left_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills the disk once a step is noted, before its checkpoint is written."""
    made = 0

    def asked(session: Any, request: Any) -> bool:
        nonlocal made
        made += 1
        if made == step:
            fill(place, left_bytes)
        return False

    monkeypatch.setattr(runs, "_asked_to_stop", asked)


@pytest.mark.parametrize("left_bytes", [0, 24 << 10, 64 << 10])
def test_a_disk_that_is_full_at_a_checkpoint(
    left_bytes: int, recipe: Path, whole: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, every = small_disk / "run", "training.checkpoints={every_steps: 2, keep_last: 1}"
    with monkeypatch.context() as patch:
        fill_after(4, small_disk, left_bytes, patch)
        with pytest.raises(WorkError) as caught:
            train(recipe, folder, every)
    (fault,) = caught.value.faults
    assert fault.what == "the disk is full; what was whole before is as it was"
    assert fault.where.startswith(str(folder))
    assert "--resume" in fault.hint
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000002"]
    checkpoint, faults = newest_checkpoint(folder)
    assert checkpoint is not None
    assert (checkpoint.step, faults) == (2, [])
    goes_on(recipe, folder, every, whole)


def test_a_disk_that_is_full_at_a_line_of_the_metrics(
    recipe: Path, whole: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_disk / "run"
    with monkeypatch.context() as patch:
        fill_after(3, small_disk, 0, patch)
        with pytest.raises(WorkError, match="the disk is full"):
            train(recipe, folder)
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n"), "the line that did not fit is not half there"
    assert 3 < len(read_metrics(folder)) == text.count("\n") < 28
    goes_on(recipe, folder, "training.checkpoints=null", whole)


def test_a_disk_that_is_full_when_what_was_trained_is_saved(
    recipe: Path, whole: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_disk / "run"
    with monkeypatch.context() as patch:
        fill_after(28, small_disk, 4 << 10, patch)
        with pytest.raises(WorkError, match="the disk is full"):
            train(recipe, folder)
    assert not (folder / "adapter").exists(), "half of one is none"
    goes_on(recipe, folder, "training.checkpoints=null", whole)


def goes_on(recipe: Path, folder: Path, word: str, whole: Path) -> None:
    """With space again, the run comes to what it would have."""
    (folder.parent / "ballast").unlink()
    train(recipe, folder, word, resume=True)
    (losses, weights), (wanted_losses, wanted) = numbers_of(folder), numbers_of(whole)
    assert losses == wanted_losses
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted.items())
    assert (folder / "manifest.json").is_file()
