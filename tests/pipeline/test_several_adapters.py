"""Several adapters in one run are what each would be in a run of its own, over one base that stays as it was loaded."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from danlu.errors import InputError, RecipeError, WorkError
from danlu.evaluation.run import run_evaluation
from danlu.recipe import LoadedRecipe, load_recipe
from danlu.training import assembly, shared_base
from danlu.training.run import run_training
from danlu.training.several import run_several
from danlu.training.shared_base import SharedBase

TRAIN = [sys.executable, "-m", "danlu", "train"]
CHECKPOINTS = "training.checkpoints={every_steps: 1}"
OWN: dict[str, dict[str, Any]] = {
    "upper": {
        "adapter.rank": 4,
        "adapter.layers_to_transform": [1],
        "adapter.bias": "all",
        "training.activation_checkpointing": 0.5,
        "training.base_dropout": {"hidden": 0.1},
    },
    "dora": {
        "adapter": {"type": "lora", "rank": 8, "use_dora": True, "dropout": 0.2},
        "training.learning_rate": 1e-2,
        "training.neftune_noise_alpha": 5,
    },
    "other": {"adapter.rank": 2, "adapter.modules_to_save": ["lm_head"], "training.max_steps": 3, "run.seed": 3},
    "frozen": {"adapter": {"type": "lora", "layers_to_transform": [1], "init_lora_weights": "pissa"}},
    "factors": {"adapter": {"type": "ia3"}, "training.loraplus_lr_ratio": None},
}


def write_rows(path: Path, count: int) -> str:
    rows = [
        {"question": f"What is {n} and {n % 7}?", "answer": f"It is {n + n % 7}." * (1 + n % 5)} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def biased_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with biases in its attention, and a head of its own."""
    folder = tmp_path_factory.mktemp("biased_base")
    for path in tiny_base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_base, attention_bias=True, tie_word_embeddings=False)
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(biased_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    recipe = {
        "model": {"name": str(biased_base), "dtype": "bfloat16"},
        "data": {"train": [write_rows(folder / "rows.jsonl", 40)], "evaluation": {"rows": 8}},
        "adapter": {"type": "lora"},
        "training": {"learning_rate": 5e-3, "num_epochs": 2, "max_steps": 6, "global_batch_size": 8},
        "evaluation": {"max_new_tokens": 4, "tasks": [{"type": "loss"}]},
        "adapters": {**OWN, "other": {**OWN["other"], "data.train": [write_rows(folder / "other.jsonl", 24)]}},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


@pytest.fixture
def fewer(recipe: Path, tmp_path: Path) -> Path:
    """The recipe with three adapters."""
    values = json.loads(recipe.read_text())
    path = tmp_path / "fewer.yaml"
    path.write_text(json.dumps({**values, "adapters": {name: {"adapter.rank": n} for n, name in enumerate("abc", 2)}}))
    return path


def alone(own: LoadedRecipe, folder: Path) -> Path:
    """One of the adapters in a run of its own, over a base of its own."""
    run = own.recipe.run.model_copy(update={"folder": str(folder)})
    run_training(replace(own, recipe=own.recipe.model_copy(update={"run": run})), quiet=True)
    return folder


def all_of(folder: Path) -> dict[str, Any]:
    """Every number of a run: metrics (without seconds), adapter, probes."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tensors = {
        **load_file(folder / "adapter" / "adapter_model.safetensors"),
        **load_file(folder / "probes" / "logits.safetensors"),
    }
    return {
        "metrics": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        "config": json.loads((folder / "adapter" / "adapter_config.json").read_text()),
        "probes": (folder / "probes" / "probes.json").read_text(),
        "tensors": {name: hash_of(tensor) for name, tensor in tensors.items()},
    }


def hash_of(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def state_of(model: Any) -> dict[str, Any]:
    """All that a run could have changed in a base."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state: dict[str, Any] = {
        name: (hash_of(tensor.reshape(-1)), tensor.dtype, tensor.requires_grad, tensor.grad)
        for name, tensor in tensors.items()
    }
    for name, module in model.named_modules():
        hooks = [len(hooks) for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)]
        flags = [vars(module).get(key) for key in ("gradient_checkpointing", "p", "compute_dtype")]
        state[f"module {name}"] = (type(module), module.training, hooks, [flag for flag in flags if flag])
        quantized = getattr(vars(module).get("_parameters", {}).get("weight"), "quant_state", None)
        if quantized is not None:
            state[f"quantised {name}"] = (hash_of(quantized.absmax), quantized.dtype, quantized.blocksize)
    generation = model.generation_config.to_dict()
    return {**state, "config": model.config.to_dict(), "generation": generation, "attributes": sorted(vars(model))}


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The state of each base that is lent, and of the last one when it came back."""
    states: list[dict[str, Any]] = []
    load, give_back = SharedBase.load, SharedBase.give_back

    def noting_load(self: SharedBase, *positional: Any, **named: Any) -> Any:
        model = load(self, *positional, **named)
        states.append(state_of(model))
        return model

    def noting_give_back(self: SharedBase, tuned: Any) -> None:
        give_back(self, tuned)
        states.append(state_of(self._model))

    monkeypatch.setattr(SharedBase, "load", noting_load)
    monkeypatch.setattr(SharedBase, "give_back", noting_give_back)
    return states


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each time that weights are loaded."""
    found: list[Any] = []

    def load_base(*positional: Any, **named: Any) -> Any:
        found.append(named)
        return real(*positional, **named)

    real = shared_base.load_base
    monkeypatch.setattr(shared_base, "load_base", load_base)
    monkeypatch.setattr(assembly, "load_base", load_base)
    return found


PLAIN = "adapters.frozen={adapter.layers_to_transform: [1]}"  # PiSSA is not for bases in fewer bits
BASES = {
    "bfloat16": ["model.dtype=bfloat16"],
    "float32": ["model.dtype=float32"],
    "nf4": ["model.quantization={type: nf4}", PLAIN],
    "int8": ["model.quantization={type: int8}", PLAIN],
}


@pytest.mark.parametrize("kind", BASES)
def test_several_adapters_in_one_run_have_the_bits_of_as_many_runs(
    kind: str, recipe: Path, tmp_path: Path, lent: list[dict[str, Any]], loads: list[Any]
) -> None:
    if "quantization" in BASES[kind][0]:
        pytest.importorskip("bitsandbytes")
    loaded = load_recipe(recipe, [f"run.folder={tmp_path / 'several'}", *BASES[kind]])
    result = run_several(loaded, quiet=True)
    assert [(one["name"], one["run_folder"]) for one in result["adapters"]] == [
        (name, str(tmp_path / "several" / name)) for name in OWN
    ]
    assert len(loads) == 1
    first, *others = lent
    assert len(others) == 2 * len(OWN) - 1
    for state in others:
        assert state.keys() == first.keys()
        assert not {key: (value, first[key]) for key, value in state.items() if value != first[key]}
    for name, own in loaded.adapters.items():
        assert all_of(own.run_folder) == all_of(alone(own, tmp_path / name)), name
    assert len(loads) == 1 + len(OWN)
