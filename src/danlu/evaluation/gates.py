"""Conditions that a run must meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from danlu.errors import Fault
from danlu.recipe.evaluation_schema import GateRule

_ROUNDING = 1e-9


def check_gates(rules: Sequence[GateRule], compared: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """What each rule says.

    Args:
        rules: of the recipe.
        compared: comparisons by metric, for `base` and for each earlier run.

    Returns:
        `passed`, and `rules`: each with `passed`, `value`, `gain` (None where it was not asked for) and `says`; None
        without rules.

    Raises:
        KeyError: a metric that is not there.
    """
    if not rules:
        return None
    checked = [_check(rule, compared[rule.against]) for rule in rules]
    return {"passed": all(one["passed"] for one in checked), "rules": checked}


def _check(rule: GateRule, compared: Mapping[str, Any]) -> dict[str, Any]:
    found = compared.get(rule.metric)
    asked = rule.model_dump(exclude_none=True)
    if found is not None and rule.group is not None:
        found = found.get("groups", {}).get(rule.group)
    if found is None:
        what = f"group {rule.group} of {rule.metric}" if rule.group else rule.metric
        return {**asked, "passed": False, "value": None, "gain": None, "says": f"there is no {what}"}
    value = found["second"]
    gain = -found["difference"] if found["better"] == "lower" else found["difference"]
    faults = []
    if rule.min is not None and _under(value, rule.min):
        faults.append(f"{value:.4g} is under {rule.min:g}")
    if rule.max is not None and _under(-value, -rule.max):
        faults.append(f"{value:.4g} is over {rule.max:g}")
    if rule.min_gain is not None and _under(gain, rule.min_gain):
        faults.append(f"a gain of {gain:.4g} is under {rule.min_gain:g}")
    if rule.max_drop is not None and _under(gain, -rule.max_drop):
        faults.append(f"a drop of {-gain:.4g} is over {rule.max_drop:g}")
    return {**asked, "passed": not faults, "value": value, "gain": gain, "says": "; ".join(faults) or "passed"}


def _under(value: float, bound: float) -> bool:
    """Beyond what rounding makes; NaN is under every bound."""
    return not value >= bound - _ROUNDING


def gate_faults(gate: Mapping[str, Any], where: str) -> list[Fault]:
    """A fault for each rule that says no."""
    return [
        Fault(
            f"gate: {rule['metric']}{' of ' + rule['group'] if rule.get('group') else ''}: {rule['says']}",
            f"{where}, against {rule['against']}",
            hint="train on; or change evaluation.gates if this is good enough",
        )
        for rule in gate["rules"]
        if not rule["passed"]
    ]
