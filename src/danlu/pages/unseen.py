"""Characters that can't be seen, made visible: a reader must see what is in a row, and no row may rule the page."""

from __future__ import annotations

import re

# Control, format and private-use characters and half characters (Unicode categories Cc, Cf, Co, Cs, Zl, Zp), but not
# line break and tab; bidi controls turn text around, NUL is not allowed in HTML, a lone surrogate can't be encoded.
_UNSEEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    r"\ud800-\udfff\ue000-\uf8ff\U000e0000-\U000e007f\U000f0000-\U0010ffff"
)
_PATTERN = re.compile(f"[{_UNSEEN}]")
# Joiners hold emoji and some scripts together, so they are shown only where they are what changed.
_WITH_JOINERS = re.compile(f"[{_UNSEEN}\u200c\u200d]")


def show_unseen(text: str, joiners: bool = False) -> str:
    """The text with each character that can't be seen as `[U+XXXX]`; can be encoded as UTF-8.

    Args:
        text: any text. CR LF becomes LF.
        joiners: show zero-width joiners and non-joiners too.
    """
    pattern = _WITH_JOINERS if joiners else _PATTERN
    return pattern.sub(lambda found: f"[U+{ord(found.group()):04X}]", text.replace("\r\n", "\n"))


def one_line(text: str, max_characters: int) -> str:
    """The text for a label: on one line, all to be seen, cut with … after `max_characters`."""
    text = " ".join(text[: 4 * max_characters].split())
    short = text if len(text) <= max_characters else text[: max_characters - 1] + "…"
    return show_unseen(short)
