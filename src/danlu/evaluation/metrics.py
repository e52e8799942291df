"""Scores of one answer: each between 0 and 1, each with its definition."""

from __future__ import annotations

import functools
import re
from typing import Any

from danlu.recipe.evaluation_schema import ComplianceTask, FieldTask, Rule

_CJK = r"[\u3400-\u9fff\uf900-\ufaff]"
_WORD = re.compile(rf"{_CJK}|[^\W_]+", re.UNICODE)


class _WordsAndCharacters:
    """Tokenizer for ROUGE: words, and each Chinese character by itself."""

    def tokenize(self, text: str) -> list[str]:
        """Lower-cased tokens."""
        return _WORD.findall(re.sub(rf"({_CJK})", r" \1 ", text.lower()))


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_WordsAndCharacters())


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F-measure (Lin, 2004) by rouge-score, words and single Chinese characters as tokens."""
    score: float = _scorer().score(reference, answer)["rougeL"].fmeasure
    return score


def keeps(rule: Rule, answer: str) -> bool:
    """Whether an answer keeps one rule."""
    return bool(re.search(rule.pattern, answer, re.MULTILINE)) != rule.forbidden


def complies(task: ComplianceTask, answer: str) -> float:
    """1 if the answer keeps every rule of the task."""
    return float(all(keeps(rule, answer) for rule in task.rules))


def field_value(task: FieldTask, text: str) -> str | None:
    """The field in a text: the first group of the pattern's first match."""
    found = re.search(task.pattern, text, re.MULTILINE)
    return found.group(1) if found else None


def field_matches(task: FieldTask, answer: str, reference: str) -> float:
    """1 if the field is in the answer and equals the reference's."""
    value = field_value(task, answer)
    return float(value is not None and value == field_value(task, reference))
