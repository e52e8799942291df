"""What a crash leaves half written is found, and the run ends with the bits it would have had."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import numbers_of, write_recipe

from danlu.recipe import LoadedRecipe, load_recipe
from danlu.tracking.metrics import FILE, read_metrics
from danlu.training.run import run_training

WORDS = ["training.num_epochs=2", "training.checkpoints={every_steps: 1, keep_last: 9}", "adapter.dropout=0.1"]


@pytest.fixture(scope="module")
def recipe(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("torn"), tiny_base)


def load(recipe: Path, folder: Path) -> LoadedRecipe:
    return load_recipe(recipe, [*WORDS, f"run.folder={folder}"])


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_training(load(recipe, folder), quiet=True)
    return folder


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def as_killed_after_step_4(whole: Path, folder: Path) -> Path:
    shutil.copytree(whole, folder)
    (folder / "manifest.json").unlink()
    for name in ("adapter", "probes", "checkpoints/step-000005", "checkpoints/step-000006"):
        shutil.rmtree(folder / name)
    return folder


def _checkpoint(*steps: int) -> Callable[[Path], None]:
    def tear(folder: Path) -> None:
        for step in steps:
            cut(folder / "checkpoints" / f"step-{step:06d}" / "moments.safetensors")

    return tear


def _metrics(lines: int) -> Callable[[Path], None]:
    """Cut in the middle of the line after so many."""

    def tear(folder: Path) -> None:
        content = (folder / FILE).read_bytes().splitlines(keepends=True)
        (folder / FILE).write_bytes(b"".join(content[:lines]) + content[lines][:20])

    return tear


@pytest.mark.parametrize(
    ("tear", "said", "noted"),
    [
        (_checkpoint(4), ["step-000004", "the one before it is used", "goes on after step 3"], 6),
        (_checkpoint(0, 1, 2, 3, 4), ["step-000000", "step-000004", "no checkpoint is whole: begins anew"], 6),
        (_metrics(4), ["goes on after step 4"], 6),
        (_metrics(2), ["the metrics of 2 steps before that were lost", "goes on after step 4"], 4),
    ],
    ids=["checkpoint", "all checkpoints", "metrics", "metrics of before"],
)
def test_what_is_torn_is_named_and_the_run_ends_as_it_would_have(
    tear: Callable[[Path], None],
    said: list[str],
    noted: int,
    whole: Path,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = as_killed_after_step_4(whole, tmp_path / "run")
    tear(folder)
    run_training(load(recipe, folder), resume=True)
    told = capsys.readouterr().err
    assert all(text in told for text in said), told
    weights, wanted = numbers_of(folder)[1], numbers_of(whole)[1]
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted.items())
    losses = [[(line["step"], line["loss"]) for line in read_metrics(run)] for run in (folder, whole)]
    assert losses[0] == [*losses[1][: noted - 2], *losses[1][4:]]
