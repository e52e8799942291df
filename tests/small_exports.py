"""A small trained run with its merged folder, and runs as if it had been trained otherwise."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from danlu.export.merge import write_merged
from danlu.recipe import load_recipe
from danlu.training.probes import Probes, read_probes
from danlu.training.run import run_training
from danlu.training.trained import TrainedRun, open_run

ROOT = Path(__file__).parents[1]
SHARD_BYTES = 300_000  # embeddings and head have a file each, the layers some


def write_base(tiny_base: Path, folder: Path, tied: bool) -> Path:
    """A Llama of two layers in float32, whose norms are no round numbers."""
    shutil.copytree(tiny_base, folder)
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_base, tie_word_embeddings=tied)
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def train(base: Path, folder: Path) -> TrainedRun:
    short = [
        f"model={{name: {base}, dtype: float32}}",
        f"run.folder={folder}",
        "data.evaluation={rows: 24}",
        "training={learning_rate: 1.0e-2, max_steps: 5, global_batch_size: 4, evaluation_max_rows: 2}",
        "evaluation={max_new_tokens: 8, tasks: [{type: loss}]}",
        "adapter={type: lora, rank: 4}",
    ]
    run_training(load_recipe(ROOT / "recipes" / "smollm2_135m_lora.yaml", short), quiet=True)
    return open_run(folder)


@dataclass(frozen=True)
class Trained:
    """A run, its base, and its merged folder."""

    run: TrainedRun
    base: Path
    merged: Path

    @property
    def probes(self) -> Probes:
        """The first six: fewer find less, in a third of the time."""
        probes = read_probes(self.run.folder)
        return replace(probes, probes=probes.probes[:6])

    def other(self, folder: Path, base: Path | None = None, **adapter: Any) -> TrainedRun:
        """The same run as if it had been trained on another base, or with another adapter."""
        copy = shutil.copytree(self.run.folder, folder / "run", ignore=shutil.ignore_patterns("exports"))
        config = json.loads((copy / "adapter" / "adapter_config.json").read_text())
        (copy / "adapter" / "adapter_config.json").write_text(json.dumps(config | adapter))
        if base:
            text = (copy / "recipe.resolved.yaml").read_text()
            (copy / "recipe.resolved.yaml").write_text(text.replace(str(self.base), str(base)))
        return replace(open_run(copy), about={})


def make_trained(tiny_base: Path, folder: Path, tied: bool) -> Trained:
    base = write_base(tiny_base, folder / "base", tied)
    run = train(base, folder / "run")
    (folder / "merged").mkdir()
    write_merged(run, folder / "merged", "float32", SHARD_BYTES)
    return Trained(run, base, folder / "merged")
