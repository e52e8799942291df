"""Where known kinds of byte-level tokenizers cut text into words, so that a text may be cut there beforehand.

A tokenizer first cuts text by a pattern and then never joins what it cut. The patterns known here never join a
letter, digit or sign to a space after it, and what they do before such a place does not depend on what follows it.
"""

from __future__ import annotations

import json
from typing import Any

# White space as widely as any Unicode version or regex engine sees it, with what trims and joins as well.
SPACE = r" \t\n\r\x0b\x0c\x1c-\x1f\x85\xa0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
_GPT2_CUTS = " \t\n\r"


def _words_before(cuts: str) -> str:
    """A word is what lies between cuts, which are before white space that starts with one of `cuts`."""
    other = SPACE.replace(cuts.encode("unicode_escape").decode(), "").lstrip(" ")
    return rf"[{SPACE}]*[^{SPACE}]+(?:[{other}][{SPACE}]*[^{SPACE}]+)*(?:[{other}][{SPACE}]*\Z)?|[{SPACE}]+"


GPT2_WORDS = _words_before(_GPT2_CUTS)
# Here signs take the line breaks after them along, so cuts are before a space and after line breaks.
_LINE_WORDS = (
    rf"[{SPACE}]*[^{SPACE}]+(?:(?:[{SPACE[1:]}][{SPACE}]*)(?<![\r\n])[^{SPACE}]+)*"
    rf"(?:[{SPACE[1:]}][{SPACE}]*(?:(?<=[\r\n])(?=[^{SPACE}])|\Z))?|[{SPACE}]+"
)

_LINE_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?LETTER+|\p{N}DIGITS"
    r"| ?[^\s\p{L}MARK\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LINE_PATTERNS = {
    _LINE_PATTERN.replace("LETTER", letter).replace("MARK", mark).replace("DIGITS", digits): digits
    for letter, mark in ((r"\p{L}", ""), (r"[\p{L}\p{M}]", r"\p{M}"))
    for digits in ("", "{1,3}")
}  # Qwen 2 to 3.5 and Llama 3, as in their tokenizer.json

# The same for ASCII alone, where letters, digits and white space are beyond doubt.
_GPT2_ASCII = r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
_LINE_ASCII = (
    r"'(?i:s|t|re|ve|m|ll|d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]DIGITS| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def word_pattern(tokenizer: Any) -> str | None:
    """The regular expression that finds words, or None if this kind of tokenizer is not known to allow cuts."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "BPE":
        return None
    if backend.model.dropout or backend.model.end_of_word_suffix or backend.model.continuing_subword_prefix:
        return None
    if backend.normalizer is not None and _state(backend.normalizer) != {"type": "NFC"}:
        return None
    steps = _pre_tokenizers(backend)
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    if last["use_regex"] and (len(steps) == 1 or (len(steps) == 2 and steps[0]["type"] == "Digits")):
        return GPT2_WORDS
    split = steps[0]
    known = (
        len(steps) == 2
        and not last["use_regex"]
        and split["type"] == "Split"
        and split["behavior"] == "Isolated"
        and not split["invert"]
        and split["pattern"].get("Regex") in _LINE_PATTERNS
    )
    return _LINE_WORDS if known else None


def ascii_pattern(tokenizer: Any) -> str:
    """The tokenizer's own pattern, one of those that `word_pattern` knows, for ASCII text."""
    first, *others = _pre_tokenizers(tokenizer.backend_tokenizer)
    if first["type"] == "Split":
        return _LINE_ASCII.replace("DIGITS", _LINE_PATTERNS[first["pattern"]["Regex"]])
    if not others:
        return _GPT2_ASCII
    # Digits were cut off before, so white space before one is at the end of its text.
    digits = "[0-9]" if first["individual_digits"] else "[0-9]+"
    return _GPT2_ASCII.replace(" ?[0-9]+", digits).replace(r"(?!\S)", r"(?![^\s0-9])")


def _pre_tokenizers(backend: Any) -> list[dict[str, Any]]:
    outer: dict[str, Any] = _state(backend.pre_tokenizer) if backend.pre_tokenizer else {"type": None}
    return list(outer["pretokenizers"]) if outer["type"] == "Sequence" else [outer]


def _state(part: Any) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state
