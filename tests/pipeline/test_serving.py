"""`danlu serve` as its users meet it: a process, OpenAI's client, runs or a registry whose aliases move meanwhile."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis_server import PROGRAM, Redis
from served import SERVE, Served
from served_runs import QUESTIONS, broken_run, expected_answers, write_run
from unrest import ask_amid, move_versions

from danlu.registry import Registry


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / name, tiny_base, seed, rank) for seed, (name, rank) in enumerate(
        [("law", 2), ("support", 4), ("medicine", 8)]
    )]  # fmt: skip


@pytest.fixture(scope="module")
def answers(runs: list[Path]) -> dict[tuple[str, str], str]:
    """What each run and the base says to each question, by the training's own engine."""
    found = {}
    for run in runs:
        for question in QUESTIONS:
            found[run.name, question], found["tiny_base0", question] = expected_answers(run, question)
    return found


@pytest.fixture(scope="module")
def server(runs: list[Path]) -> Iterator[Served]:
    made = Served(*map(str, runs))
    yield made
    made.close()


def test_base_and_three_adapters_at_once_answer_as_danlu_chat_does(
    server: Served, answers: dict[tuple[str, str], str]
) -> None:
    assert len({answers[model, QUESTIONS[1]] for model, _ in answers}) == 4, "each answers in its own way"
    with ThreadPoolExecutor(len(answers)) as pool:
        said = list(pool.map(lambda asked: server.ask(*asked), answers))
    assert [one.choices[0].message.content for one in said] == list(answers.values())
    metrics = httpx.get(f"{server.url}/metrics").text
    (mixed,) = re.findall(r"(?m)^danlu_engine_mixed_steps_total (\S+)", metrics)
    assert float(mixed) > 0
    streamed = server.ask("law", QUESTIONS[1], stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert text == answers["law", QUESTIONS[1]]


def test_the_same_seed_gives_the_same_answer_among_others(server: Served) -> None:
    def drawn(seed: int) -> str:
        return str(
            server.ask("support", QUESTIONS[0], temperature=1.0, top_p=0.95, seed=seed).choices[0].message.content
        )

    alone = drawn(5)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(drawn, [5, 1, 5, 2, 5, 3, 5, 4]))
    assert said[::2] == [alone] * 4
    assert len(set(said)) > 3


def test_abandoned_streams_free_their_places(server: Served) -> None:
    for _ in range(5):
        stream = server.ask("law", QUESTIONS[0], stream=True, max_tokens=1900)
        next(iter(stream))
        stream.close()

    def running() -> str:
        return re.findall(r"(?m)^danlu_running_answers (\S+)", httpx.get(f"{server.url}/metrics").text)[0]

    server.until(lambda: running() == "0.0", 20)
    assert server.ask("law", QUESTIONS[0]).usage.completion_tokens


