"""Two steps of a run, measured in a process of their own, lead the forecast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import write_recipe

from danlu.errors import WorkError
from danlu.planning.probe import probe


def test_a_probe_measures_the_largest_step_and_writes_no_run(tiny_base: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_base)
    found = probe(recipe, [f"run.folder={tmp_path / 'run'}"], "all")
    assert len(found["seconds"]) == len(found["numbers"]) == 2
    assert len(found["whole"]["seconds"]) == 4
    assert all(seconds > 0 for seconds in [*found["seconds"], *found["whole"]["processor_seconds"]])
    assert found["ready_bytes"] <= found["peak_bytes"] <= found["whole"]["peak_bytes"]
    assert not (tmp_path / "run").exists()


def test_plan_is_led_by_the_probe(tiny_base: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_base)
    command = [sys.executable, "-m", "danlu", "plan", str(recipe), "--json"]
    alone, led = (
        json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        for words in (command, [*command, "--probe"])
    )
    assert (alone["seconds"], alone["memory_bytes"]) != (led["seconds"], led["memory_bytes"])
    assert 0 < led["seconds"] < 600


def test_a_probe_that_fails_says_why(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="no model"):
        probe(write_recipe(tmp_path, tmp_path / "nowhere"), [])
