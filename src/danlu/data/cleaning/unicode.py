"""Equal characters in one form."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from danlu.data.cleaning.texts import change_texts
from danlu.data.records import Record

_WIDE = re.compile("[\u3000０-９Ａ-Ｚａ-ｚ]+")
_TO_HALF = {0x3000: " ", **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}}
# Signs that are no Chinese punctuation. Between half-width letters or digits they are part of a number, a name, an
# address; elsewhere they may be decoration (＊＊＊) and stay. ％ follows a digit; ＋, － and ＄ may stand before one.
_SIGN = re.compile(r"[．－／＠＿＝＆＋＊＃](?<=[0-9A-Za-z].)(?=[0-9A-Za-z])|％(?<=[0-9].)|[＋－＄](?=[0-9])")


class Unicode:
    """Brings equal characters to one form.

    `full_width`: full-width letters and digits and the ideographic space become half-width, everywhere; the full-width
    signs ．－／＠＿＝＆＋＊＃ between two half-width letters or digits, ％ after a digit and ＋－＄ before one as well.
    Chinese punctuation （，。！？：；、（）【】《》“”～￥） stays, between digits too: １２：３０ becomes 12：30.
    `form`: NFC joins letters and accents. NFKC is Unicode's own and goes further: it makes Chinese punctuation
    half-width too, ² a 2, ① a 1, ㎡ m2.
    """

    def __init__(self, form: Literal["NFC", "NFKC"] = "NFC", full_width: bool = True) -> None:
        self.name = "unicode"
        self._form = form
        self._full_width = full_width

    def __call__(self, record: Record) -> Record:
        """The record with all texts and tool arguments in that form."""
        return change_texts(record, self.name, self.normalized)

    def normalized(self, text: str) -> str:
        """The text in that form."""
        if text.isascii():
            return text
        # Width before form: an accent behind a full-width letter joins it only once it is half-width.
        if self._full_width:
            text = _WIDE.sub(_to_half, text)
        if not unicodedata.is_normalized(self._form, text):
            text = unicodedata.normalize(self._form, text)
        return _SIGN.sub(_to_half, text) if self._full_width else text


def _to_half(found: re.Match[str]) -> str:
    return found.group().translate(_TO_HALF)
