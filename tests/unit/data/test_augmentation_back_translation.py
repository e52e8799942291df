import json
import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from danlu.data.augmentation import BackTranslator
from danlu.data.augmentation.back_translation import is_usable, language_of, translation_prompt
from danlu.data.endpoint import endpoint_answer
from danlu.data.records import Record
from danlu.errors import DataError

KEY = "sk-secret-0123456789"


def reply(text, **choice):
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, **choice}]}), {}


class Endpoint:
    """A server on loopback; `answer(prompt, number of requests so far)` gives status, body, headers."""

    def __init__(self, answer):
        self.requests = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append((self.path, self.headers.get("Authorization"), body))
                status, text, headers = answer(body["messages"][0]["content"], len(endpoint.requests))
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except (BrokenPipeError, ConnectionResetError):
                    pass  # a client that stopped waiting

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve():
    endpoints = []

    def start(answer):
        endpoints.append(Endpoint(answer))
        return endpoints[-1]

    yield start
    for endpoint in endpoints:
        endpoint.close()


def ask(endpoint, prompts=("hello",), key=KEY, **options):
    options = {"timeout_seconds": 5.0, "num_tries": 3, "first_wait_seconds": 0.01} | options
    return endpoint_answer(endpoint.url + "/v1", "small", key, **options)(list(prompts))


def test_prompts_go_to_chat_completions_and_answers_keep_their_order(serve):
    def answer(prompt, _):
        time.sleep(0.002 * (9 - int(prompt)))  # the first prompts are the last to be answered
        return reply(f"answer {prompt}")

    endpoint = serve(answer)
    assert ask(endpoint, [str(number) for number in range(10)]) == [f"answer {number}" for number in range(10)]
    path, authorization, body = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    assert authorization == f"Bearer {KEY}"
    assert body["model"] == "small"
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_no_key_sends_no_header(serve):
    endpoint = serve(lambda *_: reply("yes"))
    assert ask(endpoint, key=None) == ["yes"]
    assert endpoint.requests[0][1] is None


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/api/paas/v4", "/api/paas/v4/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
    ],
)
def test_base_urls_of_all_forms_lead_to_the_completions(serve, base, path):
    endpoint = serve(lambda *_: reply("yes"))
    assert endpoint_answer(endpoint.url + base, "small")(["hello"]) == ["yes"]
    assert endpoint.requests[0][0] == path


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_tried_again(serve, status):
    endpoint = serve(lambda _, number: (status, "later", {}) if number < 3 else reply("done"))
    assert ask(endpoint) == ["done"]
    assert len(endpoint.requests) == 3


def test_server_that_asks_for_a_wait_gets_it(serve):
    endpoint = serve(lambda _, number: (429, "later", {"Retry-After": "1"}) if number == 1 else reply("done"))
    start = time.monotonic()
    assert ask(endpoint) == ["done"]
    assert time.monotonic() - start >= 1.0


def test_fault_that_lasts_ends_after_the_last_try(serve):
    endpoint = serve(lambda *_: (500, "broken", {}))
    with pytest.raises(DataError, match="answered with status 500, 3 times"):
        ask(endpoint)
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_key_is_said_at_once_and_never_shown(serve, status):
    endpoint = serve(lambda *_: (status, json.dumps({"error": {"message": f"Incorrect API key: {KEY}"}}), {}))
    with pytest.raises(DataError, match=f"status {status}") as caught:
        ask(endpoint)
    assert len(endpoint.requests) == 1
    assert KEY not in str(caught.value)
    assert "api_key_variable" in str(caught.value)


def test_refusal_shows_what_the_server_says_without_the_key(serve):
    endpoint = serve(lambda *_: (404, f"model small does not exist for {KEY}", {}))
    with pytest.raises(DataError, match=r"status 404: model small does not exist for \*\*\*") as caught:
        ask(endpoint)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        "",
        "[]",
        "{}",
        '{"choices": []}',
        '{"choices": [{"message": {"content": 5}}]}',
        '{"choices": "text"}',
        "null",
        "[" * 100_000,
    ],
)
def test_garbage_is_not_taken_for_an_answer(serve, body):
    endpoint = serve(lambda *_: (200, body, {}))
    with pytest.raises(DataError, match="not a chat completion"):
        ask(endpoint)
    assert len(endpoint.requests) == 1


def test_answer_that_is_missing_or_cut_off_is_empty(serve):
    assert ask(serve(lambda *_: reply(None))) == [""]
    assert ask(serve(lambda *_: reply("half a sen", finish_reason="length"))) == [""]


def test_server_that_never_answers_ends_with_a_message(serve):
    released = threading.Event()

    def answer(*_):
        released.wait(5)
        return reply("late")

    endpoint = serve(answer)
    try:
        with pytest.raises(DataError, match=r"could not be reached, 2 times: .*timed out"):
            ask(endpoint, timeout_seconds=0.1, num_tries=2)
    finally:
        released.set()


def test_nobody_at_the_port_is_said(serve):
    endpoint = serve(lambda *_: reply("yes"))
    endpoint.server.server_close()
    with pytest.raises(DataError, match="could not be reached, 2 times"):
        ask(endpoint, num_tries=2)


def test_redirect_is_not_followed_with_the_key(serve):
    other = serve(lambda *_: reply("caught"))
    endpoint = serve(lambda *_: (307, "", {"Location": other.url + "/v1/chat/completions"}))
    with pytest.raises(DataError, match="status 307"):
        ask(endpoint)
    assert other.requests == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "example.com/v1",
        "file:///etc/passwd",
        "ftp://example.com",
        "http://",
        "http://me:pw@host/v1",
        "http://a b",
        "http://h:99999",
    ],
)
def test_what_is_not_a_base_url_is_refused(endpoint):
    with pytest.raises(DataError, match="not a base URL") as caught:
        endpoint_answer(endpoint, "small", KEY)
    assert "pw" not in str(caught.value)


