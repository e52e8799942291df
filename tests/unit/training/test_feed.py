"""The feed: every document once per epoch, in a seeded order, none left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from danlu.data.store import Store
from danlu.data.template import Document
from danlu.training.feed import Feed

COUNT = 11


@pytest.fixture
def store(make_store: Callable[[Sequence[Document]], Store]) -> Store:
    return make_store([Document((1, 2, 100 + n), ((2, 3),)) for n in range(COUNT)])


def feed_of(
    store: Store, epochs: int, batch: int, seed: int = 0, max_steps: int | None = None, budget: int = 512
) -> Feed:
    return Feed(store, epochs, batch, seed, budget, False, torch.device("cpu"), max_steps)


def order_of(feed: Feed) -> list[int]:
    return [document.ids[2] - 100 for step in range(feed.num_steps) for document in feed.documents(step)]


@pytest.mark.parametrize("batch", [1, 3, 4, 11, 16, 100])
@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_each_epoch_has_every_document_exactly_once(store: Store, epochs: int, batch: int) -> None:
    order = order_of(feed_of(store, epochs, batch))
    assert len(order) == epochs * COUNT
    for epoch in range(epochs):
        assert sorted(order[epoch * COUNT : (epoch + 1) * COUNT]) == list(range(COUNT))


def test_the_order_is_the_seed_s_and_changes_with_the_epoch(store: Store) -> None:
    order = order_of(feed_of(store, 2, 4, seed=5))
    assert order == order_of(feed_of(store, 2, 4, seed=5))
    assert order != order_of(feed_of(store, 2, 4, seed=6))
    assert order[:COUNT] != order[COUNT:]
    assert order[:COUNT] != list(range(COUNT))


def test_the_order_does_not_depend_on_the_batch_size(store: Store) -> None:
    assert order_of(feed_of(store, 3, 2, seed=1)) == order_of(feed_of(store, 3, 7, seed=1))


def test_a_step_can_be_asked_for_by_its_number_alone(store: Store) -> None:
    feed = feed_of(store, 3, 4)
    all_steps = [feed.documents(step) for step in range(feed.num_steps)]
    assert feed_of(store, 3, 4).documents(5) == all_steps[5]


def test_only_the_last_step_is_shorter(store: Store) -> None:
    feed = feed_of(store, 2, 4)
    assert feed.num_steps == 6
    assert [len(feed.documents(step)) for step in range(6)] == [4, 4, 4, 4, 4, 2]
    assert feed.steps_per_epoch == pytest.approx(COUNT / 4)


def test_max_steps_only_shortens(store: Store) -> None:
    assert feed_of(store, 2, 4, max_steps=3).num_steps == 3
    assert feed_of(store, 2, 4, max_steps=600).num_steps == 6
    assert order_of(feed_of(store, 2, 4, max_steps=3)) == order_of(feed_of(store, 2, 4))[:12]


@pytest.mark.parametrize("budget", [1, 6, 512])
def test_the_micro_batches_of_a_step_hold_its_documents(store: Store, budget: int) -> None:
    feed = feed_of(store, 2, 4, budget=budget)
    for step in range(feed.num_steps):
        batches = feed.batches(step)
        targets = Counter(token for batch in batches for token in batch.target_ids.tolist())
        assert targets == Counter(document.ids[2] for document in feed.documents(step))
        assert all(batch.ids.shape[1] <= max(budget, 3) for batch in batches)
        assert sum(batch.num_tokens for batch in batches) == 3 * len(feed.documents(step))


def test_a_row_that_is_left_out_does_not_come_after_its_step_and_the_others_stay_where_they_are(store: Store) -> None:
    feed = feed_of(store, 3, 4)
    numbers = [feed.numbers(step) for step in range(feed.num_steps)]
    out = numbers[1][2]
    left = Feed(store, 3, 4, 0, 512, False, torch.device("cpu"), left_out={out: 2})
    assert [left.numbers(0), left.numbers(1)] == numbers[:2], "it was known with the second step, and stays there"
    for step in range(2, feed.num_steps):
        assert left.numbers(step) == [number for number in numbers[step] if number != out]
        assert left.documents(step) == [store[number] for number in left.numbers(step)]
    everything = Feed(store, 3, 4, 0, 512, False, torch.device("cpu"), left_out=dict.fromkeys(range(COUNT), 1))
    assert everything.documents(2) == []
    assert everything.batches(2) == []
