"""Many answers at once are those that Transformers and PEFT give one by one, whoever comes, leaves or waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import FAMILIES, answers_one_by_one, make_base, save_adapters
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

from danlu.adapters.plain_lora import read_plain_lora
from danlu.data.template import stop_ids
from danlu.engines.answer_text import AnswerText
from danlu.engines.batching import Ask, BatchingEngine, Limits, Piece, QueueFull
from danlu.engines.drawing import Dice
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import DanluError, InputError, ModelError, WorkError

LENGTH = 24
ADAPTERS = [None, "few", "many", "one"]
PROMPTS = [
    tuple(torch.randint(3, 300, (size,), generator=torch.Generator().manual_seed(size)).tolist())
    for size in (1, 5, 9, 17, 30, 61)
]


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An engine with three adapters, the base that it runs on, and the adapters' folders."""
    base = make_base(request.param, len(tokenizer))
    folders = save_adapters(request.param, base, tmp_path_factory.mktemp(request.param))
    engine = filled_engine(make_base(request.param, len(tokenizer)), tokenizer, folders)
    yield engine, base, folders
    engine.close()


@pytest.fixture(scope="module")
def llama(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchingEngine]:
    base = make_base("llama", len(tokenizer))
    folders = save_adapters("llama", base, tmp_path_factory.mktemp("alone"))
    engine = filled_engine(base, tokenizer, folders)
    yield engine
    engine.close()


def filled_engine(base: Any, tokenizer: Any, folders: dict[str, Path], limits: Limits | None = None) -> BatchingEngine:
    engine = BatchingEngine(base, tokenizer, stop_ids(tokenizer, {}), limits or Limits(chunk_tokens=16))
    for name, folder in folders.items():
        engine.add(name, read_plain_lora(folder, torch.float32))
    return engine


