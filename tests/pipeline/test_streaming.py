"""Training on streamed rows: nothing is prepared but the evaluation rows, and all rows are accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.data.stream import position_of
from danlu.errors import DataError, RecipeError
from danlu.recipe import load_recipe
from danlu.runs import danlu_home, read_manifest
from danlu.training.run import run_training

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "smollm2_135m_lora.yaml"
WORDS = [
    "data.streaming=true",
    "data.num_workers=1",
    "data.shuffle_window_rows=8",
    "data.max_dropped_share=0.2",
    "evaluation.max_new_tokens=2",
    "adapter.layers_to_transform=[28, 29]",
]


def write(path: Path, rows: list[Any]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def rows_of(count: int) -> list[Any]:
    return [{"question": f"Which number is {n}?", "answer": f"It is {n}."} for n in range(count)]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stored() -> set[Path]:
    return set((danlu_home() / "prepared").glob("*"))


def test_a_streamed_run_is_complete_and_prepares_no_training_row(model_folder: Path, tmp_path: Path) -> None:
    rows = rows_of(12)
    rows[1]["answer"] = ""
    path, folder, before = write(tmp_path / "rows.jsonl", rows), tmp_path / "run", stored()
    words = [*WORDS, f"data.train=[{path}]", "data.evaluation=null", "training.max_steps=2", f"run.folder={folder}"]
    result = run_training(load_recipe(RECIPE, words), quiet=True)

    assert result["steps"] == 2
    assert result["evaluation_loss"] is None
    assert result["train_loss"] > 0
    assert result["rows"] == {"read": 9, "added": 0, "kept": 8, "dropped": 1, "changed": 0, "cut": 0}
    assert result["splits"]["train"]["rows"] == 8
    assert result["splits"]["evaluation"]["rows"] == 0
    assert result["tokens"]["total"] == sum(line["tokens"] for line in lines_of(folder / "metrics.jsonl"))
    assert read_manifest(folder, "run")["result"] == result
    ledger = json.loads((folder / "ledger.json").read_text())
    assert ledger["rows"] == result["rows"]
    assert ledger["waiting"] == 3
    assert ledger["position"] == position_of(0, 1, 1)
    (dropped,) = lines_of(folder / "changes.jsonl")
    assert dropped["where"] == f"{path}:2"

    probes = json.loads((folder / "probes" / "probes.json").read_text())["probes"]
    asked = [probe["messages"][-1]["content"] for probe in probes]
    assert asked == [f"Which number is {n}?" for n in (0, *range(2, 8))], "the rows of the first window"
    for made in stored() - before:
        assert not any(b"Which number" in file.read_bytes() for file in made.iterdir())


def test_a_fault_that_is_found_on_the_way_leaves_the_adapter_and_the_account(
    model_folder: Path, tmp_path: Path
) -> None:
    held = write(tmp_path / "held.jsonl", [{"question": "What is the colour of the sky?", "answer": "Blue."}])
    path, folder = write(tmp_path / "rows.jsonl", [*rows_of(50), '{"question": "cut o']), tmp_path / "run"
    words = [
        *WORDS,
        f"data.train=[{path}]",
        f"data.evaluation=[{held}]",
        "training.max_steps=5",
        "training.global_batch_size=16",
        "training.evaluate_every_steps=1",
        f"run.folder={folder}",
    ]
    with pytest.raises(DataError, match=r"rows\.jsonl:51") as caught:
        run_training(load_recipe(RECIPE, words), quiet=True)
    assert "stopped after step 3 of 5; what was trained so far is saved" in str(caught.value)
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert not (folder / "manifest.json").exists(), "a manifest means complete"
    assert all(line["evaluation_loss"] > 0 for line in lines_of(folder / "metrics.jsonl"))
    ledger = json.loads((folder / "ledger.json").read_text())
    assert ledger["rows"]["kept"] == 48
    assert ledger["evaluation"]["rows"]["kept"] == 1

    write(Path(path), rows_of(100))  # mended
    result = run_training(load_recipe(RECIPE, words), quiet=True, resume=True)
    assert result["steps"] == 5
    assert [line["step"] for line in lines_of(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert json.loads((folder / "ledger.part-1.json").read_text()) == ledger
    assert json.loads((folder / "ledger.json").read_text())["rows"]["kept"] == 32
    assert (folder / "changes.part-1.jsonl").is_file()


def test_too_many_bad_rows_stop_the_run_before_it_begins_and_leave_no_folder(
    model_folder: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", [*rows_of(3), {"question": "?", "answer": ""}, {"unknown": "?"}])
    words = [*WORDS, f"data.train=[{path}]", "data.evaluation=null", f"run.folder={tmp_path / 'run'}"]
    with pytest.raises(DataError, match=r"2 of 5 rows would be dropped \(40\.0%\)"):
        run_training(load_recipe(RECIPE, [*words, "training.max_steps=2"]), quiet=True)
    with pytest.raises(RecipeError, match=r"training\.max_steps"):
        run_training(load_recipe(RECIPE, words), quiet=True)
    assert not (tmp_path / "run").exists()
