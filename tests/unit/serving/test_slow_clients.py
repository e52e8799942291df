"""Clients that say nothing, or say it slowly, hold nobody up."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from small_gateway import Gateway

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


@pytest.fixture(scope="module")
def gateway(tokenizer: Any) -> Iterator[Gateway]:
    made = Gateway(tokenizer, head_seconds=0.5)
    made.server.config.app.body_seconds = 0.5
    yield made
    made.close()


def connection(gateway: Gateway) -> socket.socket:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    opened = socket.create_connection((host, int(port)))
    opened.settimeout(10)
    return opened


def seconds_until_closed(opened: socket.socket) -> float:
    began = time.monotonic()
    while opened.recv(1000):
        pass
    return time.monotonic() - began


@pytest.mark.parametrize("said", [b"", b"GET /healthz HT", HEAD])
def test_a_head_that_does_not_end_closes_the_connection(gateway: Gateway, said: bytes) -> None:
    with connection(gateway) as opened:
        opened.sendall(said)
        assert 0.2 < seconds_until_closed(opened) < 5


def test_a_head_that_drips_closes_the_connection(gateway: Gateway) -> None:
    with connection(gateway) as opened:
        began = time.monotonic()
        opened.sendall(b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(OSError):  # reset, or broken pipe
            while time.monotonic() - began < 10:
                opened.sendall(b"X-Drip: 1\r\n")
                time.sleep(0.1)
        assert time.monotonic() - began < 5


def test_a_second_head_that_does_not_end_closes_the_connection_too(gateway: Gateway) -> None:
    with connection(gateway) as opened:
        opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert opened.recv(1000).startswith(b"HTTP/1.1 200")
        opened.sendall(b"GET /heal")
        assert 0.2 < seconds_until_closed(opened) < 5


def test_a_body_that_does_not_come_is_refused(gateway: Gateway) -> None:
    with connection(gateway) as opened:
        opened.sendall(HEAD + b"\r\n{")
        said = opened.recv(1000)
    assert said.startswith(b"HTTP/1.1 408")
    assert gateway.settled()


def test_meanwhile_others_are_answered(gateway: Gateway) -> None:
    silent = [connection(gateway) for _ in range(200)]
    began = time.monotonic()
    assert gateway.http.get("/healthz").status_code == 200
    assert time.monotonic() - began < 2
    for opened in silent:
        opened.close()


def test_a_long_answer_is_not_cut_off(gateway: Gateway) -> None:
    gateway.engine.gate.clear()
    body = {"model": "law", "messages": [{"role": "user", "content": "Who are you?"}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        time.sleep(1.2)
        gateway.engine.gate.set()
        assert "data: [DONE]" in answer.read().decode()
