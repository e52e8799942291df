"""Learning rates by step follow the documented formulas."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from transformers import optimization

from danlu.recipe.training_schema import TrainingSection
from danlu.training.schedules import (
    Schedule,
    constant,
    cosine,
    cosine_with_restarts,
    linear,
    three_phase,
    warmup_steps_of,
    wsd,
)
from danlu.training.session import make_schedule

PEAK, FLOOR = 2e-4, 1e-6
LENGTHS = [1, 2, 3, 10, 17, 100, 333, 1000]
SHARES = [("0", "0"), ("0.1", "0.05"), ("0.07", "0.29"), ("0.5", "0.5"), ("1", "0"), ("0", "1"), ("0.03", "0.2")]


def phases(steps: int, warmup_share: str, floor_share: str) -> tuple[int, int]:
    """Warm-up and floor steps in exact arithmetic."""
    return math.ceil(Fraction(warmup_share) * steps), math.floor(Fraction(floor_share) * steps)


@pytest.mark.parametrize(("warmup_share", "floor_share"), SHARES)
@pytest.mark.parametrize("steps", LENGTHS)
def test_three_phases_follow_the_closed_formula_at_every_step(steps: int, warmup_share: str, floor_share: str) -> None:
    warmup, held = phases(steps, warmup_share, floor_share)
    rate = three_phase(steps, PEAK, warmup, float(floor_share), FLOOR)
    assert warmup_steps_of(steps, float(warmup_share), None) == warmup
    for step in range(steps):
        if step < warmup:
            expected = PEAK * (step + 1) / warmup
        elif step >= steps - held:
            expected = FLOOR
        else:
            angle = math.pi * (step - warmup + 1) / (steps - held - warmup + 1)
            expected = FLOOR + (PEAK - FLOOR) * (1 + math.cos(angle)) / 2
        assert rate(step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [20, 100, 1000])
def test_three_phases_never_jump(steps: int) -> None:
    rate = three_phase(steps, PEAK, steps // 10, 0.05, FLOOR)
    warmup, held = phases(steps, "0.1", "0.05")
    steepest_cosine = (PEAK - FLOOR) * math.pi / 2 / (steps - held - warmup + 1)
    largest = max(PEAK / warmup, steepest_cosine)
    for step in range(1, steps):
        assert abs(rate(step) - rate(step - 1)) <= largest * (1 + 1e-9)


def test_warm_up_rises_in_equal_parts_to_the_peak_and_the_cosine_only_falls() -> None:
    rate = three_phase(100, PEAK, 10, 0.05, FLOOR)
    assert [rate(step) for step in range(10)] == pytest.approx([PEAK * part / 10 for part in range(1, 11)])
    falling = [rate(step) for step in range(9, 96)]
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))


def test_the_floor_is_held_to_the_end() -> None:
    rate = three_phase(100, PEAK, 10, 0.2, FLOOR)
    assert {rate(step) for step in range(80, 100)} == {FLOOR}
    assert rate(79) > FLOOR


def test_a_floor_above_the_peak_is_the_peak() -> None:
    rate = three_phase(10, 1e-5, 0, 0.5, 1e-3)
    assert [rate(step) for step in range(10)] == [1e-5] * 10


@pytest.mark.parametrize("share", ["0", "0.03", "0.07", "0.5", "1"])
@pytest.mark.parametrize("steps", LENGTHS)
def test_a_constant_rate_stays_after_its_warm_up(steps: int, share: str) -> None:
    warmup, _ = phases(steps, share, "0")
    rate = constant(steps, PEAK, warmup)
    for step in range(steps):
        expected = PEAK * (step + 1) / warmup if step < warmup else PEAK
        assert rate(step) == pytest.approx(expected, rel=1e-12)


WARMUPS = [0, 1, 7, 30]
SHAPES = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "1-sqrt": lambda progress: 1 - progress**0.5,
}


def formula(step: int, warmup: int, progress: float, shape: str) -> float:
    """A rate in a phase that has come so far."""
    return PEAK * (step + 1) / warmup if step < warmup else FLOOR + (PEAK - FLOOR) * SHAPES[shape](progress)


def of_transformers(name: str, warmup: int, steps: int, **settings: object) -> Schedule:
    """Transformers' schedule, whose first step and last one have a rate of 0, seen from a step later."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    make = getattr(optimization, f"get_{name}")
    (factor,) = make(optimizer, num_warmup_steps=warmup, num_training_steps=steps + 1, **settings).lr_lambdas
    return lambda step: PEAK * factor(step + 1)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("steps", LENGTHS)
