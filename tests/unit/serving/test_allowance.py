"""Quotas: what a key may ask within a window of the clock, taken before and given back after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_gateway import Gateway

from danlu.serving.access.allowance import DAY, MINUTE, Allowance, LocalCounts
from danlu.serving.access.guard import Guard
from danlu.serving.access.keys import Key, Keyring, make_key
from danlu.serving.surroundings import Surroundings

ASK = {"model": "law", "messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=60))
def test_in_no_window_is_more_taken_than_may_be(steps: list[tuple[int, int]]) -> None:
    now, used = 1000.0, {}
    counts = LocalCounts(lambda: now)
    for wait, amount in steps:
        now += wait
        window = int(now) // MINUTE
        taken = counts.take("a", MINUTE, amount, 20)
        assert taken.fits == (used.get(window, 0) + amount <= 20)
        assert (taken.window, taken.seconds_left) == (window, MINUTE - int(now) % MINUTE)
        used[window] = used.get(window, 0) + amount * taken.fits


def test_what_is_given_back_can_be_taken_again_within_its_window_alone() -> None:
    now = 10.0
    counts = LocalCounts(lambda: now)
    taken = counts.take("a", MINUTE, 20, 20)
    assert not counts.take("a", MINUTE, 1, 20).fits
    counts.give_back("a", taken.window, 5)
    assert not counts.take("a", MINUTE, 6, 20).fits
    assert counts.take("a", MINUTE, 5, 20).fits
    now = 70.0
    assert counts.take("a", MINUTE, 20, 20).fits
    counts.give_back("a", taken.window, 20)
    assert not counts.take("a", MINUTE, 1, 20).fits


def test_a_key_without_a_quota_is_never_counted() -> None:
    key = Key(id="0" * 10, name="x", sha256="0" * 64, roles=("use",), created="")
    assert asyncio.run(Allowance().take_request(key)) is None
    assert asyncio.run(Allowance().take_tokens(key, 10**9)) is None


@pytest.fixture
def gateway(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("DANLU_AUDIT", str(tmp_path / "audit.jsonl"))
    path = tmp_path / "keys.json"
    few, _ = make_key(path, "few requests", ["use"], requests_per_minute=3)
    little, _ = make_key(path, "few tokens", ["use"], tokens_per_day=200)
    # Half a minute past a minute, so that no test ends in another one.
    counts = LocalCounts(lambda: 100_000 * DAY + 30.0)
    made = Gateway(tokenizer, around=Surroundings(Guard(Keyring(path), Allowance(None, counts))))
    made.few, made.little, made.counts = few, little, counts
    yield made
    made.close()


def ask(gateway: Any, secret: str, **more: Any) -> Any:
    headers = {"authorization": f"Bearer {secret}"}
    return gateway.http.post("/v1/chat/completions", json={**ASK, **more}, headers=headers)


def tokens_counted(gateway: Any, expected: int) -> int:
    """What the key has used; nobody waits for what is given back, so it may come a little later."""
    until = time.monotonic() + 10
    while True:
        ((_, used),) = [value for name, value in gateway.counts._used.items() if name.startswith("tokens:")]
        if used == expected or time.monotonic() > until:
            return int(used)
        time.sleep(0.01)


def test_more_requests_than_a_minute_may_have_are_told_when_to_come_back(gateway: Gateway) -> None:
    assert [ask(gateway, gateway.few).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = ask(gateway, gateway.few)
    assert refused.headers["retry-after"] == "30"
    assert refused.json()["error"]["message"] == "the quota of this key is 3 requests a minute; come back in 30 s"
    assert refused.json()["error"]["code"] == "quota_exceeded"
    listed = gateway.http.get("/v1/models", headers={"authorization": f"Bearer {gateway.few}"})
    assert listed.status_code == 200, "a look at the models is no question"


def test_tokens_that_an_answer_did_not_need_are_given_back(gateway: Gateway) -> None:
    used = []
    while (answer := ask(gateway, gateway.little, max_tokens=60)).status_code == 200:
        used.append(answer.json()["usage"]["total_tokens"])
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == str(DAY - 30)
    prompt = answer_prompt = len(gateway.engine.asked[0].prompt)
    assert sum(used) + answer_prompt + 60 > 200, "it was refused because so much more was not left"
    assert sum(used) <= 200
    assert len(used) > 200 // (prompt + 60), "what was not needed was given back"
    assert tokens_counted(gateway, sum(used)) == sum(used)


def test_who_leaves_pays_for_what_was_made(gateway: Gateway) -> None:
    gateway.engine.gate.clear()
    headers = {"authorization": f"Bearer {gateway.little}"}
    body = {**ASK, "stream": True, "max_tokens": 60}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        next(answer.iter_lines())
    assert gateway.settled()
    gateway.engine.gate.set()
    expected = len(gateway.engine.asked[0].prompt) + 1
    assert tokens_counted(gateway, expected) == expected


def test_a_question_that_was_refused_costs_no_tokens(gateway: Gateway) -> None:
    gateway.engine.full = True
    assert ask(gateway, gateway.little, max_tokens=60).status_code == 429
    assert gateway.settled()
    assert tokens_counted(gateway, 0) == 0
