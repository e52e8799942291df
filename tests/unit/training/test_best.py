"""The best evaluation so far, and for how long nothing was better."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import EarlyStoppingCallback

from danlu.training.best import Best


def after(losses: list[float], min_delta: float = 0.0) -> Best:
    best = Best()
    for step, loss in enumerate(losses, 1):
        best = best.after(step, loss, min_delta)
    return best


def stops_at(losses: list[float], patience: int, min_delta: float = 0.0) -> int | None:
    """After how many evaluations training ends."""
    return next((n for n in range(1, len(losses) + 1) if after(losses[:n], min_delta).waited >= patience), None)


def transformers_stops_at(losses: list[float], patience: int) -> int | None:
    callback = EarlyStoppingCallback(patience)
    arguments = SimpleNamespace(metric_for_best_model="loss", greater_is_better=False)
    state, control = SimpleNamespace(best_metric=None), SimpleNamespace(should_training_stop=False)
    for number, loss in enumerate(losses, 1):
        callback.on_evaluate(arguments, state, control, {"eval_loss": loss})
        if state.best_metric is None or loss < state.best_metric:
            state.best_metric = loss
        if control.should_training_stop:
            return number
    return None


@given(losses=st.lists(st.integers(0, 6).map(float), max_size=20), patience=st.integers(1, 4))
def test_training_ends_where_transformers_would_end_it(losses: list[float], patience: int) -> None:
    assert stops_at(losses, patience) == transformers_stops_at(losses, patience)


@given(losses=st.lists(st.integers(0, 9).map(float), min_size=1, max_size=20))
def test_the_best_is_the_first_of_the_lowest(losses: list[float]) -> None:
    best = after(losses, 1.5)
    assert (best.step, best.evaluation_loss) == (losses.index(min(losses)) + 1, min(losses))


@pytest.mark.parametrize(
    ("losses", "min_delta", "expected"),
    [
        ([1.0, 0.96, 0.92, 0.88, 0.84, 0.82, 0.77], 0.1, None),  # the fourth is 0.12 below the first
        ([1.0, 0.96, 0.92, 0.91, 0.5], 0.1, 4),
        ([1.0, 0.96, 0.89, 0.95, 0.8, 0.79, 0.5], 0.1, 6),
        ([1.0, 1.0, 1.0, 1.0], 0.0, 4),
        ([1.0, math.nan, math.nan, math.nan], 0.0, 4),
        ([math.nan, 1.0, 0.9, 0.8], 0.0, None),
    ],
)
def test_small_gains_add_up_until_they_count(losses: list[float], min_delta: float, expected: int | None) -> None:
    assert stops_at(losses, 3, min_delta) == expected


def test_a_best_that_does_not_count_for_the_patience_is_still_the_best() -> None:
    assert after([1.0, 0.95], 0.1) == Best(2, 0.95, 1.0, 1)