def test_linear_and_cosine_follow_the_closed_formulas_and_transformers(steps: int, warmup: int) -> None:
    straight, curved = linear(steps, PEAK, warmup, FLOOR), cosine(steps, PEAK, warmup, FLOOR)
    to_zero = linear(steps, PEAK, warmup, 0.0)
    theirs = of_transformers("linear_schedule_with_warmup", warmup, steps)
    their_cosine = of_transformers("cosine_with_min_lr_schedule_with_warmup", warmup, steps, min_lr=FLOOR)
    for step in range(steps):
        progress = (step - warmup + 1) / max(1, steps - warmup + 1)
        assert straight(step) == pytest.approx(formula(step, warmup, progress, "linear"), rel=1e-12)
        assert curved(step) == pytest.approx(formula(step, warmup, progress, "cosine"), rel=1e-12)
        assert to_zero(step) == pytest.approx(theirs(step), rel=1e-9)
        if step >= warmup:  # theirs begins at the lowest rate
            assert curved(step) == pytest.approx(their_cosine(step), rel=1e-9)
        assert min(straight(step), curved(step), to_zero(step)) > 0


@pytest.mark.parametrize("cycles", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("steps", LENGTHS)
def test_restarts_follow_the_closed_formula_and_transformers(steps: int, warmup: int, cycles: int) -> None:
    rate = cosine_with_restarts(steps, PEAK, warmup, FLOOR, cycles)
    to_zero = cosine_with_restarts(steps, PEAK, warmup, 0.0, cycles)
    theirs = of_transformers("cosine_with_hard_restarts_schedule_with_warmup", warmup, steps, num_cycles=cycles)
    for step in range(steps):
        within = Fraction(cycles * (step - warmup + 1), max(1, steps - warmup + 1)) % 1
        assert rate(step) == pytest.approx(formula(step, warmup, float(within), "cosine"), rel=1e-12)
        if within:  # at a restart theirs is at the peak or at 0, as it is rounded
            assert to_zero(step) == pytest.approx(theirs(step), rel=1e-9)


def test_each_restart_is_from_the_peak() -> None:
    rate = cosine_with_restarts(59, PEAK, 0, FLOOR, 3)
    peaks = [step for step in range(1, 59) if rate(step) == PEAK]
    assert peaks == [19, 39]
    assert all(rate(step - 1) < PEAK / 20 for step in peaks)


@pytest.mark.parametrize("decay", list(SHAPES))
@pytest.mark.parametrize("share", ["0", "0.1", "0.29", "1"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("steps", LENGTHS)
def test_wsd_follows_the_closed_formula_and_transformers(steps: int, warmup: int, share: str, decay: str) -> None:
    rate = wsd(steps, PEAK, warmup, FLOOR, float(share), decay)
    held = min(math.floor(Fraction(share) * steps), max(0, steps - warmup))
    theirs = of_transformers(
        "wsd_schedule", warmup, steps, num_decay_steps=held + 1, decay_type=decay, min_lr_ratio=FLOOR / PEAK
    )
    for step in range(steps):
        if step < steps - held:
            expected = PEAK * min(1.0, (step + 1) / max(1, warmup))
        else:
            expected = formula(step, 0, (step - steps + held + 1) / (held + 1), decay)
        assert rate(step) == pytest.approx(expected, rel=1e-12)
        if step >= warmup:
            assert rate(step) == pytest.approx(theirs(step), rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"type": "linear"}, linear(40, PEAK, 4, 0.0)),
        ({"type": "linear", "min_learning_rate": 1e-5}, linear(40, PEAK, 4, 1e-5)),
        ({"type": "cosine", "warmup_steps": 7, "min_learning_rate": 1e-5}, cosine(40, PEAK, 7, 1e-5)),
        ({"type": "cosine_with_restarts", "warmup_steps": 0}, cosine_with_restarts(40, PEAK, 0, 0.0, 2)),
        ({"type": "cosine_with_restarts", "num_cycles": 3}, cosine_with_restarts(40, PEAK, 4, 0.0, 3)),
        ({"type": "wsd"}, wsd(40, PEAK, 4, 0.0, 0.1, "1-sqrt")),
        ({"type": "wsd", "decay_share": 0.5, "decay_type": "linear"}, wsd(40, PEAK, 4, 0.0, 0.5, "linear")),
        ({"type": "constant"}, constant(40, PEAK, 0)),
        ({"type": "constant", "warmup_share": 0.25}, constant(40, PEAK, 10)),
        ({"type": "three_phase"}, three_phase(40, PEAK, 4, 0.05, 1e-6)),
        ({"type": "three_phase", "warmup_steps": 3, "floor_share": 0.2}, three_phase(40, PEAK, 3, 0.2, 1e-6)),
        ({"type": "cosine", "warmup_share": None}, cosine(40, PEAK, 0, 0.0)),
    ],
)
def test_a_recipe_gets_the_schedule_that_it_names(schedule: dict[str, object], expected: Schedule) -> None:
    training = TrainingSection.model_validate({"learning_rate": PEAK, "schedule": schedule})
    rate = make_schedule(training, 40)
    assert [rate(step) for step in range(40)] == [expected(step) for step in range(40)]


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "three_phase"])
def test_a_lowest_rate_above_the_peak_is_the_peak(name: str) -> None:
    low = "floor_learning_rate" if name == "three_phase" else "min_learning_rate"
    schedule = {"type": name, "warmup_steps": 0, low: 1e-3}
    rate = make_schedule(TrainingSection.model_validate({"learning_rate": 1e-5, "schedule": schedule}), 10)
    assert [rate(step) for step in range(10)] == [1e-5] * 10
