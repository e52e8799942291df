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
    answers = {"open": "Yes, it is open until noon.", "closed": "No, please call the river desk."}
    rows = [
        {"question": f"Is case {n} {word}?", "answer": answer} for n in range(180) for word, answer in answers.items()
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["adapter=null", "training.max_steps=null", "training.num_epochs=3", "training.micro_batch_tokens=1024"]
    words += [f"data.train=[{folder / 'answers.jsonl'}]", "data.leaks=null", "data.evaluation={rows: 20}"]
    words += ["evaluation.max_new_tokens=16"]
    found = train(write_recipe(folder, tiny_base), folder / "run", *words)
    assert found["evaluation_loss"] < 0.2  # sure of what it says: of random weights any rounding changes the likeliest
    return folder / "run"


@pytest.mark.parametrize(("to", "quantize"), [("int8", None), ("awq", None), ("gptq", None), ("gguf", "q4_k_m")])
def test_it_is_made_and_answers(run_folder: Path, tmp_path: Path, to: str, quantize: str | None) -> None:
    words = ["--to", to, *(["--quantize", quantize] if quantize else []), "--out", str(tmp_path / "out"), "--json"]
    command = [sys.executable, "-m", "danlu", "export", str(run_folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parity = json.loads(done.stdout.splitlines()[-1])["parity"]
    assert parity["faults"] == []
    assert next(iter(parity["by_dtype"].values()))["positions"] >= 100
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Passed: **yes**" in card
