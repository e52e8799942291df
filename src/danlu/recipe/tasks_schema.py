"""Recipe keys of the tasks that evaluation consists of: what is asked, and what is measured of the answers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from danlu.recipe.base import Pattern, Section
from danlu.recipe.data_schema import FormatName

TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
TextMetricName = Literal[
    "bleu",
    "chrf",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "exact_match",
    "token_f1",
    "distinct_1",
    "distinct_2",
    "answer_tokens",
    "answer_characters",
    "refusal_rate",
]


class TaskSection(Section):
    """What all tasks have in common: which rows are asked."""

    name: TaskName | None = Field(
        None, description="In front of the task's metrics, as in law.accuracy; null: they stand alone."
    )
    file: str | None = Field(
        None, min_length=1, description="A file of rows, read as data.train is; null: the run's held-out rows."
    )
    format: FormatName | None = Field(None, description="The file's record form; null: seen from each row's fields.")
    columns: dict[str, str] | None = Field(
        None, description="Field of the record form: field of the file, as in {question: text, answer: category}."
    )
    group_by: str | None = Field(
        None,
        description="Field of the file whose values get figures of their own; null: `domain`, else `group`, if rows "
        "have it.",
    )
    max_rows: int | None = Field(None, ge=1, description="Measure on this many rows, spread evenly; null: on all.")

    def metric_names(self) -> tuple[str, ...]:
        """What its metrics are called in the report and in gates."""
        prefix = f"{self.name}." if self.name else ""
        return tuple(f"{prefix}{metric}" for metric in self.own_metrics())

    def own_metrics(self) -> tuple[str, ...]:
        """Its metrics, without what `name` puts before them."""
        return (self.type,)  # type: ignore[attr-defined]


class LossTask(TaskSection):
    """Mean cross-entropy per answer token (in nats) of the references."""

    type: Literal["loss"]


class TokenAccuracyTask(TaskSection):
    """Share of the references' tokens that the model finds likeliest, each after the right ones before it."""

    type: Literal["token_accuracy"]


class PerplexityTask(TaskSection):
    """Perplexity of running text: exp of the mean cross-entropy per token, each after a window of others or more."""

    type: Literal["perplexity"]
    file: str = Field(min_length=1, description="A file of text, or of rows with `text`.")
    window_tokens: int = Field(512, ge=8, le=131_072, description="Tokens predicted at once, with as many before them.")


class RougeTask(TaskSection):
    """ROUGE-L F-measure of the answers against the references (Lin, 2004)."""

    type: Literal["rouge_l"]


class AnswersTask(TaskSection):
    """Metrics of the answers' text, most of them against references."""

    type: Literal["answers"]
    metrics: tuple[TextMetricName, ...] = Field(
        ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "exact_match", "token_f1"),
        min_length=1,
        description="Which: bleu, chrf, rouge_1, rouge_2, rouge_l, exact_match, token_f1; without references "
        "distinct_1, distinct_2, answer_tokens, answer_characters, refusal_rate.",
    )

    def own_metrics(self) -> tuple[str, ...]:
        """As they are asked for."""
        return self.metrics


class Rule(Section):
    """One house rule: each key that is set must hold for the answer."""

    name: str = Field(min_length=1, description="Name in the report.")
    pattern: Pattern | None = Field(None, description="Python regular expression, searched with MULTILINE.")
    forbidden: bool = Field(False, description="true: the answer must not match the pattern.")
    json_schema: dict[str, Any] | None = Field(
        None, description="JSON Schema: the answer (or the one fenced block in it) must be JSON that fits it."
    )
    min_characters: int | None = Field(None, ge=1, description="The answer is at least this long.")
    max_characters: int | None = Field(None, ge=1, description="The answer is at most this long.")
    forbidden_words: tuple[str, ...] | None = Field(
        None, min_length=1, description="None of them is in the answer; case does not count, words are whole."
    )
    must_cite: Pattern | None = Field(
        None,
        description=r"Regular expression of a citation, as in '\[\d+\]': the answer has one, and each that it has is "
        "in the question.",
    )

    @model_validator(mode="after")
    def _asks_something(self) -> Rule:
        asked = (self.pattern, self.json_schema, self.min_characters, self.max_characters)
        if all(one is None for one in (*asked, self.forbidden_words, self.must_cite)):
            raise ValueError(
                "asks nothing: set pattern, json_schema, min_characters, max_characters, forbidden_words or must_cite"
            )
        if self.forbidden and self.pattern is None:
            raise ValueError("forbidden needs a pattern")
        return self

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is None:
            return None
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for

        try:
            validator_for(schema).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"not a JSON Schema: {error.message}") from error
        return schema


