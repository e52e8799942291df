"""What Ray can't do is said before it is started."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from danlu.errors import RecipeError
from danlu.recipe import LoadedRecipe, load_recipe
from danlu.training.resuming import require_resumable
from danlu.training.run import run_training

RAY = "run.launcher={type: ray, num_workers: 2}"


def recipe(folder: Path, *words: str) -> LoadedRecipe:
    values = {
        "model": {"name": "nowhere"},
        "data": {"train": ["rows.jsonl"]},
        "adapter": {"type": "lora"},
        "training": {},
        "run": {"folder": str(folder / "run")},
    }
    (folder / "recipe.yaml").write_text(json.dumps(values))
    return load_recipe(folder / "recipe.yaml", words)


def test_without_ray_the_hint_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RecipeError, match=r"Ray is not installed(?s:.*)danlu\[ray\]"):
        run_training(recipe(tmp_path, RAY))
    assert not (tmp_path / "run").exists()


def test_one_of_several_processes_does_not_start_workers_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one of several processes already"):
        run_training(recipe(tmp_path, RAY))
    assert not (tmp_path / "run").exists()


def test_a_run_may_go_on_under_another_launcher(tmp_path: Path) -> None:
    loaded = recipe(tmp_path)
    folder = loaded.run_folder
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "recipe.resolved.yaml").write_text(loaded.path.read_text())
    assert require_resumable(recipe(tmp_path, RAY), folder)


def test_several_adapters_are_not_for_ray(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"needs run.launcher=\{type: local\}"):
        recipe(tmp_path, RAY, "adapters={small: {adapter.rank: 4}}")
