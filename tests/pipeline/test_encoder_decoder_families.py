"""Every encoder-decoder family goes the whole way: trained, judged, merged, proven; what its config brings included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sequence_models import FAMILIES, write_model

from danlu.evaluation.run import run_evaluation
from danlu.export.run import run_export
from danlu.recipe import load_recipe
from danlu.training.run import run_training
from danlu.training.trained import open_run

THINGS = ("moon", "sun", "stone", "fire", "a stone", "the fire", "a moon", "the sun", "what", "of")
ROWS = [{"prompt": f"what is {thing} {n}", "completion": f"{n} is {thing}"} for thing in THINGS for n in range(3)]
# What facebook/bart-large-cnn's config.json says of generation beside its shape.
OF_GENERATION = {
    "forced_bos_token_id": 0,
    "min_length": 56,
    "max_length": 142,
    "num_beams": 4,
    "no_repeat_ngram_size": 3,
}


def base_of(family: str, folder: Path) -> Path:
    write_model(folder, family)
    config = folder / "config.json"
    if family == "bart":
        (folder / "generation_config.json").unlink()
        config.write_text(json.dumps(json.loads(config.read_text()) | OF_GENERATION))
    if family == "mt5":  # its head is not its embeddings, as in all published ones
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"] = torch.randn(
            weights["shared.weight"].shape, generator=torch.Generator().manual_seed(1)
        )
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    return folder


def recipe_of(folder: Path, base: Path, data: str) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
model: {{name: {base}, dtype: float32}}
data: {{train: [rows.jsonl], {data}, max_sequence_tokens: 64}}
adapter: {{type: lora, rank: 4, target_modules: all-linear}}
training: {{learning_rate: 0.05, max_steps: 3, global_batch_size: 8, micro_batch_tokens: 96}}
evaluation: {{max_new_tokens: 8, tasks: [{{type: loss}}, {{type: rouge_l}}]}}
run: {{folder: {folder / "run"}}}
"""
    )
    return recipe


@pytest.fixture(scope="module", params=FAMILIES)
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    base = base_of(request.param, folder / "base")
    recipe = recipe_of(folder, base, "evaluation: {rows: 6}, leaks: null")
    return Path(run_training(load_recipe(recipe), quiet=True)["run_folder"])


def test_the_tuned_loss_falls_and_is_transformers_own(run_folder: Path) -> None:
    run = open_run(run_folder)
    engine = run.engine(torch.float32)
    total = count = 0.0
    for messages in run.evaluation_rows():
        source = engine.tokenizer(messages[0]["content"], return_tensors="pt")
        labels = engine.tokenizer(text_target=messages[1]["content"], return_tensors="pt").input_ids
        with torch.no_grad():
            total += float(engine.model(**source, labels=labels).loss) * labels.numel()
        count += labels.numel()
    metrics: Any = run_evaluation(run_folder, quiet=True)["metrics"]
    assert metrics["tuned"]["loss"] == pytest.approx(total / count, rel=1e-4)
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"]


def test_the_merge_passes_the_gate(run_folder: Path) -> None:
    result = run_export(run_folder)
    assert result["parity"]["passed"]
    assert result["parity"]["max_logit_difference"] <= 1e-3
    folder = Path(result["export_folder"])
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (
        generation["decoder_start_token_id"]
        == json.loads((folder / "config.json").read_text())["decoder_start_token_id"]
    )


def test_bfloat16_passes_too(run_folder: Path, tmp_path: Path) -> None:
    assert run_export(run_folder, out=tmp_path / "out", dtype="bfloat16")["parity"]["passed"]


def test_streamed_rows_train_such_a_model_too(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, base_of("t5", tmp_path / "base"), "streaming: true, shuffle_window_rows: 16")
    result = run_training(load_recipe(recipe), quiet=True)
    assert result["steps"] == 3
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert run_export(tmp_path / "run")["parity"]["passed"]
