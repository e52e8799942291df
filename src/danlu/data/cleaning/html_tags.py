"""What a tag is: the names of HTML, and which of the things in angle brackets in a text are markup."""

from __future__ import annotations

import re
from dataclasses import dataclass


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


# https://html.spec.whatwg.org/multipage/indices.html#elements-3 and the obsolete ones of section 16.2.
_VOID = _names("area base br col embed hr img input link meta param source track wbr")
# These mean something without attributes; <input>, <source> and their like are then placeholders in a command line.
_BARE_VOID = frozenset(("br", "hr", "wbr"))
_OPTIONAL_END = _names("body colgroup dd dt head html li option p tbody td tfoot th thead tr")
_BLOCKS = _names(
    "address article aside blockquote body br center caption dd details dialog div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li main menu nav ol optgroup option p pre search "
    "section select summary table tbody tfoot thead title tr ul"
)
_CELLS = frozenset(("td", "th"))
_INLINE = _names(
    "a abbr acronym applet audio b bdi bdo big button canvas cite code colgroup data datalist del dfn dir em font "
    "frame frameset i iframe ins kbd label map mark marquee math meter nobr noframes noscript object output picture "
    "progress q rp rt ruby s samp script slot small span strike strong style sub sup svg template textarea time tt u "
    "var video"
)
# Also the names of fields in XML; left alone in a text that has pairs of tags that are not HTML's.
_FIELD_NAMES = _names(
    "address article body data details form head header footer label link map menu object output section source "
    "summary table time title var"
)
NAMES = _VOID | _OPTIONAL_END | _BLOCKS | _CELLS | _INLINE
_ATTRIBUTE = r"""\s+[^\s"'<>/=]{1,100}(?:\s*=\s*(?:"[^"]{0,4000}"|'[^']{0,4000}'|[^\s"'=<>`]{1,2000}))?"""
TAG = rf"<(?P<close>/?)(?P<name>[A-Za-z][A-Za-z0-9_.:-]{{0,40}})(?P<attributes>(?:{_ATTRIBUTE}){{0,40}})\s*/?>"
# What stands between the two tags of a pair that is only spoken about: "<html> and </html>".
_MENTION = re.compile(r"\s*(?:and|or|和|与|及|或|、|,|，|/|\.\.\.|…)\s*")


@dataclass
class Tag:
    """A thing in angle brackets.

    Attributes:
        start: position of `<`.
        end: position after `>`.
        name: in lower case.
        closing: `</name>`.
        bare: without attributes.
        partner: the other tag of the pair, if there is one.
    """

    start: int
    end: int
    name: str
    closing: bool
    bare: bool
    partner: Tag | None = None

    @property
    def breaks(self) -> str:
        """What the tag stands for: a line break, a space between cells, or nothing."""
        if self.name in _BLOCKS:
            return "\n"
        return " " if self.name in _CELLS and not self.closing else ""


def tag_of(found: re.Match[str]) -> Tag:
    """The tag of a match of `TAG`. Names in MixedCase are kept as they are: `List<Button>` is no HTML."""
    name = found["name"]
    return Tag(
        found.start(),
        found.end(),
        name.lower() if name.isupper() else name,
        bool(found["close"]),
        not found["attributes"],
    )


def markup(text: str, tags: list[Tag]) -> list[Tag]:
    """Those tags that are markup, in order; the others are generics, comparisons, placeholders, XML or mentions.

    Markup is: a pair of an HTML element, unless both tags stand between spaces as in "the <b> tag and the </b> tag", or
    have no more than "and" between them; a void element (without attributes only br, hr and wbr); one side of a pair
    where HTML lets the other be left out, or a stray closing tag, unless it stands after a space or word as in "the
    <p> element".
    """
    _pair(tags)
    xml = any(tag.partner and tag.name not in NAMES for tag in tags)
    return [tag for tag in tags if tag.name in NAMES and not (xml and tag.name in _FIELD_NAMES) and _is(text, tag)]


def _pair(tags: list[Tag]) -> None:
    opened: dict[str, list[Tag]] = {}
    for tag in tags:
        if not tag.closing:
            opened.setdefault(tag.name, []).append(tag)
        elif opened.get(tag.name):
            tag.partner = opened[tag.name].pop()
            tag.partner.partner = tag


def _is(text: str, tag: Tag) -> bool:
    if tag.name in _VOID:
        return tag.name in _BARE_VOID or (not tag.bare and not tag.closing)
    if tag.partner:
        first, second = (tag.partner, tag) if tag.closing else (tag, tag.partner)
        return not (first.bare and _alone(text, first) and _alone(text, second)) and not _MENTION.fullmatch(
            text, first.end, second.start
        )
    before = text[tag.start - 1] if tag.start else "\n"
    if tag.closing:
        return before != " "
    return tag.name in _OPTIONAL_END and (before == "\n" or not (before.isspace() or before.isalnum()))


def _alone(text: str, tag: Tag) -> bool:
    return tag.start > 0 and text[tag.start - 1] == " " and text[tag.end : tag.end + 1] == " "
