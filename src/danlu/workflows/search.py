"""How a sweep chooses what its trials try. What is proposed depends on the trial's number, the seed and the trials
before it, and on nothing else: a sweep that was broken off goes on as it would have gone on.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from danlu.errors import Fault, RecipeError
from danlu.recipe.sweep_schema import Between, GridSearch, ListedSearch, OptunaSearch, Space, Sweep

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Attributes:
        parameters: what it tried, by recipe key.
        state: whether it ran to its end.
        loss: on the held-out rows at its end; None if it failed.
        curve: that loss by step.
    """

    parameters: Parameters
    state: Literal["complete", "pruned", "failed"]
    loss: float | None = None
    curve: dict[int, float] = field(default_factory=dict)


class Search(Protocol):
    """A way to choose.

    Attributes:
        names: of all trials, in their order.
    """

    names: list[str]

    def propose(self, number: int, before: Sequence[Outcome]) -> Parameters:
        """What a trial tries.

        Args:
            number: of the trial, from 0.
            before: what the trials before it came to.
        """
        ...

    def samples(self) -> list[tuple[str, Parameters]]:
        """What can be checked before any trial, by name: all that will be tried, or the ends of each range."""
        ...


class Listed:
    """Trials that are known beforehand."""

    def __init__(self, trials: Mapping[str, Parameters]) -> None:
        self.names, self._trials = list(trials), list(trials.values())

    def propose(self, number: int, before: Sequence[Outcome]) -> Parameters:
        """See `Search`."""
        return self._trials[number]

    def samples(self) -> list[tuple[str, Parameters]]:
        """See `Search`."""
        return list(zip(self.names, self._trials, strict=True))


class Optuna:
    """Optuna's TPE sampler (Bergstra et al., 2011), which is told of the trials before each proposal."""

    def __init__(self, space: Space, search: OptunaSearch) -> None:
        self.names, self._space, self._seed = _numbered(search.num_trials), space, search.seed

    def propose(self, number: int, before: Sequence[Outcome]) -> Parameters:
        """See `Search`."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = random.Random(f"{self._seed} {number}").getrandbits(32)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.add_trials([self._trial(outcome) for outcome in before])
        found = study.ask(self._distributions()).params
        return {key: self._value(key, value) for key, value in found.items()}

    def samples(self) -> list[tuple[str, Parameters]]:
        """See `Search`."""
        ends = {key: [one.low, one.high] if isinstance(one, Between) else list(one) for key, one in self._space.items()}
        first = {key: values[0] for key, values in ends.items()}
        others = [{**first, key: value} for key, values in ends.items() for value in values[1:]]
        return [(self.names[0], parameters) for parameters in [first, *others]]

    def _distributions(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        def distribution(tried: Any) -> Any:
            if not isinstance(tried, Between):
                return CategoricalDistribution(range(len(tried)))  # by place: a choice may be a list
            return (IntDistribution if tried.whole else FloatDistribution)(tried.low, tried.high, log=tried.log)

        return {key: distribution(tried) for key, tried in self._space.items()}

    def _value(self, key: str, found: Any) -> Any:
        tried = self._space[key]
        return found if isinstance(tried, Between) else tried[found]

    def _trial(self, outcome: Outcome) -> Any:
        from optuna.trial import TrialState, create_trial

        tried = self._space
        parameters = {
            key: value if isinstance(tried[key], Between) else list(tried[key]).index(value)
            for key, value in outcome.parameters.items()
        }
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        return create_trial(
            state=states[outcome.state],
            params=parameters,
            distributions=self._distributions(),
            value=outcome.loss if outcome.state == "complete" else None,
            intermediate_values=outcome.curve,
        )


def make_search(sweep: Sweep) -> Search:
    """What a sweep file asks for.

    Raises:
        RecipeError: it asks for Optuna, which is not installed.
    """
    search = sweep.search
    if isinstance(search, ListedSearch):
        return Listed(sweep.trials)
    if isinstance(search, OptunaSearch):
        if importlib.util.find_spec("optuna") is None:
            hint = "pip install 'danlu[sweep]', or set search={type: random, num_trials: 10}"
            raise RecipeError(Fault("Optuna is not installed", "search.type", "grid, random, listed without it", hint))
        return Optuna(sweep.space, search)
    if isinstance(search, GridSearch):
        choices = [tried for tried in sweep.space.values() if not isinstance(tried, Between)]
        combinations = [dict(zip(sweep.space, values, strict=True)) for values in itertools.product(*choices)]
    else:
        combinations = [_draw(sweep.space, f"{search.seed} {number}") for number in range(search.num_trials)]
    return Listed(dict(zip(_numbered(len(combinations)), combinations, strict=True)))


def _numbered(count: int) -> list[str]:
    return [f"trial-{number:03d}" for number in range(count)]


def _draw(space: Space, seed: str) -> Parameters:
    """One value of each, evenly."""
    draws = random.Random(seed)

    def one(tried: Any) -> Any:
        if not isinstance(tried, Between):
            return draws.choice(tried)
        if not tried.log:
            return draws.randint(tried.low, tried.high) if tried.whole else draws.uniform(tried.low, tried.high)  # type: ignore[arg-type]
        # Whole numbers have half a step more at either end, so that the ends are drawn as often as others.
        low, high = (tried.low - 0.5, tried.high + 0.5) if tried.whole else (tried.low, tried.high)
        value = math.exp(draws.uniform(math.log(low), math.log(high)))
        return min(max(round(value), tried.low), tried.high) if tried.whole else value

    return {key: one(tried) for key, tried in space.items()}


def falls_behind(curve: Mapping[int, float], before: Sequence[Outcome], after_trials: int, after_steps: int) -> bool:
    """The median rule (Golovin et al., 2017): whether a trial's best loss so far is above the median of others now.

    Args:
        curve: its loss by step, up to now.
        before: what other trials came to.
        after_trials: so many must have run to their end.
        after_steps: steps that are left alone.
    """
    step = max(curve)
    complete = [outcome for outcome in before if outcome.state == "complete"]
    now = sorted(outcome.curve[step] for outcome in complete if step in outcome.curve)
    if len(complete) < after_trials or step <= after_steps or not now:
        return False
    median = (now[(len(now) - 1) // 2] + now[len(now) // 2]) / 2
    return min(curve.values()) > median
