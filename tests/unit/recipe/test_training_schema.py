import pytest

from danlu.errors import RecipeError
from danlu.recipe import load_recipe

RECIPE = """\
model: {{name: smollm2-135m-instruct}}
data: {{train: [rows.jsonl]}}
adapter: {{type: lora}}
training:
  backend: {backend}
"""


def load(tmp_path, backend):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(backend=backend), encoding="utf-8")
    return load_recipe(path).recipe.training.backend


def test_parameters_are_not_offloaded_where_they_are_not_in_shards(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "{type: deepspeed, stage: 2, offload: all}")
    (fault,) = caught.value.faults
    assert fault.what.startswith('`training.backend.offload` is "all": needs stage: 3')
    assert fault.where.endswith("recipe.yaml:5, training.backend.offload")
    assert "stage=3" in fault.hint
    assert load(tmp_path, "{type: deepspeed, stage: 3, offload: all}").offload == "all"
    assert load(tmp_path, "{type: deepspeed, stage: 2, offload: optimizer}").stage == 2
