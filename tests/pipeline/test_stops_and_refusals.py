"""A run that is stopped or refused: what was done stays usable, and nothing is half written."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from served_runs import write_run

from danlu.errors import DataError, FolderError, ModelError, RecipeError, ResourceError
from danlu.recipe import load_recipe
from danlu.training.run import run_training

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "smollm2_135m_lora.yaml"


def wait_for(condition: object, seconds: float, every: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(every)


def test_ctrl_c_keeps_the_adapter_usable(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "danlu"]
    process = subprocess.Popen(
        [*command, "train", str(RECIPE), f"run.folder={folder}", "training.evaluation_max_rows=2", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: process.poll() is not None or (metrics.is_file() and metrics.read_text().count("\n") >= 2), 240)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert json.loads(stdout.splitlines()[-1])["error"] == "Stopped"
    assert not (folder / "manifest.json").exists(), "a manifest means complete"
    chat = subprocess.run(
        [*command, "chat", str(folder), "--max-new-tokens", "4"],
        input="I lost my card\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert "tuned> " in chat.stdout
    export = subprocess.run([*command, "export", str(folder)], capture_output=True, text=True, timeout=240)
    assert export.returncode == 2
    assert "not a complete run folder" in export.stderr
    assert "hint:" in export.stderr


def test_an_export_that_is_ended_leaves_nothing(model_folder: Path, tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run", model_folder, 0), tmp_path / "out"
    command = [sys.executable, "-m", "danlu", "export", str(run), "--dtype", "float32", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: process.poll() is not None or out.is_dir(), 120, every=0.01)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr.splitlines()[-2]) == (130, "error: stopped")
    assert not out.exists()


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("data.train=[nowhere.jsonl]", DataError),
        ("model.name=nowhere!", ModelError),
        ("adapter.target_modules=[nowhere]", RecipeError),
        ("adapter.layers_to_transform=[30]", RecipeError),
        ("adapter.rank=600", RecipeError),
        ("data.max_sequence_tokens=20", DataError),
        ("data.evaluation={rows: 100000}", DataError),
        ("data.evaluation={rows: 9, stratify_by: colour}", DataError),
    ],
)
def test_a_refused_run_leaves_no_folder(
    model_folder: Path, tmp_path: Path, override: str, error: type[Exception]
) -> None:
    loaded = load_recipe(RECIPE, [f"run.folder={tmp_path / 'run'}", override])
    with pytest.raises(error, match="hint:"):
        run_training(loaded, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(FolderError, match="not empty"):
        run_training(load_recipe(RECIPE, [f"run.folder={tmp_path / 'run'}"]), quiet=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(ResourceError, match=r"not enough disk for the run: 134 MB needed, 1 MB free"):
        run_training(load_recipe(RECIPE, [f"run.folder={tmp_path / 'run'}"]), quiet=True)
    assert not (tmp_path / "run").exists()
