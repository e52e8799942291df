"""Adapters that do more than plain LoRA, from recipe to proven merge on the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kernels_there import THERE

from danlu.errors import RecipeError
from danlu.export.run import run_export
from danlu.recipe import load_recipe
from danlu.training.run import run_training
from danlu.training.trained import open_run

RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2_135m_lora.yaml"
SHORT = [
    "training.max_steps=4",
    "training.evaluation_max_rows=2",
    "evaluation.max_new_tokens=12",
    "data.evaluation={rows: 32, stratify_by: intent}",
    "adapter.layers_to_transform=[28, 29]",
]
VARIANTS = {
    "pissa": [
        "adapter.init_lora_weights=pissa_niter_4",
        "adapter.use_rslora=true",
        "adapter.rank_pattern={q_proj: 8, layers.29.self_attn.q_proj: 4}",
        "adapter.alpha_pattern={o_proj: 16}",
        "training.optimizer=adamw_8bit",
        "training.loraplus_lr_ratio=4",
        "training.learning_rate=2.0e-4",
    ],
    "dora": ["adapter.use_dora=true", "adapter.modules_to_save=[lm_head, norm]", "training.optimizer=paged_adamw"],
}


def train(folder: Path, overrides: list[str]) -> dict[str, Any]:
    return run_training(load_recipe(RECIPE, [*SHORT, f"run.folder={folder}", *overrides]), quiet=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_trains_and_its_merge_is_proven(model_folder: Path, tmp_path: Path, variant: str) -> None:
    result = train(tmp_path / "run", VARIANTS[variant])
    assert result["steps"] == 4
    run = open_run(tmp_path / "run")
    assert ", fused layers" in run.about["engine"] or not THERE
    parity = run_export(tmp_path / "run")["parity"]
    assert parity["passed"]
    assert parity["max_logit_difference"] < 1e-3


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("adapter.rank_pattern={query: 4}", "adapter.rank_pattern.query"),
        ("adapter.rank_pattern={k_proj: 200}", "adapter.rank_pattern.k_proj"),
        ("adapter.modules_to_save=[head]", "adapter.modules_to_save"),
        ("adapter.bias=all", "adapter.bias"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_weight_is_read(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, where: str
) -> None:
    monkeypatch.setattr("danlu.training.assembly.load_base", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(RecipeError, match="hint:") as caught:
        train(tmp_path / "run", [override])
    assert [fault.where for fault in caught.value.faults] == [where]
    assert not (tmp_path / "run").exists()
