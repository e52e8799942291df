"""Feedback finds its answer, is masked before it is written, and comes back as rows that the data engine takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_gateway import Gateway

from danlu.cli import cli
from danlu.data.records import to_record
from danlu.errors import DataError
from danlu.serving.access.guard import Guard
from danlu.serving.access.keys import Keyring, make_key
from danlu.serving.feedback.desk import FeedbackDesk
from danlu.serving.feedback.export import run_feedback_export
from danlu.serving.feedback.stores import JsonLines
from danlu.serving.surroundings import Surroundings

QUESTION = "我叫王小明，电话 13812345678，什么时候发货？"


@pytest.fixture(scope="module")
def gateway(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("feedback")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANLU_AUDIT", str(folder / "audit.jsonl"))
        secrets = [make_key(folder / "keys.json", name, ["use", "feedback"])[0] for name in ("one", "two")]
        store = JsonLines(folder / "feedback.jsonl")
        made = Gateway(tokenizer, around=Surroundings(Guard(Keyring(folder / "keys.json")), FeedbackDesk(store)))
        made.secrets, made.store = secrets, store
        yield made
        made.close()


@pytest.fixture(autouse=True)
def _nothing_kept(gateway: Any) -> None:
    gateway.store.path.unlink(missing_ok=True)


def post(gateway: Any, path: str, body: Any, who: int = 0) -> Any:
    return gateway.http.post(path, json=body, headers={"authorization": f"Bearer {gateway.secrets[who]}"})


def answered(gateway: Any, question: str = QUESTION, **more: Any) -> str:
    body = {"model": "law", "messages": [{"role": "user", "content": question}], **more}
    return str(post(gateway, "/v1/chat/completions", body).json()["id"])


def give(gateway: Any, answer: str, who: int = 0, **given: Any) -> Any:
    return post(gateway, "/v1/feedback", {"answer": answer, **given}, who)


def kept(gateway: Any) -> list[dict[str, Any]]:
    return list(gateway.store.records())


def test_a_correction_is_kept_with_its_question_answer_and_version_and_no_personal_data(gateway: Any) -> None:
    answer = answered(gateway)
    said = give(gateway, answer, rating="down", correction="王小明您好，明天发货，会打 13812345678。", tags=["物流"])
    assert said.status_code == 201
    assert said.json()["masked"] >= 4
    (record,) = kept(gateway)
    assert (record["answer"], record["model"], record["version"]) == (answer, "law@1", "hash-of-law")
    assert (record["rating"], record["tags"], record["said"]) == ("down", ["物流"], "I am hash-of-law.")
    text = gateway.store.path.read_text()
    assert "13812345678" not in text
    assert "王小明" not in text
    assert "<MOBILE_1>" in record["messages"][0]["content"]
    assert "<MOBILE_1>" in record["correction"], "the same number is the same placeholder"


def test_a_streamed_answer_takes_feedback_too(gateway: Any) -> None:
    body = {"model": "law", "messages": [{"role": "user", "content": "Who are you?"}], "stream": True}
    headers = {"authorization": f"Bearer {gateway.secrets[0]}"}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as streamed:
        (first, *_) = [line for line in streamed.iter_lines() if line]
    assert give(gateway, json.loads(first[6:])["id"], rating="up").status_code == 201


@pytest.mark.parametrize(("who", "answer"), [(1, None), (0, "chatcmpl-unknown"), (0, "../../etc/passwd")])
def test_an_answer_that_is_unknown_or_another_key_s_is_not_found(gateway: Any, who: int, answer: str | None) -> None:
    said = give(gateway, answer or answered(gateway), who, rating="up")
    assert said.status_code == 404
    assert said.json()["error"]["message"] == "no answer of the last day has this id, or another key asked for it"
    assert not gateway.store.path.exists()


@pytest.mark.parametrize(
    "given", [{}, {"rating": "good"}, {"correction": ""}, {"tags": ["x"] * 21}, {"comment": "x" * 10_001}, {"more": 1}]
)
def test_what_is_wrong_is_told_and_not_kept(gateway: Any, given: dict[str, Any]) -> None:
    assert give(gateway, answered(gateway), **given).status_code == 400
    assert not gateway.store.path.exists()


def test_a_line_that_was_cut_off_spoils_no_other(gateway: Any) -> None:
    give(gateway, answered(gateway), rating="up")
    with gateway.store.path.open("ab") as stream:
        stream.write(b'{"id": "cut o')
    give(gateway, answered(gateway), rating="down")
    assert [record["rating"] for record in kept(gateway)] == ["up", "down"]


def test_every_saying_is_accounted_for_and_comes_back_as_rows(gateway: Any, tmp_path: Path) -> None:
    corrected, liked, disliked, improved = (answered(gateway, f"Question {n}") for n in range(4))
    give(gateway, corrected, rating="down", correction="The right answer.")
    give(gateway, corrected, rating="down")  # said again, without the correction
    give(gateway, liked, rating="up")
    give(gateway, disliked, rating="down", comment="wrong")
    give(gateway, improved, correction="First try.")
    give(gateway, improved, correction="Second try.")
    command = ["feedback", "export", "--from", str(gateway.store.path), "--out", str(tmp_path / "rows"), "--json"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert rows == {"read": 6, "sft": 3, "preference": 2, "superseded": 2, "no_text": 1}
    sft, pairs = (
        [json.loads(line) for line in (tmp_path / "rows" / name).read_text().splitlines()]
        for name in ("sft.jsonl", "preference.jsonl")
    )
    assert [row["messages"][-1]["content"] for row in sft] == ["The right answer.", "I am hash-of-law.", "Second try."]
    assert [pair["chosen"]["content"] for pair in pairs] == ["The right answer.", "Second try."]
    assert {pair["rejected"]["content"] for pair in pairs} == {"I am hash-of-law."}
    for row in [*sft, *pairs]:
        to_record(row)


def test_only_one_adapter_s_or_later_feedback_can_be_taken(gateway: Any, tmp_path: Path) -> None:
    give(gateway, answered(gateway), rating="up")
    give(gateway, answered(gateway, model="support"), rating="up")
    store = str(gateway.store.path)
    assert run_feedback_export(store, tmp_path / "a", model="support")["rows"]["read"] == 1
    assert run_feedback_export(store, tmp_path / "b", model="support@1")["rows"]["read"] == 1
    assert run_feedback_export(store, tmp_path / "c", model="support@2")["rows"]["read"] == 0
    assert run_feedback_export(store, tmp_path / "d", since="2030-01-01")["rows"]["read"] == 0
    assert run_feedback_export(store, tmp_path / "e", since="2020-01-01")["rows"]["read"] == 2


@pytest.mark.parametrize("text", ['{"id": "x"}\n', "[1]\n", '"text"\n'])
def test_a_file_of_something_else_is_one_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="this line is no feedback"):
        run_feedback_export(str(path), tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_a_store_that_is_not_there_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no feedback can be read"):
        run_feedback_export(str(tmp_path / "none.jsonl"), tmp_path / "rows")
