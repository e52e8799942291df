"""Two steps of a run, measured in a process of their own, lead the forecast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import write_recipe

from danlu.data.template import Document
from danlu.errors import WorkError
from danlu.planning.probe import probe
from danlu.planning.workload import workload


def test_a_probe_measures_the_largest_step_and_writes_no_run(tiny_base: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_base)
    found = probe(recipe, [f"run.folder={tmp_path / 'run'}"], "all")
    assert len(found["seconds"]) == len(found["numbers"]) == 2
    assert len(found["whole"]["seconds"]) == 4
    assert all(seconds > 0 for seconds in [*found["seconds"], *found["whole"]["processor_seconds"]])
    assert found["ready_bytes"] <= found["peak_bytes"] <= found["whole"]["peak_bytes"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([[20, 20], [60], [10, 10]], [1, 0]), ([[60, 20], [20, 20], [30, 30]], [0, 2]), ([[60]], [0, 0])],
)
def test_two_steps_are_that_of_the_largest_group_and_another_with_many_tokens(
    lengths: list[list[int]], expected: list[int]
) -> None:
    steps = [[Document(tuple(range(length)), ((1, length),)) for length in step] for step in lengths]
    assert workload(len(steps), lambda step: steps[step], 50, False, False).two_steps() == expected


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
