"""The table of what is looked for by form: kind, what the text must have at all, candidates, and who accepts them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from danlu.data.privacy import addresses, numbers

# Same length, so that places in the changed text are places in the text.
_NARROW = {0xFF01 + offset: 0x21 + offset for offset in range(94) if chr(0x21 + offset).isalnum()}
_NARROW |= {ord(wide): ord(narrow) for wide, narrow in zip("＠＋－．＿–\u00a0\u3000", "@+-._-  ", strict=True)}
_WIDE = re.compile("[" + "".join(map(chr, _NARROW)) + "]")


@dataclass(frozen=True)
class Anchor:
    """What a text must hold to be searched, and how far around it: most texts hold none, and cost one search.

    Attributes:
        pattern: cheap to search.
        before: characters in front of it that are searched.
        after: characters behind it that are searched.
        sign: a character without which there can be none; empty: there is no such.
        needs_digit: without a digit in the text there can be none.
    """

    pattern: re.Pattern[str]
    before: int
    after: int
    sign: str = ""
    needs_digit: bool = True

    def zones(self, text: str) -> list[tuple[int, int]]:
        """Begin and end of the parts of a text to search, in order, joined where they meet."""
        joined: list[tuple[int, int]] = []
        for match in self.pattern.finditer(text):
            start, end = max(0, match.start() - self.before), match.end() + self.after
            if joined and start <= joined[-1][1]:
                joined[-1] = joined[-1][0], end
            else:
                joined.append((start, end))
        return joined


@dataclass(frozen=True)
class Recogniser:
    """One way to find one kind.

    Attributes:
        kind: as in data.masking.kinds.
        anchor: where to look; recognisers with the same one share its search.
        candidates: what may be such a value.
        accept: the place of the value in the text, or null for a near miss.
    """

    kind: str
    anchor: Anchor
    candidates: re.Pattern[str]
    accept: Callable[[str, re.Match[str]], tuple[int, int] | None]


_DIGIT = re.compile("[0-9]")
_SEVEN_DIGITS = Anchor(re.compile(r"[0-9](?:[ \-.()（）]{0,2}[0-9]){6,}"), 18, 20)
_AT = Anchor(re.compile("@"), 65, 255, sign="@", needs_digit=False)
_DOTTED = Anchor(re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]"), 4, 10)
_COLONS = Anchor(re.compile(r":[0-9A-Fa-f]{0,4}:"), 5, 45, sign=":")
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_AREA = r"(?:10|2[0-57-9]|[3-9][0-9]{2})"
_WORD = r"(?<![0-9A-Za-z])"
_END = r"(?![0-9A-Za-z])"

# Earlier rows win where two of them find overlapping places.
RECOGNISERS: tuple[Recogniser, ...] = (
    Recogniser(
        "email",
        _AT,
        re.compile(
            r"[A-Za-z0-9_][A-Za-z0-9._%+\-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}"
        ),
        numbers.email,
    ),
    Recogniser(
        "iban",
        _SEVEN_DIGITS,
        # The run is looked at, not taken: it may go on into words, and the next account number.
        re.compile(_WORD + r"(?=([A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11,32}))[A-Za-z]{2}[0-9]{2}"),
        numbers.iban,
    ),
    Recogniser(
        "social_credit_code",
        _SEVEN_DIGITS,
        re.compile(_WORD + r"[0-9A-HJ-NPQRTUWXYa-hj-npqrtuwxy]{2}[0-9]{6}[0-9A-HJ-NPQRTUWXYa-hj-npqrtuwxy]{10}" + _END),
        numbers.social_credit_code,
    ),
    Recogniser(
        "resident_id",
        _SEVEN_DIGITS,
        re.compile(
            _WORD + r"[1-9][0-9]{5}(?:[ -]?(?:18|19|20)[0-9]{2}[01][0-9][0-3][0-9][ -]?[0-9]{3}[0-9Xx]"
            r"|[0-9]{2}[01][0-9][0-3][0-9]{4})" + _END
        ),
        numbers.resident_id,
    ),
    Recogniser(
        "mobile",
        _SEVEN_DIGITS,
        re.compile(
            r"(?:(?<![0-9A-Za-z.+])|(?<=[A-Za-z])(?=[(（]))(?<![0-9]-)"
            r"(?:[(（]?(?:\+|00)?86[)）]?[- ]?)?1[3-9][0-9][ \-.]?"
            r"[0-9]{4}[ \-.]?[0-9]{4}(?![0-9A-Za-z]|-[0-9])"
        ),
        numbers.mobile,
    ),
    Recogniser(
        "bank_card",
        _SEVEN_DIGITS,
        re.compile(r"(?<![0-9A-Za-z.])(?<![0-9][ -])[0-9](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z]|[ -][0-9])"),
        numbers.bank_card,
    ),
    Recogniser(
        "landline",
        _SEVEN_DIGITS,
        re.compile(
            r"(?<![0-9A-Za-z.])(?<![0-9]-)(?:(?P<country>[(（]?\+?86[)）]?[- ]?)?"
            rf"(?:[(（](?P<bracketed>0{_AREA})[)）]|(?P<area>(?:0|(?<=86)|(?<=86.)){_AREA}))"
            r"(?P<joint>[- ]?))?[2-8][0-9]{2,3}[- ]?[0-9]{4}"
            r"(?:\s?(?:转|分机|ext\.?|-)\s?[0-9]{1,5})?(?![0-9A-Za-z]|-[0-9])"
        ),
        numbers.landline,
    ),
    Recogniser(
        "ssn",
        _SEVEN_DIGITS,
        re.compile(r"(?<![0-9A-Za-z])(?<![0-9][ -])[0-9]{3}([- ]?)[0-9]{2}\1[0-9]{4}(?![0-9A-Za-z]|[ -][0-9])"),
        numbers.ssn,
    ),
    Recogniser(
        "passport",
        _SEVEN_DIGITS,
        re.compile(_WORD + r"(?:[A-Z]{0,2}[0-9]{7,9})" + _END),
        numbers.passport,
    ),
    Recogniser(
        "phone",
        _SEVEN_DIGITS,
        re.compile(
            r"(?<![0-9A-Za-z.])(?<![0-9][-/])(?P<number>(?P<american>(?:(?:\+|00)?1[-. ]?)?"
            r"(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-. ]?)[2-9][0-9]{2}[-. ]?[0-9]{4})"
            r"|\+[0-9](?:[-. ()]{0,2}[0-9]){7,14}|0[0-9](?:[- ]?[0-9]){8,9}|[2-9][0-9]{2}[- .][0-9]{4})"
            r"(?:\s?(?:x|ext\.?)\s?[0-9]{1,6})?(?![0-9A-Za-z]|[-./][0-9A-Za-z])"
        ),
        numbers.phone,
    ),
    Recogniser(
        "ip",
        _DOTTED,
        re.compile(rf"(?:(?<=[Ii][Pp])|(?<![0-9A-Za-z.]))(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9A-Za-z]|\.[0-9])"),
        numbers.ip_v4,
    ),
    Recogniser(
        "ip",
        _COLONS,
        re.compile(r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])"),
        numbers.ip_v6,
    ),
    Recogniser(
        "plate",
        Anchor(re.compile(rf"[{_PROVINCES}][A-Za-z]"), 0, 12),
        re.compile(
            rf"[{_PROVINCES}][A-HJ-NP-Za-hj-np-z][·•.\- ]?"
            r"(?:[0-9A-HJ-NP-Za-hj-np-z]{6}|[0-9A-HJ-NP-Za-hj-np-z]{4}[0-9A-HJ-NP-Za-hj-np-z挂学警港澳])" + _END
        ),
        numbers.plate,
    ),
    Recogniser("address", Anchor(addresses.CHINESE_ANCHOR, 45, 60), addresses.CHINESE, addresses.chinese),
    Recogniser("address", Anchor(addresses.ENGLISH_ANCHOR, 6, 120), addresses.ENGLISH, addresses.english),
)


def narrow(text: str) -> str:
    """The text with full-width digits, letters and signs of numbers as half-width ones; of the same length."""
    return text.translate(_NARROW) if _WIDE.search(text) else text


def find_by_form(text: str, kinds: frozenset[str]) -> Iterator[tuple[int, int, str]]:
    """Begin, end and kind of each value in the text, in the table's order; places may overlap."""
    text = narrow(text)
    has_digit = _DIGIT.search(text) is not None
    for anchor, recognisers in _by_anchor(kinds):
        if anchor.sign not in text or (anchor.needs_digit and not has_digit):
            continue
        zones = anchor.zones(text)
        if not zones:
            continue
        for recogniser in recognisers:
            for start, end in zones:
                for match in recogniser.candidates.finditer(text, start, end):
                    place = recogniser.accept(text, match)
                    if place:
                        yield place[0], place[1], recogniser.kind


@lru_cache(maxsize=8)
def _by_anchor(kinds: frozenset[str]) -> list[tuple[Anchor, list[Recogniser]]]:
    """The table's rows of these kinds; neighbours with the same anchor together."""
    wanted = (recogniser for recogniser in RECOGNISERS if recogniser.kind in kinds)
    return [(anchor, list(rows)) for anchor, rows in groupby(wanted, key=lambda recogniser: recogniser.anchor)]
