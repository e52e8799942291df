"""Every recipe key: its type, default, bound and meaning. Flags, messages and docs come from here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from danlu.recipe.adapter_schema import AdapterSection, Ia3Section, LohaSection, LokrSection, LoraSection
from danlu.recipe.base import Section, unfit
from danlu.recipe.data_schema import DataSection
from danlu.recipe.evaluation_schema import EvaluationSection
from danlu.recipe.export_schema import ExportSection
from danlu.recipe.model_schema import ModelSection
from danlu.recipe.run_schema import LocalLauncher, RunSection
from danlu.recipe.tracking_schema import TrackingSection
from danlu.recipe.training_schema import FreezeSection, TrainingSection

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
