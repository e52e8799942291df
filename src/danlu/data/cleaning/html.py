"""HTML out of the text: tags, entities, scripts, comments."""

from __future__ import annotations

import html
import re
from html.entities import html5

from danlu.data.cleaning.code import hide_code
from danlu.data.cleaning.html_tags import TAG, Tag, markup, tag_of
from danlu.data.cleaning.texts import change_texts
from danlu.data.records import Record

_TOKEN = re.compile(
    rf"{TAG}|(?P<comment><!--)|(?P<doctype><!DOCTYPE\s[^<>]{{1,300}}>)"
    r"|(?P<entity>&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});)",
    re.IGNORECASE,
)
_CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("script", "style")}
# &amp;amp;lt; is escaped three times over: one level a round would make long chains slow.
_AMPERSANDS = re.compile(r"&(?:(?:amp|#0*38|#[xX]0*26);)+")
_MOST_ROUNDS = 10
Edit = tuple[int, int, str]


class Html:
    """Removes HTML tags and comments, scripts and styles with their content, and resolves entities.

    `<br>`, paragraphs, list items, rows become line breaks, at most two in a row; cells a space; `<pre>` a fenced block
    and `<code>` inline code. What a tag is, is said in `html_tags`: `a < b`, `List<int>`, `<name>` stay. Code in
    fences and backticks, tool-call arguments and tool results are left alone. A page that an answer gives as code
    without a fence is markup to this step.
    """

    def __init__(self) -> None:
        self.name = "html"

    def __call__(self, record: Record) -> Record:
        """The record without HTML.

        Raises:
            RowFault: a text was nothing but markup.
        """
        return change_texts(record, self.name, without_html, spare_json=True)


def without_html(text: str) -> str:
    """The text without HTML; what was escaped more than once is cleaned as often, up to ten times."""
    for _ in range(_MOST_ROUNDS):
        if "<" not in text and "&" not in text:
            return text
        cleaned = _one_round(text)
        if cleaned == text:
            return text
        text = cleaned
    return text


def _one_round(text: str) -> str:
    hidden = hide_code(text)
    edits, tags = _tokens(hidden)
    for tag in markup(hidden, tags):
        edits.append((tag.start, tag.end, _meaning(hidden, tag)))
    return _edited(text, sorted(edits)) if edits else text


def _tokens(text: str) -> tuple[list[Edit], list[Tag]]:
    """Entities, comments and scripts as edits, and the tags between them."""
    edits: list[Edit] = []
    tags: list[Tag] = []
    position = 0
    unclosed = set()
    while found := _TOKEN.search(text, position):
        start, position = found.span()
        if found["entity"]:
            edits += _entity(text, found)
            position = max(position, edits[-1][1] if edits else 0)
        elif found["doctype"]:
            edits.append((start, position, ""))
        else:
            kind = "comment" if found["comment"] else found["name"].lower() if not found["close"] else ""
            end = _end_of_block(text, kind, position) if kind not in unclosed else -1
            if end > 0:
                edits.append((start, end, ""))
                position = end
            elif kind in _CLOSING or kind == "comment":
                unclosed.add(kind)
            if end < 0 and not found["comment"]:
                tags.append(tag_of(found))
    return edits, tags


def _end_of_block(text: str, kind: str, start: int) -> int:
    """Where a comment, script or style that begins there ends; -1 if it has no end, or is none of them."""
    if kind == "comment":
        end = text.find("-->", start)
        return end + 3 if end >= 0 else -1
    closing = _CLOSING[kind].search(text, start) if kind in _CLOSING else None
    return closing.end() if closing else -1


def _entity(text: str, found: re.Match[str]) -> list[Edit]:
    chain = _AMPERSANDS.match(text, found.start())
    if chain:
        return [(chain.start(), chain.end(), "&")]
    name = found["entity"]
    if name[1] != "#" and name[1:] not in html5:
        return []
    return [(found.start(), found.end(), html.unescape(name).replace("\u00a0", " "))]


def _meaning(text: str, tag: Tag) -> str:
    """What stands in the tag's place."""
    if tag.name not in ("pre", "code") or not tag.partner:
        return tag.breaks
    first, second = (tag.partner, tag) if tag.closing else (tag, tag.partner)
    content = text[first.end : second.start]
    if "`" in content or "\0" in content or not content.strip():
        return tag.breaks
    if tag.name == "code":
        return "" if "\n" in content or "<pre" in text[max(0, first.start - 40) : first.start] else "`"
    return "\n```\n"


def _edited(text: str, edits: list[Edit]) -> str:
    out, end = "", 0
    pieces: list[str] = []
    for start, stop, new in edits:
        if start < end:
            continue
        kept = text[end:start]
        pieces.append(kept)
        out = (out + kept)[-2:]
        if (new == "\n" and out in ("", "\n\n")) or (new == " " and not out.rstrip(" \n")):
            new = ""
        pieces.append(new)
        out = (out + new)[-2:]
        end = stop
    return "".join([*pieces, text[end:]]).strip("\n")
