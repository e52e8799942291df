"""A step that hangs is said, with the place that it hangs at; one that takes its time is not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from danlu.training.watchdog import Patience, Watchdog


def hang_here(seconds: float) -> None:
    time.sleep(seconds)


def test_a_step_that_hangs_is_said_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dog = Watchdog(tmp_path, Patience(seconds=0.3, factor=2.0, aborts=False))
    with dog.watching(1):
        pass
    with dog.watching(2):
        hang_here(1.0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "step 2 has taken 0 s; the median one takes" in said
    assert str(tmp_path / "stuck-step-2.txt") in said
    assert "in hang_here" in (tmp_path / "stuck-step-2.txt").read_text()
    assert not (tmp_path / "stuck-step-1.txt").exists()


def test_what_is_long_is_measured_by_the_steps_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dog = Watchdog(tmp_path, Patience(seconds=0.01, factor=10.0, aborts=False))
    assert dog.limit_seconds() == 0.01
    with dog.watching(1):
        time.sleep(0.2)
    capsys.readouterr()
    assert 2.0 <= dog.limit_seconds() < 10.0
    with dog.watching(2):
        time.sleep(0.3)
    assert not capsys.readouterr().err


def test_nothing_is_watched_where_none_is_wanted_or_between_steps(tmp_path: Path) -> None:
    before = threading.active_count()
    with Watchdog(tmp_path, None).watching(1):
        assert threading.active_count() == before
    dog = Watchdog(tmp_path, Patience(0.05, 1.0, aborts=True))
    with dog.watching(1):
        pass
    time.sleep(0.2)  # it would have ended the tests
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_speaks_and_all_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Watchdog(tmp_path, Patience(0.1, 1.0, aborts=False), rank=3).watching(7):
        hang_here(0.5)
    assert not capsys.readouterr().err
    assert (tmp_path / "stuck-step-7-3.txt").is_file()


def test_a_step_that_hangs_can_be_given_up(tmp_path: Path) -> None:
    code = (
        "import pathlib, time; from danlu.training.watchdog import *\n"
        f"with Watchdog(pathlib.Path({str(tmp_path)!r}), Patience(0.2, 1.0, True)).watching(5): time.sleep(60)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert time.monotonic() - started < 40
    assert "step 5 has taken" in done.stderr
    assert "error: the step was given up\n  hint: go on with danlu train RECIPE --resume" in done.stderr
