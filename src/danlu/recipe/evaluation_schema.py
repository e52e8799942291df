"""Recipe keys of evaluation: what is measured, against what, and which figures let a run pass."""

from __future__ import annotations

import difflib

from pydantic import Field, ValidationInfo, field_validator, model_validator

from danlu.recipe.base import Section, unfit
from danlu.recipe.robustness_schema import ForgettingSection, LatencySection, RobustnessSection
from danlu.recipe.tasks_schema import (
    AnswersTask,
    ClassificationTask,
    ComplianceTask,
    ConversationTask,
    FieldTask,
    JudgeTask,
    LossTask,
    MultipleChoiceTask,
    PerplexityTask,
    RougeTask,
    Rule,
    Task,
    TaskSection,
    TokenAccuracyTask,
)

__all__ = [
    "AnswersTask",
    "ClassificationTask",
    "ComplianceTask",
    "ConversationTask",
    "EvaluationSection",
    "FieldTask",
    "GateRule",
    "JudgeTask",
    "LossTask",
    "MultipleChoiceTask",
    "PerplexityTask",
    "RougeTask",
    "Rule",
    "Task",
    "TaskSection",
    "TokenAccuracyTask",
]
FINISHED = "finished"


class GateRule(Section):
    """One condition on a metric of the tuned model; with a lower-is-better metric, a gain is a decrease."""

    metric: str = Field(min_length=1, description="A metric's name, as in the report.")
    group: str | None = Field(None, min_length=1, description="Only the rows of this group; null: all.")
    min: float | None = Field(None, description="The tuned model has at least this.")
    max: float | None = Field(None, description="The tuned model has at most this.")
    min_gain: float | None = Field(None, description="It is better by at least this, in the metric's own unit.")
    max_drop: float | None = Field(None, ge=0.0, description="It is worse by at most this.")
    against: str = Field(
        "base", min_length=1, description="What gain and drop are from: base, or one of evaluation.compare_with."
    )

    @model_validator(mode="after")
    def _asks_something(self) -> GateRule:
        if all(one is None for one in (self.min, self.max, self.min_gain, self.max_drop)):
            raise ValueError("asks nothing: set min, max, min_gain or max_drop")
        return self


class EvaluationSection(Section):
    """How the tuned model is judged against its base, and against earlier runs."""

    tasks: tuple[Task, ...] = Field(
        (LossTask(type="loss"), RougeTask(type="rouge_l")), min_length=1, description="What is measured."
    )
    max_new_tokens: int = Field(256, ge=1, le=32_768, description="Longest answer in tokens.")
    batch_size: int = Field(16, ge=1, description="Questions answered at once.")
    max_rows: int | None = Field(None, ge=1, description="Judge on the first held-out rows only; null: on all.")
    compare_with: tuple[str, ...] = Field(
        (), description="Earlier runs (or their report folders) that this one is also compared with, on the same rows."
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1.0, description="Of the intervals; a difference within them is called no difference."
    )
    resamples: int = Field(
        2000, ge=200, le=100_000, description="Of the paired bootstrap, and of the randomisation test."
    )
    seed: int = Field(0, ge=0, description="Of the resamples.")
    gates: tuple[GateRule, ...] = Field(
        (), description="Conditions for exit status 0, as in [{metric: compliance, min: 0.95}]."
    )
    robustness: RobustnessSection | None = Field(None, description="Attacks on the held-out questions; null: none.")
    forgetting: ForgettingSection | None = Field(None, description="General questions and text; null: none.")
    latency: LatencySection | None = Field(None, description="How long answers take; null: not measured.")

    def metric_names(self) -> tuple[str, ...]:
        """All that the report will have a figure for."""
        return (*(name for task in self.tasks for name in task.metric_names()), FINISHED)

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        names = [name for task in tasks for name in task.metric_names()] + [FINISHED]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"two tasks have the same name: {', '.join(twice)}; set name: in one of them, to stand before"
            )
        return tasks

    @field_validator("gates")
    @classmethod
    def _are_of_what_is_measured(cls, gates: tuple[GateRule, ...], info: ValidationInfo) -> tuple[GateRule, ...]:
        if "tasks" not in info.data or "compare_with" not in info.data:
            return gates
        known = [name for task in info.data["tasks"] for name in task.metric_names()] + [FINISHED]
        others = ("base", *info.data["compare_with"])
        for rule in gates:
            if rule.metric not in known:
                near = difflib.get_close_matches(rule.metric, known, 1)
                hint = f"did you mean `{near[0]}`?" if near else "measure it: add a task to evaluation.tasks"
                raise unfit(f"has no metric `{rule.metric}` to go by; there are {', '.join(known)}", hint)
            if rule.against not in others:
                hint = "add it to evaluation.compare_with, or take one of them"
                raise unfit(f"is against `{rule.against}`; there are {', '.join(others)}", hint)
        return gates
