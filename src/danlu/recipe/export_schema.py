"""Recipe keys of export."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.recipe.base import Section


class ExportSection(Section):
    """How the merged model is written."""

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="float32 is exact; bfloat16 is half the size and the gate prints its loss."
    )
