"""Rules that answers must keep: patterns, JSON Schema, length, forbidden words, citations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from danlu.data.questions import Question
from danlu.evaluation.metrics import Given, Metric
from danlu.evaluation.metrics.language import CJK
from danlu.evaluation.tasks.interface import Scores, TaskBase
from danlu.recipe.tasks_schema import ComplianceTask, Rule

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n\s*```", re.DOTALL | re.IGNORECASE)


def keeps(rule: Rule, answer: str, question: str = "") -> bool:
    """Whether an answer keeps one rule, all of its keys that are set.

    Args:
        rule: from the recipe.
        answer: the text.
        question: the text of the conversation before it, where cited sources must stand.
    """
    return all(check(rule, answer, question) for check in _CHECKS)


def _pattern(rule: Rule, answer: str, question: str) -> bool:
    return rule.pattern is None or bool(re.search(rule.pattern, answer, re.MULTILINE)) != rule.forbidden


def _length(rule: Rule, answer: str, question: str) -> bool:
    at_least, at_most = rule.min_characters or 0, rule.max_characters
    return at_least <= len(answer) and (at_most is None or len(answer) <= at_most)


def _words(rule: Rule, answer: str, question: str) -> bool:
    return not any(holds_word(answer, word) for word in rule.forbidden_words or ())


def holds_word(text: str, word: str) -> bool:
    """Whether a word or phrase is in a text; case does not count, and it is no part of a longer one.

    Chinese is written without gaps, so there it may stand anywhere.
    """
    left = r"(?<!\w)" if word[:1].isalnum() and not re.match(CJK, word[:1]) else ""
    right = r"(?!\w)" if word[-1:].isalnum() and not re.match(CJK, word[-1:]) else ""
    return bool(re.search(left + re.escape(word) + right, text, re.IGNORECASE))


def _schema(rule: Rule, answer: str, question: str) -> bool:
    if rule.json_schema is None:
        return True
    from jsonschema.validators import validator_for

    fenced = _FENCE.findall(answer)
    try:
        value = json.loads(fenced[0] if len(fenced) == 1 else answer)
    except (ValueError, RecursionError):
        return False
    return bool(validator_for(rule.json_schema)(rule.json_schema).is_valid(value))


def _citations(rule: Rule, answer: str, question: str) -> bool:
    if rule.must_cite is None:
        return True
    cited = {found.group(0) for found in re.finditer(rule.must_cite, answer)}
    known = {found.group(0) for found in re.finditer(rule.must_cite, question)}
    return bool(cited) and cited <= known


_CHECKS: tuple[Callable[[Rule, str, str], bool], ...] = (_pattern, _length, _words, _schema, _citations)


class RulesTask(TaskBase):
    """See `AnswerTask`."""

    needs_reference = False

    def __init__(self, section: ComplianceTask) -> None:
        super().__init__(section, Metric("compliance"))
        self._rules = section.rules

    def score(self, question: Question, answer: Given) -> Scores:
        """1 if every rule is kept."""
        asked = _text(question)
        return {self.names[0]: (float(all(keeps(rule, answer.text, asked) for rule in self._rules)),)}

    def details(self, questions: Sequence[Question], answers: Sequence[Given]) -> dict[str, Any]:
        """`rules`: the rate of each."""
        pairs = [(answer.text, _text(question)) for question, answer in zip(questions, answers, strict=True)]
        return {
            "rules": {
                rule.name: sum(keeps(rule, answer, asked) for answer, asked in pairs) / max(1, len(pairs))
                for rule in self._rules
            }
        }


def _text(question: Question) -> str:
    return "\n".join(str(message["content"]) for message in question.messages)
