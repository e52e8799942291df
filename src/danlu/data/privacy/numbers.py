"""What accepts or refuses each candidate among numbers, mail addresses, cards and plates."""

from __future__ import annotations

import ipaddress
import re

from danlu.data.privacy import checks
from danlu.data.privacy.labels import has_label, label_before

Place = tuple[int, int]

_UNIT_AFTER = re.compile(r"\s*(?:元|万|亿|块|美元|人民币|%|％|‰|米|公里|人次|人口|步|字节|个|\.\d|USD|EUR|[×*^=]\s*\d)")
_AMOUNT_BEFORE = re.compile(r"[¥￥$€£]\s*$")
_CARD_GROUPS = re.compile(r"\d+|\d{4}([ -])\d{4}\1\d{4}(?:\1\d{1,4}){0,2}|\d{4}([ -])\d{6}\2\d{4,5}|\d{6}[ -]\d{8,13}")

# Every machine's own address, and the ones that routers are sold with.
_NOBODYS = ("0.0.0.0", "127.0.0.1", "192.168.0.1", "192.168.1.1")


def _is_sum(text: str, start: int, end: int) -> bool:
    return bool(_UNIT_AFTER.match(text, end) or _AMOUNT_BEFORE.search(text, max(0, start - 2), start))


def resident_id(text: str, match: re.Match[str]) -> Place | None:
    """18 characters by check character, or by a label right in front; 15 digits by a label alone."""
    number = re.sub(r"[ -]", "", match[0])
    if not checks.looks_like_resident_id(number):
        return None
    if len(number) == 18 and checks.is_resident_id(number):
        return match.span()
    label, adjacent = label_before(text, match.start())
    if len(number) == 18:
        return match.span() if label == "identity" and adjacent else None
    return match.span() if label != "order" and has_label(text, match.start(), "identity") else None


def social_credit_code(text: str, match: re.Match[str]) -> Place | None:
    """By check character; digits alone must not be called an order."""
    label, adjacent = label_before(text, match.start())
    if label == "company" and adjacent:
        return match.span()
    if not checks.is_social_credit_code(match[0]) or (match[0].isdigit() and label == "order"):
        return None
    return match.span()


def bank_card(text: str, match: re.Match[str]) -> Place | None:
    """Luhn's digit and a scheme's range, unless called an order; without the digit only right after a card's label."""
    if not _CARD_GROUPS.fullmatch(match[0]):
        return None
    digits = checks.only_digits(match[0])
    issued, checked = checks.is_card_range(digits), checks.is_luhn(digits)
    if not (issued or checked) or _is_sum(text, match.start(), match.end()):
        return None
    label, adjacent = label_before(text, match.start())
    if label in ("order", "version", "sum") and (adjacent or not has_label(text, match.start(), "card")):
        return None
    if issued and checked and len(digits) >= 15:
        return match.span()
    # Every tenth number passes Luhn by chance: outside the ranges, or with a wrong digit, a label must vouch for it.
    return match.span() if label == "card" and (issued or checked) else None


def mobile(text: str, match: re.Match[str]) -> Place | None:
    """Eleven digits in a range of the mobile networks, not an order and not a sum."""
    if not checks.is_chinese_mobile(checks.only_digits(match[0])[-11:]) or _is_sum(text, *match.span()):
        return None
    label, adjacent = label_before(text, match.start())
    return None if label in ("order", "version", "sum", "card") and adjacent else match.span()


def landline(text: str, match: re.Match[str]) -> Place | None:
    """Area code and seven or eight digits; written in one run, a telephone's label must stand before."""
    area = match["area"] or match["bracketed"]
    if area:
        if not checks.is_area_code(area if area.startswith("0") else "0" + area):
            return None
        joined = match["joint"] == "" and not match["bracketed"] and not match["country"]
        label, adjacent = label_before(text, match.start())
        if (label in ("order", "version", "sum") and adjacent) or _is_sum(text, *match.span()):
            return None
        return None if joined and not has_label(text, match.start(), "phone") else match.span()
    label, adjacent = label_before(text, match.start(), window=8)
    return match.span() if label == "phone" and adjacent and not _is_sum(text, *match.span()) else None


