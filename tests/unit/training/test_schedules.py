"""Learning rates by step follow the documented formulas."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from danlu.training.schedules import constant, three_phase

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
    rate = three_phase(steps, PEAK, float(warmup_share), float(floor_share), FLOOR)
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
    rate = three_phase(steps, PEAK, 0.1, 0.05, FLOOR)
    warmup, held = phases(steps, "0.1", "0.05")
    steepest_cosine = (PEAK - FLOOR) * math.pi / 2 / (steps - held - warmup + 1)
    largest = max(PEAK / warmup, steepest_cosine)
    for step in range(1, steps):
        assert abs(rate(step) - rate(step - 1)) <= largest * (1 + 1e-9)


def test_warm_up_rises_in_equal_parts_to_the_peak_and_the_cosine_only_falls() -> None:
    rate = three_phase(100, PEAK, 0.1, 0.05, FLOOR)
    assert [rate(step) for step in range(10)] == pytest.approx([PEAK * part / 10 for part in range(1, 11)])
    falling = [rate(step) for step in range(9, 96)]
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))


def test_the_floor_is_held_to_the_end() -> None:
    rate = three_phase(100, PEAK, 0.1, 0.2, FLOOR)
    assert {rate(step) for step in range(80, 100)} == {FLOOR}
    assert rate(79) > FLOOR


def test_a_floor_above_the_peak_is_the_peak() -> None:
    rate = three_phase(10, 1e-5, 0.0, 0.5, 1e-3)
    assert [rate(step) for step in range(10)] == [1e-5] * 10


@pytest.mark.parametrize("share", ["0", "0.03", "0.07", "0.5", "1"])
@pytest.mark.parametrize("steps", LENGTHS)
def test_a_constant_rate_stays_after_its_warm_up(steps: int, share: str) -> None:
    warmup, _ = phases(steps, share, "0")
    rate = constant(steps, PEAK, float(share))
    for step in range(steps):
        expected = PEAK * (step + 1) / warmup if step < warmup else PEAK
        assert rate(step) == pytest.approx(expected, rel=1e-12)
