"""The data stage as a whole: whatever comes in, every row is accounted for, and the same comes out again."""

from __future__ import annotations

import csv
import gzip
import json
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from accounting import assert_adds_up, changes_of, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danlu.data import run
from danlu.errors import DanluError, DataError
from danlu.runs import danlu_home

WORDS = [
    "how",
    "do",
    "I",
    "open",
    "close",
    "my",
    "card",
    "account",
    "bank",
    "loan",
    "rate",
    "fee",
    "today",
    "please",
    "tell",
]
HAN = "请问我想办理银行卡账户贷款利率挂失开户密码转账限额手续费网点今天怎么可以需要多久时间身份证件地址电话"


def sentence(generator: random.Random, chinese: bool, size: int = 14) -> str:
    return "".join(generator.choices(HAN, k=size)) if chinese else " ".join(generator.choices(WORDS, k=size))


def some_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    return [
        {
            "question": f"{sentence(generator, number % 2 == 0)} {number}",
            "answer": sentence(generator, number % 2 == 0, 20),
            "topic": f"t{number % 3}",
        }
        for number in range(count)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """All files but those that hold times."""
    timed = {"manifest.json", "report.html", "summary.txt"}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in timed}


EVERYTHING = {
    "cleaning": [
        {"type": name}
        for name in ("encoding", "unicode", "control_characters", "html", "whitespace", "refusal", "exact_duplicates")
    ]
    + [{"type": "near_duplicates"}, {"type": "length", "min_answer": 3}],
    "masking": {"names": False},
    "evaluation": {"share": 0.2, "stratify_by": "topic"},
    "balance": {"by": "topic"},
    "augmentation": [{"type": "swap", "share": 0.2}],
    "max_dropped_share": 1.0,
}


def dirty_rows(count: int) -> list[Any]:
    rows: list[Any] = some_rows(count)
    rows[3]["answer"] = "ＡＢＣ１２３ " + rows[3]["answer"]
    rows[4]["question"] = "<p>" + rows[4]["question"] + "</p>"
    rows[5]["answer"] += " 电话 13800138000"
    rows.append(dict(rows[7]))
    rows.append({**rows[9], "answer": rows[9]["answer"] + "。"})
    rows.append({**rows[10], "answer": ""})
    rows.append({"topic": "t1"})
    return rows


def test_every_row_is_accounted_for_through_every_step(make: Any) -> None:
    rows = dirty_rows(60)
    prepared = make(EVERYTHING, rows)
    assert_adds_up(prepared, len(rows))
    steps = {(entry["outcome"], entry["step"]) for entry in changes_of(prepared)}
    assert steps >= {
        ("changed", "unicode"),
        ("changed", "html"),
        ("changed", "masking"),
        ("dropped", "exact_duplicates"),
        ("dropped", "near_duplicates"),
        ("dropped", "read"),
        ("added", "swap"),
    }
    assert prepared.about["rows"]["changed"] >= 3


