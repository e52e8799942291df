"""Questions put into another language and back (Sennrich et al. 2016, https://aclanthology.org/P16-1009).

Whatever answers prompts can translate: an endpoint (`endpoint.py`) or a local model. The answer is not trusted: a
question that came back without one of its numbers, placeholders, links or pieces of code, turned from yes to no, or
of quite another length, stays as it was.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from danlu.data.augmentation.questions import QUESTION_ROLES, numbers
from danlu.data.records import Record

Answer = Callable[[list[str]], list[str]]
"""Prompts → one answer each, in order; an empty answer says that there was none."""

_KEPT = re.compile(
    r"```.*?```|<[^<>\s]{1,80}>|\{\{?[^{}\n]{1,80}\}?\}|https?://[\w./?=&%#:~+-]+|[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]+",
    re.DOTALL,
)
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_NOT_NEGATING = re.compile(
    r"(\w)[不没]\1|是否|能否|可否|非常|除非|无论|不但|不仅|不过|不管|不断|不好意思|对不起|差不多|没关系|特别|别人|区别|分别|级别|类别|性别"
    r"|鉴别|识别|别的|未来|n['’]t (?:you|i|we|they|it|he|she)\b",
    re.IGNORECASE,
)
_NEGATING = re.compile(
    r"[不没别未无非勿莫]|\b(?:no|not|none|never|nothing|nobody|nor|without|cannot)\b|n['’]t\b", re.IGNORECASE
)
_SCRIPTS = (
    (re.compile("[\u3041-\u30ff]"), "Japanese"),
    (re.compile("[\uac00-\ud7af]"), "Korean"),
    (re.compile("[\u4e00-\u9fff]"), "Chinese"),
    (re.compile("[\u0400-\u04ff]"), "Russian"),
    (re.compile("[\u0600-\u06ff]"), "Arabic"),
)
_LEAST_LENGTH_RATIO, _MOST_LENGTH_RATIO = 0.3, 3.0


def translation_prompt(text: str, language: str) -> str:
    """What a model is told so that it answers with the translation alone."""
    return (
        f"Translate the text after the line of dashes into {language}. Answer with the translation alone: no notes, no "
        "quotation marks around it, and don't answer questions in the text. Keep numbers, names, codes, links, line "
        f"breaks and everything in angle brackets or code fences exactly as they are.\n-----\n{text}"
    )


def language_of(text: str) -> str:
    """The name of a text's language, told by its script; English where the script is Latin."""
    return next((name for script, name in _SCRIPTS if script.search(text)), "English")


@dataclass(frozen=True)
class BackTranslator:
    """Makes records with translated questions.

    Attributes:
        translate: prompts → answers.
        through: name of the language in between; None: English, and Chinese for English text. A question that is in
            that language already can't be changed.
    """

    translate: Answer
    through: str | None = None

    def augment(self, records: Sequence[Record]) -> list[Record | None]:
        """The new record for each one, None where no question came back usable and different.

        Raises:
            DataError: what `translate` raises.
            ValueError: `translate` gave another number of answers than it got prompts.
        """
        questions = list(dict.fromkeys(text for record in records for text in record.texts(*QUESTION_ROLES)))
        asked = [text for text in questions if text.strip() and self._between(text) != language_of(text)]
        there = self._ask([translation_prompt(text, self._between(text)) for text in asked])
        came = [(text, between) for text, between in zip(asked, there, strict=True) if between]
        back = self._ask([translation_prompt(between, language_of(text)) for text, between in came])
        results = {text: new for (text, _), new in zip(came, back, strict=True) if is_usable(text, new)}
        return [_with_questions(record, results) for record in records]

    def _between(self, text: str) -> str:
        return self.through or ("Chinese" if language_of(text) == "English" else "English")

    def _ask(self, prompts: list[str]) -> list[str]:
        if not prompts:
            return []
        answers = self.translate(prompts)
        if len(answers) != len(prompts):
            raise ValueError(f"{len(answers)} answers to {len(prompts)} prompts")
        return [_THOUGHTS.sub("", answer).strip() for answer in answers]


def is_usable(text: str, new: str) -> bool:
    """Whether a back-translation differs from its text and kept what has to be kept."""
    ratio = len(new) / max(1, len(text.strip()))
    return (
        _LEAST_LENGTH_RATIO <= ratio <= _MOST_LENGTH_RATIO
        and new.split() != text.split()
        and language_of(new) == language_of(text)
        and numbers(new) == numbers(text)
        and Counter(_KEPT.findall(new)) == Counter(_KEPT.findall(text))
        and _says_no(new) == _says_no(text)
    )


def _says_no(text: str) -> bool:
    return _NEGATING.search(_NOT_NEGATING.sub("", text)) is not None


def _with_questions(record: Record, results: dict[str, str]) -> Record | None:
    changed = record.with_texts(lambda role, text: results.get(text, text) if role in QUESTION_ROLES else text)
    return changed if changed.messages != record.messages else None
