"""Where the code in a text is: fenced blocks and inline code, as CommonMark has them."""

from __future__ import annotations

import re
from collections.abc import Callable

# https://spec.commonmark.org/0.31.2/#fenced-code-blocks; any indentation, as fences within lists have it.
_FENCE = re.compile(
    r"^[^\S\n]*(?:>[^\S\n]*)*(?:(?:[-*+]|\d{1,9}[.)])[^\S\n]+)?(`{3,}(?=[^`\n]*$)|~{3,})([^\n]*)$", re.MULTILINE
)
# https://spec.commonmark.org/0.31.2/#code-spans, on one line.
_INLINE = re.compile(r"(?<!`)(`+)(?!`)[^\n]*?(?<!`)\1(?!`)")
Spans = list[tuple[int, int]]


def fenced_spans(text: str) -> Spans:
    """Start and end of each fenced block, fences included; one that is never closed reaches to the end."""
    if "```" not in text and "~~~" not in text:
        return []
    spans: Spans = []
    start, fence = -1, ""
    for found in _FENCE.finditer(text):
        mark, rest = found.group(1), found.group(2)
        if start < 0:
            start, fence = found.start(), mark
        elif mark[0] == fence[0] and len(mark) >= len(fence) and not rest.strip():
            spans.append((start, found.end()))
            start = -1
    return [*spans, (start, len(text))] if start >= 0 else spans


def code_spans(text: str) -> Spans:
    """Start and end of each fenced block and each piece of inline code, in order."""
    if "`" not in text and "~~~" not in text:
        return []
    spans: Spans = []
    end = 0
    for start, stop in [*fenced_spans(text), (len(text), len(text))]:
        spans += [found.span() for found in _INLINE.finditer(text, end, start)]
        if start < stop:
            spans.append((start, stop))
        end = stop
    return spans


def without_code(text: str) -> str:
    """The text without its code."""
    return _joined(text, code_spans(text), str, lambda _: " ")


def hide_code(text: str) -> str:
    """The text, equally long, with NUL characters for code, so that positions found in it hold in the text."""
    return _joined(text, code_spans(text), str, lambda code: "\0" * len(code))


def change_outside_fences(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` done to what stands between fenced blocks."""
    return _joined(text, fenced_spans(text), change, str)


def change_outside_inline(line: str, change: Callable[[str], str]) -> str:
    """The line with `change` done to what stands between inline code."""
    if "`" not in line:
        return change(line)
    return _joined(line, [found.span() for found in _INLINE.finditer(line)], change, str)


def _joined(text: str, spans: Spans, outside: Callable[[str], str], inside: Callable[[str], str]) -> str:
    pieces, end = [], 0
    for start, stop in spans:
        pieces += [outside(text[end:start]), inside(text[start:stop])]
        end = stop
    return "".join([*pieces, outside(text[end:])])
