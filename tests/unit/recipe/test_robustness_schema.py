"""Keys of attacks, of the general set and of latency: off by default, and refused with what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.errors import RecipeError
from danlu.evaluation.general import general_items
from danlu.recipe import load_recipe
from danlu.recipe.evaluation_schema import EvaluationSection
from danlu.recipe.robustness_schema import ATTACK_NAMES, ForgettingSection, LatencySection, RobustnessSection


def load(folder: Path, evaluation: dict[str, Any]) -> Any:
    recipe = {
        "model": {"name": "m"},
        "data": {"train": ["rows.jsonl"]},
        "adapter": {"type": "lora"},
        "training": {},
        "evaluation": evaluation,
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1))
    return load_recipe(folder / "recipe.yaml").recipe


def test_all_three_are_off_unless_they_are_named() -> None:
    section = EvaluationSection()
    assert (section.robustness, section.forgetting, section.latency) == (None, None, None)


def test_an_empty_section_has_every_attack_and_both_languages(tmp_path: Path) -> None:
    found = load(tmp_path, {"robustness": {}, "forgetting": {}, "latency": {}}).evaluation
    assert found.robustness == RobustnessSection(attacks=ATTACK_NAMES)
    assert found.forgetting == ForgettingSection(languages=("en", "zh"))
    assert found.latency == LatencySection(prompt_tokens=(32, 128, 512))


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"robustness": {"attacks": ["typos", "homophone"]}}, "'homophones'"),
        ({"robustness": {"attacks": ["typos", "typos"]}}, "names typos twice"),
        ({"robustness": {"atacks": ["typos"]}}, "did you mean `attacks`?"),
        ({"forgetting": {"languages": ["de"]}}, "'en' or 'zh'"),
        ({"latency": {"prompt_tokens": [0]}}, "≥ 1"),
        ({"latency": {"prompt_tokens": [8, 8]}}, "names 8 twice"),
        ({"latency": {"new_tokens": 1}}, "≥ 2"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, evaluation: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, evaluation)
    assert message in str(caught.value)


def test_the_description_says_how_many_questions_there_are() -> None:
    said = ForgettingSection.model_fields["max_items"].description or ""
    assert all(f"all {len(general_items(language))}" in said for language in ("en", "zh"))  # type: ignore[arg-type]
