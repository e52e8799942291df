"""Answers in a real Redis: shared by two gateways; gone, killed, filled with something else, it costs no request."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis_server import PROGRAM, Redis
from small_gateway import Gateway

from danlu.serving.answer_cache import AnswerCache, LocalAnswers, RedisAnswers
from danlu.serving.redis_link import RedisLink

pytestmark = pytest.mark.skipif(
    PROGRAM is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"), reason="redis-server is not installed"
)
NO_MEMORY_OF_ITS_OWN = 0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def gateways(redis: Redis, tokenizer: Any) -> Iterator[list[Gateway]]:
    """Two that keep nothing themselves."""
    made = [
        Gateway(
            tokenizer,
            cache=AnswerCache("float32", LocalAnswers(NO_MEMORY_OF_ITS_OWN), RedisAnswers(RedisLink(redis.url))),
        )
        for _ in range(2)
    ]
    yield made
    for gateway in made:
        gateway.close()


def ask(gateway: Gateway, question: str = "Who are you?") -> tuple[str, str]:
    """The answer, and whether it was kept."""
    answer = gateway.client.chat.completions.with_raw_response.create(
        model="law", messages=[{"role": "user", "content": question}], temperature=0
    )
    return str(answer.parse().choices[0].message.content), answer.headers["x-danlu-cache"]


def kept_soon(gateway: Gateway, question: str, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if ask(gateway, question)[1] == "hit":
            return True
        time.sleep(0.1)
    return False


def test_what_one_gateway_answered_the_other_has(gateways: list[Gateway]) -> None:
    assert ask(gateways[0]) == ("I am hash-of-law.", "miss")
    assert kept_soon(gateways[1], "Who are you?")
    assert not gateways[1].engine.asked or len(gateways[1].engine.asked) < 5


def test_redis_killed_in_mid_flight_and_started_again_costs_no_request(redis: Redis, gateways: list[Gateway]) -> None:
    said: list[tuple[str, str]] = []

    def client(number: int) -> None:
        for place in range(60):
            said.append(ask(gateways[number % 2], f"Question {place % 7}"))
            time.sleep(0.01)

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        time.sleep(0.3)
        redis.kill()
        time.sleep(0.5)
        redis.start()
        for one in clients:
            one.result()
    assert len(said) == 360
    assert {text for text, _ in said} == {"I am hash-of-law."}
    assert {kept for _, kept in said} == {"hit", "miss"}
    assert kept_soon(gateways[0], "after it came back")
    assert all(gateway.settled() for gateway in gateways)


def test_a_redis_that_says_nothing_holds_up_few_requests_and_none_for_long(tokenizer: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        shared = RedisAnswers(RedisLink(f"redis://127.0.0.1:{silent.getsockname()[1]}/0"))
        gateway = Gateway(tokenizer, cache=AnswerCache("float32", LocalAnswers(NO_MEMORY_OF_ITS_OWN), shared))
        try:
            begun = time.perf_counter()
            for place in range(20):
                assert ask(gateway, f"Question {place}")[1] == "miss"
            assert time.perf_counter() - begun < 3
        finally:
            gateway.close()


@pytest.mark.parametrize("value", [b"", b"[1, 2]", b"\xff", b'["another key", [1], "I am another.", "stop"]', b"null"])
def test_what_is_no_answer_is_not_taken_for_one(redis: Redis, tokenizer: Any, value: bytes) -> None:
    shared = RedisAnswers(RedisLink(redis.url))
    cache = AnswerCache("float32", LocalAnswers(NO_MEMORY_OF_ITS_OWN), shared)

    async def put_and_get() -> Any:
        await shared.put("key", value)
        return await shared.get("key"), await cache.get("key")

    assert asyncio.run(put_and_get()) == (value, None)


def test_an_address_that_is_none_is_one_message() -> None:
    words = [sys.executable, "-m", "danlu", "serve", "--base", "smollm2-135m-instruct", "--redis", "http://x"]
    done = subprocess.run([*words, "--port", "0"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "error: this is no address of Redis" in done.stderr
    assert "Traceback" not in done.stderr
