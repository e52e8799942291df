"""Gates say yes and no where they should, and one on what is not measured is refused with the recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from danlu.errors import RecipeError
from danlu.evaluation.comparison import Resampling, compare_metric
from danlu.evaluation.gates import check_gates, gate_faults
from danlu.evaluation.metrics import Metric
from danlu.recipe import load_recipe
from danlu.recipe.evaluation_schema import GateRule


def compared(first: float, second: float, better: Any = "higher") -> dict[str, Any]:
    return compare_metric(Metric("m", better=better), [(first,)] * 40, [(second,)] * 40, Resampling(resamples=200))


BY_NAME = {
    "base": {"rouge_l": compared(0.4, 0.5), "loss": compared(2.0, 1.5, "lower"), "grown": compared(1.0, 1.25, "lower")},
    "runs/a": {"rouge_l": compared(0.75, 0.5)},
}


@pytest.mark.parametrize(
    ("rule", "passed", "says"),
    [
        ({"metric": "rouge_l", "min": 0.5}, True, "passed"),
        ({"metric": "rouge_l", "min": 0.51}, False, "0.5 is under 0.51"),
        ({"metric": "loss", "max": 1.5}, True, "passed"),
        ({"metric": "loss", "max": 1.4}, False, "1.5 is over 1.4"),
        ({"metric": "rouge_l", "min_gain": 0.1}, True, "passed"),
        ({"metric": "rouge_l", "min_gain": 0.2}, False, "a gain of 0.1 is under 0.2"),
        ({"metric": "loss", "min_gain": 0.5}, True, "passed"),
        ({"metric": "grown", "max_drop": 0.25}, True, "passed"),
        ({"metric": "grown", "max_drop": 0.2}, False, "a drop of 0.25 is over 0.2"),
        ({"metric": "rouge_l", "max_drop": 0.0}, True, "passed"),
        ({"metric": "rouge_l", "max_drop": 0.2, "against": "runs/a"}, False, "a drop of 0.25 is over 0.2"),
        ({"metric": "rouge_l", "min": 0.1, "group": "law"}, False, "there is no group law of rouge_l"),
        ({"metric": "rouge_l", "min": 0.6, "min_gain": 0.2}, False, "0.5 is under 0.6; a gain of 0.1 is under 0.2"),
    ],
)
def test_a_gate(rule: dict[str, Any], passed: bool, says: str) -> None:
    gate = check_gates([GateRule(**rule)], BY_NAME)
    assert gate is not None
    assert (gate["passed"], gate["rules"][0]["says"]) == (passed, says)
    faults = gate_faults(gate, "report")
    assert len(faults) == (not passed)
    assert all(says in fault.what for fault in faults)


@pytest.mark.parametrize("bound", [{"min": 0.0}, {"max": 9.0}, {"min_gain": -9.0}, {"max_drop": 9.0}])
def test_a_figure_that_is_no_number_passes_no_gate(bound: dict[str, float]) -> None:
    found = {**compared(1.0, 1.0), "second": math.nan, "difference": math.nan}
    gate = check_gates([GateRule(metric="m", **bound)], {"base": {"m": found}})
    assert gate is not None
    assert not gate["passed"]


def test_one_no_among_several_is_a_no_and_no_rules_are_no_gate() -> None:
    rules = [GateRule(metric="rouge_l", min=0.1), GateRule(metric="loss", max=0.1)]
    gate = check_gates(rules, BY_NAME)
    assert gate is not None
    assert not gate["passed"]
    assert len(gate_faults(gate, "report")) == 1
    assert check_gates([], BY_NAME) is None


@pytest.mark.parametrize(
    ("gate", "says", "hint"),
    [
        ({"metric": "rouge_1", "min": 0.5}, "no metric `rouge_1`", "did you mean `rouge_l`?"),
        ({"metric": "zzz", "min": 0.5}, "there are loss, rouge_l, finished", "measure it"),
        ({"metric": "loss", "max": 1, "against": "runs/a"}, "against `runs/a`", "compare_with"),
        ({"metric": "loss"}, "asks nothing", ""),
    ],
)
def test_a_gate_that_nothing_answers_is_refused_with_the_recipe(
    tmp_path: Path, gate: dict[str, Any], says: str, hint: str
) -> None:
    recipe = {
        "model": {"name": "smollm2-135m-instruct"},
        "data": {"train": ["rows.jsonl"]},
        "adapter": {"type": "lora"},
        "training": {"learning_rate": 1e-3, "max_steps": 1},
        "evaluation": {"gates": [gate]},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with pytest.raises(RecipeError) as raised:
        load_recipe(tmp_path / "recipe.yaml")
    assert len(raised.value.faults) == 1, raised.value.faults
    fault = raised.value.faults[0]
    assert says in f"{fault.what} {fault.allowed}"
    assert hint in fault.hint
    assert "evaluation.gates" in fault.where + fault.what
