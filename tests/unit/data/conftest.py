"""What the tests of the data stage as a whole share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accounting import write_jsonl

from danlu.data.run import prepare
from danlu.recipe import load_recipe


def no_model(name: str) -> Any:
    raise AssertionError(f"nobody asked for {name}")


@pytest.fixture
def make(tmp_path: Path, model_folder: Path) -> Any:
    """Prepares rows by a data section; gives what `prepare` gives."""

    def call(data: dict[str, Any], rows: list[Any] | None = None) -> Any:
        if rows is not None:
            write_jsonl(tmp_path / "rows.jsonl", rows)
        section = {"train": [str(tmp_path / "rows.jsonl")], "num_workers": 1, **data}
        recipe = {
            "model": {"name": "smollm2-135m-instruct"},
            "data": section,
            "adapter": {"type": "lora"},
            "training": {},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(recipe, ensure_ascii=False), encoding="utf-8")
        return prepare(load_recipe(path), model_folder, no_model)

    return call
