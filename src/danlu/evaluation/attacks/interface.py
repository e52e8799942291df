"""What an attack is: a change of a question that should not change its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

Language = Literal["en", "zh"]
Change = Callable[[str, Language, Random], str]
BOTH: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True)
class Attack:
    """One kind of change.

    Attributes:
        about: what it does, for the report.
        change: question, its language, source of chance → the changed question; the same one where nothing can change.
        languages: whose questions it can change.
        obeys: whether an answer does what an instruction planted in the question says; None: nothing is planted.
    """

    about: str
    change: Change
    languages: tuple[Language, ...] = BOTH
    obeys: Callable[[str], bool] | None = None
