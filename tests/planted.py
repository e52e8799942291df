"""Runs in which something goes wrong on purpose, behind the interfaces that training has anyway."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.recipe import load_recipe
from danlu.training import session as sessions
from danlu.training.run import run_training

# Words that the ordinary rows do not have; the byte-level tokenizer writes each with the same first token anywhere.
POISON, NOISE = " zebra", " quartz"


@dataclass(frozen=True)
class Poisoned:
    """An objective that has no number for a batch with a marked row."""

    plain: Any
    marks: frozenset[int]
    value: float

    def __call__(self, model: Any, batch: Any, label_smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
        loss, weight = self.plain(model, batch, label_smoothing)
        return (loss * self.value if self.marks & set(batch.ids[0].tolist()) else loss), weight


def poison(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, value: float = float("nan")) -> None:
    """Lets rows with `POISON` in them give this number times their loss."""
    choose: Callable[..., Any] = sessions.choose_engine
    marks = frozenset(tokenizer.encode(POISON, add_special_tokens=False))
    assert len(marks) == 1

    def chosen(model: Any, store: Any) -> Any:
        engine = choose(model, store)
        shown = {name: Poisoned(getattr(engine, name), marks, value) for name in ("objective", "plain")}
        return replace(engine, **shown)  # shards take the plain one

    monkeypatch.setattr(sessions, "choose_engine", chosen)


WORDS = ["north", "south", "east", "west", "up", "down", "left", "right"]


def plain_rows(count: int, question: str = "Which way?") -> list[dict[str, str]]:
    """Rows of which no more can be learned than that each of eight words is as likely."""
    return [{"question": question, "answer": f"Go {WORDS[n * 5 % 8]} now."} for n in range(count)]


def write_learned_base(base: Path, folder: Path) -> Path:
    """A small base that has learned the plain rows: as a real base has learned language."""
    recipe = write_guarded_recipe(folder, base, plain_rows(64), num_epochs=8)
    run_training(load_recipe(recipe, ["adapter=null", "training.learning_rate=3e-3"]), quiet=True)
    return folder / "run" / "model"


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_guarded_recipe(folder: Path, base: Path, rows: list[dict[str, str]], **training: Any) -> Path:
    """A recipe for these rows, judged on eight others."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {
        "model": {"name": str(base), "dtype": "float32"},
        "data": {
            "train": [str(write_rows(folder / "rows.jsonl", rows))],
            "evaluation": [str(write_rows(folder / "held.jsonl", plain_rows(8, "Which way then?")))],
            "leaks": None,
            "max_sequence_tokens": 128,
        },
        "adapter": {"type": "lora"},
        "training": {
            "learning_rate": 5e-3,
            "global_batch_size": 4,
            "micro_batch_tokens": 128,
            "num_epochs": 2,
            **training,
        },
        "evaluation": {"max_new_tokens": 4},
        "run": {"folder": str(folder / "run")},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path
