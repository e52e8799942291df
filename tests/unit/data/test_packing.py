"""Packs hold every document once, whole, apart from others, and predict its trained tokens alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.packing import pack, shared_prefix, split_into_packs
from danlu.data.template import Document


@st.composite
def documents(draw: st.DrawFn) -> list[Document]:
    """Documents that often begin alike, with one to three trained spans each."""
    common = draw(st.lists(st.integers(0, 2), max_size=6))
    made = []
    for _ in range(draw(st.integers(1, 6))):
        head = common[: draw(st.integers(0, len(common)))]
        body = draw(st.lists(st.integers(0, 2), min_size=2, max_size=12))
        ids = tuple(head + body)
        count = draw(st.integers(1, min(3, len(ids) // 2)))
        cuts = draw(
            st.lists(st.integers(1, len(ids)), min_size=2 * count, max_size=2 * count, unique=True).map(sorted)
            if len(ids) >= 2 * count
            else st.just([1, len(ids)])
        )
        spans = tuple(zip(cuts[::2], cuts[1::2], strict=True))
        made.append(Document(ids, spans))
    return made


ALIKE = [
    Document((1, 2, 3, 4, 5), ((3, 5),)),
    Document((1, 2, 3, 9), ((3, 4),)),
    Document((1, 2, 3, 4, 5, 6, 7), ((4, 5), (6, 7))),
]


def trained_pairs(document: Document) -> list[tuple[int, int]]:
    """Position that predicts, and the token it predicts."""
    return [(place - 1, document.ids[place]) for start, end in document.spans for place in range(start, end)]


def test_a_prefix_is_computed_once_and_laid_under_every_document() -> None:
    packed = pack(ALIKE, share_prefix=True)
    assert packed.ids == [1, 2, 3, 4, 5, 3, 9, 3, 4, 5, 6, 7]
    assert packed.positions == [0, 1, 2, 3, 4, 2, 3, 2, 3, 4, 5, 6]
    assert packed.gather == [[0, 1, 2, 3, 4, 4, 4], [0, 1, 5, 6, 6, 6, 6], [0, 1, 7, 8, 9, 10, 11]]
    assert packed.target_positions == [2, 3, 5, 8, 10]
    assert packed.target_ids == [4, 5, 9, 5, 7]
    assert packed.num_tokens == 16


def test_plain_packs_restart_positions_and_have_no_grid() -> None:
    packed = pack(ALIKE, share_prefix=False)
    assert packed.ids == [token for document in ALIKE for token in document.ids]
    assert packed.positions == [*range(5), *range(4), *range(7)]
    assert packed.gather == []
    assert packed.scatter == []


def test_a_lone_document_shares_nothing() -> None:
    assert shared_prefix(ALIKE[:1]) == 0
    assert pack(ALIKE[:1], share_prefix=True).gather == [[0, 1, 2, 3, 4]]


@given(documents())
def test_a_shared_prefix_is_common_and_predicts_nothing(documents: list[Document]) -> None:
    prefix = shared_prefix(documents)
    assert len({document.ids[:prefix] for document in documents}) == 1
    for document in documents:
        assert all(place >= prefix for place, _ in trained_pairs(document))


@given(documents())
def test_a_shared_prefix_is_as_long_as_it_can_be(documents: list[Document]) -> None:
    longer = shared_prefix(documents) + 1
    if len(documents) > 1:
        heads = {document.ids[:longer] for document in documents}
        predicts = any(trained_pairs(document)[0][0] < longer for document in documents)
        assert len(heads) > 1 or predicts or any(len(document.ids) < longer for document in documents)


@given(documents())
def test_gathering_gives_back_each_document_and_scattering_each_token(documents: list[Document]) -> None:
    packed = pack(documents, share_prefix=True)
    longest = max(len(document.ids) for document in documents)
    for document, row in zip(documents, packed.gather, strict=True):
        length = len(document.ids)
        assert len(row) == longest
        assert [packed.ids[place] for place in row[:length]] == list(document.ids)
        assert [packed.positions[place] for place in row[:length]] == list(range(length))
        assert set(row[length:]) <= {row[length - 1]}
    grid = [place for row in packed.gather for place in row]
    assert [grid[place] for place in packed.scatter] == list(range(len(packed.ids)))
    for place in packed.scatter:
        assert place % longest < len(documents[place // longest].ids)


@given(documents(), st.booleans())
def test_targets_are_the_trained_tokens_at_the_places_before_them(
    documents: list[Document], share_prefix: bool
) -> None:
    packed = pack(documents, share_prefix)
    expected = [pair for document in documents for pair in trained_pairs(document)]
    assert packed.target_ids == [token for _, token in expected]
    assert [packed.positions[place] for place in packed.target_positions] == [place for place, _ in expected]
    assert len(packed.target_ids) == sum(document.trained for document in documents)
    assert packed.num_tokens == sum(len(document.ids) for document in documents)


@given(documents())
def test_targets_lie_in_their_own_document_of_a_plain_pack(documents: list[Document]) -> None:
    packed = pack(documents, share_prefix=False)
    start, expected = 0, []
    for document in documents:
        expected += [start + place for place, _ in trained_pairs(document)]
        start += len(document.ids)
    assert packed.target_positions == expected


@given(documents())
def test_targets_lie_in_their_own_document_of_a_shared_pack(documents: list[Document]) -> None:
    packed = pack(documents, share_prefix=True)
    expected = [
        packed.gather[row][place] for row, document in enumerate(documents) for place, _ in trained_pairs(document)
    ]
    assert packed.target_positions == expected


@settings(max_examples=200)
@given(documents(), st.integers(1, 60), st.booleans())
def test_splitting_keeps_every_document_once_within_the_budget(
    documents: list[Document], budget: int, share_prefix: bool
) -> None:
    groups = split_into_packs(documents, budget, share_prefix)
    assert Counter(member for group in groups for member in group) == Counter(documents)
    computed = [len(pack(group, share_prefix).ids) for group in groups]
    assert all(tokens <= budget or len(group) == 1 for tokens, group in zip(computed, groups, strict=True))
    assert computed == sorted(computed, reverse=True), "the largest comes first"


def test_a_budget_that_holds_all_makes_one_pack_and_a_budget_of_one_token_makes_one_each() -> None:
    assert len(split_into_packs(ALIKE, 16, share_prefix=False)) == 1
    assert len(split_into_packs(ALIKE, 15, share_prefix=False)) == 2
    assert len(split_into_packs(ALIKE, 12, share_prefix=True)) == 1
    assert len(split_into_packs(ALIKE, 1, share_prefix=True)) == 3
