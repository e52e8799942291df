"""Control, zero-width, private-use and direction characters."""

from __future__ import annotations

import re

from danlu.data.cleaning.texts import change_texts
from danlu.data.records import Record

_LINE_BREAK = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Scripts in which a joiner or non-joiner changes the letters beside it: Arabic to Syriac and N'Ko, Indic, Myanmar,
# Khmer, Mongolian (The Unicode Standard 16.0, section 23.2).
_JOINING = "\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u180d\u180f-\u18af"
_EMOJI = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff"
)
# A flag such as Wales: black flag, tag letters, end tag (Unicode Technical Standard 51, ED-14a).
_TAG_SEQUENCE = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,8}\U000e007f"
_REMOVED = re.compile(
    f"({_TAG_SEQUENCE})"
    "|[\\x00-\\x08\\x0e-\\x1f\\x7f-\\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ue000-\uf8ff\ufeff\ufff9-\ufffc\ufffe\uffff\U000e0000-\U000e007f\U000f0000-\U0010ffff]"
    f"|(?<![{_JOINING}])\u200c"
    f"|(?<![{_JOINING}{_EMOJI}])\u200d|(?<=[{_EMOJI}])\u200d(?![{_EMOJI}])"
)


class ControlCharacters:
    """Removes what can't be seen and has no business in a text.

    Removed: C0 and C1 controls but tab and line feed; zero-width space, word joiner, byte order mark, soft hyphen;
    direction marks and embeddings; private use and noncharacters; tag characters outside a flag. Kept: variation
    selectors, U+FFFD (it shows that something was lost), the zero-width joiner between emoji, joiner and non-joiner
    after a letter of a script that needs them (Persian, Hindi). Each line break of any kind becomes a line feed.
    """

    def __init__(self) -> None:
        self.name = "control_characters"

    def __call__(self, record: Record) -> Record:
        """The record without them, in all texts and tool arguments.

        Raises:
            RowFault: a text had nothing else.
        """
        return change_texts(record, self.name, without_control_characters)


def without_control_characters(text: str) -> str:
    """The text without them."""
    # Quick way out: all of them but U+FFFC are what Python calls not printable (as are line feed, tab, wide spaces).
    if text.replace("\n", "").replace("\t", "").isprintable() and "\ufffc" not in text:
        return text
    return _REMOVED.sub(r"\1", _LINE_BREAK.sub("\n", text))
