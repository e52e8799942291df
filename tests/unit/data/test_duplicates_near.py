import random
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.duplicates.near import find_near_duplicates, near_groups
from danlu.data.duplicates.shingles import jaccard, mixed, shingles
from danlu.data.duplicates.signatures import (
    NUM_BANDS,
    BandFiles,
    band_hashes,
    least_agreement,
    signatures,
    signatures_of_sets,
)

WHO = ["the manager", "a tired engineer", "our oldest customer", "the night nurse", "经理", "一位老工程师", "隔壁邻居"]
DID = ["repaired", "described", "ordered", "forgot", "translated", "修好了", "描述了", "退回了", "忘记了"]
WHAT = ["the window", "three boxes of paper", "a map", "the last invoice", "破旧的窗户", "三箱打印纸", "最后一张发票"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def sentence(rng: random.Random) -> str:
    name = "".join(rng.choices(LETTERS, k=9))
    place = "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(8))
    return f"{rng.choice(WHO)} {rng.choice(DID)} {rng.choice(WHAT)} {name} {place}. "


def text(rng: random.Random) -> str:
    return "".join(sentence(rng) for _ in range(rng.choice((1, 2, 4, 8))))


def edited(rng: random.Random, original: str) -> str:
    """Words replaced, a sentence appended, characters changed, or the start cut off."""
    kind = rng.randrange(4)
    if kind == 0:
        words = original.split()
        for _ in range(rng.randrange(1, 3)):
            words[rng.randrange(len(words))] = rng.choice(WHO + WHAT)
        return " ".join(words)
    if kind == 1:
        return original + sentence(rng)
    if kind == 2:
        characters = list(original)
        for _ in range(rng.randrange(1, 1 + max(2, len(original) // 50))):
            characters[rng.randrange(len(characters))] = rng.choice(original)
        return "".join(characters)
    return original[rng.randrange(1, 2 + len(original) // 6) :]


def set_of_strings(value: str) -> set[str]:
    """Shingles of a text of letters, Han, spaces and full stops, by Python's own strings."""
    value = " ".join(value.replace(".", " ").split())
    widths = (3 if "\u4e00" <= character <= "\u9fff" else 5 for character in value)
    return {value[start : start + width] for start, width in enumerate(widths) if start + width <= len(value)}


def likeness(a: str, b: str) -> float:
    first, second = set_of_strings(a), set_of_strings(b)
    return len(first & second) / len(first | second)


def files_of(texts: list[str], folder, chunk: int = 1000) -> BandFiles:
    bands = BandFiles(folder)
    for start in range(0, len(texts), chunk):
        bands.append(*signatures(texts[start : start + chunk]))
    return bands


def found_in(texts: list[str], folder, threshold: float, function=find_near_duplicates, chunk: int = 1000) -> list[int]:
    bands = files_of(texts, folder, chunk)
    return function(bands, len(texts), lambda row: shingles(texts[row]), threshold).tolist()


@pytest.fixture(scope="module")
def planted() -> tuple[list[str], list[tuple[int, int, float]]]:
    """Rows in random order, and the planted pairs with their similarity from 0.6 on."""
    rng = random.Random(7)
    rows: list[str] = []
    pairs = []
    while len(pairs) < 2000:
        original = text(rng)
        copy = edited(rng, original)
        similarity = likeness(original, copy)
        if similarity >= 0.6:
            pairs.append((len(rows), len(rows) + 1, similarity))
            rows += [original, copy]
    rows += [text(rng) for _ in range(5000)]
    order = list(range(len(rows)))
    rng.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    return [rows[old] for old in order], [(*sorted((place[a], place[b])), similarity) for a, b, similarity in pairs]


@pytest.fixture(scope="module")
def kept_for(planted, tmp_path_factory) -> list[int]:
    return found_in(planted[0], tmp_path_factory.mktemp("bands"), 0.7)


def test_planted_near_copies_are_found(planted, kept_for):
    alike = [(first, second) for first, second, similarity in planted[1] if similarity >= 0.8]
    borderline = [(first, second) for first, second, similarity in planted[1] if 0.7 <= similarity < 0.8]
    assert len(alike) > 1000
    assert len(borderline) > 100
    assert sum(kept_for[second] != -1 for _, second in alike) / len(alike) >= 0.995
    assert sum(kept_for[second] != -1 for _, second in borderline) / len(borderline) >= 0.95


def test_no_row_is_dropped_without_a_like_one_that_is_kept(planted, kept_for):
    texts = planted[0]
    dropped = [row for row, other in enumerate(kept_for) if other != -1]
    assert len(dropped) > 1000
    for row in dropped:
        assert kept_for[row] < row
        assert kept_for[kept_for[row]] == -1
        assert likeness(texts[row], texts[kept_for[row]]) >= 0.7


def test_planted_near_copies_are_in_one_group(planted, tmp_path):
    labels = found_in(planted[0], tmp_path, 0.7, near_groups)
    alike = [(first, second) for first, second, similarity in planted[1] if similarity >= 0.8]
    assert sum(labels[first] == labels[second] for first, second in alike) / len(alike) >= 0.995
    apart = [(first, second) for first, second, similarity in planted[1] if similarity < 0.7]
    assert not any(labels[first] == labels[second] for first, second in apart)
    assert all(labels[label] == label <= row for row, label in enumerate(labels))


@st.composite
def families(draw) -> list[str]:
    """Few rows, most of them copies of copies."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    rows = [text(rng) for _ in range(draw(st.integers(1, 4)))]
    for _ in range(draw(st.integers(0, 16))):
        source = rng.choice(rows)
        rows.append(rng.choice((source, edited(rng, source), source.upper(), text(rng))))
    return rows


def brute_force_kept(texts: list[str], threshold: float) -> list[bool]:
    kept: list[int] = []
    for row, value in enumerate(texts):
        if all(jaccard(shingles(value), shingles(texts[other])) < threshold for other in kept):
            kept.append(row)
    return [row in kept for row in range(len(texts))]


@settings(deadline=None, max_examples=60)
@given(families())
def test_brute_force_drops_the_same_rows(tmp_path_factory, texts):
    # Pairs from 0.9 on are found for certain, as good as; so no pair may lie between the threshold and 0.9.
    sets = [shingles(value) for value in texts]
    likenesses = [jaccard(a, b) for row, a in enumerate(sets) for b in sets[:row]]
    threshold = 0.9 if any(0.7 <= value < 0.9 for value in likenesses) else 0.7
    found = found_in(texts, tmp_path_factory.mktemp("bands"), threshold)
    assert [other == -1 for other in found] == brute_force_kept(texts, threshold)


@settings(deadline=None, max_examples=60)
@given(families())
def test_groups_are_the_components_of_the_like_pairs(tmp_path_factory, texts):
    sets = [shingles(value) for value in texts]
    labels = list(range(len(texts)))
    for row, a in enumerate(sets):
        for other, b in enumerate(sets[:row]):
            if jaccard(a, b) >= 0.9:
                low, high = sorted((labels[row], labels[other]))
                labels = [low if label == high else label for label in labels]
    assert found_in(texts, tmp_path_factory.mktemp("bands"), 0.9, near_groups) == labels


@settings(deadline=None, max_examples=40)
@given(families())
def test_threshold_of_one_drops_the_rows_whose_set_was_seen(tmp_path_factory, texts):
    found = found_in(texts, tmp_path_factory.mktemp("bands"), 1.0)
    first: dict[frozenset[int], int] = {}
    expected = []
    for row, value in enumerate(texts):
        earlier = first.setdefault(frozenset(shingles(value).tolist()), row)
        expected.append(-1 if earlier == row else earlier)
    assert found == expected


@settings(deadline=None, max_examples=20)
@given(families(), st.integers(1, 7), st.randoms(use_true_random=False))
def test_size_and_order_of_the_chunks_do_not_matter(tmp_path_factory, texts, chunk, rng):
    expected = found_in(texts, tmp_path_factory.mktemp("whole"), 0.7)
    bands = BandFiles(tmp_path_factory.mktemp("chunks"))
    starts = list(range(0, len(texts), chunk))
    rng.shuffle(starts)
    for start in starts:
        bands.write(start, *signatures(texts[start : start + chunk]))
    assert find_near_duplicates(bands, len(texts), lambda row: shingles(texts[row]), 0.7).tolist() == expected


def test_chain_of_copies_is_one_group(tmp_path):
    rng = random.Random(0)
    sentences = [sentence(rng) for _ in range(40)]
    chain = ["".join(sentences[start : start + 20]) for start in range(20)]
    links = [jaccard(shingles(a), shingles(b)) for a, b in pairwise(chain)]
    assert min(links) > 0.85
    assert jaccard(shingles(chain[0]), shingles(chain[-1])) < 0.3
    assert found_in(chain, tmp_path, 0.8, near_groups) == [0] * 20


def test_empty_rows_are_kept(tmp_path):
    assert found_in(["", "   ", "", "hello world", "Hello, world!"], tmp_path, 0.7) == [-1, -1, -1, -1, 3]


def test_no_rows_give_no_answers(tmp_path):
    for function in (find_near_duplicates, near_groups):
        assert found_in([], tmp_path, 0.7, function) == []


@pytest.mark.parametrize("function", [find_near_duplicates, near_groups])
def test_huge_family_is_compared_with_few(tmp_path, function):
    rng = random.Random(3)
    template = "".join(sentence(rng) for _ in range(12))
    texts = [f"{template} {number}" for number in range(3000)]
    reads = []

    def read(row: int):
        reads.append(row)
        return shingles(texts[row])

    result = function(files_of(texts, tmp_path), len(texts), read, 0.7)
    assert set(result.tolist()) <= {-1, 0}
    assert len(reads) < 2.1 * len(texts)


@pytest.mark.parametrize("function", [find_near_duplicates, near_groups])
def test_rows_that_share_a_long_template_are_compared_with_a_bounded_number(tmp_path, monkeypatch, function):
    # All are candidates of each other and none is near enough: without a bound this is quadratic.
    rng = random.Random(4)
    template = "".join(sentence(rng) for _ in range(12))
    texts = [template + "".join(sentence(rng) for _ in range(3)) for _ in range(600)]
    compared = []

    def counted(a, b):
        compared.append(1)
        return jaccard(a, b)

    monkeypatch.setattr("danlu.data.duplicates.near.jaccard", counted)
    bands = files_of(texts, tmp_path)
    function(bands, len(texts), lambda row: shingles(texts[row]), 0.9)
    assert 10 * len(texts) < len(compared) <= 64 * len(texts)


def test_twins_among_rows_that_share_a_template_are_found(tmp_path):
    rng = random.Random(5)
    template = "".join(sentence(rng) for _ in range(6))
    texts = [template + "".join(sentence(rng) for _ in range(6)) for _ in range(1000)]
    twins = texts[:200]
    found = found_in(texts + [twin + " indeed" for twin in twins], tmp_path, 0.9)
    assert sum(found[1000 + row] == row for row in range(200)) >= 198


def test_memory_of_rows_that_all_share_bands_is_bounded(tmp_path, monkeypatch):
    # The worst there is: all rows in pairs, in every band.
    monkeypatch.setattr("danlu.data.duplicates.near._CACHE_BYTES", 1 << 16)
    num_rows = 40_000
    sets = [mixed(np.arange(3, dtype=np.uint64) + np.uint64(3 * (row // 2))) for row in range(num_rows)]
    for one in sets:
        one.sort()
    bands = BandFiles(tmp_path)
    bands.append(*signatures_of_sets(sets))
    tracemalloc.start()
    try:
        found = find_near_duplicates(bands, num_rows, sets.__getitem__, 0.7)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found >= 0).sum() == num_rows // 2
    assert peak < 160 * num_rows


@pytest.mark.parametrize(("size", "at_least"), [(400, 0.985), (50, 0.975), (10, 0.93)])
def test_bands_meet_as_often_as_the_formula_says(size, at_least):
    # Two sets of `size` shingles between them at J = 0.7: 0.987, 0.982, 0.956 by the formula.
    rng = np.random.default_rng(11)
    shared = round(0.7 * size)
    alone = (size - shared) // 2
    trials, met, bands_met = 3000, 0, 0
    for _ in range(trials):
        values = rng.integers(0, 2**64, size, dtype=np.uint64)
        a = np.sort(np.concatenate((values[:shared], values[shared : shared + alone])))
        b = np.sort(np.concatenate((values[:shared], values[shared + alone :])))
        equal = band_hashes(a) == band_hashes(b)
        met += bool(equal.any())
        bands_met += int(equal.sum())
    assert met / trials >= at_least - 0.005
    # E[w]⁴ with independent rings: exactly J⁴ at any size.
    assert abs(bands_met / (trials * NUM_BANDS) - 0.7**4) < 0.015


def test_band_hashes_stay_what_they_are():
    assert band_hashes(shingles("经理 repaired the window 昨天下午"))[:2].tolist() == BANDS


BANDS = [2361918302486990564, 15335253834265047181]


def test_bands_of_an_empty_set_meet_nothing():
    assert band_hashes(shingles("")).tolist() == [0] * NUM_BANDS


def test_signatures_of_other_rows_are_refused(tmp_path):
    bands = files_of(["one row", "two rows"], tmp_path)
    with pytest.raises(ValueError, match="signatures of 2 rows, must be 3"):
        find_near_duplicates(bands, 3, lambda row: shingles(""), 0.7)
    with pytest.raises(ValueError, match="threshold is 0"):
        near_groups(bands, 2, lambda row: shingles(""), 0.0)
    with pytest.raises(ValueError, match="must be \\(1, 16\\)"):
        bands.append(np.zeros((1, 3), np.uint64), np.zeros((1, 4), np.uint64), np.zeros(1, np.uint32))


@pytest.mark.parametrize("size", [10, 40, 300])
@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.9])
def test_a_sketch_rules_out_no_pair_at_the_threshold(size, threshold):
    rng = np.random.default_rng(size)
    shared = round(threshold * size)
    alone = (size - shared) // 2
    ruled_out = 0
    for _ in range(1500):
        values = rng.integers(0, 2**64, size, dtype=np.uint64)
        a = np.sort(np.concatenate((values[:shared], values[shared : shared + alone])))
        b = np.sort(np.concatenate((values[:shared], values[shared + alone :])))
        first, second = signatures_of_sets([a, b])[1]
        parts = [(int(first[w] ^ second[w]) >> 4 * part) & 15 for w in range(4) for part in range(16)]
        ruled_out += parts.count(0) < least_agreement(threshold, max(a.size, b.size))
    assert ruled_out <= 1


def test_sketches_rule_out_nearly_all_pairs_that_are_far_apart():
    rng = np.random.default_rng(1)
    sets = [np.sort(rng.integers(0, 2**64, 300, dtype=np.uint64)) for _ in range(200)]
    sketches = signatures_of_sets(sets)[1]
    agree = [
        sum((int(a ^ b) >> 4 * part) & 15 == 0 for a, b in zip(first, second, strict=True) for part in range(16))
        for first, second in zip(sketches[::2], sketches[1::2], strict=True)
    ]
    assert max(agree) < least_agreement(0.7, 300)
    assert 1 <= np.mean(agree) <= 7  # 64 / 16 by chance
