"""Run folders that were not trained but are whole: a random LoRA on a base, and the probes that it answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from danlu.adapters.lora import save_adapter
from danlu.data.template import stop_ids
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.models.loading import generation_defaults, load_base
from danlu.models.tokenizer import load_tokenizer
from danlu.recipe import dump_recipe
from danlu.recipe.schema import Recipe
from danlu.runs import write_manifest
from danlu.training.probes import expect, write_probes
from danlu.training.trained import base_hash, open_run

QUESTIONS = ["Hi", "What is the capital of France?", "你好", "Name three colours, and say why."]
NUM_TOKENS = 12


def write_run(folder: Path, base: Path, seed: int, rank: int = 4) -> Path:
    """A run folder on a base.

    Args:
        folder: to make.
        base: a model folder.
        seed: another gives other answers.
        rank: of the adapter.
    """
    folder.mkdir(parents=True)
    model = load_base(base, torch.float32)
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(r=rank, target_modules=["q_proj", "v_proj", "down_proj"])).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(tuned, folder / "adapter", str(base))
    tokenizer = load_tokenizer(base)
    stops = stop_ids(tokenizer, generation_defaults(base))
    conversations = [[{"role": "user", "content": question}] for question in QUESTIONS]
    expected = expect(TransformersEngine(tuned, tokenizer, stops), conversations, NUM_TOKENS)
    write_probes(folder / "probes", tokenizer, stops, conversations, NUM_TOKENS, {"float32": expected})
    values = {
        "model": {"name": str(base), "dtype": "float32"},
        "data": {"train": ["rows.jsonl"]},
        "adapter": {"type": "lora", "rank": rank},
        "training": {},
    }
    (folder / "recipe.resolved.yaml").write_text(dump_recipe(Recipe.model_validate(values, strict=False)))
    (folder / "ledger.json").write_text('{"rows": {}, "masked": {}, "reasons": []}')
    write_manifest(folder, "run", {"result": {"steps": 1}, "base_sha256": base_hash(base)})
    return folder


def broken_run(run: Path, folder: Path, how: str) -> Path:
    """A copy of a run with a fault.

    Args:
        run: a whole one.
        folder: to copy it into.
        how: `nan`, `shape`, `other` values than those that answered the probes, another `base`: with a manifest that
            agrees; `hash`: with the manifest of before.
    """
    copy = Path(shutil.copytree(run, folder / f"{run.name}-{how}"))
    path = copy / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    if how == "nan":
        tensors[name][0, 0] = float("nan")
    if how == "shape":
        tensors[name] = torch.zeros(7, tensors[name].shape[1])
    if how in ("other", "hash"):
        tensors[name] = tensors[name] + 0.2
    save_file(tensors, path)
    about = json.loads((copy / "manifest.json").read_text())
    if how != "hash":
        sha256 = "0" * 64 if how == "base" else about["base_sha256"]
        write_manifest(copy, "run", {"result": {"steps": 1}, "base_sha256": sha256})
    return copy


def expected_answers(run: Path, question: str, length: int = NUM_TOKENS) -> tuple[str, str]:
    """What the run's model and its base say as `danlu chat` does: greedily, in float32."""
    engine = open_run(run).engine(torch.float32)
    conversation = [[{"role": "user", "content": question}]]
    tuned, base = (engine.generate(conversation, Sampling(length), tuned=tuned)[0].text for tuned in (True, False))
    return tuned, base