def test_key_that_can_not_be_sent_is_refused_without_showing_it():
    with pytest.raises(DataError, match="can't be sent") as caught:
        endpoint_answer("http://127.0.0.1", "small", "sk-密钥\nx")
    assert "密钥" not in str(caught.value)


def test_translator_can_be_sent_to_workers_and_hides_its_key():
    translator = endpoint_answer("http://127.0.0.1:1", "small", KEY)
    assert pickle.loads(pickle.dumps(translator)) == translator
    assert KEY not in repr(translator)


def record(*questions):
    turns = []
    for question in questions:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": "第 7 号答案"}]
    return Record([{"role": "system", "content": "你是客服"}, *turns])


def translate_with(pairs):
    """A translator that knows some sentences, and answers others with nothing."""
    asked = []

    def translate(prompts):
        asked.extend(prompts)
        return [pairs.get(prompt.rpartition("\n-----\n")[2], "") for prompt in prompts]

    return translate, asked


PAIRS = {"怎么退 3 张票？": "How to refund 3 tickets?", "How to refund 3 tickets?": "如何退掉 3 张票？"}


def test_question_goes_there_and_back_and_the_rest_stays():
    translate, asked = translate_with(PAIRS)
    parent = record("怎么退 3 张票？")
    (new,) = BackTranslator(translate, "English").augment([parent])
    assert new.messages[1]["content"] == "如何退掉 3 张票？"
    assert [new.messages[0], *new.messages[2:]] == [parent.messages[0], *parent.messages[2:]]
    assert asked == [
        translation_prompt("怎么退 3 张票？", "English"),
        translation_prompt("How to refund 3 tickets?", "Chinese"),
    ]


def test_many_records_keep_their_order_and_equal_questions_are_asked_once():
    translate, asked = translate_with(PAIRS)
    records = [record("没人知道"), record("怎么退 3 张票？"), record("怎么退 3 张票？", "没人知道")]
    new = BackTranslator(translate, "English").augment(records)
    assert new[0] is None
    assert new[1].texts("user") == ["如何退掉 3 张票？"]
    assert new[2].texts("user") == ["如何退掉 3 张票？", "没人知道"]
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("怎么退 3 张票？", "怎么退 3 张票？"),
        ("怎么退 3 张票？", "怎么退 3 张票？ \n"),
        ("怎么退 3 张票？", "怎么退三张票？"),
        ("怎么退 3 张票？", "怎么退 3 张票，3 张？"),
        ("怎么退 3 张票？", "How to refund 3 tickets?"),
        ("请打电话给 <MOBILE_K7Q2M9XD3A>", "请致电 <手机_K7Q2M9XD3A>"),
        ("请看 https://example.com/a", "请看 https://example.com/b"),
        ("代码 ```a = b``` 是什么", "```a=b``` 这段代码是什么"),
        ("不要给我退票", "请给我退票吧"),
        ("I can't log in", "I am able to log in"),
        ("好", "好" * 50),
        ("怎么退 3 张票？", ""),
    ],
)
def test_back_translation_that_lost_something_is_not_used(text, back):
    assert not is_usable(text, back)


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("你能不能告诉我怎么退票", "你能告诉我如何退票吗"),
        ("请打电话给 <MOBILE_1>，非常急", "请致电 <MOBILE_1>，很急"),
        ("Can't you refund 5.50?", "Could you refund 5.50?"),
        ("I can't log in", "I cannot sign in"),
    ],
)
def test_back_translation_in_other_words_is_used(text, back):
    assert is_usable(text, back)


def test_question_in_the_language_between_is_not_asked():
    translate, asked = translate_with({})
    assert BackTranslator(translate, "English").augment([record("How are you?")]) == [None]
    assert asked == []


def test_without_a_language_between_english_goes_through_chinese():
    pairs = {"How do I refund it?": "我怎么退款？", "我怎么退款？": "How can I get a refund?"}
    translate, _ = translate_with(pairs | PAIRS)
    new = BackTranslator(translate).augment([record("How do I refund it?"), record("怎么退 3 张票？")])
    assert [each.texts("user") for each in new] == [["How can I get a refund?"], ["如何退掉 3 张票？"]]


def test_thoughts_of_a_reasoning_model_are_left_out():
    pairs = {text: f"<think>well, 99 ways</think>\n{back}" for text, back in PAIRS.items()}
    translate, _ = translate_with(pairs | PAIRS)
    (new,) = BackTranslator(translate, "English").augment([record("怎么退 3 张票？")])
    assert new.texts("user") == ["如何退掉 3 张票？"]


def test_wrong_number_of_answers_is_refused():
    with pytest.raises(ValueError, match="0 answers to 1 prompts"):
        BackTranslator(lambda prompts: [], "English").augment([record("怎么退票？")])


@pytest.mark.parametrize(
    ("text", "language"),
    [("怎么退票", "Chinese"), ("refund", "English"), ("払い戻しはどう", "Japanese"), ("환불", "Korean")],
)
def test_language_is_told_by_its_script(text, language):
    assert language_of(text) == language


def test_endpoint_and_translator_work_together(serve):
    endpoint = serve(lambda prompt, _: reply(PAIRS[prompt.rpartition("\n-----\n")[2]]))
    translator = BackTranslator(endpoint_answer(endpoint.url, "small", KEY), "English")
    (new,) = translator.augment([record("怎么退 3 张票？")])
    assert new.texts("user") == ["如何退掉 3 张票？"]
