"""Runs of a few steps through the command line, and what is compared of them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

WORDS = "apple river stone cloud lamp tiger paper green silver ocean maple north candle garden violin rocket"
# What is checked before has tests of its own; these runs are small and few of their rows make sense.
TRAIN = [sys.executable, "-m", "danlu", "train", "--no-preflight"]


def write_recipe(folder: Path, base: Path) -> Path:
    """A recipe of six steps of LoRA on forty short rows."""
    rows = [{"question": f"What is {n} and {n % 7}?", "answer": f"It is {n + n % 7}." * (1 + n % 5)} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"name": str(base), "dtype": "float32"},
        "data": {"train": [str(folder / "rows.jsonl")], "evaluation": {"rows": 8}, "max_sequence_tokens": 128},
        "adapter": {"type": "lora"},
        "training": {
            "learning_rate": 5e-3,
            "max_steps": 6,
            "global_batch_size": 8,
            "micro_batch_tokens": 96,
            "evaluate_every_steps": 2,
        },
        "evaluation": {"max_new_tokens": 4},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def write_rows(path: Path, count: int, answer_words: int) -> str:
    """Questions; their answers are a fixed form with a word that nothing foretells, or many such words alone.

    Returns:
        The override that trains on them.
    """
    dice, drawn_from = random.Random(0), WORDS.split()
    rows = []
    for number in range(count):
        drawn = " ".join(dice.choice(drawn_from) for _ in range(answer_words))
        form = "{}." if answer_words > 1 else "Thank you for asking. Please call the {} desk."
        question = f"What about {dice.choice(drawn_from)} and {dice.choice(drawn_from)}, case {number}?"
        rows.append({"question": question, "answer": form.format(drawn)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.train=[{path}]"


def train(recipe: Path, folder: Path, *words: str, check: bool = True) -> dict[str, Any]:
    """The JSON of `danlu train`, with its `status` and `stderr`."""
    done = subprocess.run(
        [*TRAIN, str(recipe), f"run.folder={folder}", *words, "--json"], capture_output=True, text=True, timeout=300
    )
    assert not check or done.returncode == 0, done.stderr
    return {"status": done.returncode, "stderr": done.stderr, **json.loads(done.stdout.splitlines()[-1])}


def numbers_of(folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and norms of every step, and the weights that were saved."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [
        line[key] for line in lines for key in ("loss", "gradient_norm", "evaluation_loss") if line.get(key) is not None
    ]
    weights = next(path for path in (folder / "adapter", folder / "model") if path.is_dir())
    (file,) = weights.glob("*.safetensors")
    return losses, load_file(file)


def assert_same_gradients(found: Path, expected: Path) -> None:
    """Two runs with checkpoints came to the same, by their losses and by the moments of their gradients.

    Adam makes a step of every gradient, whatever its size: weights can't be held to each other where a gradient is 0
    but for rounding (seen: 2e-9 among 4e-3), and the layer's next gradients follow those steps (seen: 1e-4 of them).
    """
    assert numbers_of(found)[0] == pytest.approx(numbers_of(expected)[0], rel=2e-4)
    last = [sorted((folder / "checkpoints").iterdir())[-1] for folder in (found, expected)]
    assert last[0].name == last[1].name
    moments, wanted = (load_file(folder / "moments.safetensors") for folder in last)
    assert moments.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert float((moments[name] - tensor).norm()) <= 1e-3 * float(tensor.norm()), name


def assert_same(found: Path, expected: Path) -> None:
    """Two runs came to the same, but for the order in which numbers were summed."""
    (losses, weights), (wanted_losses, wanted) = numbers_of(found), numbers_of(expected)
    assert losses == pytest.approx(wanted_losses, rel=2e-4)
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        # Adam divides by the gradient's size: what is rounding in a small gradient is more of a step of 5e-3.
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
