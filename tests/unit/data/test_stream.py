"""Rows streamed for training: the same from any place on, in bounded memory, and every row accounted for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danlu.data import windows
from danlu.data.cleaning import STEPS
from danlu.data.ledger import Ledger
from danlu.data.records import Record
from danlu.data.run import open_stream, prepare
from danlu.data.sources import Source
from danlu.data.stages import LabelPlan, RowStage, SourcePlan
from danlu.data.store import Store, to_batch
from danlu.data.stream import RowStream, StreamPlan, parts_of, position_of
from danlu.data.template import Document
from danlu.data.windows import Leaks
from danlu.data.workers import Workers
from danlu.errors import DataError, RecipeError
from danlu.recipe import load_recipe
from danlu.runs import danlu_home

WINDOW = 8
LONG = "开户" * 3000


def rows_of(count: int, name: str) -> list[dict[str, str]]:
    """Rows of which each seventh is too long and each fifth is changed by the whitespace step."""
    return [
        {
            "question": f"{name} 问题 {number}{'  两个空格' if number % 5 == 0 else ''}",
            "answer": LONG if number % 7 == 3 else f"答案 {number} of {name}",
        }
        for number in range(count)
    ]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """43 rows in three files of which the second is smaller than a window and the third ends within one."""
    folder = tmp_path_factory.mktemp("rows")
    first, second = write(folder / "a.jsonl", rows_of(21, "a")), write(folder / "b.jsonl", rows_of(3, "b"))
    third = folder / "c.csv"
    third.write_text("question,answer\n" + "".join(f"c {n},答案 {n}\n" for n in range(19)), encoding="utf-8")
    return [first, second, third]


@pytest.fixture(scope="module", params=[1, 2])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    with Workers(request.param) as pool:
        yield pool


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as opened:
        yield opened


def plan_of(files: list[Path], model_folder: Path, **changes: Any) -> StreamPlan:
    sources = [(0, Source(str(path), path.suffix.removeprefix(".").replace("jsonl", "json"))) for path in files]
    stage = RowStage((SourcePlan(0),), steps=(STEPS["whitespace"](),), labels=LabelPlan(model_folder, 200, "drop"))
    return StreamPlan(**{"sources": sources, "rows": stage, "leaks": None, "window_rows": WINDOW, "seed": 3, **changes})


@pytest.fixture
def make(files: list[Path], model_folder: Path, tmp_path: Path) -> Iterator[Callable[..., RowStream]]:
    """Streams the files, each with a ledger of its own."""
    opened: list[Ledger] = []

    def call(pool: Workers | None = None, position: int = 0, **changes: Any) -> RowStream:
        folder = tmp_path / f"ledger-{len(opened)}"
        folder.mkdir()
        opened.append(Ledger(folder))
        plan = plan_of(changes.pop("files", files), model_folder, **changes)
        return RowStream(plan, pool or Workers(1), opened[-1], position)

    yield call
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture(scope="module")
def whole(files: list[Path], model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """100 documents, more than two passes, and the place before each of them."""
    with Ledger(tmp_path_factory.mktemp("whole")) as ledger:
        stream = RowStream(plan_of(files, model_folder), Workers(1), ledger)
        documents, positions = [], [stream.position]
        for _ in range(100):
            documents += stream.take(1)
            positions.append(stream.position)
        stream.close()
    return {"documents": documents, "positions": positions}


def test_a_place_is_one_integer() -> None:
    assert position_of(0, 0, 5) == 5
    assert position_of(0, 1, 0) == 2**24
    assert position_of(1, 0, 0) == 2**56
    assert parts_of(position_of(7, 12345, 678)) == (7, 12345, 678)
    assert position_of(0, 0, 99) < position_of(0, 1, 0) < position_of(1, 0, 0)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(begin=st.integers(0, 99), count=st.integers(1, 60))
def test_from_any_place_on_the_stream_is_the_same(
    begin: int, count: int, whole: dict[str, Any], make: Callable[..., RowStream], workers: Workers
) -> None:
    count = min(count, 100 - begin)
    stream = make(workers, whole["positions"][begin])
    assert stream.take(count) == whole["documents"][begin : begin + count]
    assert stream.position == whole["positions"][begin + count]
    stream.close()


def test_the_place_after_the_last_document_of_a_pass_is_the_start_of_the_next(
    whole: dict[str, Any], make: Callable[..., RowStream]
) -> None:
    (size,) = (place for place, position in enumerate(whole["positions"]) if position == position_of(1, 0, 0))
    stream = make(position=position_of(1, 0, 0))
    assert stream.take(5) == whole["documents"][size : size + 5]
    assert len(list(make().pass_through())) == size


def test_chunks_smaller_than_a_window_change_nothing(
    whole: dict[str, Any], make: Callable[..., RowStream], workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "CHUNK_ROWS", 3)
    assert make(workers).take(100) == whole["documents"]


def test_each_pass_has_every_good_row_once_in_another_order(whole: dict[str, Any], make: Any) -> None:
    size = len(list(make().pass_through()))
    first, second = whole["documents"][:size], whole["documents"][size : 2 * size]
    assert size == 43 - 3, "three rows are too long"
    assert len(set(first)) == size
    assert Counter(first) == Counter(second)
    assert first != second


def test_a_window_holds_the_rows_that_were_read_in_it_shuffled(make: Callable[..., RowStream], tokenizer: Any) -> None:
    stream = make(files=[plain_file()], window_rows=8)
    numbers = [number_in(document, tokenizer) for document in stream.take(24)]
    for window in range(3):
        run = numbers[8 * window : 8 * window + 8]
        assert sorted(run) == list(range(8 * window, 8 * window + 8))
        assert run != sorted(run)


def test_the_order_is_the_seed_s(make: Callable[..., RowStream], whole: dict[str, Any]) -> None:
    assert make(seed=3).take(30) == whole["documents"][:30]
    assert make(seed=4).take(30) != whole["documents"][:30]


def plain_file() -> Path:
    folder = danlu_home() / "plain"
    folder.mkdir(exist_ok=True)
    return write(folder / "rows.jsonl", [{"question": f"q {n} q", "answer": f"<{n}>"} for n in range(24)])


def number_in(document: Document, tokenizer: Any) -> int:
    return int(tokenizer.decode(document.ids).rpartition("<|im_start|>assistant\n<")[2].partition(">")[0])


def assert_adds_up(stream: RowStream) -> None:
    rows = stream.ledger.rows()  # asserts that read + added = kept + dropped
    assert stream.rows == rows["kept"]
    assert sum(stream.ledger.files.values()) == rows["read"]
    assert stream.ledger.steps["read"].rows_in == rows["read"] + stream.waiting


def test_at_every_moment_what_was_read_was_kept_or_dropped_and_the_rest_waits(make: Callable[..., RowStream]) -> None:
    stream = make()
    for _ in range(90):
        stream.take(1)
        assert_adds_up(stream)
    assert stream.ledger.dropped > 3, "a row is counted in each pass"


def test_rows_of_a_window_that_nobody_took_are_not_kept(make: Callable[..., RowStream]) -> None:
    stream = make()
    stream.take(2)
    assert stream.ledger.rows()["read"] == 2 + stream.ledger.dropped
    assert stream.waiting == WINDOW - stream.ledger.dropped - 2
    assert stream.to_json()["waiting"] == stream.waiting


@pytest.mark.parametrize("parts", [(13, 40), (7, 46), (1, 52), (40, 13)])
def test_the_accounts_of_the_parts_sum_up_to_that_of_the_whole(make: Callable[..., RowStream], parts: Any) -> None:
    whole = make()
    whole.take(sum(parts))
    position, totals, steps = 0, Counter[str](), Counter[str]()
    for count in parts:
        part = make(position=position)
        part.take(count)
        position = part.position
        totals.update(part.ledger.rows())
        steps.update({name: step.rows_in for name, step in part.ledger.steps.items()})
    assert totals == Counter(whole.ledger.rows())
    assert steps == {name: step.rows_in for name, step in whole.ledger.steps.items()}


def test_what_lies_before_a_place_is_neither_converted_nor_tokenized(make: Callable[..., RowStream]) -> None:
    stream = make(position=position_of(0, 4, 0))
    stream.take(3)
    assert stream.ledger.steps["read"].rows_in == WINDOW
    assert stream.ledger.steps["labels"].rows_in == WINDOW


@pytest.mark.parametrize("window_rows", [8, 64])
def test_files_are_read_ahead_by_a_few_chunks_and_not_more(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window_rows: int, workers: Workers
) -> None:
    path = write(tmp_path / "many.jsonl", [{"question": f"q {n}", "answer": "a"} for n in range(2000)])
    num_read, most = 0, 0

    def counted(source: Source) -> Iterator[Any]:
        nonlocal num_read
        for row in read(source):
            num_read += 1
            yield row

    read = windows.read_rows
    monkeypatch.setattr(windows, "read_rows", counted)
    monkeypatch.setattr(windows, "CHUNK_ROWS", 8)
    stream = make(workers, files=[path], window_rows=window_rows)
    for taken in range(1, 640):
        stream.take(1)
        most = max(most, num_read - taken)
    assert most <= window_rows + 7 * 8 + 1
    stream.close()


def test_a_near_copy_of_an_evaluation_row_is_dropped_and_written_down(make: Any, tmp_path: Path) -> None:
    text = "How do I open an account for my child at a branch near me on a Saturday morning in May"
    rows = [{"question": f"{text} please", "answer": "Bring your passport."}, {"question": "Hello", "answer": "Hi."}]
    record = Record([{"role": "user", "content": text}, {"role": "assistant", "content": "Bring your passport."}])
    leaks = Leaks(["held.jsonl:1"], [record], "either", 0.7)
    stream = make(files=[write(tmp_path / "rows.jsonl", rows)], leaks=leaks)
    assert len(list(stream.pass_through())) == 1
    (reason,) = stream.ledger.reasons()
    assert reason["reason"] == "near-copy of an evaluation row"
    assert reason["examples"][0]["where"].endswith("rows.jsonl:1")
    assert reason["examples"][0]["kept"] == "held.jsonl:1"
    assert stream.ledger.steps["leaks"].dropped == 1
    assert_adds_up(stream)


class ThreeOfEach:
    """A stage that gives each row two documents and one that is not wanted."""

    def __init__(self, rows: RowStage) -> None:
        self.rows = rows

    def __call__(self, chunk: Any) -> Any:
        result = self.rows(chunk)
        found = [Document(tuple(ids), ((1, 2),)) for ids in result.batch.column(0).to_pylist()]
        more = [Document((*one.ids, end), one.spans) for one in found for end in (1, 2, 3)]
        result.batch, result.documents = to_batch(more, [""] * len(more)), [(2, 1)] * len(found)
        return result


def test_a_row_of_several_documents_is_one_row_and_can_be_resumed_within(
    make: Callable[..., RowStream], files: list[Path], model_folder: Path
) -> None:
    rows = ThreeOfEach(plan_of(files, model_folder).rows)
    stream = make(rows=rows)
    documents = stream.take(79)
    assert [document.ids[-1] for document in documents] == [1, 2] * 39 + [1], "the third is never wanted"
    assert stream.rows == 40
    for begin in (1, 2, 13, 31):
        first = make(rows=rows)
        first.take(begin)
        second = make(rows=rows, position=first.position)
        assert second.take(20) == documents[begin : begin + 20]
        assert first.rows + second.rows == -(-(begin + 20) // 2)
        second.ledger.rows()


def test_too_many_dropped_rows_stop_a_small_set_before_its_first_document(make: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", [{"question": "q", "answer": "a" if n % 2 else ""} for n in range(20)])
    stream = make(files=[path], window_rows=32, max_dropped_share=0.2)
    with pytest.raises(DataError, match=r"10 of 20 rows would be dropped \(50.0%\)"):
        stream.take(1)
    assert_adds_up(stream)
    assert len(make(files=[path], window_rows=32, max_dropped_share=0.5).take(25)) == 25


def test_a_large_set_is_judged_once_a_thousand_rows_were_read(make: Any, tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "" if n > 800 else "a"} for n in range(4000)]
    stream = make(files=[write(tmp_path / "bad.jsonl", rows)], window_rows=256, max_dropped_share=0.1)
    assert len(stream.take(768)) == 768
    with pytest.raises(DataError, match=r"223 of 1024 rows would be dropped"):
        stream.take(33)


@pytest.mark.parametrize("counted", [True, False])
def test_files_without_a_good_row_are_refused_and_not_read_for_ever(make: Any, tmp_path: Path, counted: bool) -> None:
    path = write(tmp_path / "bad.jsonl", [{"question": "q", "answer": ""}] * 20)
    with pytest.raises(DataError, match="none is left to train on"):
        make(files=[path]).take(1, counted)


def test_a_table_without_rows_is_refused(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("question,answer\n")
    with pytest.raises(DataError, match="no rows"):
        make(files=[path]).take(1)


def test_a_place_behind_the_rows_is_refused(make: Callable[..., RowStream]) -> None:
    for position in (position_of(0, 6, 0), position_of(0, 99, 0), position_of(0, 1, 9)):
        with pytest.raises(DataError, match="fewer rows than were read before"):
            make(position=position).take(1)


def recipe_of(tmp_path: Path, files: list[Path], **data: Any) -> Any:
    section = {"train": [str(path) for path in files], "max_sequence_tokens": 200, "num_workers": 1, **data}
    section["max_dropped_share"] = 0.5
    value = {
        "model": {"name": "smollm2-135m-instruct"},
        "data": section,
        "adapter": {"type": "lora"},
        "training": {"max_steps": 2},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return load_recipe(path)


def nobody(name: str) -> Any:
    raise AssertionError(name)


def test_a_stream_gives_the_documents_and_totals_of_the_prepared_path(
    files: list[Path], model_folder: Path, tmp_path: Path
) -> None:
    held = write(tmp_path / "held.jsonl", [{"question": "a 问题 1", "answer": "答案 1 of a"}, *rows_of(2, "held")])
    section = {"evaluation": [str(held)], "cleaning": ["whitespace"], "masking": {"names": False}}
    prepared = prepare(recipe_of(tmp_path, files, **section), model_folder, nobody)
    streamed = recipe_of(tmp_path, files, **section, streaming=True, shuffle_window_rows=WINDOW)
    gone_through = prepare(streamed, model_folder, nobody)
    for key in ("rows", "tokens", "splits"):
        assert gone_through.summary()[key] == prepared.summary()[key], key
    assert gone_through.about["rows"]["dropped"] > 3, "the near-copy too"
    alone = prepare(streamed, model_folder, nobody, held_alone=True)
    store = prepared.store("train")
    with open_stream(streamed, model_folder, alone, tmp_path) as stream:
        documents = list(stream.pass_through())
        assert stream.split() == prepared.summary()["splits"]["train"]
    assert Counter(documents) == Counter(store[number] for number in range(len(store)))
    assert alone.about["rows"]["read"] == 3
    for folder in (gone_through.folder, alone.folder):
        assert len(Store(folder, "train")) == 0
        stored = b"".join(path.read_bytes() for path in folder.glob("*.arrow"))
        assert b"a.jsonl" not in stored
        assert b"held.jsonl" in stored


def test_reversible_tokens_are_in_the_key_file_before_their_rows_are_given_out(
    model_folder: Path, tmp_path: Path
) -> None:
    rows = [{"question": f"My number is 1380013800{n}", "answer": "Thanks."} for n in range(10)]
    key_file = tmp_path / "keys" / "key.json"
    masking = {"mode": "reversible", "names": False, "key_file": str(key_file)}
    path = write(tmp_path / "rows.jsonl", rows)
    loaded = recipe_of(tmp_path, [path], masking=masking, streaming=True, shuffle_window_rows=4)
    held = prepare(loaded, model_folder, nobody, held_alone=True)
    with open_stream(loaded, model_folder, held, tmp_path) as stream:
        stream.take(1)
        assert sorted(json.loads(key_file.read_text())["tokens"].values()) == [f"1380013800{n}" for n in range(4)]
        stream.take(9)
        assert len(json.loads(key_file.read_text())["tokens"]) == 10


def test_what_must_see_all_rows_is_refused_with_streaming_each_with_its_fault(tmp_path: Path) -> None:
    recipe_of(tmp_path, [tmp_path / "a.jsonl"])
    words = [
        "data.streaming=true",
        "data.train=[{path: a.jsonl, share: 0.5}]",
        "data.evaluation={share: 0.1}",
        "data.cleaning=[html, exact_duplicates, near_duplicates]",
        "data.balance={by: source}",
        "data.mixing={total_rows: 5}",
        "data.augmentation=[{type: swap}]",
    ]
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "recipe.yaml", words)
    faults = caught.value.faults
    assert len(faults) == 6
    assert all("can't go with data.streaming" in fault.what and fault.hint for fault in faults)
    assert caught.value.exit_status == 2
    for number in range(1, 7):
        with pytest.raises(RecipeError):
            load_recipe(tmp_path / "recipe.yaml", [words[0], words[number]])
    load_recipe(tmp_path / "recipe.yaml", [words[0], "data.cleaning=[html]", "data.evaluation=[b.jsonl]"])


def test_streaming_without_a_number_of_steps_is_refused(files: list[Path], model_folder: Path, tmp_path: Path) -> None:
    recipe_of(tmp_path, files)
    words = ["data.streaming=true", "training.max_steps=null"]
    with pytest.raises(RecipeError, match=r"training\.max_steps"):
        prepare(load_recipe(tmp_path / "recipe.yaml", words), model_folder, nobody)
