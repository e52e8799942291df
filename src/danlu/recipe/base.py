"""What every section of a recipe has in common."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A part of the recipe: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


def unfit(what: str, hint: str, key: str = "") -> PydanticCustomError:
    """What a validator raises where keys do not go together.

    Args:
        what: does not fit, to be read after the key and its value.
        hint: what to do about it.
        key: of the section that is looked at, where one of its keys is to blame.
    """
    return PydanticCustomError("unfit", "{what}", {"what": what, "hint": hint, "key": key})


Pattern = Annotated[str, AfterValidator(_compiles)]