def test_one_and_two_workers_give_the_same_bits(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.data.passes.CHUNK_ROWS", 16)
    rows = dirty_rows(100)
    one = make({**EVERYTHING, "num_workers": 1}, rows)
    first = contents(one.folder)
    shutil.rmtree(one.folder)
    two = make({**EVERYTHING, "num_workers": 2}, rows)
    assert two.folder == one.folder
    assert contents(two.folder) == first
    assert len(first["changes.jsonl"]) > 1000


def test_the_size_of_chunks_changes_nothing(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(EVERYTHING, dirty_rows(60))
    first = contents(one.folder)
    shutil.rmtree(one.folder)
    monkeypatch.setattr("danlu.data.passes.CHUNK_ROWS", 7)
    second = contents(make(EVERYTHING, dirty_rows(60)).folder)
    # The Arrow file is written chunk by chunk; all else is the same to the bit.
    assert {name: data for name, data in second.items() if name != "documents.arrow"} == {
        name: data for name, data in first.items() if name != "documents.arrow"
    }


def test_the_same_inputs_are_prepared_once(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make({}, some_rows(5))
    monkeypatch.setattr(run, "_Preparing", None)
    assert make({"num_workers": 2}).folder == first.folder
    with pytest.raises(TypeError):
        make({"max_sequence_tokens": 300})


def test_a_file_that_is_named_twice_is_read_twice_and_adds_up(make: Any, tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "twice.jsonl", some_rows(5)))
    prepared = make({"train": [path, path]})
    assert prepared.about["rows"] | {"read": 10, "kept": 10} == prepared.about["rows"]
    assert "do not add up" not in prepared.describe()
    assert (prepared.folder / "report.html").read_text(encoding="utf-8").count("twice.jsonl") == 1


def test_another_file_another_key_another_folder(make: Any) -> None:
    folders = {make({}, some_rows(5)).folder, make({}, some_rows(6)).folder, make({"too_long": "cut_answer"}).folder}
    assert len(folders) == 3


def test_a_dropped_duplicate_names_a_row_that_is_kept(make: Any, tmp_path: Path) -> None:
    rows = some_rows(20)
    rows += [dict(rows[2]), {**rows[4], "answer": rows[4]["answer"] + "吧"}]
    cleaning = [{"type": "exact_duplicates"}, {"type": "near_duplicates"}]
    prepared = make({"cleaning": cleaning, "max_dropped_share": 0.5}, rows)
    named = {entry["where"]: (entry["step"], entry["kept"]) for entry in changes_of(prepared)}
    path = tmp_path / "rows.jsonl"
    assert named == {
        f"{path}:21": ("exact_duplicates", f"{path}:3"),
        f"{path}:22": ("near_duplicates", f"{path}:5"),
    }


def test_steps_run_in_the_order_of_the_recipe(make: Any) -> None:
    rows = some_rows(10)
    rows.append({**rows[0], "answer": "  " + rows[0]["answer"]})
    before = make({"cleaning": [{"type": "exact_duplicates"}, {"type": "whitespace"}]}, rows)
    after = make({"cleaning": [{"type": "whitespace"}, {"type": "exact_duplicates"}], "max_dropped_share": 0.5}, rows)
    assert (before.about["rows"]["dropped"], after.about["rows"]["dropped"]) == (0, 1)


def test_planted_near_copies_of_evaluation_rows_never_train(make: Any, tmp_path: Path) -> None:
    generator = random.Random(3)
    held = some_rows(30, seed=1)
    copies = [
        {**row, "answer": row["answer"] + sentence(generator, False, 1)} if number % 2 else {**row, "answer": "另一个"}
        for number, row in enumerate(held)
    ]
    train = some_rows(60, seed=2)
    order = [*train, *copies]
    generator.shuffle(order)
    write_jsonl(tmp_path / "held.jsonl", held)
    prepared = make({"evaluation": [str(tmp_path / "held.jsonl")], "max_dropped_share": 0.5}, order)
    leaked = {entry["where"] for entry in changes_of(prepared) if entry["step"] == "leaks"}
    planted = {f"{tmp_path / 'rows.jsonl'}:{line}" for line, row in enumerate(order, 1) if row in copies}
    assert leaked == planted
    assert prepared.about["splits"]["train"]["rows"] == 60
    assert_adds_up(prepared, 120)


def test_near_copies_never_straddle_the_split(make: Any) -> None:
    rows = some_rows(40)
    rows += [{**row, "answer": row["answer"] + "啊"} for row in rows]
    prepared = make({"evaluation": {"share": 0.25}}, rows)
    assert not [entry for entry in changes_of(prepared) if entry["step"] == "leaks"]
    held = {messages[0]["content"] for messages in prepared.evaluation_rows()}
    assert 15 <= prepared.about["splits"]["evaluation"]["rows"] <= 25
    # Each question stands twice, and both rows with it are on one side.
    assert prepared.about["splits"]["evaluation"]["rows"] == 2 * len(held)


def test_oversampled_rows_are_added_and_undersampled_ones_dropped_without_stopping_the_run(make: Any) -> None:
    rows = some_rows(30)
    for row in rows[:20]:
        row["topic"] = "large"
    over = make({"balance": {"by": "topic"}}, rows)
    assert_adds_up(over, 30)
    assert over.about["rows"]["added"] > 0
    assert over.about["rows"]["dropped"] == 0
    under = make({"balance": {"by": "topic", "method": "undersample"}})
    assert_adds_up(under, 30)
    assert under.about["rows"]["dropped"] > 20 * 0.5


def test_sources_are_mixed_by_their_shares(make: Any, tmp_path: Path) -> None:
    first, second = some_rows(40, seed=5), some_rows(40, seed=6)
    entries = [
        {"path": str(write_jsonl(tmp_path / f"{name}.jsonl", rows)), "share": share}
        for name, rows, share in (("a", first, 0.75), ("b", second, 0.25))
    ]
    prepared = make({"train": entries, "mixing": {"total_rows": 40}})
    store = prepared.store("train")
    places = [store.where(index).rpartition("/")[2][0] for index in range(len(store))]
    assert (places.count("a"), places.count("b")) == (30, 10)
    assert_adds_up(prepared, 80)


def test_augmented_rows_name_their_parent_which_is_never_held_out(make: Any) -> None:
    prepared = make({"evaluation": {"share": 0.3}, "augmentation": [{"type": "swap", "share": 1.5}]}, some_rows(40))
    held = {json.loads(line)["where"] for line in (prepared.folder / "evaluation.rows.jsonl").open(encoding="utf-8")}
    added = [entry for entry in changes_of(prepared) if entry["outcome"] == "added"]
    assert len(added) > 30
    assert all(entry["parent"] not in held and entry["before"] != entry["after"] for entry in added)
    assert_adds_up(prepared, 40)


def test_rows_that_could_not_be_made_are_told(make: Any) -> None:
    rows = [{"question": f"{number}", "answer": "a number"} for number in range(4)]
    prepared = make({"augmentation": [{"type": "swap", "share": 0.5}], "leaks": None}, rows)
    assert prepared.about["rows"]["added"] == 0
    assert "swap: 0 of 2 rows asked for" in prepared.describe()


def test_masked_text_is_nowhere_in_the_prepared_folder(make: Any) -> None:
    rows = some_rows(30)
    for number, row in enumerate(rows):
        row["answer"] += f"　联系电话：138001380{number:02d}，邮箱 a{number}@example.com"
    rows.append({"question": "电话 13900139000", "answer": ""})
    rows.append({"question": "电话 13900139000 是谁的 <b>号码</b>", "answer": "我不能帮您，13900139000"})
    cleaning = [{"type": name} for name in ("unicode", "html", "exact_duplicates", "near_duplicates")]
    data = {"cleaning": cleaning, "masking": {"names": False}, "evaluation": {"rows": 5}, "max_dropped_share": 0.5}
    prepared = make(data, rows)
    text = b"".join(path.read_bytes() for path in prepared.folder.iterdir())
    assert b"138001380" not in text
    assert b"13900139000" not in text
    assert b"@example.com" not in text
    assert b"<MOBILE_1>" in text
    assert prepared.about["rows"]["changed"] >= 30


def test_no_piece_of_a_number_stays_where_an_excerpt_is_cut(make: Any) -> None:
    # Numbers on and around the places at which excerpts are cut, in rows that are changed, dropped and doubled.
    rows = []
    for number in range(100, 125):
        text = "查" * number + "13900139000" + " <b>x</b>"
        rows += [{"question": f"问{number}", "answer": text}, {"question": text, "answer": ""}]
        rows += [{"question": f"<i>问{number}</i>" + "询" * (number - 15) + "13900139000", "answer": f"答 {number}"}]
    rows += [dict(row) for row in rows[:9]]
    data = {"cleaning": ["html", "exact_duplicates"], "masking": {"names": False}, "max_dropped_share": 1.0}
    prepared = make(data, rows)
    assert b"139" not in (prepared.folder / "changes.jsonl").read_bytes()
    assert b"139" not in (prepared.folder / "ledger.json").read_bytes()


def test_reversible_masking_keeps_its_key_outside_and_for_the_owner_alone(make: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys" / "key.json"
    rows = some_rows(6)
    rows[0]["answer"] += "，手机 13800138000"
    prepared = make({"masking": {"mode": "reversible", "names": False, "key_file": str(keys)}}, rows)
    content = json.loads(keys.read_text(encoding="utf-8"))
    assert list(content["tokens"].values()) == ["13800138000"]
    assert keys.stat().st_mode & 0o077 == 0
    assert not any(content["secret"].encode() in path.read_bytes() for path in prepared.folder.iterdir())
    keys.unlink()
    again = make({"masking": {"mode": "reversible", "names": False, "key_file": str(keys)}})
    assert again.folder != prepared.folder, "tokens of a lost key can't be turned back: a new key, new data"


def test_a_long_row_is_cut_only_where_the_recipe_says_so(make: Any) -> None:
    rows = [*some_rows(4), {"question": "q", "answer": "word " * 200}]
    dropped = make({"max_sequence_tokens": 120, "max_dropped_share": 0.5}, rows)
    cut = make({"max_sequence_tokens": 120, "too_long": "cut_answer"})
    assert (dropped.about["rows"]["dropped"], dropped.about["rows"]["cut"]) == (1, 0)
    assert (cut.about["rows"]["dropped"], cut.about["rows"]["cut"]) == (0, 1)
    assert [entry["outcome"] for entry in changes_of(cut)] == ["cut"]
    assert max(cut.store("train").lengths()) == 120


def test_plain_text_trains_and_is_asked_for_its_second_half(make: Any) -> None:
    prepared = make({"evaluation": {"rows": 2}}, [{"text": row["answer"]} for row in some_rows(9)])
    assert [len(messages) for messages in prepared.evaluation_rows()] == [2, 2]
    assert {messages[0]["role"] for messages in prepared.evaluation_rows()} == {"prompt"}
    assert prepared.about["splits"]["train"]["trained_tokens"] > 0


def test_preference_pairs_keep_both_answers_side_by_side(make: Any) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"q{n}"}], "chosen": [{"role": "assistant", "content": "good"}],
             "rejected": [{"role": "assistant", "content": "bad"}]} for n in range(4)]  # fmt: skip
    prepared = make({}, rows)
    wanted, rejected = prepared.store("train"), prepared.store("train.rejected")
    assert len(wanted) == len(rejected) == 4
    assert wanted[0].ids != rejected[0].ids


