"""A checkpoint is whole or it is not used; and nothing that was trained goes for the sake of going on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.errors import FolderError, RecipeError
from danlu.recipe import LoadedRecipe, dump_recipe, load_recipe
from danlu.runs import ADAPTER, CHECKPOINTS, MANIFEST, RESOLVED
from danlu.training.backends.interface import TrainedState
from danlu.training.best import Best
from danlu.training.checkpoint import Checkpoint, newest_checkpoint, read_checkpoint, write_checkpoint
from danlu.training.processes import THIS_ALONE
from danlu.training.resuming import begin_run


def checkpoint(step: int) -> Checkpoint:
    moments = {"a.weight": {"exp_avg": torch.full((2, 3), float(step)), "step": torch.tensor(float(step))}}
    return Checkpoint(step, None, TrainedState({"a.weight": torch.full((2, 3), 0.5 + step)}, moments, {"scale": 2.0}))


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / CHECKPOINTS).iterdir())


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(7), 3)
    found, faults = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.position, found.trained.scaler, faults) == (7, None, {"scale": 2.0}, [])
    assert torch.equal(found.trained.parameters["a.weight"], torch.full((2, 3), 7.5))
    assert {key: value.shape for key, value in found.trained.moments["a.weight"].items()} == {
        "exp_avg": (2, 3),
        "step": (),
    }


def test_the_newest_are_kept_by_their_number(tmp_path: Path) -> None:
    for step in (999_998, 999_999, 1_000_000):
        write_checkpoint(tmp_path, checkpoint(step), 2)
    assert names(tmp_path) == ["step-1000000", "step-999999"]
    found, _ = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1_000_000


@pytest.mark.parametrize("name", ["parameters.safetensors", "moments.safetensors", "state.json", MANIFEST])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, None])
def test_one_that_is_torn_or_changed_is_named_and_the_one_before_it_taken(
    tmp_path: Path, name: str, share: float | None
) -> None:
    write_checkpoint(tmp_path, checkpoint(1), 3)
    path = write_checkpoint(tmp_path, checkpoint(2), 3) / name
    content = path.read_bytes()
    if share is None:  # a bit turned over
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    else:
        path.write_bytes(content[: int(share * len(content))])
    found, faults = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert len(faults) == 1
    assert "step-000002" in str(faults[0])


@pytest.mark.parametrize("part", range(20))
def test_of_one_cut_at_any_twentieth_the_one_before_it_is_taken(tmp_path: Path, part: int) -> None:
    write_checkpoint(tmp_path, checkpoint(1), 3)
    folder = write_checkpoint(tmp_path, checkpoint(2), 3)
    files = sorted(folder.iterdir())
    left = part * sum(path.stat().st_size for path in files) // 20
    for path in files:  # as if it were one file of them all
        content = path.read_bytes()
        path.write_bytes(content[: max(0, left)])
        left -= len(content)
    found, faults = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert str(folder) in str(faults[0])
    assert "hint: " in str(faults[0])


def with_best(step: int, best_step: int) -> Checkpoint:
    return replace(checkpoint(step), best=Best(best_step, 0.5, 0.5, 0))


def test_the_best_stays_beside_the_newest(tmp_path: Path) -> None:
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        write_checkpoint(tmp_path, with_best(step, best), 2, keep_best=True)
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000005"]
    assert read_checkpoint(tmp_path, 2).step == 2
    write_checkpoint(tmp_path, with_best(6, 6), 2, keep_best=True)  # the one before it says that 2 is the best
    assert names(tmp_path) == ["step-000002", "step-000005", "step-000006"]
    write_checkpoint(tmp_path, with_best(7, 6), 2, keep_best=True)
    assert names(tmp_path) == ["step-000006", "step-000007"]


def test_one_whose_best_is_torn_is_not_gone_on_from_where_the_best_is_to_be_saved(tmp_path: Path) -> None:
    for step, best in ((1, 1), (2, 2), (3, 2)):
        write_checkpoint(tmp_path, with_best(step, best), 3, keep_best=True)
    path = tmp_path / CHECKPOINTS / "step-000002" / "parameters.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    newest, _ = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 3
    found, faults = newest_checkpoint(tmp_path, with_best=True)
    assert found is not None
    assert found.step == 1
    assert all("step-000002" in str(fault) for fault in faults)


def test_how_the_evaluation_went_is_read_as_it_was_written(tmp_path: Path) -> None:
    best = Best(3, 0.1 + 0.2, 0.4, 2)
    write_checkpoint(tmp_path, replace(checkpoint(5), best=best), 1)
    assert read_checkpoint(tmp_path, 5).best == best


def test_one_that_was_being_written_is_none(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(1), 3)
    (tmp_path / CHECKPOINTS / ".step-000002.writing").mkdir()
    found, faults = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, faults) == (1, [])


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedRecipe:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    recipe = {"model": {"name": "base"}, "data": {"train": [str(tmp_path / "rows.jsonl")]}, "adapter": {"type": "lora"}}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**recipe, "training": {}}))
    return load_recipe(path, [f"run.folder={tmp_path / 'run'}"])


def begun(loaded: LoadedRecipe, *names: str) -> Path:
    """A run that was begun and has these folders."""
    for name in names:
        (loaded.run_folder / name).mkdir(parents=True)
        (loaded.run_folder / name / "file").touch()
    (loaded.run_folder / RESOLVED).write_text(dump_recipe(loaded.recipe))
    return loaded.run_folder


def test_without_a_checkpoint_what_was_trained_is_not_thrown_away(loaded: LoadedRecipe) -> None:
    folder = begun(loaded, ADAPTER)
    with pytest.raises(FolderError, match="no checkpoint to go on from, but what was trained") as caught:
        begin_run(loaded, folder, THIS_ALONE, resume=True)
    assert "hint: " in str(caught.value)
    assert (folder / ADAPTER / "file").is_file()


def test_a_run_of_which_nothing_was_trained_begins_anew(loaded: LoadedRecipe) -> None:
    folder = begun(loaded, "probes")
    assert not begin_run(loaded, folder, THIS_ALONE, resume=True)
    assert list(folder.iterdir()) == []


def test_only_the_recipe_of_the_run_goes_on(loaded: LoadedRecipe) -> None:
    folder = begun(loaded, ADAPTER, CHECKPOINTS)
    assert begin_run(loaded, folder, THIS_ALONE, resume=True)
    for word, same in (("training.micro_batch_tokens=64", True), ("training.learning_rate=1e-5", False)):
        other = load_recipe(loaded.path, [f"run.folder={folder}", word])
        if same:
            assert begin_run(other, folder, THIS_ALONE, resume=True)
        else:
            with pytest.raises(RecipeError, match=r"training.learning_rate. is 1e-05; the run was begun with 0.0002"):
                begin_run(other, folder, THIS_ALONE, resume=True)
    assert (folder / ADAPTER / "file").is_file()
