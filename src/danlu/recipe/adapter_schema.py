"""Recipe keys of the adapter. Names are PEFT's where PEFT has one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from danlu.recipe.base import Section, unfit

Rank = Annotated[int, Field(ge=1, le=4096)]
Scale = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Targets = Literal["all-linear", "attention"] | tuple[str, ...]
Layers = tuple[Annotated[int, Field(ge=0)], ...]

_TARGETS = "all-linear, attention, or a list of module names."
_LAYERS = "Layers that get an adapter, counted from 0; null: all of them."
_WHOLE = "Modules trained whole and saved with the adapter, such as lm_head."


class LoraSection(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685)."""

    type: Literal["lora"]
    rank: Rank = Field(16, description="Rank r of the update B·A.")
    alpha: Scale = Field(32.0, description="The update is scaled by alpha / rank.")
    dropout: Share = Field(0.0, description="Dropout on the adapter's input.")
    target_modules: Targets = Field("all-linear", description=_TARGETS)
    layers_to_transform: Layers | None = Field(None, min_length=1, description=_LAYERS)
    rank_pattern: dict[str, Rank] = Field(
        {}, description="Another rank for modules whose name ends so, as in {q_proj: 32, layers.0.mlp.up_proj: 4}."
    )
    alpha_pattern: dict[str, Scale] = Field({}, description="Another alpha, by the same names.")
    bias: Literal["none", "all", "lora_only"] = Field(
        "none", description="Biases of the base that are trained too: none, all, or those of adapted layers."
    )
    modules_to_save: tuple[str, ...] = Field((), description=_WHOLE)
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
            raise unfit("orthogonal needs even ranks", "make adapter.rank and adapter.rank_pattern even")
        if init.startswith(("olora", "pissa")) and info.data.get("use_dora"):
            what = f"{init} with use_dora can't be saved as an adapter of the unchanged base"
            raise unfit(what, "leave one of the two out")
        return init


class Ia3Section(Section):
    """A vector that scales each layer's output: (IA)³ (arXiv 2205.05638)."""

    type: Literal["ia3"]
    target_modules: Targets = Field("all-linear", description=_TARGETS)
    feedforward_modules: tuple[str, ...] = Field(
        (), description="Those of them whose input is scaled, such as down_proj."
    )
    modules_to_save: tuple[str, ...] = Field((), description=_WHOLE)


class LohaSection(Section):
    """The element-wise product of two low-rank matrices: LoHa (arXiv 2108.06098)."""

    type: Literal["loha"]
    rank: Rank = Field(8, description="Rank r of both matrices.")
    alpha: Scale = Field(8.0, description="The update is scaled by alpha / rank.")
    rank_dropout: Share = Field(0.0, description="Share of the update's rows that are left out in training.")
    module_dropout: Share = Field(0.0, description="How often a whole layer's update is left out in training.")
    target_modules: Targets = Field("all-linear", description=_TARGETS)
    layers_to_transform: Layers | None = Field(None, min_length=1, description=_LAYERS)
    rank_pattern: dict[str, Rank] = Field({}, description="Another rank for modules whose name ends so.")
    alpha_pattern: dict[str, Scale] = Field({}, description="Another alpha, by the same names.")
    modules_to_save: tuple[str, ...] = Field((), description=_WHOLE)


class LokrSection(Section):
    """A Kronecker product: LoKr (arXiv 2309.14859)."""

    type: Literal["lokr"]
    rank: Rank = Field(8, description="Rank r of the larger factor.")
    alpha: Scale = Field(8.0, description="The update is scaled by alpha / rank.")
    rank_dropout: Share = Field(0.0, description="Share of the update's rows that are left out in training.")
    module_dropout: Share = Field(0.0, description="How often a whole layer's update is left out in training.")
    decompose_both: bool = Field(False, description="Low rank of the smaller factor too.")
    decompose_factor: int = Field(-1, ge=-1, description="Size of the smaller factor; -1: near the square root.")
    target_modules: Targets = Field("all-linear", description=_TARGETS)
    layers_to_transform: Layers | None = Field(None, min_length=1, description=_LAYERS)
    rank_pattern: dict[str, Rank] = Field({}, description="Another rank for modules whose name ends so.")
    alpha_pattern: dict[str, Scale] = Field({}, description="Another alpha, by the same names.")
    modules_to_save: tuple[str, ...] = Field((), description=_WHOLE)


class VeraSection(Section):
    """Vectors beside a pair of random matrices that all layers share: VeRA (arXiv 2310.11454)."""

    type: Literal["vera"]
    rank: Rank = Field(256, description="Rank of the pair; there are far fewer parameters than in LoRA.")
    dropout: Share = Field(0.0, description="Dropout on the adapter's input.")
    d_initial: Scale = Field(0.1, description="First value of the inner vector.")
    target_modules: Targets = Field("all-linear", description=_TARGETS)
    layers_to_transform: Layers | None = Field(None, min_length=1, description=_LAYERS)
    modules_to_save: tuple[str, ...] = Field((), description=_WHOLE)


AdapterSection = Annotated[
    LoraSection | Ia3Section | LohaSection | LokrSection | VeraSection, Field(discriminator="type")
]
