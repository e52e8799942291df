"""Check digits, compared with generators that follow the published rules by themselves."""

import datetime

from hypothesis import given
from hypothesis import strategies as st

from danlu.data.privacy import checks

DIGITS = "0123456789"
CREDIT_LETTERS = "0123456789ABCDEFGHJKLMNPQRTUWXY"


def with_luhn(body):
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


def with_resident_check(body):
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]


def with_credit_check(body):
    total = sum(CREDIT_LETTERS.index(c) * pow(3, place, 31) for place, c in enumerate(body))
    return body + CREDIT_LETTERS[(31 - total % 31) % 31]


resident_bodies = st.builds(
    lambda region, day, serial: f"{region}0105{day:%Y%m%d}{serial:03d}",
    st.sampled_from(["11", "31", "44", "51", "65"]),
    st.dates(datetime.date(1920, 1, 1), datetime.date(2024, 12, 31)),
    st.integers(0, 999),
)


@given(resident_bodies)
def test_resident_id_has_exactly_one_right_check_character(body):
    right = with_resident_check(body)
    assert [c for c in DIGITS + "X" if checks.is_resident_id(body + c)] == [right[-1]]
    assert checks.is_resident_id(right.lower())


def test_resident_id_of_no_province_or_no_day_is_none():
    assert not checks.is_resident_id(with_resident_check("99010519491231002"))
    assert not checks.is_resident_id(with_resident_check("11010519490231002"))


@given(st.text(DIGITS, min_size=12, max_size=18).filter(lambda body: len(set(body)) > 2))
def test_card_has_exactly_one_right_last_digit(body):
    assert [d for d in DIGITS if checks.is_luhn(body + d)] == [with_luhn(body)[-1]]


@given(st.text(CREDIT_LETTERS, min_size=9, max_size=9))
def test_social_credit_code_has_exactly_one_right_last_character(organisation):
    body = "91110105" + organisation
    assert [c for c in CREDIT_LETTERS if checks.is_social_credit_code(body + c)] == [with_credit_check(body)[-1]]


@given(st.text(DIGITS, min_size=18, max_size=18))
def test_iban_has_the_remainder_one(account):
    number = int(account + "131400")  # DE is 13 14
    check = 98 - number % 97
    assert checks.is_iban(f"DE{check:02d}{account}")
    assert not checks.is_iban(f"DE{(check + 1) % 100:02d}{account}")


def test_card_ranges_are_those_of_the_schemes():
    assert checks.is_card_range("6222021234567894123")
    assert checks.is_card_range("378282246310005")
    assert not checks.is_card_range("2024031512345678")
    assert not checks.is_card_range("1234567812345678")


def test_area_codes_are_those_in_use():
    assert all(map(checks.is_area_code, ("010", "021", "0755", "0311", "0991")))
    assert not any(map(checks.is_area_code, ("026", "011", "0100", "0000")))
