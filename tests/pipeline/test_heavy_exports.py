"""Formats whose tools are large: run by hand, with DANLU_HEAVY_EXPORTS=1 (gigabytes are fetched the first time)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import train, write_recipe

pytestmark = pytest.mark.skipif(
    not os.environ.get("DANLU_HEAVY_EXPORTS"), reason="set DANLU_HEAVY_EXPORTS=1 to make exports with large tools"
)


@pytest.fixture(scope="module")
def run_folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heavy_run")
    train(write_recipe(folder, tiny_base), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(("to", "quantize"), [("int8", None), ("awq", None), ("gptq", None), ("gguf", "q4_k_m")])
def test_it_is_made_and_answers(run_folder: Path, tmp_path: Path, to: str, quantize: str | None) -> None:
    words = ["--to", to, *(["--quantize", quantize] if quantize else []), "--out", str(tmp_path / "out"), "--json"]
    command = [sys.executable, "-m", "danlu", "export", str(run_folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parity = json.loads(done.stdout.splitlines()[-1])["parity"]
    assert parity["faults"] == []
    assert parity["argmax_agreement"] > 0.3  # random weights: nothing sets the likeliest token apart
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Passed: **yes**" in card
