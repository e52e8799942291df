"""A run that learns its rows by heart and one that learns their rule get different verdicts, and right ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import write_recipe, write_rows

from danlu.evaluation.run import run_evaluation
from danlu.recipe import load_recipe
from danlu.training.closing import closing_text
from danlu.training.run import run_training

WHOLE_MODEL = ["adapter=null", "training.max_steps=null", "training.micro_batch_tokens=1024"]


def run(base: Path, folder: Path, *words: str) -> dict[str, Any]:
    recipe = write_recipe(folder, base)
    return run_training(load_recipe(recipe, [*WHOLE_MODEL, f"run.folder={folder / 'run'}", *words]), quiet=True)


def test_forty_rows_in_fifty_epochs_are_learned_by_heart(tiny_base: Path, tmp_path: Path) -> None:
    words = ["data.evaluation={rows: 10}", "training.num_epochs=50", "training.evaluate_every_steps=10"]
    rows = write_rows(tmp_path / "facts.jsonl", 50, answer_words=6)
    result = run(tiny_base, tmp_path, rows, *words, "training.learning_rate=5e-3")
    verdict = result["verdict"]
    assert verdict["kind"] == "overfitting"
    assert (verdict["rows"], verdict["parameters"]) == (40, result["trainable_parameters"])
    assert f"{result['trainable_parameters']:,} parameters were trained on 40 rows" in verdict["text"]
    assert result["evaluation_loss"] > 1.05 * result["best_evaluation_loss"]
    assert result["train_loss"] < 0.1
    assert any(change.startswith("training.save=best") for change in verdict["changes"])
    assert f"overfitting: {verdict['text']}\n  try " in closing_text(result)
    report = Path(run_evaluation(result["run_folder"], quiet=True)["report_folder"]) / "index.html"
    page = report.read_text(encoding="utf-8")
    assert "<strong>Overfitting</strong>: after step" in page
    assert all(change in page for change in verdict["changes"])


@pytest.mark.parametrize(("rate", "kind"), [("5e-3", "healthy"), ("1e-6", "underfitting")])
def test_a_rule_in_many_rows_is_learned_unless_the_rate_is_too_small(
    tiny_base: Path, tmp_path: Path, rate: str, kind: str
) -> None:
    words = ["data.evaluation={rows: 40}", "training.num_epochs=2", "training.evaluate_every_steps=10"]
    rows = write_rows(tmp_path / "rules.jsonl", 360, answer_words=1)
    result = run(tiny_base, tmp_path, rows, *words, f"training.learning_rate={rate}")
    assert result["verdict"]["kind"] == kind
    assert bool(result["verdict"]["changes"]) == (kind == "underfitting")
    assert f"{kind}: " in closing_text(result)
