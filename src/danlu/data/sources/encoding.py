"""Which encoding a text file is in, told from all of its bytes, and its content as UTF-8."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from danlu.data.sources.blocks import Identity, blocks
from danlu.errors import DataError, Fault

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)
_GB18030 = "GB18030"
_ENOUGH_HANZI = 20_000
# EUC-KR text decodes as usual hanzi too: what tells is whose commonest characters are met more often.
_COMMONEST = set(
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可里后小么心多天而能好都然没日于起还发成事只作当想看文无开手用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理"
)

_COMMONEST_HANGUL = set("이다는을가의에고도를하지은로기사어한나자아리시라인대서")


def encoding_of_file(path: Path, shown: str, identity: Identity) -> str:
    """The encoding of a text file: "UTF-8", "GB18030", "UTF-16-LE", "UTF-16-BE", "UTF-32-LE" or "UTF-32-BE".

    The whole file is looked through once (twice if it is not UTF-8) in bounded memory, since one odd byte may stand
    anywhere. GB18030, which also covers GBK and GB2312, is taken only where every byte fits and the characters are
    ones that Chinese text is made of: other encodings of East Asia often decode without an error too.

    Args:
        path: a local file.
        shown: its name in messages.
        identity: of the file; the answer is kept for as long as that stays.

    Raises:
        DataError: it is in none of them; the byte is named.
    """
    return _detect(path, shown, identity)


@lru_cache(maxsize=4096)
def _detect(path: Path, shown: str, identity: Identity) -> str:
    head = next(blocks(path, shown), b"")
    for mark, name in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            _require(path, shown, name)
            return name
    wide = _utf16_without_mark(head, 0.1)
    if wide and _first_fault(path, shown, wide) is None:
        return wide
    fault = _first_fault(path, shown, "UTF-8")
    if fault is None:
        return "UTF-8"
    if _is_chinese(path, shown):
        return _GB18030
    wide = _utf16_without_mark(head, 0.0)
    if wide and _first_fault(path, shown, wide) is None:
        return wide
    raise _not_utf8(path, shown, "UTF-8", fault)


def utf8_blocks(path: Path, shown: str, encoding: str) -> Iterator[bytes]:
    """The content as UTF-8 without a byte order mark, whatever encoding the file is in."""
    content = blocks(path, shown)
    if encoding != "UTF-8":
        content = _transcoded(path, shown, content, encoding)
    first = next(content, b"")
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from content


def _transcoded(path: Path, shown: str, content: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for block in content:
            if text := decoder.decode(block):
                yield text.encode()
        yield decoder.decode(b"", True).encode()
    except UnicodeError as error:  # the check before found none, so it is being written to
        raise _not_utf8(path, shown, encoding, (0, 0, False)) from error


_Fault = tuple[int, int, bool]


def _first_fault(path: Path, shown: str, encoding: str) -> _Fault | None:
    """The offset of the first byte that does not fit, the byte, and whether it is only the end that is missing."""
    decode: Any = getattr(codecs, encoding.lower().replace("-", "_") + "_decode")
    rest, offset = b"", 0
    for block in blocks(path, shown):
        data = rest + block
        try:
            _, used = decode(data, "strict", False)
        except UnicodeDecodeError as error:
            return offset + error.start, data[error.start], False
        rest, offset = data[used:], offset + used
    return (offset, rest[0], True) if rest else None


def _require(path: Path, shown: str, encoding: str) -> None:
    fault = _first_fault(path, shown, encoding)
    if fault:
        raise _not_utf8(path, shown, encoding, fault)


def _utf16_without_mark(head: bytes, least_share: float) -> str | None:
    """UTF-16 shows in zero bytes that stand on one side of the pairs: half of each ASCII character."""
    if len(head) < 4:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    pairs = len(head) // 2
    if max(even, odd) < 2 or max(even, odd) <= least_share * pairs or min(even, odd) * 4 > max(even, odd):
        return None
    name = "UTF-16-LE" if odd > even else "UTF-16-BE"
    text = head[: pairs * 2].decode(name, "ignore")
    # Text has line ends or quotes; chance pairs of bytes do not.
    return name if re.search('[\n",]', text) else None


def _is_chinese(path: Path, shown: str) -> bool:
    """Whether the file decodes as GB18030 throughout, into characters that Chinese is written with."""
    decoder = codecs.getincrementaldecoder(_GB18030)()
    hanzi: list[str] = []
    try:
        for block in blocks(path, shown):
            text = decoder.decode(block)
            if "\0" in text:
                return False
            if len(hanzi) < _ENOUGH_HANZI and not text.isascii():
                hanzi += re.findall(r"[^\x00-\x7f\u2000-\u206f\u3000-\u303f\uff00-\uffef\U00010000-\U0010ffff]", text)[
                    :_ENOUGH_HANZI
                ]
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    usual = sum(character in _usual_hanzi() for character in hanzi)
    return usual >= 0.7 * len(hanzi) and not _is_korean(hanzi)


def _is_korean(hanzi: list[str]) -> bool:
    hangul = "".join(hanzi).encode(_GB18030).decode("euc_kr", "replace")
    korean = sum(character in _COMMONEST_HANGUL for character in hangul)
    return korean > 0.15 * len(hanzi) and korean > sum(character in _COMMONEST for character in hanzi)


@lru_cache(maxsize=1)
def _usual_hanzi() -> frozenset[str]:
    """The 3,755 characters of the first level of GB 2312, rows 16 to 55."""
    block = b"".join(bytes((row, cell)) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return frozenset(block.decode("gb2312", "ignore"))


def _not_utf8(path: Path, shown: str, encoding: str, fault: _Fault) -> DataError:
    offset, byte, at_end = fault
    name = path.name
    hint = f"convert it, with its encoding in place of BIG5: iconv -f BIG5 -t UTF-8 {name} > utf8{path.suffix}"
    if at_end:
        hint = "the file ends within a character: it was cut off; compare it with the original"
    return DataError(
        Fault(f"not {encoding}: byte {offset} is 0x{byte:02x}", shown, "UTF-8, UTF-16 with its mark, or GB18030", hint)
    )
