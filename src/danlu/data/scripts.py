"""Which writing a row is in, told quickly, for the report."""

from __future__ import annotations

import re

from danlu.data.records import Record

_SAMPLE = 200
_WRITINGS = (
    ("Japanese", re.compile("[\u3041-\u3096\u30a1-\u30fa]")),
    ("Korean", re.compile("[\uac00-\ud7a3]")),
    ("Chinese", re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")),
    ("Cyrillic letters", re.compile("[\u0400-\u04ff]")),
    ("Arabic letters", re.compile("[\u0600-\u06ff]")),
    ("Latin letters", re.compile("[A-Za-z\u00c0-\u024f]")),
)
# A Chinese character says as much as some four Latin letters; a little kana makes Japanese.
_WEIGHTS = {"Japanese": 20, "Korean": 4, "Chinese": 4}


def writing_of(record: Record) -> str:
    """The writing that says most in the beginning of a row's longest text: Chinese, Latin letters, ...; or other."""
    text = max((str(message["content"]) for message in record.messages), key=len, default="")[:_SAMPLE]
    if text.isascii():
        return "Latin letters" if any(map(str.isalpha, text)) else "other"
    weights = {name: len(pattern.findall(text)) * _WEIGHTS.get(name, 1) for name, pattern in _WRITINGS}
    best = max(weights, key=lambda name: weights[name])
    return best if weights[best] else "other"
