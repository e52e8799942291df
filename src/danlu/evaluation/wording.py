"""The report's words: English phrases are the keys of `templates/report.zh.json`, the Chinese ones its values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Language = Literal["en", "zh"]
Say = Callable[..., str]

CHINESE: dict[str, str] = json.loads((Path(__file__).parent / "templates" / "report.zh.json").read_text("utf-8"))


def speaker(language: Language) -> Say:
    """What gives the report's phrases in a language: `say("rule: {name}", name="opening")`."""

    def say(phrase: str, **values: object) -> str:
        return (phrase if language == "en" else CHINESE[phrase]).format(**values)

    return say


ENGLISH = speaker("en")


def known(say: Say, phrase: str) -> str:
    """A phrase in the language if it is one of the report's own, else as it is: a name that a recipe gives."""
    return say(phrase) if phrase in CHINESE else phrase
