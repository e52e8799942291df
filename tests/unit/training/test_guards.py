"""What trips, what does not, and that a guard that is loaded decides as the one that was kept."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest

from danlu.errors import WorkError
from danlu.training.guards import TOO_MANY_IN_A_ROW, Guard, Limits, usual
from danlu.training.quarantine import suspects

LIMITS = Limits(spike_factor=6.0, window_steps=32, max_quarantined_steps=4, max_retries=2, learning_rate_factor=0.5)


def after(losses: Sequence[float], norms: Sequence[float] | None = None, limits: Limits = LIMITS) -> Guard:
    """A guard that saw these good steps."""
    guard = Guard(limits)
    for number, (loss, norm) in enumerate(zip(losses, norms or [1.0] * len(losses), strict=True), 1):
        assert not guard.fault_of_loss(loss)
        guard.note(number, loss, norm, "")
    return guard


def test_the_spread_of_a_normal_distribution_is_its_standard_deviation_whatever_spikes_lie_in_it() -> None:
    normal = NormalDist(0.3, 0.7)
    values = [math.exp(normal.inv_cdf((n + 0.5) / 1001)) for n in range(1001)]
    assert usual(values, 5.0, 0.0) == pytest.approx(math.exp(0.3 + 5 * 0.7), rel=1e-2)
    assert usual([*values[:-10], *[1e6] * 10], 5.0, 0.0) == pytest.approx(math.exp(0.3 + 5 * 0.7), rel=0.1)


def test_a_spread_is_never_less_than_its_floor_and_nothing_far_below_the_offset_differs() -> None:
    assert usual([2.0] * 9, 5.0, 0.15) == pytest.approx(2.0 * math.exp(0.75))
    assert usual([0.01, 1e-9, 0.0, 0.001] * 9, 5.0, 0.15, 0.5) == pytest.approx(0.5 * math.exp(0.75) - 0.5, rel=0.02)
    assert usual([0.0] * 9, 5.0, 0.5) == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_trips_from_the_first_step_on(value: float) -> None:
    guard = Guard(LIMITS)
    assert guard.fault_of_loss(value) == f"the loss is {value}"
    assert guard.fault_of_norm(value) == f"the gradient norm is {value}"
    assert not guard.fault_of_loss(1e9)
    assert not guard.fault_of_norm(1e9)


def test_a_spike_trips_and_an_ordinary_bad_step_does_not() -> None:
    guard = after([2.0 + 0.1 * (n % 5) for n in range(20)])
    assert not guard.fault_of_loss(4.0)
    assert guard.fault_of_loss(9.0) == "the loss is 9, and at most 6.141 is usual"
    assert not guard.fault_of_norm(20.0)
    assert guard.fault_of_norm(21.0) == "the gradient norm is 21, and at most 20.09 is usual"


def test_losses_of_single_rows_that_differ_much_hardly_ever_trip() -> None:
    losses = np.random.default_rng(1).lognormal(0.0, 0.7, 10_000)  # one row in twenty has ten times another's
    guard, tripped = Guard(LIMITS), 0
    for number, loss in enumerate(losses.tolist(), 1):
        fault = guard.fault_of_loss(loss)
        tripped += bool(fault)
        guard.note(number, loss, 1.0, fault)
    assert tripped <= 2


def test_a_loss_that_falls_fast_or_is_almost_nothing_does_not_trip() -> None:
    after([10 * 0.9**n for n in range(100)])
    after([0.001 + 0.3 * (n % 10 == 9) for n in range(100)])


def test_an_explosion_over_several_steps_trips_before_it_is_what_is_usual() -> None:
    losses = [2.0] * 20 + [2.0 * 1.15**n for n in range(60)]
    guard = Guard(LIMITS)
    for number, loss in enumerate(losses, 1):
        if fault := guard.fault_of_loss(loss):
            break
        guard.note(number, loss, 1.0, fault)
    assert loss < 6.5


def test_in_the_first_steps_only_a_loss_far_above_all_trips() -> None:
    guard = after([2.0, 3.0])
    assert not guard.fault_of_loss(7.9)
    assert guard.fault_of_loss(8.1)


def test_without_a_spike_factor_any_number_will_do() -> None:
    guard = after([2.0] * 20, limits=Limits(None, 32, 4, 2, 0.5))
    assert not guard.fault_of_loss(1e30)
    assert guard.fault_of_loss(math.nan)


def test_without_guards_a_loss_that_is_no_number_ends_the_run() -> None:
    guard = Guard(None)
    with pytest.raises(WorkError, match=r"step 3: the loss is nan\n  where: training\n  hint: lower training"):
        guard.note(3, math.nan, math.nan, guard.fault_of_loss(math.nan))


def test_three_in_a_row_are_no_longer_put_down_to_the_rows() -> None:
    guard = after([2.0])
    for number in (2, 3, 4):
        assert not guard.retreating
        guard.note(number, math.nan, math.nan, "the loss is nan")
        guard.require_hope(number, "the loss is nan", "FILE")
    assert guard.retreating
    assert guard.streak == TOO_MANY_IN_A_ROW
    guard.retreats.append({"to_step": 0, "reason": ""})
    assert guard.rate_factor == 0.5
    guard.retreats.append({"to_step": 0, "reason": ""})
    said = (
        r"3 steps in a row went wrong, the last of them step 4 although the run went back 2 times, at last with 0.25 of"
    )
    with pytest.raises(WorkError, match=said):
        guard.require_hope(4, "the loss is nan", "FILE")


def test_a_good_step_between_ends_the_row_and_too_many_end_the_run() -> None:
    guard = Guard(LIMITS)
    for number in range(1, 9):
        fault = "the loss is nan" * (number % 2)
        guard.note(number, 2.0, 1.0, fault)
        guard.require_hope(number, fault, "FILE")
    guard.note(9, math.nan, math.nan, "the loss is nan")
    with pytest.raises(WorkError, match=r"5 steps went wrong.*\n  where: FILE\n  allowed: at most 4"):
        guard.require_hope(9, "the loss is nan", "FILE")


def test_a_run_without_one_good_step_does_not_pass_for_trained() -> None:
    guard = Guard(LIMITS)
    guard.note(1, math.nan, math.nan, "the loss is nan")
    with pytest.raises(WorkError, match="every step went wrong, the last one step 1: the loss is nan"):
        guard.require_any_good()
    guard.note(2, 2.0, 1.0, "")
    guard.require_any_good()


def test_what_is_loaded_decides_as_what_was_kept() -> None:
    generator = np.random.default_rng(2)
    guard = after(generator.lognormal(0, 0.2, 50).tolist(), generator.lognormal(0, 0.2, 50).tolist())
    guard.note(51, math.nan, math.nan, "the loss is nan")
    guard.left_out[7] = 51
    guard.retreats.append({"to_step": 10, "reason": "step 12: the loss is nan"})
    guard.good_step = 40
    other = Guard(LIMITS)
    seen = other.left_out
    other.load(json.loads(json.dumps(guard.state())))
    assert other.state() == guard.state()
    assert other.most_loss() == guard.most_loss()
    assert (other.rate_factor, other.tripped, seen) == (0.5, "step 51: the loss is nan", {7: 51})
    other.load({})
    assert other.state() == Guard(LIMITS).state()
    assert seen == {}


def test_the_rows_to_blame_are_those_without_a_number_else_those_far_above() -> None:
    assert suspects([2.0, math.nan, 30.0], 5.0) == [1]
    assert suspects([2.0, 6.0, 30.0], 5.0) == [1, 2]
    assert suspects([2.0, 3.0], 5.0) == []
