"""Each request is an entry of the audit log, written before its answer is complete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from small_gateway import Gateway

from danlu.audit import append_all, audit_path, read_audit, verify
from danlu.serving.access.guard import Guard
from danlu.serving.access.journal import Journal
from danlu.serving.surroundings import Surroundings

ASK = {"model": "law", "messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}


@pytest.fixture(autouse=True)
def _own_audit_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_AUDIT", str(tmp_path / "log" / "audit.jsonl"))


class Disk:
    """Writes the audit log, until it is full."""

    full = False

    def write(self, acts: Any) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        append_all(acts)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def gateway(tokenizer: Any, disk: Disk) -> Iterator[Gateway]:
    made = Gateway(tokenizer, around=Surroundings(Guard(journal=Journal("one", write=disk.write))))
    yield made
    made.close()


def entries() -> list[dict[str, Any]]:
    return read_audit(audit_path()).entries


def test_an_answer_s_entry_tells_who_what_and_how_much_but_no_text(gateway: Gateway) -> None:
    answer = gateway.http.post("/v1/chat/completions", json=ASK).json()
    (entry,) = entries()
    usage = answer["usage"]
    told = {
        "kind": "request",
        "gateway": "one",
        "key_name": "anybody",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "model": "law@1",
        "version": "hash-of-law",
        "answer": answer["id"],
        "finish": "stop",
        "prompt_tokens": usage["prompt_tokens"],
        "answer_tokens": usage["completion_tokens"],
        "cached": False,
    }
    assert {name: entry[name] for name in told} == told
    assert 0 <= entry["seconds"] < 10
    text = audit_path().read_text()
    assert "Who are you" not in text
    assert "I am" not in text


def test_with_texts_they_are_told(tokenizer: Any) -> None:
    gateway = Gateway(tokenizer, around=Surroundings(Guard(journal=Journal("one", with_texts=True))))
    gateway.http.post("/v1/chat/completions", json=ASK)
    gateway.close()
    (entry,) = entries()
    assert (entry["messages"], entry["said"]) == (ASK["messages"], "I am hash-of-law.")


def test_the_entry_is_there_before_a_streamed_answer_says_that_it_is_complete(gateway: Gateway) -> None:
    with gateway.http.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as answer:
        for line in answer.iter_lines():
            if '"finish_reason": "stop"' in line:
                (entry,) = entries()
                break
    assert (entry["finish"], entry["answer_tokens"], entry["status"]) == ("stop", 4, 200)
    assert gateway.settled()
    assert len(entries()) == 1


def test_who_leaves_has_an_entry_too(gateway: Gateway) -> None:
    gateway.engine.gate.clear()
    with gateway.http.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as answer:
        next(answer.iter_lines())
    assert gateway.settled()
    gateway.engine.gate.set()
    gateway.http.get("/v1/models")
    assert [entry.get("finish") for entry in entries()] == ["abandoned", None]


def test_what_is_refused_has_an_entry_and_looks_at_health_have_none(gateway: Gateway) -> None:
    gateway.http.post("/v1/chat/completions", json={**ASK, "model": "nothing"})
    gateway.http.post("/v1/chat/completions", content=b"{")
    for path in ("/healthz", "/readyz", "/metrics", "/playground"):
        gateway.http.get(path)
    assert [(entry["path"], entry["status"]) for entry in entries()] == [
        ("/v1/chat/completions", 404),
        ("/v1/chat/completions", 400),
    ]


def test_many_at_once_are_one_chain(gateway: Gateway) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: gateway.http.post("/v1/chat/completions", json=ASK).json()["id"], range(120)))
    assert verify()["entries"] == 120
    assert sorted(entry["answer"] for entry in entries()) == sorted(made)


def test_while_the_log_can_t_be_written_nobody_is_answered_and_nothing_is_lost(gateway: Gateway, disk: Disk) -> None:
    ask = lambda: gateway.http.post("/v1/chat/completions", json=ASK)  # noqa: E731
    first = ask().json()["id"]
    disk.full = True
    second = ask()
    assert second.status_code == 200, "it had begun before anybody knew"
    refused = ask()
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == "the audit log can't be written: No space left on device"
    assert gateway.http.get("/healthz").status_code == 200
    disk.full = False
    while gateway.around.guard.journal.fault:
        pass
    third = ask()
    assert third.status_code == 200
    told = [(entry.get("answer"), entry["status"]) for entry in entries()]
    assert told == [(first, 200), (second.json()["id"], 200), (None, 503), (third.json()["id"], 200)]
    assert verify()["entries"] == 4


def test_a_log_that_is_taken_away_under_a_gateway_is_missed(gateway: Gateway) -> None:
    gateway.http.post("/v1/chat/completions", json=ASK)
    audit_path().unlink()
    gateway.http.post("/v1/chat/completions", json=ASK)
    audit = read_audit(audit_path())
    assert [fault.what for fault in audit.faults] == ["entry 2 does not follow entry 0: 1 removed before it"]


def test_a_killed_writer_has_written_all_that_was_answered(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from danlu.serving.access.journal import Account, Journal
async def main():
    journal = Journal("one")
    number = 0
    while True:
        account = Account(status=200, about={"answer": str(number)})
        await journal.enter(account, "POST", "/v1/chat/completions")
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    for _ in range(20):
        answered = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    answered = max([answered, *map(int, process.stdout.read().split())])
    process.wait()
    assert [entry["answer"] for entry in entries()][: answered + 1] == [str(number) for number in range(answered + 1)]
