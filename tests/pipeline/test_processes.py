"""Several processes compute what one computes, whoever keeps the state; and go on from each other's checkpoints."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from kernels_there import THERE
from sequence_models import write_model
from small_runs import TRAIN, assert_same, numbers_of, train, write_recipe
from soak import some_of

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
        assert ", fused layers" in train(recipe, folder, *WHAT[what])["stderr"] or not THERE
    return folders


def pairs(*named: str, left_to_soak: Sequence[str]) -> pytest.MarkDecorator:
    """Cases `backend what`; those of DeepSpeed where it is installed."""
    named = tuple(some_of(named, *left_to_soak))
    absent = importlib.util.find_spec("deepspeed") is None and "DANLU_REQUIRE_PROGRAMS" not in os.environ
    skip = pytest.mark.skipif(absent, reason="DeepSpeed is not installed")
    return pytest.mark.parametrize(
        ("backend", "what"),
        [pytest.param(*name.split(), marks=skip if "zero" in name else (), id=name) for name in named],
    )


@pairs(
    *("ddp full", "fsdp2 lora", "fsdp2 full", "zero2 lora", "zero3 lora", "zero3 full", "zero3-offload full"),
    left_to_soak=["fsdp2 full", "zero3 lora"],  # killed runs of these are held against the same run below
)
def test_two_processes_end_where_one_does(
    backend: str, what: str, alone: dict[str, Path], recipe: Path, tmp_path: Path
) -> None:
    result = train(recipe, tmp_path / "run", *WHAT[what], "--nproc", "2", f"training.backend={BACKENDS[backend]}")
    assert "2 processes" in result["stderr"]
    assert "Warning" not in result["stderr"]
    whole_head = what == "lora" and backend in ("ddp", "zero2")  # neither trained nor in shards
    assert (", chunked loss" if whole_head and THERE else ", plain loss") in result["stderr"]
    assert_same(tmp_path / "run", alone[what])
    assert (tmp_path / "run" / "manifest.json").is_file()


def test_shards_of_an_encoder_decoder_model_train_as_one_process_does(recipe: Path, tmp_path: Path) -> None:
    words = [f"model.name={write_model(tmp_path / 'base', 't5')}", *WHAT["lora"]]
    train(recipe, tmp_path / "alone", *words)
    result = train(recipe, tmp_path / "run", *words, "--nproc", "2", f"training.backend={BACKENDS['fsdp2']}")
    assert "padded rows" in result["stderr"]
    assert_same(tmp_path / "run", tmp_path / "alone")


def killed(recipe: Path, folder: Path, *words: str, by: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
    """Starts a run and ends it, and its children, once it has written its second checkpoint; status and stderr."""
    command = [*TRAIN, str(recipe), f"run.folder={folder}", "training.checkpoints={every_steps: 1}", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "step-000002").is_dir():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, by)
    stderr = process.communicate(timeout=120)[1]
    assert not (folder / "manifest.json").exists()
    return process.returncode, stderr


@pairs(
    *("ddp lora", "fsdp2 full", "zero2 full", "zero3 lora", "zero3-offload full"),
    left_to_soak=["ddp lora", "zero2 full", "zero3-offload full"],
)
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


def test_ctrl_c_in_a_terminal_reaches_all_processes_and_still_lets_the_step_finish(
    alone: dict[str, Path], recipe: Path, tmp_path: Path
) -> None:
    words = [*WHAT["lora"], "--nproc", "2"]
    status, stderr = killed(recipe, tmp_path / "run", *words, by=signal.SIGINT)
    assert status == 130
    assert stderr.count("what was trained so far is saved") == 1, stderr
    assert "Traceback" not in stderr
    assert "goes on after step" in train(recipe, tmp_path / "run", *words, "--resume")["stderr"]
    assert_same(tmp_path / "run", alone["lora"])


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
        (
            ["data.streaming=true", "data.evaluation=null", "--nproc", "2"],
            "streamed rows are read by one process, and there are 2",
        ),
        (["data.evaluation={rows: 400}", "--nproc", "2"], "400 of 40 rows can't be held out"),
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


def test_an_error_of_one_process_ends_the_others_and_is_told_once(tmp_path: Path) -> None:
    script = """
import sys, time
from danlu.errors import DataError, Fault
from danlu.training.processes import joined
with joined() as processes:
    if processes.rank == 1:
        raise DataError(Fault("the row is no row", "rows.jsonl:7", hint="look at it"))
    time.sleep(60)
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "3"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    said = [process.communicate(timeout=50)[1] for process in processes]
    assert "process 1 ended by an error: " in said[0]
    assert said[0].count("the row is no row") == 1
    assert "the row is no row" not in said[2]
    assert [process.returncode for process in (processes[0], processes[2])] == [2, 2]
