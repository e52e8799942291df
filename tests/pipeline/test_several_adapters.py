"""Several adapters in one run are what each would be in a run of its own, over one base that stays as it was loaded."""

from __future__ import annotations

import gc
import hashlib
import json
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from soak import some_of
from transformers import LlamaConfig, LlamaForCausalLM

from danlu.errors import DataError, FolderError, InputError, RecipeError
from danlu.evaluation.run import run_evaluation
from danlu.export.run import run_export
from danlu.recipe import LoadedRecipe, load_recipe
from danlu.training import session, shared_base
from danlu.training.run import run_training
from danlu.training.several import run_several
from danlu.training.shared_base import SharedBase

TRAIN = [sys.executable, "-m", "danlu", "train", "--no-preflight"]
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
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    return {
        "metrics": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        "config": {**config, "target_modules": sorted(config["target_modules"])},  # PEFT's is a set
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
    own = {name for name in vars(model) if name not in ("_require_grads_hooks", "_gradient_checkpointing_func")}
    return {**state, "config": model.config.to_dict(), "generation": generation, "attributes": own}


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
    monkeypatch.setattr(session, "load_base", load_base)
    return found


# PiSSA is not for bases in fewer bits, and PEFT's (IA)³ not for those with bfloat16 besides.
PLAIN = ["adapters.frozen={adapter.layers_to_transform: [1]}", "adapters.factors={adapter: {type: vera, rank: 8}}"]
BASES = {
    "bfloat16": ["model.dtype=bfloat16"],
    "float32": ["model.dtype=float32"],
    "nf4": ["model.quantization={type: nf4}", *PLAIN],
    "int8": ["model.quantization={type: int8}", *PLAIN],
}


@pytest.mark.parametrize("kind", some_of(BASES, "float32", "int8"))
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


def test_a_base_that_must_be_loaded_in_another_way_is_loaded_anew(
    fewer: Path, tiny_base: Path, tmp_path: Path, loads: list[Any]
) -> None:
    words = [f"model.name={tiny_base}", "adapters.b.adapter.modules_to_save=[lm_head]"]  # its head is its embeddings
    words += [f"adapters.{name}.training.base_dropout={{attention: 0.1}}" for name in "bc"]
    loaded = load_recipe(fewer, [f"run.folder={tmp_path / 'several'}", *words])
    run_several(loaded, quiet=True)
    assert [named["config_fields"] for named in loads] == [{}, {"attention_dropout": 0.1}]
    assert all_of(tmp_path / "several" / "c") == all_of(alone(loaded.adapters["c"], tmp_path / "c"))


def test_nothing_of_an_adapter_is_left_once_the_next_one_has_the_base(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, give_back = SharedBase.load, SharedBase.give_back
    gone: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def noting_load(self: SharedBase, *positional: Any, **named: Any) -> Any:
        model = load(self, *positional, **named)
        alive.append(sum(one() is not None for one in gone))
        return model

    def noting_give_back(self: SharedBase, tuned: Any) -> None:
        gone.extend(weakref.ref(one) for name, one in tuned.named_modules() if "lora_" in name)
        give_back(self, tuned)

    monkeypatch.setattr(SharedBase, "load", noting_load)
    monkeypatch.setattr(SharedBase, "give_back", noting_give_back)
    gc.disable()  # what is let go here is let go on purpose
    try:
        run_several(load_recipe(recipe, [f"run.folder={tmp_path / 'several'}"]), quiet=True)
    finally:
        gc.enable()
    assert len(gone) > 40
    assert alive == [0] * len(OWN)


def test_each_run_folder_is_as_any_other(fewer: Path, tmp_path: Path) -> None:
    run_several(load_recipe(fewer, [f"run.folder={tmp_path / 'several'}"]), quiet=True)
    metrics = run_evaluation(tmp_path / "several" / "b", quiet=True)["metrics"]
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"]
    assert run_export(tmp_path / "several" / "b")["parity"]["passed"]


def test_an_adapter_is_trained_by_the_recipe_with_its_own_values_written_over_it(recipe: Path, tmp_path: Path) -> None:
    values = json.loads(recipe.read_text())
    own = values.pop("adapters")["other"]
    single = tmp_path / "single.yaml"
    single.write_text(json.dumps(values))
    words = [*(f"{key}={json.dumps(value)}" for key, value in own.items()), f"run.folder={tmp_path / 'all' / 'other'}"]
    several = load_recipe(recipe, [f"run.folder={tmp_path / 'all'}", "adapters.dora.adapter.rank=6"])
    assert several.adapters["other"].recipe == load_recipe(single, words).recipe
    assert several.adapters["dora"].recipe.adapter.rank == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adapters.a.model.dtype=float32"], ["`model.dtype` can't be an adapter's own", "adapters.a.model.dtype"]),
        (["adapters.a.run.folder=x"], ["`run.folder` can't be an adapter's own"]),
        (["adapters.a.trainin.x=1"], ["`trainin.x` can't be an adapter's own", "check the key"]),
        (["adapters.a.adapter=null"], ["`a` would train the base itself", "command line, adapters.a.adapter=null"]),
        (["adapters.a.training.backend={type: fsdp2}"], ["fsdp2 shards the base in place"]),
        (["training.backend={type: deepspeed}"], ["deepspeed shards the base in place, and `c` shares it"]),
        (["adapters.a.adapter.rank=0", "adapters.b.training.max_stepz=1"], ["`adapter.rank` is 0", "`max_steps`?"]),
        (["adapters.A={}"], ["`adapters.A` is {}: should match pattern"]),
        (["adapters={}"], ["`adapters` is {}: should have at least 1 item"]),
    ],
)
def test_what_no_adapter_can_have_is_said_with_its_name(fewer: Path, words: list[str], said: list[str]) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe(fewer, words)
    assert all(part in str(raised.value) for part in said), str(raised.value)


