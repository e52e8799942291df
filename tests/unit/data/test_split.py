from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.split import split_rows

SEEDS = st.integers(min_value=0, max_value=2**31 - 1)


@st.composite
def keys_and_rows(draw):
    keys = draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=200))
    return keys, draw(st.integers(min_value=1, max_value=len(keys) - 1))


@settings(deadline=None)
@given(keys_and_rows(), SEEDS)
def test_split_is_disjoint_complete_and_of_the_exact_size(case, seed):
    keys, rows = case
    train, held = split_rows(keys, seed, rows=rows)
    assert sorted([*train, *held]) == list(range(len(keys)))
    assert len(held) == rows
    assert train.tolist() == sorted(train)
    assert held.tolist() == sorted(held)


@settings(deadline=None)
@given(keys_and_rows(), SEEDS)
def test_each_stratum_has_its_proportion_to_the_row(case, seed):
    keys, rows = case
    _, held = split_rows(keys, seed, rows=rows)
    found = Counter(keys[index] for index in held)
    for key, size in Counter(keys).items():
        # A stretch of the line of that length holds this many sampling points, give or take one at an end.
        assert abs(found[key] - size * rows / len(keys)) <= 1 + 1e-9


@settings(deadline=None)
@given(keys_and_rows(), SEEDS)
def test_same_seed_gives_the_same_split(case, seed):
    keys, rows = case
    first, second = (split_rows(list(keys), seed, rows=rows) for _ in range(2))
    assert [side.tolist() for side in first] == [side.tolist() for side in second]


def test_another_seed_gives_another_split():
    splits = {tuple(split_rows([""] * 100, seed, rows=10)[1]) for seed in range(20)}
    assert len(splits) == 20


def test_every_row_can_be_held_out():
    counts = Counter(index for seed in range(2000) for index in split_rows([""] * 10, seed, rows=3)[1])
    assert all(450 < counts[index] < 750 for index in range(10)), counts


def test_share_is_rounded_to_rows():
    assert len(split_rows([""] * 100, 0, share=0.1)[1]) == 10
    assert len(split_rows([""] * 7, 0, share=0.3)[1]) == 2


def test_equal_strata_are_held_out_equally():
    keys = [number % 5 for number in range(100)]
    _, held = split_rows(keys, 3, rows=20)
    assert Counter(keys[index] for index in held) == dict.fromkeys(range(5), 4)


@pytest.mark.parametrize(("total", "rows"), [(5, 5), (5, 6), (5, 0), (1, 1), (0, 1)])
def test_split_that_leaves_a_side_empty_is_refused(total, rows):
    with pytest.raises(ValueError, match=f"{rows} of {total} rows can't be held out"):
        split_rows([""] * total, 0, rows=rows)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(ValueError, match="of 5 rows can't be held out"):
        split_rows([""] * 5, 0, share=share)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30)), min_size=2, max_size=150), SEEDS, st.data())
def test_a_group_is_never_on_both_sides(rows_and_groups, seed, data):
    keys, groups = zip(*rows_and_groups, strict=True)
    wanted = data.draw(st.integers(1, len(keys) - 1))
    if len(set(groups)) == 1:
        with pytest.raises(ValueError, match="they form 1 group"):
            split_rows(keys, seed, rows=wanted, groups=groups)
        return
    try:
        train, held = split_rows(keys, seed, rows=wanted, groups=groups)
    except ValueError as error:
        assert "group" in str(error)  # noqa: PT017 - a few large groups may leave a side empty
        return
    assert sorted([*train, *held]) == list(range(len(keys)))
    assert not {groups[index] for index in train} & {groups[index] for index in held}
    largest = max(Counter(groups).values())
    assert abs(len(held) - wanted) < largest or largest == 1


def test_groups_of_one_give_the_split_without_groups():
    plain, grouped = split_rows(["a"] * 50, 3, rows=7), split_rows(["a"] * 50, 3, rows=7, groups=range(50))
    assert [side.tolist() for side in plain] == [side.tolist() for side in grouped]
