"""The verdict on a run's curves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from danlu.training.verdict import Verdict, judge

STEPS = 100


def verdict(
    training: Callable[[int], float],
    held: Callable[[int], float] | None = None,
    every: int = 10,
    epochs: float = 10.0,
    saved_step: int = STEPS,
) -> Verdict:
    lines = [
        {
            "step": step,
            "epoch": step * epochs / STEPS,
            "loss": training(step),
            **({"evaluation_loss": held(step)} if held and step % every == 0 else {}),
        }
        for step in range(1, STEPS + 1)
    ]
    return judge(lines, 40, 120_000, saved_step)


def falling(step: int) -> float:
    return 0.2 + 3.0 * math.exp(-step / 12)


def noisy(step: int) -> float:
    return falling(step) * (1 + 0.04 * math.sin(7 * step))


def rising_after_40(step: int) -> float:
    return falling(step) + 0.02 * max(0, step - 40)


@pytest.mark.parametrize("training", [falling, noisy])
@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (falling, "healthy"),
        (noisy, "healthy"),
        (lambda step: falling(step) + 0.5, "healthy"),
        (rising_after_40, "overfitting"),
        (lambda step: 3.0 - 0.02 * step, "underfitting"),
    ],
)
def test_the_curve_of_held_out_rows_decides(
    training: Callable[[int], float], held: Callable[[int], float], kind: str
) -> None:
    assert verdict(training, held).kind == kind


def test_overfitting_names_the_step_the_rows_the_parameters_and_what_to_change() -> None:
    found = verdict(falling, rising_after_40)
    assert "after step 40 (epoch 4) the held-out loss rose from 0.307 to 1.401" in found.text
    assert found.text.endswith("120,000 parameters were trained on 40 rows, 3,000 a row")
    assert (found.rows, found.parameters) == (40, 120_000)
    assert found.changes[0].startswith("training.save=best training.early_stopping={patience: 3}")
    assert found.changes[1].startswith("training.num_epochs=4:")


def test_what_the_best_weights_have_avoided_is_not_advised_again() -> None:
    found = verdict(falling, rising_after_40, saved_step=40)
    assert found.kind == "overfitting"
    assert "what is saved is of step 40" in found.text
    assert not any("training.save" in change for change in found.changes)


def test_a_training_loss_that_rises_too_is_no_overfitting() -> None:
    assert verdict(rising_after_40, rising_after_40).kind == "unstable"


def test_a_loss_that_hardly_fell_is_underfitting() -> None:
    found = verdict(lambda step: 2.0 - 0.0004 * step, lambda step: 2.1 - 0.0004 * step)
    assert found.kind == "underfitting"
    assert "hardly fell, from 1.999 to 1.962" in found.text
    assert "learning_rate" in found.changes[0]


def test_a_loss_that_is_still_falling_is_underfitting_without_held_out_rows_too() -> None:
    found = verdict(lambda step: 3.0 - 0.02 * step)
    assert found.kind == "underfitting"
    assert "the training loss was still falling" in found.text


@pytest.mark.parametrize(
    ("held", "every", "epochs", "kind"),
    [(None, 1, 1.0, "unknown"), (falling, 100, 3.0, "unknown"), (falling, 100, 1.0, "healthy")],
)
def test_what_can_not_be_told_is_not_told(
    held: Callable[[int], float] | None, every: int, epochs: float, kind: str
) -> None:
    found = verdict(falling, held, every, epochs)
    assert found.kind == kind
    assert bool(found.changes) == (kind == "unknown")


def test_a_few_steps_say_nothing() -> None:
    lines = [{"step": step, "epoch": step / 3, "loss": 3.0 - step, "evaluation_loss": 1.0} for step in (1, 2, 3)]
    assert judge(lines, 40, 10, 3).kind == "unknown"
    assert judge([], 0, 10, 0).kind == "unknown"