def test_a_wrong_value_in_the_file_is_shown_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {name: m}\ndata: {train: [r.jsonl]}\nadapter: {type: lora}\ntraining: {learning_rate: 1.0e-3}\n"
        "adapters:\n  small:\n    adapter.rank: 0\n    training: {learning_rate: x}\n"
    )
    with pytest.raises(RecipeError) as raised:
        load_recipe(path)
    assert [fault.where for fault in raised.value.faults] == [
        f"{path}:7, adapters.small.adapter.rank",
        f"{path}:8, adapters.small.training",
    ]


def test_all_that_does_not_fit_the_model_or_the_rows_is_said_before_a_weight_is_loaded(
    fewer: Path, tmp_path: Path, loads: list[Any]
) -> None:
    words = ["adapters.a.adapter.rank=600", "adapters.b.adapter.layers_to_transform=[7]", "adapters.c.data.train=[no]"]
    with pytest.raises(InputError) as raised:
        run_several(load_recipe(fewer, [f"run.folder={tmp_path / 'several'}", *words]), quiet=True)
    assert [fault.where.split(";")[0] for fault in raised.value.faults] == [
        "adapters.a: adapter.rank",
        "adapters.b: adapter.layers_to_transform",
        "adapters.c: no",
    ]
    with pytest.raises(InputError) as raised:
        run_several(load_recipe(fewer, [f"run.folder={tmp_path / 'several'}", "adapter.target_modules=[no]"]), True)
    assert [fault.where for fault in raised.value.faults] == ["adapter.target_modules"], "said once, if all have it"
    assert not loads
    assert not (tmp_path / "several").exists()


def test_a_run_for_one_adapter_refuses_several(fewer: Path) -> None:
    with pytest.raises(RecipeError, match="several adapters"):
        run_training(load_recipe(fewer), quiet=True)


def train(recipe: Path, folder: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [*TRAIN, str(recipe), f"run.folder={folder}", *words, "--json"], capture_output=True, text=True, timeout=300
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "status": done.returncode, "stderr": done.stderr}


