"""Requests are passed on to a server with the model's name mapped; what is wrong there is said in OpenAI's shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from running_gateway import RunningGateway
from served_runs import QUESTIONS, write_run
from upstream_server import PIECES, UpstreamServer

from danlu.errors import GateError, InputError, ModelError
from danlu.models.tokenizer import load_tokenizer
from danlu.serving.backends.table import Choice, open_their_engine
from danlu.serving.catalogue import run_folders
from danlu.serving.desk import Desk
from danlu.serving.routing import Route, Routes
from danlu.serving.serve import Keeping, make_desk
from danlu.training.probes import read_probes
from danlu.training.trained import open_run

MESSAGES = [{"role": "user", "content": "Who are you?"}]
ASK = {"model": "bank", "messages": MESSAGES, "temperature": 0}


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "bank", tiny_base, 0)


def upstream_of(run: Path) -> UpstreamServer:
    """One that says what a run recorded, as its model `bank-v3`."""
    server = UpstreamServer(["acme/base", "bank-v3"])
    probes = read_probes(run)
    for probe in probes.probes:
        wanted = probe.expected["float32"]
        finish = "stop" if wanted.answer_ids[-1] in probes.stop_ids else "length"
        server.answers[f"bank-v3 {probe.messages[-1]['content']}"] = {"text": wanted.text, "finish_reason": finish}
    return server


def desk_of(server: UpstreamServer, *runs: Path, **names: str) -> Desk:
    choice = Choice("upstream", upstream=server.url, names=names)
    opened, catalogue = open_their_engine(choice, "base", run_folders(runs) if runs else None)
    try:
        return make_desk(opened, catalogue, Routes([Route(name="helper", default="base")]), Keeping())
    except BaseException:
        opened.engine.close()
        raise


@pytest.fixture(scope="module")
def upstream(run: Path) -> Iterator[UpstreamServer]:
    server = upstream_of(run)
    yield server
    server.close()


@pytest.fixture(scope="module")
def gateway(upstream: UpstreamServer, run: Path) -> Iterator[RunningGateway]:
    made = RunningGateway(desk_of(upstream, run, bank="bank-v3", base="acme/base"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "upstream" in request.fixturenames:
        upstream = request.getfixturevalue("upstream")
        upstream.gate.set()
        upstream.status, upstream.breaks, upstream.key, upstream.left = 200, False, None, 0


def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_question_is_passed_on_under_their_name_and_the_answer_names_our_version(
    gateway: RunningGateway, upstream: UpstreamServer
) -> None:
    answer = gateway.client.chat.completions.with_raw_response.create(**ASK, stop=["x"], extra_body={"top_k": 3})
    assert upstream.asked[-1] == (
        "/v1/chat/completions",
        {"model": "bank-v3", "messages": MESSAGES, "temperature": 0, "stop": ["x"], "top_k": 3},
    )
    assert answer.headers["x-danlu-version"] == "bank@1"
    said = answer.parse()
    assert (said.model, said.choices[0].message.content) == ("bank@1", "".join(PIECES))
    metrics = httpx.get(f"{gateway.url}/metrics").text
    assert 'danlu_tokens_total{kind="answer",version="bank@1"} 4.0' in metrics
    assert gateway.client.completions.create(model="helper", prompt="Once").choices[0].text == "".join(PIECES)
    assert upstream.asked[-1] == ("/v1/completions", {"model": "acme/base", "prompt": "Once"})


def test_pieces_are_sent_on_as_they_come(gateway: RunningGateway, upstream: UpstreamServer) -> None:
    upstream.gate.clear()
    stream = gateway.client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    first = next(iter(stream))
    assert first.choices[0].delta.content == "I", "it came while the upstream held back the rest"
    assert first.model == "bank@1"
    upstream.gate.set()
    rest = list(stream)
    assert "".join(one.choices[0].delta.content or "" for one in rest if one.choices) == " am here."
    assert rest[-1].usage is not None
    assert rest[-1].usage.completion_tokens == 4


def test_who_leaves_leaves_the_upstream_too(gateway: RunningGateway, upstream: UpstreamServer) -> None:
    upstream.gate.clear()
    stream = gateway.client.chat.completions.create(**ASK, stream=True)
    next(iter(stream))
    stream.close()
    until(lambda: not gateway.desk.visits and not gateway.desk.engine.running)
    upstream.gate.set()
    until(lambda: upstream.left == 1)
    assert 'danlu_answers_total{finish="abandoned",version="bank@1"} 1.0' in httpx.get(f"{gateway.url}/metrics").text


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (400, 400, "too long"),
        (422, 400, "too long"),
        (429, 429, "too long"),
        (500, 502, "the upstream answered 500: too long"),
        (503, 503, "the upstream answered 503: too long"),
        (401, 502, "refuses the gateway's key (from DANLU_UPSTREAM_KEY)"),
    ],
)
def test_a_refusal_is_said_in_openais_shape(
    gateway: RunningGateway, upstream: UpstreamServer, theirs: int, ours: int, said: str
) -> None:
    upstream.status, upstream.said = theirs, "too long"
    with pytest.raises(openai.APIStatusError) as refused:
        gateway.client.chat.completions.create(**ASK)
    assert refused.value.status_code == ours
    assert said in refused.value.body["message"]  # type: ignore[index]
    assert gateway.desk.visits == 0


def test_a_stream_that_is_broken_off_ends_with_an_error(gateway: RunningGateway, upstream: UpstreamServer) -> None:
    upstream.breaks = True
    with pytest.raises(openai.APIError, match="broke off"):
        list(gateway.client.chat.completions.create(**ASK, stream=True))


def test_a_dead_upstream_is_503_and_not_ready_until_it_is_back(run: Path) -> None:
    upstream = upstream_of(run)
    gateway = RunningGateway(desk_of(upstream, run, bank="bank-v3", base="acme/base"))
    upstream.close()
    with pytest.raises(openai.InternalServerError, match="can't be reached") as refused:
        gateway.client.chat.completions.create(**ASK)
    assert refused.value.status_code == 503

    def status() -> Any:
        return httpx.get(f"{gateway.url}/readyz").json()["status"]

    until(lambda: status() == "away")
    assert httpx.get(f"{gateway.url}/readyz").status_code == 503
    assert httpx.get(f"{gateway.url}/healthz").status_code == 200
    back = UpstreamServer(["acme/base", "bank-v3"], upstream.port)
    until(lambda: status() == "ok")
    assert gateway.client.chat.completions.create(**ASK).choices[0].message.content == "".join(PIECES)
    gateway.close()
    back.close()


def test_the_key_comes_from_the_environment(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = upstream_of(run)
    upstream.key = "secret"
    with pytest.raises(InputError, match="does not say which models"):
        desk_of(upstream, run)
    monkeypatch.setenv("DANLU_UPSTREAM_KEY", "secret")
    desk_of(upstream, run, bank="bank-v3", base="acme/base").engine.close()  # type: ignore[attr-defined]
    upstream.close()


def test_a_model_that_is_not_the_runs_is_refused(upstream: UpstreamServer, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the upstream has no model bank") as missing:
        desk_of(upstream, run)
    assert "--upstream-model bank@1=NAME" in str(missing.value)
    with pytest.raises(GateError, match="greedy text: 0 of 4 answers"):
        desk_of(upstream, run, bank="acme/base")
    other = write_run(tmp_path / "other", base_of(run), 7)
    with pytest.raises(GateError, match="argmax"):
        desk_of(upstream, other, other="bank-v3")


def base_of(run: Path) -> Path:
    return Path(open_run(run).recipe.model.name)


def test_probabilities_are_compared_where_the_upstream_tells_them(run: Path) -> None:
    upstream, probes = upstream_of(run), read_probes(run)
    tokenizer = load_tokenizer(base_of(run))
    for shift, fails in ((0.5, False), (1.5, True)):
        for probe in probes.probes:
            wanted = probe.expected["float32"]
            assert wanted.logsumexp is not None
            values = (wanted.logits[:, 0] - wanted.logsumexp + shift).tolist()
            texts = [tokenizer.decode([token]) for token in wanted.answer_ids]
            content = [{"token": text, "logprob": value} for text, value in zip(texts, values, strict=True)]
            upstream.answers[f"bank-v3 {probe.messages[-1]['content']}"]["logprobs"] = {"content": content}
        if fails:
            with pytest.raises(GateError, match=r"logits: differ by up to 1\.5"):
                desk_of(upstream, run, bank="bank-v3", base="acme/base")
        else:
            desk_of(upstream, run, bank="bank-v3", base="acme/base").engine.close()  # type: ignore[attr-defined]
    upstream.close()


def test_without_runs_the_upstreams_models_are_served_under_our_names(upstream: UpstreamServer) -> None:
    desk = desk_of(upstream, law="bank-v3", base="acme/base")
    assert desk.shelf.served() == {"base": "base", "law": "law"}
    gateway = RunningGateway(desk)
    assert gateway.client.chat.completions.create(**{**ASK, "model": "law"}).model == "law"
    assert upstream.asked[-1][1]["model"] == "bank-v3"
    gateway.close()


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"engine": "upstream"}, "--upstream and --engine upstream go together"),
        ({"upstream": "http://a"}, "go together"),
        ({"names": {"a": "b"}}, "--upstream-model is for"),
        ({"engine": "llama.cpp", "quantize": "q9"}, "--quantize q9 is not known"),
        ({"engine": "llama.cpp", "dtype": "float32"}, "--dtype is not for"),
        ({"quantize": "q8_0"}, "--quantize is for"),
    ],
)
def test_options_that_do_not_go_together_are_refused(choice: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Choice(**choice)


def test_an_address_that_is_none_is_refused_and_a_server_that_is_none() -> None:
    with pytest.raises(InputError, match="no address of a server"):
        open_their_engine(Choice("upstream", upstream="localhost:80"), None, None)
    with pytest.raises(InputError, match="does not say which models it has"):
        open_their_engine(Choice("upstream", upstream="http://127.0.0.1:1"), None, None)


def test_the_questions_of_the_probes_are_answered_once_each(run: Path) -> None:
    upstream = upstream_of(run)
    desk_of(upstream, run, bank="bank-v3", base="acme/base").engine.close()  # type: ignore[attr-defined]
    said = [body["messages"][-1]["content"] for _, body in upstream.asked]
    assert said == QUESTIONS
    assert all(body["temperature"] == 0 and body["model"] == "bank-v3" for _, body in upstream.asked)
    upstream.close()
