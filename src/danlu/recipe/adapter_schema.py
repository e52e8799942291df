"""Recipe keys of the adapter. Names are PEFT's where PEFT has one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from danlu.recipe.base import Section

Rank = Annotated[int, Field(ge=1, le=4096)]
Scale = Annotated[float, Field(gt=0.0)]


class LoraSection(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685)."""

    type: Literal["lora"]
    rank: Rank = Field(16, description="Rank r of the update B·A.")
    alpha: Scale = Field(32.0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input.")
    target_modules: Literal["all-linear", "attention"] | tuple[str, ...] = Field(
        "all-linear", description="all-linear, attention, or a list of module names."
    )
    layers_to_transform: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="Layers that get an adapter, counted from 0; null: all of them."
    )
    rank_pattern: dict[str, Rank] = Field(
        {}, description="Another rank for modules whose name ends so, as in {q_proj: 32, layers.0.mlp.up_proj: 4}."
    )
    alpha_pattern: dict[str, Scale] = Field({}, description="Another alpha, by the same names.")
    bias: Literal["none", "all", "lora_only"] = Field(
        "none", description="Biases of the base that are trained too: none, all, or those of adapted layers."
    )
    modules_to_save: tuple[str, ...] = Field(
        (), description="Modules trained whole and saved with the adapter, such as lm_head."
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732).")
    use_dora: bool = Field(False, description="Direction and magnitude apart (DoRA, arXiv 2402.09353).")
    init_lora_weights: str = Field(
        "default",
        pattern=r"^(default|gaussian|orthogonal|olora|pissa|pissa_niter_[1-9]\d*)$",
        description="How A and B start: default, gaussian, orthogonal, olora (arXiv 2406.01775), pissa "
        "(arXiv 2404.02948) or pissa_niter_N, its quick form of N iterations.",
    )

    @field_validator("init_lora_weights")
    @classmethod
    def _fits_the_rest(cls, init: str, info: ValidationInfo) -> str:
        ranks = [info.data.get("rank", 0), *info.data.get("rank_pattern", {}).values()]
        if init == "orthogonal" and any(rank % 2 for rank in ranks):
            raise ValueError("orthogonal needs even ranks")
        if init.startswith(("olora", "pissa")) and info.data.get("use_dora"):
            raise ValueError(f"{init} with use_dora can't be saved as an adapter of the unchanged base; leave one out")
        return init


AdapterSection = LoraSection
