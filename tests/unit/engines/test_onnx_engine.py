"""Graphs for onnxruntime answer as Transformers does with the model that they were made from, token by token."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from sequence_models import write_model

from danlu.data.records import Messages
from danlu.data.template import prompt_ids, stop_ids
from danlu.engines.exported import engine_for
from danlu.engines.interface import Sampling
from danlu.engines.onnx_engine import OnnxEngine, _chosen
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import InputError, ModelError
from danlu.export.formats import onnx
from danlu.export.formats.interface import Subject
from danlu.models.loading import generation_defaults, load_base
from danlu.models.tokenizer import load_tokenizer

LENGTH = 12
QUESTIONS = ["what is the moon made of", "is it so?", "a stone, a fire, a moon, a sun, and what is it"]
CONVERSATIONS: list[Messages] = [[{"role": "user", "content": question}] for question in QUESTIONS]


def subject_of(base: Path) -> Subject:
    return Subject(base, None, None, [2], lambda count: [])


@pytest.fixture(scope="module", params=["llama", "t5"])
def engines(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[OnnxEngine, TransformersEngine]:
    """The exported graphs, and the model they were made from."""
    base, folder = tiny_base, tmp_path_factory.mktemp("onnx")
    if request.param == "t5":
        base = write_model(tmp_path_factory.mktemp("t5"), "t5")
        model = load_base(base, torch.float32)
        model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id
        model.generation_config.save_pretrained(base)
    onnx.write(subject_of(base), base, folder, None)
    engine = engine_for(folder)
    assert isinstance(engine, OnnxEngine)
    tokenizer = load_tokenizer(base)
    stops = stop_ids(tokenizer, generation_defaults(base))
    return engine, TransformersEngine(load_base(base, torch.float32), tokenizer, stops)


def test_answers_are_those_of_transformers(engines: tuple[OnnxEngine, TransformersEngine]) -> None:
    engine, referee = engines
    assert engine.stop_ids == referee.stop_ids
    answers = engine.generate(CONVERSATIONS, Sampling(LENGTH))
    assert answers == referee.generate(CONVERSATIONS, Sampling(LENGTH))
    assert len({answer.ids for answer in answers}) > 1
    for messages, answer in zip(CONVERSATIONS, answers, strict=True):
        assert "".join(engine.stream(messages, Sampling(LENGTH))) == answer.text


def test_next_tokens_are_as_likely_as_transformers_says(engines: tuple[OnnxEngine, TransformersEngine]) -> None:
    engine, referee = engines
    for messages in CONVERSATIONS:
        prompt = prompt_ids(referee.tokenizer, messages)
        assert engine.prompt_ids(messages) == prompt
        answer = [5, 6, 7, 8, 9]
        asked = torch.arange(20).expand(len(answer), 20)
        found, wanted = engine.next_tokens(prompt, answer, asked), referee.next_tokens(prompt, answer, asked)
        assert torch.equal(found.likeliest, wanted.likeliest)
        torch.testing.assert_close(found.log_probabilities, wanted.log_probabilities, atol=2e-4, rtol=1e-4)


def test_what_is_beyond_the_vocabulary_is_not_told(engines: tuple[OnnxEngine, TransformersEngine]) -> None:
    engine, _ = engines
    prompt = engine.prompt_ids(CONVERSATIONS[0])
    found = engine.next_tokens(prompt, [5], torch.tensor([[3, 10**6]]))
    assert found.log_probabilities.isnan().tolist() == [[False, True]]


def test_sampled_answers_follow_the_seed(engines: tuple[OnnxEngine, TransformersEngine]) -> None:
    engine, _ = engines

    def drawn(seed: int) -> list[tuple[int, ...]]:
        return [answer.ids for answer in engine.generate(CONVERSATIONS, Sampling(LENGTH, 5.0, seed=seed))]

    assert drawn(1) == drawn(1) != drawn(2)


def test_of_the_likeliest_token_alone_the_dice_choose_it(engines: tuple[OnnxEngine, TransformersEngine]) -> None:
    hot = Sampling(LENGTH, temperature=5.0, top_k=1)
    assert engines[0].generate(CONVERSATIONS, hot) == engines[0].generate(CONVERSATIONS, Sampling(LENGTH))


def test_the_dice_choose_among_the_likeliest_tokens_asked_for() -> None:
    logits = torch.tensor([0.5, 3.0, 1.0, 2.0, -1.0])
    dice = torch.Generator().manual_seed(0)
    assert {_chosen(logits, Sampling(1, 9.0, top_k=3), dice) for _ in range(200)} == {1, 2, 3}
    assert {_chosen(logits, Sampling(1, 9.0), dice) for _ in range(400)} == {0, 1, 2, 3, 4}
    assert {_chosen(logits, Sampling(1, 1.0, top_p=0.5), dice) for _ in range(50)} == {1}


def test_a_graph_that_is_none_is_one_message(tmp_path: Path, tiny_base: Path) -> None:
    shutil.copytree(tiny_base, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="onnxruntime can't load this graph"):
        OnnxEngine(tmp_path)


def test_an_export_has_no_base_to_answer_with(engines: tuple[OnnxEngine, TransformersEngine]) -> None:
    with pytest.raises(InputError, match="tuned model alone"):
        engines[0].generate(CONVERSATIONS, Sampling(LENGTH), tuned=False)


def test_a_model_that_torch_cannot_write_is_refused_with_its_name(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from danlu.errors import WorkError

    def fails(*arguments: Any, **named: Any) -> None:
        raise torch.onnx.errors.OnnxExporterError("no decomposition of aten.strange")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(WorkError, match="LlamaForCausalLM as an ONNX graph: no decomposition"):
        onnx.write(subject_of(tiny_base), tiny_base, tmp_path, None)


def test_int8_is_smaller_and_says_what_it_costs(tiny_base: Path, tmp_path: Path) -> None:
    written = onnx.write_int8(subject_of(tiny_base), tiny_base, tmp_path, None)
    assert "costs" in written["notes"][0]
    engine = OnnxEngine(tmp_path)
    referee = TransformersEngine(load_base(tiny_base, torch.float32), load_tokenizer(tiny_base), [2])
    prompt = engine.prompt_ids(CONVERSATIONS[0])
    asked = torch.arange(200).expand(3, 200)
    found, wanted = (one.next_tokens(prompt, [5, 6, 7], asked).log_probabilities for one in (engine, referee))
    off = (found - wanted).abs().max()
    assert 0.0 < off < 0.1 * wanted.abs().max()
    assert not (tmp_path / ".float32").exists()
