"""Every recipe key: its type, default, bound and meaning. Flags, messages and docs come from here."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ByteSize, Field, ValidationInfo, field_validator, model_validator

from danlu.recipe.base import Pattern, Section
from danlu.recipe.data_schema import DataSection


class ModelSection(Section):
    """The base model."""

    name: str = Field(
        min_length=1,
        description="Folder, .gguf file, short name, hub id or ModelScope id; tried in this order.",
    )
    revision: str | None = Field(None, description="Commit, tag or branch, for a hub or ModelScope id.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="What the base computes in. auto: bfloat16 where the processor has it, else float32.",
    )


class LoraSection(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685)."""

    type: Literal["lora"]
    rank: int = Field(16, ge=1, le=4096, description="Rank r of the update B·A.")
    alpha: float = Field(32.0, gt=0.0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input.")
    target_modules: Literal["all-linear", "attention"] | tuple[str, ...] = Field(
        "all-linear", description="all-linear, attention, or a list of module names."
    )
    layers_to_transform: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="Layers that get an adapter, counted from 0; null: all of them."
    )


class SftObjective(Section):
    """Supervised fine-tuning: cross-entropy on answer tokens."""

    type: Literal["sft"]


class ThreePhaseSchedule(Section):
    """Linear warm-up, cosine, then a held floor."""

    type: Literal["three_phase"]
    warmup_share: float = Field(0.1, ge=0.0, le=1.0, description="Share of the steps that warm up.")
    floor_share: float = Field(0.05, ge=0.0, le=1.0, description="Share of the steps at the floor.")
    floor_learning_rate: float = Field(1.0e-6, ge=0.0, description="Learning rate of the last phase.")

    @model_validator(mode="after")
    def _shares_fit(self) -> ThreePhaseSchedule:
        if self.warmup_share + self.floor_share > 1.0:
            raise ValueError("warmup_share + floor_share must be at most 1")
        return self


class ConstantSchedule(Section):
    """Linear warm-up, then the same rate to the end."""

    type: Literal["constant"]
    warmup_share: float = Field(0.0, ge=0.0, le=1.0, description="Share of the steps that warm up.")


Schedule = Annotated[ThreePhaseSchedule | ConstantSchedule, Field(discriminator="type")]


class TrainingSection(Section):
    """How the adapter is fitted."""

    objective: SftObjective = Field(SftObjective(type="sft"), description="What is minimised.")
    learning_rate: float = Field(2.0e-4, gt=0.0, le=1.0, description="Peak learning rate.")
    schedule: Schedule = Field(ThreePhaseSchedule(type="three_phase"), description="Learning rate by step.")
    num_epochs: float = Field(1.0, gt=0.0, le=10_000.0, description="Passes over the training rows; may be a part.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps.")
    global_batch_size: int = Field(8, ge=1, description="Rows per optimizer step, over all processes.")
    micro_batch_tokens: int = Field(
        1024,
        ge=1,
        description="Most computed tokens per forward pass (one row may exceed it); memory follows it.",
    )
    activation_checkpointing: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of the layers whose activations are computed again in the backward pass, to save memory.",
    )
    max_memory: ByteSize | None = Field(
        None,
        gt=0,
        description="Most resident memory, such as 3GB: smaller micro-batches and checkpointed layers keep to it.",
    )
    weight_decay: float = Field(0.0, ge=0.0, description="Decoupled weight decay of AdamW.")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="AdamW's first moment decay.")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="AdamW's second moment decay.")
    max_gradient_norm: float | None = Field(1.0, gt=0.0, description="Gradients are clipped to this norm.")
    evaluate_every_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between evaluation losses; null: at each epoch's end."
    )
    evaluation_max_rows: int | None = Field(
        None, ge=1, description="Held-out rows, spread evenly, that these losses are taken on; null: all."
    )


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


class RunSection(Section):
    """Where a run is kept and what makes it repeatable."""

    folder: str | None = Field(None, min_length=1, description="Run folder; null: runs/<name of the recipe file>.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the split, the order and the adapter.")


class Recipe(Section):
    """A whole recipe. A section that is absent is off, or has its defaults."""

    model: ModelSection
    data: DataSection
    adapter: LoraSection
    training: TrainingSection
    evaluation: EvaluationSection | None = None
    export: ExportSection = ExportSection()
    run: RunSection = RunSection()

    @field_validator("training")
    @classmethod
    def _has_an_end(cls, training: TrainingSection, info: ValidationInfo) -> TrainingSection:
        data = info.data.get("data")
        if data is not None and data.streaming and training.max_steps is None:
            raise ValueError("data.streaming needs training.max_steps: rows that are not counted give no end")
        return training
