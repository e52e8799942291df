"""Keys of a sweep file: a recipe, and what is tried of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from danlu.recipe.base import Section, unfit

_MOST_TRIALS = 10_000
TrialName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class Between(Section):
    """Numbers between two bounds."""

    low: int | float = Field(description="Smallest.")
    high: int | float = Field(description="Largest.")
    log: bool = Field(False, description="true: even on a logarithmic scale.")

    @model_validator(mode="after")
    def _bounds_fit(self) -> Between:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("with log, low must be above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Choices = Annotated[tuple[Any, ...], Field(min_length=1)]
Space = dict[str, Between | Choices]


class GridSearch(Section):
    """Every combination of the choices."""

    type: Literal["grid"]


class RandomSearch(Section):
    """Combinations drawn at random."""

    type: Literal["random"]
    num_trials: int = Field(ge=1, le=_MOST_TRIALS, description="How many.")
    seed: int = Field(0, ge=0, description="Of the draws.")


class OptunaSearch(Section):
    """Combinations that Optuna's TPE sampler proposes after those that it has seen."""

    type: Literal["optuna"]
    num_trials: int = Field(ge=1, le=_MOST_TRIALS, description="How many.")
    seed: int = Field(0, ge=0, description="Of the sampler.")


class ListedSearch(Section):
    """The combinations that `trials` lists, by name."""

    type: Literal["listed"]


Search = Annotated[GridSearch | RandomSearch | OptunaSearch | ListedSearch, Field(discriminator="type")]


class MedianPruning(Section):
    """A trial ends early once its best evaluation loss is above the median of the others' at that step."""

    type: Literal["median"]
    after_trials: int = Field(3, ge=1, description="Trials that must have run to their end first.")
    after_steps: int = Field(0, ge=0, description="Steps of each trial that are left alone.")


class Sweep(Section):
    """Trials of one recipe, each with values of its own; judged by the loss on held-out rows."""

    recipe: str = Field(min_length=1, description="The recipe file, from here or beside this file.")
    folder: str | None = Field(None, min_length=1, description="Sweep folder; null: runs/<name of this file>.")
    set: dict[str, Any] = Field({}, description="Recipe keys, dotted, that all trials have otherwise than the recipe.")
    search: Search = Field(GridSearch(type="grid"), description="How combinations are chosen.")
    space: Space = Field(
        {}, description="What is tried of each recipe key: a list of values, or {low: 1.0e-4, high: 1.0e-2, log: true}."
    )
    trials: dict[TrialName, dict[str, Any]] = Field(
        {}, description="For search {type: listed}: recipe keys and values of each trial, by name (a-z, 0-9, _, -)."
    )
    pruning: MedianPruning | None = Field(None, description="Trials that fall behind end early; null: none do.")

    @field_validator("space")
    @classmethod
    def _has_what_is_tried(cls, space: Space, info: ValidationInfo) -> Space:
        search = info.data.get("search")
        if isinstance(search, ListedSearch):
            if space:
                raise unfit("needs another search than listed", "leave it out, or set search={type: grid}")
            return space
        if not space:
            raise unfit("is empty: there is nothing to try", "name a recipe key: training.learning_rate: [1e-4, 1e-3]")
        ranges = [key for key, tried in space.items() if isinstance(tried, Between)]
        if ranges and isinstance(search, GridSearch):
            what = f"has a range in {', '.join(ranges)}, of which a grid has no end"
            raise unfit(what, "list the values, or set search={type: random, num_trials: 10}")
        return space

    @field_validator("trials")
    @classmethod
    def _are_listed(cls, trials: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        listed = isinstance(info.data.get("search"), ListedSearch)
        if listed and not trials:
            raise unfit("is empty: there is nothing to try", "name a trial: small: {adapter.rank: 4}")
        if trials and "search" in info.data and not listed:
            raise unfit("needs search={type: listed}", "set that, or leave it out")
        return trials
