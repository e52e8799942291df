"""Exact match and token F1, as SQuAD scores answers (Rajpurkar et al., 2016), also for Chinese."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

from danlu.evaluation.metrics.interface import Given, Metric, Statistics, TextMetric
from danlu.evaluation.metrics.language import CJK

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normal_answer(text: str) -> str:
    """Lower case; without punctuation (that of Unicode too) and articles; single spaces."""
    kept = "".join(one for one in text.lower() if one not in string.punctuation and unicodedata.category(one)[0] != "P")
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(answer: str, reference: str) -> float:
    """1 if both are the same once normalised."""
    return float(normal_answer(answer) == normal_answer(reference))


def token_f1(answer: str, reference: str) -> float:
    """F1 of the tokens that both have, counted; words, and single Chinese characters. 1 if both have none."""
    given, wanted = _tokens(answer), _tokens(reference)
    if not given or not wanted:
        return float(given == wanted)
    shared = sum((Counter(given) & Counter(wanted)).values())
    return 2 * shared / (len(given) + len(wanted))


def _tokens(text: str) -> list[str]:
    return re.sub(rf"({CJK})", r" \1 ", normal_answer(text)).split()


def _exact(answer: Given, reference: str) -> Statistics:
    return (exact_match(answer.text, reference),)


def _f1(answer: Given, reference: str) -> Statistics:
    return (token_f1(answer.text, reference),)


EXACT_MATCH = TextMetric(Metric("exact_match"), _exact)
TOKEN_F1 = TextMetric(Metric("token_f1"), _f1)
