"""Every recipe key: its type, default, bound and meaning. Flags, messages and docs come from here."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from danlu.recipe.adapter_schema import AdapterSection, LohaSection, LokrSection, LoraSection
from danlu.recipe.base import Pattern, Section
from danlu.recipe.data_schema import DataSection
from danlu.recipe.model_schema import ModelSection
from danlu.recipe.run_schema import RunSection
from danlu.recipe.training_schema import TrainingSection


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

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        names = [getattr(task, "name", task.type) for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two tasks have the same name: {', '.join(twice)}")
        return tasks


class ExportSection(Section):
    """How the merged model is written."""

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="float32 is exact; bfloat16 is half the size and the gate prints its loss."
    )


class Recipe(Section):
    """A whole recipe. A section that is absent is off, or has its defaults."""

    model: ModelSection
    data: DataSection
    adapter: AdapterSection | None = Field(
        description="What is trained beside the frozen base, as in {type: lora, rank: 16}; null: the base itself is."
    )
    training: TrainingSection
    evaluation: EvaluationSection | None = None
    export: ExportSection = ExportSection()
    run: RunSection = RunSection()

    @field_validator("adapter")
    @classmethod
    def _can_be_trained(cls, adapter: AdapterSection | None, info: ValidationInfo) -> AdapterSection | None:
        model = info.data.get("model")
        if model is None or model.quantization is None:
            return adapter
        if adapter is None:
            raise ValueError(
                "a quantised base can't be trained itself: name an adapter, or set model.quantization=null"
            )
        if isinstance(adapter, LohaSection | LokrSection):
            raise ValueError(f"adapter.type={adapter.type} needs model.quantization=null")
        if isinstance(adapter, LoraSection) and adapter.init_lora_weights.startswith(("olora", "pissa")):
            raise ValueError(f"adapter.init_lora_weights={adapter.init_lora_weights} needs model.quantization=null")
        return adapter

    @field_validator("training")
    @classmethod
    def _has_an_end(cls, training: TrainingSection, info: ValidationInfo) -> TrainingSection:
        data = info.data.get("data")
        if data is not None and data.streaming and training.max_steps is None:
            raise ValueError("data.streaming needs training.max_steps: rows that are not counted give no end")
        return training

    @field_validator("training")
    @classmethod
    def _fits_the_adapter(cls, training: TrainingSection, info: ValidationInfo) -> TrainingSection:
        lora = "adapter" not in info.data or isinstance(info.data["adapter"], LoraSection)
        if training.loraplus_lr_ratio is not None and not lora:
            raise ValueError("training.loraplus_lr_ratio needs adapter.type=lora: without one there is no B")
        return training
