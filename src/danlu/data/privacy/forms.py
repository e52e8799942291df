"""What stands in the place of a value: its usual visible part, or a token that names its kind."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from danlu.data.privacy.names_zh_words import double_families
from danlu.data.privacy.recognisers import narrow

# Characters of letters and digits that stay visible: at the beginning, at the end.
_VISIBLE = {
    "resident_id": (3, 4),
    "bank_card": (4, 4),
    "social_credit_code": (4, 4),
    "passport": (1, 2),
    "plate": (2, 2),
    "iban": (4, 4),
    "ssn": (0, 4),
    "phone": (0, 4),
}
_DISTRICT = re.compile(r"^[\u4e00-\u9fff]{2,9}?(?:市|省)(?:[\u4e00-\u9fff]{2,8}?(?:区|县|市))?")
_PLACEHOLDER = re.compile(r"<([A-Z]+(?:_[A-Z]+)*)_([0-9]+|[A-Z2-7]{10})>")
_TOKEN_BITS = 50


def normalised(kind: str, value: str) -> str:
    """A value with the ways of writing it taken away: spaces, hyphens, dots, case, full width, a country's 86."""
    value = narrow(value).casefold()
    if kind in ("name", "address"):
        return " ".join(value.split())
    if kind in ("email", "ip"):
        return value
    compact = re.sub(r"[\s\-.·•()（）]", "", value)
    return re.sub(r"^(?:\+|00)?86(?=1\d{10}$)", "", compact) if kind == "mobile" else compact


def partly_hidden(kind: str, value: str) -> str:
    """The value with stars for its telling part: 138****5678, 6222 **** **** 1234, z***@example.com, 张*."""
    return _HIDE.get(kind, _by_ends)(kind, value)


def placeholder(kind: str, number: int) -> str:
    """`<MOBILE_1>`."""
    return f"<{kind.upper()}_{number}>"


def reversible_token(kind: str, value: str, secret: bytes) -> str:
    """`<MOBILE_K7Q2M9XD3A>`: 50 bits of HMAC-SHA256 (RFC 2104) over kind and value, in base32 (RFC 4648)."""
    digest = hmac.new(secret, f"{kind}\0{value}".encode(), hashlib.sha256).digest()
    letters = base64.b32encode(digest).decode()[: _TOKEN_BITS // 5]
    return f"<{kind.upper()}_{letters}>"


def placeholders_in(text: str) -> list[tuple[int, int, str, str]]:
    """Begin, end, kind in capitals and number or letters of what is, or looks like, a placeholder already."""
    return [(*match.span(), match[1], match[2]) for match in _PLACEHOLDER.finditer(text)] if "<" in text else []


def restore(text: str, tokens: dict[str, str]) -> str:
    """The text with each known token turned back into what it stands for; unknown ones stay."""
    return _PLACEHOLDER.sub(lambda match: tokens.get(match[0], match[0]), text)


def _stars(value: str, first: int, last: int) -> str:
    """Stars for letters and digits but the first and last few; signs between them stay."""
    places = [index for index, character in enumerate(value) if character.isalnum()]
    hidden = set(places[first : len(places) - last] if len(places) > first + last else places)
    return "".join("*" if index in hidden else character for index, character in enumerate(value))


def _by_ends(kind: str, value: str) -> str:
    return _stars(value, *_VISIBLE[kind])


def _middle_four(_: str, value: str) -> str:
    """The four digits before the last four; what follows as an extension too."""
    number, extension = re.fullmatch(r"(.*?)((?:\s?(?:转|分机|ext\.?|-)\s?\w{1,3})?)", value, re.DOTALL).groups()  # type: ignore[union-attr]
    digits = sum(character.isalnum() for character in number)
    return _stars(number, max(0, digits - 8), 4) + re.sub(r"\d", "*", extension)


def _email(_: str, value: str) -> str:
    at = re.search("[@＠]", value)
    assert at is not None
    return f"{value[0]}***{value[at.start() :]}"


def _ip(_: str, value: str) -> str:
    if ":" in value:
        return value.split(":")[0] + ":****"
    return ".".join([*re.split("[.．]", value)[:2], "*", "*"])


def _address(_: str, value: str) -> str:
    district = _DISTRICT.match(value)
    return (district[0] if district else "") + "****"


def _name(_: str, value: str) -> str:
    if value[0] < "\u2e80":
        return re.sub(r"\b(\w)[\w'’]*", lambda match: match[1] + "***", value)
    shown = 2 if len(value) > 2 and value[:2] in double_families() else 1
    return value[:shown] + re.sub(r"\w", "*", value[shown:])


_HIDE = {
    "mobile": _middle_four,
    "landline": _middle_four,
    "email": _email,
    "ip": _ip,
    "address": _address,
    "name": _name,
}
