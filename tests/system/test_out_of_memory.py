"""Memory that is really not enough: an allocation that fails, a process that the system ends. The step is the same."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import TRAIN, assert_same, assert_same_gradients, write_recipe
from transformers import LlamaConfig, LlamaForCausalLM

LIMITED = [sys.executable, str(Path(__file__).parents[1] / "limited_train.py")]
KEEPS_MOMENTS = "training.checkpoints.every_steps=1"
UNCHECKED = ["train", "--no-preflight"]  # after the two words that `limited_train.py` takes
_CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def recipe(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of twelve long rows on a model whose activations are most of what it needs."""
    folder = tmp_path_factory.mktemp("out_of_memory")
    shutil.copytree(tiny_base, folder / "base")
    config = LlamaConfig.from_pretrained(tiny_base)
    config.update({"hidden_size": 64, "intermediate_size": 1536, "num_hidden_layers": 6})
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "base")
    rows = [{"question": f"{n} " + f"{n * 7} and " * 120, "answer": f"It is {n}."} for n in range(14)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"name": str(folder / "base"), "dtype": "float32"},
        "data": {"train": [str(folder / "rows.jsonl")], "max_sequence_tokens": 1024, "evaluation": {"rows": 2}},
        "adapter": {"type": "lora", "rank": 4},
        "training": {"learning_rate": 1e-3, "global_batch_size": 12, "micro_batch_tokens": 65536, "num_epochs": 2},
        "evaluation": {"max_new_tokens": 2},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


@dataclass(frozen=True)
class Group:
    """A memory cgroup of the test's own, of the first or the second kind; or none, where this machine makes none."""

    folder: Path | None

    def file(self, first: str, second: str) -> Path:
        assert self.folder is not None
        return self.folder / (first if self.folder.is_relative_to(_CGROUPS / "memory") else second)

    def limit(self, num_bytes: int) -> None:
        self.file("memory.limit_in_bytes", "memory.max").write_text(str(num_bytes))

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Runs a program in the group."""

        def join() -> None:
            if self.folder is not None:
                (self.folder / "cgroup.procs").write_text(str(os.getpid()))

        return subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=join)

    def peak(self) -> int:
        """Most bytes that it had at a time; 0 without a group."""
        return int(self.file("memory.max_usage_in_bytes", "memory.peak").read_text()) if self.folder else 0


@contextlib.contextmanager
def group(name: str) -> Iterator[Group]:
    parent = _CGROUPS / "memory" if (_CGROUPS / "memory").is_dir() else _CGROUPS
    folder = parent / f"danlu-test-{os.getpid()}-{name}"
    made = Group(folder)
    try:
        folder.mkdir()
        made.limit(8 << 30)
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        made = Group(None)
    try:
        yield made
    finally:
        if made.folder is not None:
            folder.rmdir()


@dataclass(frozen=True)
class Trained:
    """A run, and the most that it took."""

    folder: Path
    result: dict[str, Any]
    stderr: str
    took_bytes: int
    peak_bytes: int


def limited(recipe: Path, folder: Path, limit: int, *words: str) -> Trained:
    """A run whose steps may grow by so much."""
    growth = folder.with_suffix(".growth")
    command = [*LIMITED, str(limit), str(growth), *UNCHECKED, str(recipe), f"run.folder={folder}", *words, "--json"]
    with group(folder.parent.name) as measured:
        done = measured.run(command)
        peak = measured.peak()
    assert done.returncode == 0, done.stderr
    return Trained(folder, json.loads(done.stdout.splitlines()[-1]), done.stderr, int(growth.read_text()), peak)


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Each step in one micro-batch."""
    return limited(recipe, tmp_path_factory.mktemp("whole") / "run", 0, KEEPS_MOMENTS)


@pytest.fixture(scope="module")
def halved(recipe: Path, whole: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Each step in smaller micro-batches from the start."""
    tokens = json.loads((whole.folder / "metrics.jsonl").read_text().splitlines()[0])["tokens"] // 2
    return limited(recipe, tmp_path_factory.mktemp("halved") / "run", 0, f"training.micro_batch_tokens={tokens}")


def test_a_failed_allocation_is_the_same_step_in_smaller_pieces(
    recipe: Path, whole: Trained, halved: Trained, tmp_path: Path
) -> None:
    assert whole.took_bytes > halved.took_bytes + (96 << 20), "or this shows nothing"
    found = limited(recipe, tmp_path / "run", (whole.took_bytes + halved.took_bytes) // 2, KEEPS_MOMENTS)
    tokens = found.result["guards"]["micro_batch_tokens"]
    assert tokens == halved.result["guards"]["micro_batch_tokens"]
    assert "step 1: memory was not enough for micro-batches of 65536 tokens" in found.stderr
    assert found.stderr.count("memory was not enough") == 1, "the second step has them from the start"
    lines = [json.loads(line) for line in (found.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["micro_batch_tokens"] for line in lines] == [tokens] * 2
    assert_same(found.folder, halved.folder)
    assert_same_gradients(found.folder, whole.folder)


def test_a_row_that_does_not_fit_alone_is_one_message(recipe: Path, tmp_path: Path) -> None:
    growth = tmp_path / "growth"
    command = [*LIMITED, str(8 << 20), str(growth), *UNCHECKED, str(recipe), f"run.folder={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: memory is not enough for a row of" in done.stderr
    assert "hint: set training.activation_checkpointing=1" in done.stderr


def test_a_run_that_a_memory_cgroup_ended_goes_on_in_smaller_pieces(
    recipe: Path, whole: Trained, halved: Trained, tmp_path: Path
) -> None:
    if not whole.peak_bytes:
        pytest.skip("this machine makes no memory cgroup for this user")
    assert whole.peak_bytes > halved.peak_bytes + (96 << 20), "or this shows nothing"
    growth = tmp_path / "growth"
    command = [*LIMITED, "0", str(growth), *UNCHECKED, str(recipe), f"run.folder={tmp_path / 'run'}", "--json"]
    with group("small") as small:
        small.limit((whole.peak_bytes + halved.peak_bytes) // 2)
        killed = small.run(command)
        assert killed.returncode == -9, killed.stderr
        assert (tmp_path / "run" / "running.json").is_file()
        again = small.run([*command, "--resume"])
    assert again.returncode == 0, again.stderr
    assert "the system ended this run for want of memory: goes on with micro-batches of at most" in again.stderr
    result = json.loads(again.stdout.splitlines()[-1])
    assert result["guards"]["micro_batch_tokens"] == halved.result["guards"]["micro_batch_tokens"]
    assert not (tmp_path / "run" / "running.json").exists()
    assert_same(tmp_path / "run", halved.folder)


def test_a_run_that_was_killed_for_no_known_reason_says_what_to_try(tiny_base: Path, tmp_path: Path) -> None:
    command = [*TRAIN, str(write_recipe(tmp_path, tiny_base)), f"run.folder={tmp_path / 'run'}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not (tmp_path / "run" / "running.json").is_file():
        assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    said = "the last start ended without a word; if memory was not enough, say so: training.micro_batch_tokens="
    assert said in done.stderr
