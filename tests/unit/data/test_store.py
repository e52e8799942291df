import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.prepared import read_conversations
from danlu.data.store import DOCUMENTS, Store, StoreWriter, to_batch, write_order
from danlu.data.template import Document
from danlu.errors import FolderError

TEN = tuple(range(100, 110))
SOME = [
    Document(TEN, ((2, 4), (7, 10))),
    Document((1, 2), ((1, 2),)),
    Document((5, 6, 7), ((1, 2), (2, 3))),
]


@st.composite
def documents(draw):
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=30))
    edges = draw(st.lists(st.integers(1, len(ids)), unique=True, min_size=2).map(sorted))
    return Document(tuple(ids), tuple(zip(edges[::2], edges[1::2], strict=False)))


def all_of(store):
    return [store[index] for index in range(len(store))]


def test_documents_with_several_spans_come_back_as_they_were(make_store):
    assert all_of(make_store(SOME)) == SOME


def test_counts_are_those_of_the_documents(make_store):
    store = make_store(SOME)
    assert store.lengths().tolist() == [10, 2, 3]
    assert store.num_tokens == 15
    assert store.num_trained_tokens == 8 == sum(document.trained for document in SOME)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(documents(), max_size=4), max_size=4))
def test_documents_written_in_any_batches_come_back_as_they_were(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("store")
    expected = [document for batch in batches for document in batch]
    with StoreWriter(folder) as writer:
        for batch in batches:
            writer.append(to_batch(batch, [f"rows.jsonl:{len(document.ids)}" for document in batch]))
        assert writer.num_documents == len(expected)
    write_order(folder, "any", range(len(expected)))
    store = Store(folder, "any")
    assert all_of(store) == expected
    assert [store.where(index) for index in range(len(store))] == [f"rows.jsonl:{len(d.ids)}" for d in expected]
    assert store.num_trained_tokens == sum(document.trained for document in expected)


def test_an_order_may_repeat_and_leave_out(make_store, tmp_path):
    make_store(SOME)
    folder = tmp_path / "store-0"
    write_order(folder, "twice", [2, 0, 2])
    store = Store(folder, "twice")
    assert all_of(store) == [SOME[2], SOME[0], SOME[2]]
    assert store.lengths().tolist() == [3, 10, 3]
    assert store.num_tokens == 16
    assert store.num_trained_tokens == 2 + 5 + 2


def test_empty_store_has_no_documents(make_store):
    store = make_store([])
    assert len(store) == store.num_tokens == store.num_trained_tokens == 0
    assert store.lengths().tolist() == []


def test_document_holds_plain_python_numbers(make_store):
    document = make_store(SOME)[0]
    assert type(document.ids[0]) is int
    assert type(document.spans[0][0]) is int
    assert pickle.loads(pickle.dumps(document)) == document


@pytest.mark.parametrize("index", [3, 100])
def test_index_past_the_end_is_an_error(make_store, index):
    with pytest.raises(IndexError):
        make_store(SOME)[index]


def test_tokens_take_four_bytes_on_disk(make_store, tmp_path):
    make_store([Document(tuple(range(10_000)), ((1, 2),))])
    assert 40_000 <= (tmp_path / "store-0" / DOCUMENTS).stat().st_size < 42_000


def test_lengths_are_wide_enough_to_be_summed(make_store):
    assert make_store(SOME).lengths().dtype == np.int64


def test_conversations_with_line_separators_are_read_back(tmp_path):
    messages = [[{"role": "user", "content": "one\u2028two\x85three"}], [{"role": "user", "content": "q"}]]
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"messages": conversation}, ensure_ascii=False) + "\n" for conversation in messages]
    path.write_text("".join(lines), encoding="utf-8")
    assert read_conversations(path) == messages
    assert read_conversations(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("name", [DOCUMENTS, "train.arrow"])
def test_a_store_that_was_damaged_is_said_to_be(make_store, tmp_path, name):
    make_store(SOME)
    path = next(tmp_path.rglob(name))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FolderError, match="damaged") as caught:
        Store(path.parent, "train")
    assert caught.value.faults[0].where == str(path)


def test_a_store_is_written_and_read_without_pandas(tmp_path):
    script = """
import sys
from pathlib import Path
from danlu.data.store import Store, StoreWriter, to_batch, write_order
from danlu.data.template import Document
folder = Path(sys.argv[1])
with StoreWriter(folder) as writer:
    writer.append(to_batch([Document((1, 2, 3), ((1, 2),))], ["rows.json, row 1"]))
write_order(folder, "train", [0])
store = Store(folder, "train")
print(store[0].ids, store.where(0), store.lengths(), store.num_trained_tokens, "pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 2, 3) rows.json, row 1 [3] 1 False\n"