def test_a_port_in_use_is_one_message_before_anything_is_loaded(runs: list[Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([*SERVE[:-1], port, str(runs[0])], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert re.match(rf"error: can't listen at 127.0.0.1:{port}: Address already in use\n", done.stderr)
    assert "hint: choose another --port" in done.stderr
    assert len(done.stderr.splitlines()) < 5


def test_an_alias_moves_while_clients_ask_and_no_answer_is_lost_or_another_versions(
    runs: list[Path], answers: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    registry = Registry.open(str(tmp_path / "registry"))
    for run in runs:
        registry.add(run, "helper")
    registry.promote("helper@1", "production")
    by_version = {f"helper@{number}": run.name for number, run in enumerate(runs, 1)}
    served = Served("--registry", registry.url, "--max-adapters", "2", "--drain-seconds", "0.5")
    served.until(lambda: served.ready()["status"] == "ok")
    stop, said, wrong = threading.Event(), [], []  # type: ignore[var-annotated]

    def client(number: int) -> None:
        while not stop.is_set():
            question = QUESTIONS[number % len(QUESTIONS)]
            answer = served.ask("helper", question)
            said.append(answer.model)
            if answer.choices[0].message.content != answers[by_version[answer.model], question]:
                wrong.append((answer.model, question))

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        for number in (2, 3, 2, 1):
            registry.promote(f"helper@{number}", "production")
            served.until(lambda number=number: said[-1:] == [f"helper@{number}"])  # type: ignore[misc]
        registry.rollback("helper", "production")
        served.until(lambda: said[-1:] == ["helper@2"])
        stop.set()
        for one in clients:
            one.result()
    assert not wrong
    assert set(said) == set(by_version)
    assert served.ask("helper@3", QUESTIONS[0]).choices[0].message.content == answers["medicine", QUESTIONS[0]]
    assert_a_broken_version_is_refused(served, registry, runs, tmp_path)
    assert_ctrl_c_cuts_off_in_time(served)
    served.close()


def assert_a_broken_version_is_refused(served: Served, registry: Registry, runs: list[Path], folder: Path) -> None:
    """The version before goes on answering, until one that is whole is promoted."""
    number = registry.add(broken_run(runs[1], folder, "other"), "helper")["reference"]
    registry.promote(number, "production")
    served.until(lambda: bool(served.ready()["faults"]))
    assert f"{number} is refused: logits: differ" in served.ready()["faults"][0]
    assert "helper@2 answers helper" in "".join(served.said)
    assert served.ask("helper", QUESTIONS[0]).model == "helper@2"
    registry.promote("helper@3", "production")
    served.until(lambda: not served.ready()["faults"])
    assert served.ask("helper", QUESTIONS[0]).model == "helper@3"


def assert_ctrl_c_cuts_off_in_time(served: Served) -> None:
    stream = served.ask("helper", QUESTIONS[0], stream=True, max_tokens=1900)
    next(iter(stream))
    status, result = served.end(signal.SIGINT)
    assert status == 130
    assert result["error"] == "Stopped"
    assert "cut off after 0.5 s" in "".join(served.said)


@pytest.mark.skipif(
    PROGRAM is None and not os.environ.get("DANLU_REQUIRE_PROGRAMS"), reason="redis-server is not installed"
)
def test_under_swaps_removals_and_a_redis_that_is_killed_no_request_fails_or_is_answered_wrongly(
    runs: list[Path], answers: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    """16 clients; `make soak` asks 2,000 times. Each answer is held against that of the version that it names."""
    registry, redis = Registry.open(str(tmp_path / "registry")), Redis(tmp_path)
    by_version = {str(registry.add(run, "helper")["reference"]): run for run in runs}
    registry.promote("helper@1", "production")
    served = Served("--registry", registry.url, "--redis", redis.url, "--max-adapters", "2", "--cache-mib", "0")
    served.until(lambda: served.ready()["status"] == "ok")
    wrong: list[Any] = []
    seen: Counter[str] = Counter()

    def ask(number: int) -> None:
        question, model = QUESTIONS[number % len(QUESTIONS)], "helper" if number % 5 else "tiny_base0"
        time.sleep(0.5)
        answer = served.ask(model, question, logprobs=number % 2 == 0)  # with probabilities, it is made each time
        seen[answer.model] += 1
        name = "tiny_base0" if answer.model == "tiny_base0" else by_version[answer.model].name
        if answer.choices[0].message.content != answers[name, question]:
            wrong.append((answer.model, question))

    def disturb(act: int) -> None:
        if act % 7 == 3:
            redis.kill()
        elif act % 7 == 5:
            redis.start()
        move_versions(registry, act, by_version)

    asked = int(os.environ.get("DANLU_SOAK_REQUESTS", "200"))
    acts = ask_amid(ask, 16, asked, disturb, 7, lambda: len(seen) > 2)
    assert not wrong
    assert seen.total() >= asked
    assert len(seen) > 2, "some other version answered meanwhile"
    metrics = httpx.get(f"{served.url}/metrics").text
    counted = [line for line in metrics.splitlines() if line.startswith(("danlu_cache_total", "danlu_swaps_total"))]
    sys.stdout.write("\n".join([f"{seen.total()} requests, {acts} acts", str(dict(seen)), *counted, ""]))
    served.close()
    redis.kill()


def test_the_first_signal_lets_running_answers_end_and_refuses_new_ones(server: Served) -> None:
    """The last test with this server."""
    metrics = httpx.get(f"{server.url}/metrics").text
    counted = re.findall(r'(?m)^danlu_answers_total\{(?![^}]*"abandoned")[^}]*\} (\S+)', metrics)
    stream = server.ask("law", QUESTIONS[0], stream=True, max_tokens=400)
    first = next(iter(stream))
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.ready()["status"] == "draining")
    with pytest.raises(openai.InternalServerError) as refused:
        server.ask("law", QUESTIONS[0])
    assert refused.value.status_code == 503
    rest = list(stream)
    assert rest[-1].choices[0].finish_reason in ("length", "stop")
    assert first.id == rest[-1].id
    status, result = server.ended()
    assert status == 0
    assert result["answers"] == sum(map(float, counted)) + 1
