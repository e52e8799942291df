"""An encoder-decoder model answers as its decoder does token by token, whatever its folder says of generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sequence_models import FAMILIES, write_model

from danlu.adapters.kinds import Lora
from danlu.adapters.lora import add_adapter
from danlu.adapters.targets import resolve_targets
from danlu.data.records import Messages
from danlu.data.template import answer_start_ids, prompt_ids, stop_ids
from danlu.engines.interface import Sampling
from danlu.engines.transformers_engine import TransformersEngine
from danlu.models.decoder_start import decoder_start
from danlu.models.loading import load_base
from danlu.models.tokenizer import load_tokenizer

LENGTH = 8
QUESTIONS = ["what is the moon made of", "the sun", "is it so?", "a stone, a fire, a moon, a sun, and what is it"]
CONVERSATIONS: list[Messages] = [
    *([{"role": "user", "content": question}] for question in QUESTIONS),
    [{"role": "prompt", "content": "the moon is"}],
]


@pytest.fixture(scope="module", params=FAMILIES)
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A model with an adapter that changes its answers, and its tokenizer."""
    folder: Path = write_model(tmp_path_factory.mktemp(request.param), request.param)
    base = load_base(folder, torch.float32)
    model = add_adapter(base, Lora(4, 8.0, 0.0), resolve_targets(base, "all-linear"), 0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model, load_tokenizer(folder)


def token_by_token(model: Any, tokenizer: Any, messages: Messages) -> list[int]:
    """Greedy decoding of one question without a cache, batches or Transformers' generation."""
    source = torch.tensor([prompt_ids(tokenizer, messages)])
    start = [decoder_start(model.get_base_model()), *answer_start_ids(tokenizer)]
    ids = list(start)
    with torch.inference_mode():
        for _ in range(LENGTH):
            logits = model(input_ids=source, decoder_input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return ids[1:]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_answers_in_batches_are_those_of_one_decoder_step_after_another(
    parts: tuple[Any, Any], batch_size: int
) -> None:
    model, tokenizer = parts
    engine = TransformersEngine(model, tokenizer, stop_ids(tokenizer, {}), batch_size)
    for tuned in (True, False):
        with model.disable_adapter() if not tuned else torch.no_grad():
            expected = [token_by_token(model, tokenizer, messages) for messages in CONVERSATIONS]
        answers = engine.generate(CONVERSATIONS, Sampling(LENGTH), tuned)
        assert [list(answer.ids) for answer in answers] == expected
        assert len({answer.ids for answer in answers}) > 1
        for answer in answers:
            assert answer.finish == ("stop" if answer.ids[-1] == tokenizer.eos_token_id else "length")
            assert answer.text == tokenizer.decode(answer.ids, skip_special_tokens=True)


def test_streamed_pieces_join_to_the_generated_text(parts: tuple[Any, Any]) -> None:
    model, tokenizer = parts
    engine = TransformersEngine(model, tokenizer, stop_ids(tokenizer, {}))
    for messages in CONVERSATIONS:
        text = engine.generate([messages], Sampling(LENGTH))[0].text
        assert "".join(engine.stream(messages, Sampling(LENGTH))) == text


def test_sampling_follows_its_seed(parts: tuple[Any, Any]) -> None:
    model, tokenizer = parts
    engine = TransformersEngine(model, tokenizer, stop_ids(tokenizer, {}))
    texts = [engine.generate(CONVERSATIONS[:1], Sampling(LENGTH, 2.0, seed=seed))[0].ids for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_logits_of_a_given_answer_are_those_it_was_chosen_by(parts: tuple[Any, Any]) -> None:
    model, tokenizer = parts
    engine = TransformersEngine(model, tokenizer, stop_ids(tokenizer, {}))
    given = len(answer_start_ids(tokenizer))
    for messages in CONVERSATIONS:
        answer = engine.generate([messages], Sampling(LENGTH))[0]
        logits = engine.logits(prompt_ids(tokenizer, messages), answer.ids)
        assert logits.shape == (len(answer.ids), model.config.vocab_size)
        assert logits.dtype == torch.float32
        assert logits[given:].argmax(-1).tolist() == list(answer.ids[given:])
        base = engine.logits(prompt_ids(tokenizer, messages), answer.ids, tuned=False)
        assert not torch.allclose(base, logits, atol=1e-2)


def test_the_folder_s_generation_config_changes_nothing(parts: tuple[Any, Any]) -> None:
    model, tokenizer = parts
    base = model.get_base_model()
    engine = TransformersEngine(model, tokenizer, stop_ids(tokenizer, {}))
    expected = engine.generate(CONVERSATIONS, Sampling(LENGTH))
    before = base.generation_config.to_dict()
    eos = tokenizer.eos_token_id
    try:
        # BART's forces the end token on what is cut off, which would then look like a finished answer.
        base.generation_config.update(forced_eos_token_id=eos, forced_bos_token_id=7, min_length=6, num_beams=3)
        base.generation_config.update(suppress_tokens=[10, 11, 12], decoder_start_token_id=9)
        changed = base.generation_config.to_dict()
        assert engine.generate(CONVERSATIONS, Sampling(LENGTH)) == expected
        assert "".join(engine.stream(CONVERSATIONS[0], Sampling(LENGTH))) == expected[0].text
        assert base.generation_config.to_dict() == changed, "it is only left out, not lost"
    finally:
        base.generation_config.update(**before)
    assert any(answer.finish == "length" for answer in expected)
