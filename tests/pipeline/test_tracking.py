"""Trackers of a real run: told all, one run through a kill and `--resume`, and never in the way."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import TRAIN, train, write_recipe

from danlu.errors import RecipeError
from danlu.recipe import load_recipe
from danlu.tracking import trackers
from danlu.training import several
from danlu.training.run import run_training

NEEDED = ("tensorboard", "tensorboardX", "mlflow")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED) and not os.environ.get("DANLU_REQUIRE_PROGRAMS"),
    reason=f"{', '.join(NEEDED)} are not all installed",
)


@pytest.fixture(scope="module")
def recipe(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), tiny_base)


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(99)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_killed_run_goes_on_as_the_same_run_beside_a_tracker_that_hangs(
    recipe: Path, tmp_path: Path, hanging: str
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    both = f"[{{type: tensorboard}}, {{type: mlflow, uri: '{hanging}', timeout_seconds: 6}}]"
    words = [f"tracking.trackers={both}", "training.max_steps=9", "training.num_epochs=3"]
    words.append("training.checkpoints={every_steps: 2}")
    process = subprocess.Popen([*TRAIN, str(recipe), f"run.folder={folder}", *words], stderr=subprocess.DEVNULL)
    while not (folder / "checkpoints" / "step-000004").is_dir():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = train(recipe, folder, *words, "--resume")
    tensorboard, mlflow = result["trackers"]
    assert (tensorboard["lost"], tensorboard["finished"]) == (0, True)
    assert (mlflow["lost"], mlflow["finished"]) == (mlflow["lines"], False)
    assert "127.0.0.1" in mlflow["problem"] or "has not answered for 6 s" in mlflow["problem"]
    assert "tracker mlflow: " in result["stderr"]
    assert "the run goes on" in result["stderr"]
    assert json.loads((folder / "manifest.json").read_text())["result"]["trackers"] == result["trackers"]
    events = EventAccumulator(str(folder / "tracking" / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))
    for key in ("loss", "learning_rate", "gradient_norm", "evaluation_loss", "tokens"):
        expected = {line["step"]: line[key] for line in lines if key in line}
        found = {event.step: event.value for event in events.Scalars(key)}
        assert found == pytest.approx(expected, rel=1e-6), key
    assert min(event.value for event in events.Scalars("peak_memory_bytes")) > 10**8
    assert min(event.value for event in events.Scalars("tokens_per_second")) > 0
    texts = {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert str(recipe.parent / "rows.jsonl") in texts["recipe/text_summary"]
    assert '"steps": 9' in texts["result/text_summary"]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_done(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "_is_installed", lambda library: library != "wandb")
    words = [f"run.folder={tmp_path / 'run'}", "tracking.trackers=[{type: wandb}, {type: tensorboard}]"]
    with pytest.raises(RecipeError, match=r"danlu\[wandb\]") as raised:
        run_training(load_recipe(recipe, words), quiet=True)
    assert len(raised.value.faults) == 1
    with pytest.raises(RecipeError, match=r"danlu\[wandb\]"):
        several.run_several(load_recipe(recipe, [*words, "adapters={a: {adapter.rank: 4}}"]), quiet=True)
    assert not (tmp_path / "run").exists()


def test_without_trackers_nothing_is_started(recipe: Path, tmp_path: Path) -> None:
    result = train(recipe, tmp_path / "run", "training.max_steps=1")
    assert result["trackers"] == []
    assert not (tmp_path / "run" / "tracking").exists()
