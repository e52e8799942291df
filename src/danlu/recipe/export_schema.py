"""Recipe keys of export."""

from __future__ import annotations

from typing import Literal

from pydantic import ByteSize, Field

from danlu.recipe.base import Section


class ExportSection(Section):
    """How the merged model is written."""

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="float32 is exact; bfloat16 is half the size and the gate prints its loss."
    )
    max_shard_size: ByteSize = Field(
        ByteSize(5_000_000_000), ge=100_000, description="Largest file of weights, such as 2GB."
    )
