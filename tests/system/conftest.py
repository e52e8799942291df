"""What the tests of several workers and machines share."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import train, write_recipe


@pytest.fixture(scope="module")
def recipe(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of LoRA on forty short rows."""
    return write_recipe(tmp_path_factory.mktemp("recipe"), tiny_base)


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(recipe, folder)
    return folder
