"""Chinese or not, and the tokens that metrics compare."""

from __future__ import annotations

import functools
import re
from typing import Any

CJK = r"[\u3400-\u9fff\uf900-\ufaff]"
_CJK = re.compile(CJK)


def is_chinese(text: str) -> bool:
    """Whether a text has Chinese characters for at least a fifth of what is not white space."""
    characters = "".join(text.split())
    return bool(characters) and len(_CJK.findall(characters)) >= 0.2 * len(characters)


@functools.cache
def _jieba() -> Any:
    import logging
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources, and patterns of another Python
        import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba


def words(text: str) -> list[str]:
    """Lower-cased words without punctuation; Chinese ones as jieba cuts them."""
    found: list[str] = []
    for run in re.findall(rf"{CJK}+|(?:(?!{CJK})[^\W_])+", text.lower()):
        found += _jieba().lcut(run) if _CJK.match(run) else [run]
    return found


def characters_and_words(text: str) -> list[str]:
    """Lower-cased words without punctuation, each Chinese character by itself."""
    return re.findall(rf"{CJK}|(?:(?!{CJK})[^\W_])+", text.lower())
