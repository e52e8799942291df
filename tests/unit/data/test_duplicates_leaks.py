import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.duplicates.leaks import LeakIndex
from danlu.data.duplicates.shingles import jaccard, shingles

NUMBERS = st.lists(st.integers(0, 14), max_size=12).map(lambda values: np.unique(np.array(values, np.uint64)))


def brute_force(evaluation, row, threshold):
    similarities = [jaccard(one, row) for one in evaluation]
    best = max(similarities, default=0.0)
    return (similarities.index(best), best) if best >= threshold and best > 0 else None


@settings(deadline=None, max_examples=500)
@given(st.lists(NUMBERS, max_size=8), NUMBERS, st.sampled_from([0.05, 0.5, 0.6, 2 / 3, 0.7, 0.75, 0.8, 1.0]))
def test_nearest_is_that_of_brute_force(evaluation, row, threshold):
    assert LeakIndex(evaluation, threshold).nearest(row) == brute_force(evaluation, row, threshold)


@pytest.mark.parametrize("shared_text", ["", "你是一个客服。Answer shortly and never give prices. " * 3])
def test_every_near_copy_is_found_and_nothing_else(shared_text):
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghij", k=rng.randrange(3, 9))) for _ in range(150)] + list(
        "发票客户退货订单时间"
    )
    texts = [shared_text + " ".join(rng.choices(words, k=rng.choice((4, 12, 40)))) for _ in range(300)]
    evaluation = [shingles(value) for value in texts]
    index = LeakIndex(evaluation, 0.7)
    rows = []
    for value in texts:
        parts = value.split(" ")
        for _ in range(rng.randrange(1, 6)):
            parts[rng.randrange(len(parts))] = rng.choice(words)
        rows.append(shingles(" ".join(parts)))
    expected = [brute_force(evaluation, row, 0.7) for row in rows]
    assert sum(one is not None for one in expected) > 50
    assert [index.nearest(row) for row in rows] == expected


def test_unrelated_rows_that_share_a_common_text_are_no_leaks():
    common = "please answer the customer in a friendly way and do not promise anything about "
    index = LeakIndex([shingles(f"{common}{number**9}{number**11}" * 2) for number in range(2, 200)], 0.9)
    assert index.nearest(shingles(common)) is None


def test_index_survives_pickling():
    index = LeakIndex([shingles("今天天气很好"), shingles("how warm is it today")], 0.7)
    again = pickle.loads(pickle.dumps(index))
    assert again.nearest(shingles("How warm is it today?")) == (1, 1.0)
    assert again.nearest(shingles("今天天气很坏")) is None


def test_first_of_equals_is_named():
    index = LeakIndex([shingles("another text"), shingles("the same text"), shingles("The same text!")], 0.7)
    assert index.nearest(shingles("the same, text")) == (1, 1.0)


def test_nothing_is_like_an_empty_row_or_an_empty_set():
    assert LeakIndex([], 0.7).nearest(shingles("hello")) is None
    assert LeakIndex([shingles("")], 0.7).nearest(shingles("hello")) is None
    assert LeakIndex([shingles(""), shingles("hello")], 0.7).nearest(shingles("")) is None


def test_shingles_that_all_rows_share_are_held_once():
    common = shingles("".join(chr(0x4E00 + number) for number in range(3000)))
    rows = [np.union1d(common, np.array([number], np.uint64)) for number in range(200)]
    assert len(pickle.dumps(LeakIndex(rows, 0.7))) < 14 * (common.size + 200) + 4 * 400 + 16 * 400 + 2000


def test_threshold_out_of_bounds_is_refused():
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        LeakIndex([], 1.5)
