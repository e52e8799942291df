"""Quotas of keys over two gateways that share a real Redis: together no more than may be, and little less."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis_server import PROGRAM, Redis
from small_gateway import Gateway

from danlu.serving import redis_link
from danlu.serving.access import allowance
from danlu.serving.access.allowance import Allowance, Taken
from danlu.serving.access.guard import Guard
from danlu.serving.access.keys import Key, Keyring, make_key
from danlu.serving.feedback.desk import FeedbackDesk
from danlu.serving.feedback.stores import JsonLines
from danlu.serving.redis_link import RedisLink
from danlu.serving.surroundings import Surroundings

pytestmark = pytest.mark.skipif(
    PROGRAM is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"), reason="redis-server is not installed"
)
ASK = {"model": "law", "messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}
MANY, REQUESTS = 100_000, 500
ENDS_IN_2033 = 10**9


@pytest.fixture(autouse=True)
def however_slow_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests of a test are in one window, and a Redis that runs is waited for: both gateways are one process."""
    monkeypatch.setattr(allowance, "MINUTE", ENDS_IN_2033)
    monkeypatch.setattr(allowance, "DAY", ENDS_IN_2033)
    monkeypatch.setattr(redis_link, "_PATIENCE_SECONDS", 30.0)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def gateways(
    redis: Redis, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Gateway, Gateway]]:
    monkeypatch.setenv("DANLU_AUDIT", str(tmp_path / "audit.jsonl"))
    made = tuple(
        Gateway(
            tokenizer,
            around=Surroundings(
                Guard(Keyring(keys(tmp_path)), Allowance(link := RedisLink(redis.url))),
                FeedbackDesk(JsonLines(tmp_path / "feedback.jsonl"), link),
                link,
                name,
            ),
        )
        for name in ("one", "two")
    )
    yield made
    for gateway in made:
        gateway.close()


def keys(folder: Path) -> Path:
    path = folder / "keys.json"
    if not path.exists():
        for name, about in {"requests": {"requests_per_minute": REQUESTS}, "tokens": {"tokens_per_day": MANY}}.items():
            secret, _ = make_key(path, name, ["use", "feedback"], **about)
            (folder / name).write_text(secret)
    return path


def ask(gateway: Gateway, secret: str, **more: Any) -> Any:
    headers = {"authorization": f"Bearer {secret}"}
    return gateway.http.post("/v1/chat/completions", json={**ASK, **more}, headers=headers)


def test_two_gateways_together_answer_as_many_requests_as_may_be(
    gateways: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    secret = (tmp_path / "requests").read_text()
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda number: ask(gateways[number % 2], secret).status_code, range(REQUESTS + 100)))
    assert set(told) == {200, 429}
    assert told.count(200) == REQUESTS


def test_in_each_window_of_redis_clock_as_much_is_taken_as_may_be(redis: Redis) -> None:
    length, limit = 2, 5
    key = Key(id="0" * 10, name="x", sha256="0" * 64, roles=("use",), created="", requests_per_minute=limit)

    async def take_over_two_turns() -> list[Taken]:
        quota, told = Allowance(RedisLink(redis.url)), []
        while not told or told[-1].window < told[0].window + 2:
            told.append(await quota.take_request(key))
            await asyncio.sleep(0.01)
        return told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allowance, "MINUTE", length)
        told = asyncio.run(take_over_two_turns())
    whole = [taken for taken in told if taken.window == told[0].window + 1]
    assert [taken.fits for taken in whole] == [True] * limit + [False] * (len(whole) - limit)
    assert len(whole) > limit
    assert {taken.seconds_left for taken in told} == {1, 2}


def test_two_gateways_together_answer_as_many_tokens_as_may_be_within_one_percent(
    gateways: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    secret, used = (tmp_path / "tokens").read_text(), []
    words = "word " * 180

    def client(number: int) -> None:
        body = {"messages": [{"role": "user", "content": f"{number} {words}"}], "max_tokens": 30}
        while (answer := ask(gateways[number % 2], secret, **body)).status_code == 200:
            used.append(answer.json()["usage"]["total_tokens"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))
    assert 0.99 * MANY <= sum(used) <= MANY


def test_while_redis_is_away_quotas_hold_in_each_gateway_and_nobody_fails(
    redis: Redis, gateways: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    secret = (tmp_path / "requests").read_text()
    for _ in range(REQUESTS - 10):
        ask(gateways[0], secret)
    redis.kill()
    told = [ask(gateways[0], secret).status_code for _ in range(15)]
    assert told == [200] * 10 + [429] * 5, "what Redis counted, the gateway counted too"
    assert ask(gateways[1], secret).status_code == 200


def test_feedback_finds_an_answer_of_the_other_gateway_masked(
    redis: Redis, gateways: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    secret = (tmp_path / "tokens").read_text()
    question = [{"role": "user", "content": "My mail is jane.doe@example.com, where is my order?"}]
    answer = ask(gateways[0], secret, messages=question).json()["id"]
    headers = {"authorization": f"Bearer {secret}"}
    until = time.monotonic() + 20
    given = {"answer": answer, "rating": "up"}
    while (said := gateways[1].http.post("/v1/feedback", json=given, headers=headers)).status_code == 404:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert said.status_code == 201
    stored = (tmp_path / "feedback.jsonl").read_text()
    assert "<EMAIL_1>" in stored
    assert "jane.doe" not in stored
    import redis as client

    connection = client.Redis.from_url(redis.url)
    kept = [connection.get(key) for key in connection.keys("danlu:exchange:*")]
    assert kept
    assert not any(b"jane.doe" in text for text in kept)


def test_any_gateway_shows_the_figures_of_all(gateways: tuple[Gateway, Gateway], tmp_path: Path) -> None:
    async def both() -> dict[str, str]:
        telling = asyncio.ensure_future(gateways[1].desk.neighbours.tell())
        await asyncio.sleep(0.5)
        telling.cancel()
        return await gateways[0].desk.neighbours.all()

    figures = asyncio.run(both())
    assert sorted(figures) == ["one", "two"]
    assert all("danlu_requests" in text for text in figures.values())
