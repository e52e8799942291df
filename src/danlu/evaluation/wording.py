"""The report's words: English phrases are the keys of `templates/report.zh.json`, the Chinese ones its values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

Language = Literal["en", "zh"]
Say = Callable[..., str]

# Metrics whose names are not words.
NAMES = {"rouge_l": "ROUGE-L", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "bleu": "BLEU", "chrf": "chrF"}
_SIDES = ("better", "worse", "higher", "lower")
_FEW_ROWS = 30
_TEMPLATES = Path(__file__).parent / "templates"
CHINESE: dict[str, str] = json.loads((_TEMPLATES / "report.zh.json").read_text("utf-8"))
TOLD: dict[str, str] = json.loads((_TEMPLATES / "told.zh.json").read_text("utf-8"))


def speaker(language: Language) -> Say:
    """What gives the report's phrases in a language: `say("rule: {name}", name="opening")`."""

    def say(phrase: str, **values: object) -> str:
        return (phrase if language == "en" else CHINESE[phrase]).format(**values)

    return say


ENGLISH = speaker("en")


def known(say: Say, phrase: str) -> str:
    """A phrase in the language if it is one of the report's own, else as it is: a name that a recipe gives."""
    return say(phrase) if phrase in CHINESE else phrase


def named(metric: str, say: Say = ENGLISH) -> str:
    """A metric's name in words."""
    return NAMES.get(metric) or known(say, metric.replace("_", " "))


def reteller(language: Language) -> Callable[[str], str]:
    """What says in a language the English sentences that a run brings along, such as its verdict's.

    They are the keys of `templates/told.zh.json`; what is not among them stays as it is.
    """
    return _retold if language == "zh" else str


def _retold(text: str) -> str:
    parts = text.split("; ")
    told = [_told(part) for part in parts]
    return text if told == parts else "；".join(told)


def _told(sentence: str) -> str:
    for english, chinese in TOLD.items():
        form = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(english))
        if found := re.fullmatch(form, sentence):
            return chinese.format(**found.groupdict())
    return sentence


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
        said.setdefault(one["verdict"], []).append(named(name, say))
    names = {verdict: say(", ").join(each) for verdict, each in said.items()}
    parts = [say(f"{word} in {{names}}", names=names[word]) for word in _SIDES if word in names]
    if parts:
        text = say("The tuned model is {parts} than {first}", parts=say(" and ").join(parts), first=first)
        if "no difference" in names:
            text += say("; no difference beyond noise in {names}", names=names["no difference"])
        text += say(".")
    else:
        text = say("No difference between the tuned model and {first} that is more than noise.", first=first)
    caution = _caution(compared, say)
    return f"{text} {caution}" if caution else text


def _caution(compared: dict[str, dict[str, Any]], say: Say) -> str:
    """That few rows hide small differences, and in which metrics if not in all; empty where there are enough."""
    judged = {name: one for name, one in compared.items() if one["verdict"] != "not judged"} or compared
    few = {name: one["rows"] for name, one in judged.items() if one["rows"] < _FEW_ROWS}
    if not few:
        return ""
    rows = min(few.values())
    if len(few) == len(judged):
        return say("Only {rows} rows: small differences can't be seen.", rows=rows)
    names = say(", ").join(named(name, say) for name in few)
    return say("Only {rows} rows in {names}: small differences can't be seen there.", rows=rows, names=names)
