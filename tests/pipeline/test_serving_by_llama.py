"""llama.cpp behind the gateway: many adapters at once, each as it was trained, swapped while others answer."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("xllamacpp")

from running_gateway import RunningGateway
from served_runs import NUM_TOKENS, QUESTIONS, broken_run, expected_answers, write_run

from danlu.engines.batching import Ask, Piece, QueueFull
from danlu.engines.drawing import Token
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import DanluError, FolderError, GateError, InputError, ModelError
from danlu.serving.backends import llama
from danlu.serving.backends.interface import OpenedEngine
from danlu.serving.backends.llama import LlamaBackend, fitted, kind_of, open_llama
from danlu.serving.backends.llama_server import LlamaServer, Size, slice_end, until_answered
from danlu.serving.catalogue import run_folders
from danlu.serving.routing import Routes
from danlu.serving.serve import Keeping, make_desk
from danlu.training.trained import open_run

SIZE = Size(slots=4, context_tokens=512, max_waiting=8, threads=1)
KV = 1 << 28


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / name, tiny_base, seed) for seed, name in enumerate(("law", "bank"))]


@pytest.fixture(scope="module")
def referee(runs: list[Path]) -> dict[str, TransformersEngine]:
    return {run.name: open_run(run).engine(torch.float32) for run in runs}


@pytest.fixture(scope="module")
def opened(runs: list[Path]) -> Iterator[OpenedEngine]:
    """In float32, with both adapters loaded and proven."""
    made = open_llama(open_run(runs[0]), "f32", SIZE, KV)
    for run in runs:
        made.loads.load(run.name, run, proven=False)
    yield made
    made.engine.close()


def backend_of(opened: OpenedEngine) -> LlamaBackend:
    assert isinstance(opened.engine, LlamaBackend)
    return opened.engine


def server_of(opened: OpenedEngine) -> LlamaServer:
    return backend_of(opened).server


def ask(opened: OpenedEngine, question: str, adapter: str | None, sampling: Sampling | None = None, **more: Any) -> Ask:
    prompt = tuple(opened.engine.prompt_ids([{"role": "user", "content": question}]))
    return Ask(prompt, sampling or Sampling(NUM_TOKENS), adapter, **more)


def ids(opened: OpenedEngine, *asked: Any, **more: Any) -> list[int]:
    return [token.id for token in until_answered(server_of(opened), ask(opened, *asked, **more))]


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_base_and_adapters_at_once_answer_token_for_token_as_they_were_trained(
    opened: OpenedEngine, runs: list[Path], referee: dict[str, TransformersEngine]
) -> None:
    asked = [(question, name) for question in QUESTIONS for name in ("law", "bank", None)]
    with ThreadPoolExecutor(len(asked)) as pool:
        said = list(pool.map(lambda one: ids(opened, *one), asked))
    wanted = []
    for question, name in asked:
        messages = [[{"role": "user", "content": question}]]
        engine = referee[name or "law"]
        wanted.append(list(engine.generate(messages, Sampling(NUM_TOKENS), tuned=name is not None)[0].ids))
    assert said == wanted
    assert len({tuple(one) for one in said[3:6]}) == 3, "each answers in its own way"
    assert opened.engine.figures()["turns"] > 3


def test_what_a_slot_remembers_is_never_used_for_another_adapter(opened: OpenedEngine) -> None:
    """One slot's worth of questions after another: the same prompt by other adapters, then again by each."""
    alone = {}
    for name in ("law", "bank", None):
        server = backend_of(opened).beside(server_of(opened).adapters)
        alone[name] = [token.likeliest for token in until_answered(server, told(opened, name))]
        server.close()
    single = LlamaServer(
        opened.engine.tokenizer, sorted(server_of(opened).stop_ids), base_file(opened), server_of(opened).adapters,
        replace(SIZE, slots=1, exact=True),
    )  # fmt: skip
    last: Any = "nobody"
    for name in ("law", "bank", None, "law", "law", "bank", "bank", None, None):
        before = single.counters.reused_tokens
        found = [token.likeliest for token in until_answered(single, told(opened, name))]
        reused = single.counters.reused_tokens - before
        assert_near(found, alone[name])
        assert (reused > 0) == (name == last)
        last = name
    single.close()