class ComplianceTask(TaskSection):
    """Share of the answers that keep every rule."""

    type: Literal["compliance"]
    rules: tuple[Rule, ...] = Field(min_length=1, description="The rules; an answer complies if it keeps all.")


class FieldTask(TaskSection):
    """Share of the answers in which a field equals the reference's."""

    type: Literal["field"]
    name: TaskName = Field(description="The field's name; it becomes the metric's name.")
    pattern: Pattern = Field(description="Regular expression whose first group is the field.")

    def metric_names(self) -> tuple[str, ...]:
        """The field's name alone."""
        return (self.name,)

    @model_validator(mode="after")
    def _has_group(self) -> FieldTask:
        if re.compile(self.pattern).groups < 1:
            raise ValueError("pattern needs one group: put the field in parentheses")
        return self


class MultipleChoiceTask(TaskSection):
    """Accuracy in questions with options: `question`, `choices` (or A, B, C, ...), `answer` (letter, place or text)."""

    type: Literal["multiple_choice"]
    file: str = Field(min_length=1, description="A file of questions with options.")
    by: Literal["likelihood", "letter"] = Field(
        "likelihood",
        description="likelihood: the option that the model finds likeliest, by token; letter: options are shown "
        "with letters, and the letter in the answer counts.",
    )

    def own_metrics(self) -> tuple[str, ...]:
        """Accuracy."""
        return ("accuracy",)


class ClassificationTask(TaskSection):
    """Accuracy and macro-F1 of labels that are found in the answers."""

    type: Literal["classification"]
    labels: tuple[str, ...] | None = Field(
        None, min_length=2, description="The labels; null: those that the references are."
    )

    def own_metrics(self) -> tuple[str, ...]:
        """Both."""
        return ("accuracy", "macro_f1")


class ConversationTask(TaskSection):
    """Talks of several turns, the model's own answers among them; checks on what it says, later on too."""

    type: Literal["conversation"]
    file: str = Field(
        min_length=1,
        description="Rows of `turns`: each {user: text, check: {contains, contains_any, absent, pattern}}, a check "
        "only where wanted; `system` beside them.",
    )

    def own_metrics(self) -> tuple[str, ...]:
        """Share of the checks, and of the talks that passed all."""
        return ("checks_passed", "conversations_passed")


class JudgeTask(TaskSection):
    """Which of base and tuned answered better, by another model that is asked twice, in both orders."""

    type: Literal["judge"]
    endpoint: str = Field(min_length=1, description="Base URL of an OpenAI-compatible server.")
    model: str = Field(min_length=1, description="The judge's name there.")
    api_key_variable: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key.")
    criteria: str = Field(
        "correct, complete, and to the point", min_length=1, description="What makes an answer the better one."
    )
    timeout_seconds: float = Field(120.0, gt=0, description="Longest silence of the server.")
    num_tries: int = Field(4, ge=1, description="Requests for one judgement, at most.")


TextTask = AnswersTask | ClassificationTask | ComplianceTask | FieldTask | JudgeTask | RougeTask
Task = Annotated[
    LossTask
    | TokenAccuracyTask
    | PerplexityTask
    | RougeTask
    | AnswersTask
    | ComplianceTask
    | FieldTask
    | MultipleChoiceTask
    | ClassificationTask
    | ConversationTask
    | JudgeTask,
    Field(discriminator="type"),
]
