import pytest

from danlu.errors import RecipeError
from danlu.recipe import load_recipe

RECIPE = """\
model: {{name: smollm2-135m-instruct, quantization: {quantization}}}
data: {{train: [rows.jsonl]}}
adapter: {adapter}
training: {training}
"""


def load(tmp_path, adapter, training="{}", quantization="null"):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(adapter=adapter, training=training, quantization=quantization), encoding="utf-8")
    return load_recipe(path).recipe


def fault_of(*recipe, **more):
    with pytest.raises(RecipeError) as caught:
        load(*recipe, **more)
    (fault,) = caught.value.faults
    return fault


@pytest.mark.parametrize("kind", ["lora", "ia3", "loha", "lokr", "vera"])
def test_each_kind_is_read_and_knows_its_own_keys(tmp_path, kind):
    assert load(tmp_path, f"{{type: {kind}}}").adapter.type == kind
    fault = fault_of(tmp_path, f"{{type: {kind}, rnk: 4}}")
    assert "rnk" in fault.what
    assert fault.where.endswith("recipe.yaml:3, adapter.rnk")


def test_an_unknown_kind_is_answered_with_those_that_there_are(tmp_path):
    fault = fault_of(tmp_path, "{type: lroa}")
    assert all(kind in fault.what for kind in ("lora", "ia3", "loha", "lokr", "vera"))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_a_start_from_the_weights_goes_without_dora_and_quantisation(tmp_path, start):
    adapter = f"{{type: lora, init_lora_weights: {start}, use_dora: true}}"
    assert f"{start} with use_dora" in fault_of(tmp_path, adapter).what
    fault = fault_of(tmp_path, f"{{type: lora, init_lora_weights: {start}}}", quantization="{type: nf4}")
    assert fault.what == f'`adapter.init_lora_weights` is "{start}": needs model.quantization=null'
    assert "default" in fault.hint
    assert load(tmp_path, f"{{type: lora, init_lora_weights: {start}}}").adapter.init_lora_weights == start


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_kinds_that_read_the_weights_go_without_quantisation(tmp_path, kind):
    fault = fault_of(tmp_path, f"{{type: {kind}}}", quantization="{type: int8}")
    assert fault.what == f'`adapter.type` is "{kind}": needs model.quantization=null'
    assert "vera" in fault.hint
    load(tmp_path, "{type: vera}", quantization="{type: int8}")


@pytest.mark.parametrize("ranks", ["rank: 5", "rank: 4, rank_pattern: {q_proj: 3}"])
def test_an_orthogonal_start_needs_even_ranks(tmp_path, ranks):
    assert "even ranks" in fault_of(tmp_path, f"{{type: lora, {ranks}, init_lora_weights: orthogonal}}").what
    load(tmp_path, "{type: lora, rank: 4, rank_pattern: {q_proj: 2}, init_lora_weights: orthogonal}")


@pytest.mark.parametrize("adapter", ["null", "{type: ia3}", "{type: vera}"])
def test_loraplus_needs_a_lora(tmp_path, adapter):
    fault = fault_of(tmp_path, adapter, training="{loraplus_lr_ratio: 16}")
    assert fault.what.startswith("`training.loraplus_lr_ratio` is 16: needs adapter.type=lora")
    assert fault.where.endswith("recipe.yaml:4, training.loraplus_lr_ratio")
    assert (fault.allowed, fault.hint) == ("", "leave it out, or set adapter={type: lora}")
    assert load(tmp_path, "{type: lora}", training="{loraplus_lr_ratio: 16}").training.loraplus_lr_ratio == 16


def test_freezing_is_not_passed_over_beside_an_adapter(tmp_path):
    fault = fault_of(tmp_path, "{type: lora}", training="{freeze: {first_layers: 1}}")
    assert "needs adapter=null" in fault.what
    assert "layers_to_transform" in fault.hint
    assert load(tmp_path, "null", training="{freeze: {first_layers: 1}}").training.freeze.first_layers == 1
    load(tmp_path, "{type: lora}", training="{freeze: {}}")
