"""Spaces, indentation and empty lines."""

from __future__ import annotations

import re

from danlu.data.cleaning.code import change_outside_fences, change_outside_inline, fenced_spans
from danlu.data.cleaning.texts import change_texts
from danlu.data.records import Record

# Unicode's space separators (category Zs) beside the plain space.
_OTHER_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_ANY_SPACES = "".join(map(chr, (0x20, 0x09, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)))
_OTHER_SPACE = re.compile(f"[{_OTHER_SPACES}]")
_RUN = re.compile(f"[ \t{_OTHER_SPACES}]{{2,}}|[{_OTHER_SPACES}]")
_EMPTY_LINES = re.compile(r"\n{3,}")
# A paragraph of Chinese or Japanese prose: its indentation is typography, not structure.
_PARAGRAPH = re.compile("[“‘《（【「『]*[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff][^\n]*[。！？…]")


class Whitespace:
    """Trims lines and the text, joins runs of spaces, leaves at most one empty line.

    A run with a tab becomes one tab, any other one space; the ideographic and the no-break space become plain.
    A line's indentation stays (code, lists, YAML), but that of ideographic spaces, of a Chinese paragraph, and of a
    first line that no indented line follows. Code in fences and backticks, tool-call arguments and tool results stay.
    """

    def __init__(self) -> None:
        self.name = "whitespace"

    def __call__(self, record: Record) -> Record:
        """The record with tidy texts.

        Raises:
            RowFault: a text was nothing but space (zero-width space counts as text here).
        """
        return change_texts(record, self.name, tidy_whitespace, spare_json=True)


def tidy_whitespace(text: str) -> str:
    """The text with its white space in order."""
    if not _may_be_untidy(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = change_outside_fences(text, _tidy_prose)
    return _trim(text)


def _may_be_untidy(text: str) -> bool:
    # One `in` is a fast search in C; each of the faults shows in one of these.
    return (
        text[:1].isspace()
        or text[-1:].isspace()
        or any(mark in text for mark in ("  ", "\t", "\r", " \n", "\n ", "\n\n\n"))
        or (not text.isascii() and _OTHER_SPACE.search(text) is not None)
    )


def _tidy_prose(text: str) -> str:
    return _EMPTY_LINES.sub("\n\n", "\n".join(_tidy_line(line) for line in text.split("\n")))


def _tidy_line(line: str) -> str:
    if line.isascii() and "  " not in line and "\t" not in line and line.strip() == line:
        return line
    body = line.lstrip(_ANY_SPACES)
    indentation = line[: len(line) - len(body)].replace("\u3000", "")
    if indentation and _PARAGRAPH.match(body):
        indentation = ""
    body = body.rstrip(_ANY_SPACES)
    return _OTHER_SPACE.sub(" ", indentation) + change_outside_inline(body, _join_runs) if body else ""


def _join_runs(text: str) -> str:
    return _RUN.sub(lambda run: "\t" if "\t" in run.group() else " ", text)


def _trim(text: str) -> str:
    """The text without empty lines at its ends, outside fences, and without a lone indentation of its first line."""
    text = text.lstrip("\n")
    fences = fenced_spans(text)
    if not fences or fences[-1][1] < len(text):
        text = text.rstrip("\n")
    following = next((line for line in text.split("\n")[1:] if line), "")
    if (fences and fences[0][0] == 0) or following[:1] in (" ", "\t"):
        return text
    return text.lstrip(" \t")
