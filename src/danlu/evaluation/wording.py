"""The report's words: English phrases are the keys of `templates/report.zh.json`, the Chinese ones its values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

Language = Literal["en", "zh"]
Say = Callable[..., str]

# Metrics whose names are not words.
NAMES = {"rouge_l": "ROUGE-L", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "bleu": "BLEU", "chrf": "chrF"}
_FEW_ROWS = 30
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


def verdict_sentence(compared: dict[str, dict[str, Any]], first: str | None = None, say: Say = ENGLISH) -> str:
    """What changed, in one sentence and without adjectives; of few rows, also that small differences can't be seen.

    Args:
        compared: comparisons by metric, each with its `verdict` and `rows`.
        first: whom the tuned model is compared with; None: its base.
        say: gives the words.
    """
    first = first or say("its base")
    said: dict[str, list[str]] = {}
    for name, one in compared.items():
        said.setdefault(one["verdict"], []).append(NAMES.get(name, name.replace("_", " ")))
    names = {verdict: ", ".join(each) for verdict, each in said.items()}
    parts = [say(f"{word} in {{names}}", names=names[word]) for word in ("better", "worse") if word in names]
    if parts:
        text = say("The tuned model is {parts} than {first}", parts=say(" and ").join(parts), first=first)
        if "no difference" in names:
            text += say("; no difference beyond noise in {names}", names=names["no difference"])
        text += say(".")
    else:
        text = say("No difference between the tuned model and {first} that is more than noise.", first=first)
    few = min((one["rows"] for one in compared.values()), default=_FEW_ROWS)
    caution = say("Only {rows} rows: small differences can't be seen.", rows=few)
    return f"{text} {caution}" if few < _FEW_ROWS else text
