"""Run folders of a few kilobytes that a registry takes, and a log of what several writers did to one."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from danlu.errors import RegistryError
from danlu.recipe import dump_recipe
from danlu.recipe.schema import Recipe
from danlu.registry import Registry
from danlu.runs import write_json, write_manifest

BASE_SHA256 = "ab" * 32
_VALUES = {"model": {"name": "tiny"}, "data": {"train": ["rows.jsonl"]}, "adapter": {"type": "lora", "rank": 4}}
RECIPE = dump_recipe(Recipe.model_validate(_VALUES | {"training": {}}, strict=False))


def write_run(folder: Path, seed: int = 0, numbers: int = 32) -> Path:
    """A run folder with a small LoRA, one probe, and the manifest that makes it complete."""
    draw = torch.Generator().manual_seed(seed)
    (folder / "adapter").mkdir(parents=True)
    (folder / "probes").mkdir()
    layer = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    weights = {f"{layer}A.weight": torch.randn(4, numbers, generator=draw), f"{layer}B.weight": torch.randn(numbers, 4)}
    save_file(weights, folder / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "rank_pattern": {"v_proj": 6}, "target_modules": ["q_proj"]}
    write_json(folder / "adapter" / "adapter_config.json", config)
    probe = {"messages": [], "text": "a", "prompt_ids": [1], "answers": {"float32": {"ids": [2], "text": "b"}}}
    write_json(folder / "probes" / "probes.json", {"stop_ids": [2], "max_new_tokens": 4, "probes": [probe]})
    tensors = {"float32.00.token_ids": torch.tensor([[2]]), "float32.00.logits": torch.tensor([[1.0]])}
    save_file(tensors, folder / "probes" / "logits.safetensors")
    (folder / "recipe.resolved.yaml").write_text(RECIPE)
    reasons = [{"outcome": "dropped", "step": "length", "count": 2, "examples": [{"before": "a row's text"}]}]
    write_json(folder / "ledger.json", {"rows": {"read": 8, "kept": 6, "dropped": 2}, "masked": {}, "reasons": reasons})
    write_manifest(folder, "run", {"result": {"steps": 6, "train_loss": 0.5}, "base_sha256": BASE_SHA256})
    return folder


def write(url: str, writer: int, operations: int, folder: Path) -> None:
    """Does things to a registry that others change too, and keeps a line of JSON for each event that it made.

    Args:
        url: of the registry.
        writer: seed, and part of what is added.
        operations: how many; those that are refused, as they don't fit the state by then, are among them.
        folder: for the run folders and `writer-N.jsonl`.
    """
    registry, dice = Registry.open(url), random.Random(writer)
    with (folder / f"writer-{writer}.jsonl").open("w") as lines:
        for operation in range(operations):
            name, alias = dice.choice(["support", "law"]), dice.choice(["production", "candidate"])
            try:
                done = _operate(registry, dice, name, alias, folder / f"run-{writer}-{operation}")
            except RegistryError as error:
                done = {"refused": error.faults[0].what}
            lines.write(json.dumps(done) + "\n")


def _operate(registry: Registry, dice: random.Random, name: str, alias: str, run: Path) -> dict[str, Any]:
    chance, numbers = dice.random(), [version.number for version in registry.state().versions(name)]
    if chance < 0.4 or not numbers:
        seed = int(run.name.replace("run", "").replace("-", "1"))
        result = registry.add(write_run(run, seed, 8), name, alias if chance < 0.1 else None)
        return {"event": result["event"], "added": result["reference"], "files": result["version"]["hash"]}
    if chance < 0.65:
        result = registry.promote(f"{name}@{dice.choice(numbers)}", alias)
        return {"event": result["event"], "named": [result["reference"], alias]}
    if chance < 0.8:
        result = registry.rollback(name, alias)
        return {"event": result["event"], "named": [result["reference"], alias]}
    result = registry.remove(f"{name}@{dice.choice(numbers)}")
    return {"event": result["event"], "removed": result["removed"]}


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