def told(opened: OpenedEngine, adapter: str | None) -> Ask:
    return ask(opened, QUESTIONS[3], adapter, num_likeliest=5)


def base_file(opened: OpenedEngine) -> Path:
    from danlu.runs import danlu_home

    return danlu_home() / "models" / "gguf" / f"{opened.sha256[:16]}-f32.gguf"


def assert_near(found: list[Any], wanted: list[Any]) -> None:
    assert [[id for id, _ in one] for one in found] == [[id for id, _ in one] for one in wanted]
    off = [
        abs(a - b) for one, other in zip(found, wanted, strict=True) for (_, a), (_, b) in zip(one, other, strict=True)
    ]
    assert max(off) < 1e-3


def test_probabilities_are_the_models(opened: OpenedEngine, referee: dict[str, TransformersEngine]) -> None:
    asked = ask(opened, QUESTIONS[1], "bank", num_likeliest=4)
    tokens = until_answered(server_of(opened), asked)
    logits = referee["bank"].logits(list(asked.prompt), [token.id for token in tokens]).log_softmax(-1)
    for place, token in enumerate(tokens):
        assert token.log_probability == pytest.approx(float(logits[place, token.id]), abs=1e-3)
        assert [id for id, _ in token.likeliest] == logits[place].topk(4).indices.tolist()


def test_a_drawn_answer_depends_on_its_seed_alone(opened: OpenedEngine) -> None:
    def drawn(seed: int) -> list[int]:
        return ids(opened, QUESTIONS[0], "law", Sampling(24, temperature=1.0, top_p=0.95, seed=seed))

    alone = drawn(5)
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(drawn, [5, 1, 5, 2, 5, 3]))
    assert said[::2] == [alone] * 3
    assert len({tuple(one) for one in said}) == 4
    hot = Sampling(24, temperature=1.5, top_k=1)
    assert ids(opened, QUESTIONS[0], "law", hot) == ids(opened, QUESTIONS[0], "law", Sampling(24))


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(opened: OpenedEngine, runs: list[Path]) -> None:
    text = expected_answers(runs[0], QUESTIONS[1], 40)[0]
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    pieces: list[Piece] = []
    ended = threading.Event()

    def hear(piece: Piece) -> None:
        pieces.append(piece)
        if piece.answer or piece.error:
            ended.set()

    opened.engine.submit(ask(opened, QUESTIONS[1], "law", Sampling(40), stop=(stop,)), hear)
    assert ended.wait(20)
    answer = pieces[-1].answer
    assert answer is not None
    assert answer.text == text[: text.index(stop)] == "".join(piece.text for piece in pieces)
    assert answer.finish == "stop"
    assert len(pieces) > 2, "told as it came"


def test_who_leaves_frees_the_place_and_who_is_too_many_is_told(opened: OpenedEngine) -> None:
    engine, before = opened.engine, opened.engine.figures()["cancelled"]
    long = ask(opened, QUESTIONS[0], "law", Sampling(450))
    tickets = [engine.submit(long, lambda piece: None) for _ in range(SIZE.slots + SIZE.max_waiting)]
    with pytest.raises(QueueFull, match="8 questions wait already"):
        engine.submit(long, lambda piece: None)
    for ticket in tickets:
        ticket.cancel()
    until(lambda: not engine.running and not engine.waiting)
    assert engine.figures()["cancelled"] - before > 0
    with pytest.raises(InputError, match="together at most 512"):
        engine.submit(ask(opened, QUESTIONS[0], "law", Sampling(600)), lambda piece: None)
    with pytest.raises(InputError, match="no adapter other is loaded"):
        engine.submit(ask(opened, QUESTIONS[0], "other"), lambda piece: None)


