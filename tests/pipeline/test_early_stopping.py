"""A run that ends early, and keeps what was best; stopped and gone on with, it is the same run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import numbers_of, train, write_recipe, write_rows

from danlu.errors import Stopped
from danlu.recipe import load_recipe
from danlu.tracking.metrics import read_metrics
from danlu.training.closing import closing_text
from danlu.training.run import run_training
from danlu.training.session import Session

# The model itself, at a rate that learns 32 rows by heart in a few steps.
BY_HEART = [
    "adapter=null",
    "training.learning_rate=1e-2",
    "training.schedule={type: constant}",
    "training.num_epochs=10",
    "training.max_steps=40",
    "data.evaluation={rows: 10}",
    "training.micro_batch_tokens=512",
]
STOPS = ["training.early_stopping={patience: 3, min_delta: 0.01}", "training.save=best"]
EPOCHS = "training.checkpoints={every_epochs: 0.5, keep_last: 2, keep_best: true}"


@pytest.fixture(scope="module")
def recipe(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("early")
    path = write_recipe(folder, tiny_base)
    write_rows(folder / "rows.jsonl", 42, answer_words=6)
    return path


def run(recipe: Path, folder: Path, *words: str, resume: bool = False) -> dict[str, Any]:
    loaded = load_recipe(recipe, [*BY_HEART, f"run.folder={folder}", *words])
    return run_training(loaded, quiet=True, resume=resume)


@pytest.fixture(scope="module")
def to_the_end(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without early stopping, all checkpoints kept."""
    folder = tmp_path_factory.mktemp("to_the_end") / "run"
    result = run(recipe, folder, "training.checkpoints={every_steps: 1, keep_last: 100}")
    assert (result["steps"], result["stopped_early"], result["saved_step"]) == (40, False, 40)
    return folder


@pytest.fixture(scope="module")
def stopped_early(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("stopped_early") / "run"
    return folder, run(recipe, folder, *STOPS)


def held_out(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["evaluation_loss"]) for line in read_metrics(folder) if "evaluation_loss" in line]


def test_it_ends_where_the_curve_says_and_saves_the_best_weights(
    to_the_end: Path, stopped_early: tuple[Path, dict[str, Any]]
) -> None:
    folder, result = stopped_early
    curve = held_out(to_the_end)
    reference, waited, end = float("inf"), 0, 0
    for step, loss in curve:
        reference, waited = (loss, 0) if loss < reference - 0.01 else (reference, waited + 1)
        if waited == 3:
            end = step
            break
    best, lowest = min((point for point in curve if point[0] <= end), key=lambda point: point[1])
    assert 0 < best < end < 40, "the rows are learned by heart before the run would end"
    assert (result["steps"], result["stopped_early"]) == (end, True)
    assert (result["best_step"], result["saved_step"]) == (best, best)
    assert (result["best_evaluation_loss"], result["evaluation_loss"]) == (lowest, lowest)
    assert held_out(folder) == [point for point in curve if point[0] <= end]
    assert json.loads((folder / "manifest.json").read_text())["result"]["best_step"] == best
    expected = load_file(to_the_end / "checkpoints" / f"step-{best:06d}" / "parameters.safetensors")
    saved = numbers_of(folder)[1]
    assert len(saved) == len(expected)
    assert all(
        torch.equal(saved[name].float(), tensor.to(saved[name].dtype).float()) for name, tensor in expected.items()
    )
    said = closing_text(result)
    assert f"ended early: nothing was better than step {best}'s held-out loss" in said
    assert f"saved: the weights of step {best}" in said


@pytest.mark.parametrize("after_the_best", [-3, 1, 2])
def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(
    recipe: Path,
    stopped_early: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after_the_best: int,
) -> None:
    whole, wanted = stopped_early
    taken = Session.evaluation_loss
    calls = []

    def take(session: Session) -> float | None:
        calls.append(1)
        if len(calls) == wanted["best_step"] // 2 + after_the_best:  # an evaluation every two steps
            os.kill(os.getpid(), signal.SIGINT)
        return taken(session)

    monkeypatch.setattr(Session, "evaluation_loss", take)
    with pytest.raises(Stopped):
        run(recipe, tmp_path / "run", *STOPS)
    result = run(recipe, tmp_path / "run", *STOPS, resume=True)
    for key in ("steps", "best_step", "best_evaluation_loss", "saved_step", "stopped_early", "evaluation_loss"):
        assert result[key] == wanted[key]
    (losses, weights), (wanted_losses, wanted_weights) = numbers_of(tmp_path / "run"), numbers_of(whole)
    assert losses == wanted_losses
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted_weights.items())


def test_checkpoints_by_epochs_and_the_best_beside_the_newest(
    recipe: Path, stopped_early: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    best = stopped_early[1]["best_step"]
    assert best % 2 == 0
    result = run(recipe, tmp_path / "run", EPOCHS, f"training.max_steps={best + 5}")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    # An epoch is 4 steps; the last step has one too.
    assert names == [f"step-{step:06d}" for step in (best, best + 4, best + 5)]
    assert (result["best_step"], result["saved_step"]) == (best, best + 5)


def test_two_processes_end_early_where_one_does(
    recipe: Path, stopped_early: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    wanted = stopped_early[1]
    result = train(recipe, tmp_path / "run", *BY_HEART, *STOPS, "--nproc", "2")
    for key in ("steps", "best_step", "saved_step", "stopped_early"):
        assert result[key] == wanted[key]
    assert result["best_evaluation_loss"] == pytest.approx(wanted["best_evaluation_loss"], rel=2e-3)