LONG = [CHECKPOINTS, "training.max_steps=12", "training.num_epochs=4"]


def ended(recipe: Path, folder: Path, number: int) -> subprocess.CompletedProcess[str]:
    """A run that is sent a signal once its second adapter has a checkpoint."""
    command = [*TRAIN, str(recipe), f"run.folder={folder}", *LONG, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (folder / "b" / "checkpoints" / "step-000001").is_dir():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    return subprocess.CompletedProcess(command, process.wait(240), *process.communicate())


def test_a_stopped_run_says_which_adapters_are_left(fewer: Path, tmp_path: Path) -> None:
    done = ended(fewer, tmp_path / "several", signal.SIGINT)
    assert done.returncode == 130, done.stderr
    assert "1 of 3 adapters are left: c" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["error"] == "Stopped"
    assert (tmp_path / "several" / "b" / "adapter").is_dir()
    assert not (tmp_path / "several" / "c").exists()


def test_a_killed_run_leaves_out_what_is_complete_and_goes_on(fewer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    ended(fewer, folder, signal.SIGKILL)
    complete = (folder / "a" / "manifest.json").stat().st_mtime_ns
    assert not (folder / "b" / "manifest.json").exists()
    again = [f"run.folder={folder}", *LONG]
    with pytest.raises(RecipeError, match="the run was begun with 2"):
        run_several(load_recipe(fewer, [*again, "adapters.a.adapter.rank=9"]), quiet=True, resume=True)
    with pytest.raises(FolderError, match="not empty"):
        run_several(load_recipe(fewer, again), quiet=True)
    result = train(fewer, folder, *LONG, "--resume")
    assert result["status"] == 0, result["stderr"]
    assert [(one["name"], one["skipped"]) for one in result["adapters"]] == [("a", True), ("b", False), ("c", False)]
    assert "goes on after step" in result["stderr"]
    assert (folder / "a" / "manifest.json").stat().st_mtime_ns == complete
    own = load_recipe(fewer, again).adapters["b"]
    assert all_of(folder / "b") == all_of(alone(own, tmp_path / "b"))


def test_two_processes_train_them_as_one_does(fewer: Path, tmp_path: Path) -> None:
    words = ["model.dtype=float32", "training.max_steps=3"]
    assert train(fewer, tmp_path / "two", *words, "--nproc", "2")["status"] == 0
    assert train(fewer, tmp_path / "one", *words)["status"] == 0
    for name in "abc":
        found, wanted = (
            load_file(tmp_path / one / name / "adapter/adapter_model.safetensors") for one in ("two", "one")
        )
        for key, tensor in wanted.items():
            # Adam divides by the gradient's size: what is rounding in a small gradient is more of a step of 5e-3.
            torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=2e-4)


def test_a_run_that_fails_says_what_is_left(fewer: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 40)
    with (tmp_path / "rows.jsonl").open("a") as stream:
        stream.write('{"question": "cut o')
    own = {"data.train": [str(tmp_path / "rows.jsonl")], "data.streaming": True, "data.evaluation": None}
    words = [f"run.folder={tmp_path / 'several'}", f"adapters.b={json.dumps(own)}"]
    with pytest.raises(DataError) as raised:
        run_several(load_recipe(fewer, words), quiet=True)
    assert "rows.jsonl:41" in raised.value.faults[0].where
    assert raised.value.faults[-1].what == "1 of 3 adapters are left: c"
    assert (tmp_path / "several" / "a" / "manifest.json").is_file()


def test_rows_are_prepared_for_each(recipe: Path, tmp_path: Path) -> None:
    for words, counts in (([], [40, 40, 24, 40, 40]), (["--rows", write_rows(tmp_path / "new.jsonl", 12)], [12] * 5)):
        done = subprocess.run(
            [sys.executable, "-m", "danlu", "data", str(recipe), *words, "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        adapters = json.loads(done.stdout)["adapters"]
        assert [(one["name"], one["rows"]["read"]) for one in adapters] == list(zip(OWN, counts, strict=True))