class Listener:
    """Keeps the pieces of an answer."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.done, self.began = threading.Event(), threading.Event()

    def __call__(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.began.set()
        if piece.answer or piece.error:
            self.done.set()

    @property
    def last(self) -> Piece:
        assert self.done.wait(60)
        return self.pieces[-1]


def ask(prompt: tuple[int, ...], adapter: str | None = None, length: int = LENGTH, **more: Any) -> Ask:
    return Ask(prompt, Sampling(length), adapter, **more)


def test_base_and_three_adapters_in_one_batch_answer_as_each_does_alone(made: Any) -> None:
    engine, base, folders = made
    before = engine.counters.mixed_steps
    asks = [ask(prompt, adapter) for prompt in PROMPTS for adapter in ADAPTERS]
    listeners = [Listener() for _ in asks]
    for one, listener in zip(asks, listeners, strict=True):
        engine.submit(one, listener)
    found = [list(listener.last.answer.ids) for listener in listeners]
    expected = {
        adapter: answers_one_by_one(base, folders.get(adapter), PROMPTS, LENGTH, sorted(engine.stop_ids))
        for adapter in ADAPTERS
    }
    assert found == [expected[one.adapter][PROMPTS.index(one.prompt)] for one in asks]
    assert len({tuple(expected[adapter][4]) for adapter in ADAPTERS}) == 4, "each adapter answers in its own way"
    assert engine.counters.mixed_steps - before >= LENGTH
    assert engine.counters.most_adapters == 4


def test_a_conversation_that_goes_on_is_not_read_again_and_answered_the_same(made: Any) -> None:
    engine, base, folders = made
    first = PROMPTS[4]
    answer = engine.answer(ask(first, "many")).ids
    longer = (*first, *answer, *PROMPTS[1])
    listener = Listener()
    ticket = engine.submit(ask(longer, "many"), listener)
    expected = answers_one_by_one(base, folders["many"], [longer], LENGTH, sorted(engine.stop_ids))
    assert list(listener.last.answer.ids) == expected[0]
    assert ticket.reused == len(first) + len(answer) - 1, "all but the last token, which was never read"
    other = Listener()
    ticket = engine.submit(ask(longer, "one"), other)
    assert list(other.last.answer.ids) != expected[0]
    assert ticket.reused <= len(first), "another adapter's keys and values are its own"


def test_pieces_are_the_answer_and_the_answer_is_the_other_engines(llama: BatchingEngine, tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Name three colours, 红色 too."}]
    listener = Listener()
    prompt = tuple(TransformersEngine(llama.model, tokenizer, sorted(llama.stop_ids)).prompt_ids(messages))
    llama.submit(ask(prompt), listener)
    answer = listener.last.answer
    assert "".join(piece.text for piece in listener.pieces) == answer.text
    assert [token.id for piece in listener.pieces for token in piece.tokens] == list(answer.ids)
    assert len(listener.pieces) == len(answer.ids)
    assert (
        answer
        == TransformersEngine(make_base("llama", len(tokenizer)), tokenizer, sorted(llama.stop_ids)).generate(
            [messages], Sampling(LENGTH)
        )[0]
    )


def test_drawn_answers_depend_on_their_seed_and_on_nobody_else(llama: BatchingEngine) -> None:
    sampling = Sampling(LENGTH, temperature=0.9, top_p=0.9, top_k=50, seed=7)
    alone = llama.answer(Ask(PROMPTS[3], sampling, "few")).ids
    with ThreadPoolExecutor(8) as pool:
        others = [
            pool.submit(llama.answer, Ask(prompt, Sampling(LENGTH, 1.0, seed=seed), adapter))
            for seed, (prompt, adapter) in enumerate(zip(PROMPTS, [*ADAPTERS, None, "one"], strict=True))
        ]
        assert llama.answer(Ask(PROMPTS[3], sampling, "few")).ids == alone
        assert all(other.result().ids for other in others)
    assert llama.answer(Ask(PROMPTS[3], Sampling(LENGTH, 0.9, 0.9, 8, 50), "few")).ids != alone


def test_dice_draw_what_transformers_warpers_leave_as_often_as_they_say() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(400, generator=torch.Generator().manual_seed(0)) * 2
    warped = logits.unsqueeze(0)
    for warper in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(30), TopPLogitsWarper(0.8)):
        warped = warper(None, warped)
    expected = warped[0].softmax(-1)
    dice = Dice(Sampling(1, 0.7, 0.8, 3, 30))
    counts = torch.zeros(400)
    for _ in range(6_000):
        counts[dice.draw(logits)] += 1
    assert not counts[expected == 0].any()
    assert (counts / counts.sum() - expected).abs().max() < 0.03


def test_a_flat_distribution_has_its_whole_nucleus() -> None:
    dice = Dice(Sampling(1, 1.0, 0.9, 0))
    drawn = {dice.draw(torch.zeros(1000)) for _ in range(4000)}
    assert 850 < len(drawn) <= 901


def test_probabilities_are_those_of_the_model(made: Any) -> None:
    engine, _, _ = made
    listener = Listener()
    engine.submit(ask(PROMPTS[2], "many", num_likeliest=3), listener)
    ids = listener.last.answer.ids
    expected = engine.logits("many", PROMPTS[2], ids).log_softmax(-1)
    tokens = [token for piece in listener.pieces for token in piece.tokens]
    found = torch.tensor([token.log_probability for token in tokens])
    torch.testing.assert_close(found, expected.gather(1, torch.tensor(ids).unsqueeze(1))[:, 0], rtol=1e-3, atol=1e-3)
    assert [[id for id, _ in token.likeliest] for token in tokens] == expected.topk(3).indices.tolist()


def test_a_stop_string_ends_the_answer_and_no_part_of_it_is_told(llama: BatchingEngine) -> None:
    whole = llama.answer(ask(PROMPTS[5], "few")).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    listener = Listener()
    llama.submit(ask(PROMPTS[5], "few", stop=(stop, "never said")), listener)
    answer = listener.last.answer
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish == "stop"
    assert "".join(piece.text for piece in listener.pieces) == answer.text
    assert len(answer.ids) < LENGTH


def test_a_stop_string_is_held_back_until_it_is_certain(tokenizer: Any) -> None:
    text = AnswerText(tokenizer, ("END",))
    ids = [token for part in ("a", "E", "N", "X", "E", "N", "D", "b") for token in tokenizer(part)["input_ids"]]
    told = [text.add(token) for token in ids]
    assert told == [
        ("a", False),
        ("", False),
        ("", False),
        ("ENX", False),
        ("", False),
        ("", False),
        ("", True),
        ("", True),
    ]


def test_a_character_is_told_when_all_its_bytes_are_there(tokenizer: Any) -> None:
    words = "龘🜂e\u0301 fin"
    text = AnswerText(tokenizer)
    pieces = [text.add(token)[0] for token in tokenizer(words)["input_ids"]]
    assert "".join(pieces) + text.end() == words
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_long_prompt_stops_nobody(llama: BatchingEngine) -> None:
    running, reading = Listener(), Listener()
    llama.submit(ask(PROMPTS[1], length=200), running)
    assert running.began.wait(60)
    long = (7, *PROMPTS[5] * 8)
    llama.submit(ask(long, "one", length=2), reading)
    before = len(running.pieces)
    assert reading.last.answer is not None
    assert len(running.pieces) - before >= len(long) // 16 - 2, "a token for each chunk"
    assert running.last.answer is not None


@pytest.mark.parametrize(("read_tokens", "steps"), [(1000, 3), (1, 7)])
def test_prompts_that_wait_are_read_before_a_step(tokenizer: Any, read_tokens: int, steps: int) -> None:
    limits = Limits(chunk_tokens=64, read_tokens=read_tokens)
    engine = filled_engine(make_base("llama", len(tokenizer)), tokenizer, {}, limits)
    gate = threading.Event()
    engine.call(gate.wait)
    listeners = [Listener() for _ in range(5)]
    for number, listener in enumerate(listeners):
        engine.submit(ask((7 + number, *PROMPTS[1]), length=4), listener)
    gate.set()
    assert [len(listener.last.answer.ids) for listener in listeners if listener.last.answer] == [4] * 5
    assert engine.counters.steps == steps
    engine.close()


def test_who_leaves_frees_the_place(tokenizer: Any) -> None:
    engine = filled_engine(make_base("llama", len(tokenizer)), tokenizer, {}, Limits(max_rows=1))
    left, next_one = Listener(), Listener()
    ticket = engine.submit(ask(PROMPTS[1], length=1500), left)
    assert left.began.wait(60)
    engine.submit(ask(PROMPTS[2], length=3), next_one)
    ticket.cancel()
    assert next_one.last.answer is not None
    assert not left.done.is_set()
    engine.call(lambda: None).result()
    assert engine.counters.cancelled == 1
    assert engine.running == 0
    engine.close()


def test_more_than_fits_waits_and_more_than_may_wait_is_refused(tokenizer: Any) -> None:
    limits = Limits(max_rows=2, max_waiting=3)
    engine = filled_engine(make_base("llama", len(tokenizer)), tokenizer, {}, limits)
    gate = threading.Event()
    engine.call(gate.wait)
    listeners = [Listener() for _ in range(3)]
    for listener in listeners:
        engine.submit(ask(PROMPTS[1]), listener)
    with pytest.raises(QueueFull, match="3 questions wait"):
        engine.submit(ask(PROMPTS[1]), Listener())
    gate.set()
    assert all(listener.last.answer for listener in listeners)
    engine.close()


def test_keys_and_values_stay_within_their_bytes(tokenizer: Any) -> None:
    """Two layers of two heads of eight float32 numbers, keys and values: 256 bytes a token."""
    engine = filled_engine(make_base("llama", len(tokenizer)), tokenizer, {}, Limits(kv_bytes=256 * 100))
    assert (engine.max_tokens, engine.max_context) == (100, 100)
    rows: list[int] = []
    listeners = [Listener() for _ in range(6)]
    tell = lambda listener: lambda piece: (rows.append(engine.running), listener(piece))  # noqa: E731
    for listener in listeners:
        engine.submit(ask(PROMPTS[1], length=27), tell(listener))  # type: ignore[arg-type]
    assert all(listener.last.answer for listener in listeners)
    assert max(rows) == 3, "three of 32 tokens fit in 100"
    with pytest.raises(InputError, match="61 tokens of prompt and 40 of answer") as refused:
        engine.submit(ask(PROMPTS[5], length=40), Listener())
    assert "at most 100" in str(refused.value)
    engine.close()


def test_an_adapter_is_taken_away_and_put_on_while_others_answer(llama: BatchingEngine) -> None:
    expected = llama.answer(ask(PROMPTS[3], "many")).ids
    adapter = llama.bank._adapters["few"]
    running = Listener()
    llama.submit(ask(PROMPTS[3], "many"), running)
    llama.remove("few")
    with pytest.raises(InputError, match="no adapter few"):
        llama.submit(ask(PROMPTS[0], "few"), Listener())
    llama.add("few", adapter)
    assert running.last.answer is not None
    assert running.last.answer.ids == expected


def test_what_goes_wrong_in_the_model_is_told_and_the_engine_goes_on(llama: BatchingEngine) -> None:
    expected = llama.answer(ask(PROMPTS[2])).ids
    hook = llama.model.model.norm.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(WorkError, match="ZeroDivisionError"):
        llama.answer(ask(PROMPTS[2]))
    hook.remove()
    hook = llama.model.model.norm.register_forward_hook(lambda module, given, output: output * float("nan"))
    with pytest.raises(DanluError, match="not finite"):
        llama.answer(ask(PROMPTS[2]))
    hook.remove()
    assert llama.answer(ask(PROMPTS[2])).ids == expected


def test_a_model_that_remembers_otherwise_is_refused(tokenizer: Any) -> None:
    config = Qwen3NextConfig(
        vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, linear_num_value_heads=2, linear_num_key_heads=1,
        linear_key_head_dim=8, linear_value_head_dim=8, layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    with pytest.raises(ModelError, match="more than keys and values"):
        BatchingEngine(Qwen3NextForCausalLM(config).eval(), tokenizer, [2])
