"""How a sweep chooses, against Optuna, itertools and closed formulas."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import random
from typing import Any

import pytest

from danlu.recipe.sweep_schema import Sweep
from danlu.workflows import search as searches
from danlu.workflows.search import Outcome, falls_behind, make_search

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"),
    reason="optuna is not installed",
)
SPACE = {
    "training.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "adapter.rank": {"low": 4, "high": 64, "log": True},
    "training.num_epochs": {"low": 1, "high": 3},
    "adapter.dropout": {"low": 0.0, "high": 0.5},
    "adapter.target_modules": ["all-linear", ["q_proj", "v_proj"]],
}


def sweep(search: dict[str, Any], **keys: Any) -> Sweep:
    return Sweep.model_validate({"recipe": "r.yaml", "search": search, **keys}, strict=False)


def loss(parameters: dict[str, Any]) -> float:
    """Least at a learning rate of 1e-3 and all modules."""
    far = math.log10(parameters["training.learning_rate"] / 1e-3) ** 2
    return far + (parameters["adapter.target_modules"] != "all-linear")


def outcomes(search: Any, count: int) -> list[Outcome]:
    before: list[Outcome] = []
    for number in range(count):
        parameters = search.propose(number, before)
        value = loss(parameters)
        states = {3: "failed", 4: "pruned"}
        before.append(Outcome(parameters, states.get(number, "complete"), value, {1: value + 1, 2: value}))  # type: ignore[arg-type]
    return before


def test_a_grid_is_every_combination_in_order() -> None:
    space = {"a.b": [1, 2, 3], "c.d": ["x", ["y", "z"]]}
    search = make_search(sweep({"type": "grid"}, space=space))
    expected = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    assert [search.propose(number, []) for number in range(6)] == expected
    assert search.names == [f"trial-{number:03d}" for number in range(6)]


def test_listed_trials_are_those_of_the_list() -> None:
    trials = {"small": {"adapter.rank": 4}, "large": {"adapter.rank": 64, "training.learning_rate": 1e-4}}
    search = make_search(sweep({"type": "listed"}, trials=trials))
    assert (search.names, [search.propose(n, []) for n in range(2)]) == (["small", "large"], list(trials.values()))


@pytest.mark.parametrize("type", ["random", pytest.param("optuna", marks=needs_optuna)])
def test_proposals_keep_to_the_space_and_hang_on_the_seed_alone(type: str) -> None:
    count = 12 if type == "optuna" else 300
    found, again, other = (
        [
            one.parameters
            for one in outcomes(make_search(sweep({"type": type, "num_trials": count, "seed": s}, space=SPACE)), count)
        ]
        for s in (1, 1, 2)
    )
    assert found == again
    assert found != other
    for one in found:
        assert 1e-5 <= one["training.learning_rate"] <= 1e-2
        assert 4 <= one["adapter.rank"] <= 64
        assert isinstance(one["adapter.rank"], int)
        assert one["training.num_epochs"] in (1, 2, 3)
        assert 0.0 <= one["adapter.dropout"] <= 0.5
        assert one["adapter.target_modules"] in ("all-linear", ["q_proj", "v_proj"])


def test_random_draws_are_even_on_the_scale_that_is_asked_for() -> None:
    search = make_search(sweep({"type": "random", "num_trials": 3000}, space=SPACE))
    found = [search.propose(number, []) for number in range(3000)]
    rates = sorted(math.log10(one["training.learning_rate"]) for one in found)
    assert rates[1500] == pytest.approx(-3.5, abs=0.1)
    assert sorted(one["adapter.dropout"] for one in found)[1500] == pytest.approx(0.25, abs=0.02)
    for value in (1, 2, 3):
        assert sum(one["training.num_epochs"] == value for one in found) == pytest.approx(1000, abs=100)


@needs_optuna
def test_optuna_goes_on_from_what_was_noted_as_if_it_had_not_been_broken_off() -> None:
    asked = sweep({"type": "optuna", "num_trials": 16, "seed": 3}, space=SPACE)
    whole = outcomes(make_search(asked), 16)
    assert make_search(asked).propose(12, whole[:12]) == whole[12].parameters
    assert make_search(asked).propose(12, whole[:11]) != whole[12].parameters, "it learns from the trials before"


@needs_optuna
def test_optuna_comes_nearer_than_chance() -> None:
    best = {}
    for type in ("optuna", "random"):
        search = {"type": type, "num_trials": 30, "seed": 0}
        best[type] = [one.loss for one in outcomes(make_search(sweep(search, space=SPACE)), 30)]
    means = {type: sum(sorted(x for x in values[10:] if x is not None)[:10]) for type, values in best.items()}
    assert means["optuna"] < means["random"]


@needs_optuna
def test_the_median_rule_is_optunas() -> None:
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    draws, pruned = random.Random(0), 0
    for _ in range(300):
        count, after_trials, after_steps = draws.randrange(6), draws.randint(1, 4), draws.choice([0, 2, 4])
        curves = [{step: draws.random() for step in range(1, draws.randint(2, 7))} for _ in range(count)]
        states = [draws.choice(["complete", "pruned"]) for _ in curves]
        before = [Outcome({}, state, curve[max(curve)], curve) for state, curve in zip(states, curves, strict=True)]  # type: ignore[arg-type]
        study = optuna.create_study(pruner=optuna.pruners.MedianPruner(after_trials, after_steps + 1))
        for one in before:
            state = TrialState.COMPLETE if one.state == "complete" else TrialState.PRUNED
            value = one.loss if one.state == "complete" else None
            study.add_trial(create_trial(state=state, value=value, intermediate_values=one.curve))
        trial, own, found, expected = study.ask(), {}, [], []
        for step in range(1, 6):
            own[step] = draws.random()
            trial.report(own[step], step)
            found.append(falls_behind(own, before, after_trials, after_steps))
            expected.append(trial.should_prune())
        assert found == expected
        pruned += sum(found)
    assert 20 < pruned < 1450, "both happen"


def test_optuna_that_is_absent_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"danlu\[sweep\]"):
        make_search(sweep({"type": "optuna", "num_trials": 2}, space=SPACE))
