"""Recipe keys of the base model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from danlu.recipe.base import Section


class FourBitQuantization(Section):
    """The base's linear layers in 4 bits (QLoRA, arXiv 2305.14314)."""

    type: Literal["nf4", "fp4"]
    double: bool = Field(True, description="Quantise the quantisation constants too: 0.4 bits less a weight.")


class EightBitQuantization(Section):
    """The base's linear layers in 8 bits (LLM.int8(), arXiv 2208.07339); what they multiply stays as it is."""

    type: Literal["int8"]


Quantization = Annotated[FourBitQuantization | EightBitQuantization, Field(discriminator="type")]


class ModelSection(Section):
    """The base model."""

    name: str = Field(
        min_length=1,
        description="Folder, .gguf file, short name, hub id or ModelScope id; tried in this order.",
    )
    revision: str | None = Field(None, description="Commit, tag or branch, for a hub or ModelScope id.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="What the base computes in. auto: bfloat16 where the processor has it, else float32. "
        "float16 trains with a gradient scaler.",
    )
    quantization: Quantization | None = Field(None, description="Linear layers in fewer bits; null: as they are.")