def as_format(rows: list[dict[str, Any]], kind: str, path: Path) -> Path:
    if kind == "json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    elif kind == "jsonl":
        write_jsonl(path, rows)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif kind in ("csv", "tsv"):
        with path.open("w", encoding="gb18030" if kind == "csv" else "utf-16", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "jsonl.gz", "csv", "tsv", "parquet", "arrow"])
def test_totals_add_up_and_tokens_are_the_same_for_each_format(make: Any, tmp_path: Path, kind: str) -> None:
    rows = some_rows(12)
    rows[5]["answer"] = ""
    expected = make({"max_dropped_share": 0.5}, rows)
    path = as_format(rows, kind, tmp_path / f"data.{kind}")
    prepared = make({"train": [str(path)], "max_dropped_share": 0.5})
    assert_adds_up(prepared, 12)
    assert prepared.about["rows"]["kept"] == 11
    assert [prepared.store("train")[n] for n in range(11)] == [expected.store("train")[n] for n in range(11)]


# Half characters too, which JSON can spell and files can't hold.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)
TURNS = st.lists(st.dictionaries(st.sampled_from(["role", "content"]), TEXTS), max_size=3)
ANYTHING = st.one_of(st.none(), st.integers(), st.floats(), TEXTS)
ROWS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"question": TEXTS, "answer": TEXTS, "topic": ANYTHING}),
        st.fixed_dictionaries({"text": TEXTS}),
        st.dictionaries(TEXTS, ANYTHING, max_size=3),
        st.fixed_dictionaries({"messages": TURNS}),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_any_rows_add_up_or_end_in_one_message(make: Any, rows: list[Any]) -> None:
    data = {key: value for key, value in EVERYTHING.items() if key not in ("evaluation", "balance")}
    try:
        prepared = make(data, [*some_rows(2), *rows])
    except DanluError as error:
        assert isinstance(error, DataError)  # noqa: PT017 - rows that are refused are refused in our words
        return
    assert_adds_up(prepared, len(rows) + 2)


def test_a_refused_preparation_leaves_nothing_behind(make: Any) -> None:
    before = set((danlu_home() / "prepared").glob("*"))
    with pytest.raises(DataError):
        make({}, [*some_rows(3), {"nothing": 1}, {"nothing": 2}])
    assert set((danlu_home() / "prepared").glob("*")) == before


def test_the_system_refusing_to_write_ends_in_a_message_and_no_folder(tmp_path: Path, model_folder: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", some_rows(400))
    (tmp_path / "recipe.yaml").write_text(
        "model: {name: smollm2-135m-instruct}\ndata: {train: [rows.jsonl], num_workers: 1}\n"
        "adapter: {type: lora}\ntraining: {}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "danlu", "data", "recipe.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        env={"DANLU_HOME": str(danlu_home()), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert not list((danlu_home() / "prepared").glob("*.part-*"))
