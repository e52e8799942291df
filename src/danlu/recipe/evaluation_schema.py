"""Recipe keys of evaluation: what is measured on the held-out rows, and how."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from danlu.recipe.base import Pattern, Section
from danlu.recipe.robustness_schema import ForgettingSection, LatencySection, RobustnessSection


class LossTask(Section):
    """Mean cross-entropy per answer token on the held-out rows."""

    type: Literal["loss"]
    max_rows: int | None = Field(None, ge=1, description="Measure on this many rows, spread evenly; null: on all.")


class RougeTask(Section):
    """ROUGE-L F-measure of the answers against the references (Lin, 2004)."""

    type: Literal["rouge_l"]


class Rule(Section):
    """One house rule: a regular expression that the answer must contain (or, with `forbidden`, must not)."""

    name: str = Field(min_length=1, description="Name in the report.")
    pattern: Pattern = Field(description="Python regular expression, searched with MULTILINE.")
    forbidden: bool = Field(False, description="true: the answer must not match.")


class ComplianceTask(Section):
    """Share of the answers that keep every rule."""

    type: Literal["compliance"]
    rules: tuple[Rule, ...] = Field(min_length=1, description="The rules; an answer complies if it keeps all.")


class FieldTask(Section):
    """Share of the answers in which a field equals the reference's."""

    type: Literal["field"]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="The field's name; it becomes the metric's name.")
    pattern: Pattern = Field(description="Regular expression whose first group is the field.")

    @model_validator(mode="after")
    def _has_group(self) -> FieldTask:
        if re.compile(self.pattern).groups < 1:
            raise ValueError("pattern needs one group: put the field in parentheses")
        return self


Task = Annotated[LossTask | RougeTask | ComplianceTask | FieldTask, Field(discriminator="type")]


class EvaluationSection(Section):
    """How the tuned model is judged against its base, on the held-out rows."""

    tasks: tuple[Task, ...] = Field(
        (LossTask(type="loss"), RougeTask(type="rouge_l")), min_length=1, description="What is measured."
    )
    max_new_tokens: int = Field(256, ge=1, le=32_768, description="Longest answer in tokens.")
    batch_size: int = Field(16, ge=1, description="Questions answered at once.")
    max_rows: int | None = Field(None, ge=1, description="Judge on the first rows only; null: on all.")
    robustness: RobustnessSection | None = Field(None, description="Attacks on the questions; null: none.")
    forgetting: ForgettingSection | None = Field(None, description="The base's abilities, before and after; null: off.")
    latency: LatencySection | None = Field(None, description="How long answers take; null: not measured.")

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        names = [getattr(task, "name", task.type) for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two tasks have the same name: {', '.join(twice)}")
        return tasks
