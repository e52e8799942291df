"""Recipe keys of evaluation beyond the recipe's own questions: attacks, what was forgotten, how long answers take."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from danlu.recipe.base import Section, unfit

AttackName = Literal[
    "typos",
    "swapped_characters",
    "homophones",
    "case",
    "whitespace",
    "paraphrase",
    "distractor",
    "other_language",
    "injection",
    "longer_context",
]
ATTACK_NAMES: tuple[AttackName, ...] = get_args(AttackName)
LanguageCode = Literal["en", "zh"]


class RobustnessSection(Section):
    """Attacks on the held-out questions: how much the scores drop."""

    attacks: tuple[AttackName, ...] = Field(
        ATTACK_NAMES, min_length=1, description="Which; one whose languages no question is in is left out, and said so."
    )
    max_rows: int | None = Field(
        50,
        ge=1,
        description="Attack so many held-out questions, spread evenly; null: all. Each attack asks them again.",
    )
    context_tokens: int = Field(512, ge=1, description="Tokens that longer_context puts before a question, at least.")
    seed: int = Field(0, ge=0, description="Of the attacks' chance and of the intervals' resampling.")

    @field_validator("attacks")
    @classmethod
    def _each_once(cls, attacks: tuple[AttackName, ...]) -> tuple[AttackName, ...]:
        return _once(attacks, "attacks")


class ForgettingSection(Section):
    """The general set, asked of the base and of the tuned model; and perplexity on general text."""

    languages: tuple[LanguageCode, ...] = Field(("en", "zh"), min_length=1, description="Of the general set.")
    max_items: int | None = Field(
        None, ge=1, description="Ask so many questions of each language, spread over the kinds; null: all 65."
    )
    max_new_tokens: int = Field(32, ge=1, le=4096, description="Longest answer in tokens.")
    perplexity: bool = Field(True, description="Also measure perplexity on the general text of each language.")

    @field_validator("languages")
    @classmethod
    def _each_once(cls, languages: tuple[LanguageCode, ...]) -> tuple[LanguageCode, ...]:
        return _once(languages, "languages")


class LatencySection(Section):
    """How long answers take, one at a time, by length of prompt."""

    prompt_tokens: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (32, 128, 512),
        min_length=1,
        description="Lengths of prompts, chat template included; too long ones are left out.",
    )
    new_tokens: int = Field(32, ge=2, description="Tokens of an answer.")
    repeats: int = Field(5, ge=1, description="Answers for each length, after one that is not counted.")
    language: LanguageCode = Field("en", description="Of the prompts.")

    @field_validator("prompt_tokens")
    @classmethod
    def _each_once(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        return _once(lengths, "prompt_tokens")


def _once(values: tuple, name: str) -> tuple:  # type: ignore[type-arg]
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise unfit(f"names {', '.join(map(str, twice))} twice", f"name each of {name} once")
    return values
