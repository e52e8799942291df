"""Several processes compute what one computes, whoever keeps the state; and go on from each other's checkpoints."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from small_runs import TRAIN, assert_same, numbers_of, train, write_recipe

BACKENDS = {
    "ddp": "{type: ddp}",
    "fsdp2": "{type: fsdp2}",
    "zero2": "{type: deepspeed, stage: 2}",
    "zero3": "{type: deepspeed, stage: 3}",
    "zero3-offload": "{type: deepspeed, stage: 3, offload: all}",
}
NF4 = ["model.quantization={type: nf4}"]
PAGED = ["training.optimizer=paged_adamw"]
WHAT = {"lora": ["adapter={type: lora, rank: 4}"], "full": ["adapter=null", "training.freeze={first_layers: 1}"]}


@pytest.fixture(scope="module")
def recipe(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("processes"), tiny_base)


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process makes of it."""
    folders = {what: tmp_path_factory.mktemp("alone") / what for what in WHAT}
    for what, folder in folders.items():
        train(recipe, folder, *WHAT[what])
    return folders


def pairs(*named: str) -> pytest.MarkDecorator:
    """Cases `backend what`; those of DeepSpeed where it is installed."""
    absent = importlib.util.find_spec("deepspeed") is None and "DANLU_REQUIRE_PROGRAMS" not in os.environ
    skip = pytest.mark.skipif(absent, reason="DeepSpeed is not installed")
    return pytest.mark.parametrize(
        ("backend", "what"),
        [pytest.param(*name.split(), marks=skip if "zero" in name else (), id=name) for name in named],
    )


@pairs("ddp full", "fsdp2 lora", "fsdp2 full", "zero2 lora", "zero3 lora", "zero3 full", "zero3-offload full")
def test_two_processes_end_where_one_does(
    backend: str, what: str, alone: dict[str, Path], recipe: Path, tmp_path: Path
) -> None:
    result = train(recipe, tmp_path / "run", *WHAT[what], "--nproc", "2", f"training.backend={BACKENDS[backend]}")
    assert "2 processes" in result["stderr"]
    assert_same(tmp_path / "run", alone[what])
    assert (tmp_path / "run" / "manifest.json").is_file()


def killed(recipe: Path, folder: Path, *words: str) -> None:
    """Starts a run and ends it, and its children, without a warning once it has written its second checkpoint."""
    command = [*TRAIN, str(recipe), f"run.folder={folder}", "training.checkpoints={every_steps: 1}", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "step-000002").is_dir():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "manifest.json").exists()


@pairs("ddp lora", "fsdp2 full", "zero2 full", "zero3 lora")
def test_a_killed_run_goes_on_with_another_number_of_processes(
    backend: str, what: str, alone: dict[str, Path], recipe: Path, tmp_path: Path
) -> None:
    folder, several = tmp_path / "run", ["--nproc", "2", f"training.backend={BACKENDS[backend]}"]
    killed(recipe, folder, *WHAT[what], *several)
    assert "goes on after step" in train(recipe, folder, *WHAT[what], "--resume")["stderr"]
    assert_same(folder, alone[what])
    back = tmp_path / "back"
    killed(recipe, back, *WHAT[what])
    assert "goes on after step" in train(recipe, back, *WHAT[what], *several, "--resume")["stderr"]
    assert_same(back, alone[what])


@pytest.mark.parametrize("what", WHAT)
def test_resuming_gives_the_same_bits_as_never_having_stopped(what: str, recipe: Path, tmp_path: Path) -> None:
    words = [*WHAT[what], "training.num_epochs=2", "training.max_steps=7"]
    if what == "lora":
        words.append("adapter.dropout=0.2")
    train(recipe, tmp_path / "whole", *words)
    killed(recipe, tmp_path / "run", *words)
    train(recipe, tmp_path / "run", *words, "--resume")
    losses, weights = numbers_of(tmp_path / "run")
    wanted_losses, wanted = numbers_of(tmp_path / "whole")
    assert losses == wanted_losses
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.backend={type: fsdp2}"], "fsdp2 shares the work of several processes, and there is one"),
        (["training.backend={type: deepspeed, stage: 3}"], "deepspeed shares the work of several processes"),
        (["training.global_batch_size=1", "--nproc", "2"], "2 processes for 1 rows a step"),
        (["data.streaming=true", "--nproc", "2"], "streamed rows are read by one process, and there are 2"),
        (["training.backend={type: fsdp2}", "--nproc", "2", *NF4], "fsdp2 can't keep weights of nf4 in shards"),
        (["training.backend={type: fsdp2}", "--nproc", "2", *PAGED], "paged_adamw can't keep its moments in shards"),
        (["training.freeze={modules: [nowhere]}", "adapter=null"], "`nowhere` matches no parameter"),
        (["training.freeze={first_layers: 3}", "adapter=null"], "the model has 2 layers, not 3"),
        (["training.freeze={modules: [.]}", "adapter=null"], "all parameters are frozen"),
    ],
)
def test_what_does_not_fit_is_one_message(words: list[str], said: str, recipe: Path, tmp_path: Path) -> None:
    result = train(recipe, tmp_path / "run", *words, check=False)
    assert result["status"] == 2
    assert result["stderr"].count("error: ") == 1
    assert said in result["stderr"]
    assert "hint: " in result["stderr"]
    assert "Traceback" not in result["stderr"]
    assert not (tmp_path / "run").exists()
