"""The feed of streamed rows: a step's documents are the next of the stream, and each step has its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.data.ledger import Ledger
from danlu.data.sources import Source
from danlu.data.stages import LabelPlan, RowStage, SourcePlan
from danlu.data.stream import RowStream, StreamPlan, position_of
from danlu.data.template import Document
from danlu.data.workers import Workers
from danlu.training.feed import StreamFeed

COUNT, STEPS, BATCH = 18, 12, 4


@pytest.fixture
def make(tmp_path: Path, model_folder: Path) -> Iterator[Callable[..., StreamFeed]]:
    """Feeds over 18 rows in windows of 7; each has a ledger of its own, under `feed.ledger`."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"q {n}", "answer": f"a {n}"}) + "\n" for n in range(COUNT)))
    stage = RowStage((SourcePlan(0),), labels=LabelPlan(model_folder, 64, "drop"))
    plan = StreamPlan([(0, Source(str(path), "json"))], stage, None, 7, 1)
    opened: list[Ledger] = []

    def call(position: int = 0, first_step: int = 0) -> Any:
        (tmp_path / str(len(opened))).mkdir()
        opened.append(Ledger(tmp_path / str(len(opened))))
        stream = RowStream(plan, Workers(1), opened[-1], position)
        feed = StreamFeed(stream, STEPS, BATCH, 256, False, torch.device("cpu"), first_step)
        feed.ledger = opened[-1]  # type: ignore[attr-defined]
        return feed

    yield call
    for ledger in opened:
        ledger.__exit__(None, None, None)


def all_steps(feed: Any) -> list[list[Document]]:
    return [feed.documents(step) for step in range(feed.num_steps)]


def test_every_step_is_full_and_the_passes_follow_one_another(make: Any) -> None:
    steps = all_steps(make())
    assert [len(documents) for documents in steps] == [BATCH] * STEPS
    order = [document for documents in steps for document in documents]
    assert len(set(order[:COUNT])) == COUNT
    assert set(order[COUNT : 2 * COUNT]) == set(order[:COUNT])
    assert order[COUNT : 2 * COUNT] != order[:COUNT]


def test_a_step_asked_for_twice_is_taken_once(make: Any) -> None:
    feed = make()
    assert feed.documents(0) == feed.documents(0)
    assert feed.ledger.rows()["kept"] == BATCH


def test_from_the_place_after_a_step_a_new_feed_goes_on_with_the_same_bits(make: Any) -> None:
    feed = make()
    steps = all_steps(feed)
    for done in range(STEPS):
        position = feed.position(done)
        assert isinstance(position, int)
        resumed = make(position, first_step=done)
        assert resumed.position(done) == position
        assert [resumed.documents(step) for step in range(done, STEPS)] == steps[done:]
        assert resumed.position(STEPS) == feed.position(STEPS)


def test_a_later_step_passes_over_documents_and_does_not_count_them(make: Any) -> None:
    steps = all_steps(make())
    feed = make()
    assert feed.documents(7) == steps[7]
    assert feed.ledger.rows()["kept"] == BATCH
    assert feed.documents(9) == steps[9]
    assert feed.ledger.rows()["kept"] == 2 * BATCH


def test_an_earlier_step_goes_back(make: Any) -> None:
    feed = make()
    steps = all_steps(feed)
    for step in (3, 4, 1, 11, 0):
        assert feed.documents(step) == steps[step]
    with pytest.raises(ValueError, match="before the first"):
        make(feed.position(1), first_step=1).documents(0)


def test_the_epoch_is_the_number_of_whole_passes(make: Any) -> None:
    feed = make()
    all_steps(feed)
    assert [feed.epoch(step) for step in range(STEPS + 1)] == [step * BATCH // COUNT for step in range(STEPS + 1)]
    assert feed.position(9) == position_of(2, 0, 0), "36 documents are two passes"


def test_the_micro_batches_of_a_step_hold_its_documents(make: Any) -> None:
    feed = make()
    for step in range(4):
        tokens = sum(batch.num_tokens for batch in feed.batches(step))
        assert tokens == sum(len(document.ids) for document in feed.documents(step))
