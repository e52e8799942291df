"""A judge on a real HTTP endpoint of this machine: both orders are asked, and what is done outlives its end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from danlu.data.questions import Question
from danlu.engines.interface import Answer
from danlu.errors import WorkError
from danlu.evaluation.asking import ask_all
from danlu.evaluation.journal import Journal
from danlu.evaluation.metrics import Given
from danlu.evaluation.parts import make_parts
from danlu.evaluation.tasks.judging import Judge, read_verdict
from danlu.recipe.evaluation_schema import JudgeTask

ROWS = 6


class Endpoint:
    """Answers chat completions by a rule, as often as it may."""

    def __init__(self) -> None:
        self.rule: Callable[[str], str] = lambda prompt: "tie"
        self.prompts: list[str] = []
        self.most = 10_000
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said, status = endpoint.answer(body["messages"][0]["content"])
                data = json.dumps({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, prompt: str) -> tuple[str, int]:
        with self._lock:
            if len(self.prompts) >= self.most:
                return "", 503
            self.prompts.append(prompt)
        return self.rule(prompt), 200

    def section(self) -> JudgeTask:
        url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        return JudgeTask(type="judge", endpoint=url, model="m", num_tries=1, timeout_seconds=10)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


def places(prompt: str) -> tuple[str, str]:
    first, second = prompt.split("[Answer A]\n")[1].split("\n\n[Answer B]\n")
    return first, second.split("\n\nReply")[0]


def longer(prompt: str) -> str:
    first, second = places(prompt)
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


QUESTION = Question([{"role": "user", "content": "Which?"}], "the right one")


def test_the_better_answer_wins_wherever_it_stands(endpoint: Endpoint) -> None:
    endpoint.rule = longer
    texts = [("x", "xxx"), ("xxx", "x"), ("x", "y")]
    pairs = [(QUESTION, Given(base), Given(tuned)) for base, tuned in texts]
    assert Judge(endpoint.section()).score_pairs(pairs) == [1.0, 0.0, 0.5]
    asked = {places(prompt) for prompt in endpoint.prompts}
    assert {("x", "xxx"), ("xxx", "x"), ("x", "y"), ("y", "x")} == asked, "each pair in both orders"
    assert len(endpoint.prompts) == 6
    assert all("user: Which?" in prompt and "the right one" in prompt for prompt in endpoint.prompts)


@pytest.mark.parametrize("place", ["A", "B"])
def test_a_judge_that_always_takes_one_place_says_nothing(endpoint: Endpoint, place: str) -> None:
    endpoint.rule = lambda prompt: place
    assert Judge(endpoint.section()).score_pairs([(QUESTION, Given("x"), Given("y"))] * 3) == [0.5] * 3


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("A", 1.0), ('"B"', 0.0), ("tie", 0.5), ("I think B is better.\nB", 0.0), ("", 0.5), ("Neither, really", 0.5),
     ("**A**", 1.0), ("A is worse, so B", 0.0)],
)  # fmt: skip
def test_what_a_reply_says(reply: str, verdict: float) -> None:
    assert read_verdict(reply) == verdict


class Answering:
    """Base and tuned answers of other lengths; counts what it was asked."""

    batch_size = 4

    def __init__(self) -> None:
        self.asked = 0

    def prompt_ids(self, messages: Any) -> list[int]:
        return [1] * len(messages[0]["content"])

    def generate(self, conversations: Any, sampling: Any, tuned: bool = True) -> list[Answer]:
        self.asked += len(conversations)
        return [Answer((1,), "a longer answer" if tuned else "short", "stop") for _ in conversations]


def test_an_endpoint_that_goes_down_half_way_keeps_what_is_done(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.rule, endpoint.most = longer, 8
    held = [Question([{"role": "user", "content": f"q {n}"}], None, f"rows:{n}") for n in range(ROWS)]

    def go_on() -> tuple[Answering, Any]:
        (part,) = make_parts([endpoint.section()], held, Path, 4)
        engine, journal = Answering(), Journal(tmp_path / "journal.jsonl", "the same")
        try:
            ask_all(engine, [part], 4, journal, quiet=True)
        finally:
            journal.close()
        return engine, part

    with pytest.raises(WorkError, match=r"503") as raised:
        go_on()
    said = " ".join(fault.what for fault in raised.value.faults)
    assert f"4 of {ROWS} pairs are judged, and all answers are kept" in said
    endpoint.most = 10_000
    engine, part = go_on()
    assert engine.asked == 0, "no answer is generated twice"
    assert len(endpoint.prompts) == 2 * ROWS, "no pair is judged twice"
    assert [row.scores["judge"]["tuned"] for row in part.rows] == [(1.0,)] * ROWS
