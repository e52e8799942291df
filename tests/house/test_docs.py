"""What the pages under docs/ show must be true: their recipes are valid, and name every step there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from ruamel.yaml import YAML

from danlu.data.augmentation import AUGMENTERS
from danlu.data.cleaning import STEPS
from danlu.recipe import adapter_schema, sweep_schema, tracking_schema, training_schema
from danlu.recipe.data_schema import DataSection
from danlu.recipe.evaluation_schema import EvaluationSection
from danlu.recipe.guards_schema import GuardsSection
from danlu.recipe.model_schema import EightBitQuantization, FourBitQuantization
from danlu.recipe.robustness_schema import ATTACK_NAMES, ForgettingSection, LatencySection, RobustnessSection
from danlu.recipe.run_schema import LocalLauncher, RayLauncher
from danlu.recipe.training_schema import TrainingSection

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*/data.md"))
TRAINING_PAGES = sorted(DOCS.glob("*/training.md"))
EVALUATION_PAGES = sorted(DOCS.glob("*/evaluation.md"))


def test_each_page_has_its_twin() -> None:
    assert [page.parent.name for page in PAGES] == ["en", "zh"]
    names = [{page.name for page in DOCS.glob(f"{language}/*.md")} for language in ("en", "zh")]
    assert names[0] == names[1]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*/*.md")), ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_no_page_has_a_place_that_was_still_to_be_filled(page: Path) -> None:
    left = re.findall(r"^[A-Z_]{4,}$|\bTODO\b|\bFIXME\b|\bXXX\b", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert not left


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_recipe_of_the_page_is_valid(page: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        values = YAML(typ="safe").load(block)["data"]
        DataSection.model_validate(values, strict=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_page_names_every_step_and_augmenter(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = {*STEPS, *AUGMENTERS, "exact_duplicates", "near_duplicates"}
    assert not {name for name in names if f"`{name}`" not in text}


@pytest.mark.parametrize("page", TRAINING_PAGES, ids=lambda page: page.parent.name)
def test_the_training_keys_of_the_page_are_valid(page: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    TrainingSection.model_validate(YAML(typ="safe").load(block)["training"], strict=False)


@pytest.mark.parametrize("page", TRAINING_PAGES, ids=lambda page: page.parent.name)
def test_the_page_names_every_key_of_what_is_trained_and_how_it_is_kept(page: Path) -> None:
    sections = (
        *(adapter_schema.LoraSection, adapter_schema.Ia3Section, adapter_schema.LohaSection),
        *(adapter_schema.LokrSection, adapter_schema.VeraSection, FourBitQuantization, EightBitQuantization),
        *(training_schema.FreezeSection, training_schema.Fsdp2Backend, training_schema.DeepSpeedBackend),
        *(training_schema.AutoBackend, training_schema.DdpBackend, training_schema.CheckpointsSection),
        *(training_schema.BaseDropout, GuardsSection, LocalLauncher, RayLauncher, training_schema.EarlyStoppingSection),
        *(training_schema.ThreePhaseSchedule, training_schema.ConstantSchedule, training_schema.LinearSchedule),
        *(training_schema.CosineSchedule, training_schema.CosineWithRestartsSchedule, training_schema.WsdSchedule),
        *(tracking_schema.TensorboardTracker, tracking_schema.WandbTracker, tracking_schema.MlflowTracker),
        *(tracking_schema.SwanlabTracker, sweep_schema.Sweep, sweep_schema.Between, sweep_schema.MedianPruning),
        *(sweep_schema.GridSearch, sweep_schema.RandomSearch, sweep_schema.OptunaSearch, sweep_schema.ListedSearch),
    )
    keys = {key for section in sections for key in section.model_fields} - {"type"}
    kinds = {
        kind
        for section in sections
        if "type" in section.model_fields
        for kind in get_args(section.model_fields["type"].annotation)
    }
    text = " ".join(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")))
    assert not {name for name in keys | kinds if not re.search(rf"\b{name}\b", text)}


@pytest.mark.parametrize("page", EVALUATION_PAGES, ids=lambda page: page.parent.name)
def test_the_page_names_every_attack_and_its_evaluation_keys_are_valid(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = [YAML(typ="safe").load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    sections = [EvaluationSection.model_validate(block["evaluation"], strict=False) for block in blocks]
    assert any(section.robustness and section.forgetting and section.latency for section in sections)
    keys = {key for one in (RobustnessSection, ForgettingSection, LatencySection) for key in one.model_fields}
    assert not {name for name in {*ATTACK_NAMES} if f"`{name}`" not in text}
    assert not {name for name in keys if not re.search(rf"\b{name}\b", text)}
