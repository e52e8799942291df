"""How a decoder begins is known from the model's shape alone, or the model is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sequence_models import FAMILIES, random_model, write_model
from transformers import AutoModelForCausalLM, LlamaConfig

from danlu.adapters.targets import require_layers, skeleton
from danlu.errors import ModelError, RecipeError
from danlu.models.decoder_start import decoder_start
from danlu.models.loading import load_base


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_begins_as_in_transformers_generation(family: str) -> None:
    model = random_model(family)
    with torch.inference_mode():
        out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=1, do_sample=False)
    assert decoder_start(model) == int(out[0, 0])


def test_a_model_without_an_encoder_has_none() -> None:
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    assert decoder_start(AutoModelForCausalLM.from_config(config)) is None


def test_a_folder_gives_an_encoder_decoder_model_with_and_without_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "t5")
    shape, model = skeleton(folder), load_base(folder, torch.float32)
    assert type(shape) is type(model)
    assert {parameter.device.type for parameter in shape.parameters()} == {"meta"}
    assert [name for name, _ in shape.named_parameters()] == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(("name", "missing"), [("t5", "decoder_start_token_id"), ("bart", "pad_token_id")])
def test_a_config_that_does_not_say_how_is_refused(name: str, missing: str) -> None:
    model = random_model(name)
    setattr(model.config, missing, None)
    with pytest.raises(ModelError, match=f"no {missing}, so the decoder could not begin") as caught:
        decoder_start(model)
    assert caught.value.exit_status == 2


def test_a_model_that_moves_the_last_token_to_the_front_is_refused_before_any_weight_is_loaded(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "mbart50")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert decoder_start(skeleton(folder)) == 2
    config = folder / "config.json"
    # As in MBart of 2020: the decoder begins with the language, here of id 60, and the target ends in it.
    config.write_text(config.read_text().replace('"decoder_start_token_id": 2', '"decoder_start_token_id": 60'))
    with pytest.raises(ModelError, match=r"shifted to \[2, 0\] in training, generation begins with 60"):
        skeleton(folder)


def test_layers_of_an_encoder_decoder_model_can_t_be_chosen_by_number() -> None:
    model = random_model("t5")
    require_layers(model, None)
    with pytest.raises(RecipeError, match="encoder and decoder count from 0 each") as caught:
        require_layers(model, [0])
    assert caught.value.faults[0].where == "adapter.layers_to_transform"
