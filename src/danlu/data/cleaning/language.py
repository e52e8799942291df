"""Rows in the languages that are wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import Any

from danlu.data.cleaning.code import without_code
from danlu.data.records import Record, RowFault
from danlu.errors import DataError, Fault

# What py3langid 0.4 is asked to choose from, beside the languages to keep: with all its 140 it takes English for
# Nigerian Pidgin and Chinese for Wu.
_COMMON = (
    "ar bg bn ca cs da de el en es fa fi fr he hi hr hu id it ja ko ms nl no pl pt ro ru sk sr sv th tr uk ur vi zh"
)
_OTHERS = (
    "af am an as az ba be br bs cy dz eo et eu fo fy ga gd gl gu ha ht hy ig is jv ka kk km kn ku ky la lb lg ln lo lt "
    "lv mg mk ml mn mr mt my ne nn oc om or pa ps qu rw sa se si sl sn so sq st sw ta te tg tk tl tt ug uz vo wa xh yo "
    "zu"
)
LANGUAGES = tuple(sorted(f"{_COMMON} {_OTHERS}".split()))

_SAMPLE = 300
# What the languages to keep may have, and another one must have, of the probability for a text to be foreign.
_MOST_KEPT, _LEAST_OTHER = 0.05, 0.3
# A Chinese character says as much as some four Latin letters; twice that, as half the text may be a quotation.
_LETTERS_PER_CHARACTER = 8
_URL = re.compile(r"https?://\S+|\S+@\S+\.\w+")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]+")
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]+")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]+")
_WORD = re.compile("[a-z']+")
# Words of English; of the other common languages with plain letters, none has two of them.
_ENGLISH_WORDS = (
    "the and of with that this these those from have which you your what how are were would could should been their "
    "there they where when about it my not but into between using make write give describe explain create generate "
    "find identify following sentence why who please did does don't i'm it's"
)
_ENGLISH = frozenset(_ENGLISH_WORDS.split())


class Language:
    """Keeps rows whose every text is in one of some languages.

    Each text of the conversation is judged by itself, without code, addresses and URLs, by its first 300 characters;
    tool calls and results are not judged. Chinese, Japanese and Korean are told by their scripts, all else by
    py3langid (naive Bayes over byte n-grams, Lui and Baldwin 2012). A text is only foreign if the languages to keep
    have less than 0.05 of the probability and another one at least 0.3: a list of names has no language. A text in two
    scripts (a Chinese sentence full of English names, a phrase to be translated) may count as either. Simplified,
    traditional and Cantonese are all `zh`.
    """

    def __init__(self, keep: Sequence[str], min_characters: int = 20) -> None:
        """Builds the step.

        Raises:
            DataError: a language that can't be told.
        """
        unknown = [code for code in keep if code not in LANGUAGES]
        if unknown:
            hint = "two small letters, such as zh or en"
            raise DataError(
                *(
                    Fault(f"unknown language {code!r}", "data.cleaning.keep", ", ".join(LANGUAGES), hint)
                    for code in unknown
                )
            )
        self.name = "language"
        self._keep = tuple(sorted(set(keep)))
        self._min_characters = min_characters

    def __call__(self, record: Record) -> Record:
        """The record as it is.

        Raises:
            RowFault: a text is in another language.
        """
        for message in [*record.messages, *record.rejected]:
            content = message.get("content")
            if message["role"] == "tool" or not isinstance(content, str):
                continue
            other = self.foreign(content)
            if other:
                raise RowFault(f"other language: {other} in a {message['role']} text")
        return record

    def foreign(self, text: str) -> str:
        """The text's language if it is none to keep; empty if it is, is too short, or nothing can be said for sure."""
        if len(text) < self._min_characters:
            return ""
        sample = text[:_SAMPLE] if "`" not in text and "~~~" not in text else without_code(text)[:_SAMPLE]
        if "://" in sample or "@" in sample:
            sample = _URL.sub(" ", sample)
        if len(sample.strip()) < self._min_characters:
            return ""
        script, others = _by_script(sample)
        if script in self._keep:
            return ""
        if script and not others:
            return script
        if "en" in self._keep and _is_plainly_english(sample):
            return ""
        return script or self._by_model(_outside_east_asian(sample))

    def _by_model(self, sample: str) -> str:
        # Letters, not characters: a table of figures has no language.
        if sum(map(len, re.findall(r"[^\W\d_]+", sample))) < self._min_characters / 2:
            return ""
        classifier = _classifier(self._keep)
        ranking = classifier.rank(sample)
        kept = sum(probability for language, probability in ranking if language in self._keep)
        language, probability = ranking[0]
        return str(language) if kept < _MOST_KEPT and probability >= _LEAST_OTHER else ""


def _by_script(sample: str) -> tuple[str, bool]:
    """`zh`, `ja`, `ko` or "" by script, and whether enough Latin letters stand beside it to be another language."""
    if sample.isascii():
        return "", True
    han, kana, hangul = (_count(pattern, sample) for pattern in (_HAN, _KANA, _HANGUL))
    letters = _count(_LATIN, sample)
    east_asian = han + kana + hangul
    if not east_asian or east_asian * _LETTERS_PER_CHARACTER < letters:
        return "", True
    # Japanese is a third kana or more; Chinese quotes a name or a sentence in it now and then.
    chinese_or_japanese = "ja" if kana * 3 > han + kana else "zh"
    return "ko" if hangul > (han + kana) / 2 else chinese_or_japanese, letters > east_asian


def _count(pattern: re.Pattern[str], text: str) -> int:
    return len("".join(pattern.findall(text)))


def _outside_east_asian(sample: str) -> str:
    return sample if sample.isascii() else _HAN.sub(" ", _KANA.sub(" ", _HANGUL.sub(" ", sample)))


def _is_plainly_english(sample: str) -> bool:
    """Whether at least two words, and a tenth of all, are English ones: quicker and surer than the model."""
    words = _WORD.findall(sample.lower())
    found = [word for word in words if word in _ENGLISH]
    return len(frozenset(found)) >= 2 and len(found) * 10 >= len(words)


@cache
def _classifier(keep: tuple[str, ...]) -> Any:
    # A copy shares the model's arrays; which languages it chooses from is its own.
    classifier = copy(_model())
    classifier.set_languages(sorted({*_COMMON.split(), *keep}))
    return classifier


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped, unused-ignore]

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
