"""The main job on the embedded model, shortened: data, training, evaluation, merge, gate, chat."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu.errors import FolderError, GateError, InputError
from danlu.evaluation.run import run_evaluation
from danlu.export.run import run_check, run_export
from danlu.recipe import load_recipe
from danlu.runs import read_manifest
from danlu.training.run import run_training
from danlu.training.trained import open_run

ROOT = Path(__file__).parents[2]
SHORT = [
    "training.max_steps=6",
    "training.evaluation_max_rows=4",
    "evaluation.max_rows=4",
    "evaluation.max_new_tokens=24",
    "data.evaluation={rows: 32, stratify_by: intent}",
]


@pytest.fixture(scope="module")
def trained(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pipeline") / "run"
    loaded = load_recipe(ROOT / "recipes" / "smollm2_135m_lora.yaml", [*SHORT, f"run.folder={folder}"])
    return run_training(loaded, quiet=True)


@pytest.fixture(scope="module")
def run_folder(trained: dict[str, Any]) -> Path:
    return Path(trained["run_folder"])


@pytest.fixture(scope="module")
def exported(run_folder: Path) -> dict[str, Any]:
    return run_export(run_folder)


def test_training_gives_the_promised_keys_and_its_loss_falls(trained: dict[str, Any], run_folder: Path) -> None:
    promised = ("steps", "train_loss", "evaluation_loss", "tokens_per_second", "peak_memory_bytes", "seconds")
    assert all(trained[key] for key in promised)
    sizes = {"trainable_parameters": 1_628_160, "total_parameters": 136_143_168, "trainable_share": 0.011959}
    assert {key: trained[key] for key in sizes} == sizes
    assert read_manifest(run_folder, "run")["result"].items() >= sizes.items()
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_every_row_is_accounted_for(trained: dict[str, Any]) -> None:
    rows, splits = trained["rows"], trained["splits"]
    assert rows["read"] + rows["added"] == rows["kept"] + rows["dropped"]
    assert rows["kept"] == splits["train"]["rows"] + splits["evaluation"]["rows"]
    assert rows["read"] == len((ROOT / "examples" / "customer_service.jsonl").read_text().splitlines())


def test_the_run_folder_is_complete_and_its_recipe_loads_again(run_folder: Path) -> None:
    read_manifest(run_folder, "run")
    for name in ("recipe.resolved.yaml", "environment.json", "ledger.json", "metrics.jsonl", "probes", "adapter"):
        assert (run_folder / name).exists(), name
    assert load_recipe(run_folder / "recipe.resolved.yaml").recipe.training.max_steps == 6


def test_the_adapter_loads_in_plain_peft_and_gives_the_same_logits(run_folder: Path, model_folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, run_folder / "adapter").eval()
    ids = AutoTokenizer.from_pretrained(model_folder)("I lost my card", return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = plain(input_ids=ids).logits
        with plain.disable_adapter():
            base = plain(input_ids=ids).logits
        found = open_run(run_folder).engine(torch.float32).model(input_ids=ids).logits
    assert torch.equal(found, wanted)
    assert not torch.allclose(base, wanted, atol=1e-3), "the adapter does something"


def test_evaluation_compares_base_and_tuned_and_writes_a_page(run_folder: Path) -> None:
    result = run_evaluation(run_folder, quiet=True)
    metrics = result["metrics"]
    assert metrics["base"].keys() == metrics["tuned"].keys() >= {"loss", "rouge_l", "compliance", "ticket_code"}
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"]
    page = (Path(result["report_folder"]) / "index.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http" not in page.replace("http-equiv", ""), "the page needs nothing from outside"
    content = json.loads((Path(result["report_folder"]) / "report.json").read_text(encoding="utf-8"))
    assert len(content["examples"]) == 4
    shown = html.unescape(page)
    assert all(example[model]["text"] in shown for example in content["examples"] for model in ("base", "tuned"))


def test_the_tuned_loss_is_that_of_transformers_own(run_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    from danlu.data.template import label
    from danlu.models.tokenizer import load_tokenizer

    # Judged in float32 whatever this machine trains in: bfloat16 rounds a packed row otherwise than one alone.
    wide = shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("report", "exports"))
    recipe = wide / "recipe.resolved.yaml"
    recipe.write_text(recipe.read_text().replace("dtype: auto", "dtype: float32"))
    run = open_run(wide)
    assert run.dtype is torch.float32
    engine, tokenizer = run.engine(run.dtype), load_tokenizer(model_folder)
    total, count = 0.0, 0
    for messages in run.evaluation_rows()[:4]:
        (document,) = label(tokenizer, messages)
        (start, end), ids = document.spans[0], torch.tensor([document.ids])
        labels = torch.full_like(ids, -100)
        labels[0, start:end] = ids[0, start:end]
        with torch.no_grad():
            total += float(engine.model(input_ids=ids, labels=labels).loss) * (end - start)
        count += end - start
    report = run_evaluation(wide, quiet=True)
    assert report["metrics"]["tuned"]["loss"] == pytest.approx(total / count, rel=1e-4)


def test_the_merge_is_exact_in_float32(exported: dict[str, Any]) -> None:
    parity = exported["parity"]
    assert parity["passed"]
    assert parity["prompts"] == 20
    assert parity["greedy_equal"] == 20
    assert parity["argmax_agreement"] == 1.0
    assert 0 < parity["max_logit_difference"] <= 1e-3
    assert parity["by_dtype"]["bfloat16"]["max_logit_difference"] > parity["max_logit_difference"]


def copy_of(exported: dict[str, Any], folder: Path) -> Path:
    """A copy of an export without its manifest, so that only figures can give a fault away."""
    source = Path(exported["export_folder"])
    folder.mkdir()
    for path in source.iterdir():
        if path.name not in ("manifest.json", "parity.json"):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("tensor", ["model.layers.3.mlp.up_proj.weight", "model.layers.29.input_layernorm.weight"])
def test_one_tensor_scaled_by_5_percent_is_caught(
    exported: dict[str, Any], run_folder: Path, tmp_path: Path, tensor: str
) -> None:
    folder = copy_of(exported, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    weights[tensor] = weights[tensor] * 1.05
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(GateError, match="logits: differ") as caught:
        run_check(run_folder, folder)
    assert caught.value.to_json()["parity"]["passed"] is False
    assert (folder / "model.safetensors").is_file(), "nothing is removed"


def test_another_template_and_missing_stop_token_are_named(
    exported: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(exported, tmp_path / "copy")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("You are a helpful", "You are an unhelpful"))
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [0, 2]}))
    with pytest.raises(GateError) as caught:
        run_check(run_folder, folder)
    text = str(caught.value)
    assert "chat template: 20 of 20 prompts" in text
    assert "stop tokens: [0, 2], in training [2]" in text


def test_a_file_changed_after_the_export_is_named(exported: dict[str, Any], run_folder: Path) -> None:
    config = Path(exported["export_folder"]) / "config.json"
    before = config.read_text()
    config.write_text(before.replace("8192", "8193"))
    try:
        with pytest.raises(GateError, match=r"config\.json is not what the export wrote"):
            run_check(run_folder, exported["export_folder"])
    finally:
        config.write_text(before)


def test_an_export_never_overwrites(exported: dict[str, Any], run_folder: Path) -> None:
    with pytest.raises(FolderError, match="not empty"):
        run_export(run_folder)


@pytest.mark.parametrize("wrong", [{"to": "tflite"}, {"dtype": "float8"}, {"to": "gguf", "quantize": "q9_9"}])
def test_an_unknown_format_or_dtype_is_refused_at_once(run_folder: Path, tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match="is not known"):
        run_export(run_folder, out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_chat_streams_answers_and_shows_the_base_beside(run_folder: Path) -> None:
    lines = "I lost my card\n/base\n/nonsense\n/quit\n"
    command = [sys.executable, "-m", "danlu", "chat", str(run_folder), "--max-new-tokens", "8"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.count("tuned> ") == 1
    assert done.stdout.count("base> ") == 1
    assert "no command /nonsense" in done.stdout