def phone(text: str, match: re.Match[str]) -> Place | None:
    """A number with + by its country's plan; a US number by its form; others need a telephone's label."""
    value = match["number"]
    start, end = match.start(), match.end()
    digits = checks.only_digits(value)
    label, adjacent = label_before(text, start)
    if (label in ("order", "version", "sum") and adjacent) or _is_sum(text, start, end):
        return None
    if digits.startswith("400") and not value.startswith("+"):
        return None  # a Chinese company's hotline; no American area has this code
    if value.startswith("+"):
        return (start, end) if checks.is_possible_phone(value) else None
    named = has_label(text, start, "phone")
    if match["american"]:
        grouped = re.search(r"\d[).\- ]+\d{3}[.\- ]\d{4}", value) is not None
        return (start, end) if grouped or named else None
    if digits.startswith("0"):
        return (
            (start, end)
            if checks.is_possible_phone(value, "GB", strict=not named) and (" " in value or named)
            else None
        )
    return (start, end) if named and label == "phone" and adjacent else None


def ssn(text: str, match: re.Match[str]) -> Place | None:
    """With hyphens by its range, or a label right in front; with spaces or in one run by range and label."""
    digits = checks.only_digits(match[0])
    label, adjacent = label_before(text, match.start())
    if "-" in match[0]:
        if label in ("order", "phone") and adjacent:
            return None
        return match.span() if checks.is_ssn(digits) or (label == "ssn" and adjacent) else None
    named = label != "order" and has_label(text, match.start(), "ssn")
    return match.span() if named and checks.is_ssn(digits) else None


def passport(text: str, match: re.Match[str]) -> Place | None:
    """A passport's label before it, or a Chinese passport's own form without another label."""
    label, adjacent = label_before(text, match.start())
    if has_label(text, match.start(), "passport") and not (label == "order" and adjacent):
        return match.span()
    chinese = re.fullmatch(r"[EG]\d{8}|E[A-HJ-NP-Z]\d{7}", match[0])
    return match.span() if chinese and label not in ("order", "version", "card") else None


def iban(text: str, match: re.Match[str]) -> Place | None:
    """The longest beginning of the run that is an account number with the right check digits."""
    places = [index for index, character in enumerate(match[1]) if character not in " -"]
    compact = re.sub(r"[ -]", "", match[1]).upper()
    for length in range(min(len(compact), 34), 14, -1):
        end = match.start() + places[length - 1] + 1
        if not text[end : end + 1].isalnum() or not text[end : end + 1].isascii():
            if int("".join(str(int(c, 36)) for c in compact[4:length] + compact[:4])) % 97 != 1:
                continue
            if checks.is_iban(compact[:length]):
                return match.start(), end
    return None


def ip_v4(text: str, match: re.Match[str]) -> Place | None:
    """Four octets that are not a version or a section; small ones only with a label."""
    octets = [int(part) for part in match[0].split(".")]
    if match[0] in _NOBODYS or octets[0] == 255 or re.match(r"\s*(?:版|节|条|章)", text[match.end() :]):
        return None
    label, adjacent = label_before(text, match.start(), window=20)
    if label == "version" or (label in ("order", "sum") and adjacent):
        return None
    # Versions seldom have a part over 30, addresses nearly always do.
    return match.span() if max(octets) > 30 or has_label(text, match.start(), "ip", window=24) else None


def ip_v6(text: str, match: re.Match[str]) -> Place | None:
    """Eight groups, or fewer around "::", that are not a time or a name in a program."""
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return None
    groups = [group for group in match[0].split(":") if group]
    enough = len(groups) >= 3 or (len(groups) == 2 and len(groups[0]) == 4 and any(c.isdigit() for c in groups[0]))
    return match.span() if enough and not address.is_loopback else None


def plate(text: str, match: re.Match[str]) -> Place | None:
    """A province's character, a letter, and five or six places of which two are digits."""
    label, adjacent = label_before(text, match.start())
    enough = sum(character.isdigit() for character in match[0]) >= 2
    return match.span() if enough and not (label == "order" and adjacent) else None


def email(text: str, match: re.Match[str]) -> Place | None:
    """A mail address; an account at a code host's address for machines is none."""
    return None if match[0].lower() in ("git@github.com", "git@gitlab.com", "git@gitee.com") else match.span()
