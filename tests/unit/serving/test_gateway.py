"""The gateway says in OpenAI's shapes what the engine answers, and what is wrong with a request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from small_gateway import Gateway

MESSAGES = [{"role": "user", "content": "Who are you?"}]
JSON = {"content-type": "application/json"}
ASK = {"model": "law", "messages": MESSAGES, "temperature": 0}


@pytest.fixture(scope="module")
def gateway(tokenizer: Any) -> Iterator[Gateway]:
    made = Gateway(tokenizer)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _nobody_is_left(gateway: Gateway) -> Iterator[None]:
    yield
    gateway.engine.gate.set()
    gateway.engine.full = gateway.engine.breaks = gateway.desk.draining = False
    assert gateway.settled()


def test_a_chat_is_answered_in_one_piece_by_a_version_that_is_named(gateway: Gateway) -> None:
    answer = gateway.client.chat.completions.with_raw_response.create(**ASK)
    assert answer.headers["x-danlu-version"] == "law@1"
    said = answer.parse()
    assert said.choices[0].message.content == "I am hash-of-law."
    assert said.choices[0].finish_reason == "stop"
    assert (said.model, said.system_fingerprint) == ("law@1", "danlu-hash-of-law")
    asked = gateway.engine.asked[-1]
    assert said.usage.prompt_tokens == len(asked.prompt)
    assert said.usage.completion_tokens == 4
    assert list(asked.prompt) == gateway.engine.prompt_ids(MESSAGES)


def test_a_chat_is_streamed(gateway: Gateway) -> None:
    chunks = list(gateway.client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks[1:5]] == ["I", " am", " hash-of-law", "."]
    assert chunks[5].choices[0].finish_reason == "stop"
    assert chunks[6].usage.completion_tokens == 4
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_a_text_goes_on_without_a_template(gateway: Gateway) -> None:
    said = gateway.client.completions.create(model="base", prompt="Once upon", max_tokens=7, temperature=0, logprobs=1)
    assert said.choices[0].text == "I am the base."
    asked = gateway.engine.asked[-1]
    assert list(asked.prompt) == gateway.engine.tokenizer("Once upon")["input_ids"]
    assert (asked.sampling.max_new_tokens, asked.adapter) == (7, None)
    assert said.choices[0].logprobs.tokens == ["I", " am", " the", "."]
    assert said.choices[0].logprobs.token_logprobs == [-0.5] * 4
    streamed = gateway.client.completions.create(model="base", prompt="Once upon", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == "I am the base."


def test_probabilities_are_told_in_one_piece_and_in_many(gateway: Gateway) -> None:
    asks = {**ASK, "logprobs": True, "top_logprobs": 2}
    (choice,) = gateway.client.chat.completions.create(**asks).choices
    assert [token.token for token in choice.logprobs.content] == ["I", " am", " hash", "."]
    assert bytes(choice.logprobs.content[1].bytes) == b" am"
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    chunks = list(gateway.client.chat.completions.create(**asks, stream=True))
    told = [token for chunk in chunks if (one := chunk.choices[0].logprobs) for token in one.content]
    assert [token.logprob for token in told] == [-0.5] * 4


def test_what_was_asked_reaches_the_engine(gateway: Gateway) -> None:
    gateway.client.chat.completions.create(
        model="law@1", messages=MESSAGES, temperature=0.7, top_p=0.9, seed=-3, stop=["a", "b"], max_tokens=9,
        extra_body={"top_k": 5},
    )  # fmt: skip
    asked = gateway.engine.asked[-1]
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.7, 0.9, 5, -3)
    assert (asked.stop, sampling.max_new_tokens, asked.num_likeliest) == (("a", "b"), 9, None)
    gateway.client.chat.completions.create(model="law", messages=MESSAGES)
    first = gateway.engine.asked[-1].sampling
    assert first.temperature == 1.0
    assert first.max_new_tokens == gateway.engine.max_context - len(gateway.engine.asked[-1].prompt)
    gateway.client.chat.completions.create(model="law", messages=MESSAGES)
    assert gateway.engine.asked[-1].sampling.seed != first.seed


def test_a_virtual_model_is_answered_by_the_rules(gateway: Gateway) -> None:
    def version(text: str) -> str:
        messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        return str(gateway.client.chat.completions.create(model="assistant", messages=messages).model)

    assert version("My Contract?") == "law@1"
    assert version("Hello") == "support@1"


def test_models_are_listed_with_their_versions(gateway: Gateway) -> None:
    listed = {model.id: model.version for model in gateway.client.models.list()}  # type: ignore[attr-defined]
    assert listed == {"base": "base", "law": "law@1", "support": "support@1", "assistant": "by rules"}
    assert gateway.client.models.retrieve("law").id == "law"


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": "nobody"}, 404, "there is no model 'nobody'"),
        ({"model": "../../etc/passwd"}, 404, "no model"),
        ({"model": "law@7"}, 404, "no model"),
        ({"model": "\ud800"}, 400, "unicode"),
        ({"model": 3}, 400, "model: Input should be a valid string"),
        ({"model": None}, 400, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "content"),
        ({"messages": [{"role": "user", "content": "a\udfff"}]}, 400, "half a character"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, 400, "the context is 256 tokens"),
        ({"max_tokens": 10**6}, 400, "1000000 of the answer"),
        ({"max_tokens": 10**30}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": 10**400}, 400, "temperature"),
        ({"stop": ["a"] * 10_000}, 400, "at most 16"),
        ({"stop": [""]}, 400, "stop"),
        ({"stop": "\udfff"}, 400, "half a character"),
        ({"n": 2}, 400, "n: "),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"\udfff": 1}, 400, "unicode"),
        ({"best": 1}, 400, "best: Extra inputs"),
        ({"top_logprobs": 21}, 400, "top_logprobs"),
        ({"seed": 2**64}, 400, "seed"),
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "replace").decode() if isinstance(value, dict) else None,
)
def test_a_wrong_request_is_told_what_is_wrong(gateway: Gateway, change: Any, status: int, said: str) -> None:
    before = len(gateway.engine.asked)
    response = gateway.http.post("/v1/chat/completions", content=json.dumps({**ASK, **change}), headers=JSON)
    assert response.status_code == status
    error = response.json()["error"]
    assert said in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 600
    assert len(gateway.engine.asked) == before


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"model": "\xff"}', b"[]", b"null", b"NaN", b"[" * 50_000, b'{"model": NaN}', b"1e999"],
    ids=lambda body: repr(body[:12]),
)
@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/form-data", "application/json; charset=x"]
)
def test_a_malformed_body_is_the_clients_fault(gateway: Gateway, body: bytes, kind: str) -> None:
    response = gateway.http.post("/v1/chat/completions", content=body, headers={"content-type": kind})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_prompt_past_the_context_is_told_with_both_numbers(gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        gateway.client.chat.completions.create(model="law", messages=[{"role": "user", "content": "word " * 300}])
    message = refused.value.body["message"]  # type: ignore[index]
    tokens = len(gateway.engine.prompt_ids([{"role": "user", "content": "word " * 300}]))
    assert re.findall(r"\d+", message) == ["256", str(tokens)]
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("declared", [True, False])
def test_an_oversized_body_is_not_read(gateway: Gateway, declared: bool) -> None:
    content: Any = b"x" * 200_000 if declared else iter([b"x" * 50_000] * 4)
    response = gateway.http.post("/v1/chat/completions", content=content)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/models/%00%ff", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_odd_paths_and_methods_have_their_own_status(gateway: Gateway, method: str, path: str, status: int) -> None:
    response = gateway.http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_full_queue_is_told_as_such(gateway: Gateway) -> None:
    gateway.engine.full = True
    with pytest.raises(openai.RateLimitError) as refused:
        gateway.client.chat.completions.create(**ASK)
    assert refused.value.response.headers["retry-after"] == "1"


def test_an_answer_that_breaks_off_is_told_in_its_stream_and_by_status_else(gateway: Gateway) -> None:
    gateway.engine.breaks = True
    with pytest.raises(openai.InternalServerError, match="the model failed"):
        gateway.client.chat.completions.create(**ASK)
    with pytest.raises(openai.APIError, match="the model failed"):
        list(gateway.client.chat.completions.create(**ASK, stream=True))


@pytest.mark.parametrize("streamed", [True, False])
def test_who_leaves_is_not_answered_on(gateway: Gateway, streamed: bool) -> None:
    gateway.engine.gate.clear()
    with (
        pytest.raises(httpx.TimeoutException),
        gateway.http.stream("POST", "/v1/chat/completions", json={**ASK, "stream": streamed}, timeout=0.5) as response,
    ):
        response.read()
    assert gateway.settled()
    assert gateway.engine.tickets[-1].cancelled


def test_while_draining_new_questions_are_sent_elsewhere_and_running_answers_end(gateway: Gateway) -> None:
    gateway.engine.gate.clear()
    stream = gateway.client.chat.completions.create(**ASK, stream=True)
    gateway.desk.draining = True
    with pytest.raises(openai.InternalServerError) as refused:
        gateway.client.chat.completions.create(**ASK)
    assert refused.value.status_code == 503
    assert gateway.http.get("/readyz").status_code == 503
    assert gateway.http.get("/healthz").status_code == 200
    gateway.engine.gate.set()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "I am hash-of-law."


def test_prometheus_reads_requests_answers_and_tokens(gateway: Gateway) -> None:
    gateway.client.chat.completions.create(**ASK)
    text = gateway.http.get("/metrics").text
    assert re.search(r'danlu_requests_total\{path="/v1/chat/completions",status="200"\} [1-9]', text)
    assert re.search(r'danlu_answers_total\{finish="stop",version="law@1"\} [1-9]', text)
    assert re.search(r'danlu_tokens_total\{kind="answer",version="law@1"\} [1-9]', text)
    assert "danlu_engine_steps_total" in text
    assert "danlu_adapters_loaded 2.0" in text
    assert "danlu_first_token_seconds_bucket" in text
