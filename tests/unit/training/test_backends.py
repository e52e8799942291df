"""What a backend needs is asked for before any weight is loaded."""

from __future__ import annotations

import sys

import pytest
import torch

from danlu.errors import RecipeError
from danlu.recipe import Recipe
from danlu.training.backends import require_backend
from danlu.training.processes import Processes


def test_without_deepspeed_one_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    values = {
        "model": {"name": "base"},
        "data": {"train": ["rows.jsonl"]},
        "adapter": {"type": "lora"},
        "training": {"backend": {"type": "deepspeed"}},
    }
    with pytest.raises(RecipeError, match=r"pip install 'danlu\[deepspeed\]'"):
        require_backend(Recipe.model_validate(values, strict=False), Processes(world_size=2), torch.float32)
