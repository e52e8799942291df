import pytest

from danlu.errors import RecipeError
from danlu.recipe import dump_recipe, load_recipe

RECIPE = """\
model: {{name: smollm2-135m-instruct}}
data: {{train: [rows.jsonl]}}
adapter: {{type: lora}}
training:
  {key}: {value}
"""


def load_key(tmp_path, key, value, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(key=key, value=value), encoding="utf-8")
    return getattr(load_recipe(path, overrides).recipe.training, key)


def load(tmp_path, backend):
    return load_key(tmp_path, "backend", backend)


def test_parameters_are_not_offloaded_where_they_are_not_in_shards(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "{type: deepspeed, stage: 2, offload: all}")
    (fault,) = caught.value.faults
    assert fault.what.startswith('`training.backend.offload` is "all": needs stage: 3')
    assert fault.where.endswith("recipe.yaml:5, training.backend.offload")
    assert "stage=3" in fault.hint
    assert load(tmp_path, "{type: deepspeed, stage: 3, offload: all}").offload == "all"
    assert load(tmp_path, "{type: deepspeed, stage: 2, offload: optimizer}").stage == 2


KINDS = ["three_phase", "constant", "linear", "cosine", "cosine_with_restarts", "wsd"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_warms_up_by_a_share_or_by_steps_and_not_by_both(tmp_path, kind):
    chosen = load_key(tmp_path, "schedule", f"{{type: {kind}, warmup_steps: 5}}")
    assert (chosen.warmup_steps, chosen.warmup_share) == (5, None)
    chosen = load_key(tmp_path, "schedule", f"{{type: {kind}}}")
    assert (chosen.warmup_steps, chosen.warmup_share) == (None, 0.0 if kind == "constant" else 0.1)
    with pytest.raises(RecipeError) as caught:
        load_key(tmp_path, "schedule", f"{{type: {kind}, warmup_share: 0.2}}", "training.schedule.warmup_steps=5")
    (fault,) = caught.value.faults
    assert fault.what == "`training.schedule.warmup_steps` is 5: needs warmup_share: null, as one of them says it"
    assert fault.where == "command line, training.schedule.warmup_steps=5"
    assert "warmup_share=null" in fault.hint


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_a_warm_up_survive_the_resolved_dump(tmp_path, kind):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(key="schedule", value=f"{{type: {kind}, warmup_steps: 5}}"), encoding="utf-8")
    recipe = load_recipe(path).recipe
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path).recipe == recipe


@pytest.mark.parametrize(("kind", "other"), [("three_phase", "floor_share"), ("wsd", "decay_share")])
def test_shares_of_a_schedule_that_leave_nothing_are_refused(tmp_path, kind, other):
    with pytest.raises(RecipeError, match=f"warmup_share . {other} must be at most 1"):
        load_key(tmp_path, "schedule", f"{{type: {kind}, warmup_share: 0.6, {other}: 0.5}}")


def test_checkpoints_have_one_clock(tmp_path):
    chosen = load_key(tmp_path, "checkpoints", "{every_epochs: 0.5, keep_last: 2}")
    assert (chosen.every_epochs, chosen.every_steps) == (0.5, None)
    assert load_key(tmp_path, "checkpoints", "{keep_last: 1}").every_steps == 500
    with pytest.raises(RecipeError) as caught:
        load_key(tmp_path, "checkpoints", "{every_steps: 5}", "training.checkpoints.every_epochs=1")
    (fault,) = caught.value.faults
    assert fault.what == "`training.checkpoints.every_epochs` is 1: needs every_steps: null, as one of them says it"
    assert "every_steps=null" in fault.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [("early_stopping", "{patience: 2}"), ("save", "best"), ("checkpoints", "{keep_best: true}")],
)
def test_without_held_out_rows_there_is_no_best(tmp_path, key, value):
    with pytest.raises(RecipeError) as caught:
        load_key(tmp_path, key, value, "data.evaluation=null")
    (fault,) = caught.value.faults
    assert fault.what.startswith(f"`training.{key}")
    assert "needs held-out rows" in fault.what
    assert "data.evaluation" in fault.hint
    assert load_key(tmp_path, key, value, "data.evaluation={share: 0.1}")
