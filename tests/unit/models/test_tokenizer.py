"""The template that an encoder-decoder model's tokenizer gets frames texts exactly as the tokenizer itself does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sequence_models import FAMILIES, bart_tokenizer, t5_tokenizer

from danlu.data.template import answer_start_ids, answer_text, prompt_ids, render, stop_ids
from danlu.errors import ModelError
from danlu.models.tokenizer import has_encoder, load_tokenizer

TALK = [
    {"role": "system", "content": "is it so?"},
    {"role": "user", "content": "what is the moon made of"},
    {"role": "assistant", "content": "of stone."},
    {"role": "user", "content": "the sun?"},
]


def written(folder: Path, tokenizer: Any, config: dict[str, Any]) -> Path:
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make_tokenizer, make_config = FAMILIES[request.param]
    tokenizer = make_tokenizer()
    make_config(len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_source_is_what_the_tokenizer_makes_of_the_texts(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert has_encoder(tokenizer)
    for count in (2, 4):
        whole = "\n".join(message["content"] for message in TALK[:count])
        assert prompt_ids(tokenizer, TALK[:count]) == tokenizer(whole)["input_ids"]


def test_a_target_is_what_the_tokenizer_makes_of_a_target(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    answer = answer_text(tokenizer, TALK, 2)
    ids = [*tokenizer(answer.text, add_special_tokens=False)["input_ids"], answer.end]
    assert ids == tokenizer(text_target="of stone.")["input_ids"]
    start = answer_start_ids(tokenizer)
    assert ids[: len(start)] == start
    assert stop_ids(tokenizer, {}) == [tokenizer.eos_token_id] == [answer.end]


def test_what_is_saved_with_the_tokenizer_asks_in_the_same_way(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    exported = tmp_path / "exported"
    tokenizer.save_pretrained(exported)
    (exported / "config.json").write_bytes((folder / "config.json").read_bytes())
    again = load_tokenizer(exported)
    assert again.chat_template == tokenizer.chat_template
    assert prompt_ids(again, TALK) == prompt_ids(tokenizer, TALK)


def test_bart_and_mbart_begin_an_answer_with_a_token_of_their_own_and_t5_does_not(tmp_path: Path) -> None:
    starts = {}
    for family in ("t5", "bart", "mbart50"):
        make_tokenizer, make_config = FAMILIES[family]
        tokenizer = make_tokenizer()
        loaded = load_tokenizer(written(tmp_path / family, tokenizer, make_config(len(tokenizer)).to_dict()))
        starts[family] = loaded.convert_ids_to_tokens(answer_start_ids(loaded))
    assert starts == {"t5": [], "bart": ["<s>"], "mbart50": ["zh_CN"]}


def test_a_template_of_the_model_s_own_stays(tmp_path: Path) -> None:
    tokenizer = t5_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'the ' + m.content + eos_token if m.role == 'user' else m.content + eos_token }}"
        "{% endfor %}"
    )
    loaded = load_tokenizer(written(tmp_path, tokenizer, {"model_type": "t5", "is_encoder_decoder": True}))
    assert render(loaded, TALK[1:2], ask=True) == "the what is the moon made of</s>"


def test_a_causal_model_gets_no_template(tmp_path: Path) -> None:
    folder = written(tmp_path, bart_tokenizer(), {"model_type": "bart", "is_encoder_decoder": False})
    with pytest.raises(ModelError, match="has no chat template"):
        load_tokenizer(folder)


def test_a_tokenizer_that_ends_texts_with_nothing_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")
    folder = written(tmp_path, tokenizer, {"model_type": "t5", "is_encoder_decoder": True})
    with pytest.raises(ModelError, match=r"puts '' before and '' after a text, which no template can") as caught:
        load_tokenizer(folder)
    assert caught.value.exit_status == 2
    assert "chat_template.jinja" in str(caught.value)
