"""QLoRA from rows to a proven export: what was trained is the quantised base with its adapter, and so is all after."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from danlu.engines.interface import Sampling
from danlu.errors import GateError, ModelError, RecipeError
from danlu.evaluation.run import run_evaluation
from danlu.export.run import run_export
from danlu.models.quantization import quantized_layers
from danlu.recipe import load_recipe
from danlu.recipe.load import LoadedRecipe
from danlu.serving.terminal import run_chat
from danlu.training import assembly
from danlu.training.probes import read_probes
from danlu.training.run import run_training
from danlu.training.trained import open_run

pytest.importorskip("bitsandbytes")

ROOT = Path(__file__).parents[2]
KINDS = {"nf4": "{type: nf4, double: true}", "fp4": "{type: fp4, double: false}", "int8": "{type: int8}"}


def recipe(base: Path, folder: Path, *overrides: str) -> LoadedRecipe:
    short = [
        f"model.name={base}",
        f"run.folder={folder}",
        "data.evaluation={rows: 16}",
        "training={learning_rate: 1.0e-2, max_steps: 5, global_batch_size: 4, evaluation_max_rows: 2}",
        "evaluation={max_new_tokens: 12, tasks: [{type: loss}]}",
        "adapter={type: lora, rank: 8}",
    ]
    return load_recipe(ROOT / "recipes" / "smollm2_135m_lora.yaml", [*short, *overrides])


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qlora") / "run"
    result = run_training(recipe(tiny_base, folder, f"model.quantization={KINDS[request.param]}"), quiet=True)
    assert result["steps"] == 5
    return Path(result["run_folder"])


def test_the_export_is_plain_and_says_what_was_trained(trained: Path, tmp_path: Path) -> None:
    parity = run_export(trained, out=tmp_path / "merged")["parity"]
    assert parity["passed"]
    assert parity["max_logit_difference"] <= 1e-3
    assert (parity["argmax_agreement"], parity["greedy_equal"]) == (1.0, parity["prompts"])
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    assert (
        type(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").model.layers[0].mlp.up_proj) is torch.nn.Linear
    )


def test_merged_with_the_base_as_it_was_before_it_is_another_model(trained: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained, tmp_path / "run")
    resolved = other / "recipe.resolved.yaml"
    values = load_recipe(resolved).recipe.model_dump(mode="json")
    resolved.write_text(json.dumps({**values, "model": {**values["model"], "quantization": None}}))
    with pytest.raises(GateError, match="logits: differ"):
        run_export(other, out=tmp_path / "merged")


def test_probes_evaluation_and_chat_are_of_the_quantised_base(trained: Path) -> None:
    run = open_run(trained)
    engine = run.engine(torch.float32)
    assert len(list(quantized_layers(engine.model))) == 14
    for probe in read_probes(trained).probes[:4]:
        wanted = probe.expected["float32"]
        found = engine.logits(probe.prompt_ids, wanted.answer_ids).gather(-1, wanted.token_ids.long())
        assert torch.allclose(found, wanted.logits, atol=1e-4)
    metrics = run_evaluation(trained, quiet=True)["metrics"]
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"]
    out = StringIO()
    assert run_chat(trained, Sampling(4), StringIO("I lost my card\n/base\n/quit\n"), out) == {"turns": 1}
    assert "base> " in out.getvalue()


def test_the_run_says_what_its_base_was(trained: Path) -> None:
    assert json.loads((trained / "environment.json").read_text())["packages"]["bitsandbytes"]
    kind = load_recipe(trained / "recipe.resolved.yaml").recipe.model.quantization
    assert kind is not None
    assert kind.type in KINDS


def test_a_float32_base_that_trained_in_bfloat16_exports_what_it_was_rounded_to(
    tiny_base: Path, tmp_path: Path
) -> None:
    wide = shutil.copytree(tiny_base, tmp_path / "wide")
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 2**-10)  # not to be told apart in bfloat16
    model.save_pretrained(wide)
    run_training(recipe(wide, tmp_path / "run", "model.dtype=bfloat16"), quiet=True)
    assert run_export(tmp_path / "run")["parity"]["max_logit_difference"] <= 1e-3


@pytest.mark.parametrize(
    ("fault", "error"), [("gptq", ModelError), ("nothing installed", RecipeError), ("float16", RecipeError)]
)
def test_what_can_not_be_is_said_before_any_weight_is_loaded(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(assembly, "load_base", lambda *_, **__: pytest.fail("weights were loaded"))
    base, more = tiny_base, "model.quantization={type: nf4}"
    if fault == "gptq":
        base = shutil.copytree(tiny_base, tmp_path / "gptq")
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    elif fault == "nothing installed":
        monkeypatch.setattr("danlu.models.quantization.find_spec", lambda _: None)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
        more = "model.dtype=float16"
    with pytest.raises(error, match="hint:"):
        run_training(recipe(base, tmp_path / "run", more), quiet=True)
    assert not (tmp_path / "run").exists()
