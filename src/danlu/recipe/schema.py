"""Every recipe key: its type, default, bound and meaning. Flags, messages and docs come from here."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from danlu.recipe.adapter_schema import AdapterSection, Ia3Section, LohaSection, LokrSection, LoraSection
from danlu.recipe.base import Pattern, Section, unfit
from danlu.recipe.data_schema import DataSection
from danlu.recipe.model_schema import ModelSection
from danlu.recipe.run_schema import LocalLauncher, RunSection
from danlu.recipe.tracking_schema import TrackingSection
from danlu.recipe.training_schema import FreezeSection, TrainingSection


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


AdapterName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


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
    tracking: TrackingSection | None = None
    run: RunSection = RunSection()
    adapters: dict[AdapterName, dict[str, Any]] | None = Field(
        None,
        min_length=1,
        description="Several adapters over one base in one run, by name (a-z, 0-9, _, -), each with what it has of its "
        "own, as in {small: {adapter.rank: 4, training.learning_rate: 1.0e-3}}; null: one, as the recipe says.",
    )

    @field_validator("adapter")
    @classmethod
    def _can_be_trained(cls, adapter: AdapterSection | None, info: ValidationInfo) -> AdapterSection | None:
        model = info.data.get("model")
        if model is None or model.quantization is None:
            return adapter
        if adapter is None:
            hint = "name an adapter, as in adapter={type: lora}; or set model.quantization=null"
            raise unfit("a quantised base can't be trained itself", hint)
        what = "needs model.quantization=null"
        if isinstance(adapter, Ia3Section | LohaSection | LokrSection):
            raise unfit(what, "set that, or take lora or vera", "type")
        if isinstance(adapter, LoraSection) and adapter.init_lora_weights.startswith(("olora", "pissa")):
            raise unfit(what, "set that, or take default, gaussian or orthogonal", "init_lora_weights")
        return adapter

    @field_validator("training")
    @classmethod
    def _has_an_end(cls, training: TrainingSection, info: ValidationInfo) -> TrainingSection:
        data = info.data.get("data")
        if data is not None and data.streaming and training.max_steps is None:
            what = "data.streaming needs it: rows that are not counted give no end"
            raise unfit(what, "set training.max_steps=1000, or however many; or data.streaming=false", "max_steps")
        return training

    @field_validator("training")
    @classmethod
    def _has_rows_to_go_by(cls, training: TrainingSection, info: ValidationInfo) -> TrainingSection:
        data = info.data.get("data")
        if data is None or data.evaluation is not None:
            return training
        keeps_best = training.checkpoints is not None and training.checkpoints.keep_best
        asked = {
            "early_stopping": (training.early_stopping is not None, ""),
            "save": (training.save == "best", ""),
            "checkpoints": (keeps_best, "keep_best "),
        }
        for key, what in ((key, what) for key, (is_asked, what) in asked.items() if is_asked):
            hint = "set data.evaluation={share: 0.1}, or name a file of held-out rows; or leave this out"
            raise unfit(f"{what}needs held-out rows, and data.evaluation is null", hint, key)
        return training

    @field_validator("training")
    @classmethod
    def _fits_the_adapter(cls, training: TrainingSection, info: ValidationInfo) -> TrainingSection:
        if "adapter" not in info.data:
            return training
        adapter = info.data["adapter"]
        if training.loraplus_lr_ratio is not None and not isinstance(adapter, LoraSection):
            what = "needs adapter.type=lora: without one there is no B"
            raise unfit(what, "leave it out, or set adapter={type: lora}", "loraplus_lr_ratio")
        if training.freeze != FreezeSection() and adapter is not None:
            what = "needs adapter=null: beside an adapter, all of the base is frozen"
            raise unfit(what, "leave it out; adapter.layers_to_transform chooses the layers of an adapter", "freeze")
        return training

    @field_validator("adapters")
    @classmethod
    def _are_trained_here(cls, adapters: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if adapters and "run" in info.data and not isinstance(info.data["run"].launcher, LocalLauncher):
            raise unfit("needs run.launcher={type: local}", "set that, or train one adapter after the other")
        return adapters
