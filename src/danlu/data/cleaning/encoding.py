"""Text that was decoded with the wrong encoding (mojibake, 乱码), repaired."""

from __future__ import annotations

import re
from functools import cache

from danlu.data.cleaning.texts import change_texts
from danlu.data.records import Record

# The 300 or so most frequent characters of Chinese: what real text is half made of and a wrong repair is not.
_FREQUENT = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种"
    "事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公"
    "此已工使情明性知全三又关点正业外将两高间由问很最重并物手应向头文体政美相见被利什二等产或新己制身果加西月话合回特代内"
    "信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活更别打女变四总何电数安少报才"
    "结反受目太量再感建务做接必场件计管期市直资命山金指统区保至队形社便空决治展科司五基眼书非则听却界达光强即像难且权思"
    "设式色路记品住告类求程北边死张该交规万取服请您客款账卡订单费时间"
)
_HAN = re.compile("[\u4e00-\u9fff]")
# Bytes A1 to FE as Latin-1 shows them: all that GB2312 uses, two a character.
_RUN = re.compile("[\u00a1-\u00fe]{2,}")
_LONG_RUN = re.compile("[\u00a1-\u00fe]{6,}")


class Encoding:
    """Repairs mojibake and nothing else: quotes, ligatures, widths, line breaks stay.

    UTF-8 read as Latin-1, Windows-1252, Windows-1251, MacRoman and their like is repaired by ftfy's `fix_encoding`
    (https://ftfy.readthedocs.io). GB2312 read as Latin-1 (ÄãºÃ), which ftfy does not know, is decoded again where the
    result is plainly Chinese: at least three different ones of its most frequent characters, and a third of all.
    UTF-8 read as GBK (浣犲ソ锛屼笘鐣�, 锟斤拷) has lost bytes on its way and stays; the step `reject` with the pattern
    锟斤拷|锛|銆|鈥 drops such rows. A text that shows mojibake on purpose is repaired too.
    """

    def __init__(self) -> None:
        self.name = "encoding"

    def __call__(self, record: Record) -> Record:
        """The record with all texts and tool arguments repaired."""
        return change_texts(record, self.name, repair_encoding)


def repair_encoding(text: str) -> str:
    """The text with its mojibake repaired."""
    if text.isascii():
        return text
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    if _LONG_RUN.search(text):
        text = _from_gb2312(text)
    if not _suspects().search(text) or not is_bad(text):
        return text
    # Whole, as a short line alone may not look bad enough; then line by line, as one good line with characters outside
    # a code page keeps the whole from repair.
    text = fix_encoding(text)
    return "\n".join(line if line.isascii() else fix_encoding(line) for line in text.split("\n"))


@cache
def _suspects() -> re.Pattern[str]:
    """The characters of which ftfy's `is_bad` needs at least one: a quicker look, and Chinese text has none."""
    from ftfy.badness import MOJIBAKE_CATEGORIES

    harmless = ("common", "start_punctuation", "end_punctuation")
    return re.compile(f"[{''.join(marks for name, marks in MOJIBAKE_CATEGORIES.items() if name not in harmless)}]")


def _from_gb2312(text: str) -> str:
    """The text with GB2312 in place of Latin-1, if that makes it plainly Chinese."""
    found = _HAN.findall("".join(_gb2312(run) for run in _RUN.findall(text)))
    frequent = [character for character in found if character in _FREQUENT]
    if len(frozenset(frequent)) < 3 or len(frequent) * 3 < len(found):
        return text
    return _RUN.sub(lambda run: _gb2312(run.group()), text)


def _gb2312(run: str) -> str:
    try:
        return run.encode("latin-1").decode("gb2312")
    except UnicodeDecodeError:
        return run
