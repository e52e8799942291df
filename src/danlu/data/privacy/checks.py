"""Whether a run of characters can be what it looks like: check digits, dates, region codes, number ranges."""

from __future__ import annotations

import datetime
import re

# GB/T 2260, the first two digits of a resident's or company's region.
PROVINCE_CODES = frozenset(
    str(code)
    for codes in ((11, 16), (21, 24), (31, 38), (41, 47), (50, 55), (61, 66), (71, 72), (81, 84))
    for code in range(*codes)
)
# Cards' first digits and lengths: ISO/IEC 7812 ranges of the schemes, and Chinese debit ranges before UnionPay's.
_CARD_RANGES = (
    (re.compile(r"62"), (16, 17, 18, 19)),
    (re.compile(r"4"), (16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|64[4-9]|65"), (16, 19)),
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),
    (re.compile(r"3(?:0[0-5]|[689])"), (14,)),
    (re.compile(r"95(?:588|595|58)|9[048]\d{4}|99[08]\d{3}|60\d{4}|68\d{4}"), (16, 17, 18, 19)),
)
# China's national numbering plan: three-digit codes of the largest cities, four-digit codes of the others.
_AREA = re.compile(
    r"0(?:10|2[0-57-9]|3[13579]\d|349|4[1-35678]\d|5[1-9]\d|6(?:3\d|6[0238]|91|92)|7[0-9]\d|8[1-9]\d|9[0-79]\d)"
)
_MOBILE = re.compile(r"1(?:3\d|4[0-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])\d{8}")


def only_digits(text: str) -> str:
    """The ASCII digits of a text."""
    return "".join(character for character in text if "0" <= character <= "9")


def is_date(year: int, month: int, day: int) -> bool:
    """Whether there is, or was, such a day, from 1900 to 2100."""
    try:
        return 1900 <= year <= 2100 and bool(datetime.date(year, month, day))
    except ValueError:
        return False


def looks_like_resident_id(number: str) -> bool:
    """Province and birthday of a resident's number of 18 or 15 characters (GB 11643) are possible."""
    if number[:2] not in PROVINCE_CODES:
        return False
    birthday = number[6:14] if len(number) == 18 else "19" + number[6:12]
    return is_date(int(birthday[:4]), int(birthday[4:6]), int(birthday[6:8]))


def is_resident_id(number: str) -> bool:
    """An 18-character resident's number whose check character is right (GB 11643, ISO 7064 MOD 11-2)."""
    from stdnum.iso7064 import mod_11_2

    return len(number) == 18 and looks_like_resident_id(number) and mod_11_2.is_valid(number.upper())


def is_social_credit_code(code: str) -> bool:
    """A company's or body's code with the right check character (GB 32100)."""
    from stdnum.cn import uscc

    code = code.upper()
    return code[2:4] in PROVINCE_CODES | {"10"} and uscc.is_valid(code)


def is_card_range(digits: str) -> bool:
    """Whether a card scheme issues numbers with this beginning and length."""
    return any(len(digits) in lengths and start.match(digits) for start, lengths in _CARD_RANGES)


def is_luhn(digits: str) -> bool:
    """Whether the last digit is right (ISO/IEC 7812-1, Luhn); a run of one digit is not a number."""
    from stdnum import luhn

    return len(set(digits)) > 1 and luhn.is_valid(digits)


def is_chinese_mobile(digits: str) -> bool:
    """Eleven digits in a range that Chinese mobile networks use."""
    return _MOBILE.fullmatch(digits) is not None


def is_area_code(digits: str) -> bool:
    """A Chinese trunk code with its leading 0."""
    return _AREA.fullmatch(digits) is not None


def is_iban(compact: str) -> bool:
    """Country's length and structure, and ISO 7064 MOD 97-10 (ISO 13616)."""
    from stdnum import iban

    try:
        iban.validate(compact, check_country=False)
    except iban.ValidationError:
        return False
    return True


def is_ssn(digits: str) -> bool:
    """Nine digits in a range that the US Social Security Administration gives out."""
    from stdnum.us import ssn

    return ssn.is_valid(f"{digits[:3]}-{digits[3:5]}-{digits[5:]}")


def is_possible_phone(number: str, region: str | None = None, *, strict: bool = False) -> bool:
    """Whether a telephone number fits its country's plan.

    Args:
        number: with + and country code, or as dialled within `region`.
        region: ISO 3166 code, such as GB; null: the number must begin with +.
        strict: its range must be in use; otherwise its length is enough.
    """
    import phonenumbers

    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(parsed) if strict else phonenumbers.is_possible_number(parsed)
