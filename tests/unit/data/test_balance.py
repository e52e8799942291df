from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.balance import balance_rows, mix_rows

KEYS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=80)


def sizes(keys, chosen):
    return Counter(keys[index] for index in chosen)


@settings(deadline=None)
@given(KEYS, st.integers(0, 9))
def test_oversampling_brings_each_class_to_the_largest_and_loses_no_row(keys, seed):
    chosen = balance_rows(keys, "oversample", None, seed)
    assert set(sizes(keys, chosen).values()) == {max(Counter(keys).values())}
    assert set(chosen) == set(range(len(keys)))


@settings(deadline=None)
@given(KEYS, st.integers(0, 9))
def test_undersampling_brings_each_class_to_the_smallest_and_repeats_no_row(keys, seed):
    chosen = balance_rows(keys, "undersample", None, seed)
    assert set(sizes(keys, chosen).values()) == {min(Counter(keys).values())}
    assert len(set(chosen)) == len(chosen)


@settings(deadline=None)
@given(KEYS, st.integers(1, 50), st.integers(0, 9))
def test_rows_of_a_class_are_repeated_evenly(keys, target, seed):
    counts = Counter(balance_rows(keys, "oversample", target, seed))
    for key, size in Counter(keys).items():
        times = [counts[index] for index, other in enumerate(keys) if other == key]
        assert max(times) - min(times) <= 1
        assert sum(times) == max(size, target)


def test_a_wanted_number_bounds_from_one_side_only():
    keys = "aaaab"
    assert sizes(keys, balance_rows(keys, "oversample", 2, 0)) == {"a": 4, "b": 2}
    assert sizes(keys, balance_rows(keys, "undersample", 2, 0)) == {"a": 2, "b": 1}


def test_same_seed_same_choice_and_another_seed_another():
    keys = "a" * 50 + "b" * 5
    choices = [tuple(balance_rows(keys, "undersample", None, seed)) for seed in (1, 1, 2)]
    assert choices[0] == choices[1] != choices[2]


def test_mixing_gives_the_shares_without_repeating_a_row():
    keys = ["chat"] * 100 + ["law"] * 30
    chosen = mix_rows(keys, {"chat": 0.6, "law": 0.4}, None, 0)
    assert sizes(keys, chosen) == {"chat": 45, "law": 30}
    assert len(set(chosen)) == len(chosen)


def test_mixing_to_a_total_repeats_what_is_too_small():
    keys = ["chat"] * 100 + ["law"] * 30
    assert sizes(keys, mix_rows(keys, {"chat": 0.5, "law": 0.5}, 120, 0)) == {"chat": 60, "law": 60}


def test_sources_without_a_share_divide_the_rest_by_size():
    keys = ["a"] * 10 + ["b"] * 30 + ["c"] * 60
    assert sizes(keys, mix_rows(keys, {"a": 0.2}, 50, 0)) == {"a": 10, "b": 13, "c": 27}


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=60), st.integers(1, 100))
def test_mixed_rows_sum_to_the_total(keys, total):
    names = sorted(set(keys))
    shares = {name: 1 / len(names) for name in names}
    assert len(mix_rows(keys, shares, total, 0)) == total


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": 0.5, "b": 0.6}, "sum to 1.1"),
        ({"a": 0.2, "b": 0.2}, "sum to 0.4"),
        ({"a": 1.0}, "less than 1"),
        ({"a": 0.5, "z": 0.5}, "no rows are left of z"),
    ],
)
def test_shares_that_can_not_be_had_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        mix_rows(["a", "b"], shares, None, 0)