def test_what_misses_its_probes_is_refused_and_what_answers_goes_on(
    opened: OpenedEngine, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, law = server_of(opened), opened.engine.server.adapters["law"]  # type: ignore[attr-defined]
    monkeypatch.setattr(llama, "adapter_file", lambda subject, kind: law)
    with pytest.raises(GateError, match="logits: differ"):
        opened.loads.load("other", runs[1], proven=False)
    with pytest.raises(ModelError, match="another base"):
        opened.loads.load("other", broken_run(runs[1], tmp_path, "base"), proven=False)
    assert server_of(opened) is before
    assert opened.engine.figures()["servers"] == 1


def test_what_llama_cpp_can_not_take_from_an_adapter_is_refused(
    opened: OpenedEngine, runs: list[Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(runs[0], tmp_path / "dora"))
    config = run / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
    with pytest.raises(FolderError, match="DoRA"):
        opened.loads.load("dora", run, proven=True)


def test_an_adapter_comes_while_another_answers_and_nothing_is_cut_off(
    opened: OpenedEngine, runs: list[Path], referee: dict[str, TransformersEngine]
) -> None:
    old = server_of(opened)
    heard: list[Piece] = []
    long = ask(opened, QUESTIONS[0], "law", Sampling(300))
    opened.engine.submit(long, heard.append)
    opened.loads.load("again", runs[1], proven=False)
    assert server_of(opened) is not old
    assert set(server_of(opened).adapters) == {"law", "bank", "again"}
    assert ids(opened, QUESTIONS[1], "again") == ids(opened, QUESTIONS[1], "bank")
    until(lambda: bool(heard and (heard[-1].answer or heard[-1].error)))
    answer = heard[-1].answer
    assert answer is not None
    wanted = referee["law"].generate([[{"role": "user", "content": QUESTIONS[0]}]], Sampling(300))[0]
    assert answer.ids == wanted.ids
    until(lambda: opened.engine.figures()["servers"] == 1)
    opened.loads.unload("again")
    opened.loads.load("another", runs[1], proven=True)
    assert set(server_of(opened).adapters) == {"law", "bank", "another"}
    until(lambda: opened.engine.figures()["servers"] == 1)


def test_over_the_api_as_over_danlu_chat(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    beside = LlamaBackend.beside
    monkeypatch.setattr(
        LlamaBackend, "beside", lambda self, adapters: started.append(len(adapters)) or beside(self, adapters)
    )
    opened = open_llama(open_run(runs[0]), "f32", SIZE, KV)
    gateway = RunningGateway(make_desk(opened, run_folders(runs), Routes(), Keeping()))
    for run in runs:
        for question in QUESTIONS[:2]:
            asked: Any = {"model": run.name, "messages": [{"role": "user", "content": question}], "temperature": 0}
            streamed = gateway.client.chat.completions.create(**asked, max_tokens=NUM_TOKENS, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
            assert text == expected_answers(run, question)[0]
    gateway.close()
    assert started == [2], "one more server for both adapters"


def test_slices_end_at_fixed_places_and_size_fits_the_memory(tiny_base: Path, opened: OpenedEngine) -> None:
    ends, made = [], 0
    while made < 50:
        made = slice_end(made)
        ends.append(made)
    assert ends == [1, 4, 8, 16, 32, 48, 64]
    # 2 layers x 2 heads x 16 numbers x 2 (keys and values) x 2 bytes = 256 bytes a token
    assert fitted(Size(32, 0), tiny_base, 256 * 8 * 2048, exact=False) == Size(8, 2048)
    assert fitted(Size(32, 512), tiny_base, 256 * 8 * 2048, exact=False) == Size(32, 512)
    assert fitted(Size(2, 0), tiny_base, 256 * 8192, exact=True) == Size(2, 2048, exact=True)
    with pytest.raises(InputError, match="too few for a context of 2048"):
        fitted(Size(4, 2048), tiny_base, 256 * 2000, exact=False)
    assert kind_of(server_of(opened).adapters["law"]) == "f32"


def test_a_closed_one_says_so(runs: list[Path]) -> None:
    opened = open_llama(open_run(runs[0]), "f32", SIZE, KV)
    heard: list[Piece] = []
    for _ in range(6):
        opened.engine.submit(ask(opened, QUESTIONS[0], None, Sampling(400)), heard.append)
    opened.engine.close()
    errors = [piece.error for piece in heard if piece.error]
    assert len(errors) == 6
    assert {"the engine was closed"} == {error.faults[0].what for error in errors}
    with pytest.raises(DanluError, match="the engine is closed"):
        opened.engine.submit(ask(opened, QUESTIONS[0], None), heard.append)


def test_tokens_are_told_one_by_one(opened: OpenedEngine) -> None:
    tokens = until_answered(server_of(opened), ask(opened, QUESTIONS[2], "law"))
    assert all(isinstance(token, Token) and token.log_probability is None for token in tokens)
