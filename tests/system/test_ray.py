"""Ray starts the workers: the same numbers as one process, whatever becomes of a worker."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from small_runs import TRAIN, assert_same, train

TWO = "run.launcher={type: ray, num_workers: 2}"
EACH_STEP = "training.checkpoints={every_steps: 1}"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"),
    reason="Ray is not installed",
)


def workers(driver: int) -> list[psutil.Process]:
    """The processes that train, below the one that was started here."""
    return [one for one in psutil.Process(driver).children(recursive=True) if "RayTrainWorker" in one.name()]


def train_and(
    act: Callable[[subprocess.Popen[str]], None], recipe: Path, folder: Path, *words: str
) -> tuple[int, str, str]:
    """Trains with two workers, does something once the first checkpoint is there, and gives status, stdout, stderr."""
    process = subprocess.Popen(
        [*TRAIN, str(recipe), f"run.folder={folder}", TWO, EACH_STEP, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoints" / "step-000001").is_dir():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        act(process)
        stdout, stderr = process.communicate(timeout=150)
    finally:
        process.kill()
    return process.returncode, stdout, stderr


def kill_a_worker(driver: subprocess.Popen[str]) -> None:
    found = workers(driver.pid)
    assert len(found) == 2
    found[1].kill()


def test_a_worker_that_is_killed_is_started_again_and_both_end_where_one_process_does(
    recipe: Path, alone: Path, tmp_path: Path
) -> None:
    status, _, stderr = train_and(kill_a_worker, recipe, tmp_path / "run")
    assert status == 0, stderr
    assert "2 processes" in stderr
    assert "goes on after step" in stderr
    assert_same(tmp_path / "run", alone)
    assert (tmp_path / "run" / "manifest.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "what Ray itself keeps is gone"


def test_workers_that_are_lost_too_often_end_the_run_and_it_can_go_on(
    recipe: Path, alone: Path, tmp_path: Path
) -> None:
    never = "run.launcher={type: ray, num_workers: 2, max_failures: 0}"
    status, _, stderr = train_and(kill_a_worker, recipe, tmp_path / "run", never)
    assert status == 1
    assert_one_message("workers failed: ", stderr)
    train(recipe, tmp_path / "run", EACH_STEP, "--resume")
    assert_same(tmp_path / "run", alone)


def test_ctrl_c_is_one_message_and_leaves_no_process(recipe: Path, tmp_path: Path) -> None:
    def interrupt(driver: subprocess.Popen[str]) -> None:
        started.extend(psutil.Process(driver.pid).children(recursive=True))
        driver.send_signal(signal.SIGINT)

    started: list[psutil.Process] = []
    status, _, stderr = train_and(interrupt, recipe, tmp_path / "run", "training.num_epochs=50")
    assert status == 130
    assert_one_message("stopped", stderr)
    assert psutil.wait_procs(started, timeout=10)[1] == []


def assert_one_message(what: str, stderr: str) -> None:
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, stderr
    assert errors[0].startswith(f"error: {what}")
    assert "hint: " in stderr
    assert "danlu/cli.py" not in stderr, (
        "a traceback of ours; threads of Ray's own may print theirs when it is shut down"
    )


def test_what_is_wrong_is_one_message_and_is_not_tried_again(recipe: Path, tmp_path: Path) -> None:
    result = train(recipe, tmp_path / "run", TWO, "data.evaluation={rows: 400}", check=False)
    assert result["status"] == 2
    assert_one_message("400 of 40 rows can't be held out", result["stderr"])
    assert not (tmp_path / "run").exists()
