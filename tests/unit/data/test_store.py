import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.run import read_conversations
from danlu.data.store import Store, write_store
from danlu.data.template import Document

TEN = tuple(range(100, 110))
DOCUMENTS = [
    Document(TEN, ((2, 4), (7, 10))),
    Document((1, 2), ((1, 2),)),
    Document((5, 6, 7), ((1, 2), (2, 3))),
]


@st.composite
def documents(draw):
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=30))
    edges = draw(st.lists(st.integers(1, len(ids)), unique=True, min_size=2).map(sorted))
    return Document(tuple(ids), tuple(zip(edges[::2], edges[1::2], strict=False)))


def test_documents_with_several_spans_come_back_as_they_were(tmp_path):
    write_store(tmp_path, "train", DOCUMENTS)
    store = Store(tmp_path, "train")
    assert [store[index] for index in range(len(store))] == DOCUMENTS


def test_counts_are_those_of_the_documents(tmp_path):
    write_store(tmp_path, "train", DOCUMENTS)
    store = Store(tmp_path, "train")
    assert store.lengths().tolist() == [10, 2, 3]
    assert store.num_tokens == 15
    assert store.num_trained_tokens == 8 == sum(document.trained for document in DOCUMENTS)


@settings(deadline=None, max_examples=50)
@given(st.lists(documents(), max_size=8))
def test_any_documents_come_back_as_they_were(tmp_path_factory, expected):
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, "any", expected)
    store = Store(folder, "any")
    assert [store[index] for index in range(len(store))] == expected


def test_empty_store_has_no_documents(tmp_path):
    write_store(tmp_path, "evaluation", [])
    store = Store(tmp_path, "evaluation")
    assert len(store) == store.num_tokens == store.num_trained_tokens == 0
    assert store.lengths().tolist() == []


def test_two_splits_share_a_folder(tmp_path):
    write_store(tmp_path, "train", DOCUMENTS)
    write_store(tmp_path, "evaluation", DOCUMENTS[1:2])
    assert len(Store(tmp_path, "train")) == 3
    assert Store(tmp_path, "evaluation")[0] == DOCUMENTS[1]


def test_document_holds_plain_python_numbers(tmp_path):
    write_store(tmp_path, "train", DOCUMENTS)
    document = Store(tmp_path, "train")[0]
    assert type(document.ids[0]) is int
    assert type(document.spans[0][0]) is int
    assert pickle.loads(pickle.dumps(document)) == document


@pytest.mark.parametrize("index", [3, 100])
def test_index_past_the_end_is_an_error(tmp_path, index):
    write_store(tmp_path, "train", DOCUMENTS)
    with pytest.raises(IndexError):
        Store(tmp_path, "train")[index]


def test_tokens_stay_int32_on_disk(tmp_path):
    write_store(tmp_path, "train", [Document(tuple(range(10_000)), ((1, 2),))])
    assert 40_000 <= (tmp_path / "train.tokens.arrow").stat().st_size < 42_000
    assert np.dtype(Store(tmp_path, "train").lengths().dtype) == np.int64


def test_conversations_with_line_separators_are_read_back(tmp_path):
    messages = [[{"role": "user", "content": "one\u2028two\x85three"}], [{"role": "user", "content": "q"}]]
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"messages": conversation}, ensure_ascii=False) + "\n" for conversation in messages]
    path.write_text("".join(lines), encoding="utf-8")
    assert read_conversations(path) == messages
    assert read_conversations(tmp_path / "none.jsonl") == []
